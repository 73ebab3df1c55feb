//! Attachments whose exports fail, whose clients change their minds, or that are too many.

use std::collections::BTreeMap;

use tephra_domain::actor::Actor;
use tephra_domain::attachment::{AttachMode, AttachmentState, MAX_ATTACHMENTS};
use tephra_domain::command::{Command, CreateVolumeType, VolumeTypeRef};
use tephra_domain::effect::{Failure, FailureKind};
use tephra_domain::ids::{AttachmentId, VolumeId, VolumeTypeId};
use tephra_domain::volume::VolumeState;
use tephra_replay_tests::world::World;

use super::attachments::{host, in_use, reservation, state, to_be_recovered};
use super::{broken, code};

#[test]
fn who_detaches_while_the_connection_is_being_terminated_is_detached() {
    let mut world = World::default();
    let (volume, attachment) = in_use(&mut world);
    let terminate = Command::TerminateConnection { volume, connector: None };
    world.when(terminate.clone()).unwrap();
    assert_eq!(state(&world, volume, attachment), AttachmentState::Disconnecting);
    assert_eq!(world.when(terminate.clone()), Ok(vec![]), "it is under way");
    let detach = Command::DetachVolume { volume, attachment: None, force: false };
    let overtaking = ["OperationClosed", "AttachmentDisconnectAccepted", "OperationOpened"];
    assert_eq!(world.when(detach.clone()), Ok(overtaking.to_vec()));
    assert_eq!(world.when(detach), Ok(vec![]), "it is under way");
    assert_eq!(world.when(terminate), Ok(vec![]), "nothing of it stays");
    world.settle();
    assert_eq!(state(&world, volume, attachment), AttachmentState::Absent);
    assert_eq!(world.volume_state(volume), VolumeState::Available);
    assert!(world.storage.exports.is_empty());
    world.check_at_rest();
}

/// A volume that as many hosts have as may.
fn shared_by_all(world: &mut World) -> VolumeId {
    let volume = world.given_volume(1, 0);
    for number in 0..MAX_ATTACHMENTS {
        let attachment = AttachmentId::from_uuid(world.fresh());
        let connector = host(&format!("host-{number}"));
        world.when(Command::InitializeConnection { volume, attachment, connector, mode: None }).unwrap();
    }
    world.settle();
    volume
}

#[test]
fn a_volume_has_no_more_attachments_than_one_commit_can_restore() {
    let mut world = World::default();
    let volumes = [shared_by_all(&mut world), shared_by_all(&mut world)];
    let volume = volumes[0];
    let attachment = AttachmentId::from_uuid(world.fresh());
    let more = Command::InitializeConnection { volume, attachment, connector: host("more"), mode: None };
    assert_eq!(code(world.when(more)), "TooManyAttachments");
    let again = Command::InitializeConnection { volume, attachment, connector: host("host-1"), mode: None };
    assert_eq!(world.when(again), Ok(vec![]), "one that is connected stays so");

    world.storage.exports.clear();
    let backend = world.ledger.volumes.get(&volume).unwrap().pool.as_ref().unwrap().backend.clone();
    let mut asked = Vec::new();
    let mut after = None;
    loop {
        let restore = Command::RestoreExports { backend: backend.clone(), after };
        let events = world.when_as(Actor::system(), restore).unwrap();
        if events.is_empty() {
            break;
        }
        asked.push(events.len());
        after = volumes.iter().copied().filter(|volume| Some(*volume) > after).min();
    }
    let all = usize::try_from(MAX_ATTACHMENTS).unwrap();
    assert_eq!(asked, [all, all]);
    world.settle();
    assert_eq!(world.storage.exports.len(), 2 * all);
    world.must(Command::DetachAll { volume });
    world.settle();
    assert_eq!(world.storage.exports.len(), all);
    world.check_at_rest();
}

#[test]
fn who_terminates_a_connection_does_not_cut_off_another_server_on_the_same_host() {
    let mut world = World::default();
    let specs = BTreeMap::from([("multiattach".to_owned(), "<is> True".to_owned())]);
    let volume_type = VolumeTypeId::from_uuid(world.fresh());
    world.must(Command::CreateVolumeType(Box::new(CreateVolumeType {
        volume_type,
        name: "shared".into(),
        description: None,
        is_public: true,
        extra_specs: specs,
    })));
    let (volume, create) = world.new_volume(1);
    let Command::CreateVolume(mut create) = create else { panic!("{create:?}") };
    create.volume_type = Some(VolumeTypeRef::Id(volume_type));
    world.when(Command::CreateVolume(create)).unwrap();
    world.settle();
    let terminate = Command::TerminateConnection { volume, connector: Some(host("alpha")) };
    let connect = |world: &mut World| {
        let attachment = AttachmentId::from_uuid(world.fresh());
        let connector = host("alpha");
        let (_, reserve) = reservation(world, volume, &format!("server-{attachment}"));
        let Command::CreateAttachment(mut create) = reserve else { panic!("{reserve:?}") };
        (create.attachment, create.connector) = (attachment, Some(connector));
        world.when(Command::CreateAttachment(create)).unwrap();
        world.settle();
        world.when(Command::CompleteAttachment { volume, attachment }).unwrap();
        attachment
    };
    let (first, second) = (connect(&mut world), connect(&mut world));
    assert_eq!(world.when(terminate.clone()), Ok(vec![]), "whose connection is meant?");
    let detach = |attachment| Command::DetachVolume { volume, attachment: Some(attachment), force: false };
    world.when(detach(first)).unwrap();
    // the first is going: the connection is the second's
    world.when(terminate).unwrap();
    world.settle();
    assert_eq!(state(&world, volume, first), AttachmentState::Absent);
    assert_eq!(state(&world, volume, second), AttachmentState::Attached);
    assert!(world.storage.exports.is_empty());
    world.when(detach(second)).unwrap();
    assert_eq!(world.volume_state(volume), VolumeState::Available);
    world.check_at_rest();
}

#[test]
fn attaching_and_detaching_wait_for_the_daemon_however_long_it_is_away() {
    let mut world = World::default();
    let volume = world.given_volume(1, 0);
    let attachment = world.connect(volume);
    let gone = || Failure::new(FailureKind::BackendUnavailable, "tgtd is not there");
    for _ in 0..12 {
        assert_eq!(world.fail_next(gone()), ["StepAttemptFailed"]);
        let wait = world.next_due().unwrap().not_before.micros() - world.now.micros();
        assert!(wait <= 30_000_000, "it is back for {wait} us, and nobody looks");
    }
    world.settle();
    assert_eq!(state(&world, volume, attachment), AttachmentState::Attaching);
    world.when(Command::DeleteAttachment { volume, attachment }).unwrap();
    for _ in 0..12 {
        assert_eq!(world.fail_next(gone()), ["StepAttemptFailed"]);
    }
    world.settle();
    assert_eq!(state(&world, volume, attachment), AttachmentState::Absent);
    assert!(world.storage.exports.is_empty());
    world.check_at_rest();
}

#[test]
fn what_could_not_be_removed_is_removed_when_exports_are_made_again() {
    let mut world = World::default();
    let (volume, attachment) = in_use(&mut world);
    world.when(Command::DeleteAttachment { volume, attachment }).unwrap();
    world.fail_next(broken());
    assert_eq!(state(&world, volume, attachment), AttachmentState::ErrorDetaching);
    let backend = world.ledger.volumes.get(&volume).unwrap().pool.as_ref().unwrap().backend.clone();
    let restore = Command::RestoreExports { backend, after: None };
    let again = ["AttachmentDisconnectAccepted", "OperationOpened"];
    assert_eq!(world.when_as(Actor::system(), restore.clone()), Ok(again.to_vec()));
    assert_eq!(world.when_as(Actor::system(), restore), Ok(vec![]), "it is under way");
    world.settle();
    assert_eq!(world.volume_state(volume), VolumeState::Available);
    assert!(world.storage.exports.is_empty());
    world.check_at_rest();
}

fn connecting(world: &mut World, volume: VolumeId, name: &str) -> (AttachmentId, Command) {
    let attachment = AttachmentId::from_uuid(world.fresh());
    let connector = host(name);
    (attachment, Command::InitializeConnection { volume, attachment, connector, mode: None })
}

#[test]
fn a_connection_that_failed_is_made_anew() {
    let mut world = World::default();
    let volume = world.given_volume(1, 0);
    let (attachment, connect) = connecting(&mut world, volume, "alpha");
    world.when(connect).unwrap();
    world.fail_next(broken());
    world.settle();
    assert_eq!(state(&world, volume, attachment), AttachmentState::ErrorAttaching);
    assert_eq!(world.volume_state(volume), VolumeState::Available);

    let (_, again) = connecting(&mut world, volume, "alpha");
    let accepted = ["AttachmentConnectAccepted", "VolumeUseChanged", "OperationOpened"];
    assert_eq!(world.when(again), Ok(accepted.to_vec()), "failures do not pile up");
    world.fail_next(broken());
    world.fail_next(broken());
    assert_eq!(world.volume_state(volume), VolumeState::Attaching, "an export may be left");

    let (_, again) = connecting(&mut world, volume, "alpha");
    assert_eq!(world.when(again), Ok(vec!["AttachmentConnectAccepted", "OperationOpened"]));
    world.settle();
    assert_eq!(state(&world, volume, attachment), AttachmentState::Attaching);
    assert_eq!(world.ledger.volumes.get(&volume).unwrap().attachments.len(), 1);
    world.check_at_rest();
}

#[test]
fn who_detaches_without_a_name_means_what_is_attached() {
    let mut world = World::default();
    let (volume, attachment) = in_use(&mut world);
    let (failed, connect) = connecting(&mut world, volume, "beta");
    world.when(connect).unwrap();
    world.fail_next(broken());
    world.settle();
    assert_eq!(state(&world, volume, failed), AttachmentState::ErrorAttaching);
    world.when(Command::DetachVolume { volume, attachment: None, force: false }).unwrap();
    world.settle();
    assert_eq!(state(&world, volume, attachment), AttachmentState::Absent);
    assert_eq!(world.volume_state(volume), VolumeState::Available);

    let both = [connecting(&mut world, volume, "beta"), connecting(&mut world, volume, "gamma")];
    for (_, connect) in both {
        world.when(connect).unwrap();
    }
    world.settle();
    let detach = Command::DetachVolume { volume, attachment: None, force: false };
    assert_eq!(code(world.when(detach)), "AttachmentNotNamed");
}

#[test]
fn a_readonly_flag_holds_for_attachments_that_are_older() {
    let mut world = World::default();
    let volume = world.given_volume(1, 0);
    let (attachment, reserve) = reservation(&mut world, volume, "server");
    world.when(reserve).unwrap();
    let update = Command::UpdateAttachment {
        volume,
        attachment,
        connector: host("alpha"),
        mode: Some(AttachMode::ReadWrite),
    };
    world.when(update.clone()).unwrap();
    world.fail_next(broken());
    world.settle();
    assert_eq!(world.volume_state(volume), VolumeState::Available);
    world.when(Command::SetVolumeReadonly { volume, readonly: true }).unwrap();
    world.when(update).unwrap();
    world.settle();
    let mode = |world: &World| {
        world.ledger.volumes.get(&volume).unwrap().attachment(attachment).unwrap().export().unwrap().mode
    };
    assert_eq!(mode(&world), AttachMode::ReadOnly);
    world.when(Command::CompleteAttachment { volume, attachment }).unwrap();
    world.check_at_rest();
}

#[test]
fn what_was_reserved_before_a_recovery_is_so_afterwards_and_not_used_meanwhile() {
    let mut world = World::default();
    let volume = to_be_recovered(&mut world);
    let (attachment, reserve) = reservation(&mut world, volume, "server");
    world.when(reserve).unwrap();
    world.must(Command::ResetVolumeStatus { volume, to: VolumeState::Error });
    world.settle();
    let complete = Command::CompleteAttachment { volume, attachment };
    assert_eq!(code(world.when(complete.clone())), "VolumeNotConnectable");
    world.must(Command::RecoverVolume { volume });
    assert_eq!(code(world.when(complete.clone())), "VolumeNotConnectable");
    world.settle();
    assert_eq!(world.volume_state(volume), VolumeState::Reserved);
    world.when(complete).unwrap();
    assert_eq!(world.volume_state(volume), VolumeState::InUse);
    world.check_at_rest();
}

use tephra_domain::actor::{Actor, Role};
use tephra_domain::attachment::{AttachMode, AttachmentState, Connector};
use tephra_domain::command::{AttachVolume, Command, CreateAttachment};
use tephra_domain::effect::Effect;
use tephra_domain::ids::{AttachmentId, BackendName, VolumeId};
use tephra_domain::volume::VolumeState;
use tephra_replay_tests::world::{PROJECT, World, actor, gib};

use super::{broken, code};

pub(super) fn host(name: &str) -> Connector {
    Connector { host: Some(name.into()), ..Connector::default() }
}

pub(super) fn reservation(world: &mut World, volume: VolumeId, server: &str) -> (AttachmentId, Command) {
    let attachment = AttachmentId::from_uuid(world.fresh());
    let create = CreateAttachment {
        volume,
        attachment,
        instance: Some(server.into()),
        mode: None,
        connector: None,
        connector_mode: None,
    };
    (attachment, Command::CreateAttachment(Box::new(create)))
}

fn attaching(world: &mut World, volume: VolumeId, server: &str) -> Command {
    Command::AttachVolume(Box::new(AttachVolume {
        volume,
        attachment: AttachmentId::from_uuid(world.fresh()),
        instance: Some(server.into()),
        host: Some("alpha".into()),
        mountpoint: "/dev/vdb".into(),
        mode: AttachMode::ReadWrite,
    }))
}

pub(super) fn state(world: &World, volume: VolumeId, attachment: AttachmentId) -> AttachmentState {
    let row = world.ledger.volumes.get(&volume).unwrap();
    row.attachment(attachment).map_or(AttachmentState::Absent, |found| found.status.state())
}

/// A volume that one server has.
pub(super) fn in_use(world: &mut World) -> (VolumeId, AttachmentId) {
    let volume = world.given_volume(1, 7);
    let attachment = world.connect(volume);
    world.settle();
    world.when(Command::CompleteAttachment { volume, attachment }).unwrap();
    assert_eq!(world.volume_state(volume), VolumeState::InUse);
    (volume, attachment)
}

#[test]
fn a_volume_is_reserved_connected_used_and_let_go() {
    let mut world = World::default();
    let volume = world.given_volume(1, 0);
    let (attachment, reserve) = reservation(&mut world, volume, "server");
    assert_eq!(world.when(reserve), Ok(vec!["AttachmentReserved", "VolumeUseChanged"]));
    assert_eq!(world.volume_state(volume), VolumeState::Reserved);
    let connector = host("alpha");
    let update = Command::UpdateAttachment { volume, attachment, connector, mode: None };
    let connecting = ["AttachmentConnectAccepted", "VolumeUseChanged", "OperationOpened"];
    assert_eq!(world.when(update.clone()), Ok(connecting.to_vec()));
    assert_eq!(code(world.when(update.clone())), "AttachmentBusy");
    world.settle();
    assert_eq!(state(&world, volume, attachment), AttachmentState::Attaching);
    assert_eq!(world.when(update), Ok(vec![]), "the same host once more");
    let complete = Command::CompleteAttachment { volume, attachment };
    assert_eq!(world.when(complete.clone()), Ok(vec!["AttachmentCompleted", "VolumeUseChanged"]));
    assert_eq!(world.when(complete), Ok(vec![]));
    assert_eq!(world.volume_state(volume), VolumeState::InUse);
    world.check_at_rest();
    world.when(Command::DeleteAttachment { volume, attachment }).unwrap();
    world.settle();
    assert_eq!(world.volume_state(volume), VolumeState::Available);
    assert!(world.storage.exports.is_empty());
    world.check_at_rest();
}

#[test]
fn what_is_attached_is_neither_deleted_nor_reverted_nor_taken_by_another_server() {
    let mut world = World::default();
    let (volume, _) = in_use(&mut world);
    for (force, who) in [(false, Role::Member), (true, Role::Admin)] {
        let delete = Command::DeleteVolume { volume, cascade: false, force };
        let refused = code(world.when_as(actor(PROJECT, who), delete));
        assert!(["VolumeNotDeletable", "VolumeHasAttachments"].contains(&refused), "{refused}");
    }
    let (_, snapshot) = world.new_snapshot(volume);
    let Command::CreateSnapshot(mut create) = snapshot else { panic!("{snapshot:?}") };
    assert_eq!(code(world.when(Command::CreateSnapshot(create.clone()))), "VolumeNotSnapshottable");
    create.force = true;
    let snapshot = create.snapshot;
    world.when(Command::CreateSnapshot(create)).unwrap();
    world.settle();
    let revert = Command::RevertVolume { volume, snapshot: Some(snapshot) };
    assert_eq!(code(world.when(revert)), "VolumeNotRevertable");
    let (_, another) = reservation(&mut world, volume, "another");
    assert_eq!(code(world.when(another)), "VolumeNotReservable");
    let other = attaching(&mut world, volume, "another");
    assert_eq!(code(world.when(other)), "VolumeAlreadyAttached");
    world.check_at_rest();
}

#[test]
fn the_same_server_may_hold_it_from_two_hosts_while_it_moves() {
    let mut world = World::default();
    let volume = world.given_volume(1, 0);
    let (first, reserve) = reservation(&mut world, volume, "server");
    world.when(reserve).unwrap();
    let update = |attachment, name| Command::UpdateAttachment {
        volume,
        attachment,
        connector: host(name),
        mode: None,
    };
    world.when(update(first, "alpha")).unwrap();
    world.settle();
    world.when(Command::CompleteAttachment { volume, attachment: first }).unwrap();
    let (second, reserve) = reservation(&mut world, volume, "server");
    assert_eq!(world.when(reserve), Ok(vec!["AttachmentReserved"]), "it stays in use");
    world.when(update(second, "beta")).unwrap();
    world.settle();
    assert_eq!(world.storage.exports.len(), 2);
    world.when(Command::DeleteAttachment { volume, attachment: first }).unwrap();
    world.settle();
    assert_eq!(state(&world, volume, second), AttachmentState::Attaching);
    world.when(Command::CompleteAttachment { volume, attachment: second }).unwrap();
    assert_eq!(world.volume_state(volume), VolumeState::InUse);
    world.check_at_rest();
}

#[test]
fn an_export_that_cannot_be_made_leaves_the_volume_free_and_the_reason_on_record() {
    let mut world = World::default();
    let volume = world.given_volume(1, 0);
    let attachment = world.connect(volume);
    assert_eq!(world.fail_next(broken()), ["UndoStarted"]);
    world.settle();
    assert_eq!(state(&world, volume, attachment), AttachmentState::ErrorAttaching);
    assert_eq!(world.volume_state(volume), VolumeState::Available);
    let row = world.ledger.volumes.get(&volume).unwrap();
    let failure = row.attachment(attachment).unwrap().last_failure.as_ref().unwrap();
    assert_eq!(failure.failure, broken());
    world.check_at_rest();
    world.when(Command::DeleteAttachment { volume, attachment }).unwrap();
    world.when(Command::DeleteVolume { volume, cascade: false, force: false }).unwrap();
    world.settle();
    world.check_at_rest();
}

#[test]
fn an_export_that_cannot_be_taken_back_keeps_the_volume_until_somebody_tries_again() {
    let mut world = World::default();
    let volume = world.given_volume(1, 0);
    let attachment = world.connect(volume);
    world.fail_next(broken());
    world.fail_next(broken());
    assert_eq!(state(&world, volume, attachment), AttachmentState::ErrorAttaching);
    assert_eq!(world.volume_state(volume), VolumeState::Attaching);
    world.check_at_rest();
    world.when(Command::DeleteAttachment { volume, attachment }).unwrap();
    world.settle();
    assert_eq!(world.volume_state(volume), VolumeState::Available);
    world.check_at_rest();
}

#[test]
fn an_export_that_cannot_be_removed_is_in_use_until_it_is() {
    let mut world = World::default();
    let (volume, attachment) = in_use(&mut world);
    let delete = Command::DeleteAttachment { volume, attachment };
    world.when(delete.clone()).unwrap();
    world.fail_next(broken());
    assert_eq!(state(&world, volume, attachment), AttachmentState::ErrorDetaching);
    assert_eq!(world.volume_state(volume), VolumeState::InUse);
    world.when(delete).unwrap();
    world.settle();
    assert_eq!(world.volume_state(volume), VolumeState::Available);
    world.check_at_rest();
}

#[test]
fn who_gives_up_while_the_export_is_being_made_gets_none() {
    let mut world = World::default();
    let volume = world.given_volume(1, 0);
    let attachment = world.connect(volume);
    let late = world.next_due().unwrap();
    assert!(matches!(late.effect, Effect::ExportVolume { .. }), "{late:?}");
    world.when(Command::DeleteAttachment { volume, attachment }).unwrap();
    // the executor had begun before it could know
    world.storage.perform(&late.pool, &late.effect).unwrap();
    world.settle();
    assert!(world.storage.exports.is_empty());
    assert_eq!(world.volume_state(volume), VolumeState::Available);
    world.check_at_rest();
}

#[test]
fn the_old_way_leads_to_the_same_attachments() {
    let mut world = World::default();
    let volume = world.given_volume(1, 0);
    world.when(Command::ReserveVolume { volume }).unwrap();
    assert_eq!(code(world.when(Command::ReserveVolume { volume })), "VolumeNotReservableByAction");
    let attachment = AttachmentId::from_uuid(world.fresh());
    let connector = host("alpha");
    let connect =
        Command::InitializeConnection { volume, attachment, connector: connector.clone(), mode: None };
    world.when(connect.clone()).unwrap();
    world.settle();
    assert_eq!(world.when(connect), Ok(vec![]), "a host that is connected stays so");
    let attach = attaching(&mut world, volume, "server");
    let Command::AttachVolume(mut other) = attach.clone() else { unreachable!() };
    other.mode = AttachMode::ReadOnly;
    let other = world.when(Command::AttachVolume(other));
    assert_eq!(code(other), "AttachModeInvalid", "its host can write");
    world.when(attach.clone()).unwrap();
    assert_eq!(world.when(attach), Ok(vec![]));
    assert_eq!(state(&world, volume, attachment), AttachmentState::Attached);
    world.when(Command::BeginDetaching { volume }).unwrap();
    assert_eq!(world.volume_state(volume), VolumeState::Detaching);
    world.when(Command::RollDetaching { volume }).unwrap();
    world.when(Command::BeginDetaching { volume }).unwrap();
    world.when(Command::TerminateConnection { volume, connector: Some(connector) }).unwrap();
    world.settle();
    assert!(world.storage.exports.is_empty());
    assert_eq!(state(&world, volume, attachment), AttachmentState::Attached, "until it is detached");
    let detach = Command::DetachVolume { volume, attachment: None, force: false };
    world.when(detach.clone()).unwrap();
    world.settle();
    assert_eq!(world.when(detach), Ok(vec![]));
    assert_eq!(world.volume_state(volume), VolumeState::Available);
    world.check_at_rest();
}

#[test]
fn a_volume_in_use_grows_and_every_export_shows_it() {
    let mut world = World::default();
    let (volume, _) = in_use(&mut world);
    let extend = |online| Command::ExtendVolume { volume, to: gib(3), online };
    assert_eq!(code(world.when(extend(false))), "VolumeNotExtendable");
    world.when(extend(true)).unwrap();
    world.settle();
    assert_eq!(world.volume_state(volume), VolumeState::InUse);
    assert!(world.storage.exports.values().all(|(_, size)| *size == gib(3)));
    world.check_at_rest();

    // an export that goes on showing the old size takes nothing back
    world.when(Command::ExtendVolume { volume, to: gib(4), online: true }).unwrap();
    let due = world.next_due().unwrap();
    world.perform(&due).unwrap();
    world.fail_next(broken());
    world.settle();
    assert_eq!(world.volume_state(volume), VolumeState::InUse);
    assert_eq!(world.ledger.volumes.get(&volume).unwrap().size, gib(4));
}

#[test]
fn what_is_being_let_go_does_not_grow_meanwhile() {
    let mut world = World::default();
    let (volume, first) = in_use(&mut world);
    let server = world.ledger.volumes.get(&volume).unwrap().attachment(first).unwrap().instance.clone();
    let (second, reserve) = reservation(&mut world, volume, &server.unwrap());
    world.when(reserve).unwrap();
    let extend = Command::ExtendVolume { volume, to: gib(3), online: true };
    let update =
        Command::UpdateAttachment { volume, attachment: second, connector: host("beta"), mode: None };
    world.when(update).unwrap();
    assert_eq!(code(world.when(extend.clone())), "VolumeNotExtendable");
    world.settle();
    world.when(Command::CompleteAttachment { volume, attachment: second }).unwrap();
    world.when(Command::DeleteAttachment { volume, attachment: first }).unwrap();
    assert_eq!(code(world.when(extend.clone())), "VolumeNotExtendable");
    world.settle();
    world.when(extend).unwrap();
    world.settle();
    assert_eq!(world.storage.exports.len(), 1);
    world.check_at_rest();
}

#[test]
fn lost_exports_are_made_again_and_nobodys_status_changes() {
    let mut world = World::default();
    let (volume, attachment) = in_use(&mut world);
    let before = world.storage.exports.clone();
    world.storage.exports.clear();
    let backend = world.ledger.volumes.get(&volume).unwrap().pool.as_ref().unwrap().backend.clone();
    let restore = Command::RestoreExports { backend, after: None };
    assert_eq!(code(world.when(restore.clone())), "PolicyNotAuthorized");
    assert_eq!(world.when_as(Actor::system(), restore.clone()), Ok(vec!["OperationOpened"]));
    assert_eq!(world.when_as(Actor::system(), restore.clone()), Ok(vec![]), "it is under way");
    assert_eq!(state(&world, volume, attachment), AttachmentState::Attached);
    world.settle();
    assert_eq!(world.storage.exports, before);
    let elsewhere = Command::RestoreExports { backend: BackendName::new("elsewhere"), after: None };
    assert_eq!(world.when_as(Actor::system(), elsewhere), Ok(vec![]));
    world.check_at_rest();

    // what goes meanwhile is not brought back
    world.when_as(Actor::system(), restore).unwrap();
    world.when(Command::DeleteAttachment { volume, attachment }).unwrap();
    world.settle();
    assert!(world.storage.exports.is_empty());
    world.check_at_rest();
}

#[test]
fn a_host_that_was_replaced_does_not_get_its_lost_export_back() {
    let mut world = World::default();
    let volume = world.given_volume(1, 7);
    let attachment = world.connect(volume);
    world.settle();
    let backend = world.ledger.volumes.get(&volume).unwrap().pool.as_ref().unwrap().backend.clone();
    world.when_as(Actor::system(), Command::RestoreExports { backend, after: None }).unwrap();
    let update = Command::UpdateAttachment { volume, attachment, connector: host("another"), mode: None };
    assert_eq!(
        world.when(update),
        Ok(vec!["OperationClosed", "AttachmentConnectAccepted", "OperationOpened"]),
        "what would make the old one is over"
    );
    world.settle();
    assert_eq!(world.storage.exports.len(), 1);
    world.check_at_rest();
}

#[test]
fn only_who_may_attach_does_and_strangers_find_nothing() {
    let mut world = World::default();
    let (volume, attachment) = in_use(&mut world);
    let (_, reserve) = reservation(&mut world, volume, "server");
    let commands = [
        reserve,
        Command::UpdateAttachment { volume, attachment, connector: host("alpha"), mode: None },
        Command::CompleteAttachment { volume, attachment },
        Command::DeleteAttachment { volume, attachment },
        Command::ReserveVolume { volume },
        Command::BeginDetaching { volume },
        Command::DetachVolume { volume, attachment: Some(attachment), force: false },
        Command::TerminateConnection { volume, connector: None },
    ];
    for command in commands {
        let reader = world.when_as(actor(PROJECT, Role::Reader), command.clone());
        assert_eq!(code(reader), "PolicyNotAuthorized", "{command:?}");
        let stranger = code(world.when_as(actor("other", Role::Member), command.clone()));
        assert!(["AttachmentNotFound", "VolumeNotFound"].contains(&stranger), "{command:?}: {stranger}");
    }
    let force = Command::DetachVolume { volume, attachment: Some(attachment), force: true };
    assert_eq!(code(world.when(force)), "PolicyNotAuthorized");
    assert_eq!(code(world.when(Command::DetachAll { volume })), "PolicyNotAuthorized");
    assert_eq!(state(&world, volume, attachment), AttachmentState::Attached);
    world.must(Command::DetachAll { volume });
    world.settle();
    assert_eq!(world.volume_state(volume), VolumeState::Available);
    world.check_at_rest();
}

#[test]
fn the_id_of_an_attachment_is_used_once() {
    let mut world = World::default();
    let volume = world.given_volume(1, 0);
    let taken = world.connect(volume);
    world.settle();
    let connector = host("another");
    let initialize = Command::InitializeConnection { volume, attachment: taken, connector, mode: None };
    assert_eq!(code(world.when(initialize)), "AttachmentExists");
    let attach = AttachVolume {
        volume,
        attachment: taken,
        instance: None,
        host: Some("another".into()),
        mountpoint: "/dev/vdb".into(),
        mode: AttachMode::ReadWrite,
    };
    assert_eq!(code(world.when(Command::AttachVolume(Box::new(attach)))), "AttachmentExists");
    world.check_at_rest();
}

/// A volume whose revert and its undo failed, and that an operator has let be used again all the same.
pub fn to_be_recovered(world: &mut World) -> VolumeId {
    let volume = world.given_volume(1, 0);
    let snapshot = world.given_snapshot(volume);
    world.when(Command::RevertVolume { volume, snapshot: Some(snapshot) }).unwrap();
    let due = world.next_due().unwrap();
    world.perform(&due).unwrap();
    world.fail_next(broken());
    world.fail_next(broken());
    assert_eq!(world.volume_state(volume), VolumeState::Error);
    world.must(Command::ResetVolumeStatus { volume, to: VolumeState::Available });
    world.settle();
    volume
}

#[test]
fn what_a_server_has_is_not_recovered_under_its_hands() {
    let mut world = World::default();
    let volume = to_be_recovered(&mut world);
    let attachment = world.connect(volume);
    world.settle();
    world.must(Command::ResetVolumeStatus { volume, to: VolumeState::Error });
    world.settle();
    assert_eq!(code(world.when_admin(Command::RecoverVolume { volume })), "VolumeHasAttachments");
    world.must(Command::DeleteAttachment { volume, attachment });
    world.settle();
    world.must(Command::RecoverVolume { volume });
    world.settle();
    assert_eq!(world.volume_state(volume), VolumeState::Available);
    world.check_at_rest();
}

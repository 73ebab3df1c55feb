use tephra_domain::actor::Role;
use tephra_domain::command::Command;
use tephra_domain::ids::{SnapshotId, VolumeId};
use tephra_domain::snapshot::SnapshotState;
use tephra_domain::volume::VolumeState;
use tephra_replay_tests::world::{PROJECT, World, actor, gib};

use super::{broken, code};

const OLD: u64 = 1;
const NEW: u64 = 2;

fn overwritten(world: &mut World) -> (VolumeId, SnapshotId) {
    let volume = world.given_volume(1, OLD);
    let snapshot = world.given_snapshot(volume);
    world.write(volume, NEW);
    (volume, snapshot)
}

const fn revert(volume: VolumeId, snapshot: SnapshotId) -> Command {
    Command::RevertVolume { volume, snapshot: Some(snapshot) }
}

fn effects(world: &mut World) -> Vec<&'static str> {
    let mut names = Vec::new();
    while let Some(due) = world.next_due() {
        names.push(due.effect.name());
        world.perform(&due).unwrap();
    }
    names
}

#[test]
fn volume_and_snapshot_change_in_one_commit() {
    let mut world = World::default();
    let (volume, snapshot) = overwritten(&mut world);
    let events = world.when(revert(volume, snapshot)).unwrap();
    assert_eq!(events, ["VolumeRevertAccepted", "SnapshotRestoreAccepted", "OperationOpened"]);
    assert_eq!(world.volume_state(volume), VolumeState::Reverting);
    assert_eq!(world.snapshot_state(snapshot), SnapshotState::Restoring);
    world.settle();
    assert_eq!(world.volume_state(volume), VolumeState::Available);
    assert_eq!(world.snapshot_state(snapshot), SnapshotState::Available);
    let last: Vec<_> = world.history.last().unwrap().events.iter().map(|event| event.name()).collect();
    assert_eq!(last, ["StepCompleted", "VolumeReverted", "SnapshotRestoreEnded", "OperationClosed"]);
}

#[test]
fn a_safety_snapshot_comes_first_and_goes_last() {
    let mut world = World::default();
    let (volume, snapshot) = overwritten(&mut world);
    world.when(revert(volume, snapshot)).unwrap();
    assert_eq!(effects(&mut world), ["CreateSnapshot", "RevertToSnapshot", "DeleteSnapshot"]);
    assert_eq!(world.tag(volume), Some(OLD));
    world.check_at_rest();
}

#[test]
fn a_backend_that_cannot_revert_copies_through_a_temporary_volume() {
    let mut world = World::with_backends(&["one"], false);
    let (volume, snapshot) = overwritten(&mut world);
    world.when(revert(volume, snapshot)).unwrap();
    let steps =
        ["CreateSnapshot", "CreateVolumeFromSnapshot", "OverwriteVolume", "DeleteVolume", "DeleteSnapshot"];
    assert_eq!(effects(&mut world), steps);
    assert_eq!(world.tag(volume), Some(OLD));
    world.check_at_rest();
}

#[test]
fn a_failure_brings_the_data_back_and_is_on_record() {
    for native in [true, false] {
        let mut world = World::with_backends(&["one"], native);
        let (volume, snapshot) = overwritten(&mut world);
        world.when(revert(volume, snapshot)).unwrap();
        loop {
            let due = world.next_due().unwrap();
            if matches!(due.effect.name(), "RevertToSnapshot" | "OverwriteVolume") {
                break;
            }
            world.perform(&due).unwrap();
        }
        world.write(volume, 999);
        assert_eq!(world.fail_next(broken()), ["UndoStarted"]);
        world.settle();
        assert_eq!(world.tag(volume), Some(NEW), "as before the revert");
        let row = world.ledger.volumes.get(&volume).unwrap();
        assert_eq!(row.status.state(), VolumeState::Available);
        assert_eq!(row.last_failure.as_ref().unwrap().failure, broken());
        assert_eq!(world.snapshot_state(snapshot), SnapshotState::Available);
        world.check_at_rest();
    }
}

#[test]
fn if_even_the_undo_fails_the_data_is_held_and_an_operator_recovers_it() {
    let mut world = World::default();
    let (volume, snapshot) = overwritten(&mut world);
    world.when(revert(volume, snapshot)).unwrap();
    let due = world.next_due().unwrap();
    world.perform(&due).unwrap();
    world.write(volume, 999);
    world.fail_next(broken());
    let events = world.fail_next(broken());
    let expected = [
        "UndoWaived",
        "CleanupDebtIncurred",
        "VolumeRevertFailed",
        "SnapshotRestoreEnded",
        "OperationClosed",
    ];
    assert_eq!(events, expected);
    assert_eq!(world.volume_state(volume), VolumeState::Error);
    let reason = world.ledger.volumes.get(&volume).unwrap().last_failure.clone().unwrap().failure;
    assert!(reason.message.contains(&format!("tephra recover {volume}")), "{reason}");
    world.check_at_rest();

    assert_eq!(code(world.when(Command::RecoverVolume { volume })), "PolicyNotAuthorized");
    world.must(Command::RecoverVolume { volume });
    world.settle();
    assert_eq!(world.volume_state(volume), VolumeState::Available);
    assert_eq!(world.tag(volume), Some(NEW));
    assert!(world.ledger.debts.is_empty());
    world.check_at_rest();
    assert_eq!(code(world.when_admin(Command::RecoverVolume { volume })), "VolumeNotRecoverable");
}

#[test]
fn rejections_come_in_their_documented_order() {
    let mut world = World::default();
    let volume = world.given_volume(1, OLD);
    let absent = SnapshotId::from_uuid(world.fresh());
    assert_eq!(
        code(world.when_as(actor(PROJECT, Role::Reader), revert(volume, absent))),
        "PolicyNotAuthorized"
    );
    assert_eq!(code(world.when_as(actor("other", Role::Member), revert(volume, absent))), "VolumeNotFound");
    assert_eq!(code(world.when(revert(volume, absent))), "VolumeHasNoSnapshots");
    let older = world.given_snapshot(volume);
    let latest = world.given_snapshot(volume);
    assert_eq!(code(world.when(revert(volume, older))), "SnapshotNotLatest");
    assert_eq!(code(world.when(Command::RevertVolume { volume, snapshot: None })), "SnapshotNotLatest");
    world.when(Command::DeleteSnapshot { snapshot: latest, force: false }).unwrap();
    assert_eq!(code(world.when(revert(volume, latest))), "SnapshotNotRestorable");
    world.settle();
    world.when(Command::ExtendVolume { volume, to: gib(2), online: false }).unwrap();
    assert_eq!(code(world.when(revert(volume, older))), "VolumeNotRevertable");
    world.settle();
    assert_eq!(code(world.when(revert(volume, older))), "SnapshotSizeDiffers");
}

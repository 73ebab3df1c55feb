//! Tables: an effect, what is there, and what follows.

use tephra_domain::ids::{OperationId, SnapshotId, VolumeId};
use uuid::Uuid;

use super::super::names::clone_snapshot;
use super::*;

const GIB: u64 = 1 << 30;

fn volume(n: u128) -> BackendObject {
    BackendObject::Volume(VolumeId::from_uuid(Uuid::from_u128(n)))
}

fn snapshot() -> BackendObject {
    BackendObject::Snapshot {
        volume: volume(1).volume(),
        snapshot: SnapshotId::from_uuid(Uuid::from_u128(3)),
    }
}

fn size(gib: u32) -> SizeGib {
    SizeGib::new(gib).unwrap()
}

fn image(bytes: u64) -> Image {
    let text = format!(r#"{{"id":"10ab","size":{bytes},"protected":"true"}}"#);
    serde_json::from_str(&text).unwrap()
}

fn clone_of(parent: BackendObject, bytes: u64) -> Image {
    clone_at("volumes", parent, &clone_snapshot(volume(2)), bytes)
}

fn clone_at(pool: &str, parent: BackendObject, snapshot: &str, bytes: u64) -> Image {
    let parent = format!(r#"{{"pool":"{pool}","image":"{parent}","id":"10aa","snapshot":"{snapshot}"}}"#);
    serde_json::from_str(&format!(r#"{{"id":"10ab","size":{bytes},"parent":{parent}}}"#)).unwrap()
}

fn planned(effect: &Effect, observed: &Observed) -> Result<Vec<Step>, FailureKind> {
    plan("volumes", effect, observed, false, CloneFormat::V2).map_err(|failure| failure.kind)
}

fn seen(target: Option<Image>, source: Option<Image>) -> Observed {
    Observed { target, source, ..Observed::default() }
}

#[test]
fn a_blank_volume_is_made_once_and_never_replaced() {
    let effect = Effect::CreateVolume { volume: volume(1), size: size(2) };
    assert_eq!(planned(&effect, &seen(None, None)), Ok(vec![Step::Create { bytes: 2 * GIB }]));
    assert_eq!(planned(&effect, &seen(Some(image(2 * GIB)), None)), Ok(vec![]));
    assert_eq!(planned(&effect, &seen(Some(image(GIB)), None)), Err(FailureKind::Mismatch));
}

#[test]
fn a_clone_goes_on_where_an_earlier_attempt_died() {
    let effect = Effect::CloneVolume { volume: volume(2), size: size(2), source: volume(1) };
    let from = Place::of(volume(1)).with_snapshot(format!("tephra.clone.{}", volume(2)));
    let drop = Step::DropSnapshot { at: from.clone() };
    let grow = Step::Grow { bytes: 2 * GIB };
    let source = || Some(image(GIB));
    let all = vec![
        Step::Snapshot { at: from.clone() },
        Step::Clone { from: from.clone() },
        grow.clone(),
        drop.clone(),
    ];
    assert_eq!(planned(&effect, &seen(None, source())), Ok(all));
    let small = seen(Some(clone_of(volume(1), GIB)), source());
    assert_eq!(planned(&effect, &small), Ok(vec![grow, drop.clone()]));
    let sized = seen(Some(clone_of(volume(1), 2 * GIB)), source());
    assert_eq!(planned(&effect, &sized), Ok(vec![drop.clone()]));
    let deep = Observed { is_deep: true, ..sized };
    assert_eq!(planned(&effect, &deep), Ok(vec![Step::Flatten, drop.clone()]));
    assert_eq!(planned(&effect, &seen(Some(image(2 * GIB)), None)), Ok(vec![drop]));
    // what is not a clone of the source is none of ours to grow
    assert_eq!(planned(&effect, &seen(Some(image(GIB)), source())), Err(FailureKind::Mismatch));
    let ours = clone_snapshot(volume(2));
    for (pool, image, snapshot) in [
        ("volumes", volume(9), &*ours),
        ("elsewhere", volume(1), &*ours),
        ("volumes", volume(1), "snapshot-of-somebody"),
    ] {
        let strange = seen(Some(clone_at(pool, image, snapshot, GIB)), source());
        assert_eq!(planned(&effect, &strange), Err(FailureKind::Mismatch), "{pool} {image} {snapshot}");
    }
    // a sweep may have removed the snapshot, which the clone keeps in the snapshots' trash
    let removed = clone_at("volumes", volume(1), "1da87fa0-70f5-452e-9192-e1a73bdb75fb", GIB);
    let rest = vec![
        Step::Grow { bytes: 2 * GIB },
        Step::DropSnapshot { at: Place::of(volume(1)).with_snapshot(ours) },
    ];
    assert_eq!(planned(&effect, &seen(Some(removed), source())), Ok(rest));
    assert_eq!(planned(&effect, &seen(None, None)), Err(FailureKind::ObjectMissing));
    assert_eq!(planned(&effect, &seen(None, Some(image(3 * GIB)))), Err(FailureKind::Mismatch));
}

#[test]
fn clones_of_version_1_are_made_from_protected_snapshots() {
    let effect = Effect::CloneVolume { volume: volume(2), size: size(1), source: volume(1) };
    let steps = plan("volumes", &effect, &seen(None, Some(image(GIB))), false, CloneFormat::V1).unwrap();
    let protect = steps.iter().position(|step| matches!(step, Step::Protect { .. })).unwrap();
    let clone = steps.iter().position(|step| matches!(step, Step::Clone { .. })).unwrap();
    assert!(protect < clone);
    let effect = Effect::CreateVolumeFromSnapshot { volume: volume(2), size: size(1), snapshot: snapshot() };
    let protected = plan("volumes", &effect, &seen(None, Some(image(GIB))), false, CloneFormat::V1).unwrap();
    assert_eq!(protected, [Step::Clone { from: Place::of(snapshot()) }]);
    let unprotected =
        plan("volumes", &effect, &seen(None, Some(clone_of(volume(8), GIB))), false, CloneFormat::V1)
            .unwrap();
    assert!(matches!(unprotected[..], [Step::Protect { .. }, Step::Clone { .. }]));
    let flattened = plan("volumes", &effect, &seen(None, Some(image(GIB))), true, CloneFormat::V2).unwrap();
    assert_eq!(flattened.last(), Some(&Step::Flatten));
}

#[test]
fn users_snapshots_are_protected_and_an_operations_are_not() {
    let at = Place::of(snapshot());
    let effect = Effect::CreateSnapshot { snapshot: snapshot() };
    let both = vec![Step::Snapshot { at: at.clone() }, Step::Protect { at: at.clone() }];
    assert_eq!(planned(&effect, &seen(None, None)), Ok(both));
    let unprotected = seen(Some(clone_of(volume(9), GIB)), None);
    assert_eq!(planned(&effect, &unprotected), Ok(vec![Step::Protect { at: at.clone() }]));
    assert_eq!(planned(&effect, &seen(Some(image(GIB)), None)), Ok(vec![]));
    let operation = OperationId::from_uuid(Uuid::from_u128(5));
    let safety = BackendObject::SafetySnapshot { volume: volume(1).volume(), operation };
    let effect = Effect::CreateSnapshot { snapshot: safety };
    assert_eq!(planned(&effect, &seen(None, None)), Ok(vec![Step::Snapshot { at: Place::of(safety) }]));
}

#[test]
fn a_rollback_needs_equal_sizes_and_a_copy_room() {
    let revert = Effect::RevertToSnapshot { volume: volume(1), snapshot: snapshot() };
    let copy = Effect::OverwriteVolume { volume: volume(1), source: snapshot() };
    let to = Place::of(snapshot());
    let equal = seen(Some(image(GIB)), Some(image(GIB)));
    assert_eq!(planned(&revert, &equal), Ok(vec![Step::Rollback { to: to.clone() }]));
    assert_eq!(planned(&copy, &equal), Ok(vec![Step::CopyOver { from: to.clone() }]));
    let larger = seen(Some(image(2 * GIB)), Some(image(GIB)));
    assert_eq!(planned(&revert, &larger), Err(FailureKind::Mismatch));
    assert_eq!(planned(&copy, &larger), Ok(vec![Step::CopyOver { from: to }]));
    let smaller = seen(Some(image(GIB)), Some(image(2 * GIB)));
    assert_eq!(planned(&copy, &smaller), Err(FailureKind::Mismatch));
    for effect in [&revert, &copy] {
        assert_eq!(planned(effect, &seen(Some(image(GIB)), None)), Err(FailureKind::ObjectMissing));
        assert_eq!(planned(effect, &seen(None, Some(image(GIB)))), Err(FailureKind::ObjectMissing));
    }
}

#[test]
fn sizes_are_changed_only_where_they_differ() {
    let extend = Effect::ExtendVolume { volume: volume(1), to: size(2) };
    assert_eq!(planned(&extend, &seen(Some(image(GIB)), None)), Ok(vec![Step::Grow { bytes: 2 * GIB }]));
    assert_eq!(planned(&extend, &seen(Some(image(3 * GIB)), None)), Ok(vec![]));
    let shrink = Effect::ShrinkVolume { volume: volume(1), to: size(2) };
    assert_eq!(
        planned(&shrink, &seen(Some(image(3 * GIB)), None)),
        Ok(vec![Step::Shrink { bytes: 2 * GIB }])
    );
    assert_eq!(planned(&shrink, &seen(Some(image(2 * GIB)), None)), Ok(vec![]));
    assert_eq!(planned(&shrink, &seen(Some(image(GIB)), None)), Err(FailureKind::Mismatch));
}

#[test]
fn what_is_gone_needs_nothing_but_a_look_at_what_a_crash_left() {
    let volume_gone = Effect::DeleteVolume { volume: volume(1) };
    assert_eq!(planned(&volume_gone, &seen(None, None)), Ok(vec![Step::RemoveRemains]));
    let snapshot_gone = Effect::DeleteSnapshot { snapshot: snapshot() };
    assert_eq!(planned(&snapshot_gone, &seen(None, None)), Ok(vec![]));
}

#[test]
fn clones_follow_the_oldest_client() {
    for (release, format) in [
        ("jewel", CloneFormat::V1),
        ("luminous", CloneFormat::V1),
        ("", CloneFormat::V1),
        ("mimic", CloneFormat::V2),
        ("squid", CloneFormat::V2),
    ] {
        assert_eq!(CloneFormat::for_oldest_client(release), format, "{release}");
    }
}

use tephra_domain::command::Command;
use tephra_domain::drift::{Expectation, Finding, FoundKind, FoundObject, compare};
use tephra_domain::effect::BackendObject;
use tephra_domain::ledger::Ledger;
use tephra_domain::volume::VolumeState;
use tephra_replay_tests::world::{World, gib, pool};

use super::broken;

fn expected(ledger: &Ledger) -> Expectation {
    Expectation::of(
        &pool("one"),
        ledger.volumes.sorted().into_iter().map(|(_, row)| row),
        ledger.snapshots.sorted().into_iter().map(|(_, row)| row),
        ledger.debts.sorted().into_iter().map(|(_, row)| row),
        ledger.operations.sorted().into_iter().map(|(_, row)| row),
    )
}

/// What the simulated backend would list.
fn found(world: &World) -> Vec<FoundObject> {
    let object = |name: String, is_snapshot: bool, bytes: u64| FoundObject {
        name: name.into(),
        kind: if is_snapshot { FoundKind::Snapshot { of: None } } else { FoundKind::Volume },
        bytes,
        in_use: false,
    };
    let ours = world.storage.objects.iter();
    let ours = ours.map(|((_, name), it)| object(name.to_string(), name.is_snapshot(), it.size.bytes()));
    let others = world.storage.strangers.iter();
    ours.chain(others.map(|((_, name), it)| object(name.to_string(), false, it.size.bytes()))).collect()
}

fn drift(world: &World) -> Vec<(&'static str, String)> {
    let word = expected(&world.ledger);
    let findings = compare(&word, &word, &found(world));
    findings.iter().map(|finding| (finding.kind(), finding.name().to_string())).collect()
}

#[test]
fn where_ledger_and_backend_agree_there_is_no_drift() {
    let mut world = World::default();
    assert_eq!(drift(&world), []);
    let volume = world.given_volume(1, 0);
    world.given_snapshot(volume);
    assert_eq!(drift(&world), []);
}

#[test]
fn what_is_missing_unknown_or_of_another_size_is_found() {
    let mut world = World::default();
    let (lost, grown, kept) = (world.given_volume(1, 0), world.given_volume(1, 0), world.given_volume(1, 0));
    let snapshot = world.given_snapshot(kept);
    world.given_stranger("one", "stray", 2, 0);
    let key = |volume| (pool("one"), BackendObject::Volume(volume));
    world.storage.objects.remove(&key(lost));
    world.storage.objects.get_mut(&key(grown)).unwrap().size = gib(3);
    world.storage.objects.remove(&(pool("one"), BackendObject::Snapshot { volume: kept, snapshot }));
    let mut all = vec![
        ("missing", format!("volume-{lost}")),
        ("wrong_size", format!("volume-{grown}")),
        ("missing", format!("snapshot-{snapshot}")),
        ("unknown", "stray".to_owned()),
    ];
    all.sort_by(|a, b| a.1.cmp(&b.1));
    assert_eq!(drift(&world), all);
}

#[test]
fn what_an_operation_is_just_changing_is_no_drift_at_any_step() {
    let mut world = World::with_backends(&["one"], false);
    let volume = world.given_volume(1, 1);
    let snapshot = world.given_snapshot(volume);
    world.given_stranger("one", "legacy", 1, 0);
    world.given_stranger("one", "stray", 1, 0);
    let before = drift(&world).len();
    assert_eq!(before, 2, "both strangers");
    let (_, create) = world.new_volume(2);
    let (_, manage) = world.new_managed("one", "legacy", 1);
    for command in [create, Command::RevertVolume { volume, snapshot: Some(snapshot) }, manage] {
        world.must(command);
    }
    // acted, but not reported: nothing that is half-way may show
    while let Some(due) = world.next_due() {
        assert_eq!(drift(&world), [("unknown", "stray".to_owned())]);
        world.storage.perform(&due.pool, &due.effect).unwrap();
        assert_eq!(drift(&world), [("unknown", "stray".to_owned())]);
        world.perform(&due).unwrap();
    }
    assert_eq!(drift(&world), [("unknown", "stray".to_owned())]);
}

#[test]
fn what_happened_while_the_backend_was_looked_at_is_no_drift() {
    let mut world = World::default();
    let kept = world.given_volume(1, 0);
    let gone = world.given_volume(1, 0);
    let before = expected(&world.ledger);
    let fresh = world.given_volume(1, 0);
    world.when(Command::ExtendVolume { volume: kept, to: gib(2), online: false }).unwrap();
    world.when(Command::DeleteVolume { volume: gone, cascade: false, force: false }).unwrap();
    world.settle();
    let after = expected(&world.ledger);
    assert_eq!(compare(&before, &after, &found(&world)), []);
    // whether the list shows the old or the new state
    let early: Vec<FoundObject> = found(&world)
        .into_iter()
        .filter(|object| *object.name != *format!("volume-{fresh}"))
        .map(|object| FoundObject { bytes: gib(1).bytes(), ..object })
        .collect();
    assert_eq!(compare(&before, &after, &early), []);
}

#[test]
fn what_is_owed_is_shown_and_is_no_drift() {
    let mut world = World::default();
    world.given_stranger("one", "stray", 1, 5);
    let volume = world.given_volume(1, 0);
    world.must(Command::CleanObject(Box::new(tephra_domain::command::CleanObject {
        pool: pool("one"),
        name: "stray".into(),
        kind: FoundKind::Volume,
    })));
    let claim = world.next_due().unwrap();
    world.perform(&claim).unwrap();
    world.fail_next(broken());
    let word = expected(&world.ledger);
    let findings = compare(&word, &word, &found(&world));
    assert!(matches!(findings.as_slice(), [Finding::Owed { held: false, .. }]), "{findings:?}");
    assert!(findings.iter().all(|finding| !finding.is_drift()));
    world.settle();
    assert_eq!(drift(&world), []);
    // an object that its volume's failure left uncertain is neither missing nor unknown
    world.must(Command::ResetVolumeStatus { volume, to: VolumeState::Error });
    assert_eq!(drift(&world), []);
}

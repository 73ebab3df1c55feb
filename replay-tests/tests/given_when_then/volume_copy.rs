//! Volumes of what another backend holds.

use tephra_domain::command::Command;
use tephra_domain::effect::{BackendObject, DueEffect, Failure, FailureKind, Outcome};
use tephra_domain::ids::{BackendName, VolumeId};
use tephra_domain::volume::{VolumeSource, VolumeState};
use tephra_replay_tests::world::{World, gib, pool};

use super::{broken, hiccup};

/// Three backends that are read by all executors, the first with a volume of two gigabytes on it.
fn given_source() -> (World, VolumeId) {
    let mut world = World::with_neighbours(&["one", "two", "three"], true);
    let source = world.given_volume(2, 7);
    assert_eq!(where_is(&world, source).as_deref(), Some("one"));
    (world, source)
}

fn where_is(world: &World, volume: VolumeId) -> Option<String> {
    let pool = world.ledger.volumes.get(&volume)?.pool.as_ref()?;
    Some(pool.backend.to_string())
}

fn failure_of(world: &World, volume: VolumeId) -> String {
    let row = world.ledger.volumes.get(&volume).unwrap();
    assert_eq!(row.status.state(), VolumeState::Error);
    row.last_failure.as_ref().unwrap().failure.message.to_string()
}

/// What is due, in a word and with its place.
fn next(world: &mut World) -> Option<(&'static str, String, DueEffect)> {
    let due = world.next_due()?;
    Some((due.effect.name(), due.pool.backend.to_string(), due))
}

/// Performs everything, and says what was done where.
fn performed(world: &mut World) -> Vec<String> {
    let mut done = Vec::new();
    while let Some((name, place, due)) = next(world) {
        done.push(format!("{name} on {place}"));
        world.perform(&due).unwrap();
        world.check_invariants();
    }
    done
}

/// What is the matter with the source's backend, and where the copy is made by which effects.
type Row = (&'static str, fn(&mut World), &'static str, &'static [&'static str]);

#[test]
fn a_copy_leaves_its_sources_backend_only_where_that_cannot_take_it() {
    let full = |world: &mut World| world.fill("one");
    let disabled = |world: &mut World| {
        world.must(Command::DisableBackend { backend: BackendName::new("one"), reason: None });
    };
    let room = |_: &mut World| {};
    let cases: [Row; 3] = [
        ("room", room, "one", &["CloneVolume on one"]),
        ("full", full, "two", &["CreateSnapshot on one", "CopyVolume on two", "DeleteSnapshot on one"]),
        (
            "disabled",
            disabled,
            "two",
            &["CreateSnapshot on one", "CopyVolume on two", "DeleteSnapshot on one"],
        ),
    ];
    for (case, change, place, effects) in cases {
        let (mut world, source) = given_source();
        change(&mut world);
        let (copy, create) = world.new_volume_from(Some(3), VolumeSource::Volume(source));
        world.when(create).unwrap();
        assert_eq!(performed(&mut world), effects, "{case}");
        assert_eq!(where_is(&world, copy).as_deref(), Some(place), "{case}");
        assert_eq!((world.volume_state(copy), world.tag(copy)), (VolumeState::Available, Some(7)), "{case}");
        let made = world.storage.contents(&pool(place), BackendObject::Volume(copy)).unwrap();
        assert_eq!(made.size, gib(3), "{case}");
        world.check_at_rest();
    }
}

#[test]
fn a_type_that_only_another_backend_meets_takes_the_copy_there() {
    let (mut world, source) = given_source();
    world.pools[1].capabilities.insert("storage_protocol".into(), "iSCSI".into());
    let volume_type = tephra_domain::volume_type::DEFAULT_TYPE_ID;
    let extra_specs = [("storage_protocol".to_owned(), "iSCSI".to_owned())].into();
    let change = tephra_domain::command::MetadataChange::Replace(extra_specs);
    world.must(Command::ChangeExtraSpecs { volume_type, change });
    let (copy, create) = world.new_volume_from(None, VolumeSource::Volume(source));
    world.when(create).unwrap();
    world.settle();
    assert_eq!((where_is(&world, copy).as_deref(), world.tag(copy)), (Some("two"), Some(7)));
}

#[test]
fn a_snapshot_is_copied_as_it_is_and_stays() {
    let (mut world, source) = given_source();
    let snapshot = world.given_snapshot(source);
    world.write(source, 8);
    world.fill("one");
    let (copy, create) = world.new_volume_from(None, VolumeSource::Snapshot(snapshot));
    world.when(create).unwrap();
    assert_eq!(performed(&mut world), ["CopyVolume on two"]);
    assert_eq!((world.tag(copy), world.tag(source)), (Some(7), Some(8)));
    world.check_at_rest();
}

#[test]
fn a_volume_is_copied_as_it_was_when_the_copy_began() {
    let (mut world, source) = given_source();
    world.fill("one");
    let (copy, create) = world.new_volume_from(None, VolumeSource::Volume(source));
    world.when(create).unwrap();
    let (_, _, due) = next(&mut world).unwrap();
    world.perform(&due).unwrap();
    // a server that has it attached goes on writing
    world.write(source, 8);
    world.settle();
    assert_eq!((world.tag(copy), world.tag(source)), (Some(7), Some(8)));
    world.check_at_rest();
}

#[test]
fn a_source_and_its_snapshot_are_deleted_only_after_they_were_copied() {
    let (mut world, source) = given_source();
    let snapshot = world.given_snapshot(source);
    world.fill("one");
    let (copy, create) = world.new_volume_from(None, VolumeSource::Snapshot(snapshot));
    world.when(create).unwrap();
    world.when(Command::DeleteVolume { volume: source, cascade: true, force: false }).unwrap();
    let (name, _, _) = next(&mut world).unwrap();
    assert_eq!((name, world.ledger.all_due().len()), ("CopyVolume", 1), "the deletion waits its turn");
    world.settle();
    assert_eq!((world.tag(copy), world.volume_state(source)), (Some(7), VolumeState::Absent));
    world.check_at_rest();
}

#[test]
fn nothing_is_copied_to_where_its_source_cannot_be_read() {
    let mut world = World::with_backends(&["one", "two"], true);
    let source = world.given_volume(1, 7);
    world.fill("one");
    let (copy, create) = world.new_volume_from(None, VolumeSource::Volume(source));
    assert_eq!(world.when(create), Ok(vec!["VolumeCreateAccepted", "VolumeCreateFailed"]));
    let reason = "two#two: the source is on one#one, which its executor cannot read (source)";
    assert!(failure_of(&world, copy).contains(reason), "{}", failure_of(&world, copy));
}

#[test]
fn what_is_lent_is_copied_to_where_it_is_borrowed() {
    let mut world = World::with_a_lender(&["one", "two"], true);
    let source = world.given_volume(1, 7);
    world.fill("one");
    let (copy, create) = world.new_volume_from(None, VolumeSource::Volume(source));
    world.when(create).unwrap();
    assert_eq!(
        performed(&mut world),
        ["CreateSnapshot on one", "CopyVolume on two", "DeleteSnapshot on one"]
    );
    assert_eq!((where_is(&world, copy).as_deref(), world.tag(copy)), (Some("two"), Some(7)));

    // and not the other way: who borrows does not lend
    let (back, create) = world.new_volume_from(None, VolumeSource::Volume(copy));
    world.fill("two");
    world.pools[0].free_gib = 100.0;
    world.when(create).unwrap();
    let reason = "one#one: the source is on two#two, which its executor cannot read (source)";
    assert!(failure_of(&world, back).contains(reason), "{}", failure_of(&world, back));
}

#[test]
fn nothing_is_copied_from_a_backend_that_is_down() {
    let (mut world, source) = given_source();
    world.pools[0].is_up = false;
    let (copy, create) = world.new_volume_from(None, VolumeSource::Volume(source));
    world.when(create).unwrap();
    let reason = "two#two: the source is on one#one, which is down (source)";
    assert!(failure_of(&world, copy).contains(reason), "{}", failure_of(&world, copy));
}

#[test]
fn a_frozen_backends_snapshots_are_copied_but_no_snapshot_is_taken_there_to_copy_from() {
    let (mut world, source) = given_source();
    let snapshot = world.given_snapshot(source);
    world.must(Command::FreezeBackend { backend: BackendName::new("one") });
    let (copy, create) = world.new_volume_from(None, VolumeSource::Snapshot(snapshot));
    world.when(create).unwrap();
    let (clone, create) = world.new_volume_from(None, VolumeSource::Volume(source));
    world.when(create).unwrap();
    world.settle();
    assert_eq!((world.volume_state(copy), world.tag(copy)), (VolumeState::Available, Some(7)));
    let reason = "no snapshot can be taken to copy from (source)";
    assert!(failure_of(&world, clone).contains(reason), "{}", failure_of(&world, clone));
}

#[test]
fn a_copy_that_fails_goes_to_the_next_backend_from_the_same_snapshot() {
    let (mut world, source) = given_source();
    world.fill("one");
    let (copy, create) = world.new_volume_from(None, VolumeSource::Volume(source));
    world.when(create).unwrap();
    let (_, _, taken) = next(&mut world).unwrap();
    world.perform(&taken).unwrap();
    world.write(source, 8);
    let (name, place, due) = next(&mut world).unwrap();
    assert_eq!((name, &*place), ("CopyVolume", "two"));
    drop(world.storage.perform(&due.pool, &due.effect));
    let events = world.report(due.key, Outcome::Failed(broken())).unwrap();
    assert_eq!(events, ["CleanupDebtIncurred", "VolumeRescheduled", "OperationRescheduled"]);
    let debts: Vec<_> = world.ledger.debts.sorted().iter().map(|(_, debt)| debt.pool.clone()).collect();
    assert_eq!(debts, [pool("two")], "the snapshot is not owed: it is still to be read");
    world.check_invariants();
    world.settle();
    assert_eq!((where_is(&world, copy).as_deref(), world.tag(copy)), (Some("three"), Some(7)));
    world.check_at_rest();
}

#[test]
fn a_copy_that_no_backend_takes_leaves_nothing_behind_and_its_source_as_it_was() {
    let (mut world, source) = given_source();
    world.fill("one");
    let (copy, create) = world.new_volume_from(None, VolumeSource::Volume(source));
    world.when(create).unwrap();
    while let Some((name, _, due)) = next(&mut world) {
        let full = Failure::new(FailureKind::NoSpace, "full");
        if name == "CopyVolume" {
            world.report(due.key, Outcome::Failed(full)).unwrap();
        } else {
            world.perform(&due).unwrap();
        }
    }
    assert!(failure_of(&world, copy).contains("2 backends failed"), "{}", failure_of(&world, copy));
    assert_eq!((world.volume_state(source), world.tag(source)), (VolumeState::Available, Some(7)));
    assert_eq!(world.storage.objects.len(), 1, "{:?}", world.storage.objects);
    world.check_at_rest();
}

#[test]
fn a_snapshot_that_cannot_be_taken_is_no_reason_to_go_elsewhere() {
    let (mut world, source) = given_source();
    world.fill("one");
    let (copy, create) = world.new_volume_from(None, VolumeSource::Volume(source));
    world.when(create).unwrap();
    let events = world.fail_next(broken());
    assert_eq!(events, ["UndoStarted"]);
    world.settle();
    assert_eq!(failure_of(&world, copy), "broken");
    world.check_at_rest();
}

#[test]
fn a_snapshot_that_stays_behind_is_owed_where_it_is() {
    let (mut world, source) = given_source();
    world.fill("one");
    let (copy, create) = world.new_volume_from(None, VolumeSource::Volume(source));
    world.when(create).unwrap();
    for _ in 0..2 {
        let (_, _, due) = next(&mut world).unwrap();
        world.perform(&due).unwrap();
    }
    for _ in 0..3 {
        world.fail_next(hiccup());
    }
    assert_eq!(world.volume_state(copy), VolumeState::Available);
    let owed: Vec<_> = world.ledger.debts.sorted().iter().map(|(_, debt)| debt.pool.clone()).collect();
    assert_eq!(owed, [pool("one")]);
    world.settle();
    assert_eq!(world.tag(copy), Some(7));
    world.check_at_rest();
}

#[test]
fn the_passing_snapshot_is_known_where_it_is_and_nowhere_else() {
    let (mut world, source) = given_source();
    world.fill("one");
    let (copy, create) = world.new_volume_from(None, VolumeSource::Volume(source));
    world.when(create).unwrap();
    let operation = world.open_operation().unwrap();
    let passing = BackendObject::SafetySnapshot { volume: source, operation }.to_string();
    let made = BackendObject::Volume(copy).to_string();
    let known = |place: &str, name: &str| world.ledger.knows_name(&pool(place), name);
    assert_eq!((known("one", &passing), known("two", &passing)), (true, false));
    assert_eq!((known("one", &made), known("two", &made)), (false, true));
}

use std::time::Duration;

use tephra_domain::attachment::AttachMode;
use tephra_domain::effect::Export;
use tephra_domain::ids::{AttachmentId, BackendName, OperationId, SnapshotId, VolumeId};
use uuid::Uuid;

use super::super::LvmConfig;
use super::super::extents::{Extents, PvExtents};
use super::super::step::{Commands, Then};
use super::*;

mod freed;

const GIB: u64 = 1 << 30;

fn volume() -> BackendObject {
    BackendObject::Volume(VolumeId::from_uuid(Uuid::from_u128(1)))
}

fn other() -> BackendObject {
    BackendObject::Volume(VolumeId::from_uuid(Uuid::from_u128(2)))
}

fn snapshot() -> BackendObject {
    BackendObject::Snapshot { volume: volume().volume(), snapshot: SnapshotId::from_uuid(Uuid::from_u128(3)) }
}

fn safety() -> BackendObject {
    let operation = OperationId::from_uuid(Uuid::from_u128(4));
    BackendObject::SafetySnapshot { volume: volume().volume(), operation }
}

fn export() -> Effect {
    let attachment = AttachmentId::from_uuid(Uuid::from_u128(5));
    let export = Export { attachment, initiator: None, address: None, mode: AttachMode::ReadWrite };
    Effect::ExportVolume { volume: volume(), export }
}

fn gib(size: u32) -> SizeGib {
    SizeGib::new(size).unwrap()
}

fn thick() -> Settings {
    Settings { thin_pool: None, clear: Clear::Zero { limit_mib: None } }
}

fn thin() -> Settings {
    Settings { thin_pool: Some("pool".to_owned()), clear: Clear::Zero { limit_mib: None } }
}

fn lv(name: impl Into<String>, attributes: &str, gib: u64) -> Lv {
    Lv {
        name: name.into(),
        bytes: gib * GIB,
        attributes: attributes.to_owned(),
        is_active: true,
        ..Lv::default()
    }
}

fn plain(object: BackendObject, gib: u64) -> Lv {
    lv(name::of(object), "-wi-a-----", gib)
}

fn origin(object: BackendObject, gib: u64) -> Lv {
    lv(name::of(object), "owi-a-s---", gib)
}

fn cow(name: impl Into<String>, of: BackendObject, gib: u64) -> Lv {
    Lv {
        origin: Some(name::of(of)),
        origin_bytes: Some(gib * GIB),
        bytes: gib * GIB + (8 << 20),
        ..lv(name, "swi-a-s---", gib)
    }
}

fn in_pool(name: impl Into<String>, gib: u64) -> Lv {
    Lv { pool: Some("pool".to_owned()), ..lv(name, "Vwi-a-tz--", gib) }
}

fn pool(data_percent: f64) -> Lv {
    Lv { data_percent: Some(data_percent), metadata_percent: Some(10.0), ..lv("pool", "twi-aotz--", 9) }
}

fn tagged(mut lv: Lv, tag: &str) -> Lv {
    lv.tags.push(tag.to_owned());
    lv
}

fn planned(effect: &Effect, lvs: Vec<Lv>, settings: &Settings) -> Result<Plan, FailureKind> {
    plan(effect, &Observed { lvs, ..Observed::default() }, settings).map_err(|failure| failure.kind)
}

/// The steps of a plan, each by its name and what it is about.
fn check(effect: &Effect, lvs: Vec<Lv>, settings: &Settings, expected: &[&str], then: Then) {
    let shown = format!("{lvs:?}");
    let plan = planned(effect, lvs, settings).unwrap();
    takes_no_longer_than_its_effect_may(effect, &plan);
    let steps: Vec<String> = plan.steps.iter().map(short).collect();
    assert_eq!(steps, expected, "{effect:?} with {shown}");
    assert_eq!(plan.then, then, "{effect:?} with {shown}");
}

/// With the looks before and after it, and with a merge of another attempt to be waited for first.
fn takes_no_longer_than_its_effect_may(effect: &Effect, plan: &Plan) {
    let config = LvmConfig::new(BackendName::new("lvm"), "host", "group");
    let programs = plan.steps.iter().flat_map(|step| (Commands { config: &config }).of(step));
    let commands: Duration = programs.map(|program| program.time_limit()).sum();
    let all = commands + config.command_time_limit * 4 + config.copy_time_limit;
    assert!(all <= config.limits().of(effect), "{effect:?} may take {all:?}");
}

fn check_refused(effect: &Effect, lvs: Vec<Lv>, settings: &Settings, kind: FailureKind) {
    let shown = format!("{lvs:?}");
    assert_eq!(planned(effect, lvs, settings), Err(kind), "{effect:?} with {shown}");
}

fn places(on: &[PvExtents]) -> String {
    on.iter().map(|extents| format!(" {extents}")).collect()
}

/// Ids are one digit long here, so that a plan fits on a line.
fn short(step: &Step) -> String {
    let text = match step {
        Step::CreateThick { lv, incomplete, .. } => format!("thick {lv} {incomplete}"),
        Step::CreateThin { lv, incomplete, .. } => format!("thin {lv} {incomplete}"),
        Step::SnapshotThick { lv, of, .. } => format!("snapshot {lv} of {of}"),
        Step::SnapshotAgain { lv, of, on, .. } => format!("snapshot {lv} of {of} again{}", places(on)),
        Step::Hold { lv, on } => format!("hold {lv}{}", places(on)),
        Step::SnapshotThin { lv, of, is_volume: true, incomplete } => {
            format!("twin {lv} of {of} {incomplete}")
        }
        Step::SnapshotThin { lv, of, .. } => format!("thin snapshot {lv} of {of}"),
        Step::AddTags { lv, tags } => format!("tag {lv} {}", tags.join(" ")),
        Step::RemoveTags { lv, tags } => format!("untag {lv} {}", tags.join(" ")),
        Step::Activate { lv } => format!("activate {lv}"),
        Step::Deactivate { lv } => format!("deactivate {lv}"),
        Step::Extend { lv, bytes } => format!("extend {lv} {}", bytes / GIB),
        Step::ExtendInactive { lv, bytes } => format!("extend inactive {lv} {}", bytes / GIB),
        Step::Reduce { lv, bytes } => format!("reduce {lv} {}", bytes / GIB),
        Step::RequireZeroes { lv, from, to } => format!("zeroes? {lv} {} {}", from / GIB, to / GIB),
        Step::Copy { from, to } => format!("copy {from} to {to}"),
        Step::Zero { lv, from, to } => format!("zero {lv} {} {}", from / GIB, to / GIB),
        Step::ZeroGrown { lv, from, to } => format!("zero grown {lv} {} {}", from / GIB, to / GIB),
        Step::Sync { lv } => format!("sync {lv}"),
        Step::Clear { lv, .. } => format!("clear {lv}"),
        Step::Split { lv } => format!("split {lv}"),
        Step::Remove { lv } => format!("remove {lv}"),
        Step::Rename { from, to } => format!("rename {from} to {to}"),
        Step::Merge { lv } => format!("merge {lv}"),
        Step::Resume { lv } => format!("resume {lv}"),
        Step::Poll { lv } => format!("poll {lv}"),
    };
    text.replace("00000000-0000-0000-0000-00000000000", "")
}

#[test]
fn a_blank_volume_is_made_once_and_of_the_kind_of_its_group() {
    let effect = Effect::CreateVolume { volume: volume(), size: gib(2) };
    check(&effect, vec![], &thick(), &["thick volume-1 false"], Then::Done);
    check(&effect, vec![pool(50.0)], &thin(), &["thin volume-1 false"], Then::Done);
    check(&effect, vec![plain(volume(), 2)], &thick(), &[], Then::Done);
    let inactive = Lv { is_active: false, ..plain(volume(), 2) };
    check(&effect, vec![inactive], &thick(), &["activate volume-1"], Then::Done);
    check_refused(&effect, vec![plain(volume(), 1)], &thick(), FailureKind::Mismatch);
    check_refused(&effect, vec![pool(100.0)], &thin(), FailureKind::NoSpace);
    check_refused(&effect, vec![], &thin(), FailureKind::BackendUnavailable);
}

#[test]
fn a_thick_copy_is_incomplete_until_its_data_is_durable() {
    let effect = Effect::CreateVolumeFromSnapshot { volume: other(), size: gib(2), snapshot: snapshot() };
    let source = || vec![origin(volume(), 1), cow(name::of(snapshot()), volume(), 1)];
    let rest = [
        "copy _snapshot-3 to volume-2",
        "zero volume-2 1 2",
        "sync volume-2",
        "untag volume-2 tephra.incomplete",
    ];
    check(&effect, source(), &thick(), &[&["thick volume-2 true"], &rest[..]].concat(), Then::Done);
    // what a thin pool gives out is zeroes
    let pooled = [source(), vec![pool(1.0)]].concat();
    let thinly = ["thin volume-2 true", rest[0], rest[2], rest[3]];
    check(&effect, pooled, &thin(), &thinly, Then::Done);
    let half = || tagged(plain(other(), 2), name::INCOMPLETE);
    let with = |lv: Lv| [source(), vec![lv]].concat();
    check(&effect, with(half()), &thick(), &rest, Then::Done);
    check(&effect, with(plain(other(), 2)), &thick(), &[], Then::Done);
    let other_size = tagged(plain(other(), 3), name::INCOMPLETE);
    let none_of_it_stays = ["clear volume-2", "remove volume-2"];
    check(&effect, with(other_size), &thick(), &none_of_it_stays, Then::LookAgain);
    check_refused(&effect, with(plain(other(), 3)), &thick(), FailureKind::Mismatch);
    // nobody takes it for a volume before that
    check_refused(
        &Effect::Verify { object: other(), size: gib(2) },
        vec![half()],
        &thick(),
        FailureKind::Mismatch,
    );
    let of_half = Effect::CreateSnapshot { snapshot: snapshot() };
    let home = tagged(plain(volume(), 2), name::INCOMPLETE);
    check_refused(&of_half, vec![home], &thick(), FailureKind::Mismatch);
}

#[test]
fn a_thick_clone_is_copied_from_a_snapshot_that_goes_before_the_clone_is_complete() {
    let effect = Effect::CloneVolume { volume: other(), size: gib(1), source: volume() };
    let remove =
        ["split copy-volume-2", "activate copy-volume-2", "clear copy-volume-2", "remove copy-volume-2"];
    let copy = ["copy copy-volume-2 to volume-2", "sync volume-2"];
    let complete = ["untag volume-2 tephra.incomplete"];
    let make = ["snapshot copy-volume-2 of volume-1", "thick volume-2 true"];
    check(
        &effect,
        vec![plain(volume(), 1)],
        &thick(),
        &[&make[..], &copy, &remove, &complete].concat(),
        Then::Done,
    );
    let passing = cow("copy-".to_owned() + &name::of(other()), volume(), 1);
    let half = tagged(plain(other(), 1), name::INCOMPLETE);
    let begun = vec![origin(volume(), 1), passing.clone(), half.clone()];
    check(&effect, begun, &thick(), &[&copy[..], &remove, &complete].concat(), Then::Done);
    // split off: the data is in its place
    let split = Lv { attributes: "-wi-a-----".to_owned(), origin: None, ..passing.clone() };
    let nearly = vec![plain(volume(), 1), split, half];
    check(&effect, nearly, &thick(), &[&remove[2..], &complete].concat(), Then::Done);
    let overflowed = Lv { is_invalid: true, ..passing };
    let again = vec![origin(volume(), 1), overflowed];
    check(&effect, again, &thick(), &remove, Then::LookAgain);
    let keep = Settings { clear: Clear::None, ..thick() };
    let kept = [&make[..], &copy, &["remove copy-volume-2"], &complete].concat();
    check(&effect, vec![plain(volume(), 1)], &keep, &kept, Then::Done);
}

#[test]
fn a_thin_clone_is_one_command_unless_it_is_larger() {
    let of = |size| Effect::CloneVolume { volume: other(), size: gib(size), source: volume() };
    let there = || vec![pool(1.0), in_pool(name::of(volume()), 1)];
    check(&of(1), there(), &thin(), &["twin volume-2 of volume-1 false"], Then::Done);
    let larger = ["twin volume-2 of volume-1 true", "extend volume-2 2", "untag volume-2 tephra.incomplete"];
    check(&of(2), there(), &thin(), &larger, Then::Done);
    let begun = tagged(in_pool(name::of(other()), 1), name::INCOMPLETE);
    check(&of(2), [there(), vec![begun]].concat(), &thin(), &larger[1..], Then::Done);
    check_refused(&of(1), vec![pool(1.0), in_pool(name::of(volume()), 2)], &thin(), FailureKind::Mismatch);
    // what is thick from before is copied
    let steps = planned(&of(1), vec![pool(1.0), plain(volume(), 1)], &thin()).unwrap().steps;
    assert!(steps.contains(&Step::Copy { from: name::copy(&name::of(other())), to: name::of(other()) }));
}

#[test]
fn a_thick_volume_is_marked_before_its_data_is_lost() {
    let effect = Effect::DeleteVolume { volume: volume() };
    check(&effect, vec![], &thick(), &[], Then::Done);
    let all = ["tag volume-1 tephra.deleting", "clear volume-1", "remove volume-1"];
    check(&effect, vec![plain(volume(), 1)], &thick(), &all, Then::Done);
    let begun = || tagged(plain(volume(), 1), name::DELETING);
    check(&effect, vec![begun()], &thick(), &all[1..], Then::Done);
    check(
        &effect,
        vec![in_pool(name::of(volume()), 1), pool(1.0)],
        &thin(),
        &["remove volume-1"],
        Then::Done,
    );
    let none = Settings { clear: Clear::None, ..thick() };
    check(&effect, vec![plain(volume(), 1)], &none, &["remove volume-1"], Then::Done);
    let leftover = lv(name::copy(&name::of(volume())), "swi-a-s---", 1);
    check(&effect, vec![leftover], &none, &["remove copy-volume-1"], Then::Done);

    check_refused(&effect, vec![origin(volume(), 1)], &thick(), FailureKind::Busy);
    check_refused(&effect, vec![Lv { is_open: true, ..plain(volume(), 1) }], &thick(), FailureKind::Busy);
    // `Busy` would say that it is as it was
    check_refused(&effect, vec![Lv { is_open: true, ..begun() }], &thick(), FailureKind::BackendError);
    let verify = Effect::Verify { object: volume(), size: gib(1) };
    check_refused(&verify, vec![begun()], &thick(), FailureKind::Mismatch);
}

#[test]
fn a_thick_snapshot_is_split_off_before_it_is_cleared() {
    let effect = Effect::DeleteSnapshot { snapshot: snapshot() };
    let all = ["split _snapshot-3", "activate _snapshot-3", "clear _snapshot-3", "remove _snapshot-3"];
    let present = || cow(name::of(snapshot()), volume(), 1);
    check(&effect, vec![origin(volume(), 1), present()], &thick(), &all, Then::Done);
    check(&effect, vec![origin(volume(), 1)], &thick(), &[], Then::Done);
    let split = || plain(snapshot(), 1);
    check(&effect, vec![plain(volume(), 1), split()], &thick(), &all[2..], Then::Done);
    check_refused(
        &Effect::Verify { object: snapshot(), size: gib(1) },
        vec![split()],
        &thick(),
        FailureKind::Mismatch,
    );
    let invalid = Lv { is_invalid: true, ..present() };
    check(&effect, vec![origin(volume(), 1), invalid], &thick(), &all, Then::Done);
    check_refused(&effect, vec![Lv { is_open: true, ..present() }], &thick(), FailureKind::Busy);
}

#[test]
fn an_origin_grows_while_its_device_is_away_and_others_at_once() {
    let effect = Effect::ExtendVolume { volume: volume(), to: gib(3) };
    let growing = name::growing(GIB, 3 * GIB);
    let (tag, untag) = (format!("tag volume-1 {growing}"), format!("untag volume-1 {growing}"));
    let zeroed = ["zero grown volume-1 1 3", "sync volume-1", &*untag];
    let by = |extend: &'static str| [&[&*tag, extend], &zeroed[..]].concat();
    let open = |lv: Lv| Lv { is_open: true, ..lv };
    for lv in [plain(volume(), 1), open(plain(volume(), 1))] {
        check(&effect, vec![lv], &thick(), &by("extend volume-1 3"), Then::Done);
    }
    check(&effect, vec![origin(volume(), 1)], &thick(), &by("extend inactive volume-1 3"), Then::Done);
    let thinly = vec![in_pool(name::of(volume()), 1), pool(1.0)];
    check(&effect, thinly, &thin(), &["extend volume-1 3"], Then::Done);
    check_refused(&effect, vec![open(origin(volume(), 1))], &thick(), FailureKind::Busy);
    // an attempt died while the device was away
    let away = Lv { is_active: false, ..origin(volume(), 3) };
    check(&effect, vec![away], &thick(), &["activate volume-1"], Then::Done);
    check_refused(&effect, vec![], &thick(), FailureKind::ObjectMissing);
}

#[test]
fn nobody_sees_what_a_volume_has_grown_by_before_it_is_zeroed() {
    let growing = name::growing(GIB, 3 * GIB);
    let untag = format!("untag volume-1 {growing}");
    let zeroed = ["zero grown volume-1 1 3", "sync volume-1", &*untag];
    let half = |gib| tagged(plain(volume(), gib), &growing);
    for effect in [
        Effect::ExtendVolume { volume: volume(), to: gib(3) },
        // the undo: it would take somebody else's data for the volume's
        Effect::ShrinkVolume { volume: volume(), to: gib(1) },
        Effect::CreateSnapshot { snapshot: snapshot() },
        export(),
    ] {
        check(&effect, vec![half(3)], &thick(), &zeroed, Then::LookAgain);
        let away = Lv { is_active: false, ..half(3) };
        let all = [&["activate volume-1"], &zeroed[..]].concat();
        check(&effect, vec![away], &thick(), &all, Then::LookAgain);
        if !matches!(effect, Effect::ExtendVolume { .. }) {
            check(&effect, vec![half(1)], &thick(), &[&untag], Then::LookAgain);
        }
    }
    let extend = |size| Effect::ExtendVolume { volume: volume(), to: gib(size) };
    let on = [&["extend volume-1 3"], &zeroed[..]].concat();
    check(&extend(3), vec![half(1)], &thick(), &on, Then::Done);
    check(&extend(4), vec![half(1)], &thick(), &[&untag], Then::LookAgain);
    let read = readable(volume(), &Observed { lvs: vec![half(3)], ..Observed::default() }).unwrap();
    assert_eq!(read.iter().map(short).collect::<Vec<_>>(), zeroed);
    let all = ["tag volume-1 tephra.deleting", "clear volume-1", "remove volume-1"];
    check(&Effect::delete(volume()), vec![half(3)], &thick(), &all, Then::Done);
}

#[test]
fn only_zeroes_are_cut_off() {
    let effect = Effect::ShrinkVolume { volume: volume(), to: gib(1) };
    check(
        &effect,
        vec![plain(volume(), 3)],
        &thick(),
        &["zeroes? volume-1 1 3", "reduce volume-1 1"],
        Then::Done,
    );
    check(&effect, vec![plain(volume(), 1)], &thick(), &[], Then::Done);
    check_refused(&effect, vec![origin(volume(), 3)], &thick(), FailureKind::Unsupported);
    let larger = Effect::ShrinkVolume { volume: volume(), to: gib(4) };
    check_refused(&larger, vec![plain(volume(), 3)], &thick(), FailureKind::Mismatch);
}

#[test]
fn a_merge_has_its_snapshots_name_on_the_volume_until_it_is_taken_again() {
    let effect = Effect::RevertToSnapshot { volume: volume(), snapshot: snapshot() };
    let mark = format!("tag volume-1 {}", name::reverting("_snapshot-3"));
    let forget = format!("untag volume-1 {}", name::reverting("_snapshot-3"));
    let marked = |lv: Lv| tagged(lv, &name::reverting(&name::of(snapshot())));
    let present = || cow(name::of(snapshot()), volume(), 1);
    let merge = "merge _snapshot-3";
    check(&effect, vec![origin(volume(), 1), present()], &thick(), &[&mark, merge], Then::LookAgain);
    check(&effect, vec![marked(origin(volume(), 1)), present()], &thick(), &[merge], Then::LookAgain);

    let again = ["snapshot _snapshot-3 of volume-1 again", &forget];
    check(&effect, vec![marked(plain(volume(), 1))], &thick(), &again, Then::Done);
    check_refused(&effect, vec![plain(volume(), 1)], &thick(), FailureKind::ObjectMissing);

    // lvm2 itself died between the merge and the removal of the space that the snapshot had
    let left = vec![marked(plain(volume(), 1)), plain(snapshot(), 1)];
    check(&effect, left, &thick(), &["clear _snapshot-3", "remove _snapshot-3"], Then::LookAgain);

    // or with its devices suspended
    let suspended = Lv { is_suspended: true, ..plain(snapshot(), 1) };
    let left = vec![marked(plain(volume(), 1)), suspended];
    check(&effect, left, &thick(), &["resume _snapshot-3"], Then::LookAgain);

    // whoever comes next finishes it first: an undo, a snapshot, an export
    let undo = Effect::RevertToSnapshot { volume: volume(), snapshot: safety() };
    for other in [
        undo,
        Effect::CreateSnapshot { snapshot: safety() },
        Effect::ExtendVolume { volume: volume(), to: gib(2) },
        Effect::Disown { object: volume(), to: "elsewhere".into() },
    ] {
        check(&other, vec![marked(plain(volume(), 1))], &thick(), &again, Then::LookAgain);
        check(&other, vec![marked(origin(volume(), 1)), present()], &thick(), &[&*forget], Then::LookAgain);
    }
    let effect = Effect::CreateSnapshot { snapshot: safety() };
    let observed = Observed { lvs: vec![marked(plain(volume(), 1))], ..Observed::default() };
    assert_eq!(also_involved(&effect, &observed), Some(name::of(snapshot())));
}

#[test]
fn a_snapshot_that_there_is_no_room_for_any_more_keeps_nothing_from_being_deleted() {
    let reverted = |lv: Lv| tagged(lv, &name::reverting(&name::of(snapshot())));
    // the volume, with its tag
    let all = ["tag volume-1 tephra.deleting", "clear volume-1", "remove volume-1"];
    check(&Effect::delete(volume()), vec![reverted(plain(volume(), 1))], &thick(), &all, Then::Done);
    // the snapshot itself, which need not be there for that
    let gone = Effect::DeleteSnapshot { snapshot: snapshot() };
    let forget = format!("untag volume-1 {}", name::reverting("_snapshot-3"));
    check(&gone, vec![reverted(plain(volume(), 1))], &thick(), &[&forget], Then::LookAgain);
    check(&gone, vec![plain(volume(), 1)], &thick(), &[], Then::Done);
    // another one, whose space it may have; the tag stays, and the snapshot is taken by whoever is next
    let other = Effect::DeleteSnapshot { snapshot: safety() };
    let lvs = || vec![reverted(origin(volume(), 1)), cow(name::of(safety()), volume(), 1)];
    let all = ["split safety-4", "activate safety-4", "clear safety-4", "remove safety-4"];
    check(&other, lvs(), &thick(), &all, Then::Done);
    // nobody gets at the volume before: what is written then would be in the snapshot
    let undo = Effect::RevertToSnapshot { volume: volume(), snapshot: safety() };
    let again = ["snapshot _snapshot-3 of volume-1 again", &forget];
    for effect in [undo, export()] {
        check(&effect, lvs(), &thick(), &again, Then::LookAgain);
    }
}

#[test]
fn a_merge_that_lost_its_command_is_waited_for() {
    let effect = Effect::RevertToSnapshot { volume: volume(), snapshot: snapshot() };
    let merging = |percent| Lv {
        is_merging: true,
        data_percent: percent,
        attributes: "Owi-a-s---".to_owned(),
        ..origin(volume(), 1)
    };
    check(&effect, vec![merging(Some(40.0))], &thick(), &["poll volume-1"], Then::Wait);
    // somebody had it open: it begins when the device comes back
    check(&effect, vec![merging(None)], &thick(), &["deactivate volume-1", "activate volume-1"], Then::Wait);
    check_refused(&effect, vec![Lv { is_open: true, ..merging(None) }], &thick(), FailureKind::Busy);
    let failed = Lv { merge_failed: true, ..merging(Some(3.0)) };
    check_refused(&effect, vec![failed], &thick(), FailureKind::BackendError);
}

#[test]
fn a_revert_needs_a_whole_snapshot_of_this_very_volume() {
    let effect = Effect::RevertToSnapshot { volume: volume(), snapshot: snapshot() };
    let invalid = Lv { is_invalid: true, ..cow(name::of(snapshot()), volume(), 1) };
    check_refused(&effect, vec![origin(volume(), 1), invalid], &thick(), FailureKind::Mismatch);
    let of_other = cow(name::of(snapshot()), other(), 1);
    check_refused(&effect, vec![origin(volume(), 1), of_other], &thick(), FailureKind::Mismatch);
    let smaller = cow(name::of(snapshot()), volume(), 1);
    check_refused(&effect, vec![origin(volume(), 2), smaller], &thick(), FailureKind::Mismatch);
    let open = Lv { is_open: true, ..origin(volume(), 1) };
    let present = cow(name::of(snapshot()), volume(), 1);
    check_refused(&effect, vec![open, present], &thick(), FailureKind::Busy);
}

#[test]
fn a_thin_volume_is_replaced_and_every_half_of_that_is_finished() {
    let effect = Effect::RevertToSnapshot { volume: volume(), snapshot: snapshot() };
    let (here, kept) = (|| in_pool(name::of(volume()), 1), || in_pool(name::of(snapshot()), 1));
    let new = || in_pool(name::new(&name::of(volume())), 1);
    let old = || in_pool(name::old(&name::of(volume())), 1);
    let swap = ["rename volume-1 to old-volume-1", "rename new-volume-1 to volume-1", "remove old-volume-1"];
    let all = [&["twin new-volume-1 of _snapshot-3 false"], &swap[..]].concat();
    check(&effect, vec![pool(1.0), here(), kept()], &thin(), &all, Then::Done);
    for (lvs, step) in [
        (vec![here(), new()], "remove new-volume-1"),
        (vec![new(), old()], "rename new-volume-1 to volume-1"),
        (vec![here(), old()], "remove old-volume-1"),
        (vec![old()], "rename old-volume-1 to volume-1"),
        (vec![new()], "rename new-volume-1 to volume-1"),
    ] {
        for effect in [effect.clone(), Effect::delete(volume()), Effect::delete(snapshot())] {
            let lvs = [lvs.clone(), vec![kept(), pool(1.0)]].concat();
            check(&effect, lvs, &thin(), &[step], Then::LookAgain);
        }
    }
}

#[test]
fn an_overwritten_thick_volume_is_incomplete_meanwhile() {
    let effect = Effect::OverwriteVolume { volume: volume(), source: other() };
    let tag = "tag volume-1 tephra.incomplete";
    let rest = [
        "copy volume-2 to volume-1",
        "zero volume-1 1 2",
        "sync volume-1",
        "untag volume-1 tephra.incomplete",
    ];
    let from = || plain(other(), 1);
    check(&effect, vec![plain(volume(), 2), from()], &thick(), &[&[tag], &rest[..]].concat(), Then::Done);
    let half = tagged(plain(volume(), 2), name::INCOMPLETE);
    check(&effect, vec![half, from()], &thick(), &rest, Then::Done);
    check_refused(&effect, vec![plain(volume(), 2)], &thick(), FailureKind::ObjectMissing);
    check_refused(&effect, vec![from()], &thick(), FailureKind::ObjectMissing);
    check_refused(&effect, vec![plain(volume(), 1), plain(other(), 2)], &thick(), FailureKind::Mismatch);
}

#[test]
fn a_suspended_device_is_not_touched() {
    let suspended = |object| Lv { is_suspended: true, ..plain(object, 1) };
    for effect in [
        Effect::delete(volume()),
        Effect::ExtendVolume { volume: volume(), to: gib(2) },
        Effect::CreateSnapshot { snapshot: snapshot() },
        Effect::OverwriteVolume { volume: volume(), source: other() },
    ] {
        check_refused(&effect, vec![suspended(volume()), plain(other(), 1)], &thick(), FailureKind::Busy);
    }
    // looking is no touching
    let verify = Effect::Verify { object: volume(), size: gib(1) };
    check(&verify, vec![suspended(volume())], &thick(), &[], Then::Done);
}

#[test]
fn what_is_taken_over_keeps_its_data_and_what_is_given_up_takes_nobodys_name() {
    let adopt = Effect::Adopt { object: volume(), from: "legacy".into(), size: Some(gib(2)) };
    let rename = "rename legacy to volume-1";
    check(&adopt, vec![lv("legacy", "-wi-a-----", 2)], &thick(), &[rename], Then::Done);
    let odd = Lv { bytes: GIB + (4 << 20), ..lv("legacy", "-wi-a-----", 1) };
    let growing = name::growing(odd.bytes, 2 * GIB);
    let (tag, untag) = (format!("tag volume-1 {growing}"), format!("untag volume-1 {growing}"));
    let all = [rename, &tag, "extend volume-1 2", "zero grown volume-1 1 2", "sync volume-1", &untag];
    check(&adopt, vec![odd], &thick(), &all, Then::Done);
    check(&adopt, vec![plain(volume(), 2)], &thick(), &[], Then::Done);
    check_refused(&adopt, vec![], &thick(), FailureKind::ObjectMissing);
    check_refused(&adopt, vec![lv("legacy", "-wi-a-----", 1)], &thick(), FailureKind::Mismatch);
    check_refused(&adopt, vec![cow("legacy", other(), 2)], &thick(), FailureKind::Mismatch);
    let open = Lv { is_open: true, ..lv("legacy", "-wi-ao----", 2) };
    check_refused(&adopt, vec![open], &thick(), FailureKind::Busy);

    let origin = || lv("legacy", "owi-a-s---", 2);
    check(&adopt, vec![origin()], &thick(), &[rename], Then::Done);
    let operation = OperationId::from_uuid(Uuid::from_u128(1));
    let to_be_removed = BackendObject::TemporaryVolume { volume: volume().volume(), operation };
    let clean = Effect::Adopt { object: to_be_removed, from: "legacy".into(), size: None };
    check_refused(&clean, vec![origin()], &thick(), FailureKind::Mismatch);

    let disown = Effect::Disown { object: volume(), to: "legacy".into() };
    check(&disown, vec![plain(volume(), 1)], &thick(), &["rename volume-1 to legacy"], Then::Done);
    check(&disown, vec![], &thick(), &[], Then::Done);
    let taken = vec![plain(volume(), 1), lv("legacy", "-wi-a-----", 1)];
    check_refused(&disown, taken, &thick(), FailureKind::Mismatch);
    let bad = Effect::Disown { object: volume(), to: "a/b".into() };
    check_refused(&bad, vec![plain(volume(), 1)], &thick(), FailureKind::Unsupported);
}

#[test]
fn beyond_an_image_a_thick_volume_is_zeroed_and_a_thin_one_is_zeroes() {
    let steps = |lv: Lv, bytes| {
        let observed = Observed { lvs: vec![lv], ..Observed::default() };
        zeroed_beyond(volume(), bytes, &observed).map_err(|failure| failure.kind)
    };
    let lv = name::of(volume());
    let zeroed = |from| vec![Step::Zero { lv: lv.clone(), from, to: 2 * GIB }, Step::Sync { lv: lv.clone() }];
    assert_eq!(steps(plain(volume(), 2), GIB), Ok(zeroed(GIB)));
    assert_eq!(steps(plain(volume(), 2), 1000), Ok(zeroed(1024)));
    assert_eq!(steps(plain(volume(), 2), 2 * GIB), Ok(vec![]));
    assert_eq!(steps(in_pool(name::of(volume()), 2), GIB), Ok(vec![]));
    let half = tagged(plain(volume(), 2), name::INCOMPLETE);
    assert_eq!(steps(half, GIB), Err(FailureKind::Mismatch));
}

#[test]
fn what_is_read_has_its_device_and_is_whole() {
    let steps = |lv: Lv| {
        readable(snapshot(), &Observed { lvs: vec![lv], ..Observed::default() })
            .map_err(|failure| failure.kind)
    };
    let inactive = Lv { is_active: false, ..in_pool(name::of(snapshot()), 1) };
    assert_eq!(steps(inactive), Ok(vec![Step::Activate { lv: name::of(snapshot()) }]));
    assert_eq!(steps(in_pool(name::of(snapshot()), 1)), Ok(vec![]));
    let overflowed = Lv { is_invalid: true, ..cow(name::of(snapshot()), volume(), 1) };
    assert_eq!(steps(overflowed), Err(FailureKind::Mismatch));
    let suspended = Lv { is_suspended: true, ..cow(name::of(snapshot()), volume(), 1) };
    assert_eq!(steps(suspended), Err(FailureKind::Busy));
}

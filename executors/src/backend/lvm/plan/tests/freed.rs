//! What becomes of the space that merges free.

use super::*;

/// A disk `a` with extents of 4 MiB: a volume of 1 GiB, then what a snapshot of it takes, then others.
fn disk(snapshots_place: Option<String>, behind: u64) -> Vec<Segment> {
    let part = |first, count, lv: Option<String>| {
        let extents = Extents { uuid: "a".to_owned(), first, count };
        Segment { pv: "/dev/a".to_owned(), extents, extent_bytes: 4 << 20, lv }
    };
    let end = 256 + 257 - behind;
    vec![
        part(0, 256, Some(name::of(volume()))),
        part(256, 257 - behind, snapshots_place),
        part(end, 99, Some("others".to_owned())),
    ]
}

fn check_on(disk: Vec<Segment>, effect: &Effect, lvs: Vec<Lv>, expected: &[&str], then: Then) {
    let observed = Observed { lvs, segments: disk };
    assert!(needs_segments(effect, &observed, &thick()), "{effect:?}");
    let keeps = Settings { clear: Clear::None, ..thick() };
    assert!(!needs_segments(effect, &observed, &keeps), "what is not cleared need not be found");
    let plan = plan(effect, &observed, &thick()).unwrap();
    takes_no_longer_than_its_effect_may(effect, &plan);
    let steps: Vec<String> = plan.steps.iter().map(short).collect();
    assert_eq!(steps, expected, "{effect:?} with {observed:?}");
    assert_eq!(plan.then, then, "{effect:?} with {observed:?}");
}

#[test]
fn a_merged_snapshots_space_is_the_next_ones_or_is_cleared() {
    let revert = Effect::RevertToSnapshot { volume: volume(), snapshot: snapshot() };
    let (reverting, freed) = (name::reverting(&name::of(snapshot())), "tephra.freed=a:256+257");
    let tagged_with = |lv: Lv, tags: &[&str]| tags.iter().fold(lv, |lv, tag| tagged(lv, tag));
    let taken = disk(Some(name::of(snapshot())), 0);
    let present = || cow(name::of(snapshot()), volume(), 1);
    let named = name::reverting("_snapshot-3");
    let mark = format!("tag volume-1 {freed} {named}");
    let merge = [&*mark, "merge _snapshot-3"];
    check_on(taken.clone(), &revert, vec![origin(volume(), 1), present()], &merge, Then::LookAgain);
    let marked = || tagged_with(origin(volume(), 1), &[freed, &reverting]);
    check_on(taken.clone(), &revert, vec![marked(), present()], &merge[1..], Then::LookAgain);

    // it is taken again on the same extents
    let after = || tagged_with(plain(volume(), 1), &[freed, &reverting]);
    let forget = format!("untag volume-1 {freed} {named}");
    let again = ["snapshot _snapshot-3 of volume-1 again /dev/a:256-512", &forget];
    check_on(disk(None, 0), &revert, vec![after()], &again, Then::Done);
    let other = Effect::CreateSnapshot { snapshot: safety() };
    check_on(disk(None, 0), &other, vec![after()], &again, Then::LookAgain);

    // others have some of them: the rest is cleared first
    let unfreed = format!("untag volume-1 {freed}");
    let cleared = |on| [on, &*unfreed, "clear clear-volume-1", "remove clear-volume-1"];
    let rest = cleared("hold clear-volume-1 /dev/a:256-502");
    check_on(disk(None, 10), &revert, vec![after()], &rest, Then::LookAgain);
    check_on(disk(Some("others".to_owned()), 0), &revert, vec![after()], &[&*unfreed], Then::LookAgain);
    let still = tagged(plain(volume(), 1), &reverting);
    let anywhere = ["snapshot _snapshot-3 of volume-1 again".to_owned(), format!("untag volume-1 {named}")];
    check(&revert, vec![still], &thick(), &anywhere.each_ref().map(String::as_str), Then::Done);

    // nobody wants the snapshot any more
    let all = cleared("hold clear-volume-1 /dev/a:256-512");
    let gone = Effect::DeleteSnapshot { snapshot: snapshot() };
    let forget = format!("untag volume-1 {named}");
    check_on(disk(None, 0), &gone, vec![after()], &[&*forget], Then::LookAgain);
    let unwanted = || tagged(plain(volume(), 1), freed);
    check_on(disk(None, 0), &gone, vec![unwanted()], &all, Then::LookAgain);
    // nor the volume
    for lv in [after(), unwanted()] {
        check_on(disk(None, 0), &Effect::delete(volume()), vec![lv], &all, Then::LookAgain);
    }
    // what was held when an attempt died, with the tag and without
    let held = || lv(name::clear(&name::of(volume())), "-wi-a-----", 1);
    check_on(disk(None, 0), &gone, vec![unwanted(), held()], &all[1..], Then::LookAgain);
    check(&gone, vec![plain(volume(), 1), held()], &thick(), &all[2..], Then::LookAgain);
    // taken again by an attempt that died then
    check_on(taken.clone(), &other, vec![marked(), present()], &[&*forget], Then::LookAgain);
    let unmarked = tagged(origin(volume(), 1), freed);
    check_on(taken, &other, vec![unmarked, present()], &[&*unfreed], Then::LookAgain);
}

//! Which pool a volume goes to, in tables.

use std::collections::BTreeMap;

use tephra_domain::ids::{PoolId, PoolName, ZoneName};
use tephra_domain::scheduler::{DataSource, PlacementDecision, PoolStats, VolumeRequest, place};
use tephra_replay_tests::world::{World, gib, pool};

struct Ask<'a> {
    size_gib: u32,
    zone: Option<&'a str>,
    specs: &'a [(&'a str, &'a str)],
}

const PLAIN: Ask<'_> = Ask { size_gib: 1, zone: None, specs: &[] };

fn decide(world: &World, ask: &Ask<'_>) -> PlacementDecision {
    let zone = ask.zone.map(ZoneName::new);
    let extra_specs: BTreeMap<String, String> =
        ask.specs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    let request = VolumeRequest {
        size: gib(ask.size_gib),
        availability_zone: zone.as_ref(),
        extra_specs: &extra_specs,
        source: None,
    };
    place(&world.ledger, &request, &world.pools)
}

fn chosen(world: &World, ask: &Ask<'_>) -> Option<String> {
    decide(world, ask).chosen.map(|pool| pool.backend.to_string())
}

fn two_pools(change: impl Fn(&mut PoolStats, &mut PoolStats)) -> World {
    let mut world = World::with_backends(&["one", "two"], true);
    let [one, two] = world.pools.as_mut_slice() else { panic!("two pools") };
    change(one, two);
    world
}

#[test]
fn the_pool_with_the_most_room_wins() {
    assert_eq!(chosen(&two_pools(|_, _| {}), &PLAIN).as_deref(), Some("one"));
    assert_eq!(chosen(&two_pools(|one, _| one.free_gib = 5.0), &PLAIN).as_deref(), Some("two"));
    assert_eq!(chosen(&two_pools(|one, _| one.reserved_percentage = 50), &PLAIN).as_deref(), Some("two"));
}

#[test]
fn thick_pools_need_the_space_and_thin_ones_may_promise_more() {
    let big = Ask { size_gib: 150, ..PLAIN };
    assert_eq!(chosen(&two_pools(|_, _| {}), &big), None);
    assert_eq!(chosen(&two_pools(|_, two| two.thin = true), &big).as_deref(), Some("two"));
    let beyond = Ask { size_gib: 2001, ..PLAIN };
    assert_eq!(chosen(&two_pools(|_, two| two.thin = true), &beyond), None, "the ratio is 20");
    let full = |_: &mut PoolStats, two: &mut PoolStats| {
        two.thin = true;
        two.free_gib = 1.0;
    };
    let twenty_one = Ask { size_gib: 21, ..PLAIN };
    let world = two_pools(|one, two| {
        full(one, two);
        one.is_up = false;
    });
    assert_eq!(chosen(&world, &twenty_one), None, "1 GiB free carries 20 times that, not more");
}

#[test]
fn what_is_placed_between_two_reports_is_counted() {
    let mut world = World::with_backends(&["one"], true);
    world.pools[0].free_gib = 3.0;
    for _ in 0..3 {
        let (_, create) = world.new_volume(1);
        world.when(create).unwrap();
    }
    let decision = decide(&world, &PLAIN);
    assert_eq!(decision.chosen, None, "three of three GiB are promised");
}

#[test]
fn what_others_have_on_a_pool_is_no_room_there() {
    let thick = two_pools(|one, two| {
        (one.free_gib, one.provisioned_gib, one.thin) = (40.0, 60.0, false);
        two.is_up = false;
    });
    assert_eq!(chosen(&thick, &Ask { size_gib: 41, ..PLAIN }), None, "60 of 100 GiB are somebody else's");
    assert_eq!(chosen(&thick, &Ask { size_gib: 40, ..PLAIN }).as_deref(), Some("one"));
    let thin = two_pools(|one, two| {
        (one.total_gib, one.provisioned_gib, one.thin) = (10.0, 199.0, true);
        two.is_up = false;
    });
    assert_eq!(chosen(&thin, &Ask { size_gib: 2, ..PLAIN }), None, "10 GiB are promised 20 times at most");
    assert_eq!(chosen(&thin, &Ask { size_gib: 1, ..PLAIN }).as_deref(), Some("one"));
}

#[test]
fn extra_specs_and_zones_must_be_met() {
    let with_ssd = |_: &mut PoolStats, two: &mut PoolStats| {
        two.capabilities.insert("disk".to_owned(), "ssd".to_owned());
    };
    let ssd = Ask { specs: &[("disk", "ssd")], ..PLAIN };
    assert_eq!(chosen(&two_pools(with_ssd), &ssd).as_deref(), Some("two"));
    let scoped = Ask { specs: &[("capabilities:disk", "<in> ss"), ("lvm:stripes", "4")], ..PLAIN };
    assert_eq!(chosen(&two_pools(with_ssd), &scoped).as_deref(), Some("two"));
    let tape = Ask { specs: &[("disk", "tape")], ..PLAIN };
    let decision = decide(&two_pools(with_ssd), &tape);
    let reasons: Vec<String> = decision
        .candidates
        .iter()
        .filter_map(|c| c.refused.as_ref().map(|(_, why)| why.to_string()))
        .collect();
    assert_eq!(reasons, ["disk is unknown, wanted tape", "disk is ssd, wanted tape"]);
    assert_eq!(chosen(&two_pools(|_, _| {}), &Ask { zone: Some("mars"), ..PLAIN }), None);
}

#[test]
fn alternatives_are_other_backends_best_first() {
    let world = World::with_backends(&["one", "two", "three"], true);
    let decision = decide(&world, &PLAIN);
    assert_eq!(decision.chosen, Some(pool("one")));
    assert_eq!(decision.alternatives, [pool("two"), pool("three")]);
}

#[test]
fn what_has_a_source_goes_as_near_to_it_as_it_can() {
    let mut world = World::with_neighbours(&["one", "two", "three"], true);
    let second = PoolId { pool: PoolName::new("second"), ..pool("one") };
    let smaller = PoolStats { pool: second.clone(), free_gib: 50.0, ..world.pools[0].clone() };
    world.pools.push(smaller);
    let from = pool("one");
    let decide = |world: &World| {
        let source = Some(DataSource { pool: &from, must_be_snapshotted: true });
        let specs = BTreeMap::new();
        let request = VolumeRequest { size: gib(1), availability_zone: None, extra_specs: &specs, source };
        place(&world.ledger, &request, &world.pools)
    };
    let placed = |world: &World| (decide(world).chosen, decide(world).alternatives);
    assert_eq!(placed(&world), (Some(pool("one")), Vec::new()));
    world.fill("one");
    assert_eq!(placed(&world), (Some(second.clone()), Vec::new()));
    let reason = "the source is on one#one, and one#second is nearer to it";
    let refused = decide(&world).candidates.into_iter().find(|candidate| candidate.pool == pool("two"));
    assert_eq!(refused.unwrap().refused.unwrap().1.as_ref(), reason);
    world.pools[3].free_gib = 0.0;
    assert_eq!(placed(&world), (Some(pool("two")), vec![pool("three")]));
}

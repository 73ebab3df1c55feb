//! What every backend must show: a suite that any backend runs through, in tests only.
//!
//! A backend's test gives a [`Bench`] and calls [`check_all`]. Every effect of every case is
//! performed as the world is at its worst: after an attempt that was killed half-way, and twice.
//! Data is compared by [`Fingerprint`], so that volumes of many GiB cost what they hold.
//! That data goes from any backend into any other shows [`across`].
//! A backend that drives other programs is killed between every two of them, and one that works on
//! files between every two calls: [`interrupt`].

pub mod across;
mod fingerprint;
pub mod interrupt;

use std::any::Any;
use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::time::Instant;

use async_trait::async_trait;
use futures::future::join_all;
use tephra_domain::backend::EXPORT_PREFIX;
use tephra_domain::drift::{FoundKind, FoundObject};
use tephra_domain::effect::{BackendObject, Effect, Failure, FailureKind};
use tephra_domain::ids::{OperationId, PoolName, SnapshotId, VolumeId};
use tephra_domain::units::{SizeGib, Timestamp};
use uuid::Uuid;

use super::Backend;

pub use self::fingerprint::{CHUNK_BYTES, Fingerprint};

/// The unit in which the suite writes and fingerprints.
pub const BLOCK_BYTES: u64 = 4096;

/// A backend to be checked, with a way to its data behind its back.
#[async_trait]
pub trait Bench: Send + Sync {
    /// The backend.
    fn backend(&self) -> &dyn Backend;

    /// Writes into an object, as its user would. `block` counts [`BLOCK_BYTES`].
    async fn write(&self, object: BackendObject, block: u64, content: &[u8]);

    /// What an object holds; nothing if it does not exist.
    async fn fingerprint(&self, object: BackendObject) -> Option<Fingerprint>;

    /// What tells whether a repetition has changed an object. Where reading takes long, not all of
    /// it need be read; what the suite claims of data it holds against [`Bench::fingerprint`].
    async fn glance(&self, object: BackendObject) -> Option<Fingerprint> {
        self.fingerprint(object).await
    }

    /// Leaves behind what an attempt at the effect leaves that was killed half-way.
    async fn leave_interrupted(&self, effect: &Effect);

    /// Uses an object until the result is dropped; nothing if this backend cannot tell.
    async fn occupy(&self, object: BackendObject) -> Option<Box<dyn Any + Send>>;

    /// How many volumes the suite makes at once: fewer where each takes its whole size.
    fn volumes_at_once(&self) -> usize {
        64
    }
}

/// One case of the suite.
pub struct Case {
    /// What it shows, as a sentence.
    pub name: &'static str,
    run: for<'a> fn(&'a Suite<'a>) -> Pin<Box<dyn Future<Output = ()> + Send + 'a>>,
}

macro_rules! cases {
    ($($name:ident),* $(,)?) => {
        /// All cases.
        pub const CASES: &[Case] = &[$(Case { name: stringify!($name), run: |suite| Box::pin($name(suite)) }),*];
    };
}

cases! {
    its_description_and_its_figures_name_the_same_pools,
    a_blank_volume_has_its_size_and_holds_zeroes,
    many_volumes_are_made_at_once,
    a_snapshot_keeps_what_the_volume_held,
    a_revert_brings_the_snapshot_back_and_keeps_it,
    a_revert_through_a_temporary_volume_brings_the_snapshot_back,
    a_volume_from_a_snapshot_is_as_large_as_asked_with_zeroes_beyond,
    a_clone_and_its_source_go_separate_ways,
    an_extended_volume_keeps_its_data_with_zeroes_beyond,
    a_volume_with_snapshots_grows_and_they_stay_as_they_are,
    a_shrunk_volume_keeps_its_data,
    shrinking_never_cuts_data_off,
    deleting_takes_the_object_and_no_other,
    a_volume_of_another_size_is_never_replaced,
    nothing_is_made_from_what_is_missing,
    nothing_is_made_from_what_is_too_large,
    verifying_tells_the_truth,
    what_is_in_use_is_left_alone,
    a_pool_that_it_does_not_have_is_refused,
    what_is_there_is_listed,
    what_is_given_up_can_be_taken_over_again_with_its_data,
    nothing_is_taken_over_that_is_not_there_or_has_another_size,
}

/// Runs every case.
///
/// # Panics
/// At the first thing that a backend must show and this one does not.
pub async fn check_all(bench: &dyn Bench) {
    for case in CASES {
        let began = Instant::now();
        (case.run)(&Suite { bench, case: case.name }).await;
        println!("{:>6.1} s  {}", began.elapsed().as_secs_f64(), case.name);
    }
}

/// A bench with the words that cases are written in.
pub struct Suite<'a> {
    bench: &'a dyn Bench,
    case: &'static str,
}

const ONE: SizeGib = size(1);
const TWO: SizeGib = size(2);
const THREE: SizeGib = size(3);

const fn size(gib: u32) -> SizeGib {
    match SizeGib::new(gib) {
        Some(size) => size,
        None => panic!("a size is at least 1"),
    }
}

fn volume() -> BackendObject {
    BackendObject::Volume(VolumeId::from_uuid(Uuid::new_v4()))
}

fn snapshot_of(volume: BackendObject) -> BackendObject {
    let snapshot = SnapshotId::from_uuid(Uuid::new_v4());
    BackendObject::Snapshot { volume: volume.volume(), snapshot }
}

fn operation() -> OperationId {
    OperationId::from_uuid(Uuid::new_v4())
}

impl Suite<'_> {
    fn pool(&self) -> PoolName {
        let description = self.bench.backend().description();
        assert!(!description.pools.is_empty(), "{}: no pools", self.case);
        description.pools.into_iter().next().unwrap_or_else(|| PoolName::new(""))
    }

    /// Performs an effect after an interrupted attempt, and again: it must succeed, and the second
    /// time must change nothing.
    async fn done(&self, effect: Effect) {
        self.bench.leave_interrupted(&effect).await;
        self.performed(&effect, "first").await;
        let once = self.bench.glance(effect.target()).await;
        self.performed(&effect, "second").await;
        let twice = self.bench.glance(effect.target()).await;
        assert_eq!(once, twice, "{}: {effect:?} twice is not as once", self.case);
    }

    async fn performed(&self, effect: &Effect, time: &str) {
        let result = self.bench.backend().perform(&self.pool(), effect).await;
        assert_eq!(result, Ok(()), "{}: the {time} {effect:?}", self.case);
    }

    /// Performs an effect that must fail like this, and must leave its target as it is.
    async fn refused(&self, effect: Effect, kind: FailureKind) {
        let before = self.bench.glance(effect.target()).await;
        let result = self.bench.backend().perform(&self.pool(), &effect).await;
        let found = result.as_ref().err().map(|failure: &Failure| failure.kind);
        assert_eq!(found, Some(kind), "{}: {effect:?} gave {result:?}", self.case);
        let after = self.bench.glance(effect.target()).await;
        assert_eq!(before, after, "{}: the refused {effect:?} changed its target", self.case);
    }

    async fn blank(&self, size: SizeGib) -> BackendObject {
        let volume = volume();
        self.done(Effect::CreateVolume { volume, size }).await;
        volume
    }

    /// A volume with data at its beginning, in its middle and in its last block.
    async fn written(&self, size: SizeGib) -> BackendObject {
        let volume = self.blank(size).await;
        self.scribble(volume, size, "first").await;
        volume
    }

    async fn scribble(&self, object: BackendObject, size: SizeGib, text: &str) {
        let blocks = size.bytes() / BLOCK_BYTES;
        for block in [0, 7, blocks / 2, blocks / 2 + 1, blocks - 1] {
            let line = format!("{text} in block {block} of {object}\n");
            let repeats = usize::try_from(BLOCK_BYTES).unwrap_or(0) / line.len();
            self.bench.write(object, block, line.repeat(repeats).as_bytes()).await;
        }
        // a block that holds zeroes, but is no hole
        self.bench.write(object, 3, &[0; 4096]).await;
    }

    async fn fingerprint(&self, object: BackendObject) -> Fingerprint {
        let found = self.bench.fingerprint(object).await;
        assert!(found.is_some(), "{}: {object} does not exist", self.case);
        found.unwrap_or(Fingerprint { bytes: 0, sha256: String::new() })
    }

    async fn assert_same(&self, object: BackendObject, expected: &Fingerprint) {
        assert_eq!(&self.fingerprint(object).await, expected, "{}: {object}", self.case);
    }

    async fn assert_absent(&self, object: BackendObject) {
        assert_eq!(self.bench.glance(object).await, None, "{}: {object} exists", self.case);
    }
}

async fn its_description_and_its_figures_name_the_same_pools(suite: &Suite<'_>) {
    let backend = suite.bench.backend();
    let now = Timestamp(1_000_000);
    let stats = backend.stats(now).await.unwrap_or_default();
    let described = backend.description();
    let pools: Vec<PoolName> = stats.iter().map(|stats| stats.pool.pool.clone()).collect();
    assert_eq!(pools, described.pools);
    // how volumes are reached does not tell where they should be
    let mut offered = described.capabilities.clone();
    offered.retain(|name, _| !name.starts_with(EXPORT_PREFIX));
    for pool in &stats {
        assert_eq!(&pool.pool.backend, backend.name());
        assert!(pool.is_up && pool.reported_at == now, "{pool:?}");
        assert!(pool.total_gib > 0.0 && pool.free_gib <= pool.total_gib, "{pool:?}");
        assert_eq!(pool.capabilities, offered);
    }
    let named = described.capabilities.get("volume_backend_name").map(String::as_str);
    assert_eq!(named, Some(backend.name().as_str()));
}

async fn a_blank_volume_has_its_size_and_holds_zeroes(suite: &Suite<'_>) {
    for size in [ONE, TWO] {
        let volume = suite.blank(size).await;
        suite.assert_same(volume, &Fingerprint::of_blocks(size.bytes(), [])).await;
    }
}

async fn many_volumes_are_made_at_once(suite: &Suite<'_>) {
    let volumes: Vec<BackendObject> = (0..suite.bench.volumes_at_once()).map(|_| volume()).collect();
    join_all(volumes.iter().map(|volume| suite.done(Effect::CreateVolume { volume: *volume, size: ONE })))
        .await;
    for volume in volumes {
        suite.assert_same(volume, &Fingerprint::of_blocks(ONE.bytes(), [])).await;
        suite.done(Effect::DeleteVolume { volume }).await;
    }
}

async fn a_snapshot_keeps_what_the_volume_held(suite: &Suite<'_>) {
    let volume = suite.written(ONE).await;
    let before = suite.fingerprint(volume).await;
    let snapshot = snapshot_of(volume);
    suite.done(Effect::CreateSnapshot { snapshot }).await;
    suite.assert_same(snapshot, &before).await;

    suite.scribble(volume, ONE, "second").await;
    suite.assert_same(snapshot, &before).await;
    assert_ne!(suite.fingerprint(volume).await, before);
    // the effect holds: a late repetition must not take the new data
    suite.performed(&Effect::CreateSnapshot { snapshot }, "late").await;
    suite.assert_same(snapshot, &before).await;
}

async fn a_revert_brings_the_snapshot_back_and_keeps_it(suite: &Suite<'_>) {
    if !suite.bench.backend().description().native_revert {
        return;
    }
    let volume = suite.written(ONE).await;
    let before = suite.fingerprint(volume).await;
    let snapshot = snapshot_of(volume);
    suite.done(Effect::CreateSnapshot { snapshot }).await;
    suite.scribble(volume, ONE, "second").await;
    let safety = BackendObject::SafetySnapshot { volume: volume.volume(), operation: operation() };
    suite.done(Effect::CreateSnapshot { snapshot: safety }).await;
    let second = suite.fingerprint(safety).await;

    suite.done(Effect::RevertToSnapshot { volume, snapshot }).await;
    suite.assert_same(volume, &before).await;
    suite.assert_same(snapshot, &before).await;

    // and back again, as a failed revert does
    suite.done(Effect::RevertToSnapshot { volume, snapshot: safety }).await;
    suite.assert_same(volume, &second).await;
    suite.done(Effect::DeleteSnapshot { snapshot: safety }).await;
    suite.assert_same(volume, &second).await;
}

async fn a_revert_through_a_temporary_volume_brings_the_snapshot_back(suite: &Suite<'_>) {
    let volume = suite.written(ONE).await;
    let before = suite.fingerprint(volume).await;
    let snapshot = snapshot_of(volume);
    suite.done(Effect::CreateSnapshot { snapshot }).await;
    suite.scribble(volume, ONE, "second").await;
    let temporary = BackendObject::TemporaryVolume { volume: volume.volume(), operation: operation() };
    suite.done(Effect::CreateVolumeFromSnapshot { volume: temporary, size: ONE, snapshot }).await;
    suite.done(Effect::OverwriteVolume { volume, source: temporary }).await;
    suite.assert_same(volume, &before).await;
    suite.done(Effect::DeleteVolume { volume: temporary }).await;
    suite.assert_absent(temporary).await;
    suite.assert_same(volume, &before).await;
    suite.assert_same(snapshot, &before).await;
}

async fn a_volume_from_a_snapshot_is_as_large_as_asked_with_zeroes_beyond(suite: &Suite<'_>) {
    let source = suite.written(ONE).await;
    let before = suite.fingerprint(source).await;
    let snapshot = snapshot_of(source);
    suite.done(Effect::CreateSnapshot { snapshot }).await;
    suite.scribble(source, ONE, "second").await;
    for size in [ONE, TWO] {
        let made = volume();
        suite.done(Effect::CreateVolumeFromSnapshot { volume: made, size, snapshot }).await;
        suite.assert_same(made, &Fingerprint { bytes: size.bytes(), ..before.clone() }).await;
    }
}

async fn a_clone_and_its_source_go_separate_ways(suite: &Suite<'_>) {
    let source = suite.written(ONE).await;
    let before = suite.fingerprint(source).await;
    for size in [ONE, TWO] {
        let made = volume();
        suite.done(Effect::CloneVolume { volume: made, size, source }).await;
        let cloned = Fingerprint { bytes: size.bytes(), ..before.clone() };
        suite.assert_same(made, &cloned).await;

        suite.scribble(made, size, "of the clone").await;
        suite.assert_same(source, &before).await;
        let changed = suite.fingerprint(made).await;
        suite.bench.write(source, 9, b"of the source").await;
        suite.assert_same(made, &changed).await;
        suite.bench.write(source, 9, &[0; 4096]).await;
    }
}

async fn an_extended_volume_keeps_its_data_with_zeroes_beyond(suite: &Suite<'_>) {
    let volume = suite.written(ONE).await;
    let before = suite.fingerprint(volume).await;
    suite.done(Effect::ExtendVolume { volume, to: TWO }).await;
    let extended = Fingerprint { bytes: TWO.bytes(), ..before };
    suite.assert_same(volume, &extended).await;
    // it has at least that size already
    suite.done(Effect::ExtendVolume { volume, to: ONE }).await;
    suite.assert_same(volume, &extended).await;
    suite.refused(Effect::ExtendVolume { volume: self::volume(), to: TWO }, FailureKind::ObjectMissing).await;
}

async fn a_volume_with_snapshots_grows_and_they_stay_as_they_are(suite: &Suite<'_>) {
    let volume = suite.written(ONE).await;
    let before = suite.fingerprint(volume).await;
    let snapshot = snapshot_of(volume);
    suite.done(Effect::CreateSnapshot { snapshot }).await;
    suite.done(Effect::ExtendVolume { volume, to: TWO }).await;
    suite.scribble(volume, TWO, "second").await;
    let grown = suite.fingerprint(volume).await;
    suite.assert_same(snapshot, &before).await;
    suite.done(Effect::Verify { object: snapshot, size: ONE }).await;
    suite.done(Effect::Verify { object: volume, size: TWO }).await;
    let later = snapshot_of(volume);
    suite.done(Effect::CreateSnapshot { snapshot: later }).await;
    suite.assert_same(later, &grown).await;
    suite.done(Effect::DeleteSnapshot { snapshot }).await;
    suite.assert_same(volume, &grown).await;
}

async fn a_shrunk_volume_keeps_its_data(suite: &Suite<'_>) {
    let volume = suite.written(ONE).await;
    let before = suite.fingerprint(volume).await;
    suite.done(Effect::ExtendVolume { volume, to: TWO }).await;
    suite.done(Effect::ShrinkVolume { volume, to: ONE }).await;
    suite.assert_same(volume, &before).await;
    // the extend may not have happened at all
    suite.done(Effect::ShrinkVolume { volume, to: ONE }).await;
    suite.refused(Effect::ShrinkVolume { volume, to: TWO }, FailureKind::Mismatch).await;
}

async fn shrinking_never_cuts_data_off(suite: &Suite<'_>) {
    let volume = suite.written(TWO).await;
    suite.refused(Effect::ShrinkVolume { volume, to: ONE }, FailureKind::Mismatch).await;
}

async fn deleting_takes_the_object_and_no_other(suite: &Suite<'_>) {
    let volume = suite.written(ONE).await;
    let before = suite.fingerprint(volume).await;
    let (first, second) = (snapshot_of(volume), snapshot_of(volume));
    suite.done(Effect::CreateSnapshot { snapshot: first }).await;
    suite.done(Effect::CreateSnapshot { snapshot: second }).await;
    suite.done(Effect::DeleteSnapshot { snapshot: first }).await;
    suite.assert_absent(first).await;
    suite.assert_same(second, &before).await;
    suite.assert_same(volume, &before).await;
    suite.done(Effect::DeleteSnapshot { snapshot: second }).await;
    suite.done(Effect::DeleteVolume { volume }).await;
    suite.assert_absent(volume).await;
    suite.done(Effect::DeleteVolume { volume: self::volume() }).await;
}

async fn a_volume_of_another_size_is_never_replaced(suite: &Suite<'_>) {
    let volume = suite.written(TWO).await;
    let source = suite.written(ONE).await;
    suite.refused(Effect::CreateVolume { volume, size: ONE }, FailureKind::Mismatch).await;
    suite.refused(Effect::CloneVolume { volume, size: ONE, source }, FailureKind::Mismatch).await;
}

async fn nothing_is_made_from_what_is_missing(suite: &Suite<'_>) {
    let present = suite.written(ONE).await;
    let missing = volume();
    let snapshot = snapshot_of(missing);
    let made = volume();
    for effect in [
        Effect::CreateSnapshot { snapshot },
        Effect::CreateVolumeFromSnapshot { volume: made, size: ONE, snapshot },
        Effect::CloneVolume { volume: made, size: ONE, source: missing },
        Effect::OverwriteVolume { volume: present, source: missing },
        Effect::OverwriteVolume { volume: missing, source: present },
        Effect::RevertToSnapshot { volume: present, snapshot },
        Effect::ShrinkVolume { volume: missing, to: ONE },
    ] {
        suite.refused(effect, FailureKind::ObjectMissing).await;
    }
    suite.assert_absent(made).await;
    suite.assert_absent(snapshot).await;
}

async fn nothing_is_made_from_what_is_too_large(suite: &Suite<'_>) {
    let large = suite.written(TWO).await;
    let small = suite.written(ONE).await;
    let made = volume();
    suite
        .refused(Effect::CloneVolume { volume: made, size: ONE, source: large }, FailureKind::Mismatch)
        .await;
    suite.refused(Effect::OverwriteVolume { volume: small, source: large }, FailureKind::Mismatch).await;
    suite.assert_absent(made).await;
}

async fn verifying_tells_the_truth(suite: &Suite<'_>) {
    let volume = suite.written(TWO).await;
    let snapshot = snapshot_of(volume);
    suite.done(Effect::CreateSnapshot { snapshot }).await;
    suite.done(Effect::Verify { object: volume, size: TWO }).await;
    suite.done(Effect::Verify { object: snapshot, size: TWO }).await;
    suite.refused(Effect::Verify { object: volume, size: ONE }, FailureKind::Mismatch).await;
    suite.refused(Effect::Verify { object: volume, size: THREE }, FailureKind::Mismatch).await;
    let missing = snapshot_of(volume);
    suite.refused(Effect::Verify { object: missing, size: TWO }, FailureKind::ObjectMissing).await;
}

async fn what_is_in_use_is_left_alone(suite: &Suite<'_>) {
    let volume = suite.written(ONE).await;
    let other = suite.written(ONE).await;
    let Some(use_of_it) = suite.bench.occupy(volume).await else {
        tracing::warn!("skipped: this backend cannot tell what is in use");
        return;
    };
    suite.refused(Effect::DeleteVolume { volume }, FailureKind::Busy).await;
    suite.refused(Effect::OverwriteVolume { volume, source: other }, FailureKind::Busy).await;
    drop(use_of_it);
    suite.done(Effect::OverwriteVolume { volume, source: other }).await;
    suite.done(Effect::DeleteVolume { volume }).await;
}

async fn a_pool_that_it_does_not_have_is_refused(suite: &Suite<'_>) {
    let volume = volume();
    let effect = Effect::CreateVolume { volume, size: ONE };
    let result = suite.bench.backend().perform(&PoolName::new("no-such-pool"), &effect).await;
    assert_eq!(result.err().map(|failure| failure.kind), Some(FailureKind::ObjectMissing));
    suite.assert_absent(volume).await;
}

impl Suite<'_> {
    /// What the backend lists, by name.
    async fn listed(&self) -> BTreeMap<String, FoundObject> {
        let found = self.bench.backend().list(&self.pool()).await;
        assert!(found.is_ok(), "{}: {found:?}", self.case);
        found.unwrap_or_default().into_iter().map(|found| (found.name.to_string(), found)).collect()
    }
}

async fn what_is_there_is_listed(suite: &Suite<'_>) {
    let volume = suite.written(TWO).await;
    let snapshot = snapshot_of(volume);
    suite.done(Effect::CreateSnapshot { snapshot }).await;
    let listed = suite.listed().await;
    for (object, is_snapshot) in [(volume, false), (snapshot, true)] {
        let found = listed.get(&object.to_string());
        let seen = found.map(|found| {
            let of = match &found.kind {
                FoundKind::Volume => None,
                FoundKind::Snapshot { of } => Some(of.as_deref().is_none_or(|of| of == volume.to_string())),
            };
            (found.bytes, found.in_use, of)
        });
        assert_eq!(seen, Some((TWO.bytes(), false, is_snapshot.then_some(true))), "{}: {object}", suite.case);
    }
    suite.done(Effect::DeleteSnapshot { snapshot }).await;
    suite.done(Effect::DeleteVolume { volume }).await;
    let listed = suite.listed().await;
    for gone in [volume, snapshot] {
        assert!(!listed.contains_key(&gone.to_string()), "{}: {gone} is still listed", suite.case);
    }
    let unknown = suite.bench.backend().list(&PoolName::new("no-such-pool")).await;
    assert!(unknown.is_err(), "{}: {unknown:?}", suite.case);
}

async fn what_is_given_up_can_be_taken_over_again_with_its_data(suite: &Suite<'_>) {
    let given_up = suite.written(TWO).await;
    let before = suite.fingerprint(given_up).await;
    let name = given_up.unmanaged_name();
    suite.done(Effect::Disown { object: given_up, to: name.clone() }).await;
    suite.assert_absent(given_up).await;
    let listed = suite.listed().await;
    let seen = listed.get(&*name).map(|found| (found.bytes, &found.kind));
    assert_eq!(seen, Some((TWO.bytes(), &FoundKind::Volume)), "{}", suite.case);

    let taken_over = volume();
    suite.done(Effect::Adopt { object: taken_over, from: name.clone(), size: Some(TWO) }).await;
    suite.assert_same(taken_over, &before).await;
    let listed = suite.listed().await;
    assert!(!listed.contains_key(&*name), "{}: {name} is still listed", suite.case);

    let snapshot = snapshot_of(taken_over);
    suite.done(Effect::CreateSnapshot { snapshot }).await;
    let name = snapshot.unmanaged_name();
    suite.done(Effect::Disown { object: snapshot, to: name.clone() }).await;
    suite.assert_absent(snapshot).await;
    let again = snapshot_of(taken_over);
    suite.done(Effect::Adopt { object: again, from: name, size: Some(TWO) }).await;
    suite.assert_same(again, &before).await;
    suite.done(Effect::DeleteSnapshot { snapshot: again }).await;
    suite.done(Effect::DeleteVolume { volume: taken_over }).await;
}

async fn nothing_is_taken_over_that_is_not_there_or_has_another_size(suite: &Suite<'_>) {
    let object = volume();
    let missing = Effect::Adopt { object, from: volume().unmanaged_name(), size: Some(ONE) };
    suite.refused(missing, FailureKind::ObjectMissing).await;
    let given_up = suite.written(ONE).await;
    let name = given_up.unmanaged_name();
    suite.done(Effect::Disown { object: given_up, to: name.clone() }).await;
    suite.refused(Effect::Adopt { object, from: name.clone(), size: Some(TWO) }, FailureKind::Mismatch).await;
    suite.done(Effect::Adopt { object, from: name, size: Some(ONE) }).await;
    suite.done(Effect::DeleteVolume { volume: object }).await;
}

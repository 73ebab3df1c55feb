//! What every exporter must show: a suite that any of them runs through, in tests only.
//!
//! An exporter's test gives an [`ExportBench`] and calls [`check_all`]. Every effect is performed as
//! the world is at its worst: after attempts that were killed half-way, and twice.

use std::collections::BTreeMap;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::pin::Pin;

use async_trait::async_trait;
use tephra_domain::attachment::AttachMode;
use tephra_domain::effect::{BackendObject, Effect, Export};
use tephra_domain::ids::{AttachmentId, VolumeId};
use uuid::Uuid;

use super::Exporter;

/// An exporter to be checked, with a way to see what it exports behind its back.
#[async_trait]
pub trait ExportBench: Send + Sync {
    /// The exporter.
    fn exporter(&self) -> &dyn Exporter;

    /// Where the suite may keep files.
    fn directory(&self) -> &Path;

    /// What can be reached now.
    async fn shown(&self) -> BTreeMap<AttachmentId, Shown>;

    /// Whatever is left of exports, whole or not.
    async fn leftovers(&self) -> Vec<String>;

    /// Leaves behind what an attempt at the effect leaves that was killed half-way. The volume's data
    /// is where [`source_of`] says.
    async fn leave_interrupted(&self, effect: &Effect);

    /// Loses everything, as whatever holds the exports does when it is killed and started again.
    async fn restart(&self);
}

/// An export as it is found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shown {
    /// Where the data is.
    pub source: PathBuf,
    /// How much of it is shown, in whole GiB; nothing if the exporter leaves that to others.
    pub gib: Option<u64>,
    /// Whether the host may write.
    pub mode: AttachMode,
    /// Which host.
    pub initiator: Option<Box<str>>,
}

/// The file with a volume's data.
pub fn source_of(directory: &Path, volume: VolumeId) -> PathBuf {
    directory.join(BackendObject::Volume(volume).to_string())
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
    an_export_is_for_one_host_and_goes_without_a_trace,
    exports_of_one_volume_are_apart,
    an_export_for_another_host_or_mode_takes_the_place_of_the_one_before,
    an_export_that_is_made_again_shows_the_new_size,
    what_never_was_is_removed_already,
    an_export_is_removed_after_its_volume,
    exports_are_made_again_in_another_life,
}

/// Runs every case.
///
/// # Panics
/// At the first thing that an exporter must show and this one does not.
pub async fn check_all(bench: &dyn ExportBench) {
    for case in CASES {
        println!("{}", case.name);
        (case.run)(&Suite { bench, case: case.name }).await;
        let left = bench.leftovers().await;
        assert!(left.is_empty(), "{}: {left:?} are left", case.name);
    }
}

/// A bench with the words that cases are written in.
pub struct Suite<'a> {
    bench: &'a dyn ExportBench,
    case: &'static str,
}

impl Suite<'_> {
    fn volume(&self, gib: u64) -> VolumeId {
        let volume = VolumeId::from_uuid(Uuid::new_v4());
        self.resize(volume, gib);
        volume
    }

    fn resize(&self, volume: VolumeId, gib: u64) {
        let path = source_of(self.bench.directory(), volume);
        let file = std::fs::File::options().create(true).truncate(false).write(true).open(path);
        let resized = file.and_then(|file| file.set_len(gib << 30));
        assert!(resized.is_ok(), "{}: {resized:?}", self.case);
    }

    async fn exported(&self, volume: VolumeId, export: &Export) {
        let object = BackendObject::Volume(volume);
        let effect = Effect::ExportVolume { volume: object, export: export.clone() };
        self.bench.leave_interrupted(&effect).await;
        let source = source_of(self.bench.directory(), volume);
        for time in ["first", "second"] {
            let done = self.bench.exporter().export(&source, volume, export).await;
            assert_eq!(done, Ok(()), "{}: the {time} export", self.case);
        }
    }

    async fn unexported(&self, volume: VolumeId, attachment: AttachmentId) {
        let effect = Effect::UnexportVolume { volume: BackendObject::Volume(volume), attachment };
        self.bench.leave_interrupted(&effect).await;
        for time in ["first", "second"] {
            let done = self.bench.exporter().unexport(attachment).await;
            assert_eq!(done, Ok(()), "{}: the {time} removal", self.case);
        }
    }

    async fn assert_shown(&self, expected: &[(VolumeId, &Export, u64)]) {
        let found = self.bench.shown().await;
        let expected = expected.iter().map(|(volume, export, gib)| {
            let shown = Shown {
                source: source_of(self.bench.directory(), *volume),
                gib: found.get(&export.attachment).and_then(|shown| shown.gib).map(|_| *gib),
                mode: export.mode,
                initiator: export.initiator.clone(),
            };
            (export.attachment, shown)
        });
        assert_eq!(found, expected.collect(), "{}", self.case);
    }
}

fn export(host: &str, mode: AttachMode) -> Export {
    Export {
        attachment: AttachmentId::from_uuid(Uuid::new_v4()),
        initiator: Some(format!("iqn.1993-08.org.debian:01:{host}").into()),
        address: Some("127.0.0.1".into()),
        mode,
    }
}

async fn an_export_is_for_one_host_and_goes_without_a_trace(suite: &Suite<'_>) {
    for mode in [AttachMode::ReadWrite, AttachMode::ReadOnly] {
        let (volume, export) = (suite.volume(1), export("alpha", mode));
        suite.exported(volume, &export).await;
        suite.assert_shown(&[(volume, &export, 1)]).await;
        suite.unexported(volume, export.attachment).await;
        suite.assert_shown(&[]).await;
    }
}

async fn exports_of_one_volume_are_apart(suite: &Suite<'_>) {
    let volume = suite.volume(1);
    let (first, second) = (export("alpha", AttachMode::ReadWrite), export("beta", AttachMode::ReadOnly));
    suite.exported(volume, &first).await;
    suite.exported(volume, &second).await;
    suite.assert_shown(&[(volume, &first, 1), (volume, &second, 1)]).await;
    suite.unexported(volume, first.attachment).await;
    suite.assert_shown(&[(volume, &second, 1)]).await;
    suite.unexported(volume, second.attachment).await;
}

async fn an_export_for_another_host_or_mode_takes_the_place_of_the_one_before(suite: &Suite<'_>) {
    let volume = suite.volume(1);
    let first = export("alpha", AttachMode::ReadWrite);
    suite.exported(volume, &first).await;
    for (host, mode) in [("beta", AttachMode::ReadWrite), ("beta", AttachMode::ReadOnly)] {
        let next = Export { attachment: first.attachment, ..export(host, mode) };
        suite.exported(volume, &next).await;
        suite.assert_shown(&[(volume, &next, 1)]).await;
    }
    suite.unexported(volume, first.attachment).await;
}

async fn an_export_that_is_made_again_shows_the_new_size(suite: &Suite<'_>) {
    let volume = suite.volume(1);
    let (first, second) = (export("alpha", AttachMode::ReadWrite), export("beta", AttachMode::ReadWrite));
    suite.exported(volume, &first).await;
    suite.exported(volume, &second).await;
    suite.resize(volume, 3);
    suite.exported(volume, &first).await;
    suite.exported(volume, &second).await;
    suite.assert_shown(&[(volume, &first, 3), (volume, &second, 3)]).await;
    suite.unexported(volume, first.attachment).await;
    suite.unexported(volume, second.attachment).await;
}

async fn what_never_was_is_removed_already(suite: &Suite<'_>) {
    let (volume, present) = (suite.volume(1), export("alpha", AttachMode::ReadWrite));
    suite.exported(volume, &present).await;
    suite.unexported(volume, export("beta", AttachMode::ReadWrite).attachment).await;
    suite.assert_shown(&[(volume, &present, 1)]).await;
    suite.unexported(volume, present.attachment).await;
}

async fn an_export_is_removed_after_its_volume(suite: &Suite<'_>) {
    let (volume, export) = (suite.volume(1), export("alpha", AttachMode::ReadWrite));
    suite.exported(volume, &export).await;
    let removed = std::fs::remove_file(source_of(suite.bench.directory(), volume));
    assert!(removed.is_ok(), "{removed:?}");
    suite.unexported(volume, export.attachment).await;
}

async fn exports_are_made_again_in_another_life(suite: &Suite<'_>) {
    let (volume, export) = (suite.volume(2), export("alpha", AttachMode::ReadOnly));
    suite.exported(volume, &export).await;
    let life = suite.bench.exporter().incarnation().await;
    assert!(life.is_ok() && life == suite.bench.exporter().incarnation().await, "{life:?}");
    suite.bench.restart().await;
    assert_ne!(life, suite.bench.exporter().incarnation().await);
    suite.assert_shown(&[]).await;
    suite.exported(volume, &export).await;
    suite.assert_shown(&[(volume, &export, 2)]).await;
    suite.unexported(volume, export.attachment).await;
}

//! What any two backends must show together: data goes from one into the other.

use std::any::Any;
use std::fs::{File, OpenOptions};
use std::net::{IpAddr, Ipv4Addr};
use std::ops::RangeInclusive;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use async_trait::async_trait;
use tephra_domain::effect::{BackendObject, Effect, Failure, FailureKind};
use tephra_domain::ids::{BackendName, PoolId};
use tephra_domain::units::SizeGib;
use tephra_journal::loans::{Lender as _, Loan, LoanRequest, Loans};
use uuid::Uuid;

use super::super::directory::{DirectoryBackend, DirectoryConfig, OpenError};
use super::super::{Backend, Content};
use super::{BLOCK_BYTES, Bench, Fingerprint, ONE, Suite, TWO, snapshot_of, volume};
use crate::copy::{Borrowed, Copied, Copier, LOAN_LASTS, LendingConfig, Limits, QemuLender, Source, Target};
use crate::process::Spawner;

/// Where loans are served; several tests may run at once.
const LOAN_PORTS: RangeInclusive<u16> = 10_809..=10_840;

/// Copies from one backend into another, and shows that the data is the same: of a snapshot while its
/// volume is written, into volumes of its size and larger, over what a copy left that died, and again. What
/// cannot be copied leaves nothing behind.
///
/// # Panics
/// At the first thing that two backends must show and these do not.
pub async fn check_copies(from: &dyn Bench, to: &dyn Bench) {
    let began = Instant::now();
    let pair = Pair { from, to, copier: Copier::new(Arc::new(Spawner), Limits::default()) };
    let source = Suite { bench: from, case: "copying from" };
    let target = Suite { bench: to, case: "copying into" };

    let origin = source.written(TWO).await;
    let snapshot = snapshot_of(origin);
    source.done(Effect::CreateSnapshot { snapshot }).await;
    let before = source.fingerprint(snapshot).await;
    source.scribble(origin, TWO, "second").await;

    for size in [TWO, super::THREE] {
        let made = volume();
        let stretches = usize::try_from(size.gib()).unwrap_or(0);
        let expected = Fingerprint { bytes: size.bytes(), ..before.clone() };
        pair.copied(snapshot, made, size, Copied { written: stretches, found: 0 }).await;
        target.assert_same(made, &expected).await;
        pair.copied(snapshot, made, size, Copied { written: 0, found: stretches }).await;

        // one stretch holds something else, as if the copy had died in it; the source has zeroes there
        target.bench.write(made, 9, &[7; 4096]).await;
        pair.copied(snapshot, made, size, Copied { written: 1, found: stretches - 1 }).await;
        target.assert_same(made, &expected).await;
        target.done(Effect::DeleteVolume { volume: made }).await;
    }
    source.assert_same(snapshot, &before).await;

    let made = volume();
    let too_large = pair.copy(snapshot, made, ONE).await.map_err(|failure| failure.kind);
    assert_eq!(too_large, Err(FailureKind::Mismatch));
    let missing = pair.copy(volume(), made, ONE).await.map_err(|failure| failure.kind);
    assert_eq!(missing, Err(FailureKind::ObjectMissing));
    target.assert_absent(made).await;
    source.done(Effect::DeleteSnapshot { snapshot }).await;
    source.done(Effect::DeleteVolume { volume: origin }).await;
    pair.took(began, "copied");
}

/// Copies a snapshot that one backend lends into the other, as into one of another process, and shows that the
/// data is the same.
///
/// # Panics
/// If it is not.
pub async fn check_loan(from: &dyn Bench, to: &dyn Bench) {
    let began = Instant::now();
    let pair = Pair { from, to, copier: Copier::new(Arc::new(Spawner), Limits::default()) };
    let source = Suite { bench: from, case: "lending from" };
    let target = Suite { bench: to, case: "lending into" };

    let origin = source.written(ONE).await;
    let snapshot = snapshot_of(origin);
    source.done(Effect::CreateSnapshot { snapshot }).await;
    let before = source.fingerprint(snapshot).await;
    source.scribble(origin, ONE, "second").await;
    let made = volume();
    pair.copied_from_a_loan(snapshot, made, ONE).await;
    target.assert_same(made, &before).await;
    target.done(Effect::DeleteVolume { volume: made }).await;
    source.done(Effect::DeleteSnapshot { snapshot }).await;
    source.done(Effect::DeleteVolume { volume: origin }).await;
    pair.took(began, "lent");
}

struct Pair<'a> {
    from: &'a dyn Bench,
    to: &'a dyn Bench,
    copier: Copier,
}

impl Pair<'_> {
    fn took(&self, began: Instant, what: &str) {
        let name = |bench: &dyn Bench| bench.backend().name().clone();
        let (from, to) = (name(self.from), name(self.to));
        println!("{:>6.1} s  {what} from {from} into {to}", began.elapsed().as_secs_f64());
    }

    async fn copy(
        &self,
        source: BackendObject,
        volume: BackendObject,
        size: SizeGib,
    ) -> Result<Copied, Failure> {
        let pool = Suite { bench: self.from, case: "copying" }.pool();
        let content = self.from.backend().content(&pool, source).await?;
        let pool = &Suite { bench: self.to, case: "copying" }.pool();
        self.copier
            .copy(Source::Here(&content), Target { backend: self.to.backend(), pool, volume, size })
            .await
    }

    async fn copied(&self, source: BackendObject, volume: BackendObject, size: SizeGib, expected: Copied) {
        assert_eq!(self.copy(source, volume, size).await, Ok(expected), "{source} into {size} GiB");
    }

    async fn copied_from_a_loan(&self, source: BackendObject, volume: BackendObject, size: SizeGib) {
        let from = Suite { bench: self.from, case: "lending" }.pool();
        let pool = &Suite { bench: self.to, case: "copying" }.pool();
        let content = self.from.backend().content(&from, source).await;
        let content = content.unwrap_or_else(|failure| panic!("{source} is not to be read: {failure}"));
        let address = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let config = LendingConfig { address, ports: LOAN_PORTS, lasts: LOAN_LASTS };
        let lender = QemuLender::new(config, Arc::new(Spawner), Limits::default(), []);
        let loans: Arc<dyn Loans> = Arc::new(OneLoan { lender, content });
        let from = PoolId { backend: self.from.backend().name().clone(), pool: from };
        let copied = async {
            let borrowed = Borrowed::begin(Arc::clone(&loans), from, source).await?;
            let target = Target { backend: self.to.backend(), pool, volume, size };
            let copied = self.copier.copy(Source::Lent(&borrowed), target).await;
            borrowed.give_back().await;
            copied
        };
        let stretches = usize::try_from(size.gib()).unwrap_or(0);
        assert_eq!(copied.await, Ok(Copied { written: stretches, found: 0 }), "{source}, lent");
    }
}

/// The executor of another process, with one thing to lend.
struct OneLoan {
    lender: QemuLender,
    content: Content,
}

#[async_trait]
impl Loans for OneLoan {
    async fn borrow(&self, _: Option<Uuid>, request: &LoanRequest) -> Result<Loan, Failure> {
        self.lender.lend_from(request, async { Ok(self.content.clone()) }).await
    }

    async fn give_back(&self, _: &BackendName, _: Uuid, loan: Uuid) -> Result<(), Failure> {
        self.lender.give_back(loan).await;
        Ok(())
    }
}

/// A directory as one of the two, where the other is what a test is about.
pub struct DirectoryEnd(DirectoryBackend);

impl DirectoryEnd {
    /// In a directory of its own.
    ///
    /// # Errors
    /// If it cannot be served.
    pub fn open(directory: &Path) -> Result<Self, OpenError> {
        DirectoryBackend::open(DirectoryConfig::new(BackendName::new("files"), "host", directory)).map(Self)
    }

    fn open_file(&self, object: BackendObject) -> std::io::Result<File> {
        let path = self.0.config().directory.join(object.to_string());
        OpenOptions::new().read(true).write(true).open(path)
    }
}

#[async_trait]
impl Bench for DirectoryEnd {
    fn backend(&self) -> &dyn Backend {
        &self.0
    }

    async fn write(&self, object: BackendObject, block: u64, content: &[u8]) {
        let written = self.open_file(object).and_then(|file| file.write_all_at(content, block * BLOCK_BYTES));
        assert!(written.is_ok(), "{object}: {written:?}");
    }

    async fn fingerprint(&self, object: BackendObject) -> Option<Fingerprint> {
        Fingerprint::of_file(&self.0.config().directory.join(object.to_string())).ok()
    }

    async fn leave_interrupted(&self, _effect: &Effect) {}

    async fn occupy(&self, _object: BackendObject) -> Option<Box<dyn Any + Send>> {
        None
    }
}

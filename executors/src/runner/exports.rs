//! Watches over the life of whatever holds a backend's exports: when it is another one than before,
//! the ledger is told, and has the exports made again. It is told again where one could not be made:
//! the host that lost it waits for it, and nobody else would ask. And where one was made in the life before
//! and is told of only now: the ledger did not know of it when it was asked.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tephra_domain::effect::{Effect, Outcome};
use tokio::time::Instant;

use super::ledger::LedgerClient;
use crate::export::Exporter;

/// How often it is looked, and tried again where the exports cannot be reached.
pub const WATCH_INTERVAL: Duration = Duration::from_secs(2);

/// The pause before the ledger is asked again to have exports made that could not be made.
pub const AGAIN_INTERVAL: Duration = Duration::from_secs(5 * 60);

/// What became of exports since the ledger was last asked for all of them. Cheap to clone; all clones
/// are one.
#[derive(Clone, Default)]
pub struct ExportNotes(Arc<Notes>);

#[derive(Default)]
struct Notes {
    /// How often the ledger was asked.
    asked: AtomicU64,
    /// One could not be made.
    failed: AtomicBool,
    /// One was made before the ledger was asked, and told to it afterwards.
    told_late: AtomicBool,
}

/// When an effect began, counted in questions to the ledger.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Begun(u64);

impl ExportNotes {
    /// An effect begins now.
    pub fn begin(&self) -> Begun {
        Begun(self.0.asked.load(Ordering::Relaxed))
    }

    /// Takes in how an effect turned out that the ledger has just been told of; `begun` is nothing if it is
    /// not known when it was done.
    pub fn reported(&self, effect: &Effect, outcome: &Outcome, begun: Option<Begun>) {
        match (effect, outcome) {
            (Effect::ExportVolume { .. }, Outcome::Failed(_)) => {
                self.0.failed.store(true, Ordering::Relaxed);
            }
            (Effect::ExportVolume { .. }, Outcome::Done) if begun != Some(self.begin()) => {
                self.0.told_late.store(true, Ordering::Relaxed);
            }
            (_, Outcome::Done | Outcome::Failed(_)) => {}
        }
    }

    fn asking(&self) {
        self.0.asked.fetch_add(1, Ordering::Relaxed);
    }

    fn has_failed(&self) -> bool {
        self.0.failed.swap(false, Ordering::Relaxed)
    }

    fn was_told_late(&self) -> bool {
        self.0.told_late.swap(false, Ordering::Relaxed)
    }
}

/// Goes on until it is dropped. At the start nothing is known of the exporter's life before, so
/// every export is made sure of.
pub async fn watch(exporter: Arc<dyn Exporter>, ledger: Arc<LedgerClient>, notes: ExportNotes) {
    let mut known: Option<String> = None;
    let mut asked_at = Instant::now();
    let mut is_up = true;
    loop {
        match exporter.incarnation().await {
            Ok(life) => {
                is_up = true;
                let is_another = known.as_ref() != Some(&life);
                let is_again = asked_at.elapsed() >= AGAIN_INTERVAL && notes.has_failed();
                if is_another || is_again || notes.was_told_late() {
                    notes.asking();
                    asked_at = Instant::now();
                    known = ledger.restore_exports().await.then_some(life);
                }
            }
            Err(failure) => {
                if is_up {
                    tracing::warn!(%failure, "exports cannot be reached");
                }
                is_up = false;
            }
        }
        tokio::time::sleep(WATCH_INTERVAL).await;
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use std::collections::BTreeMap;
    use std::path::Path;
    use std::sync::Mutex;

    use async_trait::async_trait;
    use tephra_domain::attachment::{AttachMode, Connector};
    use tephra_domain::command::Command;
    use tephra_domain::effect::{BackendObject, Export, Failure, FailureKind};
    use tephra_domain::ids::{AttachmentId, Position, VolumeId};
    use tephra_domain::units::Timestamp;
    use tephra_journal::clock::ManualClock;
    use tephra_journal::gateway::{CommandGateway, Receipt, Submission, SubmitError};
    use uuid::Uuid;

    use super::*;
    use crate::backend::memory::{MemoryBackend, MemoryConfig};

    /// An exporter in its so-manieth life.
    #[derive(Default)]
    struct Daemon(Mutex<u32>);

    #[async_trait]
    impl Exporter for Daemon {
        fn facts(&self) -> BTreeMap<String, String> {
            BTreeMap::new()
        }

        async fn export(&self, _: &Path, _: VolumeId, _: &Export) -> Result<(), Failure> {
            Ok(())
        }

        async fn unexport(&self, _: AttachmentId) -> Result<(), Failure> {
            Ok(())
        }

        async fn incarnation(&self) -> Result<String, Failure> {
            Ok(self.0.lock().unwrap().to_string())
        }
    }

    /// Counts how often exports are asked for.
    #[derive(Default)]
    struct Ledger(Mutex<u32>);

    #[async_trait]
    impl CommandGateway for Ledger {
        async fn submit(&self, submission: Submission) -> Result<Receipt, SubmitError> {
            assert!(matches!(submission.command, Command::RestoreExports { .. }));
            *self.0.lock().unwrap() += 1;
            Ok(Receipt::NothingToDo { position: Position::START })
        }
    }

    #[tokio::test(start_paused = true)]
    async fn exports_are_asked_for_at_the_start_after_a_restart_and_again_while_one_fails_or_was_told_late() {
        let (daemon, ledger) = (Arc::new(Daemon::default()), Arc::new(Ledger::default()));
        let backend = Arc::new(MemoryBackend::new(MemoryConfig::new("b")));
        let client = LedgerClient::new(
            backend,
            None,
            Arc::<Ledger>::clone(&ledger),
            Arc::new(ManualClock::at(Timestamp(0))),
        );
        let notes = ExportNotes::default();
        let watching = tokio::spawn(watch(Arc::<Daemon>::clone(&daemon), Arc::new(client), notes.clone()));
        let after = async |time: Duration| {
            tokio::time::sleep(time).await;
            *ledger.0.lock().unwrap()
        };
        assert_eq!(after(WATCH_INTERVAL * 2).await, 1);
        *daemon.0.lock().unwrap() += 1;
        assert_eq!(after(WATCH_INTERVAL * 2).await, 2);
        assert_eq!(after(AGAIN_INTERVAL * 3).await, 2, "nothing has failed");

        let volume = BackendObject::Volume(VolumeId::from_uuid(Uuid::from_u128(1)));
        let connector = Connector::default();
        let attachment = AttachmentId::from_uuid(Uuid::from_u128(2));
        let effect =
            Effect::ExportVolume { volume, export: Export::of(attachment, &connector, AttachMode::ReadOnly) };
        notes.reported(&effect, &Outcome::Done, Some(notes.begin()));
        assert_eq!(after(AGAIN_INTERVAL * 2).await, 2);
        let failure = Failure::new(FailureKind::TimedOut, "busy");
        notes.reported(&effect, &Outcome::Failed(failure.clone()), Some(notes.begin()));
        assert_eq!(after(WATCH_INTERVAL * 2).await, 3);
        notes.reported(&effect, &Outcome::Failed(failure), None);
        assert_eq!(after(WATCH_INTERVAL * 2).await, 3, "not without a pause");
        assert_eq!(after(AGAIN_INTERVAL).await, 4);
        assert_eq!(after(AGAIN_INTERVAL * 2).await, 4, "once for one failure");

        let before = notes.begin();
        *daemon.0.lock().unwrap() += 1;
        assert_eq!(after(WATCH_INTERVAL * 2).await, 5);
        notes.reported(&effect, &Outcome::Done, Some(before));
        assert_eq!(after(WATCH_INTERVAL * 2).await, 6, "the ledger did not know of it when it was asked");
        notes.reported(&effect, &Outcome::Done, None);
        assert_eq!(after(WATCH_INTERVAL * 2).await, 7, "nor perhaps of one that was done nobody knows when");
        assert_eq!(after(AGAIN_INTERVAL * 2).await, 7);
        watching.abort();
    }
}

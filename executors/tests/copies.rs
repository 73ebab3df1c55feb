//! Volumes made of what another backend of the same process holds: through a runner, and with kill -9
//! after every stretch.

#![allow(clippy::unwrap_used, reason = "in a test, whatever is not as expected is a failure")]

#[allow(dead_code, reason = "the runner's own tests use the rest")]
mod support;

use std::ffi::OsString;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use support::{Gateway, Queue, QueuePort, eventually, gib, order, volume};
use tempfile::TempDir;
use tephra_domain::backend::BackendDescription;
use tephra_domain::command::Command;
use tephra_domain::effect::{Effect, FailureKind, Outcome};
use tephra_domain::ids::{BackendName, PoolId, PoolName};
use tephra_domain::units::Timestamp;
use tephra_executors::backend::Backend;
use tephra_executors::backend::conformance::Fingerprint;
use tephra_executors::backend::conformance::interrupt::{Attempt, Interrupter};
use tephra_executors::backend::directory::{DirectoryBackend, DirectoryConfig};
use tephra_executors::copy::{Copier, Limits, Neighbours, act};
use tephra_executors::process::{Launcher, Spawner};
use tephra_executors::runner::{Runner, RunnerConfig};
use tephra_journal::clock::ManualClock;
use tephra_journal::gateway::CommandGateway;
use tephra_journal::pool_board::PoolBoard;
use tokio_util::sync::CancellationToken;

const DIRECTORY: &str = "TEPHRA_ATTEMPT_DIRECTORY";
const GIB: u64 = 1 << 30;

/// Two directories of one process, `from` and `into`.
struct Pair {
    from: Arc<dyn Backend>,
    into: Arc<dyn Backend>,
    neighbours: Neighbours,
}

impl Pair {
    fn open(directory: &Path, launcher: Arc<dyn Launcher>) -> Self {
        let open = |name: &str| -> Arc<dyn Backend> {
            let config = DirectoryConfig::new(BackendName::new(name), "host", directory.join(name));
            Arc::new(DirectoryBackend::open(config).unwrap())
        };
        let (from, into) = (open("from"), open("into"));
        let copier = Copier::new(launcher, Limits::default());
        let neighbours = Neighbours::new(copier, [Arc::clone(&from), Arc::clone(&into)]);
        Self { from, into, neighbours }
    }
}

fn copy(gib_of_copy: u32) -> Effect {
    let from = PoolId { backend: BackendName::new("from"), pool: PoolName::new("from") };
    Effect::CopyVolume { volume: volume(2), size: gib(gib_of_copy), from, source: volume(1) }
}

async fn given_source(pair: &Pair, directory: &Path, size_gib: u32) -> PathBuf {
    let create = Effect::CreateVolume { volume: volume(1), size: gib(size_gib) };
    pair.from.perform(&PoolName::new("from"), &create).await.unwrap();
    let path = directory.join("from").join(volume(1).to_string());
    let file = File::options().write(true).open(&path).unwrap();
    for n in 0..u64::from(size_gib) {
        file.write_all_at(format!("in gigabyte {n}").as_bytes(), n * GIB + 12_345 * n).unwrap();
    }
    path
}

fn has_data_of(directory: &Path, source: &Path, size_gib: u32) -> bool {
    let expected = Fingerprint { bytes: gib(size_gib).bytes(), ..Fingerprint::of_file(source).unwrap() };
    let copy = directory.join("into").join(volume(2).to_string());
    Fingerprint::of_file(&copy).unwrap() == expected
}

fn writes(argv: &[OsString]) -> bool {
    argv.iter().any(|word| word == "convert")
}

/// What is attempted, until it dies, by the processes that the test starts.
#[tokio::test]
#[ignore = "started by the other test, to be killed"]
async fn an_attempt() {
    let Some(attempt) = Attempt::from_environment() else { return };
    let directory = PathBuf::from(std::env::var_os(DIRECTORY).unwrap());
    let pair = Pair::open(&directory, attempt.launcher(writes));
    let done = act(&*pair.into, None, Some(&pair.neighbours), &attempt.pool, &attempt.effect).await;
    assert_eq!(done, Ok(()));
}

#[tokio::test]
async fn a_copy_whose_executor_is_killed_after_every_stretch_comes_to_the_end_stretch_by_stretch() {
    let directory = tempfile::tempdir().unwrap();
    let pair = Pair::open(directory.path(), Arc::new(Spawner));
    let source = given_source(&pair, directory.path(), 3).await;
    drop(pair);
    let interrupter = Interrupter::new("an_attempt").env(DIRECTORY, directory.path());
    let died = interrupter.attempt_until_done(&PoolName::new("into"), &copy(4)).await;
    // each attempt gets one stretch further than the one before, as none is copied twice; the last
    // stretch, beyond the source, holds its zeroes already
    assert_eq!(died.len(), 3, "{died:?}");
    assert!(has_data_of(directory.path(), &source, 4));
}

async fn report_of(directory: &TempDir, neighbours: bool) -> (BackendDescription, Outcome) {
    let pair = Pair::open(directory.path(), Arc::new(Spawner));
    given_source(&pair, directory.path(), 1).await;
    let (queue, gateway, cancel) =
        (Arc::<Queue>::default(), Arc::<Gateway>::default(), CancellationToken::new());
    let config = RunnerConfig {
        stats_interval: Duration::from_millis(20),
        neighbours: neighbours.then(|| Arc::new(pair.neighbours.clone())),
        ..RunnerConfig::default()
    };
    let runner = Runner::start(
        config,
        Arc::clone(&pair.into),
        Arc::new(QueuePort(Arc::clone(&queue))),
        Arc::clone(&gateway) as Arc<dyn CommandGateway>,
        PoolBoard::default(),
        Arc::new(ManualClock::at(Timestamp(1_000_000))),
        cancel.clone(),
    );
    let mut work = order(1, 1, copy(2));
    work.due.pool = PoolId { backend: BackendName::new("into"), pool: PoolName::new("into") };
    queue.send(work);
    let presented = || {
        let submitted = gateway.submitted.lock().unwrap();
        submitted.iter().find_map(|submission| {
            let Command::RegisterBackend { description, .. } = &submission.command else { return None };
            Some((**description).clone())
        })
    };
    eventually("the order is done with and the backend presented", || {
        queue.acknowledged() == 1 && presented().is_some()
    })
    .await;
    cancel.cancel();
    runner.stopped().await;
    let (_, outcome) = gateway.reports().remove(0);
    (presented().unwrap(), outcome)
}

#[tokio::test]
async fn a_runner_says_what_it_can_read_and_copies_from_there() {
    let directory = tempfile::tempdir().unwrap();
    let (description, outcome) = report_of(&directory, true).await;
    assert!(description.reads(&BackendName::new("from")) && description.reads(&BackendName::new("into")));
    assert!(!description.reads(&BackendName::new("elsewhere")));
    assert_eq!(outcome, Outcome::Done);
    assert!(has_data_of(directory.path(), &directory.path().join("from").join(volume(1).to_string()), 2));
}

#[tokio::test]
async fn a_runner_without_neighbours_says_that_it_reads_nothing_and_copies_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let (description, outcome) = report_of(&directory, false).await;
    assert!(!description.reads(&BackendName::new("from")));
    let Outcome::Failed(failure) = outcome else { panic!("it was copied") };
    assert_eq!(failure.kind, FailureKind::Unsupported, "{failure}");
    assert!(!directory.path().join("into").join(volume(2).to_string()).exists());
}

#[tokio::test]
async fn what_another_executor_serves_is_not_read() {
    let directory = tempfile::tempdir().unwrap();
    let pair = Pair::open(directory.path(), Arc::new(Spawner));
    let elsewhere = PoolId { backend: BackendName::new("elsewhere"), pool: PoolName::new("elsewhere") };
    let effect = Effect::CopyVolume { volume: volume(2), size: gib(1), from: elsewhere, source: volume(1) };
    let done = act(&*pair.into, None, Some(&pair.neighbours), &PoolName::new("into"), &effect).await;
    assert_eq!(done.map_err(|failure| failure.kind), Err(FailureKind::Unsupported));
}

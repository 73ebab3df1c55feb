//! Volumes made of what another backend of the same process holds: through a runner, and with kill -9
//! after every stretch.

#![allow(clippy::unwrap_used, reason = "in a test, whatever is not as expected is a failure")]

#[allow(dead_code, reason = "the runner's own tests use the rest")]
mod support;

use std::ffi::OsString;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
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
use tephra_executors::copy::{Copier, Limits, Neighbours, Progress, act};
use tephra_executors::process::{Launcher, Output, ProcessError, Program, Spawner};
use tephra_executors::runner::{Runner, RunnerConfig, RunnerHandle};
use tephra_journal::clock::ManualClock;
use tephra_journal::gateway::CommandGateway;
use tephra_journal::pool_board::PoolBoard;
use tephra_journal::progress_board::{self, ProgressBoard};
use tephra_journal::work_queue::WorkOrder;
use tokio::sync::Semaphore;
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
    let done = act(&*pair.into, None, Some(&pair.neighbours), &attempt.pool, &attempt.effect, None).await;
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

/// A runner of `into`.
struct Running {
    queue: Arc<Queue>,
    gateway: Arc<Gateway>,
    progress: ProgressBoard,
    cancel: CancellationToken,
    runner: RunnerHandle,
}

impl Running {
    fn start(pair: &Pair, neighbours: Option<Neighbours>) -> Self {
        let (queue, gateway, cancel) =
            (Arc::<Queue>::default(), Arc::<Gateway>::default(), CancellationToken::new());
        let progress = ProgressBoard::default();
        let config = RunnerConfig {
            stats_interval: Duration::from_millis(20),
            neighbours: neighbours.map(Arc::new),
            progress: progress.clone(),
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
        Self { queue, gateway, progress, cancel, runner }
    }

    fn presented(&self) -> Option<BackendDescription> {
        let submitted = self.gateway.submitted.lock().unwrap();
        submitted.iter().find_map(|submission| {
            let Command::RegisterBackend { description, .. } = &submission.command else { return None };
            Some((**description).clone())
        })
    }

    /// What the backend was presented as, once it was, and what became of its first order.
    async fn stop(self) -> (BackendDescription, Outcome) {
        eventually("the backend is presented", || self.presented().is_some()).await;
        let presented = self.presented().unwrap();
        self.cancel.cancel();
        self.runner.stopped().await;
        (presented, self.gateway.reports().remove(0).1)
    }
}

/// An order for a copy of so many GiB to `into`.
fn order_of_copy(gib_of_copy: u32) -> WorkOrder {
    let mut work = order(1, 1, copy(gib_of_copy));
    work.due.pool = PoolId { backend: BackendName::new("into"), pool: PoolName::new("into") };
    work
}

async fn report_of(directory: &TempDir, neighbours: bool) -> (BackendDescription, Outcome) {
    let pair = Pair::open(directory.path(), Arc::new(Spawner));
    given_source(&pair, directory.path(), 1).await;
    let running = Running::start(&pair, neighbours.then(|| pair.neighbours.clone()));
    running.queue.send(order_of_copy(2));
    eventually("the order is done with", || running.queue.acknowledged() == 1).await;
    running.stop().await
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
    let done = act(&*pair.into, None, Some(&pair.neighbours), &PoolName::new("into"), &effect, None).await;
    assert_eq!(done.map_err(|failure| failure.kind), Err(FailureKind::Unsupported));
}

/// Lets so many stretches be written, and notes what happened in its order.
struct Gate {
    writes: Semaphore,
    happened: Mutex<Vec<String>>,
}

impl Gate {
    fn open_for(writes: usize) -> Arc<Self> {
        Arc::new(Self { writes: Semaphore::new(writes), happened: Mutex::default() })
    }

    fn happened(&self) -> Vec<String> {
        std::mem::take(&mut *self.happened.lock().unwrap())
    }
}

#[async_trait]
impl Launcher for Gate {
    async fn launch(&self, program: Program) -> Result<Output, ProcessError> {
        if writes(program.argv()) {
            self.writes.acquire().await.unwrap().forget();
            self.happened.lock().unwrap().push("written".to_owned());
        }
        Spawner.launch(program).await
    }
}

impl Progress for Gate {
    fn reached(&self, done_bytes: u64, total_bytes: u64) {
        assert_eq!((done_bytes % GIB, total_bytes % GIB), (0, 0));
        self.happened.lock().unwrap().push(format!("{} of {}", done_bytes / GIB, total_bytes / GIB));
    }
}

#[tokio::test]
async fn a_copy_says_after_each_stretch_how_far_it_is_and_one_that_is_resumed_begins_with_what_is_there() {
    let directory = tempfile::tempdir().unwrap();
    let gate = Gate::open_for(2);
    let pair = Pair::open(directory.path(), Arc::clone(&gate) as Arc<dyn Launcher>);
    let source = given_source(&pair, directory.path(), 2).await;
    let pool = PoolName::new("into");
    let attempt = || {
        let (into, neighbours, pool, gate) =
            (Arc::clone(&pair.into), pair.neighbours.clone(), pool.clone(), Arc::clone(&gate));
        tokio::spawn(async move { act(&*into, None, Some(&neighbours), &pool, &copy(3), Some(gate)).await })
    };
    let first = attempt();
    let is_at_the_third = || gate.happened.lock().unwrap().len() == 4;
    eventually("two stretches are there", is_at_the_third).await;
    first.abort();
    assert!(first.await.unwrap_err().is_cancelled());
    assert_eq!(gate.happened(), ["written", "1 of 3", "written", "2 of 3"]);

    let file = File::options().write(true).open(directory.path().join("into").join(volume(2).to_string()));
    file.unwrap().write_all_at(b"half a write", 2 * GIB + 5).unwrap();
    gate.writes.add_permits(1);
    assert_eq!(attempt().await.unwrap(), Ok(()));
    assert_eq!(gate.happened(), ["1 of 3", "2 of 3", "written", "3 of 3"]);
    assert!(has_data_of(directory.path(), &source, 3));
}

#[tokio::test]
async fn a_runner_shows_how_far_a_copy_is_until_it_has_ended() {
    let directory = tempfile::tempdir().unwrap();
    let gate = Gate::open_for(1);
    let pair = Pair::open(directory.path(), Arc::clone(&gate) as Arc<dyn Launcher>);
    given_source(&pair, directory.path(), 2).await;
    let running = Running::start(&pair, Some(pair.neighbours.clone()));
    let work = order_of_copy(2);
    let key = work.due.key;
    running.queue.send(work);
    let shown = || running.progress.read(Timestamp(0));
    eventually("the first stretch shows", || !shown().is_empty()).await;
    let expected = progress_board::Progress { key, done_bytes: GIB, total_bytes: 2 * GIB };
    assert_eq!(shown(), [(BackendName::new("into"), expected)]);
    gate.writes.add_permits(1);
    eventually("the order is done with", || running.queue.acknowledged() == 1).await;
    assert_eq!(shown(), []);
    assert_eq!(running.stop().await.1, Outcome::Done);
}

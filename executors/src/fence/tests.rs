use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use super::*;
use crate::process::{ProcessError, Program};

const LIMIT: Duration = Duration::from_secs(20);

/// As long as the test says.
#[derive(Default)]
struct Held(AtomicBool);

impl Held {
    fn ends(&self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl Lease for Held {
    fn left(&self) -> Option<Duration> {
        (!self.0.load(Ordering::Relaxed)).then_some(Duration::MAX)
    }
}

/// A fence whose attempt the ledger waits for, so many times asked.
fn fence(lease: &Arc<Held>, times: usize) -> (Arc<Fence>, Arc<AtomicUsize>) {
    let asked = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&asked);
    let confirm = move || {
        let is_due = counted.fetch_add(1, Ordering::Relaxed) < times;
        async move { is_due }.boxed()
    };
    (Arc::new(Fence::new(Arc::<Held>::clone(lease), Box::new(confirm))), asked)
}

fn touch(file: &Path) -> Program {
    Program::new("touch", LIMIT).arg(file)
}

#[tokio::test]
async fn no_program_starts_for_an_order_whose_lease_is_over() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("changed");
    let lease = Arc::new(Held::default());
    let (fence, _) = fence(&lease, usize::MAX);
    let told = CURRENT
        .scope(Arc::clone(&fence), async {
            lease.ends();
            touch(&file).only_looking().run().await
        })
        .await;
    assert!(matches!(told, Err(ProcessError::Broken { .. })), "{told:?}");
    assert!(!file.exists());
}

#[tokio::test]
async fn a_program_that_changes_something_starts_only_if_the_ledger_still_waits_for_the_attempt() {
    let directory = tempfile::tempdir().unwrap();
    let [first, looked, second] = ["first", "looked", "second"].map(|name| directory.path().join(name));
    let (fence, asked) = fence(&Arc::default(), 1);
    let done = fence
        .guard(async {
            touch(&first).run().await.unwrap();
            touch(&looked).only_looking().run().await.unwrap();
            drop(touch(&second).run().await);
        })
        .await;
    assert_eq!(done, None, "what was left of it is dropped");
    assert!(first.exists() && looked.exists() && !second.exists());
    assert_eq!(asked.load(Ordering::Relaxed), 2, "of what only looks nobody is asked");
}

#[tokio::test]
async fn a_program_that_runs_is_killed_when_the_lease_is_over() {
    let directory = tempfile::tempdir().unwrap();
    let started = directory.path().join("started");
    let lease = Arc::new(Held::default());
    let (fence, _) = fence(&lease, usize::MAX);
    let script = format!("echo $$ > {0}.new; mv {0}.new {0}; exec sleep 1000", started.display());
    let work = {
        let fence = Arc::clone(&fence);
        tokio::spawn(async move { fence.guard(Program::new("sh", LIMIT).args(["-c", &script]).run()).await })
    };
    until(|| started.exists()).await;
    lease.ends();
    assert!(work.await.unwrap().is_none());
    fence.close().await;
    let process = format!("/proc/{}/stat", std::fs::read_to_string(&started).unwrap().trim());
    until(|| std::fs::read_to_string(&process).map_or(true, |stat| stat.contains(") Z "))).await;
}

#[tokio::test]
async fn nothing_that_ends_after_its_lease_counts() {
    let lease = Arc::new(Held::default());
    let (fence, _) = fence(&lease, usize::MAX);
    assert_eq!(fence.guard(async { lease.ends() }).await, None);
    assert!(fence.is_lost() && !fence.is_open());
}

#[tokio::test]
async fn outside_of_attempts_there_is_no_fence() {
    assert!(current().is_none());
    let (fence, _) = fence(&Arc::default(), 1);
    assert_eq!(fence.guard(async { current().is_some() }).await, Some(true));
    assert!(current().is_none());
}

async fn until(is_so: impl Fn() -> bool) {
    let began = std::time::Instant::now();
    while !is_so() {
        assert!(began.elapsed() < LIMIT, "it never came to this");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

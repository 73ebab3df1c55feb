//! A simulated process: it can be killed between any two things that it does.
//!
//! Nothing outside can stop a task at a certain line, and nothing has to: a process that is dead has
//! no effect on the world. So every port that it holds asks whether it lives, before and after each
//! thing that it does, and never returns to the dead.

use std::fmt;
use std::future::Future;
use std::sync::Arc;

use tokio_util::sync::CancellationToken;

/// A process. Cheap to clone; all clones are one process.
#[derive(Clone)]
pub struct Process {
    name: Arc<str>,
    killed: CancellationToken,
}

impl Process {
    /// A process that lives.
    pub fn start(name: impl Into<Arc<str>>) -> Self {
        Self { name: name.into(), killed: CancellationToken::new() }
    }

    /// Ends it, as SIGKILL does.
    pub fn kill(&self) {
        self.killed.cancel();
    }

    /// Whether it lives.
    pub fn lives(&self) -> bool {
        !self.killed.is_cancelled()
    }

    /// Returns once it is dead.
    pub async fn died(&self) {
        self.killed.cancelled().await;
    }

    /// Never returns to the dead.
    pub async fn survive(&self) {
        if !self.lives() {
            std::future::pending::<()>().await;
        }
    }

    /// Does something for as long as it lives, and never returns to the dead.
    pub async fn run<T>(&self, work: impl Future<Output = T>) -> T {
        match self.killed.run_until_cancelled(work).await {
            Some(done) if self.lives() => done,
            Some(_) | None => std::future::pending().await,
        }
    }

    /// A token that is cancelled when it dies: for what may end with it.
    pub fn token(&self) -> CancellationToken {
        self.killed.child_token()
    }
}

impl fmt::Display for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.name)
    }
}

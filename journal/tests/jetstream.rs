//! The adapters on NATS, against real servers that `labs/nats-cluster` starts.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

#[path = "jetstream/checks.rs"]
mod checks;
#[path = "jetstream/cluster.rs"]
mod cluster;
#[path = "jetstream/events.rs"]
mod events;
#[path = "jetstream/gateway.rs"]
mod gateway;
#[path = "jetstream/leadership.rs"]
mod leadership;
#[path = "jetstream/loans.rs"]
mod loans;
#[path = "jetstream/log.rs"]
mod log;
#[path = "jetstream/permissions.rs"]
mod permissions;
#[path = "jetstream/placement.rs"]
mod placement;
#[path = "jetstream/progress.rs"]
mod progress;
#[path = "jetstream/queue.rs"]
mod queue;
#[path = "jetstream/server_example.rs"]
mod server_example;
mod support;
#[path = "jetstream/tls.rs"]
mod tls;

use std::future::Future;
use std::time::Duration;

/// How long anything may take before a test gives up on it.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// Waits for what should happen soon.
pub async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(DEADLINE, future).await {
        Ok(done) => done,
        Err(_) => panic!("waited too long for {what}"),
    }
}

/// Asks again and again until it is so.
pub async fn until(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    soon(what, async {
        while !is_so().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
}

//! How far the work of executors has come, as apis hear it.

use std::sync::Arc;
use std::time::Duration;

use tephra_domain::effect::{Direction, EffectKey};
use tephra_domain::ids::{BackendName, OperationId};
use tephra_journal::clock::{Clock, SystemClock};
use tephra_journal::jetstream::{follow_progress, publish_progress};
use tephra_journal::progress_board::{Progress, ProgressBoard};
use tephra_journal::subjects::Cell;
use tephra_journal::wire::message::encode_progress;
use tokio_util::sync::CancellationToken;

use crate::cluster::Cluster;
use crate::permissions::Roles;
use crate::support::{BACKEND, uuid};
use crate::{soon, until};

fn said(operation: u128, done_bytes: u64) -> Progress {
    let operation = OperationId::from_uuid(uuid(operation));
    let key = EffectKey::Step { operation, direction: Direction::Forward, step: 0, attempt: 1 };
    Progress { key, done_bytes, total_bytes: 3 }
}

/// An executor with a board of its own, and an api with another.
struct Told {
    host: ProgressBoard,
    here: ProgressBoard,
    clock: Arc<dyn Clock>,
    stop: CancellationToken,
    tasks: Vec<tokio::task::JoinHandle<()>>,
}

impl Told {
    fn start(executor: async_nats::Client, api: async_nats::Client, cell: &Cell, backend: &str) -> Self {
        let host = ProgressBoard::default();
        let here = ProgressBoard::with_forgotten_after(Duration::from_secs(3600));
        let clock: Arc<dyn Clock> = Arc::new(SystemClock::default());
        let (stop, backend) = (CancellationToken::new(), BackendName::new(backend));
        let following = tokio::spawn({
            let (cell, here, clock, stop) = (cell.clone(), here.clone(), Arc::clone(&clock), stop.clone());
            async move { follow_progress(&api, &cell, &here, &clock, stop).await.unwrap() }
        });
        let publishing = tokio::spawn({
            let (cell, host, clock, stop) = (cell.clone(), host.clone(), Arc::clone(&clock), stop.clone());
            async move { publish_progress(&executor, &cell, &backend, &host, &clock, stop).await }
        });
        Self { host, here, clock, stop, tasks: vec![following, publishing] }
    }

    fn heard(&self) -> Vec<(BackendName, Progress)> {
        self.here.read(self.clock.now())
    }

    async fn end(self) {
        self.stop.cancel();
        for task in self.tasks {
            soon("the end", task).await.unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_api_hears_how_far_executors_are_and_nobody_speaks_for_another_backend() {
    let cluster = Cluster::start(1);
    let cell = cluster.config().cell;
    let told = Told::start(cluster.client().await, cluster.client().await, &cell, BACKEND);
    let (backend, other) = (BackendName::new(BACKEND), BackendName::new("other"));
    // what is there already is said too, and what is another's is not
    told.host.report(&other, said(9, 1), told.clock.now());
    let now = told.clock.now();
    told.host.report(&backend, said(1, 1), now);
    until("the first report", async || told.heard() == [(backend.clone(), said(1, 1))]).await;
    told.host.report(&backend, said(1, 2), told.clock.now());
    until("the second report", async || told.heard() == [(backend.clone(), said(1, 2))]).await;

    // What somebody says is of the backend whose subject it comes on; nonsense is nothing.
    let client = cluster.client().await;
    for nonsense in [vec![], vec![2, 0], vec![1, 0xFF, 0xFF], encode_progress(&[said(1, 1)])[..9].to_vec()] {
        client.publish(cell.progress_subject(&backend), nonsense.into()).await.unwrap();
    }
    let too_many: Vec<_> = (0..2000).map(|operation| said(operation, 3)).collect();
    client.publish(cell.progress_subject(&backend), encode_progress(&too_many).into()).await.unwrap();
    client.publish(cell.progress_subject(&other), encode_progress(&[said(1, 3)]).into()).await.unwrap();
    client.flush().await.unwrap();
    until("the other's word", async || told.heard().iter().any(|(backend, _)| *backend == other)).await;
    assert_eq!(told.heard(), [(backend, said(1, 2)), (other, said(1, 3))]);
    told.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn with_the_permissions_of_the_example_an_api_hears_the_executor() {
    let roles = Roles::start();
    let (executor, api) = (roles.client("executor_lvm").await, roles.client("api").await);
    let told = Told::start(executor, api, roles.cell(), "lvm");
    told.host.report(&BackendName::new("lvm"), said(1, 1), told.clock.now());
    // said again until the one account knows that the other listens
    until("the report", async || told.heard() == [(BackendName::new("lvm"), said(1, 1))]).await;
    told.end().await;
}

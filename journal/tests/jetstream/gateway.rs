//! Commands from afar: whole answers, repeated attempts, failover, and who may say what.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use tephra_domain::actor::Actor;
use tephra_domain::command::Command;
use tephra_domain::effect::{EffectKey, Outcome};
use tephra_domain::event::{Event, Idempotency};
use tephra_domain::ids::{BackendName, DebtId, IdempotencyKey, OperationId, VolumeId};
use tephra_domain::rejection::Rejection;
use tephra_domain::units::SizeGib;
use tephra_domain::volume::VolumeEvent;
use tephra_journal::gateway::{CommandGateway, DecidingGateway, Receipt, Submission, SubmitError};
use tephra_journal::jetstream::{
    GatewayConfig, JetStreamLog, Leadership, LeadershipConfig, NatsGateway, Speaker, Term, serve_commands,
};
use tephra_journal::log::Sequenced;
use tephra_journal::pool_board::PoolBoard;
use tephra_journal::sequencer::{Remembered, SequencerError};
use tokio_util::sync::CancellationToken;

use crate::cluster::Cluster;
use crate::support::{
    BACKEND, Running, create_volume, member, pool_stats, register_backend, replayed, submission, uuid,
};
use crate::{soon, until};

const QUICK: GatewayConfig =
    GatewayConfig { attempt: Duration::from_millis(500), total: Duration::from_secs(30) };

const WARNING: &str = "nothing is synced";

async fn term(cluster: &Cluster, name: &str) -> Arc<Term> {
    let config = LeadershipConfig { candidate: name.to_owned(), lease: Duration::from_millis(1500) };
    let leadership = Leadership::open(&cluster.client().await, &cluster.config(), config).await.unwrap();
    Arc::new(soon("a turn", leadership.campaign()).await)
}

/// A sequencer over the cluster's log that answers commands from afar.
struct Served {
    running: Running,
    term: Arc<Term>,
    stop: CancellationToken,
    serving: tokio::task::JoinHandle<()>,
}

impl Served {
    async fn start(cluster: &Cluster, name: &str) -> Self {
        let term = term(cluster, name).await;
        let log = JetStreamLog::open(&cluster.client().await, &cluster.config()).await.unwrap();
        let running = Running::ready_in_turn(Arc::new(log), name).await;
        Self::serve(cluster, Arc::new(running.handle.clone()), term, running).await
    }

    async fn serve(
        cluster: &Cluster,
        gateway: Arc<dyn DecidingGateway>,
        term: Arc<Term>,
        running: Running,
    ) -> Self {
        let stop = CancellationToken::new();
        let serving = tokio::spawn({
            let (client, cell) = (cluster.client().await, cluster.config().cell);
            let (term, stop) = (Arc::clone(&term), stop.clone());
            async move {
                serve_commands(&client, &cell, gateway, term, Arc::new(|| Some(WARNING.to_owned())), stop)
                    .await
                    .unwrap()
            }
        });
        Self { running, term, stop, serving }
    }

    async fn end(self) {
        self.stop.cancel();
        soon("the last answers", self.serving).await.unwrap();
        self.running.stop().await;
        self.term.resign().await;
    }
}

async fn gateway(cluster: &Cluster, speaker: &Speaker) -> NatsGateway {
    NatsGateway::new(cluster.client().await, &cluster.config().cell, speaker, QUICK)
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_from_afar_are_those_of_the_sequencer() {
    let cluster = Cluster::start(1);
    let served = Served::start(&cluster, "one").await;
    let api = gateway(&cluster, &Speaker::Api).await;

    assert_eq!(api.warning(), None, "nobody has said anything");
    let create = create_volume(4);
    let receipt = api.submit(create.clone()).await.unwrap();
    let Receipt::Accepted { position, commit } = receipt else { panic!("{receipt:?}") };
    assert_eq!((commit.command, &commit.actor), (create.id, &member()));
    assert_eq!(api.warning().as_deref(), Some(WARNING));
    assert!(matches!(&commit.events[0], Event::Volume(_, VolumeEvent::CreateAccepted(_))));
    let written = replayed(&*served.running.log).await;
    assert_eq!(written.head.position, position);
    let same = Sequenced { position, commit };
    assert_eq!(written.recent.get(create.id), Some(Remembered::Whole(&same)));

    let missing = VolumeId::from_uuid(uuid(404));
    let refused = submission(
        member(),
        Command::ExtendVolume { volume: missing, to: SizeGib::new(9).unwrap(), online: false },
    );
    match api.submit(refused).await {
        Err(SubmitError::Rejected(rejection)) => {
            assert_eq!(rejection, Rejection::VolumeNotFound { volume: missing });
        }
        other => panic!("{other:?}"),
    }

    let nothing = api.submit(register_backend()).await.unwrap();
    assert!(matches!(nothing, Receipt::NothingToDo { .. }), "{nothing:?}");

    let keyed = Submission {
        idempotency: Some(Idempotency { key: IdempotencyKey::new("once"), fingerprint: [7; 32] }),
        ..create_volume(1)
    };
    api.submit(keyed.clone()).await.unwrap();
    let again = Submission { id: create_volume(1).id, ..keyed };
    let repeated = api.submit(again).await.unwrap();
    assert!(matches!(repeated, Receipt::Repeated { .. }), "{repeated:?}");
    served.end().await;
}

/// What becomes of the first attempts at commands.
#[derive(Clone, Copy)]
enum Mishap {
    /// They are decided, and the answers are lost.
    LosesAnswers,
    /// They are refused: what the state refused a moment ago it would take now.
    Refuses,
}

/// Decides commands, once so many attempts have met with a mishap.
struct Fickle {
    inner: Arc<dyn DecidingGateway>,
    mishap: Mishap,
    times: usize,
    asked: AtomicUsize,
}

impl Fickle {
    fn over(running: &Running, mishap: Mishap, times: usize) -> Arc<Self> {
        Arc::new(Self { inner: Arc::new(running.handle.clone()), mishap, times, asked: AtomicUsize::new(0) })
    }
}

#[async_trait]
impl CommandGateway for Fickle {
    async fn submit(&self, submission: Submission) -> Result<Receipt, SubmitError> {
        if self.asked.fetch_add(1, Ordering::SeqCst) >= self.times {
            return self.inner.submit(submission).await;
        }
        match self.mishap {
            Mishap::LosesAnswers => {
                drop(self.inner.submit(submission).await);
                std::future::pending().await
            }
            Mishap::Refuses => Err(Rejection::PolicyNotAuthorized { action: "at first" }.into()),
        }
    }
}

#[async_trait]
impl DecidingGateway for Fickle {
    async fn submit_of_executor(
        &self,
        backend: BackendName,
        submission: Submission,
    ) -> Result<Receipt, SubmitError> {
        self.inner.submit_of_executor(backend, submission).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_whose_answers_are_lost_is_asked_again_and_happens_once() {
    let cluster = Cluster::start(1);
    let term = term(&cluster, "one").await;
    let log = JetStreamLog::open(&cluster.client().await, &cluster.config()).await.unwrap();
    let running = Running::ready_again(Arc::new(log)).await;
    let lossy = Fickle::over(&running, Mishap::LosesAnswers, 2);
    let served = Served::serve(&cluster, lossy, term, running).await;
    let before = replayed(&*served.running.log).await.head.position;
    let api = gateway(&cluster, &Speaker::Api).await;
    let receipt = soon("an answer", api.submit(create_volume(1))).await.unwrap();
    assert_eq!(receipt.position().0, before.0 + 1);
    assert_eq!(replayed(&*served.running.log).await.head.position.0, before.0 + 1);
    served.serving.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_that_was_refused_is_not_done_by_its_other_attempt() {
    let cluster = Cluster::start(1);
    let term = term(&cluster, "one").await;
    let log = JetStreamLog::open(&cluster.client().await, &cluster.config()).await.unwrap();
    let running = Running::ready_again(Arc::new(log)).await;
    let fickle = Fickle::over(&running, Mishap::Refuses, 1);
    let served = Served::serve(&cluster, fickle, term, running).await;
    let api = gateway(&cluster, &Speaker::Api).await;
    let refused = create_volume(1);
    for attempt in ["first", "second"] {
        let answer = soon("an answer", api.submit(refused.clone())).await;
        assert!(matches!(answer, Err(SubmitError::Rejected(_))), "the {attempt} attempt: {answer:?}");
    }
    assert!(soon("an answer", api.submit(create_volume(1))).await.is_ok(), "another command");
    assert_eq!(replayed(&*served.running.log).await.ledger.volumes.len(), 1);
    served.serving.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_sequencer_the_ledger_is_unavailable_after_a_while() {
    let cluster = Cluster::start(1);
    let config = GatewayConfig { total: Duration::from_millis(300), ..QUICK };
    let api = NatsGateway::new(cluster.client().await, &cluster.config().cell, &Speaker::Api, config);
    match soon("an answer", api.submit(create_volume(1))).await {
        Err(SubmitError::Unavailable { reason }) => assert!(reason.contains("no sequencer"), "{reason}"),
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_go_on_through_a_failover_and_each_happens_once() {
    let cluster = Cluster::start(1);
    let first = Served::start(&cluster, "first").await;
    let api = gateway(&cluster, &Speaker::Api).await;
    let asking = tokio::spawn(async move {
        let mut positions = Vec::new();
        for _ in 0..60 {
            positions.push(api.submit(create_volume(1)).await.unwrap().position());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        positions
    });
    until("some commands", async || first.running.log.head().await.unwrap().0 > 10).await;
    // As if killed: it neither answers nor resigns, and what it had decided stays.
    first.serving.abort();
    let Served { running: old, term, .. } = first;
    drop(term);
    let second = Served::start(&cluster, "second").await;
    let positions = soon("all answers", asking).await.unwrap();
    let written = replayed(&*second.running.log).await;
    assert_eq!(written.ledger.volumes.len(), 60);
    let mut unique = positions.clone();
    unique.sort_unstable();
    unique.dedup();
    assert_eq!(unique.len(), positions.len());
    // The old one finds that another has gone on, and decides nothing any more.
    let late = old.submit(create_volume(1)).await;
    assert!(matches!(late, Err(SubmitError::Unavailable { .. })), "{late:?}");
    let ended = soon("the end of the old one", old.handle.drained()).await;
    assert!(ended.is_err_and(|error| matches!(*error, SequencerError::Overtaken(_))));
    assert_eq!(replayed(&*second.running.log).await.head, written.head);
    second.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_are_answered_again_after_the_loss_of_the_bucket_of_leases() {
    let cluster = Cluster::start(1);
    let served = Served::start(&cluster, "one").await;
    let api = gateway(&cluster, &Speaker::Api).await;
    api.submit(create_volume(1)).await.unwrap();
    let context = async_nats::jetstream::new(cluster.client().await);
    context.delete_key_value(cluster.config().cell.lease_bucket()).await.unwrap();
    // It finds out when it cannot renew.
    until("doubt or a new bucket", async || {
        !served.term.is_certain() || context.get_key_value(cluster.config().cell.lease_bucket()).await.is_ok()
    })
    .await;
    soon("an answer", api.submit(create_volume(1))).await.unwrap();
    until("certainty", async || served.term.is_certain()).await;
    served.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_executor_is_heard_on_what_executors_report_and_on_nothing_else() {
    let cluster = Cluster::start(1);
    let served = Served::start(&cluster, "one").await;
    let executor = gateway(&cluster, &Speaker::Executor(BackendName::new(BACKEND))).await;
    let stranger = gateway(&cluster, &Speaker::Executor(BackendName::new("other"))).await;
    let key = EffectKey::Debt {
        debt: DebtId { operation: OperationId::from_uuid(uuid(1)), ordinal: 0 },
        attempt: 1,
    };
    executor.submit(register_backend()).await.unwrap();
    let report = Command::ReportOutcome { key, outcome: Outcome::Done };
    for command in [report.clone(), Command::CheckAttempt { key }] {
        match executor.submit(submission(Actor::system(), command)).await {
            Err(SubmitError::Rejected(Rejection::StaleReport)) => {}
            other => panic!("{other:?}"),
        }
    }
    let forbidden = [
        (&executor, create_volume(1)),
        (
            &executor,
            submission(Actor::system(), Command::EnableBackend { backend: BackendName::new(BACKEND) }),
        ),
        (&executor, submission(member(), report)),
        (&stranger, register_backend()),
    ];
    for (speaker, submission) in forbidden {
        match speaker.submit(submission).await {
            Err(SubmitError::Rejected(Rejection::PolicyNotAuthorized { .. })) => {}
            other => panic!("{other:?}"),
        }
    }
    served.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_executor_is_heard_on_the_attempts_of_its_own_backend_and_on_no_other_s() {
    let cluster = Cluster::start(1);
    let served = Served::start(&cluster, "one").await;
    let executor = gateway(&cluster, &Speaker::Executor(BackendName::new(BACKEND))).await;
    let stranger = gateway(&cluster, &Speaker::Executor(BackendName::new("other"))).await;
    let api = gateway(&cluster, &Speaker::Api).await;
    api.submit(create_volume(1)).await.unwrap();
    let due = replayed(&*served.running.log).await.ledger.all_due();
    let [due] = due.as_slice() else { panic!("one effect is due: {due:?}") };
    let check = Command::CheckAttempt { key: due.key };
    let report = Command::ReportOutcome { key: due.key, outcome: Outcome::Done };
    for command in [check.clone(), report.clone()] {
        match stranger.submit(submission(Actor::system(), command)).await {
            Err(SubmitError::Rejected(Rejection::PolicyNotAuthorized { .. })) => {}
            other => panic!("{other:?}"),
        }
    }
    let question = submission(Actor::system(), check);
    executor.submit(question.clone()).await.unwrap();
    let done = executor.submit(submission(Actor::system(), report.clone())).await.unwrap();
    assert!(matches!(done, Receipt::Accepted { .. }), "{done:?}");
    // what was so before the report is no answer after it, not even to the same question
    match executor.submit(question).await {
        Err(SubmitError::Rejected(Rejection::StaleReport)) => {}
        other => panic!("{other:?}"),
    }
    match stranger.submit(submission(Actor::system(), report)).await {
        Err(SubmitError::Rejected(Rejection::StaleReport)) => {}
        other => panic!("{other:?}"),
    }
    served.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pools_of_other_hosts_are_on_every_board_and_nobody_speaks_for_another() {
    use tephra_domain::units::Timestamp;
    use tephra_journal::clock::{Clock, SystemClock};
    use tephra_journal::jetstream::{follow_pools, publish_pools};

    let cluster = Cluster::start(1);
    let (host, here) = (PoolBoard::default(), PoolBoard::default());
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::default());
    let stop = CancellationToken::new();
    let cell = cluster.config().cell;
    let (client, other_client) = (cluster.client().await, cluster.client().await);
    let (backend, other) = (BackendName::new(BACKEND), BackendName::new("other"));
    let following = tokio::spawn({
        let (client, cell, here, clock, stop) =
            (client.clone(), cell.clone(), here.clone(), Arc::clone(&clock), stop.clone());
        async move { follow_pools(&client, &cell, &here, &clock, stop).await.unwrap() }
    });
    host.report(pool_stats(clock.now()));
    let publishing = tokio::spawn({
        let (cell, host, clock, stop) = (cell.clone(), host.clone(), Arc::clone(&clock), stop.clone());
        async move { publish_pools(&other_client, &cell, &backend, &host, &clock, stop).await }
    });
    until("the report", async || !here.read(clock.now()).is_empty()).await;
    let heard = here.read(clock.now());
    assert!(heard[0].is_up && heard[0].reported_at > Timestamp(0));
    // Another host claims to speak for this backend: full.
    let lie = tephra_domain::scheduler::PoolStats { free_gib: 0.0, ..pool_stats(clock.now()) };
    let bytes = tephra_journal::wire::message::encode_pools(std::slice::from_ref(&lie));
    client.publish(cell.pools_subject(&other), bytes.into()).await.unwrap();
    client.flush().await.unwrap();
    host.report(tephra_domain::scheduler::PoolStats { free_gib: 5.0, ..pool_stats(clock.now()) });
    until("the change", async || {
        let free = here.read(clock.now())[0].free_gib;
        assert!(free > 0.0, "the lie was believed");
        (free - 5.0).abs() < 0.1
    })
    .await;
    stop.cancel();
    soon("the end", async { (following.await.unwrap(), publishing.await.unwrap()) }).await;
}

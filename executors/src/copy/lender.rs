//! Lending: an object of a backend of this process, served by `qemu-nbd` to an executor of another.
//!
//! What it runs: `prlimit … qemu-nbd --read-only --persistent --tls-creds=…`, one for each loan, on a port
//! of its own. It speaks TLS and lets in who has the loan's key, which goes over NATS to whoever asked. It is a
//! child of ours that dies with us: a lender that is gone holds nothing open, and has nothing to be swept.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use rustix::process::{Pid, Signal, kill_process};
use tephra_domain::effect::{Failure, FailureKind};
use tephra_domain::ids::BackendName;
use tephra_journal::loans::{Lender, Loan, LoanRequest};
use tokio::sync::{Mutex, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::key::{CREDENTIALS, Endpoint, KeyDirectory};
use super::qemu::{End, Limits};
use crate::backend::{Backend, Content};
use crate::process::{Launcher, Output, ProcessError, Program};

/// How long a loan lasts that nobody asks for again.
pub const LOAN_LASTS: Duration = Duration::from_secs(60);

/// The longest that one server runs. A loan that lasts longer gets another one.
const SERVED_AT_MOST: Duration = Duration::from_secs(7 * 24 * 3600);

/// How long a server may take to open what it serves.
const START_LIMIT: Duration = Duration::from_secs(30);

/// How often it is looked whether it has.
const START_INTERVAL: Duration = Duration::from_millis(10);

/// How long a server that was killed may take to be gone.
const END_LIMIT: Duration = Duration::from_secs(10);

/// Connections that a server takes at a time; each run of `qemu-img` needs one.
const CONNECTIONS: u32 = 8;

/// What `qemu-nbd` says of a port that somebody else listens on.
const PORT_TAKEN: &str = "Address already in use";

/// Where loans are served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LendingConfig {
    /// The address that other hosts reach.
    pub address: IpAddr,
    /// The ports, one for each loan.
    pub ports: RangeInclusive<u16>,
}

/// Lends what the backends of this process hold.
pub struct QemuLender {
    id: Uuid,
    config: LendingConfig,
    launcher: Arc<dyn Launcher>,
    limits: Limits,
    backends: BTreeMap<BackendName, Arc<dyn Backend>>,
    loans: Mutex<BTreeMap<Uuid, Lent>>,
}

struct Lent {
    loan: Loan,
    until: watch::Sender<Instant>,
    is_over: CancellationToken,
    serving: JoinHandle<Option<ProcessError>>,
}

impl Lent {
    /// The loan, which lasts as long as a new one from now on.
    fn renewed(&self) -> Loan {
        self.until.send_replace(Instant::now() + LOAN_LASTS);
        self.loan.clone()
    }
}

/// A server that is being started on a port.
struct Start {
    program: Program,
    pid_file: PathBuf,
    keys: KeyDirectory,
}

impl QemuLender {
    /// Lends what these backends hold.
    pub fn new(
        config: LendingConfig,
        launcher: Arc<dyn Launcher>,
        limits: Limits,
        backends: impl IntoIterator<Item = Arc<dyn Backend>>,
    ) -> Self {
        let named = |backend: Arc<dyn Backend>| (backend.name().clone(), backend);
        Self {
            id: Uuid::new_v4(),
            config,
            launcher,
            limits,
            backends: backends.into_iter().map(named).collect(),
            loans: Mutex::default(),
        }
    }

    /// Ends all loans.
    pub async fn give_back_all(&self) {
        let all: Vec<Uuid> = self.loans.lock().await.keys().copied().collect();
        for loan in all {
            self.give_back(loan).await;
        }
    }

    /// Lends what is in one place, of whatever backend.
    pub(crate) async fn lend_content(
        &self,
        request: &LoanRequest,
        content: &Content,
    ) -> Result<Loan, Failure> {
        let mut loans = self.loans.lock().await;
        match known(&mut loans, request.loan) {
            Some(loan) => Ok(loan),
            None => self.lend_from(&mut loans, request, content).await,
        }
    }

    async fn lend_from(
        &self,
        loans: &mut BTreeMap<Uuid, Lent>,
        request: &LoanRequest,
        content: &Content,
    ) -> Result<Loan, Failure> {
        let taken = loans.values().map(|lent| lent.loan.port).collect();
        let lent = self.begin(request, content, &taken).await?;
        tracing::info!(object = %request.object, pool = %request.pool, "lent to another executor");
        let loan = lent.renewed();
        loans.insert(request.loan, lent);
        Ok(loan)
    }

    async fn begin(
        &self,
        request: &LoanRequest,
        content: &Content,
        taken: &BTreeSet<u16>,
    ) -> Result<Lent, Failure> {
        let source = End::of(content).await;
        for port in self.config.ports.clone().filter(|port| !taken.contains(port)) {
            // 244 random bits
            let key = format!("{}{}", Uuid::new_v4().simple(), Uuid::new_v4().simple());
            let start = self.server(&source, request.loan, port, KeyDirectory::make(&key).await?);
            let loan = Loan {
                lender: self.id,
                host: self.config.address.to_string().into(),
                port,
                key: key.into(),
                lasts_ms: u64::try_from(LOAN_LASTS.as_millis()).unwrap_or(u64::MAX),
            };
            match self.served(start, loan).await {
                Ok(lent) => return Ok(lent),
                Err(ProcessError::Failed { stderr_tail, .. }) if stderr_tail.contains(PORT_TAKEN) => {}
                Err(error) => {
                    tracing::warn!(object = %request.object, %error, "an object cannot be lent");
                    return Err(not_served(&error));
                }
            }
        }
        let message = format!("all {} ports for loans are taken", self.config.ports.len());
        Err(Failure::new(FailureKind::BackendUnavailable, message))
    }

    fn server(&self, source: &End<'_>, loan: Uuid, port: u16, keys: KeyDirectory) -> Start {
        let pid_file = keys.path().join("pid");
        let program = Program::new("prlimit", SERVED_AT_MOST)
            .arg(format!("--as={}", self.limits.memory_bytes))
            .args(["qemu-nbd", "--read-only", "--persistent"])
            .arg(format!("--shared={CONNECTIONS}"))
            .arg(format!("--bind={}", self.config.address))
            .arg(format!("--port={port}"))
            .arg(format!("--export-name={}", export_name(loan)))
            .arg("--object")
            .arg(keys.object(Endpoint::Server))
            .arg(format!("--tls-creds={CREDENTIALS}"))
            .arg(option("--pid-file=", &pid_file))
            .arg("--image-opts")
            .arg(source.whole());
        Start { program, pid_file, keys }
    }

    /// Serves until nobody asks for it any more, once the server listens.
    async fn served(&self, start: Start, loan: Loan) -> Result<Lent, ProcessError> {
        let Start { program, pid_file, keys } = start;
        let (until, mut lasts) = watch::channel(Instant::now() + START_LIMIT + LOAN_LASTS);
        let (is_over, launcher) = (CancellationToken::new(), Arc::clone(&self.launcher));
        let (over, running) = (is_over.clone(), pid_file.clone());
        let mut serving = tokio::spawn(async move {
            let mut ended = launcher.launch(program);
            let reason = tokio::select! {
                biased;
                () = over.cancelled() => None,
                output = &mut ended => return died(output),
                () = run_out(&mut lasts) => Some("nobody asks for it any more"),
            };
            if let Some(reason) = reason {
                tracing::info!(reason, "a loan has ended");
            }
            if let Some(pid) = read_pid(&running).await {
                // it is our child, and not waited for yet: nobody else has its number
                if let Err(error) = kill_process(pid, Signal::KILL) {
                    tracing::warn!(%error, "a loan's server could not be ended");
                }
            }
            drop(tokio::time::timeout(END_LIMIT, ended).await);
            drop(keys);
            None
        });
        let started = async {
            // it writes down who it is when it listens
            while read_pid(&pid_file).await.is_none() {
                tokio::time::sleep(START_INTERVAL).await;
            }
        };
        let lent = |serving| Lent { loan, until, is_over: is_over.clone(), serving };
        tokio::select! {
            biased;
            ended = &mut serving => Err(ended.ok().flatten().unwrap_or_else(|| no_answer(Duration::ZERO))),
            started = tokio::time::timeout(START_LIMIT, started) => match started {
                Ok(()) => Ok(lent(serving)),
                Err(_elapsed) => {
                    is_over.cancel();
                    drop(serving.await);
                    Err(no_answer(START_LIMIT))
                }
            },
        }
    }
}

/// A loan that is served, which lasts longer now.
fn known(loans: &mut BTreeMap<Uuid, Lent>, loan: Uuid) -> Option<Loan> {
    loans.retain(|_, lent| !lent.serving.is_finished());
    loans.get(&loan).map(Lent::renewed)
}

/// What a borrower asks a server for.
pub fn export_name(loan: Uuid) -> String {
    loan.to_string()
}

fn option(name: &str, path: &Path) -> std::ffi::OsString {
    let mut option = std::ffi::OsString::from(name);
    option.push(path);
    option
}

async fn read_pid(file: &Path) -> Option<Pid> {
    let text = tokio::fs::read_to_string(file).await.ok()?;
    Pid::from_raw(text.trim().parse().ok()?)
}

async fn run_out(until: &mut watch::Receiver<Instant>) {
    loop {
        let end = *until.borrow_and_update();
        if Instant::now() >= end {
            return;
        }
        tokio::time::sleep_until(end).await;
    }
}

fn died(output: Result<Output, ProcessError>) -> Option<ProcessError> {
    match output {
        Ok(_) => {
            tracing::warn!("a loan's server has ended by itself");
            None
        }
        Err(error) => {
            tracing::warn!(%error, "a loan's server has ended");
            Some(error)
        }
    }
}

fn no_answer(time_limit: Duration) -> ProcessError {
    ProcessError::TimedOut { program: "qemu-nbd".to_owned(), time_limit, stderr_tail: String::new() }
}

fn not_served(error: &ProcessError) -> Failure {
    let (kind, why) = match error {
        ProcessError::NotFound { .. } => (FailureKind::BackendUnavailable, error.to_string()),
        ProcessError::TimedOut { .. } => (FailureKind::TimedOut, "its server does not start".to_owned()),
        ProcessError::Broken { .. } | ProcessError::Failed { .. } | ProcessError::TooMuchOutput { .. } => {
            (FailureKind::BackendError, "its server does not start; the executor's log has more".to_owned())
        }
    };
    Failure::new(kind, format!("the source cannot be lent: {why}"))
}

#[async_trait]
impl Lender for QemuLender {
    fn id(&self) -> Uuid {
        self.id
    }

    async fn lend(&self, request: &LoanRequest) -> Result<Loan, Failure> {
        let mut loans = self.loans.lock().await;
        if let Some(loan) = known(&mut loans, request.loan) {
            return Ok(loan);
        }
        let Some(backend) = self.backends.get(&request.pool.backend) else {
            let message = format!("{} is not served by this executor", request.pool);
            return Err(Failure::new(FailureKind::BackendUnavailable, message));
        };
        let content = backend.content(&request.pool.pool, request.object).await?;
        self.lend_from(&mut loans, request, &content).await
    }

    async fn give_back(&self, loan: Uuid) {
        let lent = self.loans.lock().await.remove(&loan);
        if let Some(lent) = lent {
            lent.is_over.cancel();
            drop(lent.serving.await);
        }
    }
}

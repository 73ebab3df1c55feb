//! Lending: an object of a backend of this process, served by `qemu-nbd` to an executor of another.
//!
//! What it runs: `prlimit … qemu-nbd --read-only --persistent --tls-creds=…`, one for each loan, on a port
//! of its own. It speaks TLS and lets in who has the loan's key, which goes over NATS to whoever asked. It is a
//! child of ours that dies with us: a lender that is gone holds nothing open. What a kill -9 leaves behind is a
//! directory in that for temporary files, with a key that opens nothing any more.

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, TcpListener};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use rustix::process::{Pid, Signal, kill_process};
use tephra_domain::effect::{Failure, FailureKind};
use tephra_domain::ids::BackendName;
use tephra_journal::loans::{Lender, Loan, LoanRequest};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};
use uuid::Uuid;

use super::key::{CREDENTIALS, Endpoint, KeyDirectory};
use super::qemu::{End, Limits};
use crate::backend::{Backend, Content};
use crate::process::{Launcher, Output, ProcessError, Program};

/// How long a loan lasts that nobody asks for again.
pub const LOAN_LASTS: Duration = Duration::from_secs(60);

/// For how long a loan that was given back is not made again: a question that was overtaken may arrive later.
const GIVEN_BACK_FOR: Duration = Duration::from_secs(120);

/// The longest that one server runs. A loan that lasts longer gets another one.
const SERVED_AT_MOST: Duration = Duration::from_secs(7 * 24 * 3600);

/// How long lending may take, so that whoever asks still hears of it.
const LEND_LIMIT: Duration = Duration::from_secs(30);

/// How long a server may take of that to open what it serves.
const START_LIMIT: Duration = Duration::from_secs(20);

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
    /// How long a loan lasts that nobody asks for again; usually [`LOAN_LASTS`].
    pub lasts: Duration,
}

/// Lends what the backends of this process hold.
pub struct QemuLender {
    id: Uuid,
    config: LendingConfig,
    launcher: Arc<dyn Launcher>,
    limits: Limits,
    backends: BTreeMap<BackendName, Arc<dyn Backend>>,
    book: Mutex<Book>,
}

/// All loans. Nobody waits for anything while it is open.
#[derive(Default)]
struct Book {
    loans: BTreeMap<Uuid, Entry>,
    given_back: VecDeque<(Instant, Uuid)>,
}

enum Entry {
    /// It is being made, perhaps on a port already.
    Beginning { port: Option<u16> },
    /// It is served.
    Lent(Lent),
}

struct Lent {
    request: LoanRequest,
    loan: Loan,
    until: watch::Sender<Instant>,
    /// Ends it, also when this is dropped.
    is_over: DropGuard,
    /// That it is ending.
    ends: CancellationToken,
    serving: JoinHandle<Option<ProcessError>>,
}

/// A server that is being started on a port.
struct Start {
    program: Program,
    pid_file: PathBuf,
    keys: KeyDirectory,
}

/// What is to be done about a question.
enum Turn {
    Known(Loan),
    Refused(Failure),
    Begin,
}

impl Book {
    fn forget_what_is_over(&mut self) {
        self.loans.retain(|_, entry| match entry {
            Entry::Beginning { .. } => true,
            Entry::Lent(lent) => !lent.ends.is_cancelled() && !lent.serving.is_finished(),
        });
        self.given_back.retain(|(at, _)| at.elapsed() < GIVEN_BACK_FOR);
    }

    fn turn(&mut self, request: &LoanRequest, lasts: Duration, most: usize) -> Turn {
        self.forget_what_is_over();
        let refused = |kind, message: &str| Turn::Refused(Failure::new(kind, message));
        if self.given_back.iter().any(|(_, loan)| *loan == request.loan) {
            return refused(FailureKind::BackendUnavailable, "the loan was given back");
        }
        match self.loans.get(&request.loan) {
            Some(Entry::Lent(lent)) if lent.request == *request => {
                lent.until.send_replace(Instant::now() + lasts);
                Turn::Known(lent.loan.clone())
            }
            Some(Entry::Lent(_)) => refused(FailureKind::Mismatch, "the loan is of another object"),
            Some(Entry::Beginning { .. }) => refused(FailureKind::Busy, "the loan is being made"),
            None if self.loans.len() >= most => {
                refused(FailureKind::BackendUnavailable, "all ports for loans are taken")
            }
            None => {
                self.loans.insert(request.loan, Entry::Beginning { port: None });
                Turn::Begin
            }
        }
    }

    fn has_port(&self, port: u16) -> bool {
        self.loans.values().any(|entry| match entry {
            Entry::Beginning { port: taken } => *taken == Some(port),
            Entry::Lent(lent) => lent.loan.port == port,
        })
    }
}

/// A loan that is being made: gone from the book if it does not come to be.
struct Beginning<'a> {
    lender: &'a QemuLender,
    loan: Uuid,
}

impl Drop for Beginning<'_> {
    fn drop(&mut self) {
        let mut book = self.lender.book();
        if matches!(book.loans.get(&self.loan), Some(Entry::Beginning { .. })) {
            book.loans.remove(&self.loan);
        }
    }
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
            book: Mutex::default(),
        }
    }

    /// Ends all loans.
    pub async fn give_back_all(&self) {
        let all: Vec<Uuid> = self.book().loans.keys().copied().collect();
        for loan in all {
            self.give_back(loan).await;
        }
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lends what is in one place, of whatever backend.
    pub(crate) async fn lend_from(
        &self,
        request: &LoanRequest,
        content: impl Future<Output = Result<Content, Failure>>,
    ) -> Result<Loan, Failure> {
        let turn = self.book().turn(request, self.config.lasts, self.config.ports.len());
        match turn {
            Turn::Known(loan) => return Ok(loan),
            Turn::Refused(failure) => return Err(failure),
            Turn::Begin => {}
        }
        let _beginning = Beginning { lender: self, loan: request.loan };
        let made = async { self.make(request, &content.await?).await };
        let lent = tokio::time::timeout(LEND_LIMIT, made).await.map_err(|_| {
            let message = format!("{} cannot be lent within {} s", request.object, LEND_LIMIT.as_secs());
            Failure::new(FailureKind::TimedOut, message)
        })??;
        let loan = lent.loan.clone();
        let mut book = self.book();
        match book.loans.get_mut(&request.loan) {
            Some(entry) => *entry = Entry::Lent(lent),
            // it was given back before it was there
            None => return Err(Failure::new(FailureKind::BackendUnavailable, "the loan was given back")),
        }
        drop(book);
        tracing::info!(object = %request.object, pool = %request.pool, "lent to another executor");
        Ok(loan)
    }

    /// A port that nobody has, for a loan that is being made.
    fn port(&self, loan: Uuid, tried: u16) -> Option<u16> {
        let mut book = self.book();
        let is_free = |port: &u16| TcpListener::bind((self.config.address, *port)).is_ok();
        let mut ports = self.config.ports.clone().filter(|port| *port > tried);
        let found = ports.find(|port| !book.has_port(*port) && is_free(port))?;
        // it may have been given back meanwhile
        *book.loans.get_mut(&loan)? = Entry::Beginning { port: Some(found) };
        Some(found)
    }

    async fn make(&self, request: &LoanRequest, content: &Content) -> Result<Lent, Failure> {
        let source = End::of(content).await;
        let mut tried = 0;
        while let Some(port) = self.port(request.loan, tried) {
            tried = port;
            // 244 random bits
            let key = format!("{}{}", Uuid::new_v4().simple(), Uuid::new_v4().simple());
            let start = self.server(&source, request.loan, port, KeyDirectory::make(&key).await?);
            let loan = Loan {
                lender: self.id,
                host: self.config.address.to_string().into(),
                port,
                key: key.into(),
                lasts_ms: u64::try_from(self.config.lasts.as_millis()).unwrap_or(u64::MAX),
            };
            match self.served(start, request, loan).await {
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
    async fn served(&self, start: Start, request: &LoanRequest, loan: Loan) -> Result<Lent, ProcessError> {
        let Start { program, pid_file, keys } = start;
        let (until, mut lasts) = watch::channel(Instant::now() + START_LIMIT + self.config.lasts);
        let (over, ends) = (CancellationToken::new(), CancellationToken::new());
        let is_over = over.clone().drop_guard();
        let (launcher, running, ending) = (Arc::clone(&self.launcher), pid_file.clone(), ends.clone());
        let mut serving = tokio::spawn(async move {
            let _keys = keys;
            let mut ended = launcher.launch(program);
            tokio::select! {
                biased;
                () = over.cancelled() => {}
                output = &mut ended => return died(output),
                () = run_out(&mut lasts) => tracing::info!("a loan has ended: nobody asks for it any more"),
            }
            ending.cancel();
            // without a number it has not begun, and dropping it ends it
            if let Some(pid) = read_pid(&running).await {
                // it is our child, and not waited for yet: nobody else has its number
                if let Err(error) = kill_process(pid, Signal::KILL) {
                    tracing::warn!(%error, "a loan's server could not be ended");
                }
                drop(tokio::time::timeout(END_LIMIT, ended).await);
            }
            None
        });
        let started = async {
            // it writes down who it is when it listens
            while read_pid(&pid_file).await.is_none() {
                tokio::time::sleep(START_INTERVAL).await;
            }
        };
        tokio::select! {
            biased;
            ended = &mut serving => Err(ended.ok().flatten().unwrap_or_else(|| no_answer(Duration::ZERO))),
            started = tokio::time::timeout(START_LIMIT, started) => match started {
                Ok(()) => {
                    until.send_replace(Instant::now() + self.config.lasts);
                    Ok(Lent { request: request.clone(), loan, until, is_over, ends, serving })
                }
                Err(_elapsed) => Err(no_answer(START_LIMIT)),
            },
        }
    }
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
        let content = async {
            let Some(backend) = self.backends.get(&request.pool.backend) else {
                let message = format!("{} is not served by this executor", request.pool);
                return Err(Failure::new(FailureKind::BackendUnavailable, message));
            };
            backend.content(&request.pool.pool, request.object).await
        };
        self.lend_from(request, content).await
    }

    async fn give_back(&self, loan: Uuid) {
        let entry = {
            let mut book = self.book();
            book.given_back.push_back((Instant::now(), loan));
            book.loans.remove(&loan)
        };
        if let Some(Entry::Lent(Lent { is_over, serving, .. })) = entry {
            drop(is_over);
            drop(serving.await);
        }
    }
}

//! Volumes made of what the executor of another process lends: by real servers and clients of NBD.

#![allow(clippy::unwrap_used, reason = "in a test, whatever is not as expected is a failure")]

#[allow(dead_code, reason = "the runner's own tests use the rest")]
mod support;

use std::fs::File;
use std::net::{IpAddr, Ipv4Addr, TcpListener};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use support::{gib, volume};
use tempfile::TempDir;
use tephra_domain::backend::BackendDescription;
use tephra_domain::effect::{Effect, Failure, FailureKind};
use tephra_domain::ids::{BackendName, PoolId, PoolName};
use tephra_executors::backend::Backend;
use tephra_executors::backend::conformance::Fingerprint;
use tephra_executors::backend::directory::{DirectoryBackend, DirectoryConfig};
use tephra_executors::copy::{Copier, LendingConfig, Limits, Neighbours, QemuLender, act};
use tephra_executors::process::{Launcher, Output, ProcessError, Program, Spawner};
use tephra_journal::loans::{Lender, Loan, LoanRequest, Loans};
use tokio::net::TcpStream;
use uuid::Uuid;

const GIB: u64 = 1 << 30;
const HOST: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// The way to the executors of one backend, of which the last one is up.
#[derive(Default)]
struct Lenders {
    up: Mutex<Option<Arc<QemuLender>>>,
    asked: Mutex<Vec<Loan>>,
}

impl Lenders {
    fn up(&self, lender: Option<Uuid>) -> Result<Arc<QemuLender>, Failure> {
        let up = self.up.lock().unwrap().clone();
        let up = up.filter(|up| lender.is_none_or(|lender| up.id() == lender));
        up.ok_or_else(|| Failure::new(FailureKind::BackendUnavailable, "nobody is there"))
    }
}

#[async_trait]
impl Loans for Lenders {
    async fn borrow(&self, lender: Option<Uuid>, request: &LoanRequest) -> Result<Loan, Failure> {
        let loan = self.up(lender)?.lend(request).await?;
        self.asked.lock().unwrap().push(loan.clone());
        Ok(loan)
    }

    async fn give_back(&self, _: &BackendName, lender: Uuid, loan: Uuid) -> Result<(), Failure> {
        self.up(Some(lender))?.give_back(loan).await;
        Ok(())
    }
}

fn directory(below: &Path, name: &str) -> Arc<dyn Backend> {
    let config = DirectoryConfig::new(BackendName::new(name), "host", below.join(name));
    Arc::new(DirectoryBackend::open(config).unwrap())
}

fn lender(from: &Arc<dyn Backend>, ports: std::ops::RangeInclusive<u16>) -> Arc<QemuLender> {
    let config = LendingConfig { address: HOST, ports };
    Arc::new(QemuLender::new(config, Arc::new(Spawner), Limits::default(), [Arc::clone(from)]))
}

/// Ports that nobody listens on, as far as can be known.
fn free_ports(count: u16) -> std::ops::RangeInclusive<u16> {
    loop {
        let first = TcpListener::bind((HOST, 0)).unwrap().local_addr().unwrap().port();
        let Some(last) = first.checked_add(count - 1) else { continue };
        if (first..=last).all(|port| TcpListener::bind((HOST, port)).is_ok()) {
            return first..=last;
        }
    }
}

/// `from` is one executor's and `into` another's.
struct Hosts {
    root: TempDir,
    from: Arc<dyn Backend>,
    into: Arc<dyn Backend>,
    lenders: Arc<Lenders>,
}

impl Hosts {
    async fn with_source(size_gib: u32) -> Self {
        let root = tempfile::tempdir().unwrap();
        let (from, into) = (directory(root.path(), "from"), directory(root.path(), "into"));
        let create = Effect::CreateVolume { volume: volume(1), size: gib(size_gib) };
        from.perform(&PoolName::new("from"), &create).await.unwrap();
        let hosts = Self { root, from, into, lenders: Arc::default() };
        let file = File::options().write(true).open(hosts.source()).unwrap();
        for n in 0..u64::from(size_gib) {
            file.write_all_at(format!("in gigabyte {n}").as_bytes(), n * GIB + 12_345 * n).unwrap();
        }
        hosts
    }

    fn source(&self) -> std::path::PathBuf {
        self.root.path().join("from").join(volume(1).to_string())
    }

    fn lend(&self, ports: std::ops::RangeInclusive<u16>) -> Arc<QemuLender> {
        let lender = lender(&self.from, ports);
        *self.lenders.up.lock().unwrap() = Some(Arc::clone(&lender));
        lender
    }

    fn request(&self) -> LoanRequest {
        LoanRequest { loan: Uuid::new_v4(), pool: pool("from"), object: volume(1) }
    }

    async fn copy(&self, launcher: Arc<dyn Launcher>, size_gib: u32) -> Result<(), Failure> {
        let copier = Copier::new(launcher, Limits::default());
        let neighbours = Neighbours::new(copier, [Arc::clone(&self.into)])
            .among_others(Arc::clone(&self.lenders) as Arc<dyn Loans>, false);
        let effect = Effect::CopyVolume {
            volume: volume(2),
            size: gib(size_gib),
            from: pool("from"),
            source: volume(1),
        };
        act(&*self.into, None, Some(&neighbours), &PoolName::new("into"), &effect).await
    }

    fn is_copied(&self, size_gib: u32) -> bool {
        let expected =
            Fingerprint { bytes: gib(size_gib).bytes(), ..Fingerprint::of_file(&self.source()).unwrap() };
        let copy = self.root.path().join("into").join(volume(2).to_string());
        Fingerprint::of_file(&copy).unwrap() == expected
    }

    /// Whether a loan that was given is served.
    async fn is_served(&self, which: usize) -> bool {
        let loan = self.lenders.asked.lock().unwrap()[which].clone();
        is_served(&loan).await
    }
}

async fn is_served(loan: &Loan) -> bool {
    TcpStream::connect((&*loan.host, loan.port)).await.is_ok()
}

fn pool(name: &str) -> PoolId {
    PoolId { backend: BackendName::new(name), pool: PoolName::new(name) }
}

#[tokio::test]
async fn a_volume_is_made_of_what_another_executor_lends_and_the_loan_is_given_back() {
    let hosts = Hosts::with_source(2).await;
    hosts.lend(free_ports(2));
    assert_eq!(hosts.copy(Arc::new(Spawner), 3).await, Ok(()));
    assert!(hosts.is_copied(3));
    assert!(!hosts.is_served(0).await, "nothing is lent any more");
    // and again: what is there is compared with what is lent
    assert_eq!(hosts.copy(Arc::new(Spawner), 3).await, Ok(()));
    assert!(!hosts.is_served(1).await);
}

/// Ends the lender after the first stretch, and starts another one.
struct Restarting {
    hosts: Arc<Hosts>,
    copied: Mutex<usize>,
}

#[async_trait]
impl Launcher for Restarting {
    async fn launch(&self, program: Program) -> Result<Output, ProcessError> {
        let is_copying = program.argv().iter().any(|word| word == "convert");
        let output = program.run().await;
        let copied = {
            let mut copied = self.copied.lock().unwrap();
            *copied += usize::from(is_copying);
            *copied
        };
        if is_copying && copied == 1 {
            let loan = self.hosts.lenders.asked.lock().unwrap()[0].clone();
            let first = self.hosts.lenders.up.lock().unwrap().take().unwrap();
            first.give_back_all().await;
            assert!(!is_served(&loan).await);
            self.hosts.lend(free_ports(2));
        }
        output
    }
}

#[tokio::test]
async fn a_copy_whose_lender_is_gone_fails_and_goes_on_where_it_was_when_it_is_asked_for_again() {
    let hosts = Arc::new(Hosts::with_source(2).await);
    hosts.lend(free_ports(2));
    let launcher = Arc::new(Restarting { hosts: Arc::clone(&hosts), copied: Mutex::default() });
    let failure = hosts.copy(Arc::clone(&launcher) as Arc<dyn Launcher>, 2).await.unwrap_err();
    assert!(failure.kind.is_retryable(), "{failure}");
    assert!(!failure.message.contains(&HOST.to_string()), "no addresses: {failure}");
    assert_eq!(hosts.copy(Arc::clone(&launcher) as Arc<dyn Launcher>, 2).await, Ok(()));
    assert!(hosts.is_copied(2));
    assert_eq!(*launcher.copied.lock().unwrap(), 2, "each stretch was written once");
}

#[tokio::test]
async fn who_has_not_the_key_reads_nothing() {
    let hosts = Hosts::with_source(1).await;
    let lender = hosts.lend(free_ports(1));
    let request = hosts.request();
    let loan = lender.lend(&request).await.unwrap();
    assert!(is_served(&loan).await);
    let url = format!("nbd://{}:{}/{}", loan.host, loan.port, request.loan);
    let look = |program: Program| program.arg(&url).run();
    let refused = look(Program::new("qemu-img", std::time::Duration::from_secs(20)).arg("info")).await;
    let Err(ProcessError::Failed { stderr_tail, .. }) = refused else { panic!("{refused:?}") };
    assert!(stderr_tail.to_lowercase().contains("tls"), "{stderr_tail}");
    lender.give_back(request.loan).await;
}

#[tokio::test]
async fn asking_again_is_the_same_loan_and_ports_are_never_shared() {
    let hosts = Hosts::with_source(1).await;
    let ports = free_ports(3);
    let taken = TcpListener::bind((HOST, *ports.start())).unwrap();
    let lender = hosts.lend(ports);
    let (one, another, third) = (hosts.request(), hosts.request(), hosts.request());
    let loan = lender.lend(&one).await.unwrap();
    assert_ne!(loan.port, taken.local_addr().unwrap().port());
    assert_eq!(lender.lend(&one).await.unwrap(), loan);
    let other = lender.lend(&another).await.unwrap();
    assert!(other.port != loan.port && other.key != loan.key);
    let refused = lender.lend(&third).await.unwrap_err();
    assert_eq!(refused.kind, FailureKind::BackendUnavailable, "{refused}");
    lender.give_back(one.loan).await;
    assert_eq!(lender.lend(&third).await.unwrap().port, loan.port);
    for request in [another, third] {
        lender.give_back(request.loan).await;
    }
}

#[tokio::test]
async fn what_is_not_there_is_not_lent() {
    let hosts = Hosts::with_source(1).await;
    let lender = hosts.lend(free_ports(1));
    let missing = LoanRequest { object: volume(7), ..hosts.request() };
    assert_eq!(lender.lend(&missing).await.unwrap_err().kind, FailureKind::ObjectMissing);
    let elsewhere = LoanRequest { pool: pool("elsewhere"), ..hosts.request() };
    assert_eq!(lender.lend(&elsewhere).await.unwrap_err().kind, FailureKind::BackendUnavailable);
}

#[tokio::test]
async fn a_backend_says_whether_it_lends_and_borrows() {
    let hosts = Hosts::with_source(1).await;
    let alone = Neighbours::new(Copier::new(Arc::new(Spawner), Limits::default()), []);
    let lenders = || Arc::clone(&hosts.lenders) as Arc<dyn Loans>;
    let described =
        |neighbours: Neighbours| -> BackendDescription { neighbours.described(hosts.from.description()) };
    let (lends, borrows) = (
        described(alone.clone().among_others(lenders(), true)),
        described(alone.clone().among_others(lenders(), false)),
    );
    assert!(borrows.borrows_from(&lends) && lends.borrows_from(&lends));
    assert!(!lends.borrows_from(&borrows), "it lends nothing");
    assert!(!described(alone).borrows_from(&lends));
}

//! Volumes made of what the executor of another process lends: by real servers and clients of NBD.

#![allow(clippy::unwrap_used, reason = "in a test, whatever is not as expected is a failure")]

#[allow(dead_code, reason = "the runner's own tests use the rest")]
mod support;

use std::fs::File;
use std::net::{IpAddr, Ipv4Addr, TcpListener};
use std::ops::RangeInclusive;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use support::{gib, volume};
use tempfile::TempDir;
use tephra_domain::backend::BackendDescription;
use tephra_domain::effect::{Effect, Failure, FailureKind};
use tephra_domain::ids::{BackendName, PoolId, PoolName};
use tephra_executors::backend::Backend;
use tephra_executors::backend::conformance::Fingerprint;
use tephra_executors::backend::directory::{DirectoryBackend, DirectoryConfig};
use tephra_executors::copy::{
    Borrowed, Copier, LOAN_LASTS, LendingConfig, Limits, Neighbours, QemuLender, act,
};
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
    in_vain: Mutex<u32>,
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
        let up = self.up(lender).inspect_err(|_| *self.in_vain.lock().unwrap() += 1)?;
        let loan = up.lend(request).await?;
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

fn lender(from: &Arc<dyn Backend>, ports: RangeInclusive<u16>) -> Arc<QemuLender> {
    lender_lasting(from, ports, LOAN_LASTS)
}

fn lender_lasting(from: &Arc<dyn Backend>, ports: RangeInclusive<u16>, lasts: Duration) -> Arc<QemuLender> {
    let config = LendingConfig { address: HOST, ports, lasts };
    Arc::new(QemuLender::new(config, Arc::new(Spawner), Limits::default(), [Arc::clone(from)]))
}

/// Ports that nobody listens on, as far as can be known.
fn free_ports(count: u16) -> RangeInclusive<u16> {
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

    fn lend(&self, ports: RangeInclusive<u16>) -> Arc<QemuLender> {
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
        act(&*self.into, None, Some(&neighbours), &PoolName::new("into"), &effect, None).await
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
async fn a_copy_whose_lender_is_started_again_goes_on_with_the_new_one() {
    let hosts = Arc::new(Hosts::with_source(2).await);
    hosts.lend(free_ports(2));
    let launcher = Arc::new(Restarting { hosts: Arc::clone(&hosts), copied: Mutex::default() });
    assert_eq!(hosts.copy(Arc::clone(&launcher) as Arc<dyn Launcher>, 2).await, Ok(()));
    assert!(hosts.is_copied(2));
    assert_eq!(*launcher.copied.lock().unwrap(), 3, "the second stretch was begun where nobody is any more");
    let lenders = hosts.lenders.asked.lock().unwrap().iter().map(|loan| loan.lender).collect::<Vec<_>>();
    assert!(lenders.first() != lenders.last(), "{lenders:?}");
}

/// Ends the server in the middle of what reads from it, the first time.
struct Killing {
    hosts: Arc<Hosts>,
    left: Mutex<bool>,
}

#[async_trait]
impl Launcher for Killing {
    async fn launch(&self, program: Program) -> Result<Output, ProcessError> {
        let is_first = program.argv().iter().any(|word| word == "convert")
            && std::mem::take(&mut *self.left.lock().unwrap());
        if !is_first {
            return program.run().await;
        }
        // what reads does not come to an end, as if its lender's host had lost its power
        let first = self.hosts.lenders.up.lock().unwrap().take().unwrap();
        first.give_back_all().await;
        self.hosts.lend(free_ports(2));
        std::future::pending().await
    }
}

#[tokio::test]
async fn what_reads_from_a_host_that_is_gone_is_not_waited_for_once_the_source_is_lent_elsewhere() {
    let hosts = Arc::new(Hosts::with_source(1).await);
    let first = lender_lasting(&hosts.from, free_ports(2), Duration::from_secs(2));
    *hosts.lenders.up.lock().unwrap() = Some(first);
    let launcher = Killing { hosts: Arc::clone(&hosts), left: Mutex::new(true) };
    assert_eq!(hosts.copy(Arc::new(launcher), 1).await, Ok(()));
    assert!(hosts.is_copied(1));
}

#[tokio::test]
async fn an_executor_that_is_away_for_a_while_is_waited_for() {
    let hosts = Arc::new(Hosts::with_source(1).await);
    let copying = tokio::spawn({
        let hosts = Arc::clone(&hosts);
        async move { hosts.copy(Arc::new(Spawner), 1).await }
    });
    until("it has been asked in vain twice", || *hosts.lenders.in_vain.lock().unwrap() >= 2).await;
    hosts.lend(free_ports(1));
    assert_eq!(copying.await.unwrap(), Ok(()));
    assert!(hosts.is_copied(1));
}

async fn until(what: &str, is_so: impl Fn() -> bool) {
    let waited = async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    assert!(tokio::time::timeout(Duration::from_secs(60), waited).await.is_ok(), "waited too long: {what}");
}

#[tokio::test]
async fn a_loan_lasts_while_it_is_asked_for_and_ends_by_itself_afterwards() {
    let hosts = Hosts::with_source(1).await;
    let lender = lender_lasting(&hosts.from, free_ports(1), Duration::from_secs(2));
    *hosts.lenders.up.lock().unwrap() = Some(lender);
    let loans = Arc::clone(&hosts.lenders) as Arc<dyn Loans>;
    let borrowed = Borrowed::begin(loans, pool("from"), volume(1)).await.unwrap();
    // asked for six times while it lasts: by then it would be over
    until("it is asked for", || hosts.lenders.asked.lock().unwrap().len() > 12).await;
    assert!(hosts.is_served(0).await);
    let loans: Vec<Loan> = hosts.lenders.asked.lock().unwrap().clone();
    assert!(loans.iter().all(|loan| *loan == loans[0]));
    drop(borrowed);
    let gone = async {
        while is_served(&loans[0]).await {
            tokio::task::yield_now().await
        }
    };
    assert!(tokio::time::timeout(Duration::from_secs(60), gone).await.is_ok(), "it is still served");
}

#[tokio::test]
async fn a_loan_that_was_given_back_is_not_made_again_nor_of_something_else() {
    let hosts = Hosts::with_source(1).await;
    let lender = hosts.lend(free_ports(1));
    let request = hosts.request();
    let loan = lender.lend(&request).await.unwrap();
    let another = LoanRequest { object: volume(7), ..request.clone() };
    assert_eq!(lender.lend(&another).await.unwrap_err().kind, FailureKind::Mismatch);
    lender.give_back(request.loan).await;
    assert!(!is_served(&loan).await);
    let late = lender.lend(&request).await.unwrap_err();
    assert_eq!(late.kind, FailureKind::BackendUnavailable, "{late}");
    assert!(!is_served(&loan).await);
}

#[tokio::test]
async fn who_has_not_the_key_reads_nothing() {
    let hosts = Hosts::with_source(1).await;
    let lender = hosts.lend(free_ports(1));
    let request = hosts.request();
    let loan = lender.lend(&request).await.unwrap();
    let info = || Program::new("qemu-img", Duration::from_secs(20)).arg("info");
    let unencrypted = format!("nbd://{}:{}/{}", loan.host, loan.port, request.loan);
    let refused = info().arg(unencrypted).run().await;
    let Err(ProcessError::Failed { stderr_tail, .. }) = refused else { panic!("{refused:?}") };
    assert!(stderr_tail.to_lowercase().contains("tls"), "{stderr_tail}");

    let keys = tempfile::tempdir().unwrap();
    let with_key = async |key: &str| {
        std::fs::write(keys.path().join("keys.psk"), format!("tephra:{key}\n")).unwrap();
        let object =
            format!("tls-creds-psk,id=k,endpoint=client,username=tephra,dir={}", keys.path().display());
        let image = format!(
            "driver=raw,file.driver=nbd,file.server.type=inet,file.server.host={},file.server.port={},\
             file.export={},file.tls-creds=k",
            loan.host, loan.port, request.loan
        );
        info().arg("--object").arg(object).arg("--image-opts").arg(image).run().await
    };
    let wrong = with_key(&"0".repeat(loan.key.len())).await;
    assert!(matches!(wrong, Err(ProcessError::Failed { .. })), "{wrong:?}");
    let right = with_key(&loan.key).await;
    assert!(right.is_ok(), "{right:?}");
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

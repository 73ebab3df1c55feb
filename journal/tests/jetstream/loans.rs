//! Loans between executors, each with an account of its own: the example of permissions with the lines that
//! it has for that.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use async_nats::Client;
use async_trait::async_trait;
use tephra_domain::effect::{BackendObject, Failure, FailureKind};
use tephra_domain::ids::{BackendName, PoolId, PoolName, VolumeId};
use tephra_journal::jetstream::{NatsLoans, serve_loans};
use tephra_journal::loans::{Lender, Loan, LoanRequest, Loans};
use tephra_journal::subjects::Cell;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::permissions::{EXAMPLE, Roles};
use crate::soon;

/// The example with executors of two accounts, of which one copies from the other.
fn with_two_executors() -> String {
    let (before, rest) = EXAMPLE.split_once("  EXECUTOR_LVM: {\n").unwrap();
    let (account, after) = rest.split_once("\n  }\n").unwrap();
    let lent = "{ service: \"tephra.loans.main.lvm.*\", accounts: [EXECUTOR_RBD] }";
    let borrowed = "{ service: { account: EXECUTOR_LVM, subject: \"tephra.loans.main.lvm.*\" } }";
    let lending = account.replace(&format!("# {lent}"), lent);
    assert_ne!(lending, account);
    let uncommented = account.replace(&format!("#   {borrowed}"), "");
    assert_ne!(uncommented, account, "the example says what is imported");
    let borrowing = uncommented.replace("lvm", "rbd").replace("LVM", "RBD");
    let borrowing = borrowing.replacen("imports: [", &format!("imports: [\n      {borrowed}"), 1);
    let twice = |line: &str| {
        let is_copied = line.contains("EXECUTOR_LVM") && !line.trim_start().starts_with('#');
        let copy = line.replace("lvm", "rbd").replace("LVM", "RBD");
        if is_copied { format!("{line}\n{copy}\n") } else { format!("{line}\n") }
    };
    let (before, after) = (before.lines().map(twice), after.lines().map(twice));
    let (before, after): (String, String) = (before.collect(), after.collect());
    format!("{before}  EXECUTOR_LVM: {{\n{lending}\n  }}\n  EXECUTOR_RBD: {{\n{borrowing}\n  }}\n{after}")
}

/// Says which of the executors it is, and counts what is lent.
struct Counting {
    id: Uuid,
    lent: AtomicU32,
}

impl Counting {
    fn new(id: u128) -> Arc<Self> {
        Arc::new(Self { id: Uuid::from_u128(id), lent: AtomicU32::default() })
    }

    fn lent(&self) -> u32 {
        self.lent.load(Ordering::Relaxed)
    }
}

#[async_trait]
impl Lender for Counting {
    fn id(&self) -> Uuid {
        self.id
    }

    async fn lend(&self, request: &LoanRequest) -> Result<Loan, Failure> {
        if request.loan.is_nil() {
            return Err(Failure::new(FailureKind::ObjectMissing, "it is not there"));
        }
        self.lent.fetch_add(1, Ordering::Relaxed);
        let (host, key) = ("10.0.0.5".into(), "00".into());
        Ok(Loan { lender: self.id, host, port: 10_809, key, lasts_ms: 60_000 })
    }

    async fn give_back(&self, _: Uuid) {
        self.lent.store(0, Ordering::Relaxed);
    }
}

fn serve(client: &Client, cell: &Cell, lender: &Arc<Counting>, stop: &CancellationToken) -> JoinHandle<()> {
    let lender = Arc::clone(lender) as Arc<dyn Lender>;
    let (client, cell, stop) = (client.clone(), cell.clone(), stop.clone());
    tokio::spawn(async move {
        serve_loans(&client, &cell, &BackendName::new("lvm"), &lender, stop).await.unwrap();
    })
}

fn request(loan: Uuid, backend: &str) -> LoanRequest {
    let pool = PoolId { backend: BackendName::new(backend), pool: PoolName::new("p") };
    LoanRequest { loan, pool, object: BackendObject::Volume(VolumeId::from_uuid(Uuid::from_u128(5))) }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_executor_borrows_from_one_of_another_account_and_stays_with_who_lent() {
    let roles = Roles::start_with(with_two_executors(), Cell::default());
    let loans = async |role| {
        NatsLoans::new(roles.client(role).await, roles.cell().clone()).answered_within(Duration::from_secs(2))
    };
    let borrower = loans("executor_rbd").await;
    let one = request(Uuid::from_u128(1), "lvm");
    let nobody = borrower.borrow(None, &one).await.unwrap_err();
    assert_eq!(nobody.kind, FailureKind::BackendUnavailable, "{nobody}");

    let (first, second) = (Counting::new(11), Counting::new(12));
    let (stop_first, stop_second) = (CancellationToken::new(), CancellationToken::new());
    let client = roles.client("executor_lvm").await;
    let serving = serve(&client, roles.cell(), &first, &stop_first);
    let other = roles.client("executor_lvm").await;
    let serving_too = serve(&other, roles.cell(), &second, &stop_second);
    // one account hears of another's interest a little later
    let loan = soon("a loan", async {
        loop {
            if let Ok(loan) = borrower.borrow(None, &one).await {
                return loan;
            }
        }
    })
    .await;
    let (lender, bystander) = if loan.lender == first.id { (&first, &second) } else { (&second, &first) };
    soon("the lender is reached by its own name", async {
        while borrower.borrow(Some(lender.id), &one).await.is_err() {}
    })
    .await;
    let (lent, asked) = (lender.lent(), bystander.lent());
    for _ in 0..20 {
        assert_eq!(borrower.borrow(Some(lender.id), &one).await.unwrap().lender, lender.id);
    }
    assert_eq!((lender.lent(), bystander.lent()), (lent + 20, asked), "who lent is asked, and nobody else");
    let missing = borrower.borrow(Some(lender.id), &request(Uuid::nil(), "lvm")).await.unwrap_err();
    assert_eq!(missing.kind, FailureKind::ObjectMissing);
    borrower.give_back(&one.pool.backend, lender.id, one.loan).await.unwrap();
    assert_eq!(lender.lent(), 0);

    // the one that lent is gone, and the other one lends
    let (gone, stop) =
        if lender.id == first.id { (&serving, &stop_first) } else { (&serving_too, &stop_second) };
    stop.cancel();
    soon("the end", async {
        while !gone.is_finished() {
            tokio::task::yield_now().await
        }
    })
    .await;
    soon("nobody of that name", async { while borrower.borrow(Some(lender.id), &one).await.is_ok() {} })
        .await;
    let again = soon("a loan", async {
        loop {
            if let Ok(loan) = borrower.borrow(None, &one).await {
                return loan;
            }
        }
    })
    .await;
    assert_eq!(again.lender, bystander.id);

    // the api has no business with it
    let api = loans("api").await;
    let before = bystander.lent();
    let refused = api.borrow(None, &one).await.unwrap_err();
    assert_eq!((refused.kind, bystander.lent()), (FailureKind::BackendUnavailable, before));
}

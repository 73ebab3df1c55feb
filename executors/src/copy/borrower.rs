//! Borrowing: the other end of a loan, kept up as long as it is needed.
//!
//! A lender that does not answer is asked again for a while, and then any executor of the backend: one that was
//! started again lends anew, somewhere else. Whoever reads meanwhile is told, and reads on there.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::future::join_all;
use tephra_domain::effect::{BackendObject, Failure, FailureKind};
use tephra_domain::ids::PoolId;
use tephra_journal::loans::{Loan, LoanRequest, Loans};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};
use uuid::Uuid;

use super::key::KeyDirectory;

/// How long a lender may be away before what reads from it gives up.
const PATIENCE: Duration = Duration::from_secs(120);

/// The pause before one that is away is asked again.
const PAUSE: Duration = Duration::from_millis(500);

/// How long a lender that has lent may take to say so again.
const RENEWAL_LIMIT: Duration = Duration::from_secs(5);

/// How often a loan is asked for again while it lasts.
const RENEWALS: u32 = 6;

/// However short it is, it is not asked for more often.
const LEAST_LASTS: Duration = Duration::from_secs(1);

/// What is lent to us, with its key where `qemu-img` reads it.
#[derive(Debug)]
pub struct Access {
    /// Where it is.
    pub loan: Loan,
    /// Its name there.
    pub id: Uuid,
    /// The key.
    pub keys: KeyDirectory,
}

/// A loan that is asked for again until this is dropped; then it ends by itself.
pub struct Borrowed {
    asking: Arc<Asking>,
    keeping: JoinHandle<()>,
}

struct Asking {
    loans: Arc<dyn Loans>,
    request: LoanRequest,
    /// Where it is now; nothing if it is lost.
    access: watch::Sender<Option<Arc<Access>>>,
    /// Everybody who may be lending it.
    lenders: Mutex<BTreeSet<Uuid>>,
    /// One question at a time.
    turn: tokio::sync::Mutex<()>,
}

impl Borrowed {
    /// Borrows an object, from whoever of its backend's executors is there within two minutes.
    ///
    /// # Errors
    /// As the lender's; `BackendUnavailable` if none answers.
    pub async fn begin(loans: Arc<dyn Loans>, pool: PoolId, object: BackendObject) -> Result<Self, Failure> {
        let request = LoanRequest { loan: Uuid::new_v4(), pool, object };
        let (access, _) = watch::channel(None);
        let (lenders, turn) = (Mutex::default(), tokio::sync::Mutex::default());
        let asking = Arc::new(Asking { loans, request, access, lenders, turn });
        asking.ask().await?;
        let kept = Arc::clone(&asking);
        Ok(Self { asking, keeping: tokio::spawn(async move { kept.keep().await }) })
    }

    /// Where it is now: elsewhere than before if the lender was started again.
    ///
    /// # Errors
    /// If it is lost.
    pub fn access(&self) -> Result<Arc<Access>, Failure> {
        let access = self.asking.access.borrow().clone();
        access.ok_or_else(lost)
    }

    /// Returns when it is no longer there.
    pub async fn is_elsewhere(&self, access: &Arc<Access>) {
        let mut watched = self.asking.access.subscribe();
        let is_another = |now: &Option<Arc<Access>>| now.as_ref().is_none_or(|now| !Arc::ptr_eq(now, access));
        // it is watched as long as this is there
        drop(watched.wait_for(is_another).await.map(drop));
    }

    /// Asks who lends it, at once. Says whether it is elsewhere now.
    ///
    /// # Errors
    /// If it is lost.
    pub async fn has_moved(&self, access: &Arc<Access>) -> Result<bool, Failure> {
        self.asking.ask().await?;
        Ok(!Arc::ptr_eq(&self.access()?, access))
    }

    /// Ends the loan. When this returns, it is over, or a lender does not answer and it ends by itself.
    pub async fn give_back(self) {
        self.keeping.abort();
        let Asking { loans, request: LoanRequest { loan, pool, object }, lenders, .. } = &*self.asking;
        let lenders = lenders.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let ended = lenders.into_iter().map(|lender| loans.give_back(&pool.backend, lender, *loan));
        for failure in join_all(ended).await.into_iter().filter_map(Result::err) {
            tracing::warn!(%object, %pool, %failure, "a loan could not be given back; it ends by itself");
        }
    }
}

impl Drop for Borrowed {
    fn drop(&mut self) {
        self.keeping.abort();
    }
}

fn lost() -> Failure {
    Failure::new(FailureKind::BackendUnavailable, "the source is no longer lent: its executor is away")
}

impl Asking {
    /// Asks for it again as long as it lasts, and says so when it does not.
    async fn keep(&self) {
        loop {
            let lasts = self.access.borrow().as_ref().map_or(0, |access| access.loan.lasts_ms);
            let pause = Duration::from_millis(lasts).max(LEAST_LASTS) / RENEWALS;
            tokio::time::sleep(pause).await;
            if let Err(failure) = self.ask().await {
                tracing::warn!(object = %self.request.object, %failure, "a loan is lost");
                self.access.send_replace(None);
            }
        }
    }

    /// The one who lent, and if that does not answer whoever does.
    async fn ask(&self) -> Result<(), Failure> {
        let _turn = self.turn.lock().await;
        let known = self.access.borrow().clone();
        if let Some(known) = &known {
            let again = self.loans.borrow(Some(known.loan.lender), &self.request);
            match timeout(RENEWAL_LIMIT, again).await {
                Ok(Ok(loan)) => return self.found(Some(known), loan).await,
                Ok(Err(failure)) if !failure.kind.is_retryable() => return Err(failure),
                Ok(Err(_)) | Err(_) => {}
            }
        }
        let patient_until = Instant::now() + PATIENCE;
        loop {
            match self.loans.borrow(None, &self.request).await {
                Ok(loan) => return self.found(known.as_ref(), loan).await,
                Err(failure) if !failure.kind.is_retryable() || Instant::now() >= patient_until => {
                    return Err(failure);
                }
                Err(failure) => {
                    tracing::debug!(object = %self.request.object, %failure, "not lent yet");
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }

    async fn found(&self, known: Option<&Arc<Access>>, loan: Loan) -> Result<(), Failure> {
        self.lenders.lock().unwrap_or_else(PoisonError::into_inner).insert(loan.lender);
        if known.is_some_and(|known| known.loan == loan) {
            return Ok(());
        }
        // both go into what programs are told
        if loan.host.parse::<IpAddr>().is_err() || !loan.key.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            let message = "the executor that lends says where in words that make no sense";
            return Err(Failure::new(FailureKind::Unsupported, message));
        }
        let keys = KeyDirectory::make(&loan.key).await?;
        if known.is_some() {
            tracing::info!(object = %self.request.object, "borrowed again, from elsewhere");
        }
        self.access.send_replace(Some(Arc::new(Access { loan, id: self.request.loan, keys })));
        Ok(())
    }
}

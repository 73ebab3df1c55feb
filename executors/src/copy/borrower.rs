//! Borrowing: the other end of a loan, kept up as long as it is needed.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tephra_domain::effect::{BackendObject, Failure, FailureKind};
use tephra_domain::ids::PoolId;
use tephra_journal::loans::{Loan, LoanRequest, Loans};
use tokio::task::JoinHandle;
use uuid::Uuid;

use super::key::KeyDirectory;

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
    loans: Arc<dyn Loans>,
    request: LoanRequest,
    access: Arc<Mutex<Arc<Access>>>,
    keeping: JoinHandle<()>,
}

impl Borrowed {
    /// Borrows an object.
    ///
    /// # Errors
    /// As the lender's; `BackendUnavailable` if none answers.
    pub async fn begin(loans: Arc<dyn Loans>, pool: PoolId, object: BackendObject) -> Result<Self, Failure> {
        let request = LoanRequest { loan: Uuid::new_v4(), pool, object };
        let first = access(loans.borrow(None, &request).await?, &request).await?;
        let current = Arc::new(Mutex::new(Arc::new(first)));
        let (asked, asking, kept) = (Arc::clone(&loans), request.clone(), Arc::clone(&current));
        let keeping = tokio::spawn(async move { keep(&*asked, &asking, &kept).await });
        Ok(Self { loans, request, access: current, keeping })
    }

    /// Where it is now: elsewhere than before if the lender was started again.
    pub fn access(&self) -> Arc<Access> {
        Arc::clone(&self.access.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Ends the loan. When this returns, it is over, or its lender does not answer and it ends by itself.
    pub async fn give_back(self) {
        self.keeping.abort();
        let lender = self.access().loan.lender;
        let LoanRequest { loan, pool, object } = &self.request;
        if let Err(failure) = self.loans.give_back(&pool.backend, lender, *loan).await {
            tracing::warn!(%object, %pool, %failure, "a loan could not be given back; it ends by itself");
        }
    }
}

impl Drop for Borrowed {
    fn drop(&mut self) {
        self.keeping.abort();
    }
}

async fn access(loan: Loan, request: &LoanRequest) -> Result<Access, Failure> {
    let keys = KeyDirectory::make(&loan.key).await?;
    Ok(Access { loan, id: request.loan, keys })
}

/// Asks for the loan again, three times as often as it must.
async fn keep(loans: &dyn Loans, request: &LoanRequest, current: &Mutex<Arc<Access>>) {
    let now = || Arc::clone(&current.lock().unwrap_or_else(PoisonError::into_inner));
    loop {
        tokio::time::sleep(Duration::from_millis(now().loan.lasts_ms / 3)).await;
        match again(loans, request, &now()).await {
            Ok(None) => {}
            Ok(Some(another)) => {
                tracing::info!(object = %request.object, "borrowed again from an executor that was started anew");
                *current.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(another);
            }
            Err(failure) => tracing::warn!(object = %request.object, %failure, "a loan may end"),
        }
    }
}

/// Another way to it, if it is no longer the same.
async fn again(loans: &dyn Loans, request: &LoanRequest, known: &Access) -> Result<Option<Access>, Failure> {
    let loan = match loans.borrow(Some(known.loan.lender), request).await {
        Ok(loan) => loan,
        Err(failure) if failure.kind == FailureKind::BackendUnavailable => {
            loans.borrow(None, request).await?
        }
        Err(failure) => return Err(failure),
    };
    if loan == known.loan { Ok(None) } else { access(loan, request).await.map(Some) }
}

//! What one executor holds, lent to another to be read.
//!
//! A loan is no part of the ledger: it lasts while it is asked for again and again, and ends by itself
//! soon after nobody does. Whoever borrows asks the executors of a backend, of which one answers, and from
//! then on that one; if it is gone, whichever there is. Over NATS that is
//! [`crate::jetstream::NatsLoans`].

use std::fmt;

use async_trait::async_trait;
use tephra_domain::effect::{BackendObject, Failure};
use tephra_domain::ids::{BackendName, PoolId};
use uuid::Uuid;

/// What is to be lent. Asking again with the same id makes the loan last longer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoanRequest {
    /// The loan's id, chosen by who borrows.
    pub loan: Uuid,
    /// Where the object is.
    pub pool: PoolId,
    /// The object, which nobody changes meanwhile.
    pub object: BackendObject,
}

/// Where what is lent can be read: a server of the NBD protocol, over TLS with a key that only who lends
/// and who borrows know.
#[derive(Clone, PartialEq, Eq)]
pub struct Loan {
    /// The executor that lends, by an id of its own.
    pub lender: Uuid,
    /// The server's address.
    pub host: Box<str>,
    /// Its port.
    pub port: u16,
    /// The key, in hexadecimal digits.
    pub key: Box<str>,
    /// How long it lasts, from when it was asked for, in milliseconds.
    pub lasts_ms: u64,
}

impl fmt::Debug for Loan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { lender, host, port, key: _, lasts_ms } = self;
        let mut shown = f.debug_struct("Loan");
        shown.field("lender", lender).field("host", host).field("port", port);
        shown.field("lasts_ms", lasts_ms).finish_non_exhaustive()
    }
}

/// What is asked of an executor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LoanQuestion {
    /// To lend, or to lend longer.
    Lend(LoanRequest),
    /// To end a loan.
    GiveBack {
        /// Which.
        loan: Uuid,
    },
}

/// What it answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LoanAnswer {
    /// It is lent.
    Lent(Loan),
    /// It is no longer lent: nothing of the loan is left.
    GivenBack,
    /// It is not lent.
    Failed(Failure),
}

/// The executor that lends.
#[async_trait]
pub trait Lender: Send + Sync {
    /// What names it among those that serve the same backend.
    fn id(&self) -> Uuid;

    /// Lends, or lends longer.
    ///
    /// # Errors
    /// If the object is not there, or cannot be lent.
    async fn lend(&self, request: &LoanRequest) -> Result<Loan, Failure>;

    /// Ends a loan. When this returns, nothing has the object open because of it.
    async fn give_back(&self, loan: Uuid);
}

/// The way to executors that lend.
#[async_trait]
pub trait Loans: Send + Sync {
    /// Borrows, or borrows longer: from an executor that is known, or from any that serves the backend.
    ///
    /// # Errors
    /// As the lender's; `BackendUnavailable` if none answers.
    async fn borrow(&self, lender: Option<Uuid>, request: &LoanRequest) -> Result<Loan, Failure>;

    /// Ends a loan.
    ///
    /// # Errors
    /// `BackendUnavailable` if the lender does not answer: the loan ends by itself.
    async fn give_back(&self, backend: &BackendName, lender: Uuid, loan: Uuid) -> Result<(), Failure>;
}

//! A cleanup debt: an object on a backend that should not be there and could not be removed yet.
//!
//! It is retried until it is paid, and shown to operators. A held debt is kept on purpose: it is
//! the only copy of somebody's data, and waits for an operator's decision.

use crate::effect::{BackendObject, DueEffect, Effect, EffectKey, Failure};
use crate::ids::{DebtId, PoolId, ProjectId};
use crate::units::Timestamp;

/// What happens to a debt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DebtEvent {
    /// An operation leaves this object behind.
    Incurred {
        /// Whose operation it was.
        project: ProjectId,
        /// Where the object is.
        pool: PoolId,
        /// The object.
        object: BackendObject,
        /// Why it could not be removed, or why it must not be yet.
        reason: Failure,
        /// Whether it waits for an operator.
        held: bool,
    },
    /// Removing it failed once more.
    AttemptFailed {
        /// Why.
        failure: Failure,
        /// When it is tried again.
        retry_at: Timestamp,
    },
    /// An operator wants it removed (a held one), or tried again at once.
    Released,
    /// The object is gone.
    Paid,
}

/// A debt as the ledger knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CleanupDebt {
    /// Which.
    pub id: DebtId,
    /// Whose operation it was.
    pub project: ProjectId,
    /// Where the object is.
    pub pool: PoolId,
    /// The object.
    pub object: BackendObject,
    /// The last reason why it is still there.
    pub reason: Failure,
    /// Whether it waits for an operator.
    pub held: bool,
    /// The attempt that is due, from 1.
    pub attempt: u32,
    /// When that is due.
    pub not_before: Timestamp,
    /// Since when it is owed.
    pub incurred_at: Timestamp,
}

impl CleanupDebt {
    /// The attempt to pay that is due, if it is not held.
    pub fn due(&self) -> Option<DueEffect> {
        (!self.held).then(|| DueEffect {
            key: EffectKey::Debt { debt: self.id, attempt: self.attempt },
            pool: self.pool.clone(),
            effect: Effect::delete(self.object),
            not_before: self.not_before,
        })
    }
}

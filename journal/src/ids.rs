//! Where fresh ids come from.

use uuid::Uuid;

/// Draws ids that nobody else draws.
pub trait IdSource: Send + Sync {
    /// A fresh one.
    fn fresh(&self) -> Uuid;
}

/// Ids from the operating system's randomness.
#[derive(Clone, Copy, Debug, Default)]
pub struct RandomIds;

impl IdSource for RandomIds {
    fn fresh(&self) -> Uuid {
        Uuid::new_v4()
    }
}

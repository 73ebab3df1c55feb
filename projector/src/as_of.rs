//! The past: what a resource, or everything, was at a position or a time.

use tephra_domain::ids::{Position, SnapshotId, VolumeId};
use tephra_domain::ledger::Ledger;
use tephra_domain::snapshot::Snapshot;
use tephra_domain::units::Timestamp;
use tephra_domain::volume::Volume;
use tephra_journal::log::Log;

use crate::error::{QueryError, ViewsError};
use crate::views::Views;

/// When.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AsOf {
    /// Just after this commit.
    Position(Position),
    /// After everything up to and at this moment.
    Time(Timestamp),
}

#[allow(unused_variables, clippy::unused_async, reason = "signatures come before bodies")]
impl Views {
    /// A volume as it was. Nothing if it was not there.
    pub async fn volume_as_of(
        &self,
        log: &dyn Log,
        id: VolumeId,
        as_of: AsOf,
    ) -> Result<Option<Volume>, QueryError> {
        Err(ViewsError::Storage("the views are empty".to_owned()).into())
    }

    /// A snapshot as it was. Nothing if it was not there.
    pub async fn snapshot_as_of(
        &self,
        log: &dyn Log,
        id: SnapshotId,
        as_of: AsOf,
    ) -> Result<Option<Snapshot>, QueryError> {
        Err(ViewsError::Storage("the views are empty".to_owned()).into())
    }
}

/// Everything as it was, by replaying the log from its beginning. Needs no views.
#[allow(unused_variables, clippy::unused_async, reason = "signatures come before bodies")]
pub async fn ledger_as_of(log: &dyn Log, as_of: AsOf) -> Result<Ledger, QueryError> {
    Err(ViewsError::Storage("the views are empty".to_owned()).into())
}

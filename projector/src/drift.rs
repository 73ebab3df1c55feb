//! What the ledger says is on a pool, for the comparison with what the backend shows.

use tephra_domain::drift::Expectation;
use tephra_domain::ids::PoolId;
use tephra_domain::ledger::Ledger;
use tephra_domain::snapshot::Snapshot;
use tephra_domain::volume::Volume;

use crate::error::ViewsError;
use crate::fold::load_small_tables;
use crate::row::RowTable;
use crate::schema;
use crate::views::Views;

impl Views {
    /// What is to be expected on a pool now. Looks at every volume and snapshot, one at a time.
    ///
    /// # Errors
    /// If the file fails or is damaged.
    pub fn expectation(&self, pool: &PoolId) -> Result<Expectation, ViewsError> {
        let txn = self.begin_read()?;
        let mut small = Ledger::default();
        load_small_tables(&txn, &mut small)?;
        let debts = small.debts.sorted().into_iter().map(|(_, debt)| debt);
        let operations = small.operations.sorted().into_iter().map(|(_, operation)| operation);
        let mut expectation = Expectation::of(pool, [], [], debts, operations);
        for row in RowTable::open(&txn, schema::VOLUMES)?.all::<Volume>()? {
            expectation.volume(&row?.1);
        }
        for row in RowTable::open(&txn, schema::SNAPSHOTS)?.all::<Snapshot>()? {
            expectation.snapshot(&row?.1);
        }
        Ok(expectation)
    }
}

//! Queries over the small tables.

use tephra_domain::backend::{Backend, PoolUsage};
use tephra_domain::debt::CleanupDebt;
use tephra_domain::event::IdempotencyScope;
use tephra_domain::ids::{BackendName, DebtId, OperationId, PoolId, PoolName, ProjectId, VolumeTypeId};
use tephra_domain::ledger::RememberedCommand;
use tephra_domain::operation::Operation;
use tephra_domain::quota::{QuotaLimits, Usage};
use tephra_domain::volume_type::VolumeType;

use crate::error::{QueryError, ViewsError};
use crate::fold::two_texts;
use crate::key::{self, Key};
use crate::operations::{OperationQuery, OperationRecord};
use crate::query::Page;
use crate::row::{Row, RowTable};
use crate::schema::{self, Rows};
use crate::views::{DEFAULT_LIMITS_KEY, Views};

impl Views {
    /// Every volume type, by id.
    ///
    /// # Errors
    /// If the file fails or is damaged.
    pub fn volume_types(&self) -> Result<Vec<VolumeType>, ViewsError> {
        self.all(schema::VOLUME_TYPES)
    }

    /// A volume type.
    ///
    /// # Errors
    /// If the file fails or is damaged.
    pub fn volume_type(&self, id: VolumeTypeId) -> Result<Option<VolumeType>, ViewsError> {
        self.one(schema::VOLUME_TYPES, id.as_uuid().as_bytes())
    }

    /// Every backend, by name.
    ///
    /// # Errors
    /// If the file fails or is damaged.
    pub fn backends(&self) -> Result<Vec<Backend>, ViewsError> {
        self.all(schema::BACKENDS)
    }

    /// A backend.
    ///
    /// # Errors
    /// If the file fails or is damaged.
    pub fn backend(&self, name: &BackendName) -> Result<Option<Backend>, ViewsError> {
        self.one(schema::BACKENDS, name.as_str().as_bytes())
    }

    /// Every cleanup debt, by id.
    ///
    /// # Errors
    /// If the file fails or is damaged.
    pub fn debts(&self) -> Result<Vec<CleanupDebt>, ViewsError> {
        self.all(schema::DEBTS)
    }

    /// A cleanup debt.
    ///
    /// # Errors
    /// If the file fails or is damaged.
    pub fn debt(&self, id: DebtId) -> Result<Option<CleanupDebt>, ViewsError> {
        self.one(schema::DEBTS, &key::debt(id))
    }

    /// What a project uses.
    ///
    /// # Errors
    /// If the file fails or is damaged.
    pub fn usage(&self, project: &ProjectId) -> Result<Usage, ViewsError> {
        Ok(self.one(schema::USAGE, project.as_str().as_bytes())?.unwrap_or_default())
    }

    /// The limits that were set for a project; what is not in here has its default.
    ///
    /// # Errors
    /// If the file fails or is damaged.
    pub fn limits(&self, project: &ProjectId) -> Result<QuotaLimits, ViewsError> {
        Ok(self.one(schema::LIMITS, project.as_str().as_bytes())?.unwrap_or_default())
    }

    /// The limits that were set for everybody; what is not in here has Cinder's default.
    ///
    /// # Errors
    /// If the file fails or is damaged.
    pub fn default_limits(&self) -> Result<QuotaLimits, ViewsError> {
        Ok(self.one(schema::META, DEFAULT_LIMITS_KEY)?.unwrap_or_default())
    }

    /// What is placed on each pool, by pool.
    ///
    /// # Errors
    /// If the file fails or is damaged.
    pub fn pool_usage(&self) -> Result<Vec<(PoolId, PoolUsage)>, ViewsError> {
        let table = RowTable::open(&self.begin_read()?, schema::POOLS)?;
        let rows = table.all::<PoolUsage>()?.map(|row| {
            let (key, usage) = row?;
            let (backend, pool) = two_texts(&key)?;
            Ok((PoolId { backend: BackendName::new(backend), pool: PoolName::new(pool) }, usage))
        });
        rows.collect()
    }

    /// The command that was accepted under a key. Whether the key is still remembered is for the
    /// caller to say: see [`tephra_domain::ledger::IDEMPOTENCY_WINDOW_MS`].
    ///
    /// # Errors
    /// If the file fails or is damaged.
    pub fn remembered(&self, scope: &IdempotencyScope) -> Result<Option<RememberedCommand>, ViewsError> {
        self.one(schema::IDEMPOTENCY, &key::idempotency(scope))
    }

    /// An operation, open or ended.
    ///
    /// # Errors
    /// If the file fails or is damaged.
    pub fn operation(&self, id: OperationId) -> Result<Option<OperationRecord>, ViewsError> {
        let txn = self.begin_read()?;
        let opened = RowTable::open(&txn, schema::OPERATION_IDS)?.get::<u64>(id.as_uuid().as_bytes())?;
        let records = RowTable::open(&txn, schema::OPERATION_RECORDS)?;
        opened.map(|opened| records.must_get(&opened.to_be_bytes())).transpose()
    }

    /// An open operation with all that its engine knows.
    ///
    /// # Errors
    /// If the file fails or is damaged.
    pub fn open_operation(&self, id: OperationId) -> Result<Option<Operation>, ViewsError> {
        self.one(schema::OPEN_OPERATIONS, id.as_uuid().as_bytes())
    }

    /// Every open operation with all that its engine knows, the one that opened first first.
    ///
    /// # Errors
    /// If the file fails or is damaged.
    pub fn open_operations(&self) -> Result<Vec<Operation>, ViewsError> {
        let txn = self.begin_read()?;
        let rows = RowTable::open(&txn, schema::OPEN_OPERATIONS)?;
        let mut open = rows.all()?.map(|row| Ok(row?.1)).collect::<Result<Vec<Operation>, ViewsError>>()?;
        open.sort_by_key(|operation| (operation.opened, operation.id));
        Ok(open)
    }

    /// A page of operations, open and ended, the one that opened last first. Asked for a kind, it
    /// looks at all operations of the project or resource.
    ///
    /// # Errors
    /// [`QueryError::MarkerNotFound`]; if the file fails or is damaged.
    pub fn operations(&self, query: &OperationQuery) -> Result<Page<OperationRecord>, QueryError> {
        let txn = self.begin_read()?;
        let ids = RowTable::open(&txn, schema::OPERATION_IDS)?;
        let records = RowTable::open(&txn, schema::OPERATION_RECORDS)?;
        let marker = match query.marker {
            None => None,
            Some(id) => {
                let not_found = || QueryError::MarkerNotFound { marker: id.to_string() };
                let opened: u64 = ids.get(id.as_uuid().as_bytes())?.ok_or_else(not_found)?;
                let record: OperationRecord = records.must_get(&opened.to_be_bytes())?;
                if query.project.as_ref().is_some_and(|project| *project != record.project) {
                    return Err(not_found());
                }
                Some(opened)
            }
        };
        let mut rows = Vec::new();
        let mut take = |opened: u64| -> Result<bool, ViewsError> {
            let record: OperationRecord = records.must_get(&opened.to_be_bytes())?;
            if rows.len() < query.limit && query.passes(&record) {
                rows.push(record);
            }
            Ok(rows.len() < query.limit)
        };
        if query.open == Some(true) {
            let mut open = Vec::new();
            for entry in txn.open_table(schema::OPEN_OPERATIONS.definition())?.range::<&[u8]>(..)? {
                open.push(ids.must_get::<u64>(entry?.0.value())?);
            }
            open.sort_unstable_by(|a, b| b.cmp(a));
            for opened in open {
                if marker.is_none_or(|marker| opened < marker) && !take(opened)? {
                    break;
                }
            }
        } else if let Some(prefix) = query.prefix() {
            let (mut start, mut end) = (prefix.clone(), prefix);
            start.extend(u64::MIN.to_be_bytes());
            end.extend(marker.unwrap_or(u64::MAX).to_be_bytes());
            let index = txn.open_table(schema::OPERATION_INDEX.definition())?;
            for entry in index.range::<&[u8]>(start.as_slice()..end.as_slice())?.rev() {
                let (key, _) = entry?;
                if !take(key::trailing_u64(key.value()).unwrap_or_default())? {
                    break;
                }
            }
        } else {
            let end = marker.unwrap_or(u64::MAX).to_be_bytes();
            for entry in records.raw().range::<&[u8]>(..end.as_slice())?.rev() {
                let (key, _) = entry?;
                if !take(key::trailing_u64(key.value()).unwrap_or_default())? {
                    break;
                }
            }
        }
        Ok(Page { rows, count: None })
    }

    pub(crate) fn one<T: Row>(&self, rows: Rows, key: &[u8]) -> Result<Option<T>, ViewsError> {
        RowTable::open(&self.begin_read()?, rows)?.get(key)
    }

    fn all<T: Row>(&self, rows: Rows) -> Result<Vec<T>, ViewsError> {
        let table = RowTable::open(&self.begin_read()?, rows)?;
        table.all()?.map(|row| row.map(|(_, row)| row)).collect()
    }
}

impl OperationQuery {
    fn passes(&self, record: &OperationRecord) -> bool {
        self.project.as_ref().is_none_or(|project| *project == record.project)
            && self.open.is_none_or(|open| open == record.end.is_none())
            && self.kind.as_ref().is_none_or(|kind| **kind == *record.kind)
            && self.resource.is_none_or(|resource| record.changes.contains(&resource))
    }

    fn prefix(&self) -> Option<Key> {
        match (self.resource, &self.project) {
            (Some(resource), _) => Some(key::operations_on(resource)),
            (None, Some(project)) => Some(key::operations_of_project(project)),
            (None, None) => None,
        }
    }
}

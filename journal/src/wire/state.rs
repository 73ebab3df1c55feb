//! Rows of the state as bytes, and the digest of a whole state.
//!
//! Views and saved states hold these encodings. They are caches: a row that cannot be read is a
//! reason to rebuild them from the log, never to guess. The first byte is the encoding's version.

use sha2::{Digest as _, Sha256};
use tephra_domain::attachment::Attachment;
use tephra_domain::backend::{Backend, PoolUsage};
use tephra_domain::debt::CleanupDebt;
use tephra_domain::ids::{DebtId, PoolId};
use tephra_domain::ledger::{Ledger, RememberedCommand};
use tephra_domain::operation::Operation;
use tephra_domain::quota::{QuotaLimits, Usage};
use tephra_domain::snapshot::Snapshot;
use tephra_domain::table::Table;
use tephra_domain::volume::Volume;
use tephra_domain::volume_type::VolumeType;

use super::Invalid;
use super::v1::codec::{Digest, Id, Map, Wire, wire_struct};
use super::v1::sagas::OperationKindV1;
use super::v1::values::{
    AttachModeV1, AttachmentStatusV1, BackendDescriptionV1, BackendObjectV1, ConnectorV1, DebtIdV1,
    FailureRecordV1, FailureV1, PhaseV1, PoolIdV1, QuotaResourceV1, SnapshotStatusV1, UsageV1,
    VolumeSourceV1, VolumeStatusV1,
};

/// The version of every row encoding: the first byte.
pub const ROW_VERSION: u8 = 3;

wire_struct! {
    /// A volume's row.
    VolumeRow<'a> for Volume {
        id: Id, project: &'a str, user: &'a str, name: Option<&'a str>, description: Option<&'a str>,
        size: u32, status: VolumeStatusV1, volume_type: Id, availability_zone: &'a str,
        pool: Option<PoolIdV1<'a>>, source: VolumeSourceV1, metadata: Map<'a>, image_metadata: Map<'a>, multiattach: bool,
        bootable: bool, readonly: Option<bool>, created_at: i64, updated_at: Option<i64>,
        launched_at: Option<i64>, snapshots: Vec<Id>, attachments: Vec<AttachmentRow<'a>>,
        last_failure: Option<FailureRecordV1<'a>>,
    }
    /// An attachment within its volume's row.
    AttachmentRow<'a> for Attachment {
        id: Id, status: AttachmentStatusV1, instance: Option<&'a str>, host: Option<&'a str>,
        mountpoint: Option<&'a str>, mode: Option<AttachModeV1>, connector: Option<ConnectorV1<'a>>,
        created_at: i64, attached_at: Option<i64>, last_failure: Option<FailureRecordV1<'a>>,
    }
    /// A snapshot's row.
    SnapshotRow<'a> for Snapshot {
        id: Id, volume: Id, project: &'a str, user: &'a str, name: Option<&'a str>,
        description: Option<&'a str>, size: u32, status: SnapshotStatusV1, volume_type: Id,
        pool: PoolIdV1<'a>, metadata: Map<'a>, created_at: i64, updated_at: Option<i64>,
        last_failure: Option<FailureRecordV1<'a>>,
    }
    /// A volume type's row.
    VolumeTypeRow<'a> for VolumeType {
        id: Id, name: &'a str, description: Option<&'a str>, is_public: bool, extra_specs: Map<'a>,
        access: Vec<&'a str>, created_at: i64, updated_at: Option<i64>, users: u64,
    }
    /// A backend's row.
    BackendRow<'a> for Backend {
        name: &'a str, description: BackendDescriptionV1<'a>, enabled: bool, frozen: bool,
        disabled_reason: Option<&'a str>, created_at: i64, updated_at: Option<i64>,
    }
    /// An open operation's row.
    OperationRow<'a> for Operation {
        id: Id, project: &'a str, kind: OperationKindV1<'a>, opened_at: i64, opened: u64, phase: PhaseV1,
        attempt: u32, tries: u8, not_before: i64, failure: Option<FailureV1<'a>>, debts: u16,
    }
    /// A debt's row.
    DebtRow<'a> for CleanupDebt {
        id: DebtIdV1, project: &'a str, pool: PoolIdV1<'a>, object: BackendObjectV1, reason: FailureV1<'a>,
        held: bool, attempt: u32, not_before: i64, incurred_at: i64,
    }
    /// A pool's row.
    PoolUsageRow for PoolUsage { volumes: i64, provisioned_gib: i64 }
    /// A remembered command's row.
    RememberedRow for RememberedCommand { fingerprint: Digest, position: u64, time: i64 }
}

type LimitsRow = Vec<(QuotaResourceV1, i64)>;

fn encode<'a, T: Wire<'a, W>, W: serde::Serialize>(row: &'a T) -> Vec<u8> {
    // Writing to a vector cannot fail, and every wire struct knows the length of its parts.
    postcard::to_extend(&row.to_wire(), vec![ROW_VERSION]).unwrap_or_default()
}

fn decode<'a, T: Wire<'a, W>, W: serde::Deserialize<'a>>(
    what: &'static str,
    bytes: &'a [u8],
) -> Result<T, Invalid> {
    match bytes.split_first() {
        Some((&ROW_VERSION, rest)) => T::from_wire(Invalid::all(what, rest)?),
        Some((version, _)) => Err(Invalid::Value { what: "known row version", value: u64::from(*version) }),
        None => Err(Invalid::Truncated { what }),
    }
}

macro_rules! rows {
    ($($encode:ident $decode:ident: $domain:ty as $wire:ty, $what:literal;)*) => {$(
        #[doc = concat!("The bytes of ", $what, ".")]
        pub fn $encode(row: &$domain) -> Vec<u8> {
            encode::<$domain, $wire>(row)
        }

        #[doc = concat!("Reads ", $what, ".")]
        ///
        /// # Errors
        /// If it is not one, or of another version.
        pub fn $decode(bytes: &[u8]) -> Result<$domain, Invalid> {
            decode::<$domain, $wire>($what, bytes)
        }
    )*};
}

rows! {
    encode_volume decode_volume: Volume as VolumeRow<'_>, "a volume's row";
    encode_snapshot decode_snapshot: Snapshot as SnapshotRow<'_>, "a snapshot's row";
    encode_volume_type decode_volume_type: VolumeType as VolumeTypeRow<'_>, "a volume type's row";
    encode_backend decode_backend: Backend as BackendRow<'_>, "a backend's row";
    encode_operation decode_operation: Operation as OperationRow<'_>, "an operation's row";
    encode_debt decode_debt: CleanupDebt as DebtRow<'_>, "a cleanup debt's row";
    encode_limits decode_limits: QuotaLimits as LimitsRow, "a row of quota limits";
    encode_usage decode_usage: Usage as UsageV1, "a row of quota usage";
    encode_pool_usage decode_pool_usage: PoolUsage as PoolUsageRow, "a pool's row";
    encode_remembered decode_remembered: RememberedCommand as RememberedRow, "a remembered command's row";
}

/// A digest of the whole state: equal states have equal digests, on any machine. The hashed
/// order of tables does not enter, and what is derived from other rows (claims) does not either.
pub fn state_hash(ledger: &Ledger) -> [u8; 32] {
    let mut hasher = StateHasher(Sha256::new());
    hasher.part(&ledger.position().0.to_le_bytes());
    hasher.table("volumes", &ledger.volumes, |id| id.as_uuid().into_bytes().to_vec(), encode_volume);
    hasher.table("snapshots", &ledger.snapshots, |id| id.as_uuid().into_bytes().to_vec(), encode_snapshot);
    hasher.table(
        "volume_types",
        &ledger.volume_types,
        |id| id.as_uuid().into_bytes().to_vec(),
        encode_volume_type,
    );
    hasher.table("backends", &ledger.backends, |name| text_key(&[name.as_str()]), encode_backend);
    hasher.table("operations", &ledger.operations, |id| id.as_uuid().into_bytes().to_vec(), encode_operation);
    hasher.table("debts", &ledger.debts, debt_key, encode_debt);
    hasher.table("limits", &ledger.limits, |project| text_key(&[project.as_str()]), encode_limits);
    hasher.table("usage", &ledger.usage, |project| text_key(&[project.as_str()]), encode_usage);
    hasher.table("pools", &ledger.pools, pool_key, encode_pool_usage);
    hasher.table(
        "idempotency",
        &ledger.idempotency,
        |(project, key)| text_key(&[project.as_str(), key.as_str()]),
        encode_remembered,
    );
    hasher.table("default_limits", &ledger.default_limits, |()| Vec::new(), encode_limits);
    hasher.0.finalize().into()
}

fn debt_key(id: &DebtId) -> Vec<u8> {
    let mut key = id.operation.as_uuid().into_bytes().to_vec();
    key.extend(id.ordinal.to_be_bytes());
    key
}

fn pool_key(id: &PoolId) -> Vec<u8> {
    text_key(&[id.backend.as_str(), id.pool.as_str()])
}

/// Texts with their lengths, so that no two lists of texts are the same bytes.
fn text_key(texts: &[&str]) -> Vec<u8> {
    let mut key = Vec::new();
    for text in texts {
        key.extend(text.len().to_le_bytes());
        key.extend(text.as_bytes());
    }
    key
}

struct StateHasher(Sha256);

impl StateHasher {
    fn part(&mut self, bytes: &[u8]) {
        let length = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        self.0.update(length.to_le_bytes());
        self.0.update(bytes);
    }

    fn table<K: Clone + Eq + Ord + std::hash::Hash, V: Clone>(
        &mut self,
        name: &str,
        table: &Table<K, V>,
        key_bytes: impl Fn(&K) -> Vec<u8>,
        row_bytes: impl Fn(&V) -> Vec<u8>,
    ) {
        let rows = table.sorted();
        self.part(name.as_bytes());
        self.0.update(u64::try_from(rows.len()).unwrap_or(u64::MAX).to_le_bytes());
        for (key, row) in rows {
            self.part(&key_bytes(key));
            self.part(&row_bytes(row));
        }
    }
}

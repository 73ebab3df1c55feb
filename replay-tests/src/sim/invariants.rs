//! What must hold of the ledger at every moment, computed here without the ledger's own totals.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use tephra_domain::actor::Role;
use tephra_domain::event::{Commit, Event};
use tephra_domain::ids::{OperationId, PoolId, ProjectId, VolumeTypeId};
use tephra_domain::ledger::Ledger;
use tephra_domain::operations::OperationKind;
use tephra_domain::quota::{QuotaResource, Usage, UsageCount};
use tephra_domain::volume::{Volume, VolumeState};

/// What the simulator holds the code to. The numbers are those of ARCHITECTURE.md where it has them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Invariant {
    /// What was acknowledged is in the log, where the receipt says, once.
    AcknowledgedIsDurable,
    /// The log is one chain, and its history is legal.
    HistoryIsLegal,
    /// Nobody appends but the sequencer whose turn began last.
    TurnsAreWhole,
    /// Views are the replay.
    ViewsAreReplay,
    /// A transitional status has an open operation, and no other status has.
    TransitionalHasOperation,
    /// Every operation ends.
    EverythingEnds,
    /// Usage is the sum over what exists.
    UsageIsSum,
    /// Limits are never exceeded.
    LimitsHold,
    /// Objects on backends are those of the ledger and of its debts.
    ObjectsAreAccountedFor,
    /// Whatever is available holds the data that its owner was told it holds.
    DataIsRight,
    /// Servers reach what they were given, and nothing else.
    ExportsAreAttachments,
    /// What a server can reach is not taken away, nor changed under its hands.
    UsedIsLeftAlone,
    /// A rejection changes nothing, and is justified.
    RejectionHasNoEffect,
    /// An answer is not older than its question.
    AnswersAreFresh,
    /// Nobody changes what is not theirs, nor what their role does not allow.
    AuthorityHolds,
    /// An idempotency key is one commit.
    KeysAreUnique,
    /// A report of an attempt that was overtaken changes nothing.
    StaleReportsAreRefused,
    /// Nothing panics, nothing gives up.
    NothingDies,
}

impl Invariant {
    /// All of them.
    pub const ALL: &'static [Self] = &[
        Self::AcknowledgedIsDurable,
        Self::HistoryIsLegal,
        Self::TurnsAreWhole,
        Self::ViewsAreReplay,
        Self::TransitionalHasOperation,
        Self::EverythingEnds,
        Self::UsageIsSum,
        Self::LimitsHold,
        Self::ObjectsAreAccountedFor,
        Self::DataIsRight,
        Self::ExportsAreAttachments,
        Self::UsedIsLeftAlone,
        Self::RejectionHasNoEffect,
        Self::AnswersAreFresh,
        Self::AuthorityHolds,
        Self::KeysAreUnique,
        Self::StaleReportsAreRefused,
        Self::NothingDies,
    ];

    /// In words.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::AcknowledgedIsDurable => "what was acknowledged is in the log, once",
            Self::HistoryIsLegal => "the log is one chain with a legal history",
            Self::TurnsAreWhole => "only the sequencer whose turn it is appends",
            Self::ViewsAreReplay => "views are the replay",
            Self::TransitionalHasOperation => "transitional status means open operation",
            Self::EverythingEnds => "every operation ends",
            Self::UsageIsSum => "usage is the sum over what exists",
            Self::LimitsHold => "limits hold",
            Self::ObjectsAreAccountedFor => "objects on backends are the ledger's and its debts'",
            Self::DataIsRight => "data is what its owner was told",
            Self::ExportsAreAttachments => "servers reach what they were given, and nothing else",
            Self::UsedIsLeftAlone => "what a server can reach is left alone",
            Self::RejectionHasNoEffect => "a rejection has no effect and is justified",
            Self::AnswersAreFresh => "answers are not older than their questions",
            Self::AuthorityHolds => "nobody changes what is not theirs",
            Self::KeysAreUnique => "an idempotency key is one commit",
            Self::StaleReportsAreRefused => "a stale report changes nothing",
            Self::NothingDies => "nothing panics and nothing gives up",
        }
    }
}

/// An invariant that was broken, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Which.
    pub invariant: Invariant,
    /// What was found.
    pub found: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "broken: {}: {}", self.invariant.as_str(), self.found)
    }
}

fn broken(invariant: Invariant, found: String) -> Result<(), Violation> {
    Err(Violation { invariant, found })
}

/// Checks what must hold after every block.
///
/// # Errors
/// The first that does not.
pub fn check(ledger: &Ledger) -> Result<(), Violation> {
    statuses_have_operations(ledger)?;
    usage_is_the_sum(ledger)
}

fn statuses_have_operations(ledger: &Ledger) -> Result<(), Violation> {
    let mut owners = BTreeSet::new();
    for (id, volume) in ledger.volumes.sorted() {
        let state = volume.status.state();
        let owner = volume.status.operation();
        let open = owner.is_some_and(|operation| ledger.operations.contains_key(&operation));
        if state.is_transitional() != open {
            let found = format!("volume {id} is {}, its operation is open: {open}", state.as_str());
            return broken(Invariant::TransitionalHasOperation, found);
        }
        owners.extend(owner);
        owners.extend(attachments_have_operations(ledger, volume)?);
        for snapshot in &volume.snapshots {
            if ledger.snapshots.get(snapshot).is_none_or(|row| row.volume != *id) {
                return broken(Invariant::HistoryIsLegal, format!("volume {id} lists snapshot {snapshot}"));
            }
        }
    }
    for (id, snapshot) in ledger.snapshots.sorted() {
        let state = snapshot.status.state();
        let owner = snapshot.status.operation();
        let open = owner.is_some_and(|operation| ledger.operations.contains_key(&operation));
        if state.is_transitional() != open {
            let found = format!("snapshot {id} is {}, its operation is open: {open}", state.as_str());
            return broken(Invariant::TransitionalHasOperation, found);
        }
        owners.extend(owner);
        let listed = ledger.volumes.get(&snapshot.volume).is_some_and(|v| v.snapshots.contains(id));
        if !listed {
            return broken(Invariant::HistoryIsLegal, format!("snapshot {id} is on no volume's list"));
        }
    }
    for (id, operation) in ledger.operations.sorted() {
        // what cleans up a stranger has no resource of the ledger's, and making an export again
        // changes no status
        let has_none =
            matches!(operation.kind, OperationKind::ObjectClean(_) | OperationKind::ExportRestore(_));
        if !owners.contains(id) && !has_none {
            let found =
                format!("operation {id} ({}) is open, and nothing waits for it", operation.kind.name());
            return broken(Invariant::TransitionalHasOperation, found);
        }
    }
    Ok(())
}

/// The operations that attachments of a volume wait for.
fn attachments_have_operations(ledger: &Ledger, volume: &Volume) -> Result<Vec<OperationId>, Violation> {
    let mut owners = Vec::new();
    let wrong = |found: String| {
        let found = format!("volume {} is {}: {found}", volume.id, volume.status.state().as_str());
        Err(Violation { invariant: Invariant::TransitionalHasOperation, found })
    };
    for attachment in &volume.attachments {
        let state = attachment.status.state();
        let owner = attachment.status.operation();
        let open = owner.is_some_and(|operation| ledger.operations.contains_key(&operation));
        if state.is_transitional() != open {
            let (id, state) = (attachment.id, state.as_str());
            return wrong(format!("attachment {id} is {state}, its operation is open: {open}"));
        }
        owners.extend(owner);
    }
    let state = volume.status.state();
    let used = Volume::use_of(volume.attachments.iter());
    if state == VolumeState::Available && used != VolumeState::Available {
        return wrong(format!("its attachments make it {}", used.as_str()));
    }
    if state == VolumeState::InUse && volume.attachments.is_empty() {
        return wrong("nobody has it".to_owned());
    }
    if state == VolumeState::Deleting && volume.is_held() {
        return wrong("somebody has it".to_owned());
    }
    if ledger.exported.contains_key(&volume.id) != volume.has_exports() {
        return wrong(format!("it has exports: {}", volume.has_exports()));
    }
    Ok(owners)
}

fn usage_is_the_sum(ledger: &Ledger) -> Result<(), Violation> {
    let mut usage: BTreeMap<ProjectId, Usage> = BTreeMap::new();
    let mut users: BTreeMap<VolumeTypeId, u64> = BTreeMap::new();
    let mut pools: BTreeMap<PoolId, (i64, i64)> = BTreeMap::new();
    for (_, volume) in ledger.volumes.sorted() {
        let gigabytes = i64::from(volume.charged_gib());
        let count = UsageCount { volumes: 1, snapshots: 0, gigabytes };
        usage.entry(volume.project.clone()).or_default().add(volume.volume_type, count, 1);
        *users.entry(volume.volume_type).or_default() += 1;
        if let Some(pool) = &volume.pool {
            let entry = pools.entry(pool.clone()).or_default();
            *entry = (entry.0 + 1, entry.1 + gigabytes);
        }
    }
    for (_, snapshot) in ledger.snapshots.sorted() {
        let gigabytes = i64::from(snapshot.size.gib());
        let count = UsageCount { volumes: 0, snapshots: 1, gigabytes };
        usage.entry(snapshot.project.clone()).or_default().add(snapshot.volume_type, count, 1);
        *users.entry(snapshot.volume_type).or_default() += 1;
    }
    let folded: BTreeMap<_, _> =
        ledger.usage.sorted().into_iter().map(|(id, row)| (id.clone(), row.clone())).collect();
    if folded != usage {
        return broken(Invariant::UsageIsSum, format!("{folded:?}, the sum is {usage:?}"));
    }
    let folded: BTreeMap<_, _> = ledger
        .pools
        .sorted()
        .into_iter()
        .map(|(id, row)| (id.clone(), (row.volumes, row.provisioned_gib)))
        .filter(|(_, row)| *row != (0, 0))
        .collect();
    if folded != pools {
        return broken(Invariant::UsageIsSum, format!("pools {folded:?}, the sum is {pools:?}"));
    }
    for (id, volume_type) in ledger.volume_types.sorted() {
        let counted = users.remove(id).unwrap_or_default();
        if volume_type.users != counted {
            let found = format!("type {id} counts {} users, there are {counted}", volume_type.users);
            return broken(Invariant::UsageIsSum, found);
        }
    }
    if let Some((id, count)) = users.into_iter().next() {
        return broken(Invariant::UsageIsSum, format!("{count} resources have the type {id}, which is not"));
    }
    Ok(())
}

/// Checks that no commit took a project over a limit: usage that grew is within it.
///
/// # Errors
/// The first limit that is exceeded.
pub fn limits_hold(before: &BTreeMap<ProjectId, Usage>, ledger: &Ledger) -> Result<(), Violation> {
    for (project, usage) in ledger.usage.sorted() {
        let types = usage.by_type.keys().flat_map(|id| {
            [
                QuotaResource::VolumesOfType(*id),
                QuotaResource::SnapshotsOfType(*id),
                QuotaResource::GigabytesOfType(*id),
            ]
        });
        let plain = [QuotaResource::Volumes, QuotaResource::Snapshots, QuotaResource::Gigabytes];
        for resource in plain.into_iter().chain(types) {
            let (limit, now) = (ledger.limit(project, resource), usage.of(resource));
            let grew = now > before.get(project).map_or(0, |usage| usage.of(resource));
            if grew && limit >= 0 && now > limit {
                let found = format!("{project} has {now} of {resource:?}, the limit is {limit}");
                return broken(Invariant::LimitsHold, found);
            }
        }
    }
    Ok(())
}

/// Checks that whoever made a commit was allowed to. `before` is the state that it was decided on.
///
/// # Errors
/// The first event that the author had no right to.
pub fn authority_holds(before: &Ledger, commit: &Commit) -> Result<(), Violation> {
    let actor = &commit.actor;
    if actor.role == Role::Admin {
        return Ok(());
    }
    for event in &commit.events {
        let owner = match event {
            Event::Volume(id, tephra_domain::volume::VolumeEvent::CreateAccepted(accepted)) => {
                let taken = before.volumes.contains_key(id);
                (!taken).then(|| accepted.project.clone())
            }
            Event::Volume(id, _) => match before.volumes.get(id) {
                Some(volume) => Some(volume.project.clone()),
                // made by this very commit
                None => Some(actor.project.clone()),
            },
            Event::Snapshot(_, tephra_domain::snapshot::SnapshotEvent::CreateAccepted(accepted)) => {
                before.volumes.get(&accepted.volume).map(|volume| volume.project.clone())
            }
            Event::Snapshot(id, _) => before.snapshots.get(id).map(|snapshot| snapshot.project.clone()),
            Event::Operation(..) | Event::Debt(..) => continue,
            Event::VolumeType(..) | Event::Quota(_) | Event::Backend(..) | Event::TurnBegan { .. } => None,
        };
        let allowed = actor.role == Role::Member && owner.as_ref() == Some(&actor.project);
        if !allowed {
            let found =
                format!("{} of {} ({:?}) made {}", actor.user, actor.project, actor.role, event.name());
            return broken(Invariant::AuthorityHolds, found);
        }
    }
    Ok(())
}

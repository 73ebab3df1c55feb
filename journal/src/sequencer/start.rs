//! How a sequencer begins: the state at the log's end, and the first commit of a new ledger.

use std::collections::{BTreeMap, VecDeque};

use tephra_domain::actor::Actor;
use tephra_domain::command::{Command, CreateVolumeType};
use tephra_domain::evolve::apply_commit;
use tephra_domain::ids::{CommandId, RequestId};
use tephra_domain::ledger::Ledger;
use tephra_domain::rejection::Rejection;
use tephra_domain::volume_type::{DEFAULT_TYPE_ID, DEFAULT_TYPE_NAME};
use uuid::Uuid;

use super::recent::RECENT_COMMANDS;
use crate::gateway::{CommandGateway, Submission, SubmitError};
use crate::hash_chain::{ChainHead, follow_chain};
use crate::log::{Block, BlockNumber, Log, LogError, Sequenced};
use crate::wire::decode_block;

/// A state, and the place in the log that it stands at.
#[derive(Debug, Default)]
pub struct CaughtUp {
    /// The state.
    pub ledger: Ledger,
    /// Where it stands.
    pub head: ChainHead,
    /// The latest commits, oldest first: a command that is repeated after a restart is in here.
    pub recent: VecDeque<Sequenced>,
}

/// Takes a verified block's commits into a state.
///
/// # Errors
/// [`LogError::Corrupt`] if they cannot follow on it.
pub(super) fn take_in(ledger: &mut Ledger, block: &Block) -> Result<(), LogError> {
    for Sequenced { position, commit } in &block.commits {
        apply_commit(ledger, *position, commit).map_err(|illegal| LogError::Corrupt {
            number: block.number,
            reason: format!("commit {position}: {illegal}"),
        })?;
    }
    Ok(())
}

/// Brings a state to the end of the log. `ledger` is an empty one with `from` 0, or one that was
/// saved right after block `from`. Checks hashes, chain and positions of all that it reads.
///
/// # Errors
/// [`LogError::Corrupt`], naming the block; also if the saved state does not belong to this log.
pub async fn catch_up(ledger: Ledger, from: BlockNumber, log: &dyn Log) -> Result<CaughtUp, LogError> {
    let head = head_at(&ledger, from, log).await?;
    let mut caught_up = CaughtUp { ledger, head, recent: VecDeque::new() };
    let CaughtUp { ledger, recent, .. } = &mut caught_up;
    let head = follow_chain(log, head, |block, _| {
        take_in(ledger, &block)?;
        recent.extend(block.commits);
        let excess = recent.len().saturating_sub(RECENT_COMMANDS);
        recent.drain(..excess);
        Ok(())
    })
    .await?;
    caught_up.head = head;
    Ok(caught_up)
}

async fn head_at(ledger: &Ledger, from: BlockNumber, log: &dyn Log) -> Result<ChainHead, LogError> {
    let stray = |position| LogError::Corrupt {
        number: from,
        reason: format!(
            "it ends with commit {position}, but the saved state stands at {}",
            ledger.position()
        ),
    };
    if from == BlockNumber::default() {
        let head = ChainHead::default();
        return if ledger.position() == head.position { Ok(head) } else { Err(stray(head.position)) };
    }
    let blocks = log.read(from, 1).await?;
    let Some((number, bytes)) = blocks.first().filter(|(number, _)| *number == from) else {
        return Err(LogError::Corrupt { number: from, reason: "it is not in the log".to_owned() });
    };
    let block = decode_block(*number, bytes)?;
    match block.commits.last() {
        Some(last) if last.position == ledger.position() => {
            let (position, time) = (last.position, last.commit.time);
            Ok(ChainHead { block: *number, position, hash: block.hash, time })
        }
        Some(last) => Err(stray(last.position)),
        None => Err(stray(tephra_domain::ids::Position::START)),
    }
}

/// Makes the volume type that every ledger has, unless it is there. Call it at every start.
///
/// # Errors
/// If the ledger is not available.
pub async fn bootstrap(gateway: &dyn CommandGateway) -> Result<(), SubmitError> {
    let id = Uuid::new_v4();
    let submission = Submission {
        id: CommandId::from_uuid(id),
        request: RequestId::new(format!("req-{id}")),
        actor: Actor::system(),
        idempotency: None,
        command: Command::CreateVolumeType(Box::new(CreateVolumeType {
            volume_type: DEFAULT_TYPE_ID,
            name: DEFAULT_TYPE_NAME.into(),
            description: Some("Default Volume Type".into()),
            is_public: true,
            extra_specs: BTreeMap::new(),
        })),
    };
    match gateway.submit(submission).await {
        Ok(_) | Err(SubmitError::Rejected(Rejection::VolumeTypeExists { .. })) => Ok(()),
        Err(error) => Err(error),
    }
}

//! How a sequencer begins: the state at the log's end, and the first commit of a new ledger.

use std::collections::BTreeMap;
use std::time::Duration;

use tephra_domain::actor::Actor;
use tephra_domain::command::{Command, CreateVolumeType};
use tephra_domain::evolve::apply_commit;
use tephra_domain::ids::{CommandId, Position, RequestId};
use tephra_domain::ledger::Ledger;
use tephra_domain::rejection::Rejection;
use tephra_domain::volume_type::{DEFAULT_TYPE_ID, DEFAULT_TYPE_NAME};

use super::recent::RecentCommands;
use super::requests::{Requests, first_at};
use crate::gateway::{CommandGateway, Submission, SubmitError};
use crate::hash_chain::{ChainHead, follow_chain_to};
use crate::log::{Block, BlockNumber, Log, LogError, Sequenced, seek};
use crate::wire::decode_block;

/// A state, and the place in the log that it stands at.
#[derive(Debug, Default)]
pub struct CaughtUp {
    /// The state.
    pub ledger: Ledger,
    /// Where it stands.
    pub head: ChainHead,
    /// The latest commits: a command that is repeated after a restart is in here.
    pub recent: RecentCommands,
    /// The requests that open operations and debts began with.
    pub requests: Requests,
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
    let mut caught_up = CaughtUp { ledger, head, ..CaughtUp::default() };
    caught_up.go_on_to(BlockNumber(u64::MAX), log).await?;
    Ok(caught_up)
}

/// As [`catch_up`], from a state that was saved together with where it stood. The log must have that very
/// block there: one that lost its end, and has another block in its place, is another history.
///
/// # Errors
/// As [`catch_up`].
pub async fn catch_up_from(ledger: Ledger, saved: ChainHead, log: &dyn Log) -> Result<CaughtUp, LogError> {
    let head = head_at(&ledger, saved.block, log).await?;
    if head.hash != saved.hash {
        let reason = "the log has another block in the place where the saved state stands".to_owned();
        return Err(LogError::Corrupt { number: saved.block, reason });
    }
    let mut caught_up = CaughtUp { ledger, head, ..CaughtUp::default() };
    caught_up.go_on(log).await?;
    Ok(caught_up)
}

impl CaughtUp {
    /// Goes on to where the log ends now, and no further, or somebody who appends all the while would
    /// keep it from ever being done.
    ///
    /// # Errors
    /// As [`catch_up`]. What was read before the fault is taken in.
    pub async fn go_on(&mut self, log: &dyn Log) -> Result<(), LogError> {
        let end = log.head().await?;
        self.go_on_to(end, log).await
    }

    async fn go_on_to(&mut self, end: BlockNumber, log: &dyn Log) -> Result<(), LogError> {
        let Self { ledger, recent, head, requests } = self;
        let mut reached = *head;
        let followed = follow_chain_to(log, *head, end, |block, now| {
            take_in(ledger, &block)?;
            for sequenced in &block.commits {
                requests.note(&sequenced.commit);
                recent.remember(sequenced);
            }
            reached = now;
            Ok(())
        })
        .await;
        *head = reached;
        followed.map(drop)
    }

    /// Remembers what was decided before the saved state too: whoever asked the last sequencer and
    /// got no answer asks the next one again.
    ///
    /// # Errors
    /// If the log cannot be read.
    pub async fn remember(&mut self, log: &dyn Log) -> Result<(), LogError> {
        let mut recent = RecentCommands::with_limits(self.recent.limits());
        // A block has a commit at least, so these are enough for the count; for the time, it is looked up.
        let blocks = u64::try_from(recent.limits().whole).unwrap_or(u64::MAX);
        let by_count = BlockNumber(self.head.block.0.saturating_sub(blocks).saturating_add(1));
        let by_time = first_at(log, recent.since(self.head.time), self.head.block).await?;
        let mut next = by_count.min(by_time);
        while next <= self.head.block {
            let read = log.read(next, REMEMBERED_BLOCKS).await?;
            if read.is_empty() {
                break;
            }
            for (number, bytes) in read.into_iter().filter(|(number, _)| *number <= self.head.block) {
                for sequenced in decode_block(number, &bytes)?.commits {
                    self.requests.note(&sequenced.commit);
                    recent.remember(&sequenced);
                }
                next = BlockNumber(number.0.saturating_add(1));
            }
        }
        self.recent = recent;
        Ok(())
    }
}

impl CaughtUp {
    /// Finds out which requests the operations and debts of the saved state began with, so that their
    /// orders say so.
    ///
    /// # Errors
    /// If the log cannot be read.
    pub async fn find_requests(&mut self, log: &dyn Log) -> Result<(), LogError> {
        self.requests.look_up(&self.ledger, log, self.head.block).await
    }
}

/// How often a new sequencer is asked to make the type: the first answer of all may turn out to rest on a
/// state that another sequencer has changed.
const BOOTSTRAP_TRIES: u32 = 5;

/// The pause before it is asked again: what it stumbled over is still under way.
const BOOTSTRAP_PAUSE: Duration = Duration::from_millis(100);

/// Blocks that are read at once to remember them.
const REMEMBERED_BLOCKS: usize = 256;

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
    let Some(bytes) = seek(log, from).await? else {
        return Err(LogError::Corrupt { number: from, reason: "it is not in the log".to_owned() });
    };
    let block = decode_block(from, &bytes)?;
    match block.commits.last() {
        Some(last) if last.position == ledger.position() => {
            let (position, time) = (last.position, last.commit.time);
            Ok(ChainHead { block: from, position, hash: block.hash, time })
        }
        Some(last) => Err(stray(last.position)),
        None => Err(stray(Position::START)),
    }
}

/// Makes the volume type that every ledger has, unless it is there. Call it at every start.
///
/// # Errors
/// If the ledger is not available.
pub async fn bootstrap(gateway: &dyn CommandGateway) -> Result<(), SubmitError> {
    // the same command at every start: while it is remembered it is answered, not decided
    let id = DEFAULT_TYPE_ID.as_uuid();
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
    let mut tries = BOOTSTRAP_TRIES;
    loop {
        tries = tries.saturating_sub(1);
        match gateway.submit(submission.clone()).await {
            Ok(_) | Err(SubmitError::Rejected(Rejection::VolumeTypeExists { .. })) => return Ok(()),
            Err(SubmitError::Unavailable { .. }) if tries > 0 => tokio::time::sleep(BOOTSTRAP_PAUSE).await,
            Err(error) => return Err(error),
        }
    }
}

//! A block as bytes.
//!
//! ```text
//! offset  size
//!      0     4  "TLB1": a Tephra ledger block of format 1
//!      4    32  SHA-256 of every byte from offset 36 on
//!     36    32  SHA-256 of the block before (all zero for the first)
//!     68    16  block id
//!     84     4  number of commits (little endian)
//!     88        commits
//! ```
//!
//! A commit is a head ([`CommitHeadV1`], postcard) and, as often as the head says, an event:
//! `kind: u16, version: u16, length: u32` (little endian) and the payload.
//!
//! The hash covers the hash of the block before, so the last hash vouches for the whole chain.

use std::sync::Arc;

use sha2::{Digest as _, Sha256};
use tephra_domain::actor::Actor;
use tephra_domain::event::{Commit, Idempotency};
use tephra_domain::ids::{CommandId, OperationId, Position, RequestId};
use tephra_domain::units::Timestamp;
use uuid::Uuid;

use super::v1::codec::Wire;
use super::v1::commit::CommitHeadV1;
use super::{Invalid, upcast};
use crate::log::{Block, BlockNumber, LogError, Sequenced};

const MAGIC: [u8; 4] = *b"TLB1";
const HASHED_FROM: usize = 36;

/// Bytes before the first commit.
pub const HEADER_BYTES: usize = 88;

/// Bytes before an event's payload.
pub const EVENT_HEADER_BYTES: usize = 8;

/// A block that is ready to be appended.
#[derive(Clone, Debug)]
pub struct EncodedBlock {
    /// What is stored.
    pub bytes: Arc<[u8]>,
    /// Its SHA-256, which the next block repeats.
    pub hash: [u8; 32],
}

/// What a block says of itself before its commits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockHeader {
    /// Drawn by whoever appended it.
    pub id: Uuid,
    /// SHA-256 of the block before.
    pub previous_hash: [u8; 32],
    /// SHA-256 of this block.
    pub hash: [u8; 32],
    /// How many commits it has.
    pub commits: u32,
    /// The position of its first commit; nothing if it says that it has none.
    pub first_position: Option<Position>,
}

impl BlockHeader {
    /// The position of its last commit, positions being without gaps.
    pub fn last_position(&self) -> Option<Position> {
        let first = self.first_position?;
        Some(Position(first.0.checked_add(u64::from(self.commits.checked_sub(1)?))?))
    }
}

/// Encodes commits into the bytes of their part of a block; for measuring them before they are in
/// one.
pub fn encode_commit(sequenced: &Sequenced, out: &mut Vec<u8>) {
    let commit = &*sequenced.commit;
    let head = CommitHeadV1 {
        position: sequenced.position.0,
        command: commit.command.to_wire(),
        request: commit.request.as_str(),
        causation: commit.causation.to_wire(),
        actor: commit.actor.to_wire(),
        time: commit.time.micros(),
        idempotency: commit.idempotency.to_wire(),
        events: u32::try_from(commit.events.len()).unwrap_or(u32::MAX),
    };
    super::write_postcard(&head, out);
    for event in &commit.events {
        let header_at = out.len();
        out.extend([0; EVENT_HEADER_BYTES]);
        let (kind, version) = upcast::encode_event(event, out);
        let length = out.len().saturating_sub(header_at).saturating_sub(EVENT_HEADER_BYTES);
        let length = u32::try_from(length).unwrap_or(u32::MAX);
        let header = out.iter_mut().skip(header_at).take(EVENT_HEADER_BYTES);
        let bytes = kind.number().to_le_bytes().into_iter();
        let bytes = bytes.chain(version.to_le_bytes()).chain(length.to_le_bytes());
        header.zip(bytes).for_each(|(place, byte)| *place = byte);
    }
}

/// Encodes commits, with gapless positions, as a block.
pub fn encode_block(id: Uuid, previous_hash: [u8; 32], commits: &[Sequenced]) -> EncodedBlock {
    let mut body = Vec::with_capacity(commits.len().saturating_mul(256));
    for sequenced in commits {
        encode_commit(sequenced, &mut body);
    }
    seal_block(id, previous_hash, commits.len(), &body)
}

/// Puts the header before commits that [`encode_commit`] wrote.
pub fn seal_block(id: Uuid, previous_hash: [u8; 32], commits: usize, body: &[u8]) -> EncodedBlock {
    let mut bytes = Vec::with_capacity(HEADER_BYTES.saturating_add(body.len()));
    bytes.extend(MAGIC);
    bytes.extend([0; 32]);
    bytes.extend(previous_hash);
    bytes.extend(id.into_bytes());
    bytes.extend(u32::try_from(commits).unwrap_or(u32::MAX).to_le_bytes());
    bytes.extend(body);
    let hash: [u8; 32] = bytes.get(HASHED_FROM..).map(Sha256::digest).unwrap_or_default().into();
    if let Some(place) = bytes.get_mut(MAGIC.len()..HASHED_FROM) {
        place.copy_from_slice(&hash);
    }
    EncodedBlock { bytes: bytes.into(), hash }
}

/// Checks a block's bytes against its own hash, without reading events.
///
/// # Errors
/// [`LogError::Corrupt`], naming the block.
pub fn verify_hash(number: BlockNumber, bytes: &[u8]) -> Result<BlockHeader, LogError> {
    read_header(bytes).map(|(header, _)| header).map_err(|reason| corrupt(number, &reason))
}

/// Reads a block: its hash is right, its positions are without gaps, and every event is known.
///
/// # Errors
/// [`LogError::Corrupt`], naming the block, and the kind of the event where it is about one.
pub fn decode_block(number: BlockNumber, bytes: &[u8]) -> Result<Block, LogError> {
    read_block(number, bytes).map_err(|reason| corrupt(number, &reason))
}

fn corrupt(number: BlockNumber, reason: &BlockFault) -> LogError {
    LogError::Corrupt { number, reason: reason.to_string() }
}

#[derive(Debug, thiserror::Error)]
enum BlockFault {
    #[error("it is {0} bytes long, less than a header")]
    TooShort(usize),
    #[error("it does not begin like a block of a known format")]
    Format,
    #[error("its SHA-256 is {found}, not {stored} as it says")]
    Hash { stored: String, found: String },
    #[error("it has no commits")]
    Empty,
    #[error("commit {found} stands where commit {expected} should")]
    Gap { expected: Position, found: Position },
    #[error("commit {0} has no events")]
    NoEvents(Position),
    #[error("event {index} of commit {position}: {source}")]
    Event { position: Position, index: u32, source: Invalid },
    #[error(transparent)]
    Invalid(#[from] Invalid),
}

fn read_header(bytes: &[u8]) -> Result<(BlockHeader, &[u8]), BlockFault> {
    let short = || BlockFault::TooShort(bytes.len());
    let (magic, rest) = bytes.split_first_chunk::<4>().ok_or_else(short)?;
    if *magic != MAGIC {
        return Err(BlockFault::Format);
    }
    let (stored, hashed) = rest.split_first_chunk::<32>().ok_or_else(short)?;
    let (previous_hash, rest) = hashed.split_first_chunk::<32>().ok_or_else(short)?;
    let (id, rest) = rest.split_first_chunk::<16>().ok_or_else(short)?;
    let (commits, body) = rest.split_first_chunk::<4>().ok_or_else(short)?;
    let found: [u8; 32] = Sha256::digest(hashed).into();
    if found != *stored {
        return Err(BlockFault::Hash { stored: hex::encode(stored), found: hex::encode(found) });
    }
    let commits = u32::from_le_bytes(*commits);
    if commits == 0 {
        return Err(BlockFault::Empty);
    }
    // The first field of the first commit's head is its position.
    let first_position = postcard::take_from_bytes::<u64>(body).ok().map(|(first, _)| Position(first));
    let header = BlockHeader {
        id: Uuid::from_bytes(*id),
        previous_hash: *previous_hash,
        hash: found,
        commits,
        first_position,
    };
    Ok((header, body))
}

fn read_block(number: BlockNumber, bytes: &[u8]) -> Result<Block, BlockFault> {
    let (header, mut rest) = read_header(bytes)?;
    // A commit takes more than 32 bytes; a header that claims more commits than fit is found out below.
    let likely = usize::try_from(header.commits).unwrap_or_default().min(rest.len() / 32);
    let mut commits: Vec<Sequenced> = Vec::with_capacity(likely);
    for _ in 0..header.commits {
        let (sequenced, after) = read_commit(rest)?;
        if let Some(last) = commits.last()
            && sequenced.position != last.position.next()
        {
            return Err(BlockFault::Gap { expected: last.position.next(), found: sequenced.position });
        }
        commits.push(sequenced);
        rest = after;
    }
    if !rest.is_empty() {
        return Err(Invalid::Excess { what: "the last commit", excess: rest.len() }.into());
    }
    let BlockHeader { id, previous_hash, hash, .. } = header;
    Ok(Block { number, id, previous_hash, hash, commits })
}

fn read_commit(bytes: &[u8]) -> Result<(Sequenced, &[u8]), BlockFault> {
    let (head, mut rest): (CommitHeadV1<'_>, _) = postcard::take_from_bytes(bytes)
        .map_err(|source| Invalid::Encoding { what: "the head of a commit", source })?;
    let position = Position(head.position);
    if head.events == 0 {
        return Err(BlockFault::NoEvents(position));
    }
    let likely = usize::try_from(head.events).unwrap_or_default().min(rest.len() / EVENT_HEADER_BYTES);
    let mut events = Vec::with_capacity(likely);
    for index in 0..head.events {
        let (raw, after) = split_event(rest)?;
        let event = upcast::decode_event(raw.kind, raw.version, raw.payload)
            .map_err(|source| BlockFault::Event { position, index, source })?;
        events.push(event);
        rest = after;
    }
    let commit = Commit {
        command: CommandId::from_wire(head.command)?,
        request: RequestId::from_wire(head.request)?,
        causation: Option::<OperationId>::from_wire(head.causation)?,
        actor: Actor::from_wire(head.actor)?,
        time: Timestamp(head.time),
        idempotency: Option::<Idempotency>::from_wire(head.idempotency)?,
        events,
    };
    Ok((Sequenced { position, commit: Arc::new(commit) }, rest))
}

struct RawEvent<'a> {
    kind: u16,
    version: u16,
    payload: &'a [u8],
}

fn split_event(bytes: &[u8]) -> Result<(RawEvent<'_>, &[u8]), Invalid> {
    let truncated = || Invalid::Truncated { what: "an event" };
    let (kind, rest) = bytes.split_first_chunk::<2>().ok_or_else(truncated)?;
    let (version, rest) = rest.split_first_chunk::<2>().ok_or_else(truncated)?;
    let (length, rest) = rest.split_first_chunk::<4>().ok_or_else(truncated)?;
    let length = usize::try_from(u32::from_le_bytes(*length)).map_err(|_| truncated())?;
    let (payload, rest) = rest.split_at_checked(length).ok_or_else(truncated)?;
    let (kind, version) = (u16::from_le_bytes(*kind), u16::from_le_bytes(*version));
    Ok((RawEvent { kind, version, payload }, rest))
}

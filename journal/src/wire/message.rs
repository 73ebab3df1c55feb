//! What processes say to each other: commands and their answers, work orders, pool reports, what is
//! on a pool, loans, how far long work has come.
//!
//! Nothing in here is kept for ever, but processes of different versions talk while an upgrade is
//! under way. The same rules hold as for the ledger therefore: the first byte is the version, the
//! structs behind it are frozen, and what is not known is refused.

use std::sync::Arc;

use tephra_domain::event::Commit;
use tephra_domain::ids::{PoolId, Position};
use tephra_domain::rejection::Rejection;
use tephra_domain::scheduler::PoolStats;
use uuid::Uuid;

use super::v1::codec::Wire;
use super::v1::commands::SubmissionV1;
use super::v1::inventory::InventoryPartV1;
use super::v1::loans::{LoanAnswerV1, LoanQuestionV1};
use super::v1::orders::WorkOrderV1;
use super::v1::pools::PoolStatsV1;
use super::v1::progress::ProgressV1;
use super::v1::rejections::RejectionV1;
use super::v1::values::PoolIdV1;
use super::{Invalid, decode_block, encode_block};
use crate::gateway::{Receipt, Submission, SubmitError};
use crate::inventory::InventoryPart;
use crate::loans::{LoanAnswer, LoanQuestion};
use crate::log::{BlockNumber, Sequenced};
use crate::progress_board::Progress;
use crate::work_queue::WorkOrder;

/// The version of every message: its first byte.
pub const MESSAGE_VERSION: u8 = 1;

#[derive(Debug, serde::Serialize, serde::Deserialize)]
enum AnswerV1<'a> {
    /// A commit in a block of its own: the encoding that commits have anyway.
    Accepted(&'a [u8]),
    Repeated(u64),
    NothingToDo(u64),
    #[serde(borrow)]
    Rejected(RejectionV1<'a>),
    Unavailable(&'a str),
    TooLarge(&'a str),
}

fn encode<W: serde::Serialize>(wire: &W) -> Vec<u8> {
    // Writing to a vector cannot fail, and every wire struct knows the length of its parts.
    postcard::to_extend(wire, vec![MESSAGE_VERSION]).unwrap_or_default()
}

fn decode<'a, W: serde::Deserialize<'a>>(what: &'static str, bytes: &'a [u8]) -> Result<W, Invalid> {
    match bytes.split_first() {
        Some((&MESSAGE_VERSION, rest)) => Invalid::all(what, rest),
        Some((version, _)) => {
            Err(Invalid::Value { what: "known message version", value: u64::from(*version) })
        }
        None => Err(Invalid::Truncated { what }),
    }
}

/// The bytes of a command with who asks.
pub fn encode_submission(submission: &Submission) -> Vec<u8> {
    encode::<SubmissionV1<'_>>(&submission.to_wire())
}

/// Reads a command with who asks.
///
/// # Errors
/// If it is not one, or of another version.
pub fn decode_submission(bytes: &[u8]) -> Result<Submission, Invalid> {
    Submission::from_wire(decode::<SubmissionV1<'_>>("a command", bytes)?)
}

/// The bytes of an answer.
pub fn encode_answer(answer: &Result<Receipt, SubmitError>) -> Vec<u8> {
    encode(&match answer {
        Ok(Receipt::Accepted { position, commit }) => {
            let sequenced = Sequenced { position: *position, commit: Arc::clone(commit) };
            let block = encode_block(Uuid::nil(), [0; 32], &[sequenced]);
            return encode(&AnswerV1::Accepted(&block.bytes));
        }
        Ok(Receipt::Repeated { position }) => AnswerV1::Repeated(position.0),
        Ok(Receipt::NothingToDo { position }) => AnswerV1::NothingToDo(position.0),
        Err(SubmitError::Rejected(rejection)) => AnswerV1::Rejected(rejection.to_wire()),
        Err(SubmitError::Unavailable { reason }) => AnswerV1::Unavailable(reason),
        Err(SubmitError::TooLarge { reason }) => AnswerV1::TooLarge(reason),
    })
}

/// Reads an answer.
///
/// # Errors
/// If it is not one, or of another version.
pub fn decode_answer(bytes: &[u8]) -> Result<Result<Receipt, SubmitError>, Invalid> {
    Ok(match decode::<AnswerV1<'_>>("an answer", bytes)? {
        AnswerV1::Accepted(block) => {
            let (position, commit) = only_commit(block)?;
            Ok(Receipt::Accepted { position, commit })
        }
        AnswerV1::Repeated(position) => Ok(Receipt::Repeated { position: Position(position) }),
        AnswerV1::NothingToDo(position) => Ok(Receipt::NothingToDo { position: Position(position) }),
        AnswerV1::Rejected(rejection) => Err(SubmitError::Rejected(Rejection::from_wire(rejection)?)),
        AnswerV1::Unavailable(reason) => Err(SubmitError::Unavailable { reason: reason.to_owned() }),
        AnswerV1::TooLarge(reason) => Err(SubmitError::TooLarge { reason: reason.to_owned() }),
    })
}

fn only_commit(block: &[u8]) -> Result<(Position, Arc<Commit>), Invalid> {
    let invalid = Invalid::Truncated { what: "an accepted command's commit" };
    let Ok(block) = decode_block(BlockNumber::default(), block) else { return Err(invalid) };
    let Some(Sequenced { position, commit }) = block.commits.into_iter().next() else { return Err(invalid) };
    Ok((position, commit))
}

/// The bytes of a work order.
pub fn encode_order(order: &WorkOrder) -> Vec<u8> {
    encode::<WorkOrderV1<'_>>(&order.to_wire())
}

/// Reads a work order.
///
/// # Errors
/// If it is not one, or of another version.
pub fn decode_order(bytes: &[u8]) -> Result<WorkOrder, Invalid> {
    WorkOrder::from_wire(decode::<WorkOrderV1<'_>>("a work order", bytes)?)
}

/// The bytes of a backend's report on its pools.
pub fn encode_pools(pools: &[PoolStats]) -> Vec<u8> {
    let wire: Vec<PoolStatsV1<'_>> = pools.iter().map(Wire::to_wire).collect();
    encode(&wire)
}

/// Reads a backend's report on its pools.
///
/// # Errors
/// If it is not one, or of another version.
pub fn decode_pools(bytes: &[u8]) -> Result<Vec<PoolStats>, Invalid> {
    Vec::from_wire(decode::<Vec<PoolStatsV1<'_>>>("a report on pools", bytes)?)
}

/// The bytes of a backend's report on how far its work has come.
pub fn encode_progress(progress: &[Progress]) -> Vec<u8> {
    let wire: Vec<ProgressV1> = progress.iter().map(Wire::to_wire).collect();
    encode(&wire)
}

/// Reads a backend's report on how far its work has come.
///
/// # Errors
/// If it is not one, or of another version.
pub fn decode_progress(bytes: &[u8]) -> Result<Vec<Progress>, Invalid> {
    Vec::from_wire(decode::<Vec<ProgressV1>>("a report on progress", bytes)?)
}

/// The bytes of the question what is on a pool.
pub fn encode_inventory_question(pool: &PoolId) -> Vec<u8> {
    encode::<PoolIdV1<'_>>(&pool.to_wire())
}

/// Reads the question what is on a pool.
///
/// # Errors
/// If it is not one, or of another version.
pub fn decode_inventory_question(bytes: &[u8]) -> Result<PoolId, Invalid> {
    PoolId::from_wire(decode::<PoolIdV1<'_>>("a question about a pool", bytes)?)
}

/// The bytes of a question about a loan.
pub fn encode_loan_question(question: &LoanQuestion) -> Vec<u8> {
    encode::<LoanQuestionV1<'_>>(&question.to_wire())
}

/// Reads a question about a loan.
///
/// # Errors
/// If it is not one, or of another version.
pub fn decode_loan_question(bytes: &[u8]) -> Result<LoanQuestion, Invalid> {
    LoanQuestion::from_wire(decode::<LoanQuestionV1<'_>>("a question about a loan", bytes)?)
}

/// The bytes of the answer about a loan.
pub fn encode_loan_answer(answer: &LoanAnswer) -> Vec<u8> {
    encode::<LoanAnswerV1<'_>>(&answer.to_wire())
}

/// Reads the answer about a loan.
///
/// # Errors
/// If it is not one, or of another version.
pub fn decode_loan_answer(bytes: &[u8]) -> Result<LoanAnswer, Invalid> {
    LoanAnswer::from_wire(decode::<LoanAnswerV1<'_>>("an answer about a loan", bytes)?)
}

/// The bytes of one message of the answer.
pub fn encode_inventory_part(part: &InventoryPart) -> Vec<u8> {
    encode::<InventoryPartV1<'_>>(&part.to_wire())
}

/// Reads one message of the answer.
///
/// # Errors
/// If it is not one, or of another version.
pub fn decode_inventory_part(bytes: &[u8]) -> Result<InventoryPart, Invalid> {
    InventoryPart::from_wire(decode::<InventoryPartV1<'_>>("what is on a pool", bytes)?)
}

//! Loans, on their way between executors.

use super::codec::{Id, wire_enum, wire_struct};
use super::values::{BackendObjectV1, FailureV1, PoolIdV1};
use crate::loans::{Loan, LoanAnswer, LoanQuestion, LoanRequest};

wire_struct! {
    /// What is to be lent.
    LoanRequestV1<'a> for LoanRequest { loan: Id, pool: PoolIdV1<'a>, object: BackendObjectV1 }
    /// Where what is lent can be read.
    LoanV1<'a> for Loan { lender: Id, host: &'a str, port: u16, key: &'a str, lasts_ms: u64 }
}

wire_enum! {
    /// What is asked.
    LoanQuestionV1<'a> for LoanQuestion {
        0 Lend { request: LoanRequestV1<'a> } = { LoanQuestion::Lend(request) };
        1 GiveBack { loan: Id } = { LoanQuestion::GiveBack { loan } };
    }
    /// What is answered.
    LoanAnswerV1<'a> for LoanAnswer {
        0 Lent { loan: LoanV1<'a> } = { LoanAnswer::Lent(loan) };
        1 GivenBack {} = { LoanAnswer::GivenBack };
        2 Failed { failure: FailureV1<'a> } = { LoanAnswer::Failed(failure) };
    }
}

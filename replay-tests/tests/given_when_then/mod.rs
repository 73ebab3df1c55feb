mod attachments;
mod attachments_in_trouble;
mod drift;
mod frozen;
mod manage;
mod quota;
mod records;
mod scheduler;
mod snapshots;
mod volume_copy;
mod volume_create;
mod volume_delete;
mod volume_extend;
mod volume_reset;
mod volume_revert;
mod volume_upload;

use tephra_domain::effect::{Failure, FailureKind};
use tephra_domain::rejection::Rejection;

/// A failure that trying again does not help.
fn broken() -> Failure {
    Failure::new(FailureKind::Mismatch, "broken")
}

/// A failure that trying again may help.
fn hiccup() -> Failure {
    Failure::new(FailureKind::BackendError, "hiccup")
}

/// The code of a rejection, for tables.
fn code(result: Result<Vec<&'static str>, Rejection>) -> &'static str {
    match result {
        Ok(events) => panic!("accepted: {events:?}"),
        Err(rejection) => rejection.code(),
    }
}

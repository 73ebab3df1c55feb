//! Everything that is not a success, as Cinder's clients know it: a status and a fault body.

use std::borrow::Cow;

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::json;
use tephra_domain::rejection::Rejection;
use tephra_journal::gateway::SubmitError;
use tephra_projector::{QueryError, ViewsError};

/// Seconds after which a client may try again when the ledger cannot decide now.
const RETRY_AFTER_UNAVAILABLE_S: u32 = 1;

/// What a client is told when it gets nothing else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    status: StatusCode,
    message: Cow<'static, str>,
    retry_after_s: Option<u32>,
    code: Option<&'static str>,
}

impl Fault {
    /// A fault with a status and a message for people.
    pub fn new(status: StatusCode, message: impl Into<Cow<'static, str>>) -> Self {
        Self { status, message: message.into(), retry_after_s: None, code: None }
    }

    /// 400: the request is not one that can be understood or granted.
    pub fn bad_request(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, message)
    }

    /// 403: this role may not do that. `action` is Cinder's policy name.
    pub fn forbidden(action: &'static str) -> Self {
        Rejection::PolicyNotAuthorized { action }.into()
    }

    /// 404 with a message that names what is missing.
    pub fn not_found(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::NOT_FOUND, message)
    }

    /// 404 of a route that is not there, or not there at this microversion.
    pub fn no_such_route() -> Self {
        Self::not_found("The resource could not be found.")
    }

    /// 400 of a body that is not JSON, or not of the shape that the call takes.
    pub fn malformed_body() -> Self {
        Self::bad_request("Malformed request body")
    }

    /// 500: something broke. The cause goes to the log, not to the client.
    pub fn internal(cause: &dyn std::fmt::Display) -> Self {
        tracing::error!(%cause, "a request failed");
        Self::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "The server has either erred or is incapable of performing the requested operation.",
        )
    }

    /// 503: the same request may be sent again after a moment.
    pub fn unavailable(message: impl Into<Cow<'static, str>>) -> Self {
        Self {
            retry_after_s: Some(RETRY_AFTER_UNAVAILABLE_S),
            ..Self::new(StatusCode::SERVICE_UNAVAILABLE, message)
        }
    }

    /// The status.
    pub const fn status(&self) -> StatusCode {
        self.status
    }

    /// The message for people.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// The name that Cinder's fault bodies have for a status.
    const fn name(status: StatusCode) -> &'static str {
        match status.as_u16() {
            400 => "badRequest",
            401 => "unauthorized",
            403 => "forbidden",
            404 => "itemNotFound",
            405 => "badMethod",
            409 => "conflictingRequest",
            413 => "overLimit",
            415 => "badMediaType",
            501 => "notImplemented",
            503 => "serviceUnavailable",
            _ => "computeFault",
        }
    }
}

impl IntoResponse for Fault {
    fn into_response(self) -> Response {
        let code = self.status.as_u16();
        let body = if self.status == StatusCode::UNAUTHORIZED {
            // the authentication filter in front of Cinder answers, not Cinder
            json!({ "error": { "code": code, "title": "Unauthorized", "message": self.message } })
        } else {
            let mut fault = json!({ "code": code, "message": self.message });
            if self.status == StatusCode::PAYLOAD_TOO_LARGE
                && let (Some(retry), Some(fault)) = (self.retry_after_s, fault.as_object_mut())
            {
                fault.insert("retryAfter".to_owned(), retry.to_string().into());
            }
            json!({ Self::name(self.status): fault })
        };
        let mut response = (self.status, axum::Json(body)).into_response();
        let headers = response.headers_mut();
        if let Some(retry) = self.retry_after_s {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(retry));
        }
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Keystone uri=\"\""));
        }
        if let Some(code) = self.code {
            headers.insert("x-tephra-error", HeaderValue::from_static(code));
        }
        response
    }
}

impl From<Rejection> for Fault {
    fn from(rejection: Rejection) -> Self {
        let status = status_of(&rejection);
        Self {
            status,
            message: rejection.to_string().into(),
            retry_after_s: (status == StatusCode::PAYLOAD_TOO_LARGE).then_some(0),
            code: Some(rejection.code()),
        }
    }
}

impl From<SubmitError> for Fault {
    fn from(error: SubmitError) -> Self {
        match error {
            SubmitError::Rejected(rejection) => rejection.into(),
            SubmitError::TooLarge { reason } => {
                tracing::info!(%reason, "a request asks for too much at once");
                Self::bad_request("The request asks for more than can be changed at once.")
            }
            SubmitError::Unavailable { reason } => {
                tracing::warn!(%reason, "the ledger cannot decide now");
                Self::unavailable("The ledger is not available at the moment. Please try again.")
            }
        }
    }
}

impl From<ViewsError> for Fault {
    fn from(error: ViewsError) -> Self {
        Self::internal(&error)
    }
}

impl From<QueryError> for Fault {
    fn from(error: QueryError) -> Self {
        match error {
            QueryError::MarkerNotFound { .. } => Self::not_found(error.to_string()),
            QueryError::BeyondHead { .. } => Self::bad_request(error.to_string()),
            QueryError::Views(error) => error.into(),
        }
    }
}

/// What each rejection is over HTTP: Cinder's status for the same case. A wrong state is 400 there;
/// 409 is for what exists already and for a revert in the wrong state.
fn status_of(rejection: &Rejection) -> StatusCode {
    match rejection {
        Rejection::VolumeNotFound { .. }
        | Rejection::SnapshotNotFound { .. }
        | Rejection::VolumeTypeNotFound { .. }
        | Rejection::VolumeTypeNotFoundByName { .. }
        | Rejection::BackendNotFound { .. }
        | Rejection::DebtNotFound { .. }
        | Rejection::OperationNotFound { .. }
        | Rejection::ExtraSpecNotFound { .. }
        | Rejection::TypeAccessNotFound { .. }
        | Rejection::VolumeMetadataNotFound { .. }
        | Rejection::ImageMetadataNotFound { .. }
        | Rejection::AttachmentNotFound { .. }
        | Rejection::SnapshotMetadataNotFound { .. } => StatusCode::NOT_FOUND,

        Rejection::PolicyNotAuthorized { .. } => StatusCode::FORBIDDEN,

        Rejection::VolumeExists { .. }
        | Rejection::SnapshotExists { .. }
        | Rejection::VolumeTypeExists { .. }
        | Rejection::TypeAccessExists { .. }
        | Rejection::VolumeNotRevertable { .. }
        | Rejection::SnapshotNotRestorable { .. }
        | Rejection::AttachmentExists { .. }
        | Rejection::VolumeInErrorNotConnectable { .. }
        | Rejection::AttachmentBusy { .. }
        | Rejection::DuplicateConnectors { .. }
        | Rejection::StaleReport => StatusCode::CONFLICT,

        Rejection::VolumeNotDeletable { .. }
        | Rejection::VolumeHasSnapshots
        | Rejection::VolumeSnapshotsNotDeletable
        | Rejection::SnapshotNotDeletable
        | Rejection::ExtendNotLarger { .. }
        | Rejection::TooManyAttachments { .. }
        | Rejection::VolumeNotExtendable { .. }
        | Rejection::VolumeNotSnapshottable { .. }
        | Rejection::VolumeHasNoSnapshots { .. }
        | Rejection::SnapshotNotLatest { .. }
        | Rejection::SnapshotSizeDiffers { .. }
        | Rejection::VolumeNotRecoverable { .. }
        | Rejection::SourceSnapshotNotUsable
        | Rejection::SourceVolumeNotUsable
        | Rejection::VolumeSizeMissing
        | Rejection::ImageNotActive { .. }
        | Rejection::SizeBelowImage { .. }
        | Rejection::SizeBelowMinDisk { .. }
        | Rejection::ImageFactsMissing { .. }
        | Rejection::SizeBelowSnapshot { .. }
        | Rejection::SizeBelowSource { .. }
        | Rejection::AvailabilityZoneInvalid { .. }
        | Rejection::VolumeTypeInUse { .. }
        | Rejection::VolumeTypeIsDefault { .. }
        | Rejection::VolumeTypeIsPublic { .. }
        | Rejection::StatusNotResettable { .. }
        | Rejection::NothingToVerify { .. }
        | Rejection::VolumeNeverFilled { .. }
        | Rejection::VolumeHasAttachments
        | Rejection::VolumeInErrorNotAttachable { .. }
        | Rejection::VolumeNotReservable { .. }
        | Rejection::VolumeNotReservableByAction { .. }
        | Rejection::VolumeNotDetachable
        | Rejection::VolumeNotConnectable { .. }
        | Rejection::VolumeInMaintenance { .. }
        | Rejection::VolumeConnectionInMaintenance
        | Rejection::VolumeAlreadyAttached
        | Rejection::AttachModeInvalid { .. }
        | Rejection::AttachmentNotNamed
        | Rejection::ConnectorIncomplete { .. }
        | Rejection::ReadonlyNeedsAvailable { .. }
        | Rejection::VolumeNotUploadable { .. }
        | Rejection::SnapshotHeldByVolume { .. }
        | Rejection::ObjectAlreadyManaged { .. }
        | Rejection::BackendNotInService { .. }
        | Rejection::BackendFrozen { .. }
        | Rejection::BackendFreezeUnchanged { .. } => StatusCode::BAD_REQUEST,

        Rejection::VolumeLimitExceeded { .. }
        | Rejection::SnapshotLimitExceeded { .. }
        | Rejection::GigabytesQuotaExceeded { .. }
        | Rejection::VolumeSizeExceedsLimit { .. } => StatusCode::PAYLOAD_TOO_LARGE,

        Rejection::IdempotencyKeyReused => StatusCode::UNPROCESSABLE_ENTITY,
    }
}

#[cfg(test)]
mod tests {
    use axum::http::StatusCode;
    use tephra_journal::gateway::SubmitError;

    use super::Fault;

    #[test]
    fn only_what_may_be_asked_again_is_unavailable() {
        let faults = [
            SubmitError::Unavailable { reason: "no leader".to_owned() },
            SubmitError::TooLarge { reason: "600 KiB".to_owned() },
        ]
        .map(Fault::from);
        let told = faults.map(|fault| (fault.status, fault.retry_after_s));
        assert_eq!(told, [(StatusCode::SERVICE_UNAVAILABLE, Some(1)), (StatusCode::BAD_REQUEST, None)]);
    }
}

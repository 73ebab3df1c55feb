//! `/attachments` (3.27): reserve, connect, complete (3.44), let go, list, show.
//!
//! Connecting and letting go are operations of an executor, and Cinder's clients wait for their end
//! in the request: so do these, for [`EXPORT_WAIT`].

use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde_json::Value;
use tephra_domain::actor::Role;
use tephra_domain::attachment::{AttachmentEvent, AttachmentState};
use tephra_domain::command::{Command, CreateAttachment};
use tephra_domain::event::{Commit, Event};
use tephra_domain::ids::{AttachmentId, VolumeId};
use tephra_domain::rejection::Rejection;
use tephra_domain::volume::VolumeEvent;
use tephra_projector::attachments::{Attached, AttachmentQuery};
use tephra_projector::query::SortDirection;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use uuid::Uuid;

use super::action::{name_of, unknown};
use super::list::unlisted;
use super::params::Params;
use super::wire::attachment::{
    AttachmentBrief, AttachmentBriefList, AttachmentDetail, AttachmentDetailList, AttachmentEnvelope,
};
use super::wire::check::{Field, Object};
use super::wire::connector::{connecting, mode};
use super::wire::requests::{AttachmentActionBody, AttachmentCreateBody, AttachmentUpdateBody};
use crate::auth::Identity;
use crate::error::Fault;
use crate::microversion::Microversion;
use crate::request::{InPath, JsonBody};
use crate::state::AppState;

/// From here on there are attachments.
const ATTACHMENTS: u16 = 27;
/// From here on they can be completed.
const COMPLETE: u16 = 44;
/// From here on the mode can be said when one is created.
const MODE: u16 = 54;

/// How long a request waits for an export to be made or removed. Below the time limit of requests;
/// what is not done by then goes on, and can be seen by asking again.
pub const EXPORT_WAIT: Duration = Duration::from_secs(45);

/// The routes.
pub fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::new()
        .routes(routes!(list, create))
        .routes(routes!(list_detail))
        .routes(routes!(show, update, delete))
        .routes(routes!(act))
}

impl AppState {
    /// An attachment that the asker may see.
    ///
    /// # Errors
    /// 404, the same for what is not there and for what is another project's.
    pub fn visible_attachment(&self, identity: &Identity, id: AttachmentId) -> Result<Attached, Fault> {
        let found = self.views.attachment(id)?;
        let found = found.filter(|attached| identity.actor.can_see(&attached.volume.project));
        found.ok_or_else(|| Rejection::AttachmentNotFound { attachment: id }.into())
    }

    /// The attachment once no operation is at work on it; nothing once it is gone.
    ///
    /// # Errors
    /// 500 if that takes too long, as when Cinder's volume service does not answer.
    pub async fn settled_attachment(&self, id: AttachmentId) -> Result<Option<Attached>, Fault> {
        let settled = async {
            loop {
                let seen = self.views.checkpoint().position;
                match self.views.attachment(id)? {
                    Some(one) if one.attachment.status.state().is_transitional() => {
                        self.views.wait_for(seen.next()).await;
                    }
                    settled => return Ok::<_, Fault>(settled),
                }
            }
        };
        tokio::time::timeout(EXPORT_WAIT, settled).await.unwrap_or_else(|_| {
            Err(Fault::new(
                StatusCode::INTERNAL_SERVER_ERROR,
                format!("Attachment {id} is still being worked on: its storage does not answer."),
            ))
        })
    }

    /// Shows an attachment with all its fields. Who may only read gets no secrets.
    ///
    /// # Errors
    /// If the views cannot be read.
    pub fn attachment_detail(
        &self,
        identity: &Identity,
        attached: &Attached,
    ) -> Result<AttachmentDetail, Fault> {
        let pool = attached.volume.pool.as_ref().filter(|_| identity.actor.role > Role::Reader);
        let backend = pool.map(|pool| self.views.backend(&pool.backend)).transpose()?.flatten();
        let description = backend.as_ref().map(|backend| &backend.description);
        Ok(AttachmentDetail::new(attached, description, self.settings.master_key.as_ref()))
    }
}

/// The attachment that a commit created.
fn created(commit: &Commit) -> Option<AttachmentId> {
    commit.events.iter().find_map(|event| {
        if let Event::Volume(_, VolumeEvent::Attachment { attachment, event }) = event
            && let AttachmentEvent::Reserved { .. } = event
        {
            Some(*attachment)
        } else {
            None
        }
    })
}

/// What is left after an export was to be made: the attachment, or why there is no export.
fn connected(settled: Option<Attached>, id: AttachmentId, verb: &str) -> Result<Attached, Fault> {
    let attached = settled.ok_or_else(|| Fault::from(Rejection::AttachmentNotFound { attachment: id }))?;
    if attached.attachment.status.state() != AttachmentState::ErrorAttaching {
        return Ok(attached);
    }
    let failure = attached.attachment.last_failure.as_ref().map(|record| record.failure.to_string());
    let why = failure.unwrap_or_else(|| "the export could not be made".to_owned());
    Err(Fault::new(StatusCode::INTERNAL_SERVER_ERROR, format!("Unable to {verb} ({why}).")))
}

/// Reserves a volume for a server, and connects it if a connector is given.
#[utoipa::path(post, path = "/attachments", tag = "attachments", operation_id = "create_attachment",
    request_body = AttachmentCreateBody,
    responses((status = 200, body = AttachmentEnvelope), (status = 400), (status = 403), (status = 404),
        (status = 500)))]
async fn create(
    State(state): State<AppState>,
    identity: Identity,
    version: Microversion,
    body: JsonBody,
) -> Result<Json<AttachmentEnvelope>, Fault> {
    version.require(ATTACHMENTS)?;
    let command = creation(body.require()?, version)?;
    let connects = command.connector.is_some();
    let command = Command::CreateAttachment(Box::new(command));
    let outcome = state.submit(&identity, body.idempotency, command).await?;
    let id = outcome.created(created)?;
    let settled = if connects { state.settled_attachment(id).await? } else { state.views.attachment(id)? };
    let attached = connected(settled, id, "create attachment for volume")?;
    Ok(Json(AttachmentEnvelope { attachment: state.attachment_detail(&identity, &attached)? }))
}

fn creation(body: &Value, version: Microversion) -> Result<CreateAttachment, Fault> {
    let fields = Object::only(body, "attachment")?;
    let volume = uuid(&fields.required("volume_uuid")?)?;
    let instance = fields.field("instance_uuid").map(|field| uuid(&field)).transpose()?;
    // clients that only reserve send null, nothing, or an empty one
    let is_none = |value: &Value| value.is_null() || value.as_object().is_some_and(serde_json::Map::is_empty);
    let connector = fields.field("connector").filter(|field| !is_none(field.value()));
    let connector = connector.map(|field| connecting(&field)).transpose()?;
    let has_mode = version.is_at_least(MODE);
    let asked = fields.field("mode").filter(|_| has_mode).map(|field| mode(&field)).transpose()?;
    let known: &[&str] = if has_mode {
        &["instance_uuid", "connector", "volume_uuid", "mode"]
    } else {
        &["instance_uuid", "connector", "volume_uuid"]
    };
    fields.deny_unknown(known)?;
    Ok(CreateAttachment {
        volume: VolumeId::from_uuid(volume),
        attachment: AttachmentId::from_uuid(Uuid::new_v4()),
        instance: instance.map(|id| id.to_string().into()),
        mode: asked.flatten(),
        connector_mode: connector.as_ref().and_then(|connecting| connecting.mode),
        connector: connector.map(|connecting| connecting.connector),
    })
}

fn uuid(field: &Field<'_>) -> Result<Uuid, Fault> {
    field.optional_uuid()?.ok_or_else(|| field.refuse("None is not of type 'string'"))
}

/// Says from which host a server connects.
#[utoipa::path(put, path = "/attachments/{attachment_id}", tag = "attachments",
    operation_id = "update_attachment", params(("attachment_id" = String, Path)),
    request_body = AttachmentUpdateBody,
    responses((status = 200, body = AttachmentEnvelope), (status = 400), (status = 403), (status = 404),
        (status = 409), (status = 500)))]
async fn update(
    State(state): State<AppState>,
    identity: Identity,
    version: Microversion,
    InPath(id): InPath<AttachmentId>,
    body: JsonBody,
) -> Result<Json<AttachmentEnvelope>, Fault> {
    version.require(ATTACHMENTS)?;
    let fields = Object::only(body.require()?, "attachment")?;
    let connector = fields.required("connector")?;
    if connector.object()?.is_empty() {
        return Err(connector.refuse("{} does not have enough properties"));
    }
    let connecting = connecting(&connector)?;
    fields.deny_unknown(&["connector"])?;
    let volume = state.visible_attachment(&identity, id)?.volume.id;
    let (connector, mode) = (connecting.connector, connecting.mode);
    let command = Command::UpdateAttachment { volume, attachment: id, connector, mode };
    state.submit(&identity, None, command).await?;
    let attached = connected(state.settled_attachment(id).await?, id, "update attachment")?;
    Ok(Json(AttachmentEnvelope { attachment: state.attachment_detail(&identity, &attached)? }))
}

/// Ends an attachment. The answer has the volume's other ones.
#[utoipa::path(delete, path = "/attachments/{attachment_id}", tag = "attachments",
    operation_id = "delete_attachment", params(("attachment_id" = String, Path)),
    responses((status = 200, body = AttachmentBriefList), (status = 403), (status = 404), (status = 500)))]
async fn delete(
    State(state): State<AppState>,
    identity: Identity,
    version: Microversion,
    InPath(id): InPath<AttachmentId>,
) -> Result<Json<AttachmentBriefList>, Fault> {
    version.require(ATTACHMENTS)?;
    let volume = state.visible_attachment(&identity, id)?.volume.id;
    state.submit(&identity, None, Command::DeleteAttachment { volume, attachment: id }).await?;
    state.gone_attachment(id).await?;
    let left = state.views.volume(volume)?;
    let attachments = left.iter().flat_map(|volume| {
        volume.attachments.iter().map(move |attachment| AttachmentBrief::new(volume, attachment))
    });
    Ok(Json(AttachmentBriefList { attachments: attachments.collect() }))
}

impl AppState {
    /// Waits until an attachment is gone.
    ///
    /// # Errors
    /// As [`AppState::disconnected_attachment`]; 500 if it is still there.
    pub async fn gone_attachment(&self, id: AttachmentId) -> Result<(), Fault> {
        let Some(left) = self.disconnected_attachment(id).await? else { return Ok(()) };
        let message = format!("Attachment {id} is still {}.", left.attachment.status.state().wire_name());
        Err(Fault::new(StatusCode::INTERNAL_SERVER_ERROR, message))
    }

    /// Waits until an attachment's export is gone, and says what is left of the attachment.
    ///
    /// # Errors
    /// 500 with the reason if its export could not be removed, or that takes too long.
    pub async fn disconnected_attachment(&self, id: AttachmentId) -> Result<Option<Attached>, Fault> {
        let Some(left) = self.settled_attachment(id).await? else { return Ok(None) };
        if left.attachment.status.state() != AttachmentState::ErrorDetaching {
            return Ok(Some(left));
        }
        let failure = left.attachment.last_failure.as_ref().map(|record| record.failure.to_string());
        let message = format!(
            "Bad or unexpected response from the storage volume backend API: Terminate volume connection failed: {}",
            failure.unwrap_or_default()
        );
        Err(Fault::new(StatusCode::INTERNAL_SERVER_ERROR, message))
    }
}

/// Says that the server has connected.
#[utoipa::path(post, path = "/attachments/{attachment_id}/action", tag = "attachments",
    operation_id = "attachment_action", params(("attachment_id" = String, Path)),
    request_body = AttachmentActionBody,
    responses((status = 204), (status = 400), (status = 403), (status = 404), (status = 409)))]
async fn act(
    State(state): State<AppState>,
    identity: Identity,
    version: Microversion,
    InPath(id): InPath<AttachmentId>,
    body: JsonBody,
) -> Result<StatusCode, Fault> {
    version.require(ATTACHMENTS)?;
    let (name, _) = name_of(&body)?;
    if name != "os-complete" {
        return Err(unknown(name));
    }
    version.require(COMPLETE)?;
    let volume = state.visible_attachment(&identity, id)?.volume.id;
    let command = Command::CompleteAttachment { volume, attachment: id };
    state.submit(&identity, body.idempotency, command).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// One attachment.
#[utoipa::path(get, path = "/attachments/{attachment_id}", tag = "attachments",
    operation_id = "show_attachment", params(("attachment_id" = String, Path)),
    responses((status = 200, body = AttachmentEnvelope), (status = 404)))]
async fn show(
    State(state): State<AppState>,
    identity: Identity,
    version: Microversion,
    InPath(id): InPath<AttachmentId>,
) -> Result<Json<AttachmentEnvelope>, Fault> {
    version.require(ATTACHMENTS)?;
    let attached = state.visible_attachment(&identity, id)?;
    Ok(Json(AttachmentEnvelope { attachment: state.attachment_detail(&identity, &attached)? }))
}

/// Attachments in short.
#[utoipa::path(get, path = "/attachments", tag = "attachments", operation_id = "list_attachments",
    params(super::list::ListParams),
    responses((status = 200, body = AttachmentBriefList), (status = 400)))]
async fn list(
    State(state): State<AppState>,
    identity: Identity,
    version: Microversion,
    params: Params,
) -> Result<Json<AttachmentBriefList>, Fault> {
    version.require(ATTACHMENTS)?;
    let rows = listed(&state, &identity, &params).await?;
    let attachments = rows.iter().map(|row| AttachmentBrief::new(&row.volume, &row.attachment)).collect();
    Ok(Json(AttachmentBriefList { attachments }))
}

/// Attachments with all their fields.
#[utoipa::path(get, path = "/attachments/detail", tag = "attachments",
    operation_id = "list_attachments_detail", params(super::list::ListParams),
    responses((status = 200, body = AttachmentDetailList), (status = 400)))]
async fn list_detail(
    State(state): State<AppState>,
    identity: Identity,
    version: Microversion,
    params: Params,
) -> Result<Json<AttachmentDetailList>, Fault> {
    version.require(ATTACHMENTS)?;
    let rows = listed(&state, &identity, &params).await?;
    let attachments = rows.iter().map(|row| state.attachment_detail(&identity, row));
    Ok(Json(AttachmentDetailList { attachments: attachments.collect::<Result<_, _>>()? }))
}

async fn listed(state: &AppState, identity: &Identity, params: &Params) -> Result<Vec<Attached>, Fault> {
    let all = identity.actor.role == Role::Admin && params.flag("all_tenants")?;
    let nothing = || Ok(Vec::new());
    let volume = match params.get("volume_id").map(str::parse) {
        Some(Err(_)) => return nothing(),
        Some(Ok(volume)) => Some(volume),
        None => None,
    };
    let marker = params.get("marker").map(|text| {
        text.parse().map_err(|_| Fault::not_found(format!("Volume attachment {text} could not be found.")))
    });
    let query = AttachmentQuery {
        project: (!all).then(|| identity.actor.project.clone()),
        volume,
        instance: params.get("instance_id").map(ToOwned::to_owned),
        status: params.get("status").or_else(|| params.get("attach_status")).map(ToOwned::to_owned),
        direction: direction(params)?,
        marker: marker.transpose()?,
        offset: params.count("offset")?.unwrap_or(0),
        limit: params.limit()?,
    };
    let page = state.scan(move |views| views.attachments(&query)).await?;
    Ok(page.map_err(|error| unlisted(error, "Volume attachment"))?.rows)
}

/// Cinder's default is newest first. Attachments can be sorted by their age alone.
fn direction(params: &Params) -> Result<SortDirection, Fault> {
    let sort = params.get("sort").map(|sort| sort.split_once(':').unwrap_or((sort, "desc")));
    let (key, direction) = sort.unwrap_or_else(|| {
        (params.get("sort_key").unwrap_or("created_at"), params.get("sort_dir").unwrap_or("desc"))
    });
    if !matches!(key, "created_at" | "id") {
        return Err(Fault::bad_request("Invalid input received: Sort key supplied is invalid."));
    }
    match direction {
        "asc" => Ok(SortDirection::Ascending),
        "desc" => Ok(SortDirection::Descending),
        other => Err(Fault::bad_request(format!(
            "Invalid input received: Unknown sort direction, must be one of: asc, desc. Got {other}."
        ))),
    }
}

//! `/messages` (3.3): Cinder's notes to users about failures. Here the ledger keeps what happened,
//! with its reason, so there never is one; clients ask after a failure all the same.

use axum::Json;
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::auth::Identity;
use crate::error::Fault;
use crate::microversion::Microversion;
use crate::request::{InPath, PathId};
use crate::state::AppState;

/// Since when there are messages.
const MESSAGES_MINOR: u16 = 3;

/// The list of messages, and each of none.
pub fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::new().routes(routes!(list)).routes(routes!(show, delete))
}

#[derive(Debug)]
struct MessageId(String);

impl PathId for MessageId {
    const PARAM: &'static str = "message_id";

    fn parse(text: &str) -> Result<Self, Fault> {
        Ok(Self(text.to_owned()))
    }
}

/// `{"messages": []}`
#[derive(Debug, Serialize, ToSchema)]
pub struct MessageList {
    /// Always empty.
    messages: [Value; 0],
}

fn none_such(MessageId(id): &MessageId) -> Fault {
    Fault::not_found(format!("Message {id} could not be found."))
}

/// Lists no messages: what failed, and why, is in the volume's history.
#[utoipa::path(
    get, path = "/messages", tag = "deployment",
    responses((status = 200, body = MessageList), (status = 404))
)]
async fn list(_: Identity, version: Microversion) -> Result<Json<MessageList>, Fault> {
    version.require(MESSAGES_MINOR)?;
    Ok(Json(MessageList { messages: [] }))
}

/// Shows no message.
#[utoipa::path(
    get, path = "/messages/{message_id}", tag = "deployment",
    params(("message_id" = String, Path)),
    responses((status = 404))
)]
async fn show(_: Identity, version: Microversion, InPath(id): InPath<MessageId>) -> Result<(), Fault> {
    version.require(MESSAGES_MINOR)?;
    Err(none_such(&id))
}

/// Removes no message.
#[utoipa::path(
    delete, path = "/messages/{message_id}", tag = "deployment",
    params(("message_id" = String, Path)),
    responses((status = 404))
)]
async fn delete(_: Identity, version: Microversion, InPath(id): InPath<MessageId>) -> Result<(), Fault> {
    version.require(MESSAGES_MINOR)?;
    Err(none_such(&id))
}

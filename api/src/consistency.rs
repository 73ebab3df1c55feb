//! How new a read has to be.
//!
//! A reader sees its own writes on the api that took them, because answers wait for the views of
//! that api. Whoever has heard of a write elsewhere asks with `consistency=linearizable`, or with
//! the header [`HEADER`] of that value: then the views first come up with the log as it is now.

use std::time::Duration;

use axum::extract::{Request, State};
use axum::http::{Method, Uri};
use axum::middleware::Next;
use axum::response::Response;
use tephra_journal::log::BlockNumber;

use crate::error::Fault;
use crate::state::AppState;

/// The header that asks for it, for clients that cannot add parameters.
pub const HEADER: &str = "x-tephra-consistency";

/// The parameter, and the two values of both.
const PARAMETER: &str = "consistency";
const LINEARIZABLE: &str = "linearizable";
const LOCAL: &str = "local";

/// How long the log and the views may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// Makes reads that ask for it wait until the views are up with the log.
pub async fn wait_if_asked(
    State(state): State<AppState>,
    mut request: Request,
    next: Next,
) -> Result<Response, Fault> {
    if request.method() != Method::GET && request.method() != Method::HEAD {
        return Ok(next.run(request).await);
    }
    let in_header = request.headers().get(HEADER).and_then(|value| value.to_str().ok()).map(str::to_owned);
    let in_query = take_parameter(request.uri_mut());
    let is_asked = match in_query.or(in_header).as_deref() {
        None | Some(LOCAL) => false,
        Some(LINEARIZABLE) => true,
        Some(_) => {
            let message = format!("The consistency of a read is `{LOCAL}` or `{LINEARIZABLE}`.");
            return Err(Fault::bad_request(message));
        }
    };
    if is_asked && tokio::time::timeout(PATIENCE, come_up(&state)).await != Ok(true) {
        return Err(Fault::unavailable("The ledger's end cannot be seen at the moment. Please try again."));
    }
    Ok(next.run(request).await)
}

/// Returns once the views have what the log has now; false if the log does not say what that is.
async fn come_up(state: &AppState) -> bool {
    match state.log.head().await {
        Ok(BlockNumber(0)) => true,
        Ok(head) => {
            state.views.wait_for_block(head).await;
            true
        }
        Err(error) => {
            tracing::warn!(%error, "a linearizable read could not ask the log");
            false
        }
    }
}

/// Takes the parameter out of the query: no handler needs to know of it.
fn take_parameter(uri: &mut Uri) -> Option<String> {
    let query = uri.query()?;
    let prefix = format!("{PARAMETER}=");
    let asked = query.split('&').find_map(|pair| pair.strip_prefix(&prefix))?.to_owned();
    let rest: Vec<&str> = query.split('&').filter(|pair| !pair.starts_with(&prefix)).collect();
    let target =
        if rest.is_empty() { uri.path().to_owned() } else { format!("{}?{}", uri.path(), rest.join("&")) };
    let mut parts = uri.clone().into_parts();
    parts.path_and_query = target.parse().ok();
    if let Ok(stripped) = Uri::from_parts(parts) {
        *uri = stripped;
    }
    Some(asked)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parameter_is_taken_out_and_the_others_stay() {
        for (before, asked, after) in [
            ("/v3/p/volumes", None, "/v3/p/volumes"),
            ("/v3/p/volumes?limit=2", None, "/v3/p/volumes?limit=2"),
            ("/v3/p/volumes?consistency=linearizable", Some("linearizable"), "/v3/p/volumes"),
            ("/v3/v?a=b&consistency=local&c=%20d", Some("local"), "/v3/v?a=b&c=%20d"),
        ] {
            let mut uri: Uri = before.parse().unwrap();
            assert_eq!(take_parameter(&mut uri).as_deref(), asked, "{before}");
            assert_eq!(uri.to_string(), after);
        }
    }
}

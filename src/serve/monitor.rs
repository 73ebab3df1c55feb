//! What a process shows of itself, whether it is an api or not.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tephra_api::health::RoleBoard;
use tephra_api::monitor::router;
use tokio_util::sync::CancellationToken;

use super::{listen, server_limits};
use crate::config::Config;
use crate::failure::CommandResult;
use crate::roles::{RoleKind, Roles};

/// What `/readyz` says of the start.
pub(super) struct Monitor(Arc<AtomicBool>);

impl Monitor {
    /// From now on the roles speak for themselves.
    pub(super) fn started(&self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Answers from now on, also while the start waits for others.
///
/// # Errors
/// If nobody can listen there.
pub(super) async fn start_monitor(
    config: &Config,
    address: SocketAddr,
    board: &RoleBoard,
    roles: &mut Roles,
) -> CommandResult<Monitor> {
    let started = Arc::new(AtomicBool::new(false));
    let is_started = Arc::clone(&started);
    board.add("start", move || {
        if is_started.load(Ordering::Relaxed) {
            Ok("all roles have started".to_owned())
        } else {
            Err("not all roles have started; the log says what they wait for".to_owned())
        }
    });
    let (listener, cancel) = (listen(address).await?, CancellationToken::new());
    let limits = server_limits(config);
    let serving =
        tokio::spawn(tephra_api::server::serve(listener, router(board.clone()), limits, cancel.clone()));
    let kind = config.roles.first().copied().unwrap_or(RoleKind::Projector);
    roles.add(kind, cancel, async move {
        match serving.await {
            Ok(served) => served.map_err(|error| error.to_string()),
            Err(panic) => Err(panic.to_string()),
        }
    });
    Ok(Monitor(started))
}

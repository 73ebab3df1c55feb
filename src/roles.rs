//! The parts that a server is made of, as tasks that are watched while they run and stopped in
//! order. A deployment on one machine plays all of them; on a shared journal each can be played by
//! a process of its own, because they know one another only through the journal's ports.

use std::time::Duration;

use clap::ValueEnum;
use futures::future::{BoxFuture, join_all};
use futures::{FutureExt as _, StreamExt as _, stream};
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

/// What a server can do, in the order in which its parts stop: each may need those after it to
/// finish what it has begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum RoleKind {
    /// Answers clients.
    Api,
    /// Does the storage work of a backend.
    Executor,
    /// Decides commands and appends them to the journal.
    Sequencer,
    /// Publishes what happened, for programs that are not ours. Only on NATS.
    Events,
    /// Keeps the views up with the journal.
    Projector,
}

impl RoleKind {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Api, Self::Executor, Self::Sequencer, Self::Events, Self::Projector];

    /// Its name in messages.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Api => "api",
            Self::Executor => "executor",
            Self::Sequencer => "sequencer",
            Self::Events => "events",
            Self::Projector => "projector",
        }
    }
}

/// A role at work.
pub struct Role {
    kind: RoleKind,
    cancel: CancellationToken,
    ended: BoxFuture<'static, Result<(), String>>,
    is_over: bool,
}

/// A role that ended although nobody asked it to.
#[derive(Debug, thiserror::Error)]
#[error("the {} has died: {reason}", role.as_str())]
pub struct RoleDied {
    /// Which.
    pub role: RoleKind,
    /// Why, as far as it is known.
    pub reason: String,
}

/// All roles of a server.
#[derive(Default)]
pub struct Roles {
    roles: Vec<Role>,
}

impl Roles {
    /// Adds a role that has started. `ended` completes when it has stopped, by itself or because
    /// `cancel` was cancelled.
    pub fn add(
        &mut self,
        kind: RoleKind,
        cancel: CancellationToken,
        ended: impl Future<Output = Result<(), String>> + Send + 'static,
    ) {
        self.roles.push(Role { kind, cancel, ended: ended.boxed(), is_over: false });
    }

    /// Returns when a role has ended although nobody asked it to. Can be dropped while waiting.
    pub async fn died(&mut self) -> RoleDied {
        let running = self.roles.iter_mut().filter(|role| !role.is_over);
        let mut endings: stream::FuturesUnordered<_> = running
            .map(|role| async {
                let ended = role.ended.as_mut().await;
                role.is_over = true;
                let reason = ended.err().unwrap_or_else(|| "it stopped without being asked to".to_owned());
                RoleDied { role: role.kind, reason }
            })
            .collect();
        match endings.next().await {
            Some(died) => died,
            None => std::future::pending().await,
        }
    }

    /// Stops all roles, one kind after the other, each kind within `limit`. What has not stopped by
    /// then is left to its fate: whatever was acknowledged is durable.
    ///
    /// # Errors
    /// The first role that did not end well, after all have been stopped.
    pub async fn stop(mut self, limit: Duration) -> Result<(), RoleDied> {
        let mut outcome = Ok(());
        for kind in RoleKind::ALL {
            let of_kind: Vec<Role> = self.roles.extract_if(.., |role| role.kind == kind).collect();
            for role in &of_kind {
                role.cancel.cancel();
            }
            let running = of_kind.into_iter().filter(|role| !role.is_over).map(|role| role.ended);
            let ended: Result<(), String> = match tokio::time::timeout(limit, join_all(running)).await {
                Ok(endings) => endings.into_iter().collect(),
                Err(_) => Err(format!("it did not stop within {} s", limit.as_secs())),
            };
            if let Err(reason) = ended {
                tracing::warn!(role = kind.as_str(), %reason, "a role did not end well");
                outcome = outcome.and(Err(RoleDied { role: kind, reason }));
            }
        }
        outcome
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    fn add(roles: &mut Roles, kind: RoleKind, order: &Arc<Mutex<Vec<RoleKind>>>) {
        let (cancel, order) = (CancellationToken::new(), Arc::clone(order));
        let stop = cancel.clone();
        roles.add(kind, cancel, async move {
            stop.cancelled().await;
            order.lock().unwrap().push(kind);
            Ok(())
        });
    }

    #[tokio::test]
    async fn roles_stop_before_those_that_they_need() {
        let order = Arc::new(Mutex::new(Vec::new()));
        let mut roles = Roles::default();
        let kinds =
            [RoleKind::Projector, RoleKind::Events, RoleKind::Executor, RoleKind::Sequencer, RoleKind::Api];
        for kind in kinds {
            add(&mut roles, kind, &order);
        }
        roles.stop(Duration::from_secs(5)).await.unwrap();
        assert_eq!(*order.lock().unwrap(), RoleKind::ALL);
    }

    #[tokio::test]
    async fn a_role_that_ends_by_itself_is_noticed_and_the_others_still_stop() {
        let order = Arc::new(Mutex::new(Vec::new()));
        let mut roles = Roles::default();
        add(&mut roles, RoleKind::Api, &order);
        roles.add(RoleKind::Sequencer, CancellationToken::new(), async { Err("no disk".to_owned()) });
        let died = roles.died().await;
        assert_eq!((died.role, died.reason.as_str()), (RoleKind::Sequencer, "no disk"));
        roles.stop(Duration::from_secs(5)).await.unwrap();
        assert_eq!(*order.lock().unwrap(), [RoleKind::Api]);
    }

    #[tokio::test]
    async fn a_role_that_does_not_stop_is_given_up() {
        let mut roles = Roles::default();
        roles.add(RoleKind::Executor, CancellationToken::new(), std::future::pending());
        let stuck = roles.stop(Duration::from_millis(1)).await.unwrap_err();
        assert_eq!(stuck.role, RoleKind::Executor);
    }
}

//! Which servers keep the streams: those that have every tag of the configuration.
//!
//! Servers of a cluster know each other's tags (`server_tags`) and place a stream by them when it is
//! made. One that exists stays where it is. A server without a cluster has no choice and takes every
//! stream, whatever its tags are; it tells nobody that it did.

use std::time::Duration;

use async_nats::jetstream::context::{CreateStreamError, CreateStreamErrorKind};
use async_nats::jetstream::stream::{Config, Info, Placement};
use async_nats::jetstream::{Context, ErrorCode};

use super::connect::NatsConfig;

/// How often a stream is tried to be placed that no server has the tags for. A server that has just
/// joined may not have told its tags, and whoever is refused is not started again.
const ATTEMPTS: usize = 8;

/// The pause before the next attempt.
const PAUSE: Duration = Duration::from_millis(500);

/// What a stream is to be placed by; nothing where the configuration leaves it to the servers.
pub(super) fn placement(config: &NatsConfig) -> Option<Placement> {
    let tags = config.placement_tags.clone();
    (!tags.is_empty()).then_some(Placement { cluster: None, tags })
}

/// The tags that a stream's configuration asks for.
pub(super) fn tags(config: &Config) -> &[String] {
    config.placement.as_ref().map_or(&[], |placement| &placement.tags)
}

/// Makes a stream.
pub(super) async fn create(context: &Context, wanted: &Config) -> Result<Info, CreateStreamError> {
    let mut created = context.create_stream(wanted).await;
    for _ in 1..ATTEMPTS {
        if !created.as_ref().is_err_and(lacks_tags) {
            break;
        }
        tokio::time::sleep(PAUSE).await;
        created = context.create_stream(wanted).await;
    }
    created.map(|stream| stream.cached_info().clone())
}

/// Whether the servers say that too few of them have the tags, and no other reason. One that is away, or
/// has not been heard of yet, is another reason (they name it before the tags): it may have them, and come.
pub(super) fn lacks_tags(error: &CreateStreamError) -> bool {
    let said = error.to_string();
    matches!(error.kind(), CreateStreamErrorKind::JetStream(error) if error.error_code() == ErrorCode::CLUSTER_NO_PEERS)
        && said.contains("no suitable peers for placement, tags not matched [")
}

/// Says so if a stream was placed by other tags than those that are configured now.
pub(super) fn warn_if_elsewhere(info: &Info, wanted: &Config) {
    let (placed_by, configured) = (tags(&info.config), tags(wanted));
    if !configured.is_empty() && placed_by != configured {
        tracing::warn!(
            stream = wanted.name,
            ?placed_by,
            ?configured,
            "the stream stays on the servers that it was made on; `nats stream edit --tag` moves it"
        );
    }
}

//! Watches over the life of whatever holds a backend's exports: when it is another one than before,
//! the ledger is told, and has the exports made again.

use std::sync::Arc;
use std::time::Duration;

use super::ledger::LedgerClient;
use crate::export::Exporter;

/// How often it is looked, and tried again where the exports cannot be reached.
pub const WATCH_INTERVAL: Duration = Duration::from_secs(2);

/// Goes on until it is dropped. At the start nothing is known of the exporter's life before, so
/// every export is made sure of.
pub async fn watch(exporter: Arc<dyn Exporter>, ledger: Arc<LedgerClient>) {
    let mut known: Option<String> = None;
    let mut is_up = true;
    loop {
        match exporter.incarnation().await {
            Ok(life) => {
                is_up = true;
                if known.as_ref() != Some(&life) && ledger.restore_exports().await {
                    known = Some(life);
                }
            }
            Err(failure) => {
                if is_up {
                    tracing::warn!(%failure, "exports cannot be reached");
                }
                is_up = false;
            }
        }
        tokio::time::sleep(WATCH_INTERVAL).await;
    }
}

//! What every handler can reach.

use std::num::NonZero;
use std::ops::Deref;
use std::sync::Arc;

use tephra_domain::units::Timestamp;
use tephra_journal::gateway::CommandGateway;
use tephra_journal::inventory::Inventory;
use tephra_journal::log::Log;
use tephra_journal::pool_board::PoolBoard;
use tephra_journal::progress_board::ProgressBoard;
use tephra_journal::secrets::MasterKey;
use tephra_projector::Views;
use tokio::sync::Semaphore;

use crate::auth::Authenticator;
use crate::error::Fault;
use crate::health::RoleBoard;
use crate::images::ImageCatalog;

/// Rows on a page, at most and by default (Cinder's `osapi_max_limit`).
pub const MAX_LIMIT: usize = 1000;

/// Where the time comes from.
pub type Clock = Arc<dyn Fn() -> Timestamp + Send + Sync>;

/// What the operator can set about the edge.
#[derive(Clone, Debug, Default)]
pub struct ApiSettings {
    /// Scheme and authority that links start with, where a proxy stands in front (Cinder's
    /// `public_endpoint`). Nothing: what the client put in `Host`.
    pub public_endpoint: Option<String>,
    /// What operators have to know for as long as the server runs: `/readyz` says it.
    pub warning: Option<String>,
    /// What else this process does: `/readyz` says how that is going.
    pub roles: RoleBoard,
    /// Where images are looked up; nothing if no image store is configured.
    pub images: Option<Arc<dyn ImageCatalog>>,
    /// What the passwords of exports are derived from. Nothing: no export that needs one is shown.
    pub master_key: Option<MasterKey>,
}

/// The parts of [`AppState`].
pub struct App {
    /// Where commands go.
    pub gateway: Arc<dyn CommandGateway>,
    /// Where queries go.
    pub views: Views,
    /// The log itself, for what happened rather than what is.
    pub log: Arc<dyn Log>,
    /// How full each pool is.
    pub pools: PoolBoard,
    /// How far long work has come.
    pub progress: ProgressBoard,
    /// What is on each pool.
    pub inventory: Arc<dyn Inventory>,
    /// The time.
    pub clock: Clock,
    /// Who is who.
    pub auth: Authenticator,
    /// What the operator set.
    pub settings: ApiSettings,
}

/// What every handler can reach. Cheap to clone.
#[derive(Clone)]
pub struct AppState {
    app: Arc<App>,
    scans: Arc<Semaphore>,
}

impl AppState {
    /// Puts the parts together.
    pub fn new(app: App) -> Self {
        let at_a_time = std::thread::available_parallelism().map_or(1, NonZero::get);
        Self { app: Arc::new(app), scans: Arc::new(Semaphore::new(at_a_time)) }
    }

    /// Asks the views something that may cost a look at every row of a project. It runs on a thread
    /// of its own, as many at a time as there are processors: other clients are answered meanwhile.
    ///
    /// # Errors
    /// 500 if the query panicked.
    pub async fn scan<T: Send + 'static>(
        &self,
        query: impl FnOnce(&Views) -> T + Send + 'static,
    ) -> Result<T, Fault> {
        let permit =
            Arc::clone(&self.scans).acquire_owned().await.map_err(|error| Fault::internal(&error))?;
        let views = self.app.views.clone();
        let scan = tokio::task::spawn_blocking(move || {
            let found = query(&views);
            drop(permit);
            found
        });
        scan.await.map_err(|error| Fault::internal(&error))
    }

    /// The time now.
    pub fn now(&self) -> Timestamp {
        (self.app.clock)()
    }
}

impl Deref for AppState {
    type Target = App;

    fn deref(&self) -> &App {
        &self.app
    }
}

//! Everything on NATS: the log, the work queue, commands from afar, leases, pool reports.
//!
//! * [`connect`]: how servers are reached, and as whom.
//! * [`log`]: the log on a JetStream stream. `reading`: its past. `tail`: how readers hear of new
//!   blocks. [`checks`]: whether a server would lose what it acknowledged.
//!   `placement`: which servers keep the streams.
//! * [`work_queue`]: work orders on a stream.
//! * [`gateway`]: commands by request and reply. `attempts`: one answer for all attempts at one.
//!   [`leadership`]: whose turn it is to decide them.
//! * [`events`]: public events on a stream.
//! * [`pools`]: how full the pools of other hosts are. [`inventory`]: what is on them.
//!   [`loans`]: what executors lend each other. [`progress`]: how far their long work has come.
//!
//! Names of streams and subjects are in [`crate::subjects`].

mod attempts;
pub mod checks;
pub mod connect;
pub mod events;
pub mod gateway;
pub mod inventory;
pub mod leadership;
mod lease;
pub mod loans;
pub mod log;
mod placement;
pub mod pools;
pub mod progress;
mod reading;
mod tail;
pub mod work_queue;

pub use checks::{DurabilityProof, LogHealth, RefusedServer};
pub use connect::{DurabilityClaim, NatsAuth, NatsConfig, NatsError, NatsTls, USUAL_API, connect};
pub use events::JetStreamEvents;
pub use gateway::{GatewayConfig, NatsGateway, Speaker, Warning, serve_commands};
pub use inventory::{NatsInventory, serve_inventory};
pub use leadership::{Leadership, LeadershipConfig, Term};
pub use loans::{NatsLoans, serve_loans};
pub use log::{JetStreamLog, MAX_BLOCK_BYTES};
pub use pools::{follow_pools, publish_pools};
pub use progress::{follow_progress, publish_progress};
pub use work_queue::{JetStreamQueue, QueueConfig};

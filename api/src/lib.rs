//! The HTTP edge: Cinder's v3 API and the ledger's own, over the command gateway and the views.
//!
//! A handler is a few lines: extract, convert, command or query, convert. Nothing is decided here
//! and no storage work is done; the ledger decides, and what it refuses becomes a fault in
//! [`error`], in one exhaustive match.
//!
//! Rooms:
//! * [`server`]: the router, the listener's limits, the road of a request.
//! * [`state`]: what every handler can reach; [`submit`]: the road of a command;
//!   [`lookup`]: what an asker may see; [`drift`]: the ledger against what the backends show.
//! * [`auth`], [`microversion`], [`request`], [`consistency`]: what is known of a request before its handler runs.
//! * [`error`]: everything that is not a success.
//! * [`ledger_v1`]: the ledger's own API. [`health`], [`metrics`], [`openapi`]: for those who run it.
//! * [`v3`]: one file per resource of Cinder's API; `v3::wire`: its bodies, in and out.

pub mod auth;
pub mod consistency;
pub mod drift;
pub mod error;
pub mod health;
pub mod images;
pub mod ledger_v1;
pub mod lookup;
pub mod metrics;
pub mod microversion;
pub mod monitor;
pub mod openapi;
pub mod request;
pub mod server;
pub mod state;
pub mod submit;
pub mod v3;

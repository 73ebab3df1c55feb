//! The ledger's own API: what Cinder's has no word for.

pub mod render;

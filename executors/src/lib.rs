//! Executors do the storage work: they take orders, look, act and report. They never decide what
//! should happen, speak no HTTP and read no views.
//!
//! Rooms:
//! * [`backend`]: what every backend can do, and one module per kind of storage.
//! * [`image`]: volumes made from images and uploaded as such.
//! * [`copy`]: a volume made of what another backend holds.
//! * [`export`]: how hosts reach volumes, where they cannot by themselves.
//! * [`runner`]: takes orders, performs them one at a time per volume, reports each outcome once.
//! * [`inventory`]: shows what is on the pools to whoever asks.
//! * [`fence`]: who has lost an order does nothing more for it.
//! * [`locks`]: two effects never work on one volume at the same time.
//! * [`process`]: the only place that starts other programs.
//! * [`metrics`]: the names of what is counted.

pub mod backend;
pub mod copy;
pub mod export;
pub mod fence;
pub mod image;
pub mod inventory;
pub mod locks;
pub mod metrics;
pub mod process;
pub mod runner;

//! Version 1 of every payload: frozen.
//!
//! Field order, field types and the order of enum variants are what is on disk. Nothing in here is
//! ever edited once a release has written it: a change is a struct of the next version.
//!
//! * [`codec`]: how a domain value and its wire form become each other.
//! * [`values`]: what payloads are made of. [`sagas`]: operations with their parameters.
//! * [`events`]: the payload of every kind of event. [`commit`]: what stands before the events.
//! * [`commands`], [`rejections`], [`orders`], [`pools`], [`inventory`], [`loans`], [`progress`]: what
//!   processes say to each other.

pub mod codec;
pub mod commands;
pub mod commit;
pub mod events;
pub mod inventory;
pub mod loans;
pub mod orders;
pub mod pools;
pub mod progress;
pub mod rejections;
pub mod sagas;
pub mod values;

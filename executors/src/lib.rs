//! Executors do the storage work: they take orders, look, act and report. They never decide what
//! should happen, speak no HTTP and read no views.

pub mod backend;

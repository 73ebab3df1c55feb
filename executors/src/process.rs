//! The only place that starts other programs.

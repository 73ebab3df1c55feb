//! What every backend must show, as a suite that any backend runs through.

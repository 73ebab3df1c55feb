//! How far long work has come, on its way to whoever shows it.

use super::codec::wire_struct;
use super::orders::EffectKeyV1;
use crate::progress_board::Progress;

wire_struct! {
    /// How far one attempt has come.
    ProgressV1 for Progress { key: EffectKeyV1, done_bytes: u64, total_bytes: u64 }
}

//! How long things may take: every limit with its name, its unit and its reason.

use std::time::Duration;

use tephra_domain::effect::Effect;

/// Making, growing, shrinking, looking, where a backend does not say otherwise: a few system calls, or one command of a backend's tools.
/// A minute is far beyond the slowest that was seen, and short enough to notice a hanging mount.
pub const METADATA_LIMIT: Duration = Duration::from_secs(60);

/// Removing, where a backend does not say otherwise: a large file's blocks are freed one by one on some file systems.
pub const REMOVE_LIMIT: Duration = Duration::from_secs(15 * 60);

/// Copying whole volumes: 8 TiB at 100 MiB/s is about a day.
pub const COPY_LIMIT: Duration = Duration::from_secs(24 * 60 * 60);

/// Waiting for other effects on the same volumes. The ledger lets operations on one volume take
/// turns, so what an order meets is a cleanup, or an attempt that went on after its limit.
pub const LOCK_LIMIT: Duration = Duration::from_secs(5 * 60);

/// Asking a backend how full it is.
pub const STATS_LIMIT: Duration = Duration::from_secs(30);

/// Listing everything on a pool: `lvs` and `rbd ls -l` of tens of thousands of objects take seconds,
/// and whoever asks waits no longer than a client for a request.
pub const LIST_LIMIT: Duration = Duration::from_secs(30);

/// Between the figures of a pool after changes: a thousand creates need no thousand figures.
pub const STATS_PAUSE: Duration = Duration::from_secs(1);

/// The first wait before a command is sent to the ledger again; it doubles up to
/// [`RESEND_MAX_DELAY`], with jitter.
pub const RESEND_MIN_DELAY: Duration = Duration::from_millis(50);

/// The longest wait before a command is sent to the ledger again.
pub const RESEND_MAX_DELAY: Duration = Duration::from_secs(5);

/// The longest nap while waiting until an order is due, before looking at the clock again.
pub const DUE_NAP: Duration = Duration::from_secs(1);

/// How often at least what is left of a lease is asked to be renewed, where work must end with it.
pub const KEEPS_PER_LEASE: u32 = 4;

/// The shortest pause between two such requests: a queue that does not answer is not asked without end.
pub const KEEP_PAUSE_MIN: Duration = Duration::from_millis(100);

/// How many finished attempts are remembered, so that a repeated order is not performed again.
pub const FINISHED_REMEMBERED: usize = 16_384;

/// How long each kind of effect may take. Every backend gives its own
/// ([`Backend::limits`](crate::backend::Backend::limits)): what it is configured to wait for must
/// not be ended here before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EffectLimits {
    /// Creating blank volumes, verifying, taking over and giving up, exports.
    pub metadata: Duration,
    /// Extending and shrinking: what is cut off may have to be read before.
    pub resize: Duration,
    /// Deleting.
    pub remove: Duration,
    /// Snapshots, clones, reverts, overwrites.
    pub copy: Duration,
    /// Waiting for the locks before that.
    pub lock: Duration,
}

impl Default for EffectLimits {
    fn default() -> Self {
        Self {
            metadata: METADATA_LIMIT,
            resize: METADATA_LIMIT,
            remove: REMOVE_LIMIT,
            copy: COPY_LIMIT,
            lock: LOCK_LIMIT,
        }
    }
}

impl EffectLimits {
    /// The limit for an effect.
    pub const fn of(&self, effect: &Effect) -> Duration {
        match effect {
            Effect::CreateVolume { .. }
            | Effect::Verify { .. }
            | Effect::Adopt { .. }
            | Effect::Disown { .. }
            | Effect::ExportVolume { .. }
            | Effect::UnexportVolume { .. }
            | Effect::RemoveImage { .. } => self.metadata,
            Effect::ExtendVolume { .. } | Effect::ShrinkVolume { .. } => self.resize,
            Effect::DeleteVolume { .. } | Effect::DeleteSnapshot { .. } => self.remove,
            Effect::CreateVolumeFromSnapshot { .. }
            | Effect::CloneVolume { .. }
            | Effect::CopyVolume { .. }
            | Effect::CreateVolumeFromImage { .. }
            | Effect::CreateSnapshot { .. }
            | Effect::RevertToSnapshot { .. }
            | Effect::OverwriteVolume { .. }
            | Effect::UploadImage { .. } => self.copy,
        }
    }
}

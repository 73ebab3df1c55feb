//! The steps of plans, and the commands that take them.

use std::ffi::OsString;
use std::path::PathBuf;

use super::extents::PvExtents;
use super::name;
use super::{Clear, LvmConfig};
use crate::process::Program;

/// The unit in which thick snapshots copy what is about to be overwritten. lvm2's default of 4 KiB
/// costs the kernel an entry of its table in memory for each of them, and cuts every read of the
/// snapshot into as small pieces (measured: a tenth of the speed).
const SNAPSHOT_CHUNK_BYTES: u64 = 64 << 10;

/// What an entry of its table takes on disk (the kernel's `struct disk_exception`).
const SNAPSHOT_ENTRY_BYTES: u64 = 16;

/// How much is cleared in one call: in between, the program can be stopped.
const CLEAR_STEP_BYTES: u64 = 1 << 30;

/// One thing to do. Names are of logical volumes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// A new volume with space of its own.
    CreateThick { lv: String, bytes: u64, incomplete: bool },
    /// A new volume in the thin pool.
    CreateThin { lv: String, bytes: u64, pool: String, incomplete: bool },
    /// A snapshot with space for all of its origin, which has so many bytes.
    SnapshotThick { lv: String, of: String, bytes: u64 },
    /// A thick snapshot that a merge has consumed, under its name, on these extents if any are named.
    SnapshotAgain { lv: String, of: String, bytes: u64, on: Vec<PvExtents> },
    /// A passing volume of all of these extents, with what they hold.
    Hold { lv: String, on: Vec<PvExtents> },
    /// A snapshot in its origin's pool; a volume from it if it is to be written.
    SnapshotThin { lv: String, of: String, is_volume: bool, incomplete: bool },
    /// More tags, all at once.
    AddTags { lv: String, tags: Vec<String> },
    /// Fewer tags, all at once.
    RemoveTags { lv: String, tags: Vec<String> },
    /// Its device is there.
    Activate { lv: String },
    /// Its device is not.
    Deactivate { lv: String },
    /// A larger volume.
    Extend { lv: String, bytes: u64 },
    /// A larger volume, whose device must be away meanwhile and is there again in the end, even if
    /// the volume is not larger.
    ExtendInactive { lv: String, bytes: u64 },
    /// A smaller volume.
    Reduce { lv: String, bytes: u64 },
    /// Fails unless the volume holds nothing but zeroes there.
    RequireZeroes { lv: String, from: u64, to: u64 },
    /// The data of another volume, at the beginning.
    Copy { from: String, to: String },
    /// Zeroes.
    Zero { lv: String, from: u64, to: u64 },
    /// Zeroes where it has grown. Others may have it open, who do not know yet that it has.
    ZeroGrown { lv: String, from: u64, to: u64 },
    /// What was written is on the disks.
    Sync { lv: String },
    /// Its data cannot be read any more, as configured.
    Clear { lv: String, bytes: u64 },
    /// A thick snapshot's space becomes a volume, and is a snapshot no more.
    Split { lv: String },
    /// It is gone.
    Remove { lv: String },
    /// Another name.
    Rename { from: String, to: String },
    /// The origin gets the snapshot's data back, and the snapshot goes.
    Merge { lv: String },
    /// Its device takes requests again.
    Resume { lv: String },
    /// Somebody looks after a merge that has lost its command.
    Poll { lv: String },
}

/// What follows the steps of a plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Then {
    /// The effect holds.
    Done,
    /// What is there decides what comes next.
    LookAgain,
    /// The kernel is at work: look again after a while.
    Wait,
}

/// What to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// One after the other.
    pub steps: Vec<Step>,
    /// And then.
    pub then: Then,
}

impl Plan {
    /// Steps after which the effect holds.
    pub const fn done(steps: Vec<Step>) -> Self {
        Self { steps, then: Then::Done }
    }

    /// Steps after which there is more to do.
    pub const fn first(steps: Vec<Step>) -> Self {
        Self { steps, then: Then::LookAgain }
    }
}

/// Builds programs for one volume group.
pub struct Commands<'a> {
    pub config: &'a LvmConfig,
}

impl Commands<'_> {
    /// The programs that take a step, in order.
    pub fn of(&self, step: &Step) -> Vec<Program> {
        let vg = &self.config.volume_group;
        let one = |program: Program| vec![program];
        match step {
            Step::CreateThick { lv, bytes, incomplete } => {
                let program = self.lvm("lvcreate").args(["-y", "-Wy", "-Zy", "-n", lv]);
                one(tagged(program, *incomplete).args(["-L", &in_bytes(*bytes), vg]))
            }
            Step::CreateThin { lv, bytes, pool, incomplete } => {
                let program = self.lvm("lvcreate").args(["-y", "-T", "-n", lv]);
                one(tagged(program, *incomplete).args(["-V", &in_bytes(*bytes)]).arg(self.path(pool)))
            }
            Step::SnapshotThick { lv, of, bytes } => one(self.snapshot(lv, of, *bytes)),
            Step::SnapshotAgain { lv, of, bytes, on } => {
                one(self.snapshot(lv, of, *bytes).args(on.iter().map(PvExtents::to_string)))
            }
            Step::Hold { lv, on } => {
                let count: u64 = on.iter().map(|extents| extents.count).sum();
                let program = self.lvm("lvcreate").args(["-y", "-Wn", "-Zn", "-n", lv]);
                let program = tagged(program, false).args(["-l", &count.to_string(), vg]);
                one(program.args(on.iter().map(PvExtents::to_string)))
            }
            Step::SnapshotThin { lv, of, is_volume, incomplete } => {
                let skip_activation = if *is_volume { "-kn" } else { "-ky" };
                let program = self.lvm("lvcreate").args(["-y", "-s", skip_activation, "-n", lv]);
                one(tagged(program, *incomplete).arg(self.path(of)))
            }
            Step::AddTags { lv, tags } => one(self.tagging(lv, "--addtag", tags)),
            Step::RemoveTags { lv, tags } => one(self.tagging(lv, "--deltag", tags)),
            Step::Activate { lv } => one(self.activate(lv)),
            Step::Deactivate { lv } => one(self.deactivate(lv)),
            Step::Extend { lv, bytes } => one(self.extend(lv, *bytes)),
            Step::ExtendInactive { lv, bytes } => {
                vec![self.deactivate(lv), self.extend(lv, *bytes), self.activate(lv)]
            }
            Step::Reduce { lv, bytes } => {
                one(self.lvm("lvreduce").args(["-y", "-L", &in_bytes(*bytes)]).arg(self.path(lv)))
            }
            Step::RequireZeroes { lv, from, to } => {
                let length = to.saturating_sub(*from).to_string();
                let compare = Program::new("cmp", self.config.copy_time_limit);
                one(compare
                    .args(["-s", "-n", &length, "-i", &format!("{from}:0")])
                    .arg(self.device(lv))
                    .arg("/dev/zero"))
            }
            Step::Copy { from, to } => {
                let convert = Program::new("qemu-img", self.config.copy_time_limit);
                // the target exists, and is not known to hold zeroes
                let convert =
                    convert.args(["convert", "-n", "-f", "raw", "-O", "raw", "-t", "none", "-T", "none"]);
                one(convert.arg(self.device(from)).arg(self.device(to)))
            }
            Step::Zero { lv, from, to } => one(self.zero(lv, *from, to.saturating_sub(*from))),
            Step::ZeroGrown { lv, from, to } => {
                // -f: also what others have to themselves, as a mounted file system has its device
                one(self.zero(lv, *from, to.saturating_sub(*from)).arg("-f"))
            }
            Step::Sync { lv } => one(Program::new("sync", self.config.copy_time_limit).arg(self.device(lv))),
            Step::Clear { lv, bytes } => match self.config.volume_clear {
                Clear::None => Vec::new(),
                Clear::Zero { limit_mib: None } => one(self.zero(lv, 0, *bytes)),
                Clear::Zero { limit_mib: Some(limit) } => one(self.zero(lv, 0, (*bytes).min(limit << 20))),
                Clear::Discard => {
                    one(Program::new("blkdiscard", self.config.copy_time_limit).arg(self.device(lv)))
                }
            },
            Step::Split { lv } => {
                one(self.lvm("lvconvert").args(["-y", "--splitsnapshot"]).arg(self.path(lv)))
            }
            Step::Remove { lv } => one(self.lvm("lvremove").arg("-y").arg(self.path(lv))),
            Step::Rename { from, to } => one(self.lvm("lvrename").args([vg, from, to])),
            Step::Merge { lv } => one(Program::new("lvconvert", self.config.copy_time_limit)
                .stopped_gently()
                .args(["-y", "--merge", "-i", "1"])
                .arg(self.path(lv))),
            Step::Resume { lv } => one(Program::new("dmsetup", self.config.command_time_limit)
                .arg("resume")
                .arg(name::mapped(vg, lv))),
            Step::Poll { lv } => one(self.lvm("lvchange").args(["--poll", "y"]).arg(self.path(lv))),
        }
    }

    fn snapshot(&self, lv: &str, of: &str, bytes: u64) -> Program {
        let chunk = in_bytes(SNAPSHOT_CHUNK_BYTES);
        let program = self.lvm("lvcreate").args(["-y", "-s", "-c", &chunk, "-n", lv]);
        tagged(program, false).args(["-L", &in_bytes(snapshot_bytes(bytes))]).arg(self.path(of))
    }

    fn tagging(&self, lv: &str, option: &str, tags: &[String]) -> Program {
        let options = tags.iter().flat_map(|tag| [option, tag]);
        self.lvm("lvchange").args(options).arg(self.path(lv))
    }

    fn activate(&self, lv: &str) -> Program {
        // -K: also what is not activated with its group, as thin snapshots
        self.lvm("lvchange").args(["-y", "-ay", "-K"]).arg(self.path(lv))
    }

    fn deactivate(&self, lv: &str) -> Program {
        // otherwise lvm2 takes the group for one that may have gone (`lv_change_activate`, 2.03.16), and has
        // udev activate all of it again when it next hears of a disk, in the middle of what needs it inactive
        let stays_away = ["--config", "global/event_activation=0"];
        self.lvm("lvchange").args(["-y", "-an"]).args(stays_away).arg(self.path(lv))
    }

    fn extend(&self, lv: &str, bytes: u64) -> Program {
        self.lvm("lvextend").args(["-y", "-L", &in_bytes(bytes)]).arg(self.path(lv))
    }

    fn zero(&self, lv: &str, from: u64, length: u64) -> Program {
        let step = CLEAR_STEP_BYTES.to_string();
        Program::new("blkdiscard", self.config.copy_time_limit)
            .args(["-z", "-p", &step, "-o", &from.to_string(), "-l", &length.to_string()])
            .arg(self.device(lv))
    }

    /// A command of lvm2, which must not be killed while it holds devices suspended.
    fn lvm(&self, command: &str) -> Program {
        Program::new(command, self.config.command_time_limit).stopped_gently()
    }

    fn path(&self, lv: &str) -> OsString {
        format!("{}/{lv}", self.config.volume_group).into()
    }

    fn device(&self, lv: &str) -> PathBuf {
        name::device(&self.config.volume_group, lv)
    }
}

fn tagged(program: Program, incomplete: bool) -> Program {
    let program = program.args(["--addtag", name::OURS]);
    if incomplete { program.args(["--addtag", name::INCOMPLETE]) } else { program }
}

/// What a snapshot takes that cannot overflow: every chunk of the origin, their table, and a header.
/// Asked for as `100%ORIGIN`, lvm2 would be content with less where there is less.
pub const fn snapshot_bytes(origin_bytes: u64) -> u64 {
    let chunks = origin_bytes.div_ceil(SNAPSHOT_CHUNK_BYTES);
    let table = chunks.div_ceil(SNAPSHOT_CHUNK_BYTES / SNAPSHOT_ENTRY_BYTES);
    // the table's last area may be begun anew when it is just full
    let all = chunks.saturating_add(table).saturating_add(2);
    all.saturating_mul(SNAPSHOT_CHUNK_BYTES)
}

fn in_bytes(bytes: u64) -> String {
    format!("{bytes}b")
}

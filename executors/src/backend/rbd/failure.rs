//! What went wrong, from exit codes and texts of `rbd` and `ceph`.

use tephra_domain::effect::{Failure, FailureKind};

use crate::image::convert::kind_of;
use crate::process::ProcessError;

/// Exit codes are errno values.
mod errno {
    pub const EPERM: i32 = 1;
    pub const ENOENT: i32 = 2;
    pub const EACCES: i32 = 13;
    pub const EBUSY: i32 = 16;
    pub const EEXIST: i32 = 17;
    pub const EINVAL: i32 = 22;
    pub const ENOSPC: i32 = 28;
    pub const EROFS: i32 = 30;
    pub const ENOTEMPTY: i32 = 39;
    pub const ETIMEDOUT: i32 = 110;
    pub const EDQUOT: i32 = 122;
}

/// How a command did not do what it was told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The image or the snapshot is not there.
    Missing,
    /// There is something of that name.
    Exists,
    /// Somebody uses it, it is protected, or clones need it.
    Busy,
    /// The image has snapshots.
    HasSnapshots,
    /// It may not leave the trash yet.
    NotExpired,
    /// The snapshot that was to lose its protection has none.
    NotProtected,
    /// Anything else.
    Failed(Failure),
}

impl Refusal {
    /// As the failure of an effect, where no refusal was expected.
    pub fn into_failure(self, command: &str) -> Failure {
        let (kind, what) = match self {
            Self::Failed(failure) => return failure,
            Self::Missing => (FailureKind::BackendError, "what it is about went away meanwhile"),
            Self::Exists => (FailureKind::BackendError, "something of that name appeared meanwhile"),
            Self::Busy => (FailureKind::Busy, "somebody uses the image"),
            Self::HasSnapshots => (FailureKind::Busy, "the image got snapshots meanwhile"),
            Self::NotExpired => (FailureKind::BackendError, "it may not leave the trash yet"),
            Self::NotProtected => (FailureKind::BackendError, "it is not protected"),
        };
        Failure::new(kind, format!("rbd {command}: {what}"))
    }
}

/// What a command's end means.
pub fn refusal(command: &str, error: ProcessError) -> Refusal {
    let failed = |kind, message: String| Refusal::Failed(Failure::new(kind, message));
    match error {
        ProcessError::NotFound { program } => failed(
            FailureKind::BackendUnavailable,
            format!("{program} is not installed on this executor's host (package ceph-common)"),
        ),
        error @ (ProcessError::Broken { .. } | ProcessError::TooMuchOutput { .. }) => {
            failed(FailureKind::BackendError, format!("{command}: {error}"))
        }
        error @ ProcessError::TimedOut { .. } => {
            failed(FailureKind::TimedOut, format!("{command}: the cluster did not answer: {error}"))
        }
        ProcessError::Failed { program, code, stderr_tail } => ended(&program, command, code, &stderr_tail),
    }
}

fn ended(program: &str, command: &str, code: Option<i32>, stderr: &str) -> Refusal {
    let says = |text: &str| stderr.contains(text);
    let said = last_line(stderr);
    let failed = |kind, what: &str| {
        let message = if said.is_empty() {
            format!("{program} {command}: {what}")
        } else {
            format!("{program} {command}: {what}: {said}")
        };
        Refusal::Failed(Failure::new(kind, message))
    };
    let code = if program == "rados" { said_code(stderr).or(code) } else { code };
    if says("couldn't connect to the cluster")
        || says("couldn't connect to cluster")
        || says("error connecting to the cluster")
    {
        let what = match code {
            Some(errno::ETIMEDOUT) => "no monitor of the cluster answers",
            _ if says("timed out") => "no monitor of the cluster answers",
            _ if says("unable to find a keyring") => "there is no keyring for the user",
            Some(errno::EACCES | errno::EPERM) => "the cluster does not let the user in; look at its key",
            _ => "the cluster cannot be reached",
        };
        return failed(FailureKind::BackendUnavailable, what);
    }
    if says("unable to open config file") || says("error parsing") {
        return failed(FailureKind::BackendUnavailable, "the cluster's configuration cannot be read");
    }
    if says("error opening pool") && code == Some(errno::ENOENT) {
        return failed(FailureKind::BackendUnavailable, "the pool is not there");
    }
    if says("Deferment time has not expired") {
        return Refusal::NotExpired;
    }
    // whose codes are no errno values: it says in words what it was
    if let (Some(code), "qemu-img") = (code, program) {
        return failed(kind_of(stderr), &format!("failed with exit code {code}"));
    }
    // `rm` notes in the trash what it removes; where it cannot, it says that there is no image, and leaves it
    if code == Some(errno::ENOENT)
        && (says("failed to add image to trash") || says("error setting trash image state"))
    {
        if says("Disk quota exceeded") || says("No space left on device") {
            return failed(FailureKind::NoSpace, "the pool is full");
        }
        let kind = if says("timed out") { FailureKind::TimedOut } else { FailureKind::BackendError };
        return failed(kind, "the image could not be moved into the trash");
    }
    match code {
        Some(errno::ENOENT) => Refusal::Missing,
        Some(errno::EEXIST) => Refusal::Exists,
        // read-only is what an image is to us while somebody else holds its lock
        Some(errno::EBUSY | errno::EROFS) => Refusal::Busy,
        Some(errno::ENOTEMPTY) => Refusal::HasSnapshots,
        Some(errno::EINVAL) if command == "snap unprotect" => Refusal::NotProtected,
        Some(errno::ENOSPC | errno::EDQUOT) => failed(FailureKind::NoSpace, "the pool is full"),
        Some(errno::ETIMEDOUT) => failed(FailureKind::TimedOut, "the cluster did not answer in time"),
        Some(errno::EPERM | errno::EACCES) => {
            failed(FailureKind::BackendError, "the user may not do that; its caps need `profile rbd`")
        }
        Some(code) => failed(FailureKind::BackendError, &format!("failed with exit code {code}")),
        None => failed(FailureKind::BackendError, "was ended by a signal"),
    }
}

/// The errno value that `rados` says as `(2)` where it ends with 1 whatever it was.
fn said_code(stderr: &str) -> Option<i32> {
    let (_, rest) = stderr.rsplit_once(": (")?;
    rest.split_once(')')?.0.trim_start_matches('-').parse().ok()
}

/// The last thing said, without the time, the thread and the place in Ceph's sources.
fn last_line(stderr: &str) -> &str {
    let line = stderr.lines().rev().map(str::trim).find(|line| !line.is_empty()).unwrap_or_default();
    let line = line.rsplit_once('\r').map_or(line, |(_, last)| last);
    line.strip_prefix("rbd: ").unwrap_or(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(code: i32, stderr: &str) -> Refusal {
        let stderr_tail = stderr.to_owned();
        refusal("info", ProcessError::Failed { program: "rbd".to_owned(), code: Some(code), stderr_tail })
    }

    fn kind(code: i32, stderr: &str) -> FailureKind {
        let refused = of(code, stderr);
        let Refusal::Failed(failure) = refused else { panic!("{refused:?}") };
        failure.kind
    }

    #[test]
    fn a_missing_image_is_told_from_a_missing_pool_and_a_missing_keyring() {
        assert_eq!(of(2, "rbd: error opening image x: (2) No such file or directory"), Refusal::Missing);
        assert_eq!(of(2, "error setting snapshot context: (2) No such file or directory"), Refusal::Missing);
        assert_eq!(of(2, "rbd: delete error: (2) No such file or directory"), Refusal::Missing);
        for stderr in [
            "rbd: error opening pool 'nopool': (2) No such file or directory",
            "auth: unable to find a keyring on /k: (2) No such file or directory\nrbd: couldn't connect to the cluster!",
        ] {
            assert_eq!(kind(2, stderr), FailureKind::BackendUnavailable, "{stderr}");
        }
    }

    #[test]
    fn a_dead_monitor_is_told_from_a_dead_osd_and_a_wrong_key() {
        let dead_monitor =
            "monclient(hunting): authenticate timed out after 4\n\nrbd: couldn't connect to the cluster!";
        assert_eq!(kind(110, dead_monitor), FailureKind::BackendUnavailable);
        assert_eq!(
            kind(110, "rbd: error opening image q2: (110) Connection timed out"),
            FailureKind::TimedOut
        );
        let refused = "monclient(hunting): handle_auth_bad_method server allowed_methods [2] but i only support [2]\nrbd: couldn't connect to the cluster!";
        let Refusal::Failed(failure) = of(13, refused) else { panic!("it failed") };
        assert_eq!(failure.kind, FailureKind::BackendUnavailable);
        assert!(failure.message.contains("key"), "{failure}");
        assert_eq!(
            kind(1, "[errno 110] RADOS timed out (error connecting to the cluster)"),
            FailureKind::BackendUnavailable
        );
        assert_eq!(
            kind(1, "global_init: unable to open config file from search list /no.conf"),
            FailureKind::BackendUnavailable
        );
    }

    #[test]
    fn whatever_is_in_the_way_has_its_word() {
        assert_eq!(of(17, "rbd: create error: (17) File exists"), Refusal::Exists);
        assert_eq!(of(16, "rbd: error: image still has watchers"), Refusal::Busy);
        assert_eq!(of(30, "rbd: rollback failed: (30) Read-only file system"), Refusal::Busy);
        assert_eq!(of(39, "rbd: image has snapshots - these must be deleted"), Refusal::HasSnapshots);
        assert_eq!(of(1, "Deferment time has not expired, please use --force"), Refusal::NotExpired);
        assert_eq!(kind(122, ""), FailureKind::NoSpace);
        assert_eq!(kind(28, ""), FailureKind::NoSpace);
        assert_eq!(kind(1, "rbd: error"), FailureKind::BackendError);
        assert_eq!(kind(5, "rbd: I/O error"), FailureKind::BackendError);
    }

    #[test]
    fn an_image_that_a_full_pool_does_not_let_go_of_is_not_missing() {
        let refused = "librbd::trash::MoveRequest: 0x7f2c handle_trash_add: failed to add image to trash: (122) Disk quota exceeded\nlibrbd::api::Trash: move: error setting trash image state: (2) No such file or directory\nrbd: delete error: (2) No such file or directory";
        assert_eq!(kind(2, refused), FailureKind::NoSpace);
        let stalled = refused.replace("(122) Disk quota exceeded", "(110) Connection timed out");
        assert_eq!(kind(2, &stalled), FailureKind::TimedOut);
        let other = refused.replace("(122) Disk quota exceeded", "(5) Input/output error");
        assert_eq!(kind(2, &other), FailureKind::BackendError);
    }

    #[test]
    fn what_the_log_of_a_program_has_no_room_for_says_nothing_of_the_pool() {
        let log = "problem writing to /var/log/ceph/client.log: (28) No space left on device\n";
        let missing = format!("{log}rbd: error opening image volume-1: (2) No such file or directory");
        assert_eq!(of(2, &missing), Refusal::Missing);
    }

    #[test]
    fn rados_says_in_brackets_what_it_was() {
        for (said, expected) in [
            (
                "error getting omap key set volumes/tephra.trash: (2) No such file or directory",
                Refusal::Missing,
            ),
            ("error: (16) Device or resource busy", Refusal::Busy),
        ] {
            let program = "rados".to_owned();
            let error = ProcessError::Failed { program, code: Some(1), stderr_tail: said.to_owned() };
            assert_eq!(refusal("listomapkeys", error), expected);
        }
        for (said, kind) in [
            (
                "error setting omap value volumes/tephra.trash: (110) Connection timed out",
                FailureKind::TimedOut,
            ),
            ("couldn't connect to cluster: (110) Connection timed out", FailureKind::BackendUnavailable),
            ("error opening pool volumes: (2) No such file or directory", FailureKind::BackendUnavailable),
            ("what it never said before", FailureKind::BackendError),
        ] {
            let program = "rados".to_owned();
            let error = ProcessError::Failed { program, code: Some(22), stderr_tail: said.to_owned() };
            let Refusal::Failed(failure) = refusal("setomapval", error) else { panic!("{said}") };
            assert_eq!(failure.kind, kind, "{said}");
        }
    }

    #[test]
    fn qemu_img_says_in_words_that_the_cluster_does_not_answer() {
        for (why, kind) in [
            ("Connection timed out", FailureKind::TimedOut),
            ("No space left on device", FailureKind::NoSpace),
            ("Input/output error", FailureKind::BackendError),
        ] {
            let stderr_tail = format!("qemu-img: error while writing at byte 0: {why}");
            let program = "qemu-img".to_owned();
            let refused = refusal("convert", ProcessError::Failed { program, code: Some(1), stderr_tail });
            let Refusal::Failed(failure) = refused else { panic!("{refused:?}") };
            assert_eq!(failure.kind, kind, "{failure}");
        }
    }
}

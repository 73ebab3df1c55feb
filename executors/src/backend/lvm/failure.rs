//! What a failed command means for the ledger.

use tephra_domain::effect::{Failure, FailureKind};

use crate::process::ProcessError;

/// What lvm2 and the others say, in the C locale, and what it means. The first that is found counts.
const MEANINGS: &[(&str, FailureKind)] = &[
    ("insufficient free space", FailureKind::NoSpace),
    ("Insufficient suitable", FailureKind::NoSpace),
    ("Insufficient free", FailureKind::NoSpace),
    ("reached threshold", FailureKind::NoSpace),
    ("No space left", FailureKind::NoSpace),
    (" in use", FailureKind::Busy),
    ("used by another device", FailureKind::Busy),
    ("Device or resource busy", FailureKind::Busy),
    ("Is another process using", FailureKind::Busy),
    ("PVs are missing", FailureKind::BackendUnavailable),
    ("Missing device", FailureKind::BackendUnavailable),
    ("is exported", FailureKind::BackendUnavailable),
    ("Volume group \"", FailureKind::BackendUnavailable),
    ("Cannot process volume group", FailureKind::BackendUnavailable),
    ("Permission denied", FailureKind::BackendUnavailable),
    ("Failed to find logical volume", FailureKind::ObjectMissing),
    ("not found in volume group", FailureKind::ObjectMissing),
    ("Operation not supported", FailureKind::Unsupported),
];

/// The failure of a command.
pub fn of(error: &ProcessError) -> Failure {
    match error {
        ProcessError::NotFound { program } => {
            Failure::new(FailureKind::BackendUnavailable, format!("{program} is not installed on this host"))
        }
        ProcessError::TimedOut { .. } => Failure::new(FailureKind::TimedOut, error.to_string()),
        ProcessError::Failed { program, code, stderr_tail } => {
            let said = said(stderr_tail);
            let meant = MEANINGS.iter().find(|(text, _)| said.contains(text)).map(|(_, kind)| *kind);
            let message = match (said.is_empty(), code) {
                (false, _) => format!("{program}: {said}"),
                (true, Some(code)) => format!("{program} failed with exit code {code}"),
                (true, None) => format!("{program} was killed"),
            };
            Failure::new(meant.unwrap_or(FailureKind::BackendError), message)
        }
        ProcessError::Broken { .. } | ProcessError::TooMuchOutput { .. } => {
            Failure::new(FailureKind::BackendError, error.to_string())
        }
    }
}

/// What a command said, without its warnings.
fn said(stderr: &str) -> String {
    let lines = stderr.lines().map(str::trim);
    let told: Vec<&str> = lines.filter(|line| !line.is_empty() && !line.starts_with("WARNING")).collect();
    told.join(" ")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn failed(program: &str, stderr: &str) -> Failure {
        of(&ProcessError::Failed {
            program: program.to_owned(),
            code: Some(5),
            stderr_tail: stderr.to_owned(),
        })
    }

    #[test]
    fn what_lvm_says_has_its_meaning() {
        for (stderr, kind) in [
            (
                "  Volume group \"vg\" has insufficient free space (10239 extents): 25600 required.",
                FailureKind::NoSpace,
            ),
            ("  Logical volume vg/volume-a in use.", FailureKind::Busy),
            ("  Failed to find logical volume \"vg/small\"", FailureKind::ObjectMissing),
            ("  Logical volume volume-a not found in volume group vg.", FailureKind::ObjectMissing),
            (
                "  Volume group \"nothing\" not found\n  Cannot process volume group nothing",
                FailureKind::BackendUnavailable,
            ),
            ("  Snapshot origin volumes cannot be reduced in size yet.", FailureKind::BackendError),
        ] {
            let failure = failed("lvcreate", stderr);
            assert_eq!(failure.kind, kind, "{stderr}");
            assert!(failure.message.starts_with("lvcreate: "), "{}", failure.message);
        }
    }

    #[test]
    fn warnings_are_left_out_and_silence_is_told() {
        let failure = failed("lvcreate", "  WARNING: Sum of all\n  Logical volume \"a\" already exists");
        assert_eq!(&*failure.message, "lvcreate: Logical volume \"a\" already exists");
        assert_eq!(&*failed("cmp", "").message, "cmp failed with exit code 5");
    }

    #[test]
    fn a_command_that_took_too_long_has_an_unknown_outcome() {
        let error = ProcessError::TimedOut {
            program: "lvs".to_owned(),
            time_limit: Duration::from_secs(3),
            stderr_tail: String::new(),
        };
        assert_eq!(of(&error).kind, FailureKind::TimedOut);
    }
}

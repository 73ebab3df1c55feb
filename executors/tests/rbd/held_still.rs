//! What Ceph itself does about a command that was held still, and goes on when others have the image.

use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tephra_domain::effect::{BackendObject, Effect};
use tephra_executors::backend::Backend;
use tephra_executors::backend::rbd::{RbdBackend, RbdConfig};
use tephra_executors::process::Spawner;

use super::lab::{Lab, POOL, pool, snapshot_of, spec, until, volume};

const DATA_MIB: u64 = 64;

/// What `rbd` says of an image that another client has, and that of one that was shut out.
const READ_ONLY: &str = "Read-only file system";
const SHUT_OUT: &str = "Cannot send after transport endpoint shutdown";

/// A command of an attempt, as the backend would run it.
fn rollback(lab: &Lab, volume: BackendObject, snapshot: BackendObject) -> Command {
    let mut command = Command::new("rbd");
    command.arg("--conf").arg(lab.path("ceph.conf")).args(["--id", "cinder"]);
    command.arg("--keyring").arg(lab.path("cinder.keyring"));
    command.args(["snap", "rollback", "--no-progress", &format!("--pool={POOL}")]);
    command.args([format!("--image={volume}"), format!("--snap={snapshot}")]);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    command
}

fn signal(child: &Child, signal: &str) {
    let sent = Command::new("kill").args([signal, &child.id().to_string()]).status().unwrap();
    assert!(sent.success());
}

fn io(lab: &Lab, volume: BackendObject, command: &str) {
    let output = lab.qemu_io(volume).stdout(Stdio::piped()).args(["-c", command]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && !said.contains("failed"), "{command}: {said}");
}

fn write(lab: &Lab, volume: BackendObject, content: u8) {
    io(lab, volume, &format!("write -P {content} 0 {DATA_MIB}M"));
}

fn check(lab: &Lab, volume: BackendObject, content: u8) {
    io(lab, volume, &format!("read -P {content} 0 {DATA_MIB}M"));
}

/// A volume of so many small objects that a rollback takes a while, and a snapshot of its content 1.
fn volume_with_snapshot(lab: &Lab) -> (BackendObject, BackendObject) {
    let volume = volume();
    let snapshot = snapshot_of(volume);
    lab.admin(&format!("rbd create --size 1G --object-size 4K {}", spec(volume)));
    write(lab, volume, 1);
    lab.admin(&format!("rbd snap create --no-progress {}", spec(snapshot)));
    (volume, snapshot)
}

/// A rollback that has begun and is held still.
fn begun(lab: &Lab, volume: BackendObject, snapshot: BackendObject) -> Child {
    let stale = rollback(lab, volume, snapshot).spawn().unwrap();
    until("the rollback has the lock", || {
        lab.admin(&format!("rbd lock ls {}", spec(volume))).contains("exclusive lock")
    });
    signal(&stale, "-STOP");
    stale
}

/// Lets it go on, and insists that it fails.
fn is_shut_out(stale: Child) {
    signal(&stale, "-CONT");
    let ended = stale.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&ended.stderr);
    assert!(!ended.status.success() && said.contains(SHUT_OUT), "{said}");
}

#[tokio::test]
#[ignore = "needs Ceph: ./test ceph"]
async fn a_rollback_that_was_held_still_is_shut_out_by_the_next_attempt() {
    let lab = Lab::start();
    let config = RbdConfig { watcher_wait: Duration::from_secs(35), ..lab.config() };
    let backend = RbdBackend::new(config, std::sync::Arc::new(Spawner));
    let (volume, snapshot) = volume_with_snapshot(&lab);
    write(&lab, volume, 2);
    let stale = begun(&lab, volume, snapshot);
    // another executor: it waits until the cluster has forgotten the first one's client
    let revert = Effect::RevertToSnapshot { volume, snapshot };
    assert_eq!(backend.perform(&pool(), &revert).await, Ok(()));
    check(&lab, volume, 1);
    write(&lab, volume, 3);
    is_shut_out(stale);
    check(&lab, volume, 3);
}

#[tokio::test]
#[ignore = "needs Ceph: ./test ceph"]
async fn a_rollback_that_was_held_still_is_shut_out_by_whoever_writes_next() {
    let lab = Lab::start();
    let (volume, snapshot) = volume_with_snapshot(&lab);
    write(&lab, volume, 2);
    let stale = begun(&lab, volume, snapshot);
    write(&lab, volume, 3);
    is_shut_out(stale);
    check(&lab, volume, 3);
}

#[tokio::test]
#[ignore = "needs Ceph: ./test ceph"]
async fn a_rollback_takes_no_image_from_whoever_has_written_to_it_and_has_it_open() {
    let lab = Lab::start();
    let (volume, snapshot) = volume_with_snapshot(&lab);
    let open = lab.open_and_write(volume, &format!("write -P 2 0 {DATA_MIB}M"));
    // the look at who has it open has been taken long ago
    let ended = rollback(&lab, volume, snapshot).output().unwrap();
    let said = String::from_utf8_lossy(&ended.stderr);
    assert!(!ended.status.success() && said.contains(READ_ONLY), "{said}");
    drop(open);
    check(&lab, volume, 2);
}

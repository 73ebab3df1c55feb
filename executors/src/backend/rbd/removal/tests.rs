use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use tephra_domain::ids::{BackendName, PoolName, VolumeId};
use tephra_domain::units::SizeGib;
use uuid::Uuid;

use super::super::{CloneFormat, RbdBackend, RbdConfig};
use super::*;
use crate::backend::Backend;
use crate::process::{Launcher, Output, ProcessError, Program};

#[test]
fn snapshots_of_others_stand_in_the_way_of_a_delete() {
    let snapshot = |name: &str, kind: &str| -> Snapshot {
        let text =
            format!(r#"{{"id":1,"name":"{name}","protected":"false","namespace":{{"type":"{kind}"}}}}"#);
        serde_json::from_str(&text).unwrap()
    };
    let safety = "safety-00000000-0000-4000-8000-000000000001";
    let snapshots = [
        snapshot(safety, "user"),
        snapshot("before-upgrade", "user"),
        snapshot("5f0c", "trash"),
        snapshot("tephra.clone.volume-1", "user"),
    ];
    assert_eq!(sort(&snapshots), (vec![safety, "tephra.clone.volume-1"], vec!["before-upgrade"]));
}

const POOL: &str = "volumes";

fn volume(n: u128) -> BackendObject {
    BackendObject::Volume(VolumeId::from_uuid(Uuid::from_u128(n)))
}

/// A pool with one volume, of which one clone is made, and a sweep whenever a snapshot was taken.
#[derive(Default)]
struct ClonesAndSweeps {
    has_snapshot: AtomicBool,
    has_clone: AtomicBool,
    sweeper: OnceLock<std::sync::Weak<RbdBackend>>,
}

impl ClonesAndSweeps {
    fn backend(self: Arc<Self>, sweep_interval: Duration) -> Arc<RbdBackend> {
        let config = RbdConfig {
            clone_format: Some(CloneFormat::V2),
            sweep_interval,
            ..RbdConfig::new(BackendName::new("rbd"), "host", PoolName::new(POOL))
        };
        let backend = Arc::new(RbdBackend::new(config, Arc::clone(&self) as Arc<dyn Launcher>));
        self.sweeper.set(Arc::downgrade(&backend)).unwrap();
        backend
    }

    fn listed(&self) -> String {
        let image = format!(r#"{{"image":"{}","size":1073741824}}"#, volume(1));
        if !self.has_snapshot.load(Ordering::SeqCst) {
            return format!("[{image}]");
        }
        let snapshot = names::clone_snapshot(volume(2));
        format!(r#"[{image},{{"image":"{}","snapshot":"{snapshot}","size":1073741824}}]"#, volume(1))
    }
}

#[async_trait]
impl Launcher for ClonesAndSweeps {
    async fn launch(&self, program: Program) -> Result<Output, ProcessError> {
        let words: Vec<_> = program.argv().iter().map(|word| word.to_string_lossy()).collect();
        let line = words.join(" ");
        let is = |command: &str| line.contains(&format!(" {command} "));
        let missing = || ProcessError::Failed {
            program: "rbd".to_owned(),
            code: Some(2),
            stderr_tail: "No such file or directory".to_owned(),
        };
        let mut stdout = String::new();
        if is("snap create") {
            self.has_snapshot.store(true, Ordering::SeqCst);
            let sweeper = self.sweeper.get().unwrap().upgrade().unwrap();
            sweeper.sweep().await.unwrap();
        } else if is("snap rm") {
            self.has_snapshot.store(false, Ordering::SeqCst);
        } else if is("clone") {
            if !self.has_snapshot.load(Ordering::SeqCst) {
                return Err(missing());
            }
            self.has_clone.store(true, Ordering::SeqCst);
        } else if is("ls --long") {
            stdout = self.listed();
        } else if is("trash ls") {
            stdout = "[]".to_owned();
        } else if is("info") {
            if line.contains(&volume(2).to_string()) && !self.has_clone.load(Ordering::SeqCst) {
                return Err(missing());
            }
            stdout = r#"{"id":"1","size":1073741824}"#.to_owned();
        }
        Ok(Output { stdout: stdout.into_bytes(), stderr_tail: String::new() })
    }
}

#[tokio::test]
async fn a_sweep_leaves_the_snapshot_alone_that_a_clone_is_being_made_from() {
    let cluster = Arc::new(ClonesAndSweeps::default());
    let backend = Arc::clone(&cluster).backend(Duration::ZERO);
    let size = SizeGib::new(1).unwrap();
    let clone = Effect::CloneVolume { volume: volume(2), size, source: volume(1) };
    assert_eq!(backend.perform(&PoolName::new(POOL), &clone).await, Ok(()));
    assert!(cluster.has_clone.load(Ordering::SeqCst));
    assert!(!cluster.has_snapshot.load(Ordering::SeqCst), "the clone is there, and needs no name");

    // what a crash has left goes
    cluster.has_snapshot.store(true, Ordering::SeqCst);
    backend.sweep().await.unwrap();
    assert!(!cluster.has_snapshot.load(Ordering::SeqCst));
}

#[tokio::test]
async fn a_sweep_leaves_a_snapshot_alone_that_another_executor_may_have_taken_just_now() {
    let cluster = Arc::new(ClonesAndSweeps::default());
    let backend = Arc::clone(&cluster).backend(Duration::from_secs(3600));
    cluster.has_snapshot.store(true, Ordering::SeqCst);
    backend.sweep().await.unwrap();
    backend.sweep().await.unwrap();
    assert!(cluster.has_snapshot.load(Ordering::SeqCst));
}

#[test]
fn what_has_been_seen_for_long_is_what_was_there_all_the_time() {
    let seen = Seen::default();
    let own = |n: u8| Own { image: "volume".to_owned(), snapshot: format!("tephra.clone.{n}") };
    let (began, hour) = (Instant::now(), Duration::from_secs(3600));
    let old = |own: &[Own], at: Duration| {
        let old = seen.for_long(POOL, own, began + at, hour);
        old.into_iter().collect::<Vec<_>>()
    };
    assert_eq!(old(&[own(1)], Duration::ZERO), []);
    assert_eq!(old(&[own(1), own(2)], hour), [own(1)]);
    assert_eq!(old(&[own(2)], hour + hour / 2), []);
    assert_eq!(old(&[own(1), own(2)], hour * 2), [own(2)], "the first went away and came back");
}

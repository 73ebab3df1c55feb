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

/// Two pools, with own snapshots and trash, some of which cannot be removed.
#[derive(Default)]
struct Stubborn {
    /// Answers to commands, by a part of their line.
    refusals: Vec<(String, i32)>,
    /// A volume that somebody else has put into the trash.
    unmarked: Option<u128>,
    done: Mutex<Vec<String>>,
}

impl Stubborn {
    fn answer(&self, line: &str) -> Result<String, i32> {
        if let Some((_, code)) = self.refusals.iter().find(|(part, _)| line.contains(part)) {
            return Err(*code);
        }
        let pool = line.split("--pool=").nth(1).and_then(|rest| rest.split(' ').next()).unwrap();
        let on = |n: u128| if pool == POOL { n } else { n + 10 };
        let [first, second] = [1, 2].map(|n| volume(on(n)));
        Ok(if line.contains(" ls --long ") {
            let own = |image| format!(r#"{{"image":"{image}","snapshot":"tephra.deleted.s","size":1}}"#);
            format!("[{},{}]", own(first), own(second))
        } else if line.contains(" trash ls ") {
            let entry = |image| format!(r#"{{"id":"id-of-{image}","name":"{image}"}}"#);
            format!("[{},{}]", entry(first), entry(second))
        } else if line.contains(" listomapkeys ") {
            let unmarked = self.unmarked.map(volume);
            let marked = [first, second].into_iter().filter(|it| Some(*it) != unmarked);
            let marked: String = marked.map(|it| format!("id-of-{it}\n")).collect();
            format!("{marked}restored\n")
        } else if line.contains(" info ") {
            r#"{"id":"1","size":1073741824}"#.to_owned()
        } else {
            String::new()
        })
    }
}

#[async_trait]
impl Launcher for Stubborn {
    async fn launch(&self, program: Program) -> Result<Output, ProcessError> {
        let words: Vec<_> = program.argv().iter().map(|word| word.to_string_lossy()).collect();
        let line = words.join(" ");
        match self.answer(&line) {
            Ok(stdout) => {
                self.done.lock().unwrap().push(line);
                Ok(Output { stdout: stdout.into_bytes(), stderr_tail: String::new() })
            }
            Err(code) => Err(ProcessError::Failed {
                program: "rbd".to_owned(),
                code: Some(code),
                stderr_tail: String::new(),
            }),
        }
    }
}

/// What a sweep of both pools came to, and the volumes whose snapshots and which themselves went.
async fn swept(refusals: &[(String, i32)]) -> (Result<(), Failure>, Vec<BackendObject>, Vec<BackendObject>) {
    let cluster = Arc::new(Stubborn { refusals: refusals.to_vec(), ..Stubborn::default() });
    let mut config = RbdConfig::new(BackendName::new("rbd"), "host", PoolName::new(POOL));
    config.pools.push(PoolName::new("more"));
    let told = RbdBackend::new(config, Arc::clone(&cluster) as Arc<dyn Launcher>).sweep().await;
    let done = cluster.done.lock().unwrap();
    let went = |command: &str, option: &str| {
        let all = [1, 2, 11, 12].map(volume).into_iter();
        all.filter(|it| {
            let option = format!("{option}{it}");
            done.iter().any(|line| line.contains(command) && line.split(' ').any(|word| word == option))
        })
        .collect()
    };
    (told, went(" snap rm ", "--image="), went(" trash rm ", "--image-id=id-of-"))
}

#[tokio::test]
async fn what_cannot_be_swept_holds_up_nothing_else_and_is_told_in_the_end() {
    let all = [1, 2, 11, 12].map(volume).to_vec();
    let others = all[1..].to_vec();
    assert_eq!(swept(&[]).await, (Ok(()), all.clone(), all.clone()));

    // somebody has the image open: its snapshot was never protected
    let (first, in_use) = (volume(1), 16);
    let used = [
        (format!(" snap rm --pool=volumes --no-progress --image={first}"), in_use),
        (format!(" snap unprotect --pool=volumes --image={first}"), 22),
    ];
    let (told, snapshots, trash) = swept(&used).await;
    assert_eq!(told.map_err(|failure| failure.kind), Err(FailureKind::Busy));
    assert_eq!((snapshots, trash), (others.clone(), all.clone()));

    let damaged = [(format!(" --image-id=id-of-{first}"), 5)];
    let (told, snapshots, trash) = swept(&damaged).await;
    assert_eq!(told.map_err(|failure| failure.kind), Err(FailureKind::BackendError));
    assert_eq!((snapshots, trash), (all.clone(), others));

    for listing in [" ls --long --pool=volumes", " trash ls --pool=volumes"] {
        let (told, snapshots, trash) = swept(&[(listing.to_owned(), 110)]).await;
        assert_eq!(told.map_err(|failure| failure.kind), Err(FailureKind::TimedOut));
        assert_eq!([snapshots, trash].concat().len(), 6, "{listing}");
    }
}

#[tokio::test]
async fn what_an_operator_put_into_the_trash_is_for_the_operator_to_take_out() {
    for (sweep_interval, forgets) in [(Duration::ZERO, true), (Duration::from_secs(3600), false)] {
        let cluster = Arc::new(Stubborn { unmarked: Some(1), ..Stubborn::default() });
        let config = RbdConfig {
            sweep_interval,
            ..RbdConfig::new(BackendName::new("rbd"), "host", PoolName::new(POOL))
        };
        RbdBackend::new(config, Arc::clone(&cluster) as Arc<dyn Launcher>).sweep().await.unwrap();
        let done = cluster.done.lock().unwrap();
        let ran =
            |command: &str, id: &str| done.iter().any(|line| line.contains(command) && line.ends_with(id));
        let [theirs, ours] = [1, 2].map(|n| format!("id-of-{}", volume(n)));
        assert!(!done.iter().any(|line| line.contains(" trash rm ") && line.contains(&theirs)), "{done:?}");
        assert!(ran(" trash rm ", &ours) && ran(" rmomapkey ", &ours), "{done:?}");
        // the mark of an image that was restored, or that somebody is about to put in
        assert_eq!(ran(" rmomapkey ", "restored"), forgets, "{done:?}");
    }
}

//! Whatever is deleted goes, in any order, and nothing stays for ever.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tephra_domain::drift::FoundKind;
use tephra_domain::effect::{BackendObject, Effect, Failure, FailureKind};
use tephra_domain::ids::{OperationId, SnapshotId, VolumeId};
use tephra_executors::backend::Backend;
use tephra_executors::backend::rbd::{CloneFormat, RbdBackend, RbdConfig};
use tephra_executors::process::{Launcher, Output, ProcessError, Program, Spawner};
use uuid::Uuid;

use super::lab::{Lab, ONE, create, pool, snapshot_of, spec, volume};

fn volume_named(name: &str) -> VolumeId {
    VolumeId::from_uuid(Uuid::parse_str(name.strip_prefix("volume-").unwrap()).unwrap())
}

/// Deletes everything that the backend lists, through the backend, and looks behind its back.
pub async fn delete_everything(lab: &Lab, backend: &RbdBackend) {
    let listed = backend.list(&pool()).await.unwrap();
    for found in &listed {
        let FoundKind::Snapshot { of: Some(of) } = &found.kind else { continue };
        let volume = volume_named(of);
        let snapshot = match found.name.split_once('-').unwrap() {
            ("snapshot", id) => BackendObject::Snapshot {
                volume,
                snapshot: SnapshotId::from_uuid(Uuid::parse_str(id).unwrap()),
            },
            (_, id) => {
                let operation = OperationId::from_uuid(Uuid::parse_str(id).unwrap());
                BackendObject::SafetySnapshot { volume, operation }
            }
        };
        backend.perform(&pool(), &Effect::DeleteSnapshot { snapshot }).await.unwrap();
    }
    for found in listed.iter().filter(|found| found.kind == FoundKind::Volume) {
        let volume = BackendObject::Volume(volume_named(&found.name));
        backend.perform(&pool(), &Effect::DeleteVolume { volume }).await.unwrap();
    }
    backend.sweep().await.unwrap();
    // an object that a snapshot had goes when the OSD gets round to it
    let patience = Instant::now() + Duration::from_secs(120);
    while !lab.leftovers().is_empty() && Instant::now() < patience {
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    assert_eq!(lab.leftovers(), Vec::<String>::new());
}

async fn done(backend: &RbdBackend, effect: Effect) {
    assert_eq!(backend.perform(&pool(), &effect).await, Ok(()), "{effect:?}");
}

fn with(lab: &Lab, change: impl FnOnce(&mut RbdConfig)) -> RbdBackend {
    let mut config = lab.config();
    change(&mut config);
    RbdBackend::new(config, Arc::new(Spawner))
}

#[tokio::test]
#[ignore = "needs Ceph: ./test ceph"]
async fn sources_go_before_their_clones_and_all_is_gone_with_the_last() {
    let lab = Lab::start();
    for format in [CloneFormat::V1, CloneFormat::V2] {
        let backend = with(&lab, |config| config.clone_format = Some(format));
        let [first, second, third, fourth] = [volume(), volume(), volume(), volume()];
        let snapshot = snapshot_of(first);
        done(&backend, create(first)).await;
        done(&backend, Effect::CreateSnapshot { snapshot }).await;
        done(&backend, Effect::CreateVolumeFromSnapshot { volume: second, size: ONE, snapshot }).await;
        done(&backend, Effect::CloneVolume { volume: third, size: ONE, source: second }).await;
        done(&backend, Effect::CloneVolume { volume: fourth, size: ONE, source: second }).await;
        // everything that others were made from goes, and is not seen any more
        done(&backend, Effect::DeleteSnapshot { snapshot }).await;
        done(&backend, Effect::DeleteVolume { volume: first }).await;
        done(&backend, Effect::DeleteVolume { volume: second }).await;
        let names: Vec<String> =
            backend.list(&pool()).await.unwrap().into_iter().map(|found| found.name.to_string()).collect();
        assert_eq!(names.len(), 2, "{format:?}: {names:?}");
        done(&backend, Effect::DeleteVolume { volume: third }).await;
        assert!(lab.leftovers().len() > 2, "{format:?}: the fourth has lost its ancestors");
        done(&backend, Effect::DeleteVolume { volume: fourth }).await;
        assert_eq!(lab.leftovers(), Vec::<String>::new(), "{format:?}");
    }
}

#[tokio::test]
#[ignore = "needs Ceph: ./test ceph"]
async fn a_clone_that_is_one_too_deep_gets_data_of_its_own() {
    let lab = Lab::start();
    let backend = with(&lab, |config| config.max_clone_depth = 2);
    let mut source = volume();
    done(&backend, create(source)).await;
    let mut has_parent = Vec::new();
    for _ in 0..4 {
        let clone = volume();
        done(&backend, Effect::CloneVolume { volume: clone, size: ONE, source }).await;
        has_parent.push(lab.admin(&format!("rbd info {}", spec(clone))).contains("parent:"));
        source = clone;
    }
    assert_eq!(has_parent, [true, true, false, true]);
    delete_everything(&lab, &backend).await;
}

#[tokio::test]
#[ignore = "needs Ceph: ./test ceph"]
async fn a_deferred_delete_can_be_taken_back_until_its_time_is_over() {
    let lab = Lab::start();
    let backend = with(&lab, |config| config.deferred_deletion = Duration::from_secs(3600));
    let volume = volume();
    done(&backend, create(volume)).await;
    done(&backend, Effect::DeleteVolume { volume }).await;
    backend.sweep().await.unwrap();
    let trash = lab.admin("rbd trash ls --pool volumes");
    let id = trash.split_whitespace().next().unwrap();
    lab.admin(&format!("rbd trash restore --pool volumes --image-id {id}"));
    done(&backend, Effect::Verify { object: volume, size: ONE }).await;

    let backend = with(&lab, |config| config.deferred_deletion = Duration::from_secs(1));
    done(&backend, Effect::DeleteVolume { volume }).await;
    let began = std::time::Instant::now();
    while !lab.leftovers().is_empty() {
        assert!(began.elapsed() < Duration::from_secs(60), "it never left the trash");
        backend.sweep().await.unwrap();
    }
}

#[tokio::test]
#[ignore = "needs Ceph: ./test ceph"]
async fn what_others_put_there_is_left_alone() {
    let lab = Lab::start();
    let backend = lab.backend();
    lab.admin("rbd create --size 64M volumes/golden");
    lab.admin("rbd create --size 64M volumes/thrown-away");
    lab.admin("rbd trash mv volumes/thrown-away");
    // a volume of ours, and a source of one of ours, that an operator wants to have out of the way
    let [aside, source, clone] = [volume(), volume(), volume()];
    done(&backend, create(aside)).await;
    done(&backend, create(source)).await;
    done(&backend, Effect::CloneVolume { volume: clone, size: ONE, source }).await;
    lab.admin(&format!("rbd trash mv {}", spec(aside)));
    lab.admin(&format!("rbd trash mv {}", spec(source)));
    done(&backend, Effect::DeleteVolume { volume: clone }).await;
    let volume = volume();
    done(&backend, create(volume)).await;
    lab.admin(&format!("rbd snap create {}@before-upgrade", spec(volume)));
    let refused = backend.perform(&pool(), &Effect::DeleteVolume { volume }).await.unwrap_err();
    assert_eq!(refused.kind, FailureKind::Mismatch);
    assert!(refused.message.contains("before-upgrade"), "{refused}");
    backend.sweep().await.unwrap();
    let trash = lab.admin("rbd trash ls --pool volumes");
    assert!(trash.contains("thrown-away"));
    assert!(trash.contains(&aside.to_string()) && trash.contains(&source.to_string()), "{trash}");
    assert!(lab.admin("rbd ls --pool volumes").contains("golden"));
}

/// What [`object_clean`](tephra_domain::operations::object_clean) asks of the backend.
async fn clean(backend: &RbdBackend, name: &str) -> Result<(), Failure> {
    let volume = VolumeId::from_uuid(Uuid::new_v4());
    let operation = OperationId::from_uuid(volume.as_uuid());
    let object = if name.contains('@') {
        BackendObject::SafetySnapshot { volume, operation }
    } else {
        BackendObject::TemporaryVolume { volume, operation }
    };
    let claim = Effect::Adopt { object, from: name.into(), size: None };
    backend.perform(&pool(), &claim).await?;
    backend.perform(&pool(), &claim).await?;
    backend.perform(&pool(), &Effect::delete(object)).await
}

#[tokio::test]
#[ignore = "needs Ceph: ./test ceph"]
async fn everything_of_others_can_be_cleaned_and_clones_keep_what_they_need() {
    let lab = Lab::start();
    let backend = lab.backend();
    lab.admin("rbd create --size 64M volumes/golden");
    lab.admin("rbd bench --io-type write --io-size 1M --io-total 8M --io-pattern seq volumes/golden");
    for snapshot in ["plain", "protected", "cloned-1", "cloned-2"] {
        lab.admin(&format!("rbd snap create --no-progress volumes/golden@{snapshot}"));
    }
    for snapshot in ["protected", "cloned-1"] {
        lab.admin(&format!("rbd snap protect volumes/golden@{snapshot}"));
    }
    for format in ["1", "2"] {
        let option = format!("--rbd-default-clone-format={format}");
        lab.admin(&format!("rbd clone {option} volumes/golden@cloned-{format} volumes/clone-{format}"));
    }
    let data =
        || ["1", "2"].map(|format| lab.admin_bytes(&["export", &format!("volumes/clone-{format}"), "-"]));
    let before = data();
    assert!(before[0].iter().any(|byte| *byte != 0));

    let listed = async || -> Vec<String> {
        backend.list(&pool()).await.unwrap().into_iter().map(|found| found.name.into()).collect()
    };
    let snapshots: Vec<String> = listed().await.into_iter().filter(|name| name.contains('@')).collect();
    assert_eq!(snapshots.len(), 4, "{snapshots:?}");
    let refused = clean(&backend, "golden").await.unwrap_err();
    assert_eq!(refused.kind, FailureKind::Mismatch);
    assert!(snapshots.iter().all(|name| refused.message.contains(name)), "{refused}");
    assert!(listed().await.contains(&"golden".to_owned()), "it has lost its name");
    for snapshot in &snapshots {
        assert_eq!(clean(&backend, snapshot).await, Ok(()), "{snapshot}");
    }
    assert_eq!(clean(&backend, "golden").await, Ok(()));
    assert_eq!(listed().await, ["clone-1", "clone-2"]);
    assert!(data() == before, "the clones have lost data");
    for clone in ["clone-1", "clone-2"] {
        assert_eq!(clean(&backend, clone).await, Ok(()));
    }
    delete_everything(&lab, &backend).await;
}

#[tokio::test]
#[ignore = "needs Ceph: ./test ceph"]
async fn what_was_resized_behind_our_back_is_listed_as_it_is_and_is_no_match() {
    let lab = Lab::start();
    let backend = lab.backend();
    let (kept, grown) = (volume(), volume());
    done(&backend, create(kept)).await;
    done(&backend, create(grown)).await;
    lab.admin(&format!("rbd resize --no-progress --size 1536M {}", spec(grown)));
    let listed = backend.list(&pool()).await.unwrap();
    let bytes = |object: BackendObject| {
        listed.iter().find(|found| *found.name == object.to_string()).map(|found| found.bytes)
    };
    assert_eq!((bytes(kept), bytes(grown)), (Some(1 << 30), Some(3 << 29)));
    let verify = |object| Effect::Verify { object, size: ONE };
    let refused = backend.perform(&pool(), &verify(grown)).await.unwrap_err();
    assert_eq!(refused.kind, FailureKind::Mismatch);
    done(&backend, verify(kept)).await;
}

/// The sweep that comes at the worst moment, before a clone is made from its snapshot.
struct SweepsBeforeTheClone(std::sync::OnceLock<RbdBackend>);

#[async_trait::async_trait]
impl Launcher for SweepsBeforeTheClone {
    async fn launch(&self, program: Program) -> Result<Output, ProcessError> {
        if program.argv().iter().any(|word| word == "clone") {
            // of another executor, which does not know of this clone
            self.0.get().unwrap().sweep().await.unwrap();
        }
        Spawner.launch(program).await
    }
}

#[tokio::test]
#[ignore = "needs Ceph: ./test ceph"]
async fn a_sweep_of_another_executor_leaves_a_snapshot_to_the_clone_that_it_was_taken_for() {
    let lab = Lab::start();
    let launcher = Arc::new(SweepsBeforeTheClone(std::sync::OnceLock::new()));
    assert!(launcher.0.set(lab.backend()).is_ok());
    let (source, clone) = (volume(), volume());
    let backend = RbdBackend::new(lab.config(), launcher);
    done(&backend, create(source)).await;
    done(&backend, Effect::CloneVolume { volume: clone, size: ONE, source }).await;
    done(&backend, Effect::Verify { object: clone, size: ONE }).await;
    delete_everything(&lab, &backend).await;
}

/// rbd itself may be killed in the middle of what it does, which leaves names with nothing behind.
#[tokio::test]
#[ignore = "needs Ceph: ./test ceph"]
async fn what_a_killed_rbd_leaves_half_made_or_half_removed_is_finished() {
    let lab = Lab::start();
    let backend = lab.backend();
    for ms in [25, 35, 45, 55] {
        let volume = volume();
        kill_after(&lab, ms, &["create", "--size", "1G", &spec(volume)]);
        done(&backend, create(volume)).await;
        done(&backend, Effect::Verify { object: volume, size: ONE }).await;
        kill_after(&lab, ms, &["rm", "--no-progress", &spec(volume)]);
        // a killed client counts as somebody who has it open until the cluster forgets it
        let patient = with(&lab, |config| config.watcher_wait = Duration::from_secs(40));
        done(&patient, Effect::DeleteVolume { volume }).await;
    }
    assert_eq!(lab.leftovers(), Vec::<String>::new());
}

fn kill_after(lab: &Lab, ms: u64, args: &[&str]) {
    let mut command = std::process::Command::new("rbd");
    command.arg("--conf").arg(lab.path("ceph.conf")).args(args);
    let mut child = command.stderr(std::process::Stdio::null()).spawn().unwrap();
    // not a wait for anything: when exactly it dies is what the rounds vary
    std::thread::sleep(Duration::from_millis(ms));
    drop(child.kill());
    child.wait().unwrap();
}

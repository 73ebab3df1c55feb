//! What goes wrong under a backend, and what it says then.

mod clearing;
mod images;

use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use tephra_domain::attachment::AttachMode;
use tephra_domain::effect::{BackendObject, Effect, Export, FailureKind};
use tephra_domain::ids::AttachmentId;
use tephra_domain::units::Timestamp;
use tephra_executors::backend::Backend;
use tephra_executors::backend::lvm::{LvmBackend, LvmConfig, OpenError, Provisioning};
use tephra_executors::export::Exporting;
use tephra_executors::export::memory::MemoryExporter;
use tephra_executors::process::{Launcher, Output, ProcessError, Program, Spawner};
use uuid::Uuid;

use crate::support::{
    Group, ONE, TWO, create, done, fingerprint, perform, refused, run, safety_of, snapshot_of, try_run,
    volume, write,
};

const SOME: &[u8] = &[7; 4096];

#[tokio::test]
#[ignore = "needs real lvm2: ./test lvm"]
async fn a_full_volume_group_takes_nothing_and_loses_nothing() {
    let group = Group::new("tephra-full", 4);
    let backend = group.open(Provisioning::Thick).await;
    let kept = volume();
    done(&backend, Effect::CreateVolume { volume: kept, size: TWO }).await;
    write(&backend, kept, 1, SOME);
    let before = fingerprint(&backend, kept);
    let snapshot = snapshot_of(kept);
    let message = refused(&backend, Effect::CreateSnapshot { snapshot }, FailureKind::NoSpace).await;
    assert!(message.contains("insufficient free space"), "{message}");
    refused(&backend, Effect::CreateVolume { volume: volume(), size: TWO }, FailureKind::NoSpace).await;

    // one that grows and has snapshots loses its device for a moment, not for good
    let small = volume();
    done(&backend, create(small)).await;
    run(["lvcreate", "-y", "-s", "-L", "100m", "-n", "by-hand", &group.path(small)]);
    refused(&backend, Effect::ExtendVolume { volume: small, to: TWO }, FailureKind::NoSpace).await;
    write(&backend, small, 1, SOME);
    assert_eq!(fingerprint(&backend, kept), before);

    // a clone that found no room leaves nothing once it is undone
    let clone = volume();
    refused(&backend, Effect::CloneVolume { volume: clone, size: TWO, source: kept }, FailureKind::NoSpace)
        .await;
    done(&backend, Effect::DeleteVolume { volume: clone }).await;
    let mut expected = vec!["by-hand".to_owned(), kept.to_string(), small.to_string()];
    expected.sort();
    assert_eq!(group.lvs(), expected);

    let stats = backend.stats(Timestamp(1)).await.unwrap();
    assert!(stats[0].free_gib < 1.0 && !stats[0].thin, "{stats:?}");
    assert!((stats[0].provisioned_gib - 3.0).abs() < 0.001, "{stats:?}");
}

#[tokio::test]
#[ignore = "needs real lvm2: ./test lvm"]
async fn a_full_thin_pool_takes_nothing_more_and_says_so() {
    let group = Group::new("tephra-fullpool", 3);
    let (source, copy) = (volume(), volume());
    let snapshot = snapshot_of(source);
    let many = |device: &Path, from: &str| {
        let of = format!("of={}", device.display());
        try_run(["dd", from, &of, "bs=1M", "count=400", "oflag=direct"])
    };
    {
        let thick = group.open(Provisioning::Thick).await;
        done(&thick, create(source)).await;
        assert!(many(&thick.device(source), "if=/dev/urandom").0);
        done(&thick, Effect::CreateSnapshot { snapshot }).await;
    }
    // so that the pool is small that is made of the rest
    run(["lvcreate", "-y", "-L", "640m", "-n", "somebody-elses", &group.name]);
    let backend = group.open(Provisioning::Thin).await;
    assert!(backend.is_thin());
    let before = fingerprint(&backend, source);
    let filled = volume();
    done(&backend, create(filled)).await;
    let (fits, said) = many(&backend.device(filled), "if=/dev/zero");
    assert!(!fits && said.contains("No space left on device"), "{said}");
    for effect in [
        create(volume()),
        Effect::CreateSnapshot { snapshot: snapshot_of(filled) },
        Effect::CloneVolume { volume: volume(), size: ONE, source: filled },
    ] {
        let message = refused(&backend, effect, FailureKind::NoSpace).await;
        assert!(message.contains("tephra-fullpool-pool is full"), "{message}");
    }
    let stats = backend.stats(Timestamp(1)).await.unwrap();
    assert!(stats[0].free_gib < 0.001 && stats[0].total_gib < 0.4 && stats[0].thin, "{stats:?}");
    done(&backend, Effect::DeleteVolume { volume: filled }).await;
    let blank = volume();
    done(&backend, create(blank)).await;
    done(&backend, Effect::DeleteVolume { volume: blank }).await;

    // a copy that fills the pool up is no volume, and leaves none
    let copying = Effect::CreateVolumeFromSnapshot { volume: copy, size: ONE, snapshot };
    let message = refused(&backend, copying, FailureKind::NoSpace).await;
    assert!(message.contains("No space left on device"), "{message}");
    refused(&backend, Effect::Verify { object: copy, size: ONE }, FailureKind::Mismatch).await;
    done(&backend, Effect::DeleteVolume { volume: copy }).await;
    assert_eq!(fingerprint(&backend, source), before);
    assert!(!group.lvs().contains(&copy.to_string()));
    done(&backend, create(blank)).await;
}

#[tokio::test]
#[ignore = "needs real lvm2: ./test lvm"]
async fn what_is_suspended_or_in_use_is_left_alone_in_time() {
    let group = Group::new("tephra-busy", 8);
    let backend = group.open(Provisioning::Thick).await;
    let used = volume();
    let snapshot = snapshot_of(used);
    done(&backend, create(used)).await;
    write(&backend, used, 1, SOME);
    let before = fingerprint(&backend, used);

    let device = backend.device(used);
    run(["dmsetup", "suspend", &device.display().to_string()]);
    for effect in [
        Effect::DeleteVolume { volume: used },
        Effect::CreateSnapshot { snapshot },
        Effect::CloneVolume { volume: volume(), size: ONE, source: used },
        Effect::ExtendVolume { volume: used, to: TWO },
    ] {
        let message = refused(&backend, effect, FailureKind::Busy).await;
        assert!(message.contains("is suspended"), "{message}");
    }
    run(["dmsetup", "resume", &device.display().to_string()]);

    done(&backend, Effect::CreateSnapshot { snapshot }).await;
    let open = File::open(&device).unwrap();
    for effect in [
        Effect::RevertToSnapshot { volume: used, snapshot },
        Effect::ExtendVolume { volume: used, to: TWO },
        Effect::Disown { object: used, to: used.unmanaged_name() },
    ] {
        let message = refused(&backend, effect, FailureKind::Busy).await;
        assert!(message.contains("is open"), "{message}");
    }
    drop(open);
    let message = refused(&backend, Effect::DeleteVolume { volume: used }, FailureKind::Busy).await;
    assert!(message.contains("has thick snapshots"), "{message}");
    assert_eq!(fingerprint(&backend, used), before);
}

/// A copy's source that is suspended while it is read: no signal ends whoever reads it.
struct SuspendsBeforeCopy(String);

#[async_trait]
impl Launcher for SuspendsBeforeCopy {
    async fn launch(&self, program: Program) -> Result<Output, ProcessError> {
        if program.argv().first().is_some_and(|program| program == "qemu-img") {
            run(["dmsetup", "suspend", &self.0]);
        }
        Spawner.launch(program).await
    }
}

#[tokio::test]
#[ignore = "needs real lvm2: ./test lvm"]
async fn a_copy_from_a_device_that_hangs_ends_at_its_time_limit() {
    let group = Group::new("tephra-hang", 8);
    let (source, clone, snapshot);
    {
        let backend = group.open(Provisioning::Thick).await;
        (source, clone) = (volume(), volume());
        snapshot = snapshot_of(source);
        done(&backend, create(source)).await;
        write(&backend, source, 1, SOME);
        done(&backend, Effect::CreateSnapshot { snapshot }).await;
    }
    let config = LvmConfig { copy_time_limit: Duration::from_secs(3), ..group.config(Provisioning::Thick) };
    let path = format!("/dev/{}", group.path(snapshot));
    let backend = LvmBackend::open(config, Arc::new(SuspendsBeforeCopy(path.clone()))).await.unwrap();
    let copy = Effect::CreateVolumeFromSnapshot { volume: clone, size: ONE, snapshot };
    let message = refused(&backend, copy.clone(), FailureKind::TimedOut).await;
    assert!(message.contains("qemu-img did not end within 3 s"), "{message}");
    run(["dmsetup", "resume", &path]);
    drop(backend);

    // nobody takes what it left for a volume, and the next attempt makes it one
    let backend = group.open(Provisioning::Thick).await;
    refused(&backend, Effect::Verify { object: clone, size: ONE }, FailureKind::Mismatch).await;
    done(&backend, copy).await;
    assert_eq!(fingerprint(&backend, clone), fingerprint(&backend, source));
}

/// A volume with thick snapshots grows while its device is away. lvm2's own rule for udev activates a whole
/// group at the first word of a disk after it has forgotten that the group is complete, which `lvchange -an`
/// has it do: it keeps that in a file.
#[tokio::test]
#[ignore = "needs real lvm2: ./test lvm"]
async fn udev_does_not_activate_a_volume_again_that_is_inactive_in_order_to_grow() {
    let group = Group::new("tephra-awake", 8);
    let is_complete = Path::new("/run/lvm/vgs_online").join(&group.name);
    let known_since = || {
        let found = std::fs::metadata(&is_complete).ok()?;
        Some((found.ino(), found.ctime(), found.ctime_nsec()))
    };
    let deadline = Instant::now() + Duration::from_secs(60);
    while known_since().is_none() {
        assert!(Instant::now() < deadline, "udev never takes the group for complete");
        std::thread::sleep(Duration::from_millis(20));
    }
    let backend = group.open(Provisioning::Thick).await;
    let grows = volume();
    done(&backend, create(grows)).await;
    done(&backend, Effect::CreateSnapshot { snapshot: snapshot_of(grows) }).await;
    let before = known_since();
    done(&backend, Effect::ExtendVolume { volume: grows, to: TWO }).await;
    run(["udevadm", "settle"]);
    assert_eq!(known_since(), before, "the group was forgotten, and perhaps found and activated again");
}

#[tokio::test]
#[ignore = "needs real lvm2: ./test lvm"]
async fn a_vanished_volume_group_is_unavailable_and_comes_back() {
    let group = Group::new("tephra-gone", 4);
    let backend = group.open(Provisioning::Thick).await;
    let kept = volume();
    done(&backend, create(kept)).await;
    run(["vgchange", "-an", &group.name]);
    run(["vgexport", &group.name]);
    let failure = backend.stats(Timestamp(1)).await.unwrap_err();
    assert_eq!(failure.kind, FailureKind::BackendUnavailable, "{failure}");
    refused(&backend, create(volume()), FailureKind::BackendUnavailable).await;
    refused(&backend, Effect::DeleteVolume { volume: kept }, FailureKind::BackendUnavailable).await;
    refused(&backend, Effect::Verify { object: kept, size: ONE }, FailureKind::BackendUnavailable).await;
    run(["vgimport", &group.name]);
    // its devices are away still, which creating it again repairs
    done(&backend, create(kept)).await;
    assert!(backend.device(kept).exists());

    run(["vgchange", "-an", &group.name]);
    run(["losetup", "--detach", &group.disk.device]);
    let failure = backend.stats(Timestamp(1)).await.unwrap_err();
    assert_eq!(failure.kind, FailureKind::BackendUnavailable, "{failure}");
    refused(&backend, create(volume()), FailureKind::BackendUnavailable).await;
    refused(&backend, Effect::DeleteVolume { volume: kept }, FailureKind::BackendUnavailable).await;
    let again =
        group.open_with(LvmConfig { lock_directory: "/run".into(), ..backend.config().clone() }).await;
    assert!(matches!(again, Err(OpenError::Unusable(_))));
}

#[tokio::test]
#[ignore = "needs real lvm2: ./test lvm"]
async fn a_snapshot_that_was_removed_or_overflowed_is_missed_and_nothing_else_is() {
    let group = Group::new("tephra-lost", 8);
    let backend = group.open(Provisioning::Thick).await;
    let used = volume();
    done(&backend, create(used)).await;
    let (removed, overflowed) = (snapshot_of(used), snapshot_of(used));
    done(&backend, Effect::CreateSnapshot { snapshot: removed }).await;
    run(["lvremove", "-y", &group.path(removed)]);
    refused(
        &backend,
        Effect::RevertToSnapshot { volume: used, snapshot: removed },
        FailureKind::ObjectMissing,
    )
    .await;
    let made = volume();
    let from = |snapshot| Effect::CreateVolumeFromSnapshot { volume: made, size: ONE, snapshot };
    refused(&backend, from(removed), FailureKind::ObjectMissing).await;
    done(&backend, Effect::DeleteSnapshot { snapshot: removed }).await;

    let lv = group.path(overflowed).split('/').next_back().unwrap().to_owned();
    run(["lvcreate", "-y", "-s", "-L", "8m", "-n", &lv, &group.path(used)]);
    let of = format!("of={}", backend.device(used).display());
    run(["dd", "if=/dev/urandom", &of, "bs=1M", "count=16", "oflag=direct"]);
    let before = fingerprint(&backend, used);
    for effect in [
        Effect::RevertToSnapshot { volume: used, snapshot: overflowed },
        Effect::CreateSnapshot { snapshot: overflowed },
        from(overflowed),
        Effect::Verify { object: overflowed, size: ONE },
    ] {
        let message = refused(&backend, effect, FailureKind::Mismatch).await;
        assert!(message.contains("has overflowed"), "{message}");
    }
    done(&backend, Effect::DeleteSnapshot { snapshot: overflowed }).await;
    assert_eq!(fingerprint(&backend, used), before);
    assert_eq!(group.lvs(), [used.to_string()]);
}

#[tokio::test]
#[ignore = "needs real lvm2: ./test lvm"]
async fn what_was_resized_behind_our_back_is_listed_as_it_is_and_is_no_match() {
    for provisioning in [Provisioning::Thick, Provisioning::Thin] {
        let group = Group::new("tephra-resized", 8);
        let backend = group.open(provisioning).await;
        let (kept, grown) = (volume(), volume());
        done(&backend, create(kept)).await;
        done(&backend, create(grown)).await;
        run(["lvextend", "-y", "-L", "1536m", &group.path(grown)]);
        let listed = backend.list(&backend.config().pool).await.unwrap();
        let bytes = |object: BackendObject| {
            listed.iter().find(|found| *found.name == object.to_string()).map(|found| found.bytes)
        };
        assert_eq!((bytes(kept), bytes(grown)), (Some(1 << 30), Some(3 << 29)), "{provisioning:?}");
        let verify = |object| Effect::Verify { object, size: ONE };
        let message = refused(&backend, verify(grown), FailureKind::Mismatch).await;
        assert!(message.contains("1610612736 bytes long, not 1073741824"), "{message}");
        done(&backend, verify(kept)).await;
    }
}

/// Kills the merge in its middle, and everything that would come after it.
struct KillsTheMerge;

#[async_trait]
impl Launcher for KillsTheMerge {
    async fn launch(&self, program: Program) -> Result<Output, ProcessError> {
        let argv = program.argv().to_vec();
        if !argv.iter().any(|word| word == "--merge") {
            return Spawner.launch(program).await;
        }
        let mut child = Command::new(&argv[0])
            .args(&argv[1..])
            .env("LC_ALL", "C")
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        // it says so when the kernel has begun, looks every second whether that is done, and only
        // then the group forgets the merge
        let said = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
        assert!(said.into_iter().any(|line| line.contains("started")), "no merge was begun");
        child.kill().unwrap();
        child.wait().unwrap();
        let merging = run(["lvs", "-a", "--noheadings", "--binary", "-o", "lv_merging", "tephra-merge"]);
        assert!(merging.contains('1'), "the merge was over before anybody could kill it: {merging}");
        Err(ProcessError::NotFound { program: "the executor".to_owned() })
    }
}

#[tokio::test]
#[ignore = "needs real lvm2: ./test lvm"]
async fn a_revert_whose_merge_was_killed_is_finished_whatever_comes_next() {
    let group = Group::new("tephra-merge", 12);
    let backend = group.open(Provisioning::Thick).await;
    let used = volume();
    done(&backend, create(used)).await;
    write(&backend, used, 1, SOME);
    let first = fingerprint(&backend, used);
    let (older, snapshot, safety) = (snapshot_of(used), snapshot_of(used), safety_of(used));
    done(&backend, Effect::CreateSnapshot { snapshot: older }).await;
    write(&backend, used, 5, SOME);
    let second = fingerprint(&backend, used);
    done(&backend, Effect::CreateSnapshot { snapshot }).await;
    let of = format!("of={}", backend.device(used).display());
    run(["dd", "if=/dev/urandom", &of, "bs=1M", "count=192", "oflag=direct"]);
    done(&backend, Effect::CreateSnapshot { snapshot: safety }).await;
    let third = fingerprint(&backend, safety);
    drop(backend);

    let revert = Effect::RevertToSnapshot { volume: used, snapshot };
    let dying = LvmBackend::open(group.config(Provisioning::Thick), Arc::new(KillsTheMerge)).await.unwrap();
    assert!(perform(&dying, revert.clone()).await.is_err());
    drop(dying);
    let backend = group.open(Provisioning::Thick).await;
    done(&backend, revert.clone()).await;
    for (object, expected) in [(used, &second), (snapshot, &second), (older, &first), (safety, &third)] {
        assert_eq!(&fingerprint(&backend, object), expected, "{object}");
    }
    drop(backend);

    // killed again, and undone: the snapshot is not lost to the merge that was begun
    let dying = LvmBackend::open(group.config(Provisioning::Thick), Arc::new(KillsTheMerge)).await.unwrap();
    assert!(perform(&dying, revert).await.is_err());
    drop(dying);
    let backend = group.open(Provisioning::Thick).await;
    done(&backend, Effect::RevertToSnapshot { volume: used, snapshot: safety }).await;
    for (object, expected) in [(used, &third), (snapshot, &second), (older, &first), (safety, &third)] {
        assert_eq!(&fingerprint(&backend, object), expected, "{object}");
    }
    done(&backend, Effect::DeleteSnapshot { snapshot: safety }).await;
    assert_eq!(group.lvs().len(), 3);
}

/// Somebody else takes all space that there is, as soon as a merge has freed some.
struct TakesTheRoom(Arc<std::sync::atomic::AtomicBool>);

#[async_trait]
impl Launcher for TakesTheRoom {
    async fn launch(&self, program: Program) -> Result<Output, ProcessError> {
        let merges = program.argv().iter().any(|word| word == "--merge");
        let output = Spawner.launch(program).await;
        if merges && !self.0.swap(true, std::sync::atomic::Ordering::SeqCst) {
            run(["lvcreate", "-y", "-l", "100%FREE", "-n", "greedy", "tephra-room"]);
        }
        output
    }
}

#[tokio::test]
#[ignore = "needs real lvm2: ./test lvm"]
async fn a_reverted_volume_without_room_for_its_snapshot_loses_nothing_and_can_be_deleted() {
    let group = Group::new("tephra-room", 8);
    let used = volume();
    let (snapshot, safety) = (snapshot_of(used), safety_of(used));
    let taken = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let launcher = Arc::new(TakesTheRoom(Arc::clone(&taken)));
    let backend = LvmBackend::open(group.config(Provisioning::Thick), launcher).await.unwrap();
    done(&backend, create(used)).await;
    write(&backend, used, 1, SOME);
    done(&backend, Effect::CreateSnapshot { snapshot }).await;
    let first = fingerprint(&backend, used);
    write(&backend, used, 5, SOME);
    done(&backend, Effect::CreateSnapshot { snapshot: safety }).await;
    let second = fingerprint(&backend, used);

    let revert = Effect::RevertToSnapshot { volume: used, snapshot };
    let undo = Effect::RevertToSnapshot { volume: used, snapshot: safety };
    for effect in [revert.clone(), revert.clone(), undo.clone()] {
        let message = refused(&backend, effect, FailureKind::NoSpace).await;
        assert!(message.contains("has been reverted to") && message.contains("only be deleted"), "{message}");
    }
    assert_eq!(fingerprint(&backend, used), first);
    assert_eq!(fingerprint(&backend, safety), second);
    // nor is any host let in to write what the snapshot would hold
    let backend = Arc::new(backend);
    let exporter = MemoryExporter::default();
    let exporting = Exporting::new(Arc::clone(&backend) as Arc<dyn Backend>, Arc::new(exporter.clone()));
    let export = Export {
        attachment: AttachmentId::from_uuid(Uuid::new_v4()),
        initiator: None,
        address: None,
        mode: AttachMode::ReadWrite,
    };
    let attach = Effect::ExportVolume { volume: used, export };
    let failure = exporting.perform(&backend.config().pool, &attach).await.unwrap_err();
    assert_eq!(failure.kind, FailureKind::NoSpace, "{failure}");
    assert!(exporter.exports().is_empty());

    // with room, the undo takes the snapshot before it changes the volume
    run(["lvremove", "-y", "tephra-room/greedy"]);
    done(&backend, undo).await;
    for (object, expected) in [(used, &second), (snapshot, &first), (safety, &second)] {
        assert_eq!(&fingerprint(&backend, object), expected, "{object}");
    }

    // and without, everything can be deleted
    taken.store(false, std::sync::atomic::Ordering::SeqCst);
    refused(&backend, revert, FailureKind::NoSpace).await;
    for gone in [safety, snapshot, used] {
        done(&backend, Effect::delete(gone)).await;
    }
    assert_eq!(group.lvs(), ["greedy"]);
}

#[tokio::test]
#[ignore = "needs real lvm2: ./test lvm"]
async fn the_pool_is_found_or_made_and_a_group_has_one_master() {
    let group = Group::new("tephra-open", 4);
    run(["lvcreate", "-y", "-L", "100m", "-n", "somebody-elses", &group.name]);
    let backend = group.open(Provisioning::Auto).await;
    assert!(!backend.is_thin(), "the group is not empty and has no pool");
    let again = group.open_with(group.config(Provisioning::Auto)).await;
    assert!(matches!(again, Err(OpenError::Taken { .. })));
    drop(backend);

    run(["lvremove", "-y", "tephra-open/somebody-elses"]);
    let backend = group.open(Provisioning::Auto).await;
    assert!(backend.is_thin(), "an empty group gets a pool");
    let stats = backend.stats(Timestamp(1)).await.unwrap();
    assert!(stats[0].total_gib > 3.5 && stats[0].free_gib > 3.5, "{stats:?}");
    drop(backend);
    let backend = group.open(Provisioning::Thin).await;
    assert!(backend.is_thin());
    assert_eq!(backend.list(&backend.config().pool).await.unwrap(), []);
    drop(backend);
    run(["lvchange", "-Zn", "tephra-open/tephra-open-pool"]);
    let Err(OpenError::Unusable(failure)) = group.open_with(group.config(Provisioning::Auto)).await else {
        unreachable!("what is deleted on it can be read by who comes next")
    };
    assert!(failure.message.contains("lvchange -Zy tephra-open/tephra-open-pool"), "{failure}");
    run(["lvchange", "-Zy", "tephra-open/tephra-open-pool"]);
    drop(group.open(Provisioning::Auto).await);
    let config = LvmConfig { volume_group: "tephra-nowhere".to_owned(), ..group.config(Provisioning::Auto) };
    let Err(OpenError::Unusable(failure)) = group.open_with(config).await else {
        unreachable!("there is no such group")
    };
    assert_eq!(failure.kind, FailureKind::BackendUnavailable, "{failure}");
}

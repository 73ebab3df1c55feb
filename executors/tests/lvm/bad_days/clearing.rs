//! What others read in space that somebody has had before.

use std::fs::OpenOptions;
use std::io::{Seek as _, SeekFrom};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use rustix::fs::OFlags;
use tephra_domain::effect::{BackendObject, Effect};
use tephra_domain::units::SizeGib;
use tephra_executors::backend::lvm::{Clear, LvmBackend, LvmConfig, Provisioning};
use tephra_executors::process::{Launcher, Output, ProcessError, Program, Spawner};

use super::SOME;
use crate::support::{
    Group, ONE, TWO, create, done, fingerprint, perform, run, safety_of, snapshot_of, try_run, volume, write,
};

#[tokio::test]
#[ignore = "needs real lvm2: ./test lvm"]
async fn what_is_deleted_is_cleared_as_configured() {
    let group = Group::new("tephra-clear", 4);
    // the only space that is free is what the deleted volume had
    for (clear, is_cleared) in [
        (Clear::Zero { limit_mib: None }, [true, true]),
        (Clear::Zero { limit_mib: Some(1) }, [true, false]),
        (Clear::None, [false, false]),
        (Clear::Discard, [true, true]),
    ] {
        let config = LvmConfig { volume_clear: clear, ..group.config(Provisioning::Thick) };
        let backend = group.open_with(config).await.unwrap();
        let secret = volume();
        done(&backend, create(secret)).await;
        let far = (2 << 20) / 4096;
        write(&backend, secret, 3, SOME);
        write(&backend, secret, far, SOME);
        done(&backend, Effect::DeleteVolume { volume: secret }).await;
        let next = volume();
        done(&backend, create(next)).await;
        let device = backend.device(next).display().to_string();
        let seen = [3, far].map(|block| {
            let skip = format!("{}:0", block * 4096);
            try_run(["cmp", "-s", "-n", "4096", "-i", &skip, &device, "/dev/zero"]).0
        });
        assert_eq!(seen, is_cleared, "{clear:?}");
        run(["blkdiscard", "-z", &device]);
        run(["lvremove", "-y", &group.path(next)]);
    }
    // a snapshot's exceptions hold what was overwritten
    let backend = group.open(Provisioning::Thick).await;
    let used = volume();
    let snapshot = snapshot_of(used);
    done(&backend, create(used)).await;
    write(&backend, used, 3, SOME);
    done(&backend, Effect::CreateSnapshot { snapshot }).await;
    write(&backend, used, 3, &[0; 4096]);
    done(&backend, Effect::DeleteSnapshot { snapshot }).await;
    let next = volume();
    done(&backend, create(next)).await;
    let zeroes = fingerprint(&backend, used);
    assert_eq!(fingerprint(&backend, next), zeroes);
}

/// The disk and its extents that a logical volume has, as commands of lvm2 take them.
fn extents_of(lv: &str) -> String {
    run(["lvs", "--noheadings", "-o", "seg_pe_ranges", lv]).trim().to_owned()
}

/// What happens right after a merge has freed the snapshot's space.
enum AfterTheMerge {
    /// Nothing.
    Nothing,
    /// Somebody else takes some of it.
    Some,
    /// The executor dies.
    Death,
}

struct Merges {
    snapshot: String,
    and_then: AfterTheMerge,
    has_merged: AtomicBool,
}

#[async_trait]
impl Launcher for Merges {
    async fn launch(&self, program: Program) -> Result<Output, ProcessError> {
        if self.has_merged.load(Ordering::SeqCst) && matches!(self.and_then, AfterTheMerge::Death) {
            return Err(ProcessError::NotFound { program: "the executor".to_owned() });
        }
        if !program.argv().iter().any(|word| word == "--merge") {
            return Spawner.launch(program).await;
        }
        let extents = extents_of(&self.snapshot);
        let output = Spawner.launch(program).await;
        self.has_merged.store(true, Ordering::SeqCst);
        if matches!(self.and_then, AfterTheMerge::Some) {
            run(["lvcreate", "-y", "-Wn", "-Zn", "-l", "16", "-n", "greedy", "tephra-merged", &extents]);
        }
        output
    }
}

#[tokio::test]
#[ignore = "needs real lvm2: ./test lvm"]
async fn what_a_volume_held_once_is_nowhere_when_all_is_deleted_that_a_merge_was_about() {
    for and_then in [AfterTheMerge::Nothing, AfterTheMerge::Some, AfterTheMerge::Death] {
        let group = Group::new("tephra-merged", 4);
        let used = volume();
        let (snapshot, safety) = (snapshot_of(used), safety_of(used));
        let stays = matches!(and_then, AfterTheMerge::Nothing);
        let dies = matches!(and_then, AfterTheMerge::Death);
        let launcher =
            Merges { snapshot: group.path(snapshot), and_then, has_merged: AtomicBool::new(false) };
        let backend = LvmBackend::open(group.config(Provisioning::Thick), Arc::new(launcher)).await.unwrap();
        done(&backend, create(used)).await;
        // in each extent, once before the snapshot and once after
        let blocks = || (0..256).map(|extent| extent * 1024 + 16);
        blocks().for_each(|block| write(&backend, used, block, SOME));
        let before = fingerprint(&backend, used);
        done(&backend, Effect::CreateSnapshot { snapshot }).await;
        blocks().for_each(|block| write(&backend, used, block, &[8; 4096]));
        done(&backend, Effect::CreateSnapshot { snapshot: safety }).await;
        let place = extents_of(&group.path(snapshot));

        let reverted = perform(&backend, Effect::RevertToSnapshot { volume: used, snapshot }).await;
        assert_eq!(reverted.is_err(), dies, "{reverted:?}");
        assert_eq!(fingerprint(&backend, used), before);
        drop(backend);
        let backend = group.open(Provisioning::Thick).await;
        if !dies {
            assert_eq!(fingerprint(&backend, snapshot), before);
            assert_eq!(extents_of(&group.path(snapshot)) == place, stays);
        }
        for gone in [snapshot, safety, used] {
            done(&backend, Effect::delete(gone)).await;
        }
        let others: Vec<String> = group.lvs();
        assert!(others.iter().all(|lv| lv == "greedy"), "{others:?}");
        // whoever gets the space next
        run(["lvcreate", "-y", "-Wn", "-Zn", "-l", "100%FREE", "-n", "next", &group.name]);
        let bytes = run(["blockdev", "--getsize64", "/dev/tephra-merged/next"]);
        assert!(
            try_run(["cmp", "-n", bytes.trim(), "/dev/tephra-merged/next", "/dev/zero"]).0,
            "it reads what others wrote"
        );
    }
}

/// What the space of a group holds that others have used before: this, in each of its extents.
pub fn leave_in_all_free_space(group: &Group, content: &[u8]) {
    run(["lvcreate", "-y", "-Wn", "-Zn", "-l", "100%FREE", "-n", "somebody-elses", &group.name]);
    let path = format!("/dev/{}/somebody-elses", group.name);
    let mut device = OpenOptions::new().write(true).open(path).unwrap();
    let bytes = device.seek(SeekFrom::End(0)).unwrap();
    for at in (0..bytes).step_by(4 << 20) {
        device.write_all_at(content, at + (1 << 20)).unwrap();
    }
    device.sync_all().unwrap();
    drop(device);
    run(["lvremove", "-y", &format!("{}/somebody-elses", group.name)]);
}

#[tokio::test]
#[ignore = "needs real lvm2: ./test lvm"]
async fn a_volume_holds_zeroes_beyond_its_source_whatever_its_space_held() {
    let group = Group::new("tephra-beyond", 16);
    leave_in_all_free_space(&group, SOME);
    let config = LvmConfig { volume_clear: Clear::None, ..group.config(Provisioning::Thick) };
    let backend = group.open_with(config).await.unwrap();
    let holds_zeroes = |object: BackendObject, from: u64| {
        let (device, skip) = (backend.device(object).display().to_string(), format!("{from}:0"));
        let length = (TWO.bytes() - from).to_string();
        try_run(["cmp", "-s", "-n", &length, "-i", &skip, &device, "/dev/zero"]).0
    };
    let (source, made, clone, grown) = (volume(), volume(), volume(), volume());
    let snapshot = snapshot_of(source);
    done(&backend, create(source)).await;
    assert!(!holds_zeroes(source, 0), "what is blank is as its space was: nobody cleared it");
    done(&backend, Effect::CreateSnapshot { snapshot }).await;
    done(&backend, Effect::CreateVolumeFromSnapshot { volume: made, size: TWO, snapshot }).await;
    done(&backend, Effect::CloneVolume { volume: clone, size: TWO, source }).await;
    // with snapshots, and without
    done(&backend, create(grown)).await;
    for volume in [source, grown] {
        done(&backend, Effect::ExtendVolume { volume, to: TWO }).await;
    }
    let adopted = volume();
    run(["lvcreate", "-y", "-L", "1536m", "-n", "legacy", &group.name]);
    done(&backend, Effect::Adopt { object: adopted, from: "legacy".into(), size: Some(TWO) }).await;
    for (object, from) in
        [(made, 1 << 30), (clone, 1 << 30), (source, 1 << 30), (grown, 1 << 30), (adopted, 3 << 29)]
    {
        assert!(holds_zeroes(object, from), "{object}");
    }
    // somebody has it open, and to himself, as the kernel has what is mounted
    let third = SizeGib::new(3).unwrap();
    let exclusive = OFlags::EXCL.bits().try_into().unwrap();
    let open = OpenOptions::new().read(true).custom_flags(exclusive).open(backend.device(grown)).unwrap();
    done(&backend, Effect::ExtendVolume { volume: grown, to: third }).await;
    drop(open);
    let device = backend.device(grown).display().to_string();
    let skip = format!("{}:0", TWO.bytes());
    assert!(try_run(["cmp", "-s", "-n", &ONE.bytes().to_string(), "-i", &skip, &device, "/dev/zero"]).0);
    let tags = run(["lvs", "--noheadings", "-o", "lv_tags", &group.name]);
    assert!(!tags.contains("growing"), "{tags}");
}

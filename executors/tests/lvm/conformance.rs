//! The conformance suite on thick and on thin volumes, with kill -9 between every two commands.

use std::any::Any;
use std::fs::File;

use async_trait::async_trait;
use tephra_domain::effect::{BackendObject, Effect};
use tephra_executors::backend::Backend;
use tephra_executors::backend::conformance::across::{DirectoryEnd, check_copies, check_loan};
use tephra_executors::backend::conformance::interrupt::{Attempt, Interrupter, Tally};
use tephra_executors::backend::conformance::{Bench, Fingerprint, check_all};
use tephra_executors::backend::lvm::{LvmBackend, Provisioning, changes};

use crate::support::{Group, fingerprint, glance, write};

/// How often effects of one name are interrupted: once where they always go the same way, otherwise
/// until all ways have come in the suite. Whether they have is seen at the end: [`DEATHS_OF_THICK`].
const fn times_interrupted(effect: &Effect) -> u32 {
    match effect {
        // one that is larger than the snapshot comes third, as does growing with snapshots
        Effect::CreateVolumeFromSnapshot { .. } | Effect::ExtendVolume { .. } => 3,
        Effect::CloneVolume { .. }
        | Effect::RevertToSnapshot { .. }
        | Effect::Adopt { .. }
        | Effect::Disown { .. } => 2,
        Effect::CreateVolume { .. }
        | Effect::DeleteVolume { .. }
        | Effect::ShrinkVolume { .. }
        | Effect::CreateSnapshot { .. }
        | Effect::DeleteSnapshot { .. }
        | Effect::OverwriteVolume { .. } => 1,
        // made of images by `executors::image`, of other pools by `executors::copy`, and exported by `executors::export`, not by a backend
        Effect::CreateVolumeFromImage { .. }
        | Effect::CopyVolume { .. }
        | Effect::UploadImage { .. }
        | Effect::RemoveImage { .. }
        | Effect::Verify { .. }
        | Effect::ExportVolume { .. }
        | Effect::UnexportVolume { .. } => 0,
    }
}

/// Commands after which an attempt must have died, in part by their first words and in part by words
/// that no other of the effect's has.
const DEATHS_OF_THICK: &[(&str, &[&str])] = &[
    ("CreateVolume", &["lvcreate -y -Wy"]),
    (
        "CreateVolumeFromSnapshot",
        &["lvcreate -y -Wy", "qemu-img convert", "blkdiscard -z", "sync", "--deltag tephra.incomplete"],
    ),
    (
        "CloneVolume",
        &[
            "lvcreate -y -s",
            "lvcreate -y -Wy",
            "qemu-img convert",
            "blkdiscard -z",
            "sync",
            "--splitsnapshot",
            "--deltag tephra.incomplete",
        ],
    ),
    ("DeleteVolume", &["--addtag tephra.deleting", "blkdiscard -z", "lvremove"]),
    (
        "ExtendVolume",
        &[
            "--addtag tephra.growing",
            "lvchange -y -an",
            "lvextend",
            "blkdiscard -z",
            "sync",
            "--deltag tephra.growing",
        ],
    ),
    ("ShrinkVolume", &["lvreduce"]),
    ("CreateSnapshot", &["lvcreate -y -s"]),
    ("DeleteSnapshot", &["--splitsnapshot", "blkdiscard -z", "lvremove"]),
    ("RevertToSnapshot", &["--addtag tephra.freed", "--merge", "lvcreate -y -s", "--deltag tephra.freed"]),
    (
        "OverwriteVolume",
        &["--addtag tephra.incomplete", "qemu-img convert", "sync", "--deltag tephra.incomplete"],
    ),
];

const DEATHS_OF_THIN: &[(&str, &[&str])] = &[
    ("CreateVolume", &["lvcreate -y -T"]),
    ("CreateVolumeFromSnapshot", &["lvcreate -y -s -kn", "lvextend", "--deltag tephra.incomplete"]),
    ("CloneVolume", &["lvcreate -y -s -kn", "lvextend", "--deltag tephra.incomplete"]),
    ("DeleteVolume", &["lvremove"]),
    ("ExtendVolume", &["lvextend"]),
    ("ShrinkVolume", &["lvreduce"]),
    ("CreateSnapshot", &["lvcreate -y -s -ky"]),
    ("DeleteSnapshot", &["lvremove"]),
    ("RevertToSnapshot", &["lvcreate -y -s -kn", "lvrename", "lvremove"]),
    ("OverwriteVolume", &["lvcreate -y -s -kn", "lvrename", "lvremove"]),
];

const GROUP: &str = "TEPHRA_LVM_GROUP";
const THIN: &str = "TEPHRA_LVM_THIN";

struct LvmBench {
    backend: LvmBackend,
    interrupter: Interrupter,
    tally: Tally,
    /// How often effects of one name are interrupted at most.
    most: u32,
}

#[async_trait]
impl Bench for LvmBench {
    fn backend(&self) -> &dyn Backend {
        &self.backend
    }

    async fn write(&self, object: BackendObject, block: u64, content: &[u8]) {
        write(&self.backend, object, block, content);
    }

    async fn fingerprint(&self, object: BackendObject) -> Option<Fingerprint> {
        fingerprint(&self.backend, object)
    }

    async fn glance(&self, object: BackendObject) -> Option<Fingerprint> {
        glance(&self.backend, object)
    }

    async fn leave_interrupted(&self, effect: &Effect) {
        let pool = &self.backend.config().pool;
        self.tally.interrupt(times_interrupted(effect).min(self.most), &self.interrupter, pool, effect).await;
    }

    async fn occupy(&self, object: BackendObject) -> Option<Box<dyn Any + Send>> {
        Some(Box::new(File::open(self.backend.device(object)).unwrap()))
    }

    fn volumes_at_once(&self) -> usize {
        3
    }
}

/// What is attempted, until it dies, by the processes that the suite starts.
#[tokio::test]
#[ignore = "started by the conformance suite, to be killed"]
async fn attempt() {
    let Some(attempt) = Attempt::from_environment() else { return };
    let group = std::env::var(GROUP).unwrap();
    let provisioning =
        if std::env::var_os(THIN).is_some() { Provisioning::Thin } else { Provisioning::Thick };
    let config = tephra_executors::backend::lvm::LvmConfig {
        provisioning,
        // its own, since the suite holds the group's lock
        lock_directory: tempfile::tempdir().unwrap().keep(),
        ..tephra_executors::backend::lvm::LvmConfig::new(
            tephra_domain::ids::BackendName::new("lvm"),
            "host",
            group,
        )
    };
    let backend = LvmBackend::open(config, attempt.launcher(changes)).await.unwrap();
    assert_eq!(backend.perform(&attempt.pool, &attempt.effect).await, Ok(()));
}

async fn conforms(name: &str, provisioning: Provisioning) {
    let group = Group::new(name, 60);
    let backend = group.open(provisioning).await;
    let mut interrupter = Interrupter::new("conformance::attempt").env(GROUP, name);
    for variable in ["TMPDIR", "TEPHRA_LVM_DISKS"] {
        if let Some(value) = std::env::var_os(variable) {
            interrupter = interrupter.env(variable, value);
        }
    }
    if provisioning == Provisioning::Thin {
        interrupter = interrupter.env(THIN, "1");
    }
    let bench = LvmBench { backend, interrupter, tally: Tally::from_environment(), most: u32::MAX };
    let description = bench.backend.description();
    let thin = if provisioning == Provisioning::Thin { "True" } else { "False" };
    assert_eq!(description.capabilities["thin_provisioning_support"], thin);
    assert!(description.native_revert);
    check_all(&bench).await;

    // nothing that lives no longer than an effect has outlived it
    let left: Vec<String> = group.lvs();
    let passing =
        |lv: &String| ["new-", "old-", "copy-", "clear-"].iter().any(|prefix| lv.starts_with(prefix));
    assert!(!left.is_empty() && !left.iter().any(passing), "{left:?}");
    bench.tally.check(true);
    let is_thin = provisioning == Provisioning::Thin;
    bench.tally.check_died_after(if is_thin { DEATHS_OF_THIN } else { DEATHS_OF_THICK });
}

#[tokio::test]
#[ignore = "needs real lvm2: ./test lvm"]
async fn thick_volumes_conform() {
    conforms("tephra-thick", Provisioning::Thick).await;
}

#[tokio::test]
#[ignore = "needs real lvm2: ./test lvm"]
async fn thin_volumes_conform() {
    conforms("tephra-thin", Provisioning::Thin).await;
}

#[tokio::test]
#[ignore = "needs real lvm2: ./test lvm"]
async fn data_goes_between_thick_thin_and_a_directory() {
    let directory = tempfile::tempdir().unwrap();
    let files = DirectoryEnd::open(directory.path()).unwrap();
    let groups = (Group::new("tephra-from", 20), Group::new("tephra-into", 20));
    let end = |backend| LvmBench {
        backend,
        interrupter: Interrupter::new("nothing dies here"),
        tally: Tally::default(),
        most: 0,
    };
    let thick = end(groups.0.open(Provisioning::Thick).await);
    let thin = end(groups.1.open(Provisioning::Thin).await);
    for (from, into) in [
        (&thick as &dyn Bench, &files as &dyn Bench),
        (&files, &thick),
        (&thin, &files),
        (&files, &thin),
        (&thick, &thin),
        (&thin, &thick),
    ] {
        check_copies(from, into).await;
    }
    // a device is lent to whoever writes to a device; what else is lent and borrowed is shown on files
    check_loan(&thick, &thin).await;
    assert!(groups.0.lvs().is_empty() && groups.1.lvs().is_empty());
}

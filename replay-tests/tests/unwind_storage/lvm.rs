//! On lvm2, as root, on the directory for disks that the guest of `./test lvm` has.

use std::fs::File;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;

use tephra_domain::ids::{BackendName, PoolName};
use tephra_executors::backend::lvm::{LvmBackend, LvmConfig, Provisioning, changes};
use tephra_executors::process::Launcher;

use crate::image::OneImage;
use crate::sabotage::{Fault, Saboteur};
use crate::stage::{Operation, Storage, image_content, unwind};

/// A volume group on a sparse file. Gone when this is dropped.
struct Group {
    name: &'static str,
    file: PathBuf,
    device: String,
}

fn run(argv: &[&str]) -> String {
    let (program, arguments) = argv.split_first().unwrap();
    let output = Command::new(program).args(arguments).stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success(), "{argv:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

impl Group {
    fn new(name: &'static str, gib: u64) -> Self {
        let disks = std::env::var_os("TEPHRA_LVM_DISKS").expect("run by ./test lvm");
        let file = PathBuf::from(disks).join(name);
        File::create(&file).unwrap().set_len(gib << 30).unwrap();
        let shown = file.to_str().unwrap();
        let device = run(&["losetup", "--direct-io=on", "--find", "--show", shown]).trim().to_owned();
        run(&["vgcreate", "-y", name, &device]);
        Self { name, file, device }
    }

    /// All logical volumes but the pool's own.
    fn everything(&self) -> Vec<String> {
        let listed = run(&["lvs", "--noheadings", "-o", "lv_name", "-S", "lv_attr!~\"^t\"", self.name]);
        listed.split_whitespace().map(str::to_owned).collect()
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        for argv in [&["vgremove", "-ff", "-y", self.name][..], &["losetup", "--detach", &self.device]] {
            let (program, arguments) = argv.split_first().unwrap();
            drop(Command::new(program).args(arguments).stdin(Stdio::null()).status());
        }
        drop(std::fs::remove_file(&self.file));
    }
}

/// What a lost answer does once, a death does.
const FAULTS: &[(Fault, bool)] = &[(Fault::Fails, false), (Fault::AnswerLost, true), (Fault::Dies, false)];

/// What never goes away. In tests of their own, so that they take a guest of their own.
const FOR_GOOD: &[(Fault, bool)] = &[(Fault::Fails, true)];

/// Where a whole volume is copied each time.
const FEWER_FAULTS: &[(Fault, bool)] = &[(Fault::AnswerLost, true), (Fault::Dies, false)];

/// The faults that an operation is tried with at every command.
fn faults(provisioning: Provisioning, operation: Operation) -> &'static [(Fault, bool)] {
    let by_copying = [Operation::CreateFromSnapshot, Operation::CreateFromVolume];
    let copies = provisioning == Provisioning::Thick && by_copying.contains(&operation);
    if copies { FEWER_FAULTS } else { FAULTS }
}

async fn unwinds(name: &'static str, provisioning: Provisioning, operations: &[Operation]) {
    let tried = operations.iter().map(|operation| (*operation, faults(provisioning, *operation)));
    unwinds_from(name, provisioning, tried).await;
}

async fn unwinds_for_good(name: &'static str, provisioning: Provisioning, operations: &[Operation]) {
    unwinds_from(name, provisioning, operations.iter().map(|operation| (*operation, FOR_GOOD))).await;
}

async fn unwinds_from(
    name: &'static str,
    provisioning: Provisioning,
    tried: impl Iterator<Item = (Operation, &'static [(Fault, bool)])>,
) {
    let group = Group::new(name, 20);
    let saboteur = Arc::new(Saboteur::new(changes));
    let config = LvmConfig {
        provisioning,
        lock_directory: std::env::temp_dir(),
        ..LvmConfig::new(BackendName::new("one"), "host", name)
    };
    let backend = LvmBackend::open(config, Arc::clone(&saboteur) as Arc<dyn Launcher>).await.unwrap();
    let image = OneImage::new(Arc::clone(&saboteur) as Arc<dyn Launcher>, &image_content());
    let storage = Storage {
        backend: &backend,
        saboteur: &saboteur,
        image: &image,
        pool: PoolName::new("one"),
        everything: &|| group.everything(),
        shows_snapshots: true,
        looks_everywhere: false,
    };
    for (operation, faults) in tried {
        let struck = unwind(&storage, operation, faults).await;
        println!("{operation:?} on {provisioning:?} volumes: {struck} faults");
        assert!(struck >= faults.len(), "{operation:?} has no commands");
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs real lvm2: ./test lvm"]
async fn a_revert_of_a_thick_volume_unwinds_from_every_command() {
    unwinds("tephra-unwind-thick", Provisioning::Thick, &[Operation::Revert]).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs real lvm2: ./test lvm"]
async fn a_revert_of_a_thin_volume_unwinds_from_every_command() {
    unwinds("tephra-unwind-thin", Provisioning::Thin, &[Operation::Revert]).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs real lvm2: ./test lvm"]
async fn a_clone_of_a_thick_volume_unwinds_from_every_command() {
    unwinds("tephra-unwind-clone", Provisioning::Thick, &[Operation::CreateFromVolume]).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs real lvm2: ./test lvm"]
async fn a_create_on_lvm_unwinds_from_every_command() {
    unwinds("tephra-create-thick", Provisioning::Thick, &[Operation::Create, Operation::CreateFromSnapshot])
        .await;
    unwinds("tephra-create-thin", Provisioning::Thin, &[Operation::Create, Operation::CreateFromVolume])
        .await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs real lvm2: ./test lvm"]
async fn a_command_that_always_fails_unwinds_a_revert_of_a_thick_volume() {
    unwinds_for_good("tephra-good-thick", Provisioning::Thick, &[Operation::Revert]).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs real lvm2: ./test lvm"]
async fn a_command_that_always_fails_unwinds_a_revert_of_a_thin_volume() {
    unwinds_for_good("tephra-good-thin", Provisioning::Thin, &[Operation::Revert]).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs real lvm2: ./test lvm"]
async fn a_command_that_always_fails_unwinds_creates() {
    let operations = [Operation::Create, Operation::CreateFromSnapshot, Operation::CreateFromVolume];
    unwinds_for_good("tephra-good-creates", Provisioning::Thick, &operations).await;
    unwinds_for_good("tephra-good-thins", Provisioning::Thin, &operations).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs real lvm2: ./test lvm"]
async fn an_image_that_is_poured_unwinds_from_every_command() {
    let tried = || [(Operation::CreateFromImage, FAULTS), (Operation::CreateFromImage, FOR_GOOD)].into_iter();
    unwinds_from("tephra-image-thick", Provisioning::Thick, tried()).await;
    unwinds_from("tephra-image-thin", Provisioning::Thin, tried()).await;
}

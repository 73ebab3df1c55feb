#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use serde_json::{Value, json};
use tephra_domain::effect::{BackendObject, Effect, Failure, FailureKind};
use tephra_domain::ids::{BackendName, ImageId, PoolName, ProjectId, VolumeId};
use tephra_domain::image::NewImage;
use tephra_domain::units::SizeGib;
use uuid::Uuid;

use super::super::plain::DirectoryStore;
use super::super::store::ImageStore as _;
use super::{Format, Images, ImagesConfig};
use crate::backend::Backend as _;
use crate::backend::directory::{DirectoryBackend, DirectoryConfig};
use crate::image::convert::Limits;
use crate::process::{Launcher, Output, ProcessError, Program, Spawner};

const MIB: usize = 1 << 20;

struct Lab {
    folder: tempfile::TempDir,
    backend: DirectoryBackend,
    images: Images,
    pool: PoolName,
}

/// Puts a program that never ends in the place of every conversion.
struct Endless;

#[async_trait]
impl Launcher for Endless {
    async fn launch(&self, program: Program) -> Result<Output, ProcessError> {
        if program.argv().iter().any(|word| word == "convert") {
            return Program::new("sleep", Duration::from_millis(200)).arg("1000").run().await;
        }
        program.run().await
    }
}

impl Lab {
    fn new() -> Self {
        Self::with(Limits::default(), Arc::new(Spawner))
    }

    fn with(limits: Limits, launcher: Arc<dyn Launcher>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("store")).unwrap();
        let config = DirectoryConfig::new(BackendName::new("b"), "h", folder.path().join("volumes"));
        let store = Arc::new(DirectoryStore::new(folder.path().join("store")));
        let work = ImagesConfig { directory: folder.path().join("work"), limits };
        let images = Images::open(store, launcher, work).unwrap();
        Self { backend: DirectoryBackend::open(config).unwrap(), images, folder, pool: PoolName::new("b") }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// An image in the store, its file made by `qemu-img` from a disk of 8 MiB.
    fn image(&self, format: &str, options: &str) -> (Uuid, Vec<u8>) {
        let mut disk = vec![0_u8; 8 * MIB];
        for (at, byte) in disk.iter_mut().enumerate().skip(MIB).take(MIB) {
            *byte = u8::try_from(at % 251).unwrap();
        }
        std::fs::write(self.path("disk"), &disk).unwrap();
        let id = Uuid::new_v4();
        let file = self.path("store").join(id.to_string());
        let mut convert = Command::new("qemu-img");
        convert.args(["convert", "-f", "raw", "-O", format]);
        if !options.is_empty() {
            convert.args(["-o", options]);
        }
        let output = convert.arg(self.path("disk")).arg(&file).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        self.describe(id, json!({ "disk_format": if format == "vpc" { "vhd" } else { format } }));
        (id, disk)
    }

    fn describe(&self, id: Uuid, more: Value) {
        let size = std::fs::metadata(self.path("store").join(id.to_string())).unwrap().len();
        let mut description =
            json!({ "id": id, "status": "active", "container_format": "bare", "size": size });
        description.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        std::fs::write(self.path("store").join(format!("{id}.json")), description.to_string()).unwrap();
    }

    async fn create(&self, volume: BackendObject, image: Uuid) -> Result<(), Failure> {
        self.images.create_volume(&self.backend, &self.pool, volume, SizeGib::new(1).unwrap(), image).await
    }

    fn content(&self, volume: BackendObject) -> Vec<u8> {
        use std::io::Read as _;

        let file = std::fs::File::open(self.path("volumes").join(volume.to_string())).unwrap();
        assert_eq!(file.metadata().unwrap().len(), 1 << 30);
        let mut beginning = Vec::new();
        file.take(16 * MIB as u64).read_to_end(&mut beginning).unwrap();
        beginning
    }

    fn nothing_is_left(&self) -> bool {
        std::fs::read_dir(self.images.directory()).unwrap().next().is_none()
    }
}

fn volume() -> BackendObject {
    BackendObject::Volume(VolumeId::from_uuid(Uuid::new_v4()))
}

fn new_image(disk_format: &str) -> NewImage {
    NewImage {
        id: ImageId::from_uuid(Uuid::new_v4()),
        owner: ProjectId::new("project"),
        name: "copy".into(),
        disk_format: disk_format.into(),
        container_format: "bare".into(),
        visibility: Some("private".into()),
        protected: false,
        properties: [("k".to_owned(), "v".to_owned())].into(),
    }
}

fn padded(disk: &[u8]) -> Vec<u8> {
    let mut padded = disk.to_vec();
    padded.resize(16 * MIB, 0);
    padded
}

#[tokio::test]
async fn every_format_becomes_the_same_volume() {
    let lab = Lab::new();
    for (format, options) in [
        ("raw", ""),
        ("qcow2", ""),
        ("vmdk", ""),
        ("vmdk", "subformat=streamOptimized"),
        ("vdi", ""),
        ("vpc", "force_size=on"),
        ("vhdx", ""),
    ] {
        let (image, disk) = lab.image(format, options);
        let volume = volume();
        lab.create(volume, image).await.unwrap();
        assert!(lab.content(volume) == padded(&disk), "{format} {options}");
        assert!(lab.nothing_is_left(), "{format} {options}");
    }
}

#[tokio::test]
async fn doing_it_again_over_half_a_volume_ends_right() {
    let lab = Lab::new();
    let (image, disk) = lab.image("qcow2", "");
    let volume = volume();
    let size = SizeGib::new(1).unwrap();
    lab.backend.perform(&lab.pool, &Effect::CreateVolume { volume, size }).await.unwrap();
    let path = lab.path("volumes").join(volume.to_string());
    let file = std::fs::File::options().write(true).open(path).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, &[7; 4096], 5 * MIB as u64).unwrap();
    std::fs::write(lab.images.directory().join(format!("{volume}.image")), b"half").unwrap();
    for _ in 0..2 {
        lab.create(volume, image).await.unwrap();
        assert!(lab.content(volume) == padded(&disk));
    }
    assert!(lab.nothing_is_left());
}

#[tokio::test]
async fn an_image_that_lies_is_refused_and_leaves_no_volume() {
    let lab = Lab::new();
    let (qcow2, _) = lab.image("qcow2", "");
    let store = lab.path("store");
    let make = |arguments: &[&str]| {
        let id = Uuid::new_v4();
        let output = Command::new("qemu-img")
            .args(["create", "-q"])
            .args(arguments)
            .arg(store.join(id.to_string()))
            .arg("2G")
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        lab.describe(id, json!({ "disk_format": arguments[1] }));
        id
    };
    let large = make(&["-f", "qcow2"]);
    let escaping = make(&["-f", "qcow2", "-u", "-b", "/etc/passwd", "-F", "raw"]);
    let data_file = lab.path("data");
    let outside = make(&["-f", "qcow2", "-o", &format!("data_file={}", data_file.display())]);
    let cases: Vec<(Value, Uuid, &str)> = vec![
        (json!({"disk_format": "qcow2"}), large, "more than a volume of 1 GiB"),
        (json!({"disk_format": "qcow2"}), escaping, "it has a backing file"),
        (json!({"disk_format": "qcow2"}), outside, "it has a data file"),
        (json!({"disk_format": "raw"}), qcow2, "it is declared as raw, but its file is qcow2"),
        (json!({"disk_format": "vmdk"}), qcow2, "it is declared as vmdk, but its file is qcow2"),
        (json!({"disk_format": "ploop"}), qcow2, "its disk format is \"ploop\""),
        (json!({"disk_format": "qcow2", "size": 5}), qcow2, "longer than the 5 bytes"),
        (json!({"disk_format": "qcow2", "checksum": "00"}), qcow2, "its store announces 00"),
        (json!({"disk_format": "qcow2", "size": null}), qcow2, "neither its size nor a hash"),
        (json!({"disk_format": "qcow2", "status": "queued"}), qcow2, "it is queued, not active"),
        (json!({"disk_format": "qcow2", "container_format": "ova"}), qcow2, "its container format is ova"),
    ];
    for (description, image, reason) in cases {
        lab.describe(image, description);
        let volume = volume();
        let failure = lab.create(volume, image).await.unwrap_err();
        assert!(failure.message.contains(reason), "{failure}");
        assert_eq!(failure.kind, FailureKind::Mismatch, "{failure}");
        assert!(!lab.path("volumes").join(volume.to_string()).exists(), "{reason}");
        assert!(lab.nothing_is_left(), "{reason}");
    }
    let missing = lab.create(volume(), Uuid::new_v4()).await.unwrap_err();
    assert_eq!(missing.kind, FailureKind::ObjectMissing);
}

#[tokio::test]
async fn an_image_that_wants_more_memory_than_it_may_is_refused_for_that() {
    let lab = Lab::with(Limits { memory_bytes: 64 << 20, ..Limits::default() }, Arc::new(Spawner));
    // only looked at: how much a conversion's threads take varies
    let (modest, _) = lab.image("qcow2", "");
    let file = lab.path("store").join(modest.to_string());
    lab.images.qemu_img.look(modest, Format::Qcow2, &file).await.unwrap();

    let id = Uuid::new_v4();
    // its map of a disk of 120 GiB in clusters of 512 bytes takes 30 MiB
    let mut create = Command::new("qemu-img");
    create.args(["create", "-q", "-f", "qcow2", "-o", "cluster_size=512"]);
    assert!(create.arg(lab.path("store").join(id.to_string())).arg("120G").status().unwrap().success());
    lab.describe(id, json!({"disk_format": "qcow2"}));
    let volume = volume();
    let failure = lab.create(volume, id).await.unwrap_err();
    assert!(failure.message.contains("more memory"), "{failure}");
    assert_eq!(failure.kind, FailureKind::Mismatch, "{failure}");
    assert!(!lab.path("volumes").join(volume.to_string()).exists());
    assert!(lab.nothing_is_left());
}

#[tokio::test]
async fn an_image_that_takes_too_long_to_be_looked_at_is_refused_for_that() {
    // starting a program alone takes longer
    let lab =
        Lab::with(Limits { time_limit: Duration::from_micros(1), ..Limits::default() }, Arc::new(Spawner));
    let (image, _) = lab.image("qcow2", "");
    let volume = volume();
    let failure = lab.create(volume, image).await.unwrap_err();
    assert!(failure.message.contains("takes too long"), "{failure}");
    assert_eq!(failure.kind, FailureKind::Mismatch, "{failure}");
    assert!(!lab.path("volumes").join(volume.to_string()).exists());
    assert!(lab.nothing_is_left());
}

#[tokio::test]
async fn a_conversion_that_takes_too_long_is_ended_and_leaves_no_file() {
    let lab = Lab::with(Limits::default(), Arc::new(Endless));
    let (image, _) = lab.image("qcow2", "");
    let volume = volume();
    let failure = lab.create(volume, image).await.unwrap_err();
    assert_eq!(failure.kind, FailureKind::TimedOut, "{failure}");
    assert!(failure.message.contains("not done within 0.2 s"), "{failure}");
    assert!(lab.nothing_is_left());
    // what the operation does when it gives up
    lab.backend.perform(&lab.pool, &Effect::DeleteVolume { volume }).await.unwrap();
    assert!(!lab.path("volumes").join(volume.to_string()).exists());

    lab.backend
        .perform(&lab.pool, &Effect::CreateVolume { volume, size: SizeGib::new(1).unwrap() })
        .await
        .unwrap();
    let new = new_image("qcow2");
    let failure = lab.images.upload_volume(&lab.backend, &lab.pool, volume, &new).await.unwrap_err();
    assert_eq!(failure.kind, FailureKind::TimedOut, "{failure}");
    assert!(lab.nothing_is_left());
    assert!(!lab.path("store").join(format!("{}.json", new.id)).exists());
}

#[tokio::test]
async fn an_image_that_lost_its_end_is_noticed() {
    let lab = Lab::new();
    for (format, options) in [
        ("qcow2", ""),
        ("vmdk", ""),
        ("vmdk", "subformat=streamOptimized"),
        ("vdi", ""),
        ("vdi", "static=on"),
        ("vpc", "force_size=on"),
        ("vpc", "force_size=on,subformat=fixed"),
        ("vhdx", ""),
    ] {
        let (image, _) = lab.image(format, options);
        let file = lab.path("store").join(image.to_string());
        let whole = std::fs::read(&file).unwrap();
        let declared = if format == "vpc" { "vhd" } else { format };
        // of a VDI's blocks every byte counts, where other formats are looked at by the cluster
        let last = (format == "vdi").then_some(whole.len() - 1);
        for end in [Some(whole.len() / 2), last].into_iter().flatten() {
            std::fs::write(&file, &whole[..end]).unwrap();
            lab.describe(image, json!({"disk_format": declared}));
            let volume = volume();
            let failure = lab.create(volume, image).await.unwrap_err();
            assert_eq!(failure.kind, FailureKind::Mismatch, "{format} {options} {end}: {failure}");
            assert!(!lab.path("volumes").join(volume.to_string()).exists(), "{format} {options} {end}");
        }
        std::fs::write(&file, &whole).unwrap();
        lab.describe(image, json!({"disk_format": declared}));
        lab.create(volume(), image).await.unwrap();
    }
}

#[tokio::test]
async fn a_volume_comes_back_from_the_image_that_it_became() {
    let lab = Lab::new();
    let (image, disk) = lab.image("raw", "");
    let first = volume();
    lab.create(first, image).await.unwrap();
    for format in ["qcow2", "vmdk", "vdi"] {
        let new = new_image(format);
        for _ in 0..2 {
            lab.images.upload_volume(&lab.backend, &lab.pool, first, &new).await.unwrap();
        }
        let second = volume();
        lab.create(second, new.id.as_uuid()).await.unwrap();
        assert!(lab.content(second) == padded(&disk), "{format}");
        lab.images.remove(new.id.as_uuid()).await.unwrap();
        let store = DirectoryStore::new(lab.path("store"));
        assert!(store.image(new.id.as_uuid()).await.is_err(), "{format}");
        assert!(lab.nothing_is_left());
    }
}

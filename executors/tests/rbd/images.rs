//! Images become volumes of a cluster: poured through `qemu-img` within its usual bounds, or cloned
//! where they are in the cluster already.

use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use serde_json::{Value, json};
use tephra_domain::effect::{BackendObject, Effect};
use tephra_domain::ids::{ImageId, ProjectId};
use tephra_domain::image::NewImage;
use tephra_executors::backend::Backend as _;
use tephra_executors::backend::conformance::BLOCK_BYTES;
use tephra_executors::backend::rbd::{RbdBackend, RbdConfig};
use tephra_executors::image::convert::Limits;
use tephra_executors::image::plain::DirectoryStore;
use tephra_executors::image::{Images, ImagesConfig};
use tephra_executors::process::{Launcher, Output, ProcessError, Program, Spawner};
use uuid::Uuid;

use super::conformance::parse_diff;
use super::lab::{Lab, ONE, pool, spec, until, volume};
use super::leftovers::delete_everything;

const MIB: usize = 1 << 20;

/// A cluster with images beside it.
struct Site {
    lab: Lab,
    folder: tempfile::TempDir,
    images: Images,
}

impl Site {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("store")).unwrap();
        let store = Arc::new(DirectoryStore::new(folder.path().join("store")));
        let config = ImagesConfig { directory: folder.path().join("work"), limits: Limits::default() };
        let images = Images::open(store, Arc::new(Spawner), config).unwrap();
        Self { lab: Lab::start(), folder, images }
    }

    /// The same images, worked on by programs of another launcher.
    fn images_by(&self, launcher: Arc<dyn Launcher>, limits: Limits) -> Images {
        let store = Arc::new(DirectoryStore::new(self.path("store")));
        let config = ImagesConfig { directory: self.path("work-too"), limits };
        Images::open(store, launcher, config).unwrap()
    }

    fn fill_the_pool(&self) {
        self.lab.admin("ceph osd pool set-quota volumes max_bytes 1");
        until("the pool is full", || self.is_full());
    }

    fn make_room(&self) {
        self.lab.admin("ceph osd pool set-quota volumes max_bytes 0");
        until("the pool has room", || !self.is_full());
    }

    fn is_full(&self) -> bool {
        self.lab.admin("ceph osd pool ls detail").contains("full_quota")
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// An image in the store, made of a raw disk.
    fn image(&self, disk: &[u8], format: &str, more: Value) -> Uuid {
        let id = Uuid::new_v4();
        let file = self.path("store").join(id.to_string());
        std::fs::write(self.path("disk"), disk).unwrap();
        run(Command::new("qemu-img")
            .args(["convert", "-f", "raw", "-O", format])
            .args([&self.path("disk"), &file]));
        let size = std::fs::metadata(&file).unwrap().len();
        let mut description = json!({"id": id, "status": "active", "container_format": "bare", "disk_format": format, "size": size});
        description.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        std::fs::write(self.path("store").join(format!("{id}.json")), description.to_string()).unwrap();
        id
    }

    async fn create(&self, backend: &RbdBackend, image: Uuid) -> BackendObject {
        let volume = volume();
        // an effect that comes again finds its work done
        for _ in 0..2 {
            self.images.create_volume(backend, &pool(), volume, ONE, image).await.unwrap();
        }
        volume
    }

    /// The beginning of a volume of one GiB; what follows is zeroes.
    fn content(&self, volume: BackendObject, bytes: usize) -> Vec<u8> {
        let (size, blocks) = parse_diff(&self.lab.export(volume).unwrap());
        assert_eq!(size, 1 << 30);
        let mut content = vec![0; bytes.next_multiple_of(BLOCK_BYTES as usize)];
        for (block, data) in blocks {
            let at = (block * BLOCK_BYTES) as usize;
            content[at..at + data.len()].copy_from_slice(&data);
        }
        assert!(content.split_off(bytes).iter().all(|byte| *byte == 0));
        content
    }

    fn parent(&self, volume: BackendObject) -> Option<String> {
        let info = self.lab.admin(&format!("rbd info --format json {}", spec(volume)));
        let info: Value = serde_json::from_str(&info).unwrap();
        info["parent"]["image"].as_str().map(str::to_owned)
    }

    /// An image in Glance's pool: what Glance says of where it is.
    fn golden(&self, disk: &[u8]) -> String {
        for command in [
            "ceph osd pool create images 8 8",
            "ceph osd pool application enable images rbd",
            "rbd pool init images",
        ] {
            self.lab.admin(command);
        }
        std::fs::write(self.path("golden"), disk).unwrap();
        self.lab.admin(&format!("rbd import --no-progress {} images/golden", self.path("golden").display()));
        self.lab.admin("rbd snap create --no-progress images/golden@snap");
        format!("rbd://{}/images/golden/snap", self.lab.admin("ceph fsid").trim())
    }

    fn let_cinder(&self, osd: &str) {
        let mut caps = Command::new("ceph");
        caps.arg("--conf").arg(self.lab.path("ceph.conf")).args(["auth", "caps", "client.cinder"]);
        run(caps.args(["mon", "profile rbd", "mgr", "profile rbd", "osd", osd]));
    }
}

fn run(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// A disk with a hole in its middle, not of whole objects.
fn disk() -> Vec<u8> {
    let word = |at: usize| (at as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes();
    let mut disk: Vec<u8> = (0..21 * MIB / 8).flat_map(word).collect();
    disk[5 * MIB..13 * MIB].fill(0);
    disk
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Ceph: ./test ceph"]
async fn an_image_becomes_a_volume_and_the_volume_an_image_within_the_usual_bounds() {
    let site = Site::new();
    let backend = site.lab.backend();
    let disk = disk();
    for format in ["qcow2", "raw"] {
        let image = site.image(&disk, format, json!({}));
        let volume = site.create(&backend, image).await;
        assert!(site.content(volume, disk.len()) == disk, "{format}");

        let new = NewImage {
            id: ImageId::from_uuid(Uuid::new_v4()),
            owner: ProjectId::new("project"),
            name: "copy".into(),
            disk_format: format.into(),
            container_format: "bare".into(),
            visibility: None,
            protected: false,
            properties: [].into(),
        };
        site.images.upload_volume(&backend, &pool(), volume, &new).await.unwrap();
        let copy = site.create(&backend, new.id.as_uuid()).await;
        assert!(site.content(copy, disk.len()) == disk, "{format}");
        assert_eq!(std::fs::read_dir(site.images.directory()).unwrap().count(), 0);
    }
    delete_everything(&site.lab, &backend).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Ceph: ./test ceph"]
async fn an_image_in_the_same_cluster_becomes_a_clone_of_it_and_otherwise_a_copy() {
    let site = Site::new();
    let disk = disk();
    let location = site.golden(&disk);
    let image = site.image(&disk, "raw", json!({ "direct_url": location }));
    let qcow2 = site.image(&disk, "qcow2", json!({ "direct_url": location }));
    let elsewhere = location.replace("/golden/", "/other/");
    let several = json!({"locations": [{"url": "file:///golden"}, {"url": elsewhere}, {"url": location}]});
    let several = site.image(&disk, "raw", several);
    let is_clone = |volume| {
        assert!(site.content(volume, disk.len()) == disk);
        site.parent(volume) == Some("golden".to_owned())
    };

    // its user may not look into Glance's pool
    let backend = site.lab.backend();
    assert!(!is_clone(site.create(&backend, image).await));
    site.let_cinder("profile rbd pool=volumes, profile rbd-read-only pool=images");
    // clones of version 1, which this cluster makes, need a protected snapshot
    assert!(!is_clone(site.create(&backend, image).await));
    site.lab.admin("rbd snap protect images/golden@snap");
    let first = site.create(&backend, image).await;
    assert!(is_clone(first));
    assert!(is_clone(site.create(&backend, several).await));
    assert!(!is_clone(site.create(&backend, qcow2).await), "what is not raw is converted");

    site.lab.admin("ceph osd set-require-min-compat-client mimic --yes-i-really-mean-it");
    let mut config = site.lab.config();
    config.max_clone_depth = 1;
    let backend = RbdBackend::new(config, Arc::new(Spawner));
    let second = site.create(&backend, image).await;
    assert!(is_clone(second));
    let third = volume();
    let clone = Effect::CloneVolume { volume: third, size: ONE, source: second };
    backend.perform(&pool(), &clone).await.unwrap();
    assert_eq!(site.parent(third), None, "an image is an ancestor like any other");

    // what is written stays in the volume
    assert!(site.lab.qemu_io(first).args(["-c", "write -P 7 0 4096"]).status().unwrap().success());
    assert!(site.content(first, disk.len())[..4096].iter().all(|byte| *byte == 7));
    assert!(is_clone(second));
    delete_everything(&site.lab, &backend).await;
    site.lab.admin("rbd snap unprotect images/golden@snap");
    site.lab.admin("rbd snap rm --no-progress images/golden@snap");
    site.lab.admin("rbd rm --no-progress images/golden");
}

/// The pool becomes full while data is written into a volume.
struct FullWhileWriting {
    site: Arc<Site>,
    volume: BackendObject,
}

#[async_trait]
impl Launcher for FullWhileWriting {
    async fn launch(&self, program: Program) -> Result<Output, ProcessError> {
        if !program.argv().iter().any(|word| word == "convert") {
            return Spawner.launch(program).await;
        }
        let writing = tokio::spawn(program.run());
        let status = format!("rbd status {}", spec(self.volume));
        until("it is being written", || self.site.lab.admin(&status).contains("watcher="));
        self.site.fill_the_pool();
        writing.await.unwrap()
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Ceph: ./test ceph"]
async fn a_volume_that_is_being_filled_when_its_pool_becomes_full_is_not_filled() {
    let site = Arc::new(Site::new());
    let disk = [disk(), disk()].concat();
    let image = site.image(&disk, "raw", json!({}));
    let volume = volume();
    let full: Arc<dyn Launcher> = Arc::new(FullWhileWriting { site: Arc::clone(&site), volume });
    let config = RbdConfig { command_timeout: Duration::from_secs(4), ..site.lab.config() };
    let impatient = RbdBackend::new(config, Arc::clone(&full));
    let patient = site.lab.backend();
    // all of it takes 84 s: the cluster notices in time that the pool is full
    site.lab.admin("rbd config pool set volumes rbd_qos_write_bps_limit 524288");
    // a client that has lost its lock on the image waits until it can have it again
    let images = site.images_by(full, Limits { time_limit: Duration::from_secs(200), ..Limits::default() });
    let failure = images.create_volume(&impatient, &pool(), volume, ONE, image).await.unwrap_err();
    assert!(failure.message.starts_with("the volume could not be filled"), "{failure}");
    site.make_room();
    site.lab.admin("rbd config pool remove volumes rbd_qos_write_bps_limit");
    site.images.create_volume(&patient, &pool(), volume, ONE, image).await.unwrap();
    assert!(site.content(volume, disk.len()) == disk);
    delete_everything(&site.lab, &patient).await;
}

//! Images that are poured into logical volumes.

use std::io::Read as _;
use std::path::Path;
use std::sync::Arc;

use serde_json::json;
use tempfile::TempDir;
use tephra_domain::effect::{BackendObject, Effect, Failure, FailureKind};
use tephra_domain::ids::ImageId;
use tephra_executors::backend::lvm::{Clear, LvmBackend, LvmConfig, Provisioning};
use tephra_executors::image::convert::Limits;
use tephra_executors::image::plain::DirectoryStore;
use tephra_executors::image::{Images, ImagesConfig, act};
use tephra_executors::process::Spawner;
use uuid::Uuid;

use super::SOME;
use super::clearing::leave_in_all_free_space;
use crate::support::{Group, ONE, done, refused, run, try_run, volume};

const MIB: usize = 1 << 20;

/// A store with one image, and who pours it.
struct Pourer {
    _folder: TempDir,
    images: Images,
    image: ImageId,
}

impl Pourer {
    fn new(format: &str, disk: &[u8]) -> Self {
        let folder = tempfile::tempdir_in(std::env::var_os("TEPHRA_LVM_DISKS").unwrap()).unwrap();
        let path = |name: &str| folder.path().join(name);
        std::fs::create_dir(path("store")).unwrap();
        std::fs::write(path("disk"), disk).unwrap();
        let id = Uuid::new_v4();
        let file = path("store").join(id.to_string());
        let of = |path: &Path| path.to_str().unwrap().to_owned();
        run(["qemu-img", "convert", "-f", "raw", "-O", format, &of(&path("disk")), &of(&file)]);
        let size = std::fs::metadata(&file).unwrap().len();
        let description = json!({
            "id": id, "status": "active", "container_format": "bare", "disk_format": format, "size": size
        });
        std::fs::write(path("store").join(format!("{id}.json")), description.to_string()).unwrap();
        let store = Arc::new(DirectoryStore::new(path("store")));
        let config = ImagesConfig { directory: path("work"), limits: Limits::default() };
        let images = Images::open(store, Arc::new(Spawner), config).unwrap();
        Self { _folder: folder, images, image: ImageId::from_uuid(id) }
    }

    async fn pour(&self, backend: &LvmBackend, volume: BackendObject) -> Result<(), Failure> {
        let effect = Effect::CreateVolumeFromImage { volume, size: ONE, image: self.image };
        act(backend, Some(&self.images), &backend.config().pool, &effect).await
    }
}

fn some_disk(bytes: usize) -> Vec<u8> {
    let mut disk = vec![0; bytes];
    std::fs::File::open("/dev/urandom").unwrap().read_exact(&mut disk[bytes / 4..]).unwrap();
    disk
}

#[tokio::test]
#[ignore = "needs real lvm2: ./test lvm"]
async fn a_volume_holds_its_image_and_zeroes_beyond_thick_and_thin() {
    let disk = some_disk(8 * MIB);
    let pourer = Pourer::new("qcow2", &disk);
    for provisioning in [Provisioning::Thick, Provisioning::Thin] {
        let group = Group::new("tephra-poured", 4);
        leave_in_all_free_space(&group, SOME);
        let config = LvmConfig { volume_clear: Clear::None, ..group.config(provisioning) };
        let backend = group.open_with(config).await.unwrap();
        let poured = volume();
        for time in ["first", "second"] {
            assert_eq!(pourer.pour(&backend, poured).await, Ok(()), "the {time} time, {provisioning:?}");
            let device = backend.device(poured);
            let mut found = vec![0; disk.len()];
            std::fs::File::open(&device).unwrap().read_exact(&mut found).unwrap();
            assert!(found == disk, "the {time} time, {provisioning:?}");
            let (length, skip) = ((ONE.bytes() - disk.len() as u64).to_string(), format!("{}:0", disk.len()));
            let device = device.display().to_string();
            let (is_zero, said) = try_run(["cmp", "-n", &length, "-i", &skip, &device, "/dev/zero"]);
            assert!(is_zero, "beyond, the {time} time, {provisioning:?}: {said}");
        }
        done(&backend, Effect::DeleteVolume { volume: poured }).await;
        assert_eq!(group.lvs(), [""; 0]);
    }
}

#[tokio::test]
#[ignore = "needs real lvm2: ./test lvm"]
async fn an_image_that_a_thin_pool_has_no_room_for_leaves_no_volume() {
    let group = Group::new("tephra-narrow", 1);
    // so that the pool is small that is made of the rest
    run(["lvcreate", "-y", "-L", "800m", "-n", "somebody-elses", &group.name]);
    let backend = group.open(Provisioning::Thin).await;
    let pourer = Pourer::new("raw", &some_disk(384 * MIB));
    let poured = volume();
    for time in ["first", "second"] {
        let failure = pourer.pour(&backend, poured).await.unwrap_err();
        assert_eq!(failure.kind, FailureKind::NoSpace, "the {time} time: {failure}");
    }
    done(&backend, Effect::DeleteVolume { volume: poured }).await;
    let missing = Effect::Verify { object: poured, size: ONE };
    refused(&backend, missing, FailureKind::ObjectMissing).await;
    assert_eq!(group.lvs(), ["somebody-elses"]);
    // and with room again, all is as before
    let small = Pourer::new("raw", &some_disk(8 * MIB));
    assert_eq!(small.pour(&backend, poured).await, Ok(()));
}

//! A store with one image, and who pours it into volumes.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

use tempfile::TempDir;
use tephra_domain::ids::ImageId;
use tephra_domain::image::ImageFacts;
use tephra_executors::image::convert::Limits;
use tephra_executors::image::plain::DirectoryStore;
use tephra_executors::image::{Images, ImagesConfig};
use tephra_executors::process::Launcher;
use uuid::Uuid;

/// The only image there is: a disk of one GiB in a small file.
pub struct OneImage {
    _folder: TempDir,
    pub images: Images,
    pub facts: ImageFacts,
}

fn run(argv: &[&str]) {
    let (program, arguments) = argv.split_first().unwrap();
    let output = Command::new(program).args(arguments).stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success(), "{argv:?}: {}", String::from_utf8_lossy(&output.stderr));
}

impl OneImage {
    /// Its disk has what these commands of `qemu-io` write.
    pub fn new(launcher: Arc<dyn Launcher>, written: &[String]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = folder.path().join("store");
        std::fs::create_dir(&store).unwrap();
        let id = Uuid::from_u128(0x1);
        let file = store.join(id.to_string());
        let shown = |path: &Path| path.to_str().unwrap().to_owned();
        run(&["qemu-img", "create", "-q", "-f", "qcow2", &shown(&file), "1G"]);
        for command in written {
            run(&["qemu-io", "-f", "qcow2", &shown(&file), "-c", command]);
        }
        let bytes = std::fs::metadata(&file).unwrap().len();
        let description = format!(
            r#"{{"id": "{id}", "status": "active", "container_format": "bare", "disk_format": "qcow2", "size": {bytes}}}"#
        );
        std::fs::write(store.join(format!("{id}.json")), description).unwrap();
        let config = ImagesConfig { directory: folder.path().join("work"), limits: Limits::default() };
        let images = Images::open(Arc::new(DirectoryStore::new(store)), launcher, config).unwrap();
        let facts = ImageFacts {
            id: ImageId::from_uuid(id),
            status: "active".into(),
            size_bytes: Some(bytes),
            min_disk_gib: 0,
            metadata: BTreeMap::new(),
        };
        Self { _folder: folder, images, facts }
    }
}

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use tephra_domain::effect::{BackendObject, FailureKind};
use tephra_domain::ids::{BackendName, PoolName, VolumeId};
use tephra_domain::units::SizeGib;
use uuid::Uuid;

use super::super::{RbdBackend, RbdConfig};
use super::Location;
use crate::backend::Backend as _;
use crate::process::{Launcher, Output, ProcessError, Program};

const FSID: &str = "a7f64266-0894-4f1e-a635-d0aeaca0e993";
const GIB: u64 = 1 << 30;

fn volume() -> BackendObject {
    BackendObject::Volume(VolumeId::from_uuid(Uuid::from_u128(7)))
}

fn size(gib: u32) -> SizeGib {
    SizeGib::new(gib).unwrap()
}

fn golden() -> String {
    format!("rbd://{FSID}/images/golden/snap")
}

/// A cluster that answers from tables, and notes what would change it.
struct Fake {
    /// By `pool/image@snapshot`; what is not here does not exist.
    images: BTreeMap<String, Result<String, (i32, &'static str)>>,
    release: &'static str,
    fsid: Result<(), (i32, &'static str)>,
    clone: Mutex<Vec<(i32, &'static str)>>,
    done: Mutex<Vec<String>>,
}

impl Default for Fake {
    fn default() -> Self {
        Self {
            images: BTreeMap::from([("images/golden@snap".to_owned(), Ok(image(GIB, "")))]),
            release: "mimic",
            fsid: Ok(()),
            clone: Mutex::default(),
            done: Mutex::default(),
        }
    }
}

fn image(bytes: u64, more: &str) -> String {
    format!(r#"{{"id":"10ab","size":{bytes}{more}}}"#)
}

fn parent(pool: &str, image: &str, snapshot: &str) -> String {
    format!(r#","parent":{{"pool":"{pool}","image":"{image}","id":"id-of-{image}","snapshot":"{snapshot}"}}"#)
}

impl Fake {
    fn with(mut self, name: &str, shown: Result<String, (i32, &'static str)>) -> Self {
        self.images.insert(name.to_owned(), shown);
        self
    }

    fn answer(&self, words: &[String]) -> Result<String, (i32, &'static str)> {
        let has = |word: &str| words.iter().any(|other| other == word);
        let value = |name: &str| words.iter().find_map(|word| word.strip_prefix(name)).map(ToOwned::to_owned);
        if has("fsid") {
            return self.fsid.map(|()| format!(r#"{{"fsid":"{FSID}"}}"#));
        }
        if has("get-require-min-compat-client") {
            return Ok(self.release.to_owned());
        }
        if has("detail") {
            return Ok("[]".to_owned());
        }
        let (pool, snapshot) = (value("--pool=").unwrap(), value("--snap="));
        let name = value("--image=").or_else(|| value("--image-id=")).unwrap();
        let name = snapshot.map_or(format!("{pool}/{name}"), |snapshot| format!("{pool}/{name}@{snapshot}"));
        if has("info") {
            return self.images.get(&name).cloned().unwrap_or(Err((2, "no such image")));
        }
        let command = ["clone", "resize", "flatten", "rm"].into_iter().find(|word| has(word)).unwrap();
        let rest = ["--dest-pool=", "--dest=", "--rbd-default-clone-format=", "--size="];
        let rest: Vec<String> = rest.iter().filter_map(|option| value(option)).collect();
        self.done.lock().unwrap().push(format!("{command} {name} {}", rest.join(" ")).trim().to_owned());
        let mut clone = self.clone.lock().unwrap();
        if command == "clone" && !clone.is_empty() { Err(clone.remove(0)) } else { Ok(String::new()) }
    }
}

#[async_trait]
impl Launcher for Fake {
    async fn launch(&self, program: Program) -> Result<Output, ProcessError> {
        let words: Vec<String> =
            program.argv().iter().map(|word| word.to_string_lossy().into_owned()).collect();
        match self.answer(&words) {
            Ok(stdout) => Ok(Output { stdout: stdout.into_bytes(), stderr_tail: String::new() }),
            Err((0, _)) => Err(ProcessError::TimedOut {
                program: "rbd".to_owned(),
                time_limit: Duration::from_secs(30),
                stderr_tail: String::new(),
            }),
            Err((code, stderr)) => Err(ProcessError::Failed {
                program: "rbd".to_owned(),
                code: Some(code),
                stderr_tail: stderr.to_owned(),
            }),
        }
    }
}

/// Whether the volume is a clone then, and the commands that made it one.
async fn cloned_with(
    fake: Fake,
    gib: u32,
    location: &str,
    change: impl FnOnce(&mut RbdConfig),
) -> (Result<bool, FailureKind>, Vec<String>) {
    let fake = Arc::new(fake);
    let pool = PoolName::new("volumes");
    let mut config = RbdConfig::new(BackendName::new("ceph"), "host", pool.clone());
    change(&mut config);
    let launcher: Arc<dyn Launcher> = fake.clone();
    let backend = RbdBackend::new(config, launcher);
    let told = backend.clone_image(&pool, volume(), size(gib), &[location.to_owned()]).await;
    let done = fake.done.lock().unwrap().clone();
    (told.map_err(|failure| failure.kind), done)
}

async fn cloned(fake: Fake, gib: u32, location: &str) -> (Result<bool, FailureKind>, Vec<String>) {
    cloned_with(fake, gib, location, |_| {}).await
}

fn the_clone() -> String {
    format!("clone images/golden@snap volumes {} 2", volume())
}

fn grown(gib: u64) -> String {
    format!("resize volumes/{} {}B", volume(), gib * GIB)
}

#[test]
fn only_a_snapshot_in_a_cluster_is_a_place_to_clone_from() {
    let parsed = Location::parse("rbd://f/images/golden%2Fone%20%40/snap").unwrap();
    let origin = parsed.origin();
    assert_eq!((origin.pool, origin.image, origin.snapshot), ("images", "golden/one @", "snap"));
    for elsewhere in [
        "",
        "rbd://",
        "rbd://golden",
        "rbd://f/images/golden",
        "rbd://f/images/golden/",
        "rbd://f//golden/snap",
        "rbd://f/images/golden/snap/more",
        "rbd://f/images/golden/%ff",
        "file:///var/lib/glance/images/golden",
        "http://f/images/golden/snap",
    ] {
        assert_eq!(Location::parse(elsewhere), None, "{elsewhere}");
    }
}

#[tokio::test]
async fn an_image_in_the_same_cluster_is_cloned_and_grown() {
    assert_eq!(cloned(Fake::default(), 1, &golden()).await, (Ok(true), vec![the_clone()]));
    assert_eq!(cloned(Fake::default(), 3, &golden()).await, (Ok(true), vec![the_clone(), grown(3)]));
    // an image need not be whole GiB
    let small = Fake::default().with("images/golden@snap", Ok(image(5 << 20, "")));
    assert_eq!(cloned(small, 1, &golden()).await, (Ok(true), vec![the_clone(), grown(1)]));
}

#[tokio::test]
async fn clones_of_version_1_need_a_protected_snapshot() {
    let old =
        |more| Fake { release: "jewel", ..Fake::default() }.with("images/golden@snap", Ok(image(GIB, more)));
    let made = format!("clone images/golden@snap volumes {} 1", volume());
    assert_eq!(cloned(old(r#","protected":"true""#), 1, &golden()).await, (Ok(true), vec![made]));
    assert_eq!(cloned(old(r#","protected":"false""#), 1, &golden()).await, (Ok(false), vec![]));
}

#[tokio::test]
async fn wherever_it_cannot_be_cloned_nothing_is_done() {
    let refused = || Err((1, "rbd: error opening image golden: (1) Operation not permitted"));
    for (why, fake, location) in [
        ("another cluster", Fake::default(), "rbd://0b5e1d1e/images/golden/snap".to_owned()),
        ("no cluster", Fake::default(), "file:///images/golden".to_owned()),
        ("no such image", Fake::default(), format!("rbd://{FSID}/images/other/snap")),
        ("no such snapshot", Fake::default(), format!("rbd://{FSID}/images/golden/other")),
        ("may not read", Fake::default().with("images/golden@snap", refused()), golden()),
        (
            "no such pool",
            Fake::default().with("images/golden@snap", Err((2, "rbd: error opening pool 'images'"))),
            golden(),
        ),
        ("may not ask", Fake { fsid: Err((13, "Permission denied")), ..Fake::default() }, golden()),
        ("too large", Fake::default().with("images/golden@snap", Ok(image(GIB + 1, ""))), golden()),
        ("half filled", Fake::default().with(&format!("volumes/{}", volume()), Ok(image(GIB, ""))), golden()),
        (
            "clone of another",
            Fake::default()
                .with(&format!("volumes/{}", volume()), Ok(image(GIB, &parent("images", "other", "snap")))),
            golden(),
        ),
    ] {
        assert_eq!(cloned(fake, 1, &location).await, (Ok(false), vec![]), "{why}");
    }
    let victim = BackendObject::Volume(VolumeId::from_uuid(Uuid::from_u128(8)));
    let fake = Fake::default().with(&format!("volumes/{victim}@snap"), Ok(image(GIB, "")));
    let location = format!("rbd://{FSID}/volumes/{victim}/snap");
    assert_eq!(cloned(fake, 1, &location).await, (Ok(false), vec![]), "somebody's volume");
}

#[tokio::test]
async fn a_clone_that_is_refused_is_no_clone() {
    let fake =
        Fake { clone: Mutex::new(vec![(1, "clone error: Operation not permitted")]), ..Fake::default() };
    assert_eq!(cloned(fake, 2, &golden()).await, (Ok(false), vec![the_clone()]));
}

#[tokio::test(start_paused = true)]
async fn what_an_attempt_left_under_the_name_is_removed_first() {
    let fake = Fake { clone: Mutex::new(vec![(17, "File exists")]), ..Fake::default() };
    let removed = format!("rm volumes/{}", volume());
    let (told, done) = cloned(fake, 1, &golden()).await;
    assert_eq!((told, done), (Ok(true), vec![the_clone(), removed, the_clone()]));
}

#[tokio::test]
async fn a_cluster_that_does_not_answer_is_tried_again_and_not_got_round() {
    let silent = Fake { fsid: Err((0, "")), ..Fake::default() };
    assert_eq!(cloned(silent, 1, &golden()).await, (Err(FailureKind::TimedOut), vec![]));
    let silent = Fake::default().with("images/golden@snap", Err((0, "")));
    assert_eq!(cloned(silent, 1, &golden()).await, (Err(FailureKind::TimedOut), vec![]));
    let silent = Fake { clone: Mutex::new(vec![(0, "")]), ..Fake::default() };
    assert_eq!(cloned(silent, 1, &golden()).await.0, Err(FailureKind::TimedOut));
}

#[tokio::test]
async fn a_clone_goes_on_where_an_earlier_attempt_died() {
    let made = |bytes| {
        let made = image(bytes, &parent("images", "golden", "snap"));
        Fake::default().with(&format!("volumes/{}", volume()), Ok(made))
    };
    assert_eq!(cloned(made(GIB), 2, &golden()).await, (Ok(true), vec![grown(2)]));
    assert_eq!(cloned(made(2 * GIB), 2, &golden()).await, (Ok(true), vec![]));
}

#[tokio::test]
async fn a_clone_too_many_gets_data_of_its_own() {
    let flattened = format!("flatten volumes/{}", volume());
    let told = cloned_with(Fake::default(), 1, &golden(), |config| config.max_clone_depth = 0).await;
    assert_eq!(told, (Ok(true), vec![the_clone(), flattened.clone()]));
    let deep = || {
        Fake::default()
            .with("images/golden@snap", Ok(image(GIB, &parent("images", "base", "snap"))))
            .with("images/id-of-base", Ok(image(GIB, "")))
    };
    let told = cloned_with(deep(), 1, &golden(), |config| config.max_clone_depth = 1).await;
    assert_eq!(told, (Ok(true), vec![the_clone(), flattened]));
    let told = cloned_with(deep(), 1, &golden(), |config| config.max_clone_depth = 2).await;
    assert_eq!(told, (Ok(true), vec![the_clone()]));
}

#[tokio::test]
async fn the_first_location_that_can_be_cloned_is() {
    let fake = Arc::new(Fake::default());
    let pool = PoolName::new("volumes");
    let config = RbdConfig::new(BackendName::new("ceph"), "host", pool.clone());
    let launcher: Arc<dyn Launcher> = fake.clone();
    let backend = RbdBackend::new(config, launcher);
    let locations = ["file:///golden".to_owned(), format!("rbd://{FSID}/images/gone/snap"), golden()];
    assert_eq!(backend.clone_image(&pool, volume(), size(1), &locations).await, Ok(true));
    assert_eq!(*fake.done.lock().unwrap(), [the_clone()]);
}

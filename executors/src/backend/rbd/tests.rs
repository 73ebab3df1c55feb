//! The backend against clusters that are answered for by tables.

use std::collections::VecDeque;
use std::sync::Mutex;

use async_trait::async_trait;
use tephra_domain::ids::{OperationId, VolumeId};
use uuid::Uuid;

use super::*;
use crate::process::{Output, ProcessError, Program};

const GIB: u64 = 1 << 30;

fn volume(n: u128) -> BackendObject {
    BackendObject::Volume(VolumeId::from_uuid(Uuid::from_u128(n)))
}

fn one() -> SizeGib {
    SizeGib::new(1).unwrap()
}

fn pool() -> PoolName {
    PoolName::new("volumes")
}

fn refused(code: i32) -> ProcessError {
    ProcessError::Failed { program: "rbd".to_owned(), code: Some(code), stderr_tail: String::new() }
}

/// What is under the name of volume 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Under {
    Nothing,
    /// A name without an image: somebody died in the middle of making it, or is at it.
    Name,
    /// An image, a clone of volume 2 if it is one.
    Image {
        is_clone: bool,
    },
}

/// A pool in which other executors are at work.
struct Contended {
    name: Mutex<Under>,
    /// What others have made of the name each time before it is looked at, or anything is made of it.
    meanwhile: Mutex<VecDeque<Under>>,
    /// What was to change something.
    ran: Mutex<Vec<&'static str>>,
}

impl Contended {
    fn new(at_first: Under, meanwhile: impl IntoIterator<Item = Under>) -> Arc<Self> {
        let meanwhile = Mutex::new(meanwhile.into_iter().collect());
        Arc::new(Self { name: Mutex::new(at_first), meanwhile, ran: Mutex::default() })
    }

    async fn perform(self: &Arc<Self>, effect: &Effect) -> Result<(), Failure> {
        let config = RbdConfig {
            clone_format: Some(CloneFormat::V2),
            ..RbdConfig::new(BackendName::new("rbd"), "host", pool())
        };
        RbdBackend::new(config, Arc::clone(self) as Arc<dyn Launcher>).perform(&pool(), effect).await
    }

    fn ran(&self) -> Vec<&'static str> {
        self.ran.lock().unwrap().clone()
    }
}

#[async_trait]
impl Launcher for Contended {
    async fn launch(&self, program: Program) -> Result<Output, ProcessError> {
        let line: Vec<_> = program.argv().iter().map(|word| word.to_string_lossy()).collect();
        let line = line.join(" ");
        let commands = ["info", "snap create", "snap rm", "create", "clone", "rm"];
        let command = commands.into_iter().find(|command| line.contains(&format!(" {command} "))).unwrap();
        let mut name = self.name.lock().unwrap();
        let is_about_it =
            line.contains(&format!("={} ", volume(1))) || line.ends_with(&volume(1).to_string());
        if is_about_it && ["info", "create", "clone"].contains(&command) {
            *name = self.meanwhile.lock().unwrap().pop_front().unwrap_or(*name);
        }
        if command != "info" {
            self.ran.lock().unwrap().push(command);
        }
        let mut stdout = String::new();
        match (command, *name) {
            ("info", _) if !is_about_it => stdout = format!(r#"{{"id":"2","size":{GIB}}}"#),
            ("info", Under::Image { is_clone: false }) => stdout = format!(r#"{{"id":"1","size":{GIB}}}"#),
            ("info", Under::Image { is_clone: true }) => {
                let (image, snapshot) = (volume(2), names::clone_snapshot(volume(1)));
                let parent =
                    format!(r#"{{"pool":"volumes","image":"{image}","id":"2","snapshot":"{snapshot}"}}"#);
                stdout = format!(r#"{{"id":"1","size":{GIB},"parent":{parent}}}"#);
            }
            ("info", Under::Nothing | Under::Name) => return Err(refused(2)),
            ("create" | "clone", Under::Nothing) => *name = Under::Image { is_clone: command == "clone" },
            ("create" | "clone", Under::Name | Under::Image { .. }) => return Err(refused(17)),
            ("rm", _) => *name = Under::Nothing,
            _ => {}
        }
        Ok(Output { stdout: stdout.into_bytes(), stderr_tail: String::new() })
    }
}

fn create() -> Effect {
    Effect::CreateVolume { volume: volume(1), size: one() }
}

fn clone() -> Effect {
    Effect::CloneVolume { volume: volume(1), size: one(), source: volume(2) }
}

/// An executor that was held still between looking and making must not remove what another one has made
/// meanwhile: a user may have written into it since.
#[tokio::test(start_paused = true)]
async fn a_volume_that_another_executor_has_made_meanwhile_is_never_removed() {
    for (effect, is_clone) in [(create(), false), (clone(), true)] {
        let cluster = Contended::new(Under::Nothing, [Under::Nothing, Under::Image { is_clone }]);
        assert_eq!(cluster.perform(&effect).await, Ok(()));
        assert!(!cluster.ran().contains(&"rm"), "{:?}", cluster.ran());
        assert_eq!(*cluster.name.lock().unwrap(), Under::Image { is_clone });
    }
}

#[tokio::test(start_paused = true)]
async fn a_volume_that_another_executor_is_making_just_now_is_left_to_it() {
    for (effect, is_clone) in [(create(), false), (clone(), true)] {
        let made = Under::Image { is_clone };
        let cluster = Contended::new(Under::Nothing, [Under::Nothing, Under::Name, Under::Name, made]);
        assert_eq!(cluster.perform(&effect).await, Ok(()));
        assert!(!cluster.ran().contains(&"rm"), "{:?}", cluster.ran());
    }
}

#[tokio::test(start_paused = true)]
async fn a_name_without_an_image_is_removed_when_nobody_can_be_making_it_any_more() {
    for (effect, is_clone) in [(create(), false), (clone(), true)] {
        let cluster = Contended::new(Under::Name, []);
        let began = Instant::now();
        assert_eq!(cluster.perform(&effect).await, Ok(()));
        let longest = cli::quick_limit(&RbdConfig::new(BackendName::new("rbd"), "host", pool()));
        assert!(began.elapsed() >= longest, "by the clock of the test");
        assert_eq!(cluster.ran().iter().filter(|command| **command == "rm").count(), 1);
        assert_eq!(*cluster.name.lock().unwrap(), Under::Image { is_clone });
    }
}

/// A cluster that has the pool `volumes`, and no other.
struct OnePool;

#[async_trait]
impl Launcher for OnePool {
    async fn launch(&self, _: Program) -> Result<Output, ProcessError> {
        let stdout =
            [include_str!("recorded/df.json"), include_str!("recorded/pool-ls-detail.json")].concat();
        Ok(Output { stdout: stdout.into_bytes(), stderr_tail: String::new() })
    }
}

async fn up(pools: &[&str]) -> Result<Vec<bool>, FailureKind> {
    let mut config = RbdConfig::new(BackendName::new("rbd"), "host", pool());
    config.pools = pools.iter().map(|pool| PoolName::new(*pool)).collect();
    let told = RbdBackend::new(config, Arc::new(OnePool)).stats(Timestamp(0)).await;
    let told = told.map_err(|failure| failure.kind)?;
    assert!(told.iter().all(|stats| (stats.total_gib > 0.0) == stats.is_up), "{told:?}");
    Ok(told.into_iter().map(|stats| stats.is_up).collect())
}

#[tokio::test]
async fn a_pool_that_is_not_there_takes_no_other_with_it() {
    assert_eq!(up(&["volumes"]).await, Ok(vec![true]));
    assert_eq!(up(&["nowhere", "volumes", "gone"]).await, Ok(vec![false, true, false]));
    assert_eq!(up(&["nowhere"]).await, Err(FailureKind::BackendUnavailable));
}

/// A pool in which somebody else has put images with snapshots.
struct Strays {
    /// The snapshots of each image.
    images: Mutex<BTreeMap<String, BTreeSet<String>>>,
    ran: Mutex<Vec<String>>,
}

impl Strays {
    fn new<const N: usize>(images: [(&str, &[&str]); N]) -> Arc<Self> {
        let images = images.map(|(image, snapshots)| {
            (image.to_owned(), snapshots.iter().copied().map(str::to_owned).collect())
        });
        Arc::new(Self { images: Mutex::new(images.into()), ran: Mutex::default() })
    }

    fn backend(self: &Arc<Self>) -> RbdBackend {
        let config = RbdConfig::new(BackendName::new("rbd"), "host", pool());
        RbdBackend::new(config, Arc::clone(self) as Arc<dyn Launcher>)
    }

    /// As drift shows them.
    async fn listed(self: &Arc<Self>) -> Vec<String> {
        let listed = self.backend().list(&pool()).await.unwrap();
        listed.into_iter().map(|found| found.name.into()).collect()
    }

    /// What it printed, nothing if it is not there.
    fn answer(&self, line: &str) -> Option<String> {
        let value = |option: &str| {
            line.split(' ').find_map(|word| Some(word.strip_prefix(option)?.strip_prefix('=')?.to_owned()))
        };
        let mut images = self.images.lock().unwrap();
        if line.contains(" ls --long ") {
            let each = images.iter().flat_map(|(image, snapshots)| {
                let of = snapshots.iter().map(move |snapshot| {
                    format!(r#"{{"image":"{image}","snapshot":"{snapshot}","size":{GIB}}}"#)
                });
                of.chain([format!(r#"{{"image":"{image}","size":{GIB}}}"#)])
            });
            return Some(format!("[{}]", each.collect::<Vec<_>>().join(",")));
        }
        let image = value("--image")?;
        let snapshots = images.get_mut(&image)?;
        if let Some(snapshot) = value("--snap") {
            let there = snapshots.contains(&snapshot);
            if !there {
                return None;
            }
            if line.contains(" snap rm ") {
                snapshots.remove(&snapshot);
            } else if let Some(to) = value("--dest-snap") {
                snapshots.remove(&snapshot);
                snapshots.insert(to);
            }
            return Some(format!(r#"{{"id":"1","size":{GIB},"protected":"false"}}"#));
        }
        Some(if line.contains(" snap ls ") {
            let each = snapshots.iter().map(|name| {
                format!(r#"{{"id":1,"name":"{name}","protected":"false","namespace":{{"type":"user"}}}}"#)
            });
            format!("[{}]", each.collect::<Vec<_>>().join(","))
        } else if line.contains(" info ") {
            format!(r#"{{"id":"1","size":{GIB},"snapshot_count":{}}}"#, snapshots.len())
        } else if line.contains(" status ") {
            r#"{"watchers":[]}"#.to_owned()
        } else if let Some(to) = value("--dest") {
            let snapshots = images.remove(&image)?;
            images.insert(to, snapshots);
            String::new()
        } else {
            assert!(line.contains(" rm ") && snapshots.is_empty(), "{line}");
            images.remove(&image);
            String::new()
        })
    }
}

#[async_trait]
impl Launcher for Strays {
    async fn launch(&self, program: Program) -> Result<Output, ProcessError> {
        let words: Vec<_> = program.argv().iter().map(|word| word.to_string_lossy()).collect();
        let line = words.join(" ");
        let stdout = self.answer(&line).ok_or_else(|| refused(2))?;
        if changes(program.argv()) {
            self.ran.lock().unwrap().push(line);
        }
        Ok(Output { stdout: stdout.into_bytes(), stderr_tail: String::new() })
    }
}

fn claimed(n: u128, is_snapshot: bool) -> BackendObject {
    let (volume, operation) = (volume(n).volume(), OperationId::from_uuid(Uuid::from_u128(n)));
    if is_snapshot {
        BackendObject::SafetySnapshot { volume, operation }
    } else {
        BackendObject::TemporaryVolume { volume, operation }
    }
}

fn adopt(object: BackendObject, from: &str) -> Effect {
    Effect::Adopt { object, from: from.into(), size: None }
}

#[tokio::test]
async fn an_image_of_others_goes_after_its_snapshots_and_keeps_its_name_until_then() {
    let cluster = Strays::new([("golden", &["daily"]), ("other", &["daily"])]);
    assert_eq!(cluster.listed().await, ["golden@daily", "golden", "other@daily", "other"]);
    let backend = cluster.backend();
    let image = claimed(1, false);
    let refused = backend.perform(&pool(), &adopt(image, "golden")).await.unwrap_err();
    assert_eq!(refused.kind, FailureKind::Mismatch);
    assert!(refused.message.contains("golden@daily"), "{refused}");
    assert_eq!(*cluster.ran.lock().unwrap(), Vec::<String>::new());

    let snapshot = claimed(2, true);
    let claim = adopt(snapshot, "golden@daily");
    // a snapshot that was claimed can be given back, and is claimed once
    for effect in
        [claim.clone(), Effect::Disown { object: snapshot, to: "golden@daily".into() }, claim.clone(), claim]
    {
        assert_eq!(backend.perform(&pool(), &effect).await, Ok(()), "{effect:?}");
    }
    assert_eq!(cluster.ran.lock().unwrap().len(), 3);
    for _ in 0..2 {
        assert_eq!(backend.perform(&pool(), &Effect::DeleteSnapshot { snapshot }).await, Ok(()));
    }
    assert_eq!(cluster.listed().await, ["golden", "other@daily", "other"]);
    for effect in [adopt(image, "golden"), Effect::DeleteVolume { volume: image }] {
        assert_eq!(backend.perform(&pool(), &effect).await, Ok(()), "{effect:?}");
    }
    assert_eq!(cluster.listed().await, ["other@daily", "other"]);
}

#[tokio::test]
async fn a_snapshot_of_a_volume_is_never_looked_for_in_another_image() {
    let (ours, name) = (volume(1).to_string(), claimed(1, true).to_string());
    let cluster = Strays::new([(&*ours, &[]), ("golden", &[&*name])]);
    let delete = Effect::DeleteSnapshot { snapshot: claimed(1, true) };
    assert_eq!(cluster.backend().perform(&pool(), &delete).await, Ok(()));
    assert_eq!(*cluster.ran.lock().unwrap(), Vec::<String>::new());
}

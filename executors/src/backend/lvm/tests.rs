//! The backend on hosts that are answered for by tables.

use std::sync::Mutex;

use tephra_domain::ids::{SnapshotId, VolumeId};
use uuid::Uuid;

use super::*;
use crate::process::{Output, ProcessError};

fn volume() -> BackendObject {
    BackendObject::Volume(VolumeId::from_uuid(Uuid::from_u128(1)))
}

fn snapshot() -> BackendObject {
    BackendObject::Snapshot { volume: volume().volume(), snapshot: SnapshotId::from_uuid(Uuid::from_u128(2)) }
}

/// A host on which somebody opens what is being deleted, right before one command.
struct Opened {
    /// The logical volume's name, attributes and tags; nothing if it is gone.
    lv: Mutex<Option<(String, &'static str, String)>>,
    /// The program that finds it in use.
    refused: &'static str,
}

impl Opened {
    async fn delete(
        object: BackendObject,
        attributes: &'static str,
        clear: Clear,
        refused: &'static str,
    ) -> Failure {
        let lv = Mutex::new(Some((name::of(object), attributes, String::new())));
        let host = Arc::new(Self { lv, refused });
        let directory = tempfile::tempdir().unwrap();
        let config = LvmConfig {
            provisioning: Provisioning::Thick,
            volume_clear: clear,
            busy_patience: Duration::ZERO,
            lock_directory: directory.path().to_owned(),
            ..LvmConfig::new(BackendName::new("lvm"), "host", "vg")
        };
        let backend = LvmBackend::open(config, host).await.unwrap();
        let pool = PoolName::new("lvm");
        // the last attempt of several is what counts
        let mut failure = None;
        for _ in 0..2 {
            failure = backend.perform(&pool, &Effect::delete(object)).await.err();
        }
        failure.unwrap()
    }
}

#[async_trait]
impl Launcher for Opened {
    async fn launch(&self, program: Program) -> Result<Output, ProcessError> {
        let words: Vec<_> = program.argv().iter().map(|word| word.to_string_lossy()).collect();
        if words[0] == self.refused {
            let stderr_tail = "  Logical volume vg/volume-a in use.".to_owned();
            return Err(ProcessError::Failed {
                program: self.refused.to_owned(),
                code: Some(5),
                stderr_tail,
            });
        }
        let mut lv = self.lv.lock().unwrap();
        let stdout = match (&*words[0], &mut *lv) {
            ("vgs", _) => include_str!("recorded/vgs.json").to_owned(),
            ("pvs", _) => r#"{"report": [{"pvseg": []}]}"#.to_owned(),
            ("lvs", None) => r#"{"report": [{"lv": []}]}"#.to_owned(),
            ("lvs", Some((name, attributes, tags))) => {
                let is_snapshot = attributes.starts_with('s');
                let (origin, origin_size) = if is_snapshot { ("volume-a", "1073741824") } else { ("", "") };
                serde_json::json!({"report": [{"lv": [{
                    "lv_name": name, "lv_size": "1073741824", "origin": origin, "origin_size": origin_size,
                    "pool_lv": "", "lv_tags": tags, "lv_attr": attributes, "lv_active": "active",
                    "lv_device_open": "0", "lv_suspended": "0", "lv_snapshot_invalid": "0", "lv_merging": "0",
                    "lv_merge_failed": "0", "data_percent": "", "metadata_percent": "",
                }]}]})
                .to_string()
            }
            ("lvchange", Some((_, _, tags))) if words.contains(&"--addtag".into()) => {
                name::DELETING.clone_into(tags);
                String::new()
            }
            ("lvconvert", Some((_, attributes, _))) => {
                *attributes = "-wi-a-----";
                String::new()
            }
            ("lvremove", _) => {
                *lv = None;
                String::new()
            }
            _ => String::new(),
        };
        Ok(Output { stdout: stdout.into_bytes(), stderr_tail: String::new() })
    }
}

/// A delete that fails as busy leads back to `available`.
#[tokio::test]
async fn what_has_lost_its_data_is_not_busy_whatever_its_last_command_says() {
    let zero = Clear::Zero { limit_mib: None };
    let (thick, cow) = ("-wi-a-----", "swi-a-s---");
    for (object, attributes, clear, refused, kind) in [
        (volume(), thick, zero, "lvremove", FailureKind::BackendError),
        (volume(), thick, zero, "blkdiscard", FailureKind::BackendError),
        (volume(), thick, zero, "lvchange", FailureKind::Busy),
        (volume(), thick, Clear::None, "lvremove", FailureKind::Busy),
        (snapshot(), cow, zero, "lvremove", FailureKind::BackendError),
        (snapshot(), cow, Clear::None, "lvremove", FailureKind::Busy),
    ] {
        let failure = Opened::delete(object, attributes, clear, refused).await;
        assert_eq!(failure.kind, kind, "{object}, {clear:?}, {refused}: {failure}");
        assert_eq!(failure.message.contains("its data is gone in part"), kind == FailureKind::BackendError);
        assert!(failure.message.contains("in use"), "{failure}");
    }
}

#[test]
fn what_only_has_another_name_for_a_moment_is_not_half_deleted() {
    let delete = Effect::delete(volume());
    let named = name::of(volume());
    let with = |names: &[String]| {
        let lvs = names.iter().map(|name| Lv { name: name.clone(), ..Lv::default() }).collect();
        plan::is_half_deleted(&delete, &Observed { lvs, ..Observed::default() })
    };
    assert!(with(&[]));
    for names in [vec![named.clone()], vec![name::old(&named)], vec![name::new(&named), name::old(&named)]] {
        assert!(!with(&names), "{names:?}");
    }
}

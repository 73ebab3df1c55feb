use std::sync::Mutex as Shared;

use tephra_journal::secrets::MASTER_KEY_BYTES;
use uuid::Uuid;

use super::*;
use crate::process::Spawner;

const GIB: u64 = 1 << 30;

fn config(socket: Option<&str>, control_port: u16) -> TgtConfig {
    TgtConfig {
        portal: "127.0.0.1:3260".to_owned(),
        iqn_prefix: DEFAULT_IQN_PREFIX.to_owned(),
        control_port,
        socket: socket.map(PathBuf::from),
        key: MasterKey::new([7; MASTER_KEY_BYTES]),
    }
}

/// As much of a tgtd as an export that grows needs: one target, with its disk or without.
#[derive(Debug, Default)]
struct Daemon {
    disk: Option<Disk>,
    is_offline: bool,
    /// It says that it deletes targets, and does not.
    keeps_targets: bool,
    /// Where it listens.
    portals: Vec<String>,
    /// The host has not got the portal's address yet.
    has_no_address: bool,
    changes: usize,
    /// The changes that come to nothing, counted from 1.
    fails: Vec<usize>,
}

#[derive(Debug, PartialEq, Eq)]
struct Disk {
    bytes: u64,
    is_ours: bool,
}

const VOLUME: VolumeId = VolumeId::from_uuid(Uuid::from_u128(1));
const ATTACHMENT: AttachmentId = AttachmentId::from_uuid(Uuid::from_u128(2));

struct Tgt {
    daemon: Shared<Daemon>,
    file: tempfile::NamedTempFile,
}

impl Tgt {
    /// A target that shows one GiB of a file that has two by now.
    fn grown(fails: Vec<usize>) -> Arc<Self> {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(2 * GIB).unwrap();
        let disk = Some(Disk { bytes: GIB, is_ours: true });
        let portals = vec!["0.0.0.0:3260".to_owned()];
        Arc::new(Self { daemon: Shared::new(Daemon { disk, fails, portals, ..Daemon::default() }), file })
    }

    fn exporter(self: &Arc<Self>) -> TgtExporter {
        TgtExporter::new(config(None, 0), Arc::clone(self) as Arc<dyn Launcher>)
    }

    fn dying(self: &Arc<Self>, under: usize, end: (i32, &'static str)) -> TgtExporter {
        let dying = Dying { tgt: Arc::clone(self), under, told: Shared::default(), end };
        TgtExporter::new(config(None, 0), Arc::new(dying))
    }

    async fn export(self: &Arc<Self>) -> Result<(), Failure> {
        self.export_by(&self.exporter()).await
    }

    async fn export_by(&self, exporter: &TgtExporter) -> Result<(), Failure> {
        let export = Export {
            attachment: ATTACHMENT,
            initiator: Some("iqn.test:host".into()),
            address: None,
            mode: AttachMode::ReadWrite,
        };
        exporter.export(self.file.path(), VOLUME, &export).await
    }

    fn listing(&self, daemon: &Daemon) -> String {
        let state = if daemon.is_offline { "offline" } else { "ready" };
        let disk = daemon.disk.as_ref().map_or(String::new(), |disk| {
            format!(
                "        LUN: 1\n            Type: disk\n            Size: {} MB, Block size: 512\n            \
                 Readonly: No\n            Backing store path: {}\n",
                disk.bytes / 1_000_000,
                self.file.path().display()
            )
        });
        format!(
            "Target 1: {}\n    System information:\n        Driver: iscsi\n        State: {state}\n    \
             LUN information:\n{disk}    Account information:\n        {}\n    ACL information:\n        \
             iqn.test:host\n",
            target_name(DEFAULT_IQN_PREFIX, ATTACHMENT),
            config(None, 0).key.chap(ATTACHMENT).user
        )
    }
}

#[async_trait]
impl Launcher for Tgt {
    async fn launch(&self, program: Program) -> Result<Output, ProcessError> {
        let words: Vec<String> =
            program.argv().iter().map(|word| word.to_string_lossy().into_owned()).collect();
        let after = |option: &str| {
            let at = words.iter().position(|word| word == option)?;
            words.get(at + 1).map(String::as_str)
        };
        let mut daemon = self.daemon.lock().unwrap();
        if changes(program.argv()) {
            daemon.changes += 1;
            if daemon.fails.contains(&daemon.changes) {
                let program = "tgtadm".to_owned();
                return Err(ProcessError::Failed { program, code: Some(22), stderr_tail: String::new() });
            }
        }
        let mut stdout = String::new();
        match (after("--op").unwrap(), after("--mode").unwrap()) {
            ("show", "target") => stdout = self.listing(&daemon),
            ("show", "portal") => {
                stdout = daemon.portals.iter().map(|portal| format!("Portal: {portal},1\n")).collect();
            }
            ("new", "portal") if daemon.has_no_address => {
                let stderr_tail = "tgtadm: invalid request\n".to_owned();
                return Err(ProcessError::Failed {
                    program: "tgtadm".to_owned(),
                    code: Some(22),
                    stderr_tail,
                });
            }
            ("new", "portal") => {
                assert!(daemon.disk.is_some() && !daemon.is_offline, "{daemon:?}");
                let portal = after("--param").and_then(|param| param.strip_prefix("portal="));
                daemon.portals.push(portal.unwrap().to_owned());
            }
            ("update", "target") => daemon.is_offline = after("--value") == Some("offline"),
            ("delete", "logicalunit") => assert!(daemon.disk.take().is_some(), "there was none"),
            ("new", "logicalunit") => {
                assert!(daemon.is_offline && daemon.disk.is_none(), "{daemon:?}");
                daemon.disk = Some(Disk { bytes: 2 * GIB, is_ours: false });
            }
            ("update", "logicalunit") => daemon.disk.as_mut().unwrap().is_ours = true,
            ("delete", "target") => assert!(daemon.keeps_targets),
            ("show", _) | ("unbind", _) => {}
            other => panic!("{other:?}"),
        }
        Ok(Output { stdout: stdout.into_bytes(), stderr_tail: String::new() })
    }
}

#[tokio::test]
async fn an_export_that_grows_is_ready_again_whichever_command_fails() {
    let whole = Tgt::grown(Vec::new());
    assert_eq!(whole.export().await, Ok(()));
    let commands = whole.daemon.lock().unwrap().changes;
    assert_eq!(commands, 5, "offline, the old disk, the new one, what it is, ready");
    for first in 1..=commands {
        // once, and again when it is tried again
        for fails in [vec![first], vec![first, first + 1, first + 3]] {
            let tgt = Tgt::grown(fails.clone());
            assert_eq!(tgt.export().await, Ok(()), "{fails:?}");
            let daemon = tgt.daemon.lock().unwrap();
            assert_eq!(daemon.disk, Some(Disk { bytes: 2 * GIB, is_ours: true }), "{fails:?}");
            assert!(!daemon.is_offline, "{fails:?}");
        }
    }
}

/// A tgtd that dies under one of the commands, counted from 0, and is not started again.
struct Dying {
    tgt: Arc<Tgt>,
    under: usize,
    told: Shared<usize>,
    /// What `tgtadm` exits with then, and says.
    end: (i32, &'static str),
}

#[async_trait]
impl Launcher for Dying {
    async fn launch(&self, program: Program) -> Result<Output, ProcessError> {
        let nth = {
            let mut told = self.told.lock().unwrap();
            *told += 1;
            *told - 1
        };
        let (code, said) = match nth.cmp(&self.under) {
            std::cmp::Ordering::Less => return self.tgt.launch(program).await,
            std::cmp::Ordering::Equal => self.end,
            std::cmp::Ordering::Greater => {
                (107, "failed to send request hdr to tgt daemon, Transport endpoint is not connected")
            }
        };
        let stderr_tail = format!("tgtadm: {said}\n");
        if code == 0 {
            return Ok(Output { stdout: Vec::new(), stderr_tail });
        }
        Err(ProcessError::Failed { program: "tgtadm".to_owned(), code: Some(code), stderr_tail })
    }
}

#[tokio::test]
async fn a_tgtd_that_dies_under_a_command_has_not_done_it_and_is_waited_for() {
    let ends = [
        (107, "failed to send request hdr to tgt daemon, Transport endpoint is not connected"),
        (104, "can't get the response, Connection reset by peer"),
        (0, "tgtd closed the socket"),
        (0, "a partial response"),
    ];
    // what is there, offline, connections, the old disk, the new one, what it is, ready, where it listens
    for (under, end) in (0..8).flat_map(|under| ends.map(|end| (under, end))) {
        let tgt = Tgt::grown(Vec::new());
        let failure = tgt.export_by(&tgt.dying(under, end)).await.unwrap_err();
        assert_eq!(failure.kind, FailureKind::BackendUnavailable, "{under}, {end:?}: {failure}");
    }
    for end in ends {
        let tgt = Tgt::grown(Vec::new());
        let failure = tgt.dying(0, end).is_written(tgt.file.path()).await.unwrap_err();
        assert_eq!(failure.kind, FailureKind::BackendUnavailable, "{end:?}: {failure}");
    }
}

#[tokio::test]
async fn a_tgtd_that_listens_elsewhere_is_given_the_portal_once_there_is_an_export() {
    let tgt = Tgt::grown(Vec::new());
    let elsewhere = "127.0.0.1:3261".to_owned();
    tgt.daemon.lock().unwrap().portals = vec![elsewhere.clone()];
    for _ in 0..2 {
        assert_eq!(tgt.export().await, Ok(()));
        assert_eq!(tgt.daemon.lock().unwrap().portals, [elsewhere.as_str(), "127.0.0.1:3260"]);
    }
}

#[tokio::test]
async fn a_portal_that_cannot_be_opened_yet_is_waited_for() {
    let tgt = Tgt::grown(Vec::new());
    {
        let mut daemon = tgt.daemon.lock().unwrap();
        daemon.portals = vec!["127.0.0.2:3260".to_owned()];
        daemon.has_no_address = true;
    }
    let failure = tgt.export().await.unwrap_err();
    assert_eq!(failure.kind, FailureKind::BackendUnavailable, "{failure}");
    assert!(failure.message.contains("127.0.0.1:3260"), "{failure}");
    tgt.daemon.lock().unwrap().has_no_address = false;
    assert_eq!(tgt.export().await, Ok(()));
    assert_eq!(tgt.daemon.lock().unwrap().portals, ["127.0.0.2:3260", "127.0.0.1:3260"]);
}

#[tokio::test]
async fn a_target_that_never_goes_is_a_failure_and_no_loop() {
    let tgt = Tgt::grown(Vec::new());
    tgt.daemon.lock().unwrap().keeps_targets = true;
    let failure = tgt.exporter().unexport(ATTACHMENT).await.unwrap_err();
    assert_eq!(failure.kind, FailureKind::BackendError);
    assert!(failure.message.contains("has it still"), "{failure}");
}

#[test]
fn the_control_socket_is_where_tgtd_makes_it() {
    let at = |socket: Option<&str>, control_port| {
        TgtExporter::new(config(socket, control_port), Arc::new(Spawner)).control_socket()
    };
    assert_eq!(at(None, 0), Path::new("/var/run/tgtd/socket.0"));
    assert_eq!(at(Some("/tmp/x"), 7), Path::new("/tmp/x.7"));
}

//! The conformance suite over every exporter. The one over tgtd needs it: `./test iscsi` installs it
//! and runs this.

#![allow(clippy::unwrap_used, reason = "in a test, whatever is not as expected is a failure")]

#[path = "exports/load.rs"]
mod load;

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use rustix::fs::{FlockOperation, flock, ioctl_ficlone};
use tempfile::TempDir;
use tephra_domain::attachment::AttachMode;
use tephra_domain::effect::{BackendObject, Effect, Export, Failure, FailureKind};
use tephra_domain::ids::{AttachmentId, BackendName, PoolName, SnapshotId, VolumeId};
use tephra_domain::units::SizeGib;
use tephra_executors::backend::Backend as _;
use tephra_executors::backend::conformance::interrupt::{Attempt, Interrupter};
use tephra_executors::backend::directory::{DirectoryBackend, DirectoryConfig};
use tephra_executors::backend::faulty::{Fault, FaultyBackend, Rule, Strikes};
use tephra_executors::backend::memory::{MemoryBackend, MemoryConfig};
use tephra_executors::export::conformance::{ExportBench, Shown, check_all, source_of};
use tephra_executors::export::memory::MemoryExporter;
use tephra_executors::export::tgt::{DEFAULT_IQN_PREFIX, TgtConfig, TgtExporter, changes, target_name};
use tephra_executors::export::{Exporter, Exporting};
use tephra_executors::process::{Launcher, Output, ProcessError, Program, Spawner};
use tephra_journal::secrets::{MASTER_KEY_BYTES, MasterKey};
use uuid::Uuid;

use crate::load::Load;

/// How long anything that must happen may take. It only bounds a failure.
const DEADLINE: Duration = Duration::from_secs(20);

const KEY: MasterKey = MasterKey::new([7; MASTER_KEY_BYTES]);

const CONTROL_PORT: u16 = 9;

struct MemoryBench {
    exporter: MemoryExporter,
    directory: TempDir,
}

#[async_trait]
impl ExportBench for MemoryBench {
    fn exporter(&self) -> &dyn Exporter {
        &self.exporter
    }

    fn directory(&self) -> &Path {
        self.directory.path()
    }

    async fn shown(&self) -> BTreeMap<AttachmentId, Shown> {
        let exports = self.exporter.exports().into_iter();
        let shown = |(source, export): (PathBuf, Export)| Shown {
            source,
            gib: None,
            mode: export.mode,
            initiator: export.initiator,
        };
        exports.map(|(attachment, export)| (attachment, shown(export))).collect()
    }

    async fn leftovers(&self) -> Vec<String> {
        self.exporter.exports().keys().map(ToString::to_string).collect()
    }

    async fn leave_interrupted(&self, _effect: &Effect) {}

    async fn restart(&self) {
        self.exporter.restart();
    }
}

#[tokio::test]
async fn exports_that_are_only_remembered_conform() {
    let bench = MemoryBench { exporter: MemoryExporter::default(), directory: tempfile::tempdir().unwrap() };
    check_all(&bench).await;
}

fn copies_of(volume: BackendObject) -> [Effect; 2] {
    let copy = BackendObject::Volume(VolumeId::from_uuid(Uuid::new_v4()));
    let snapshot = SnapshotId::from_uuid(Uuid::new_v4());
    [
        Effect::CreateSnapshot { snapshot: BackendObject::Snapshot { volume: volume.volume(), snapshot } },
        Effect::CloneVolume { volume: copy, size: SizeGib::new(1).unwrap(), source: volume },
    ]
}

#[tokio::test]
async fn a_file_is_copied_piece_by_piece_only_while_no_host_writes_to_it() {
    let directory = tempfile::tempdir().unwrap();
    let exporter = MemoryExporter::default();
    let config = DirectoryConfig::new(BackendName::new("files"), "host", directory.path());
    let files = DirectoryBackend::open(config).unwrap();
    let backend = Exporting::new(Arc::new(files), Arc::new(exporter.clone()));
    let pool = PoolName::new("files");
    let perform = async |effect: &Effect| backend.perform(&pool, effect).await.map_err(|error| error.kind);
    let volume = BackendObject::Volume(VolumeId::from_uuid(Uuid::from_u128(7)));
    let source = directory.path().join(volume.to_string());
    perform(&Effect::CreateVolume { volume, size: SizeGib::new(1).unwrap() }).await.unwrap();
    let at_one_stroke = {
        let reflink = std::fs::File::create(directory.path().join("reflink")).unwrap();
        ioctl_ficlone(&reflink, std::fs::File::open(&source).unwrap()).is_ok()
    };
    let while_written = if at_one_stroke { Ok(()) } else { Err(FailureKind::Busy) };

    let writable = export_for("alpha", 8);
    let readonly = Export { mode: AttachMode::ReadOnly, ..export_for("beta", 9) };
    perform(&Effect::ExportVolume { volume, export: readonly }).await.unwrap();
    for copy in copies_of(volume) {
        assert_eq!(perform(&copy).await, Ok(()), "while it is only read: {copy:?}");
    }
    perform(&Effect::ExportVolume { volume, export: writable.clone() }).await.unwrap();
    for copy in copies_of(volume) {
        assert_eq!(perform(&copy).await, while_written, "while it is written: {copy:?}");
    }
    exporter.set_down(true);
    for copy in copies_of(volume) {
        assert_eq!(perform(&copy).await, while_written, "while it may be written: {copy:?}");
    }
    exporter.set_down(false);
    perform(&Effect::UnexportVolume { volume, attachment: writable.attachment }).await.unwrap();
    for copy in copies_of(volume) {
        assert_eq!(perform(&copy).await, Ok(()), "once nobody writes: {copy:?}");
    }

    // a copy that takes its time
    let copied = std::fs::File::open(&source).unwrap();
    flock(&copied, FlockOperation::LockShared).unwrap();
    let export = Effect::ExportVolume { volume, export: writable };
    assert_eq!(perform(&export).await, Err(FailureKind::Busy));
    drop(copied);
    assert_eq!(perform(&export).await, Ok(()));
}

#[tokio::test]
async fn a_host_is_let_in_only_once_the_backend_has_made_the_volume_ready() {
    let memory = MemoryBackend::new(MemoryConfig::new("memory"));
    let volume = BackendObject::Volume(VolumeId::from_uuid(Uuid::from_u128(7)));
    let pool = PoolName::new("memory");
    let create = Effect::CreateVolume { volume, size: SizeGib::new(1).unwrap() };
    memory.perform(&pool, &create).await.unwrap();
    let faulty = Arc::new(FaultyBackend::new(Arc::new(memory)));
    let no_room = Failure::new(FailureKind::NoSpace, "no room for what a revert must take again first");
    faulty.inject(Rule::once("ExportVolume", Strikes::Before, Fault::Fail(no_room.clone())));
    let exporter = MemoryExporter::default();
    let backend = Exporting::in_memory(faulty, Arc::new(exporter.clone()));
    let export = Effect::ExportVolume { volume, export: export_for("alpha", 8) };
    assert_eq!(backend.perform(&pool, &export).await, Err(no_room));
    assert!(exporter.exports().is_empty());
    assert_eq!(backend.perform(&pool, &export).await, Ok(()));
    assert_eq!(exporter.exports().len(), 1);
}

/// A tgtd of the test's own.
struct Daemon {
    socket: PathBuf,
    portal: String,
    process: Child,
}

impl Daemon {
    fn start(directory: &Path) -> Self {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let portal = format!("127.0.0.1:{port}");
        let socket = directory.join("tgtd");
        let process = Command::new("tgtd")
            .args(["-f", "-C", &CONTROL_PORT.to_string(), "--iscsi", &format!("portal={portal}")])
            .env("TGT_IPC_SOCKET", &socket)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let daemon = Self { socket, portal, process };
        let end = Instant::now() + DEADLINE;
        while daemon.show("target").is_none() {
            assert!(Instant::now() < end, "tgtd does not answer");
            std::thread::sleep(Duration::from_millis(10));
        }
        daemon
    }

    fn show(&self, mode: &str) -> Option<String> {
        let output = Command::new("tgtadm")
            .args(["--control-port", &CONTROL_PORT.to_string(), "--lld", "iscsi"])
            .args(["--op", "show", "--mode", mode])
            .env("TGT_IPC_SOCKET", &self.socket)
            .output()
            .unwrap();
        output.status.success().then(|| String::from_utf8(output.stdout).unwrap())
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

fn exporter(portal: &str, socket: &Path, launcher: Arc<dyn Launcher>) -> TgtExporter {
    exporter_named(DEFAULT_IQN_PREFIX, portal, socket, launcher)
}

fn exporter_named(prefix: &str, portal: &str, socket: &Path, launcher: Arc<dyn Launcher>) -> TgtExporter {
    let config = TgtConfig {
        portal: portal.to_owned(),
        iqn_prefix: prefix.to_owned(),
        control_port: CONTROL_PORT,
        socket: Some(socket.to_owned()),
        key: KEY,
    };
    TgtExporter::new(config, launcher)
}

struct TgtBench {
    exporter: TgtExporter,
    daemon: Mutex<Option<Daemon>>,
    directory: TempDir,
    died: Mutex<BTreeMap<&'static str, usize>>,
}

const DIRECTORY: &str = "TEPHRA_EXPORT_DIRECTORY";
const PORTAL: &str = "TEPHRA_EXPORT_PORTAL";

impl TgtBench {
    fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let daemon = Daemon::start(directory.path());
        let exporter = exporter(&daemon.portal, &daemon.socket, Arc::new(Spawner));
        Self { exporter, daemon: Mutex::new(Some(daemon)), directory, died: Mutex::default() }
    }

    fn portal(&self) -> String {
        self.daemon.lock().unwrap().as_ref().unwrap().portal.clone()
    }

    fn show(&self, mode: &str) -> String {
        self.daemon.lock().unwrap().as_ref().unwrap().show(mode).unwrap()
    }
}

/// What stands behind `name` in a listing.
fn word<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines().find_map(|line| line.trim().strip_prefix(name)).map(str::trim)
}

/// A target that can be reached: it has its disk, its user, and one host that may come.
fn whole(target: &str) -> Option<(AttachmentId, Shown)> {
    let name = target.lines().next()?.split_once(": ")?.1;
    let attachment: AttachmentId = name.rsplit_once("attachment-")?.1.parse().ok()?;
    let (_, disk) = target.split_once("LUN: 1")?;
    let (_, rest) = disk.split_once("Account information:")?;
    let (accounts, allowed) = rest.split_once("ACL information:")?;
    assert_eq!(accounts.trim(), KEY.chap(attachment).user, "{target}");
    let megabytes: f64 = word(disk, "Size:")?.split(' ').next()?.parse().ok()?;
    let gib = (megabytes * 1e6 / f64::from(1 << 30)).round();
    let shown = Shown {
        source: word(disk, "Backing store path:")?.into(),
        gib: (1_u32..=64).find(|whole| f64::from(*whole) == gib).map(u64::from),
        mode: if word(disk, "Readonly:")? == "Yes" { AttachMode::ReadOnly } else { AttachMode::ReadWrite },
        initiator: allowed.lines().map(str::trim).find(|line| !line.is_empty()).map(Into::into),
    };
    Some((attachment, shown))
}

#[async_trait]
impl ExportBench for TgtBench {
    fn exporter(&self) -> &dyn Exporter {
        &self.exporter
    }

    fn directory(&self) -> &Path {
        self.directory.path()
    }

    async fn shown(&self) -> BTreeMap<AttachmentId, Shown> {
        let listing = self.show("target");
        listing.split("\nTarget ").filter(|target| !target.trim().is_empty()).filter_map(whole).collect()
    }

    async fn leftovers(&self) -> Vec<String> {
        let (targets, accounts) = (self.show("target"), self.show("account"));
        let named = targets.lines().filter(|line| line.starts_with("Target "));
        let users = accounts.lines().filter(|line| !line.starts_with("Account list"));
        named.chain(users).map(str::to_owned).collect()
    }

    async fn leave_interrupted(&self, effect: &Effect) {
        let interrupter =
            Interrupter::new("attempt").env(DIRECTORY, self.directory.path()).env(PORTAL, self.portal());
        let died = interrupter.attempt_until_done(&PoolName::new("pool"), effect).await;
        *self.died.lock().unwrap().entry(effect.name()).or_default() += died.len();
    }

    async fn restart(&self) {
        let mut daemon = self.daemon.lock().unwrap();
        drop(daemon.take());
        *daemon = Some(Daemon::start(self.directory.path()));
    }
}

/// What is attempted, until it dies, by the processes that the suite starts.
#[tokio::test]
#[ignore = "started by the conformance suite, to be killed"]
async fn attempt() {
    let Some(attempt) = Attempt::from_environment() else { return };
    let directory = PathBuf::from(std::env::var_os(DIRECTORY).unwrap());
    let portal = std::env::var(PORTAL).unwrap();
    let exporter = exporter(&portal, &directory.join("tgtd"), attempt.launcher(changes));
    let done = if let Effect::ExportVolume { volume, export } = &attempt.effect {
        let source = source_of(&directory, volume.volume());
        exporter.export(&source, volume.volume(), export).await
    } else {
        let Effect::UnexportVolume { attachment, .. } = attempt.effect else { panic!("about no export") };
        exporter.unexport(attachment).await
    };
    assert_eq!(done, Ok(()));
}

#[tokio::test]
#[ignore = "needs tgt: ./test iscsi"]
async fn exports_by_tgtd_conform_also_when_killed_between_any_two_commands() {
    let bench = TgtBench::start();
    check_all(&bench).await;
    let died = bench.died.lock().unwrap();
    println!("deaths: {died:?}");
    assert!(died["ExportVolume"] > 0 && died["UnexportVolume"] > 0, "{died:?}");
}

#[tokio::test]
#[ignore = "needs tgt: ./test iscsi"]
async fn what_cannot_be_exported_leaves_nothing_behind() {
    let bench = TgtBench::start();
    let export = Export {
        attachment: AttachmentId::from_uuid(Uuid::from_u128(1)),
        initiator: None,
        address: None,
        mode: AttachMode::ReadWrite,
    };
    let volume = VolumeId::from_uuid(Uuid::from_u128(2));
    let missing = bench.exporter.export(&bench.directory.path().join("none"), volume, &export).await;
    assert_eq!(missing.unwrap_err().kind, FailureKind::ObjectMissing);
    let odd = bench.directory.path().join("a,bstype=null");
    std::fs::write(&odd, "").unwrap();
    let refused = bench.exporter.export(&odd, volume, &export).await;
    assert_eq!(refused.unwrap_err().kind, FailureKind::Unsupported);
    assert_eq!(bench.leftovers().await, [""; 0]);

    drop(bench.daemon.lock().unwrap().take());
    let source = source_of(bench.directory(), volume);
    std::fs::write(&source, "data").unwrap();
    let silent = bench.exporter.export(&source, volume, &export).await;
    assert_eq!(silent.unwrap_err().kind, FailureKind::BackendUnavailable);
    assert_eq!(bench.exporter.incarnation().await.unwrap_err().kind, FailureKind::BackendUnavailable);
    assert_eq!(
        bench.exporter.unexport(export.attachment).await.unwrap_err().kind,
        FailureKind::BackendUnavailable
    );
}

fn export_for(host: &str, attachment: u128) -> Export {
    Export {
        attachment: AttachmentId::from_uuid(Uuid::from_u128(attachment)),
        initiator: Some(format!("iqn.1993-08.org.debian:01:{host}").into()),
        address: None,
        mode: AttachMode::ReadWrite,
    }
}

#[tokio::test]
#[ignore = "needs tgt: ./test iscsi"]
async fn growing_under_a_host_that_writes_much_at_once_loses_no_write() {
    let bench = TgtBench::start();
    let (volume, export) = (VolumeId::from_uuid(Uuid::from_u128(3)), export_for("alpha", 4));
    let source = source_of(bench.directory(), volume);
    let file = std::fs::File::create(&source).unwrap();
    file.set_len(1 << 30).unwrap();
    bench.exporter.export(&source, volume, &export).await.unwrap();

    assert_eq!(bench.exporter.is_written(&source).await, Ok(true));
    assert_eq!(bench.exporter.is_written(bench.directory()).await, Ok(false));
    let mut load = Load::start(&bench, &export, 64);
    for gib in 2..=7 {
        assert!(load.goes_on_since_its_last_write(&source), "it has ended before {gib} GiB");
        file.set_len(gib << 30).unwrap();
        assert_eq!(bench.exporter.export(&source, volume, &export).await, Ok(()), "{gib} GiB");
        assert_eq!(bench.shown().await[&export.attachment].gib, Some(gib));
    }
    load.ensure_all_written(&source);
    assert_eq!(bench.exporter.unexport(export.attachment).await, Ok(()));
    assert_eq!(bench.leftovers().await, [""; 0]);
}

/// The so-manieth change does not happen, and is said to have failed.
struct FailsOnce(AtomicUsize);

#[async_trait]
impl Launcher for FailsOnce {
    async fn launch(&self, program: Program) -> Result<Output, ProcessError> {
        if changes(program.argv()) && self.0.fetch_sub(1, Ordering::SeqCst) == 1 {
            let program = "tgtadm".to_owned();
            return Err(ProcessError::Failed { program, code: Some(22), stderr_tail: String::new() });
        }
        Spawner.launch(program).await
    }
}

#[tokio::test]
#[ignore = "needs tgt: ./test iscsi"]
async fn an_export_that_grows_takes_hosts_again_whichever_command_failed() {
    let bench = TgtBench::start();
    let (volume, export) = (VolumeId::from_uuid(Uuid::from_u128(12)), export_for("alpha", 13));
    let source = source_of(bench.directory(), volume);
    let file = std::fs::File::create(&source).unwrap();
    file.set_len(1 << 30).unwrap();
    bench.exporter.export(&source, volume, &export).await.unwrap();
    for (gib, fails) in (2..).zip(1..=5) {
        let launcher = Arc::new(FailsOnce(AtomicUsize::new(fails)));
        let failing = exporter(&bench.portal(), &bench.directory().join("tgtd"), Arc::clone(&launcher) as _);
        file.set_len(gib << 30).unwrap();
        assert_eq!(failing.export(&source, volume, &export).await, Ok(()), "command {fails}");
        assert_eq!(bench.shown().await[&export.attachment].gib, Some(gib), "command {fails}");
        assert!(bench.show("target").contains("State: ready"), "command {fails}");
        assert!(bench.show("target").contains(&volume.to_string()[..8]), "it is the same disk");
    }
    assert_eq!(bench.exporter.unexport(export.attachment).await, Ok(()));
}

#[tokio::test]
#[ignore = "needs tgt: ./test iscsi"]
async fn a_host_that_writes_on_is_cut_off() {
    let bench = TgtBench::start();
    let (volume, export) = (VolumeId::from_uuid(Uuid::from_u128(5)), export_for("alpha", 6));
    let source = source_of(bench.directory(), volume);
    std::fs::File::create(&source).unwrap().set_len(1 << 30).unwrap();
    for moved_to in [None, Some("beta")] {
        bench.exporter.export(&source, volume, &export).await.unwrap();
        let mut load = Load::start(&bench, &export, 32);
        assert!(load.goes_on_since_its_last_write(&source));
        // the same attachment is for another host, or for none
        let other = moved_to.map(|host| Export { attachment: export.attachment, ..export_for(host, 0) });
        match &other {
            Some(other) => assert_eq!(bench.exporter.export(&source, volume, other).await, Ok(())),
            None => assert_eq!(bench.exporter.unexport(export.attachment).await, Ok(())),
        }
        let left: Vec<_> = bench.shown().await.into_values().map(|shown| shown.initiator).collect();
        let expected: Vec<_> = other.iter().map(|other| other.initiator.clone()).collect();
        assert_eq!(left, expected);
        let target = bench.show("target");
        assert!(!target.contains("alpha"), "a session is left: {target}");
    }
    assert_eq!(bench.exporter.unexport(export.attachment).await, Ok(()));
    assert_eq!(bench.leftovers().await, [""; 0]);
}

/// Numbers and names of the targets that there are.
fn targets(bench: &TgtBench) -> Vec<(String, String)> {
    let listing = bench.show("target");
    let lines = listing.lines().filter_map(|line| line.strip_prefix("Target ")?.split_once(": "));
    lines.map(|(number, name)| (number.to_owned(), name.to_owned())).collect()
}

#[tokio::test]
#[ignore = "needs tgt: ./test iscsi"]
async fn exports_are_found_under_the_names_that_they_had() {
    let bench = TgtBench::start();
    let (volume, export) = (VolumeId::from_uuid(Uuid::from_u128(10)), export_for("alpha", 11));
    let source = source_of(bench.directory(), volume);
    std::fs::File::create(&source).unwrap().set_len(1 << 30).unwrap();
    bench.exporter.export(&source, volume, &export).await.unwrap();
    let before = targets(&bench);

    let socket = bench.directory().join("tgtd");
    let renamed = exporter_named("iqn.2026-01.org.example:", &bench.portal(), &socket, Arc::new(Spawner));
    renamed.export(&source, volume, &export).await.unwrap();
    assert_eq!(targets(&bench), before, "its host goes on");
    let moved = Export { attachment: export.attachment, ..export_for("beta", 0) };
    renamed.export(&source, volume, &moved).await.unwrap();
    let names: Vec<_> = targets(&bench).into_iter().map(|(_, name)| name).collect();
    assert_eq!(names, [target_name("iqn.2026-01.org.example:", export.attachment)]);
    bench.exporter.unexport(export.attachment).await.unwrap();
    assert_eq!(bench.leftovers().await, [""; 0]);
}

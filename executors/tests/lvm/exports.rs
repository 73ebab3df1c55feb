//! Logical volumes over iSCSI: tgtd exports them, and the guest's own kernel logs in.

use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tephra_domain::attachment::AttachMode;
use tephra_domain::effect::{BackendObject, Effect, Export};
use tephra_domain::ids::{AttachmentId, PoolName};
use tephra_executors::backend::Backend;
use tephra_executors::backend::lvm::Provisioning;
use tephra_executors::export::Exporting;
use tephra_executors::export::tgt::{DEFAULT_IQN_PREFIX, TgtConfig, TgtExporter, target_name};
use tephra_executors::process::Spawner;
use tephra_journal::secrets::{MASTER_KEY_BYTES, MasterKey};
use uuid::Uuid;

use crate::support::{Group, TWO, create, run, snapshot_of, try_run, volume};

/// How long anything that must happen may take. It only bounds a failure.
const DEADLINE: Duration = Duration::from_secs(60);

const PORTAL: &str = "127.0.0.1:3260";
const KEY: MasterKey = MasterKey::new([7; MASTER_KEY_BYTES]);

/// As `labs/lvm-vm` names its guest.
const INITIATOR: &str = "iqn.2026-01.test.lvm-vm:guest";

fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + DEADLINE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < end, "it never came to this: {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

struct Daemon(Child);

impl Daemon {
    fn start() -> Self {
        std::fs::create_dir_all("/var/run/tgtd").unwrap();
        let daemon = Self(Command::new("tgtd").arg("-f").stdin(Stdio::null()).spawn().unwrap());
        eventually("tgtd answers", || {
            try_run(["tgtadm", "--lld", "iscsi", "--op", "show", "--mode", "target"]).0.then_some(())
        });
        daemon
    }

    fn restart(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
        *self = Self::start();
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

fn export(initiator: &str, mode: AttachMode) -> Export {
    Export {
        attachment: AttachmentId::from_uuid(Uuid::new_v4()),
        initiator: Some(initiator.into()),
        address: Some("127.0.0.1".into()),
        mode,
    }
}

/// The kernel's initiator, at one attachment's target.
struct Login(String);

impl Login {
    fn node(&self, more: &[&str]) -> (bool, String) {
        let node = ["iscsiadm", "--mode", "node", "--targetname", &self.0, "--portal", PORTAL];
        try_run(node.iter().chain(more))
    }

    fn set(&self, name: &str, value: &str) {
        let (is_set, said) = self.node(&["--op", "update", "--name", name, "--value", value]);
        assert!(is_set, "{said}");
    }

    /// Tries to log in.
    fn attempt(attachment: AttachmentId, password: &str) -> Result<Self, String> {
        let login = Self(target_name(DEFAULT_IQN_PREFIX, attachment));
        let (is_new, said) = login.node(&["--op", "new"]);
        assert!(is_new, "{said}");
        login.set("node.session.auth.authmethod", "CHAP");
        login.set("node.session.auth.username", &KEY.chap(attachment).user);
        login.set("node.session.auth.password", password);
        login.set("node.session.initial_login_retry_max", "1");
        let (is_in, said) = login.node(&["--login"]);
        if is_in { Ok(login) } else { Err(said) }
    }

    fn new(attachment: AttachmentId) -> Self {
        Self::attempt(attachment, &KEY.chap(attachment).password).unwrap()
    }

    /// The kernel's name for the disk, known by its serial number.
    fn disk(&self, volume: BackendObject) -> String {
        let serial = volume.volume().to_string();
        eventually("the disk shows", || {
            let mut disks = std::fs::read_dir("/sys/class/block").unwrap().map(|entry| entry.unwrap().path());
            let is_it = |path: &PathBuf| {
                let page = std::fs::read(path.join("device/vpd_pg80")).unwrap_or_default();
                page.windows(serial.len()).any(|window| window == serial.as_bytes())
            };
            let found = disks.find(is_it)?;
            found.file_name()?.to_str().map(str::to_owned)
        })
    }
}

impl Drop for Login {
    fn drop(&mut self) {
        self.node(&["--logout"]);
        self.node(&["--op", "delete"]);
    }
}

fn fact(disk: &str, name: &str) -> u64 {
    let text = std::fs::read_to_string(format!("/sys/class/block/{disk}/{name}")).unwrap();
    text.trim().parse().unwrap()
}

fn put(path: &Path, at: u64, byte: u8) -> std::io::Result<()> {
    let mut file = OpenOptions::new().write(true).open(path)?;
    file.write_all_at(&[byte; 4096], at)?;
    file.flush()?;
    file.sync_all()
}

fn holds(path: &Path, at: u64, byte: u8) -> bool {
    let mut found = [0; 4096];
    File::open(path).unwrap().read_exact_at(&mut found, at).unwrap();
    found == [byte; 4096]
}

fn exporter() -> TgtExporter {
    let config = TgtConfig {
        portal: PORTAL.to_owned(),
        iqn_prefix: DEFAULT_IQN_PREFIX.to_owned(),
        control_port: 0,
        socket: None,
        key: KEY,
    };
    TgtExporter::new(config, Arc::new(Spawner))
}

async fn the_kernel_attaches(name: &str, provisioning: Provisioning, daemon: &mut Daemon) {
    let group = Group::new(name, 20);
    let lvm = Arc::new(group.open(provisioning).await);
    let backend = Exporting::new(Arc::clone(&lvm) as Arc<dyn Backend>, Arc::new(exporter()));
    let pool = PoolName::new("lvm");
    let done = async |effect: Effect| {
        for time in ["first", "second"] {
            assert_eq!(backend.perform(&pool, &effect).await, Ok(()), "the {time} {effect:?}");
        }
    };
    let volume = volume();
    done(create(volume)).await;
    let device = lvm.device(volume);

    let first = export(INITIATOR, AttachMode::ReadWrite);
    done(Effect::ExportVolume { volume, export: first.clone() }).await;
    let refused = Login::attempt(first.attachment, "abcdefghijklmnop").err();
    assert!(refused.is_some_and(|said| said.contains("authorization failure")), "a wrong password");
    let login = Login::new(first.attachment);
    let disk = login.disk(volume);
    let path = PathBuf::from(format!("/dev/{disk}"));
    assert_eq!(fact(&disk, "size") * 512, 1 << 30);
    put(&path, 0, 0xa1).unwrap();
    put(&path, 512 << 20, 0xa2).unwrap();
    assert!(holds(&path, 0, 0xa1) && holds(&device, 0, 0xa1) && holds(&device, 512 << 20, 0xa2));

    // it grows under the kernel, which sees it when it looks again
    done(Effect::ExtendVolume { volume, to: TWO }).await;
    done(Effect::ExportVolume { volume, export: first.clone() }).await;
    eventually("the kernel sees the new size", || {
        let (_, _) = login.node(&["--rescan"]);
        (fact(&disk, "size") * 512 == 2 << 30).then_some(())
    });
    put(&path, 1536 << 20, 0xa3).unwrap();
    assert!(holds(&device, 1536 << 20, 0xa3));

    // a snapshot of what is in use has what was there then
    let snapshot = snapshot_of(volume);
    done(Effect::CreateSnapshot { snapshot }).await;
    put(&path, 0, 0xb1).unwrap();
    assert!(holds(&device, 0, 0xb1));
    // another one comes and goes under the host, whose writes go on
    let passing = snapshot_of(volume);
    done(Effect::CreateSnapshot { snapshot: passing }).await;
    put(&path, 8 << 20, 0xb3).unwrap();
    done(Effect::DeleteSnapshot { snapshot: passing }).await;
    put(&path, 16 << 20, 0xb4).unwrap();
    assert!(holds(&device, 8 << 20, 0xb3) && holds(&device, 16 << 20, 0xb4));
    drop(login);
    done(Effect::UnexportVolume { volume, attachment: first.attachment }).await;
    assert!(Login::attempt(first.attachment, &KEY.chap(first.attachment).password).is_err());
    let copy = crate::support::volume();
    done(Effect::CreateVolumeFromSnapshot { volume: copy, size: TWO, snapshot }).await;
    assert!(holds(&lvm.device(copy), 0, 0xa1) && holds(&lvm.device(copy), 1536 << 20, 0xa3));

    let reading = export(INITIATOR, AttachMode::ReadOnly);
    done(Effect::ExportVolume { volume, export: reading.clone() }).await;
    let login = Login::new(reading.attachment);
    let disk = login.disk(volume);
    let path = PathBuf::from(format!("/dev/{disk}"));
    assert_eq!(fact(&disk, "ro"), 1);
    assert!(holds(&path, 0, 0xb1));
    assert!(put(&path, 0, 0xb2).is_err());
    drop(login);
    done(Effect::UnexportVolume { volume, attachment: reading.attachment }).await;

    // the host has been started anew: its targets are gone, and nobody has activated the group
    let restored = export(INITIATOR, AttachMode::ReadWrite);
    done(Effect::ExportVolume { volume, export: restored.clone() }).await;
    daemon.restart();
    run(["vgchange", "-an", &group.name]);
    assert!(!device.exists());
    done(Effect::ExportVolume { volume, export: restored.clone() }).await;
    let login = Login::new(restored.attachment);
    assert!(holds(&PathBuf::from(format!("/dev/{}", login.disk(volume))), 0, 0xb1));
    drop(login);
    done(Effect::UnexportVolume { volume, attachment: restored.attachment }).await;

    let elsewhere = export("iqn.2026-01.test:elsewhere", AttachMode::ReadWrite);
    done(Effect::ExportVolume { volume, export: elsewhere.clone() }).await;
    let refused = Login::attempt(elsewhere.attachment, &KEY.chap(elsewhere.attachment).password);
    assert!(refused.is_err(), "another host's target");
    done(Effect::UnexportVolume { volume, attachment: elsewhere.attachment }).await;

    // what nobody has any more can go
    done(Effect::DeleteSnapshot { snapshot }).await;
    done(Effect::DeleteVolume { volume: copy }).await;
    done(Effect::DeleteVolume { volume }).await;
    assert_eq!(group.lvs(), [""; 0]);
    let shown = run(["tgtadm", "--lld", "iscsi", "--op", "show", "--mode", "target"]);
    assert_eq!(shown.trim(), "");
}

#[tokio::test]
#[ignore = "needs real lvm2, tgt and a kernel's initiator: ./test lvm"]
async fn the_kernel_attaches_thick_and_thin_volumes() {
    let mut daemon = Daemon::start();
    run(["iscsid"]);
    the_kernel_attaches("tephra-iscsi-thick", Provisioning::Thick, &mut daemon).await;
    the_kernel_attaches("tephra-iscsi-thin", Provisioning::Thin, &mut daemon).await;
}

//! A host with many writes under way at once.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant, SystemTime};

use tephra_domain::effect::Export;
use tephra_executors::export::tgt::{DEFAULT_IQN_PREFIX, target_name};

use super::{KEY, TgtBench};

/// How long the host may take to write again after it was cut off: initiators wait longer and longer.
const DEADLINE: Duration = Duration::from_secs(120);

/// What it writes, so that every byte says whether it was written.
const PATTERN: u8 = 0x5a;

const BLOCK_BYTES: usize = 4096;

/// It writes each block once, and stops: 256 MiB.
const BLOCKS: usize = 1 << 16;

/// `qemu-img bench`: writes one block after the other, so many at once, and fails if any fails.
pub struct Load {
    process: Child,
}

impl Load {
    /// Begins.
    pub fn start(bench: &TgtBench, export: &Export, depth: u32) -> Self {
        let portal = bench.daemon.lock().unwrap().as_ref().unwrap().portal.clone();
        let secret = KEY.chap(export.attachment);
        let image = format!(
            "driver=raw,file.driver=iscsi,file.transport=tcp,file.portal={portal},file.target={},file.lun=1,\
             file.user={},file.password={},file.initiator-name={}",
            target_name(DEFAULT_IQN_PREFIX, export.attachment),
            secret.user,
            secret.password,
            export.initiator.as_deref().unwrap()
        );
        let process = Command::new("qemu-img")
            .args(["bench", "-w", "-d", &depth.to_string(), "-c", &BLOCKS.to_string()])
            .args(["-s", &BLOCK_BYTES.to_string(), &format!("--pattern={PATTERN}")])
            .args(["--image-opts", &image])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        Self { process }
    }

    /// Waits until it writes again. Not if it has come to its end.
    pub fn goes_on_since_its_last_write(&mut self, source: &Path) -> bool {
        let modified = || -> SystemTime { std::fs::metadata(source).unwrap().modified().unwrap() };
        let (before, end) = (modified(), Instant::now() + DEADLINE);
        loop {
            if self.process.try_wait().unwrap().is_some() {
                return false;
            }
            if modified() > before {
                return true;
            }
            assert!(Instant::now() < end, "the host does not write any more");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// It has come to its end, every write was answered with success, and every one is there.
    pub fn ensure_all_written(mut self, source: &Path) {
        assert!(self.process.wait().unwrap().success(), "writes failed");
        let file = File::open(source).unwrap();
        let mut block = [0; BLOCK_BYTES];
        let lost = (0..BLOCKS).filter(|number| {
            file.read_exact_at(&mut block, u64::try_from(number * BLOCK_BYTES).unwrap()).unwrap();
            block.iter().any(|byte| *byte != PATTERN)
        });
        let lost: Vec<_> = lost.collect();
        assert!(lost.is_empty(), "{} blocks are lost: {lost:?}", lost.len());
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

//! What the `directory` backend takes beside the bare commands that do the same, in one run.
//!
//! `cargo bench -p tephra-executors --bench directory` measures on the file system of the target
//! directory, and in `TEPHRA_BENCH_DIRECTORY` where that is set: on a mount of NFS, say. A volume of
//! 1 GiB holds 256 MiB of data. Commands sync what they wrote, as the backend does.

#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    missing_docs,
    reason = "a measurement: it fails by panicking, and looks at the clock"
)]

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::future::join_all;
use tephra_domain::effect::{BackendObject, Effect};
use tephra_domain::ids::{BackendName, PoolName, SnapshotId, VolumeId};
use tephra_domain::units::SizeGib;
use tephra_executors::backend::Backend;
use tephra_executors::backend::directory::{DirectoryBackend, DirectoryConfig};
use uuid::Uuid;

const ROUNDS: u32 = 10;
const DATA_MIB: u64 = 256;
const AT_ONCE: u32 = 8;
const ONE: SizeGib = SizeGib::new(1).unwrap();
const TWO: SizeGib = SizeGib::new(2).unwrap();

fn volume() -> BackendObject {
    BackendObject::Volume(VolumeId::from_uuid(Uuid::new_v4()))
}

fn snapshot_of(volume: BackendObject) -> BackendObject {
    let snapshot = SnapshotId::from_uuid(Uuid::new_v4());
    BackendObject::Snapshot { volume: volume.volume(), snapshot }
}

/// The same by hand, in a directory beside that of the backend.
fn by_hand(directory: &Path, script: &str) -> Duration {
    let began = Instant::now();
    let status = Command::new("sh").args(["-ec", script]).current_dir(directory).status().unwrap();
    assert!(status.success(), "{script}");
    began.elapsed()
}

async fn by_the_backend(backend: &DirectoryBackend, effect: &Effect) -> Duration {
    let began = Instant::now();
    backend.perform(&PoolName::new("files"), effect).await.unwrap();
    began.elapsed()
}

fn fill(path: &Path) {
    let file = File::options().write(true).open(path).unwrap();
    for mib in 0..DATA_MIB {
        file.write_all_at(&[u8::try_from(mib % 251).unwrap() + 1; 1 << 20], mib << 20).unwrap();
    }
    file.sync_all().unwrap();
}

fn median(mut times: Vec<Duration>) -> f64 {
    times.sort_unstable();
    times[times.len() / 2].as_secs_f64() * 1e3
}

async fn each_operation(backend: &DirectoryBackend, bare: &Path) {
    let mut rows: Vec<(&str, Vec<Duration>, Vec<Duration>)> = Vec::new();
    for round in 0..ROUNDS {
        let (source, made, clone) = (volume(), volume(), volume());
        let snapshot = snapshot_of(source);
        let steps = [
            (Effect::CreateVolume { volume: source, size: ONE }, "truncate -s 1G v; sync v ."),
            (Effect::CreateSnapshot { snapshot }, "cp --sparse=always v s; sync s ."),
            (
                Effect::CreateVolumeFromSnapshot { volume: made, size: ONE, snapshot },
                "cp --sparse=always s m; sync m .",
            ),
            (
                Effect::CloneVolume { volume: clone, size: TWO, source },
                "cp --sparse=always v c; truncate -s 2G c; sync c .",
            ),
            (
                Effect::RevertToSnapshot { volume: source, snapshot },
                "cp --sparse=always s n; sync n; mv n v; sync .",
            ),
            (Effect::ExtendVolume { volume: source, to: TWO }, "truncate -s 2G v; sync v"),
            (Effect::DeleteSnapshot { snapshot }, "rm s; sync ."),
            (Effect::DeleteVolume { volume: source }, "rm v; sync ."),
        ];
        for (at, (effect, script)) in steps.iter().enumerate() {
            // who comes second meets the disk as the first one left it
            let (ours, theirs) = if round % 2 == 0 {
                let ours = by_the_backend(backend, effect).await;
                (ours, by_hand(bare, script))
            } else {
                let theirs = by_hand(bare, script);
                (by_the_backend(backend, effect).await, theirs)
            };
            if round == 0 {
                rows.push((effect.name(), Vec::new(), Vec::new()));
            }
            rows[at].1.push(ours);
            rows[at].2.push(theirs);
            if at == 0 {
                fill(&backend.config().directory.join(source.to_string()));
                fill(&bare.join("v"));
            }
        }
        for left in [made, clone] {
            by_the_backend(backend, &Effect::DeleteVolume { volume: left }).await;
        }
        by_hand(bare, "rm m c; sync .");
    }
    println!("{:<26} {:>10} {:>10} {:>10}", "median of 10", "ms", "bare ms", "beside");
    for (name, ours, theirs) in rows {
        let (ours, theirs) = (median(ours), median(theirs));
        println!("{name:<26} {ours:>10.2} {theirs:>10.2} {:>+10.2}", ours - theirs);
    }
}

async fn eight_at_a_time(backend: &Arc<DirectoryBackend>) {
    let began = Instant::now();
    let workers = (0..AT_ONCE).map(|_| {
        let backend = Arc::clone(backend);
        tokio::spawn(async move {
            for _ in 0..50 {
                let volume = volume();
                by_the_backend(&backend, &Effect::CreateVolume { volume, size: ONE }).await;
                by_the_backend(&backend, &Effect::DeleteVolume { volume }).await;
            }
        })
    });
    join_all(workers).await.into_iter().for_each(Result::unwrap);
    let a_second = f64::from(AT_ONCE * 50 * 2) / began.elapsed().as_secs_f64();
    println!("creates and deletes, 8 at a time: {a_second:.0} a second");
}

#[tokio::main]
async fn main() {
    let at = std::env::var_os("TEPHRA_BENCH_DIRECTORY")
        .map_or_else(|| PathBuf::from(env!("CARGO_TARGET_TMPDIR")), PathBuf::from);
    let work = tempfile::tempdir_in(at).unwrap();
    let (served, bare) = (work.path().join("served"), work.path().join("bare"));
    std::fs::create_dir(&served).unwrap();
    std::fs::create_dir(&bare).unwrap();
    let config = DirectoryConfig::new(BackendName::new("files"), "host", served);
    let backend = Arc::new(DirectoryBackend::open(config).unwrap());
    each_operation(&backend, &bare).await;
    eight_at_a_time(&backend).await;
}

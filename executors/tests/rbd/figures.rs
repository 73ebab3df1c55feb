//! How long things take: `./test ceph -- figures --nocapture` prints a table.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use futures::future::join_all;
use tephra_domain::effect::Effect;
use tephra_executors::backend::Backend;
use tephra_executors::backend::rbd::{CloneFormat, RbdBackend, RbdConfig};
use tephra_executors::process::{Launcher, Output, ProcessError, Program, Spawner};

use super::lab::{Lab, ONE, create, pool, snapshot_of, volume};

/// How often each effect is performed.
const ROUNDS: u32 = 10;

/// Adds up what programs take by themselves.
#[derive(Default)]
struct Stopwatch {
    taken: Mutex<(u32, Duration)>,
}

#[async_trait]
impl Launcher for Stopwatch {
    async fn launch(&self, program: Program) -> Result<Output, ProcessError> {
        let began = Instant::now();
        let output = Spawner.launch(program).await;
        let mut taken = self.taken.lock().unwrap();
        *taken = (taken.0 + 1, taken.1 + began.elapsed());
        output
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Ceph: ./test ceph"]
async fn figures_of_each_operation_beside_its_bare_commands() {
    let lab = Lab::start();
    let watch = Arc::new(Stopwatch::default());
    let config = RbdConfig { clone_format: Some(CloneFormat::V2), ..lab.config() };
    let backend = Arc::new(RbdBackend::new(config, watch.clone()));
    let two = tephra_domain::units::SizeGib::new(2).unwrap();
    let mut totals = vec![(0_u32, Duration::ZERO, Duration::ZERO, ""); 7];
    for _ in 0..ROUNDS {
        let (source, clone, made) = (volume(), volume(), volume());
        let snapshot = snapshot_of(source);
        let effects = [
            create(source),
            Effect::CreateSnapshot { snapshot },
            Effect::RevertToSnapshot { volume: source, snapshot },
            Effect::CreateVolumeFromSnapshot { volume: made, size: ONE, snapshot },
            Effect::CloneVolume { volume: clone, size: ONE, source },
            Effect::ExtendVolume { volume: clone, to: two },
            Effect::DeleteVolume { volume: clone },
        ];
        for (effect, total) in effects.iter().zip(&mut totals) {
            *watch.taken.lock().unwrap() = (0, Duration::ZERO);
            let began = Instant::now();
            backend.perform(&pool(), effect).await.unwrap();
            let (commands, bare) = *watch.taken.lock().unwrap();
            *total = (commands, total.1 + began.elapsed(), total.2 + bare, effect.name());
        }
        for last in [
            Effect::DeleteVolume { volume: made },
            Effect::DeleteSnapshot { snapshot },
            Effect::DeleteVolume { volume: source },
        ] {
            backend.perform(&pool(), &last).await.unwrap();
        }
    }
    println!("{:<26}{:>9}{:>12}{:>12}{:>12}", "effect", "commands", "ms", "bare ms", "ours ms");
    for (commands, whole, bare, name) in totals {
        let ms = |time: Duration| time.as_secs_f64() * 1000.0 / f64::from(ROUNDS);
        let ours = whole.saturating_sub(bare);
        println!("{name:<26}{commands:>9}{:>12.1}{:>12.1}{:>12.2}", ms(whole), ms(bare), ms(ours));
    }
    let began = Instant::now();
    let workers = (0..8).map(|_| {
        let backend = Arc::clone(&backend);
        async move {
            for _ in 0..ROUNDS {
                let volume = volume();
                backend.perform(&pool(), &create(volume)).await.unwrap();
                backend.perform(&pool(), &Effect::DeleteVolume { volume }).await.unwrap();
            }
        }
    });
    join_all(workers).await;
    let each_second = f64::from(8 * 2 * ROUNDS) / began.elapsed().as_secs_f64();
    println!("creates and deletes, 8 at a time: {each_second:.1} a second");
    assert_eq!(lab.leftovers(), Vec::<String>::new());
}

//! What the backend adds to the commands that it needs. Prints figures and judges nothing.

use std::sync::Arc;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use futures::future::join_all;
use tephra_domain::effect::Effect;
use tephra_executors::backend::lvm::{LvmBackend, Provisioning};
use tephra_executors::process::{Launcher, Output, ProcessError, Program, Spawner};

use crate::support::{Group, ONE, TWO, create, done, safety_of, snapshot_of, volume};

/// Times the programs: from the order to start one until its output is there.
#[derive(Default)]
struct Watch {
    programs: Mutex<(u32, Duration)>,
}

#[async_trait]
impl Launcher for Watch {
    async fn launch(&self, program: Program) -> Result<Output, ProcessError> {
        let began = Instant::now();
        let output = Spawner.launch(program).await;
        let mut programs = self.programs.lock().unwrap();
        programs.0 += 1;
        programs.1 += began.elapsed();
        output
    }
}

async fn measure(backend: &LvmBackend, watch: &Watch, effect: Effect) {
    *watch.programs.lock().unwrap() = (0, Duration::ZERO);
    let name = effect.name();
    let began = Instant::now();
    done(backend, effect).await;
    let took = began.elapsed();
    let (programs, running) = *watch.programs.lock().unwrap();
    let own = took.saturating_sub(running);
    println!(
        "{name:<26} {:>7.0} ms  {programs} commands {:>7.0} ms  beside them {:>6.2} ms",
        took.as_secs_f64() * 1e3,
        running.as_secs_f64() * 1e3,
        own.as_secs_f64() * 1e3
    );
}

async fn figures(name: &str, provisioning: Provisioning) {
    let group = Group::new(name, 60);
    let watch = Arc::new(Watch::default());
    let launcher = Arc::clone(&watch) as Arc<dyn Launcher>;
    let backend = LvmBackend::open(group.config(provisioning), launcher).await.unwrap();
    println!("{provisioning:?}");
    let (used, clone, made) = (volume(), volume(), volume());
    let (snapshot, safety) = (snapshot_of(used), safety_of(used));
    for effect in [
        create(used),
        Effect::CreateSnapshot { snapshot },
        Effect::CreateSnapshot { snapshot: safety },
        Effect::RevertToSnapshot { volume: used, snapshot },
        Effect::DeleteSnapshot { snapshot: safety },
        Effect::CloneVolume { volume: clone, size: ONE, source: used },
        Effect::CreateVolumeFromSnapshot { volume: made, size: ONE, snapshot },
        Effect::ExtendVolume { volume: used, to: TWO },
        Effect::Verify { object: used, size: TWO },
        Effect::DeleteSnapshot { snapshot },
        Effect::DeleteVolume { volume: used },
    ] {
        measure(&backend, &watch, effect).await;
    }
    let volumes: Vec<_> = (0..24).map(|_| volume()).collect();
    let began = Instant::now();
    for eight in volumes.chunks(8) {
        join_all(eight.iter().map(|volume| done(&backend, create(*volume)))).await;
    }
    println!("creates, 8 at a time        {:.2}/s", 24.0 / began.elapsed().as_secs_f64());
    let began = Instant::now();
    for eight in volumes.chunks(8) {
        join_all(eight.iter().map(|volume| done(&backend, Effect::DeleteVolume { volume: *volume }))).await;
    }
    println!("deletes, 8 at a time        {:.2}/s", 24.0 / began.elapsed().as_secs_f64());
}

#[tokio::test]
#[ignore = "needs real lvm2: ./test lvm -- figures"]
async fn figures_of_thick_and_thin() {
    figures("tephra-figthick", Provisioning::Thick).await;
    figures("tephra-figthin", Provisioning::Thin).await;
}

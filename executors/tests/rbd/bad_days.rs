//! Clusters that do not answer, are full, or refuse us.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tephra_domain::effect::{BackendObject, Effect, FailureKind};
use tephra_domain::ids::PoolName;
use tephra_domain::units::Timestamp;
use tephra_executors::backend::Backend;
use tephra_executors::backend::rbd::{RbdBackend, RbdConfig};
use tephra_executors::process::Spawner;

use super::lab::{Lab, ONE, create, pool, safety_of, snapshot_of, spec, until, volume};
use super::leftovers::delete_everything;

fn impatient(lab: &Lab, change: impl FnOnce(&mut RbdConfig)) -> RbdBackend {
    let mut config = RbdConfig { command_timeout: Duration::from_secs(4), ..lab.config() };
    change(&mut config);
    RbdBackend::new(config, Arc::new(Spawner))
}

async fn done(backend: &RbdBackend, effect: &Effect) {
    assert_eq!(backend.perform(&pool(), effect).await, Ok(()), "{effect:?}");
}

async fn refused(backend: &RbdBackend, effect: &Effect, kind: FailureKind, word: &str) {
    let failure = backend.perform(&pool(), effect).await.unwrap_err();
    assert_eq!(failure.kind, kind, "{effect:?}: {failure}");
    assert!(failure.message.contains(word), "{effect:?}: {failure}");
}

/// A volume, a snapshot of it, and one effect of each kind on them.
async fn one_of_each(backend: &RbdBackend) -> Vec<Effect> {
    let (source, deleted) = (volume(), volume());
    let (snapshot, dropped) = (snapshot_of(source), snapshot_of(source));
    for effect in [
        create(source),
        create(deleted),
        Effect::CreateSnapshot { snapshot: dropped },
        Effect::CreateSnapshot { snapshot },
    ] {
        done(backend, &effect).await;
    }
    let to = tephra_domain::units::SizeGib::new(2).unwrap();
    vec![
        create(volume()),
        Effect::CreateSnapshot { snapshot: snapshot_of(source) },
        Effect::DeleteSnapshot { snapshot: dropped },
        Effect::CloneVolume { volume: volume(), size: ONE, source },
        Effect::CreateVolumeFromSnapshot { volume: volume(), size: ONE, snapshot },
        Effect::RevertToSnapshot { volume: source, snapshot },
        Effect::Verify { object: source, size: ONE },
        Effect::ExtendVolume { volume: source, to },
        Effect::DeleteVolume { volume: deleted },
    ]
}

/// While the cluster is as it is, each effect fails within bounds; afterwards each succeeds.
async fn fails_and_goes_on(lab: &Lab, kind: FailureKind, begin: impl Fn(), end: impl Fn()) {
    let (patient, impatient) = (lab.backend(), impatient(lab, |_| {}));
    let effects = one_of_each(&patient).await;
    begin();
    let began = Instant::now();
    for effect in &effects {
        refused(&impatient, effect, kind, "answer").await;
    }
    assert!(impatient.stats(Timestamp(0)).await.is_err() || kind == FailureKind::TimedOut);
    let each = began.elapsed() / u32::try_from(effects.len()).unwrap();
    assert!(each < Duration::from_secs(20), "an effect failed only after {each:?}");
    end();
    for effect in &effects {
        done(&patient, effect).await;
    }
    delete_everything(lab, &patient).await;
}

#[tokio::test]
#[ignore = "needs Ceph: ./test ceph"]
async fn a_stopped_osd_fails_what_needs_it_and_all_goes_on_when_it_is_back() {
    let lab = Lab::start();
    fails_and_goes_on(
        &lab,
        FailureKind::TimedOut,
        || lab.signal("osd.0", "-STOP"),
        || lab.signal("osd.0", "-CONT"),
    )
    .await;
}

#[tokio::test]
#[ignore = "needs Ceph: ./test ceph"]
async fn a_dead_monitor_makes_the_backend_unavailable_until_it_is_back() {
    let lab = Lab::start();
    let kill = || {
        lab.signal("mon.a", "-9");
        until("the monitor is dead", || !lab.path("run/mon.a.pid").exists() || !is_alive(&lab, "mon.a"));
    };
    fails_and_goes_on(&lab, FailureKind::BackendUnavailable, kill, || lab.restart()).await;
}

#[tokio::test]
#[ignore = "needs Ceph: ./test ceph"]
async fn an_osd_that_was_killed_comes_back_with_everything() {
    let lab = Lab::start_on("bluestore");
    let kill = || {
        lab.signal("osd.0", "-9");
        until("the OSD is dead", || !is_alive(&lab, "osd.0"));
    };
    fails_and_goes_on(&lab, FailureKind::TimedOut, kill, || lab.restart()).await;
}

fn is_alive(lab: &Lab, daemon: &str) -> bool {
    let pid = std::fs::read_to_string(lab.path(&format!("run/{daemon}.pid"))).unwrap_or_default();
    let state = std::fs::read_to_string(format!("/proc/{}/stat", pid.trim())).unwrap_or_default();
    !state.is_empty() && !state.contains(") Z ")
}

#[tokio::test]
#[ignore = "needs Ceph: ./test ceph"]
async fn a_pool_at_its_quota_is_full_and_says_so() {
    let lab = Lab::start();
    let (patient, impatient) = (lab.backend(), impatient(&lab, |_| {}));
    let kept = volume();
    done(&patient, &create(kept)).await;
    lab.admin("ceph osd pool set-quota volumes max_bytes 1");
    let is_full = || lab.admin("ceph osd pool ls detail").contains("full_quota");
    until("the pool is full", is_full);
    refused(&impatient, &create(volume()), FailureKind::NoSpace, "quota").await;
    refused(
        &impatient,
        &Effect::CreateSnapshot { snapshot: snapshot_of(kept) },
        FailureKind::NoSpace,
        "quota",
    )
    .await;
    let stats = patient.stats(Timestamp(0)).await.unwrap();
    assert!(stats[0].free_gib < 1e-9 && stats[0].total_gib > 0.0, "{stats:?}");
    // Ceph has to note what it removes, and says otherwise that there is no such image
    refused(&impatient, &Effect::DeleteVolume { volume: kept }, FailureKind::NoSpace, "full").await;
    lab.admin("ceph osd pool set-quota volumes max_bytes 0");
    until("the pool has room", || !is_full());
    assert!(lab.admin("rbd ls volumes").contains(&kept.to_string()));
    done(&patient, &Effect::DeleteVolume { volume: kept }).await;
    assert!(!lab.admin("rbd ls volumes").contains(&kept.to_string()));
    done(&patient, &create(kept)).await;
    delete_everything(&lab, &patient).await;
}

#[tokio::test]
#[ignore = "needs Ceph: ./test ceph"]
async fn what_was_removed_behind_our_back_is_missing_or_gone() {
    let lab = Lab::start();
    let backend = lab.backend();
    let (volume, gone) = (volume(), volume());
    let (snapshot, safety) = (snapshot_of(volume), safety_of(volume));
    for effect in [create(volume), create(gone), Effect::CreateSnapshot { snapshot }] {
        done(&backend, &effect).await;
    }
    lab.admin(&format!("rbd rm --no-progress {}", spec(gone)));
    lab.admin(&format!("rbd snap unprotect {}", spec(snapshot)));
    lab.admin(&format!("rbd snap rm --no-progress {}", spec(snapshot)));
    let missing = FailureKind::ObjectMissing;
    let to = tephra_domain::units::SizeGib::new(2).unwrap();
    refused(&backend, &Effect::ExtendVolume { volume: gone, to }, missing, "not exist").await;
    refused(&backend, &Effect::CreateSnapshot { snapshot: snapshot_of(gone) }, missing, "not exist").await;
    refused(&backend, &Effect::RevertToSnapshot { volume, snapshot }, missing, "not exist").await;
    refused(&backend, &Effect::Verify { object: snapshot, size: ONE }, missing, "not exist").await;
    // a revert that fails takes its safety snapshot back
    done(&backend, &Effect::CreateSnapshot { snapshot: safety }).await;
    done(&backend, &Effect::DeleteSnapshot { snapshot: safety }).await;
    done(&backend, &Effect::DeleteSnapshot { snapshot }).await;
    done(&backend, &Effect::DeleteVolume { volume: gone }).await;
    delete_everything(&lab, &backend).await;
}

#[tokio::test]
#[ignore = "needs Ceph: ./test ceph"]
async fn an_image_that_is_open_is_busy_and_says_who_has_it() {
    let lab = Lab::start();
    let backend = lab.backend();
    let (volume, snapshot) = {
        let volume = volume();
        (volume, snapshot_of(volume))
    };
    done(&backend, &create(volume)).await;
    done(&backend, &Effect::CreateSnapshot { snapshot }).await;
    let clone = super::lab::volume();
    done(&backend, &Effect::CloneVolume { volume: clone, size: ONE, source: volume }).await;
    let open = lab.open(volume);
    let to = "given-up".into();
    refused(&backend, &Effect::RevertToSnapshot { volume, snapshot }, FailureKind::Busy, "127.0.0.1").await;
    refused(&backend, &Effect::Disown { object: volume, to }, FailureKind::Busy, "127.0.0.1").await;
    let found = backend.list(&pool()).await.unwrap();
    assert!(found.iter().any(|found| *found.name == *volume.to_string()));
    done(&backend, &Effect::DeleteSnapshot { snapshot }).await;
    // with clones it would go to the trash, which asks nobody
    refused(&backend, &Effect::DeleteVolume { volume }, FailureKind::Busy, "127.0.0.1").await;
    drop(open);
    done(&backend, &Effect::DeleteVolume { volume }).await;
    delete_everything(&lab, &backend).await;
}

#[tokio::test]
#[ignore = "needs Ceph: ./test ceph"]
async fn whoever_the_cluster_does_not_know_is_told_why() {
    let lab = Lab::start();
    let unavailable = FailureKind::BackendUnavailable;
    let stranger = lab.path("stranger.keyring");
    std::fs::write(&stranger, "[client.cinder]\nkey = AQAAAAAAAAAAABAAtfzoFmd8f1mVTvVXvqQYwA==\n").unwrap();
    let wrong_key = impatient(&lab, |config| config.keyring = Some(stranger));
    refused(&wrong_key, &create(volume()), unavailable, "clu").await;
    assert!(wrong_key.stats(Timestamp(0)).await.is_err());
    let no_keyring = impatient(&lab, |config| config.keyring = Some("/no/such/keyring".into()));
    refused(&no_keyring, &create(volume()), unavailable, "keyring").await;
    let no_conf = impatient(&lab, |config| config.ceph_conf = "/no/such/ceph.conf".into());
    refused(&no_conf, &create(volume()), unavailable, "configuration").await;
    let no_pool = impatient(&lab, |config| config.pools = vec![PoolName::new("nowhere")]);
    let failure = no_pool.perform(&PoolName::new("nowhere"), &create(volume())).await.unwrap_err();
    assert_eq!(failure.kind, unavailable, "{failure}");
    // a missing pool must never look like a volume that is gone
    let delete = Effect::DeleteVolume { volume: volume() };
    assert_eq!(no_pool.perform(&PoolName::new("nowhere"), &delete).await.unwrap_err().kind, unavailable);
    assert_eq!(lab.leftovers(), Vec::<String>::new());
}

#[tokio::test]
#[ignore = "needs Ceph: ./test ceph"]
async fn a_stalled_cluster_stalls_only_itself() {
    let (stalled, healthy) = (Lab::start(), Lab::start());
    let slow = impatient(&stalled, |config| config.command_timeout = Duration::from_secs(8));
    let fast = healthy.backend();
    stalled.signal("osd.0", "-STOP");
    let effect = create(volume());
    let waiting = slow.perform_in_background(&effect);
    let volume: BackendObject = volume();
    for effect in [create(volume), Effect::DeleteVolume { volume }] {
        done(&fast, &effect).await;
    }
    assert!(!waiting.is_finished(), "the stalled cluster was not waited for");
    assert_eq!(waiting.await.unwrap().unwrap_err().kind, FailureKind::TimedOut);
    stalled.signal("osd.0", "-CONT");
}

/// Beside the test.
trait InBackground {
    fn perform_in_background(
        self,
        effect: &Effect,
    ) -> tokio::task::JoinHandle<Result<(), tephra_domain::effect::Failure>>;
}

impl InBackground for RbdBackend {
    fn perform_in_background(
        self,
        effect: &Effect,
    ) -> tokio::task::JoinHandle<Result<(), tephra_domain::effect::Failure>> {
        let effect = effect.clone();
        tokio::spawn(async move { self.perform(&pool(), &effect).await })
    }
}

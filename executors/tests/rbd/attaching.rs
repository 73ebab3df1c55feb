//! What hosts that attach must know of the cluster, and what they must not.

use std::process::Command;
use std::sync::Arc;

use tephra_domain::effect::Effect;
use tephra_domain::units::Timestamp;
use tephra_executors::backend::Backend;
use tephra_executors::backend::rbd::{RbdBackend, RbdConfig};
use tephra_executors::process::Spawner;

use super::lab::{Lab, ONE, pool, spec, volume};

#[tokio::test]
#[ignore = "needs Ceph: ./test ceph"]
async fn hosts_are_told_where_the_monitors_are_and_no_key() {
    let lab = Lab::start();
    let secret = "4b5c8c0a-ff60-454b-a1b4-9747aa737d19";
    let config = RbdConfig { secret_uuid: Some(secret.to_owned()), ..lab.config() };
    let backend = RbdBackend::new(config, Arc::new(Spawner));
    assert_eq!(backend.description().export("hosts"), None, "nobody has asked the cluster yet");
    backend.stats(Timestamp(1)).await.unwrap();
    let description = backend.description();
    assert_eq!(description.export("hosts"), Some("127.0.0.1"));
    assert_eq!(description.export("secret_uuid"), Some(secret));
    assert_eq!(description.export("user"), Some("cinder"));
    let keyring = std::fs::read_to_string(lab.path("cinder.keyring")).unwrap();
    let key = keyring.lines().find_map(|line| line.trim().strip_prefix("key = ")).unwrap();
    assert!(!format!("{description:?}").contains(key));

    // with that and the key, a host reaches the image without any file of the cluster's
    let object = volume();
    backend.perform(&pool(), &Effect::CreateVolume { volume: object, size: ONE }).await.unwrap();
    let port = description.export("ports").unwrap();
    let image =
        format!("rbd:{}:id=cinder:key={key}:mon_host=127.0.0.1\\:{port}:conf=/dev/null", spec(object));
    let output = Command::new("qemu-img").args(["info", "-f", "raw", &image]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

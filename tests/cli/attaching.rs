//! What a client is told that attaches a volume on NFS, from the configuration to the answer.

use reqwest::Method;
use serde_json::json;

use crate::support::Server;

#[tokio::test]
async fn a_client_that_attaches_is_told_the_share_and_the_file_of_a_volume_on_nfs() {
    let outer = tempfile::tempdir().unwrap();
    let config = outer.path().join("tephra.toml");
    let directory = outer.path().join("mounted");
    let text = format!(
        "[[backends]]\nname = \"filer\"\ndriver = \"nfs\"\nexport = \"filer.example:/export/volumes\"\n\
         directory = {directory:?}\n"
    );
    std::fs::write(&config, text).unwrap();
    let server = Server::start_with(&outer.path().join("data"), &["--config", &config.display().to_string()]);
    let volume = server.volume("shared").await;
    assert!(directory.join(format!("volume-{volume}")).exists());
    let data = json!({
        "export": "filer.example:/export/volumes", "name": format!("volume-{volume}"), "format": "raw",
        "options": null, "volume_id": volume, "access_mode": "rw", "encrypted": false, "qos_specs": null,
        "discard": true,
    });

    let connector = json!({ "host": "compute-1", "ip": "192.0.2.20" });
    let action = format!("/v3/demo/volumes/{volume}/action");
    let body = json!({ "os-initialize_connection": { "connector": connector } });
    let told = server.call(Method::POST, &action, Some(body)).await;
    assert_eq!(
        told["connection_info"],
        json!({ "driver_volume_type": "nfs", "data": data, "enforce_multipath": false })
    );
    let body = json!({ "os-terminate_connection": { "connector": connector } });
    server.call(Method::POST, &action, Some(body)).await;
    server.settled("volumes", &volume).await;

    let body = json!({ "attachment": { "volume_uuid": volume, "connector": connector } });
    let told = server.call(Method::POST, "/v3/demo/attachments", Some(body)).await;
    let info = &told["attachment"]["connection_info"];
    assert_eq!(info["driver_volume_type"], "nfs");
    for (key, value) in data.as_object().unwrap() {
        assert_eq!(info[key], *value, "{key}");
    }
    server.stop();
}

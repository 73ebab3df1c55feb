//! Volumes made of what is on another backend of the same server.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::Server;

async fn new_type(server: &Server, name: &str) {
    let body = json!({ "volume_type": { "name": name, "extra_specs": { "volume_backend_name": name } } });
    server.call(Method::POST, "/v3/demo/types", Some(body)).await;
}

async fn new_volume(server: &Server, mut body: Value) -> String {
    body["name"] = json!("copy");
    let body = json!({ "volume": body });
    let created = server.call(Method::POST, "/v3/demo/volumes", Some(body)).await;
    let id = created["volume"]["id"].as_str().unwrap().to_owned();
    server.settled("volumes", &id).await;
    id
}

fn names(directory: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(directory).unwrap();
    let mut names: Vec<String> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.retain(|name| name != ".tephra.lock");
    names.sort();
    names
}

fn text_at(file: &Path, at: u64) -> String {
    let mut bytes = [0; 5];
    File::open(file).unwrap().read_exact_at(&mut bytes, at).unwrap();
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[tokio::test]
async fn a_type_of_another_backend_takes_a_clone_and_a_snapshots_data_there() {
    let outer = tempfile::tempdir().unwrap();
    let (slow, fast) = (outer.path().join("slow-files"), outer.path().join("fast-files"));
    let backend = |name: &str, directory: &Path| {
        format!("[[backends]]\nname = \"{name}\"\ndriver = \"directory\"\ndirectory = {directory:?}\n")
    };
    let config = outer.path().join("tephra.toml");
    std::fs::write(&config, backend("slow", &slow) + &backend("fast", &fast)).unwrap();
    let server = Server::start_with(&outer.path().join("data"), &["--config", &config.display().to_string()]);
    new_type(&server, "slow").await;
    new_type(&server, "fast").await;

    let source = new_volume(&server, json!({ "size": 1, "volume_type": "slow" })).await;
    let file = slow.join(format!("volume-{source}"));
    let writer = File::options().write(true).open(&file).unwrap();
    writer.write_all_at(b"first", 700 << 20).unwrap();
    let snapshot = server.snapshot(&source).await;
    writer.write_all_at(b"later", 700 << 20).unwrap();
    drop(writer);

    let ask = json!({ "source_volid": source, "size": 2, "volume_type": "fast" });
    let clone = new_volume(&server, ask).await;
    let made = fast.join(format!("volume-{clone}"));
    assert_eq!((text_at(&made, 700 << 20), made.metadata().unwrap().len()), ("later".to_owned(), 2 << 30));
    let copy = new_volume(&server, json!({ "snapshot_id": snapshot, "volume_type": "fast" })).await;
    assert_eq!(text_at(&fast.join(format!("volume-{copy}")), 700 << 20), "first");
    // and by its own type beside its source
    let beside = new_volume(&server, json!({ "source_volid": source })).await;
    assert_eq!(text_at(&slow.join(format!("volume-{beside}")), 700 << 20), "later");

    let mut expected = vec![format!("volume-{source}"), format!("volume-{beside}")];
    expected.push(format!("snapshot-{snapshot}"));
    expected.sort();
    assert_eq!(names(&slow), expected, "nothing that was made for copying stays behind");
    assert_eq!(names(&fast).len(), 2);
    let operations = server.call(Method::GET, "/ledger/v1/operations?kind=volume_copy", None).await;
    assert_eq!(operations["operations"].as_array().map(Vec::len), Some(2), "{operations}");
    server.stop();
}

//! `tephra drift`: what it finds, how it says so, and what it does when it is told to clean up.

use std::fs::File;

use crate::support::{Server, run, run_on, until};

#[tokio::test]
async fn drift_tells_what_is_missing_unknown_and_of_another_size_by_its_exit_code() {
    let outer = tempfile::tempdir().unwrap();
    let data = outer.path().join("data");
    let server = Server::start(&data);
    let (kept, lost, grown) =
        (server.volume("kept").await, server.volume("lost").await, server.volume("grown").await);
    let drift = |arguments: &[&str]| run_on(&data, &[&["drift"], arguments].concat());
    let said = drift(&[]).exits(0).stdout;
    assert!(said.contains("no drift"), "{said}");

    let volumes = data.join("volumes");
    std::fs::remove_file(volumes.join(format!("volume-{lost}"))).unwrap();
    File::options()
        .write(true)
        .open(volumes.join(format!("volume-{grown}")))
        .unwrap()
        .set_len(2 << 30)
        .unwrap();
    File::create(volumes.join("stray")).unwrap().set_len(1 << 20).unwrap();
    let report = drift(&["--json"]).exits(9).json();
    let findings = report["pools"][0]["findings"].as_array().unwrap();
    let text = |finding: &serde_json::Value, key: &str| finding[key].as_str().unwrap().to_owned();
    let mut found: Vec<_> = findings.iter().map(|it| (text(it, "finding"), text(it, "name"))).collect();
    found.sort();
    let expected = [
        ("missing", format!("volume-{lost}")),
        ("unknown", "stray".to_owned()),
        ("wrong_size", format!("volume-{grown}")),
    ];
    assert_eq!(found, expected.map(|(kind, name)| (kind.to_owned(), name)));
    let shown = drift(&["--backend", "directory"]).exits(9);
    for word in ["missing", "unknown", "wrong_size", "stray", &lost, &grown] {
        assert!(shown.stdout.contains(word), "{word}: {}", shown.stdout);
    }
    assert!(!shown.stdout.contains(&kept), "{}", shown.stdout);
    assert!(shown.stderr.contains("3 objects"), "{}", shown.stderr);

    // what the ledger has is not cleaned, whatever it is called
    drift(&["--clean", &format!("volume-{kept}")]).exits(3);
    drift(&["--clean", "never-was"]).exits(3);
    run(&["drift", "--clean", "stray", "--url", &server.url, "--token", "mia:demo"]).exits(8);
    let pool = report["pools"][0]["pool"].as_str().unwrap();
    drift(&["--clean", "stray", "--pool", pool]).exits(0);
    until("the stray is gone", || (!volumes.join("stray").exists()).then_some(()));
    assert!(volumes.join(format!("volume-{kept}")).exists());
    server.stop();
}

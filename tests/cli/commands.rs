//! The other commands: online and offline alike, for people and for scripts.

use std::io::{BufRead as _, BufReader, Read as _};
use std::process::Stdio;

use crate::support::{Server, run, run_on, tephra, until};
use reqwest::Method;
use serde_json::{Value, json};

fn directory() -> (tempfile::TempDir, std::path::PathBuf) {
    let outer = tempfile::tempdir().unwrap();
    let data = outer.path().join("data");
    (outer, data)
}

fn kinds(events: &Value) -> Vec<&str> {
    events.as_array().unwrap().iter().map(|event| event["kind"].as_str().unwrap()).collect()
}

#[test]
fn the_demo_tells_its_story_and_leaves_nothing_behind() {
    let scratch = tempfile::tempdir().unwrap();
    let told = tephra().args(["demo", "--json"]).env("TMPDIR", scratch.path()).output().unwrap();
    let stderr = String::from_utf8_lossy(&told.stderr).into_owned();
    assert!(told.status.success(), "{stderr}");
    let story: Value = serde_json::from_slice(&told.stdout).unwrap();
    let steps = story["steps"].as_array().unwrap();
    assert!(steps.iter().any(|step| step["result"]["equal"] == json!(true)), "{story}");
    let history = steps.iter().find(|step| step["result"]["timeline"].is_array()).unwrap();
    let timeline = &history["result"]["timeline"];
    let sentences = timeline.as_array().unwrap().iter().map(|line| line["what"].as_str().unwrap());
    assert!(sentences.clone().all(|sentence| !sentence.is_empty()), "{timeline}");
    let kinds = kinds(timeline);
    for kind in ["VolumeCreateAccepted", "VolumeCreated", "VolumeRevertAccepted", "VolumeReverted"] {
        assert!(kinds.contains(&kind), "{kind} is not in {kinds:?}");
    }
    assert_eq!(std::fs::read_dir(scratch.path()).unwrap().count(), 0, "the directory is removed");
}

#[test]
fn the_demo_can_be_looked_around_in_afterwards() {
    let scratch = tempfile::tempdir().unwrap();
    let told = tephra().args(["demo", "--keep"]).env("TMPDIR", scratch.path()).output().unwrap();
    let stdout = String::from_utf8(told.stdout).unwrap();
    assert!(told.status.success(), "{stdout}\n{}", String::from_utf8_lossy(&told.stderr));
    assert!(!stdout.contains('\u{1b}'), "no colours where there is no terminal");
    let kept = std::fs::read_dir(scratch.path()).unwrap().next().unwrap().unwrap().path();
    assert!(stdout.contains(kept.to_str().unwrap()));
    let log = run_on(&kept, &["log", "--kind", "VolumeReverted", "--json"]).exits(0);
    assert_eq!(log.json_lines().len(), 1);
}

#[tokio::test]
async fn questions_have_the_same_answers_with_and_without_a_server() {
    let (_outer, data) = directory();
    let server = Server::start(&data);
    let volume = server.volume("remembered").await;
    let snapshot = server.snapshot(&volume).await;
    let revert = json!({ "revert": { "snapshot_id": snapshot } });
    server.call(Method::POST, &format!("/v3/demo/volumes/{volume}/action"), Some(revert)).await;
    server.settled("volumes", &volume).await;
    server.settled("snapshots", &snapshot).await;
    let operation = {
        let log = run_on(&data, &["log", "--kind", "VolumeRevertAccepted", "--json"]).exits(0).json_lines();
        log[0]["data"]["operation_id"].as_str().unwrap().to_owned()
    };
    let resource = format!("volume:{volume}");
    let questions: Vec<Vec<&str>> = vec![
        vec!["log"],
        vec!["log", "--json"],
        vec!["log", "--project", "demo", "--limit", "3", "--json"],
        vec!["log", "--resource", &resource, "--json"],
        vec!["log", "--after", "4", "--since", "1h ago", "--json"],
        vec!["history", &volume, "--json"],
        vec!["history", &snapshot, "--json"],
        vec!["history", &operation, "--json"],
        vec!["history", "backend:directory", "--json"],
        vec!["state", "--at", "3", "--json"],
        vec!["state", "--at", "4", "--volume", &volume, "--json"],
        vec!["operations", "--all", "--json"],
        vec!["operations", &operation, "--json"],
        vec!["operations"],
        vec!["debts"],
    ];
    let online: Vec<_> = questions.iter().map(|question| run_on(&data, question).exits(0).stdout).collect();
    run_on(&data, &["verify"]).exits(0);
    server.stop();
    for (question, online) in questions.iter().zip(online) {
        let offline = run_on(&data, question).exits(0).stdout;
        assert!(!offline.is_empty(), "{question:?}");
        assert_eq!(offline, online, "{question:?}");
    }
    let verified = run_on(&data, &["verify", "--json"]).exits(0).json();
    assert_eq!(verified["intact"], json!(true));
    assert_eq!(verified["views"], json!("equal to a replay of the journal"));
}

#[tokio::test]
async fn the_log_is_whole_paged_and_filtered() {
    let (_outer, data) = directory();
    let server = Server::start(&data);
    let volume = server.volume("v").await;
    server.accept_volume("other", "w").await;
    let all = run_on(&data, &["log", "--json"]).exits(0).json_lines();
    let positions: Vec<u64> = all.iter().map(|event| event["position"].as_u64().unwrap()).collect();
    assert!(positions.is_sorted() && positions.first() == Some(&1), "{positions:?}");
    let gaps = positions.windows(2).filter(|pair| pair[1] > pair[0] + 1).count();
    assert_eq!(gaps, 0, "{positions:?}");

    let first = run_on(&data, &["log", "--json", "--limit", "2"]).exits(0).json_lines();
    assert_eq!(first[..], all[..2]);
    let project = run_on(&data, &["log", "--json", "--project", "other"]).exits(0).json_lines();
    assert!(!project.is_empty() && project.iter().all(|event| event["project"] == json!("other")));
    let resource = format!("volume:{volume}");
    let created = run_on(&data, &["log", "--json", "--resource", &resource, "--kind", "VolumeCreated"]);
    assert_eq!(created.exits(0).json_lines().len(), 1);
    assert_eq!(run_on(&data, &["log", "--json", "--since", "now"]).exits(0).stdout, "");
    server.stop();
}

#[tokio::test]
async fn following_shows_what_happens_next() {
    let (_outer, data) = directory();
    let server = Server::start(&data);
    let mut follower = tephra()
        .args(["log", "--json", "--follow", "--kind", "VolumeCreated", "--limit", "1", "--data-dir"])
        .arg(&data)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let volume = server.volume("v").await;
    let mut line = String::new();
    BufReader::new(follower.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let event: Value = serde_json::from_str(&line).unwrap();
    assert_eq!(event["resource"]["id"], json!(volume));
    assert!(until("the follower ends at its limit", || follower.try_wait().unwrap()).success());
    server.stop();
    let alone = run_on(&data, &["log", "--follow"]).exits(5);
    assert!(alone.stderr.contains("no server runs"), "{}", alone.stderr);
}

#[tokio::test]
async fn a_reader_that_stops_reading_ends_the_log_without_a_word() {
    let (_outer, data) = directory();
    let server = Server::start(&data);
    for number in 0..40 {
        server.accept_volume(&format!("project-{}", number / 10), "v").await;
    }
    let mut log = tephra()
        .args(["log", "--json", "--data-dir"])
        .arg(&data)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut head = [0; 16];
    log.stdout.take().unwrap().read_exact(&mut head).unwrap();
    let output = log.wait_with_output().unwrap();
    assert!(output.status.success(), "{output:?}");
    assert_eq!(String::from_utf8(output.stderr).unwrap(), "");
    server.stop();
}

#[tokio::test]
async fn the_past_shows_what_was_there_then() {
    let (_outer, data) = directory();
    let server = Server::start(&data);
    let volume = server.volume("once").await;
    server.call(Method::DELETE, &format!("/v3/demo/volumes/{volume}"), None).await;
    let log =
        run_on(&data, &["log", "--json", "--resource", &format!("volume:{volume}")]).exits(0).json_lines();
    let created = log.iter().find(|event| event["kind"] == json!("VolumeCreated")).unwrap();
    let position = created["position"].to_string();
    let then = run_on(&data, &["state", "--at", &position, "--volume", &volume, "--json"]).exits(0).json();
    assert_eq!(then["volume"]["status"], json!("available"), "{then}");
    let moment = created["time"].as_str().unwrap();
    let then = run_on(&data, &["state", "--at", moment, "--json"]).exits(0).json();
    assert_eq!(then["volumes"][0]["id"], json!(volume), "{then}");
    run_on(&data, &["state", "--at", "1", "--volume", &volume]).exits(3);
    run_on(&data, &["state", "--at", "1000000"]).exits(3);
    server.stop();
}

#[tokio::test]
async fn rebuilt_views_answer_as_before() {
    let (_outer, data) = directory();
    let server = Server::start(&data);
    server.volume("v").await;
    run_on(&data, &["rebuild"]).exits(6);
    server.stop();
    let before = run_on(&data, &["state", "--at", "now", "--json"]).exits(0).stdout;
    let rebuilt = run_on(&data, &["rebuild", "--json"]).exits(0).json();
    assert!(rebuilt["position"].as_u64().unwrap() > 0);
    run_on(&data, &["verify"]).exits(0);
    assert_eq!(run_on(&data, &["state", "--at", "now", "--json"]).exits(0).stdout, before);
}

#[tokio::test]
async fn every_exit_code_is_what_the_help_says() {
    let (outer, data) = directory();
    let nowhere = outer.path().join("nowhere");
    for command in ["log", "verify", "debts", "operations"] {
        run_on(&nowhere, &[command]).exits(3);
    }
    run(&["log", "--url", "http://127.0.0.1:1"]).exits(5);
    run(&["log", "--url", "127.0.0.1:1"]).exits(2);
    run(&["frobnicate"]).exits(2);
    run(&["state", "--at", "yesterday"]).exits(2);

    let server = Server::start(&data);
    let volume = server.volume("healthy").await;
    let unknown = uuid::Uuid::new_v4().to_string();
    run_on(&data, &["history", &unknown]).exits(3);
    run_on(&data, &["operations", &unknown]).exits(3);
    run_on(&data, &["state", "--at", "now", "--volume", &unknown]).exits(3);
    run_on(&data, &["recover", &unknown]).exits(3);
    run_on(&data, &["recover", &volume]).exits(8);
    run_on(&data, &["debts", "--release", &format!("{unknown}.0")]).exits(3);
    run_on(&data, &["log", "--resource", "planet:earth"]).exits(2);
    server.stop();
    run_on(&data, &["recover", &volume]).exits(5);
}

#[test]
fn a_configuration_is_checked_key_by_key() {
    let outer = tempfile::tempdir().unwrap();
    let file = outer.path().join("tephra.toml");
    let check = |text: &str| {
        std::fs::write(&file, text).unwrap();
        run(&["config", "check", file.to_str().unwrap()])
    };
    assert!(check("listen = \"127.0.0.1:1234\"\n").exits(0).stdout.contains("127.0.0.1:1234"));
    let unknown = check("listen = \"127.0.0.1:1234\"\nlisten_too = 1\n").exits(2);
    assert!(unknown.stderr.contains("line 2") && unknown.stderr.contains("listen_too"), "{}", unknown.stderr);
    assert!(check("[limits]\nconnections = 0\n").exits(2).stderr.contains("limits.connections"));
    run(&["config", "check", "/nonexistent.toml"]).exits(3);
    let defaults = run(&["config", "check", "--json"]).exits(0).json();
    assert_eq!(defaults["backends"][0]["name"], json!("directory"));
}

#[test]
fn every_command_explains_itself_with_examples() {
    let commands =
        ["serve", "demo", "log", "history", "state", "operations", "debts", "recover", "verify", "rebuild"];
    for command in commands {
        let help = run(&[command, "--help"]).exits(0).stdout;
        assert!(help.contains("Examples:"), "{command}: {help}");
        assert!(help.contains(&format!("tephra {command}")), "{command}: {help}");
    }
    assert!(run(&["--help"]).exits(0).stdout.contains("Exit codes:"));
    assert!(run(&["--version"]).exits(0).stdout.starts_with("tephra "));
}

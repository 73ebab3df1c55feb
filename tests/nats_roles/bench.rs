//! `tephra bench` measures all journals. Its figures are not looked at here: they are the machine's.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

#[test]
fn every_figure_is_measured_on_every_journal() -> Result<()> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("labs/nats-cluster");
    let found = Command::new(script).arg("program").output()?;
    ensure!(found.status.success(), "{}", String::from_utf8_lossy(&found.stderr));
    let nats_server = String::from_utf8(found.stdout)?;
    let directory = tempfile::tempdir()?;
    let measured = Command::new(env!("CARGO_BIN_EXE_tephra"))
        .args(["--json", "bench", "--journal", "embedded,r1,r3", "--seconds", "0.2", "--volumes", "100"])
        .args(["--failovers", "1", "--nats-server", nats_server.trim(), "--directory"])
        .arg(directory.path())
        .output()?;
    ensure!(measured.status.success(), "{}", String::from_utf8_lossy(&measured.stderr));
    let figures: Vec<Value> = serde_json::from_slice(&measured.stdout)?;
    let everywhere = [
        "create to available, median of 100",
        "durable creates, 64 connections",
        "durable creates, 64 connections, p99",
        "replay into state, bytes verified and decoded",
        "shows, 100 volumes in the project",
    ];
    let on_nats = [
        "shown by the second replica after, p99",
        "sequencer killed (-9): to the first new answer, median",
        "sequencer held still (SIGSTOP): to the first new answer, longest",
    ];
    let on_three = ["NATS leader killed (-9): to the first new answer, longest"];
    let wanted: [(&str, Vec<&str>); 3] = [
        ("embedded", everywhere.to_vec()),
        ("r1", [&everywhere[..], &on_nats].concat()),
        ("r3", [&everywhere[..], &on_nats, &on_three].concat()),
    ];
    for (journal, names) in wanted {
        for name in names {
            let figure = figures.iter().find(|row| row["journal"] == journal && row["name"] == name);
            let figure = figure.with_context(|| format!("{name} on {journal} was not measured"))?;
            ensure!(figure["value"].as_f64().is_some_and(|value| value > 0.0), "{figure}");
        }
    }
    let left = std::fs::read_dir(directory.path())?.count();
    ensure!(left == 0, "{left} directories are left behind");
    Ok(())
}

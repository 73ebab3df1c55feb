//! Moving a journal: from a file to NATS and back, with the same bytes.

use std::path::Path;
use std::process::{Command, Output};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::deployment::Nats;
use crate::server::Server;
use crate::{create, status_becomes};

fn tephra(arguments: &[&str]) -> Result<Output> {
    let program = std::env::var_os("TEPHRA_BIN").unwrap_or_else(|| env!("CARGO_BIN_EXE_tephra").into());
    Ok(Command::new(program).args(arguments).output()?)
}

fn json(arguments: &[&str]) -> Result<Value> {
    let output = tephra(arguments)?;
    ensure!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(serde_json::from_slice(&output.stdout)?)
}

fn copy(from: &str, to: &str, config: &Path) -> Result<Value> {
    let config = config.to_str().context("a path in UTF-8")?;
    json(&["journal", "copy", "--from", from, "--to", to, "--config", config, "--json"])
}

/// A data directory with some history, whose server has ended. One more volume each time.
async fn history(server: &mut Server) -> Result<()> {
    server.spawn()?;
    server.ready().await?;
    let api = server.api("user", "p")?;
    let volume = create(&api, &uuid::Uuid::new_v4().to_string()).await?;
    status_becomes(&api, &format!("/v3/volumes/{volume}"), "volume", "available").await?;
    server.kill()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_journal_is_the_same_after_it_went_to_nats_and_back() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let nats = Nats::start(&directory.path().join("nats"), 1)?;
    let config = directory.path().join("tephra.toml");
    std::fs::write(&config, "[nats]\nservers_sync = true\n")?;
    let mut server = Server::new(directory.path());
    history(&mut server).await?;
    let data = server.volumes().parent().context("the data directory")?.display().to_string();
    let back = directory.path().join("back").display().to_string();
    let (origin, there, returned) =
        (format!("embedded:{data}"), nats.servers.join(","), format!("embedded:{back}"));

    let first = copy(&origin, &there, &config)?;
    ensure!(first["copied_blocks"] == first["blocks"] && first["blocks"] != 0, "{first}");
    let again = copy(&origin, &there, &config)?;
    ensure!(again["copied_blocks"] == 0 && again["hash"] == first["hash"], "{again}");
    history(&mut server).await?;
    let rest = copy(&origin, &there, &config)?;
    ensure!(rest["copied_blocks"].as_u64() < rest["blocks"].as_u64(), "it goes on where it ended: {rest}");
    ensure!(rest["copied_blocks"] != 0, "{rest}");
    let home = copy(&there, &returned, &config)?;
    ensure!(home["hash"] == rest["hash"] && home["copied_blocks"] == rest["blocks"], "{home}");

    let state = |data: &str| json(&["verify", "--data-dir", data, "--json"]);
    // Views that are equal to a replay of the same blocks are equal to each other.
    for directory in [&data, &back] {
        json(&["rebuild", "--data-dir", directory, "--json"])?;
    }
    let (before, after) = (state(&data)?, state(&back)?);
    for key in ["hash", "blocks", "position", "views"] {
        ensure!(before[key] == after[key], "{key}: {before} became {after}");
    }

    // Another journal's blocks are not its beginning.
    let mut other = Server::new(&directory.path().join("other"));
    std::fs::create_dir(directory.path().join("other"))?;
    history(&mut other).await?;
    let stranger = other.volumes().parent().context("the data directory")?.display().to_string();
    let refused = tephra(&[
        "journal",
        "copy",
        "--from",
        &format!("embedded:{stranger}"),
        "--to",
        &there,
        "--config",
        config.to_str().context("a path in UTF-8")?,
    ])?;
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    ensure!(refused.status.code() == Some(4) && said.contains("not a beginning"), "{said}");
    Ok(())
}

//! Servers that are not there when a process starts: it waits for them, but not for one that says no.

use anyhow::{Result, ensure};

use crate::deployment::{Nats, Process, Unusual, free_address};
use crate::server::{Api, until};
use crate::{create, status_becomes};

#[tokio::test(flavor = "multi_thread")]
async fn processes_that_start_before_any_server_answers_wait_for_one() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let nats = Nats::start(&directory.path().join("nats"), 1)?;
    nats.run("kill", &["1"])?;
    let config = directory.path().join("tephra.toml");
    std::fs::write(&config, format!("[nats]\nservers = {:?}\nservers_sync = true\n", nats.servers))?;
    let (config, listen) = (config.display().to_string(), free_address()?);
    let mut processes: Vec<Process> = [
        ("api", vec!["serve", "--roles", "api", "--listen", &listen]),
        ("sequencer", vec!["serve", "--roles", "sequencer"]),
        ("events", vec!["serve", "--roles", "events"]),
        ("executor", vec!["executor"]),
    ]
    .into_iter()
    .map(|(name, arguments)| {
        Process::new(directory.path(), name, &[&arguments[..], &["--config", &config]].concat())
    })
    .collect();
    for process in &mut processes {
        process.spawn()?;
    }
    let address = nats.servers[0].trim_start_matches("nats://");
    for process in &processes {
        until("it says what it waits for", async || {
            let said = process.said();
            let waiting = said.lines().find(|line| line.contains("waiting for what is not there yet"));
            Ok(waiting.filter(|line| line.contains(address)).map(drop))
        })
        .await?;
    }
    nats.run("resume", &["1"])?;
    let api = Api::replica(&format!("http://{listen}"), "admin", "operators")?;
    until("it is ready", async || Ok(api.look("/readyz").await.ok().flatten())).await?;
    crate::volumes_are_placed(&api).await?;
    let volume = create(&api, "after the servers came").await?;
    status_becomes(&api, &format!("/v3/volumes/{volume}"), "volume", "available").await?;
    until("events are published", async || Ok(processes[2].is_publishing().then_some(()))).await?;
    for process in &mut processes {
        process.stop().await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_does_not_know_us_is_not_waited_for() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let include = Some("authorization { user: tephra, password: secret }\n".to_owned());
    let nats =
        Nats::start_unusual(&directory.path().join("nats"), 1, Unusual { include, ..Unusual::default() })?;
    let servers = nats.servers.join(",");
    let mut stranger = Process::new(directory.path(), "stranger", &["executor", "--nats", &servers]);
    stranger.spawn()?;
    let code = stranger.ends().await?;
    let said = stranger.said();
    ensure!(code == Some(1), "it ended with {code:?}:\n{said}");
    ensure!(said.contains("authorization violation"), "{said}");
    ensure!(!said.contains("waiting for"), "{said}");
    Ok(())
}

//! Servers that would lose what was acknowledged: the process that would append to them ends, and
//! says what is wrong and what would be right.

use std::path::Path;

use anyhow::{Result, ensure};
use async_nats::jetstream;
use async_nats::jetstream::stream::{Config, StorageType};

use crate::deployment::{Nats, Process, Unusual, free_address};
use crate::server::{Api, until};

/// The exit code of a configuration that cannot work.
const USAGE: i32 = 2;

/// Our account may ask whether the servers sync.
const ACCOUNTS: &str = r#"
accounts {
  SYS: { exports: [ { service: "$SYS.REQ.SERVER.PING.JSZ", response: stream } ] }
  TEPHRA: {
    jetstream: enabled
    users: [ { user: tephra, password: tephra } ]
    imports: [ { service: { account: SYS, subject: "$SYS.REQ.SERVER.PING.JSZ" } } ]
  }
}
system_account: SYS
no_auth_user: tephra
"#;

fn asked_about() -> Option<String> {
    Some(ACCOUNTS.to_owned())
}

async fn is_refused(directory: &Path, nats: &Nats, settings: &str, expected: &[&str]) -> Result<()> {
    let config = directory.join("refused.toml");
    std::fs::write(&config, format!("[nats]\nservers = {:?}\n{settings}", nats.servers))?;
    let config = config.display().to_string();
    let mut process =
        Process::new(directory, "refused", &["serve", "--listen", "127.0.0.1:0", "--config", &config]);
    process.spawn()?;
    let code = process.ends().await?;
    let said = process.said();
    ensure!(code == Some(USAGE), "it ended with {code:?}:\n{said}");
    for part in expected {
        ensure!(said.contains(part), "`{part}` is not in:\n{said}");
    }
    ensure!(!said.contains("deciding commands"), "{said}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_too_old_is_refused() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let unusual = Unusual { old: true, include: asked_about(), ..Unusual::default() };
    let nats = Nats::start_unusual(&directory.path().join("nats"), 1, unusual)?;
    is_refused(directory.path(), &nats, "", &["version 2.14.6", "2.15.1 or newer", "sync_interval: always"])
        .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_in_memory_or_on_too_few_servers_is_refused() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let unusual = Unusual { include: asked_about(), ..Unusual::default() };
    let nats = Nats::start_unusual(&directory.path().join("nats"), 3, unusual)?;
    let context = jetstream::new(async_nats::connect(nats.servers.as_slice()).await?);
    for (storage, replicas, expected) in
        [(StorageType::Memory, 3, "is in memory"), (StorageType::File, 1, "is on 1 servers, not on 3")]
    {
        let stream = Config {
            name: "TEPHRA_LEDGER_main".into(),
            subjects: vec!["tephra.ledger.main".into()],
            storage,
            num_replicas: replicas,
            ..Config::default()
        };
        context.create_stream(stream).await?;
        let remedy = ["\"deny_delete\": true", "\"storage\": \"file\"", "\"num_replicas\": 3"];
        is_refused(directory.path(), &nats, "replicas = 3\n", &[&[expected], &remedy[..]].concat()).await?;
        context.delete_stream("TEPHRA_LEDGER_main").await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn tags_that_no_server_has_are_refused_by_name() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let unusual = Unusual { include: asked_about(), ..Unusual::default() };
    let nats = Nats::start_unusual(&directory.path().join("nats"), 3, unusual)?;
    let expected = ["TEPHRA_LEDGER_main", "placement", "tags not matched ['ssd']", "server_tags"];
    let settings = "replicas = 3\nplacement = [\"lab\", \"ssd\"]\n";
    is_refused(directory.path(), &nats, settings, &expected).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_does_not_sync_is_refused_unless_told_so_and_then_everybody_is_told() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let unusual = Unusual { unsynced: true, include: asked_about(), ..Unusual::default() };
    let nats = Nats::start_unusual(&directory.path().join("nats"), 1, unusual)?;
    let why = ["`n1` acknowledges before it syncs", "sync_interval: always", "--allow-unsynced"];
    is_refused(directory.path(), &nats, "", &why).await?;
    // The operator's word does not outweigh what the servers say.
    is_refused(directory.path(), &nats, "servers_sync = true\n", &why).await?;

    let (listen, servers) = (free_address()?, nats.servers.join(","));
    let arguments = ["serve", "--listen", &listen, "--nats", &servers, "--allow-unsynced"];
    let mut process = Process::new(directory.path(), "laptop", &arguments);
    process.spawn()?;
    let api = Api::replica(&format!("http://{listen}"), "admin", "operators")?;
    let ready = until("it is ready", async || Ok(api.look("/readyz").await.ok().flatten())).await?;
    let warning = ready["warning"].as_str().unwrap_or_default();
    ensure!(warning.contains("may be lost on power loss") && warning.contains("n1"), "{ready}");
    let said = process.said();
    ensure!(said.contains("ACKNOWLEDGED COMMANDS MAY BE LOST") && said.contains("ERROR"), "{said}");
    crate::create(&api, "one").await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_api_says_what_the_sequencer_s_operator_was_told_wherever_that_is() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let unusual = Unusual { unsynced: true, include: asked_about(), ..Unusual::default() };
    let nats = Nats::start_unusual(&directory.path().join("nats"), 1, unusual)?;
    let (listen, servers) = (free_address()?, nats.servers.join(","));
    let arguments = ["serve", "--roles", "sequencer", "--nats", &servers, "--allow-unsynced"];
    let mut sequencer = Process::new(directory.path(), "sequencer", &arguments);
    sequencer.spawn()?;
    let arguments = ["serve", "--roles", "api", "--listen", &listen, "--nats", &servers];
    let mut api = Process::new(directory.path(), "api", &arguments);
    api.spawn()?;
    let client = Api::replica(&format!("http://{listen}"), "admin", "operators")?;
    let ready = until("it is ready", async || Ok(client.look("/readyz").await.ok().flatten())).await?;
    let warning = ready["warning"].as_str().unwrap_or_default();
    ensure!(warning.contains("may be lost on power loss") && warning.contains("n1"), "{ready}");
    Ok(())
}

//! The example of a server's configuration, as it stands but for places and addresses, with the example
//! of permissions that it includes: the ledger is safe on servers that are run like that.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use nkeys::KeyPair;
use tephra_journal::jetstream::{
    DurabilityClaim, DurabilityProof, JetStreamLog, NatsAuth, NatsConfig, NatsTls, connect,
};
use tephra_journal::log::{BlockNumber, Log};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::tls::Certificates;
use crate::until;

const SERVER: &str = include_str!("../../../deploy/nats/server.conf.example");
const PERMISSIONS: &str = include_str!("../../../deploy/nats/permissions.conf.example");
const SERVERS: usize = 3;

/// Servers that end with the test.
struct Servers {
    running: Vec<Child>,
    addresses: Vec<String>,
    /// Where they reach each other.
    routes: Vec<String>,
    monitors: Vec<String>,
    directory: PathBuf,
}

impl Drop for Servers {
    fn drop(&mut self) {
        for server in &mut self.running {
            server.kill().unwrap();
            server.wait().unwrap();
        }
    }
}

impl Servers {
    /// The configuration of each, as the example says: with its own name and the same cluster.
    fn start(certificates: &Certificates) -> Self {
        let directory = certificates.path("");
        let program = program();
        certificates.sign("routes-ca", &["route"]);
        std::fs::write(directory.join("permissions.conf"), PERMISSIONS).unwrap();
        let mut environment = Vec::new();
        for variable in PERMISSIONS.split('$').filter_map(|after| after.split([' ', '\n', '}']).next()) {
            if variable.starts_with("TEPHRA_") && variable.ends_with("_NKEY") {
                let key = KeyPair::new_user();
                std::fs::write(directory.join(variable), key.seed().unwrap()).unwrap();
                environment.push((variable, key.public_key()));
            }
        }
        let clients = free_addresses();
        let routes = free_addresses();
        let monitors = free_addresses();
        let (running, addresses) = (Vec::new(), Vec::new());
        let mut servers = Self { running, addresses, routes, monitors, directory };
        for (number, client) in clients.iter().enumerate() {
            let mut text = SERVER.to_owned();
            let mut replace = |from: &str, to: &str| {
                assert!(text.contains(from), "`{from}` is not in the example");
                text = text.replace(from, to);
            };
            replace("server_name: nats-1", &format!("server_name: nats-{}", number + 1));
            replace("0.0.0.0:4222", client);
            replace("127.0.0.1:8222", &servers.monitors[number]);
            replace("0.0.0.0:6222", &servers.routes[number]);
            for (other, address) in servers.routes.iter().enumerate() {
                replace(&format!("nats-{}.example.org:6222", other + 1), address);
            }
            let store = servers.directory.join(format!("store-{number}")).display().to_string();
            replace("/var/lib/nats", &store);
            replace("/etc/nats", &servers.directory.display().to_string());
            let file = servers.directory.join(format!("server-{number}.conf"));
            std::fs::write(&file, text).unwrap();
            servers.running.push(start(&program, &file, &environment));
            servers.addresses.push(format!("tls://{client}"));
        }
        servers
    }

    /// Whom the first server is joined with, as its monitor says.
    async fn joined(&self) -> String {
        let mut monitor = TcpStream::connect(&self.monitors[0]).await.unwrap();
        monitor.write_all(b"GET /routez HTTP/1.0\r\n\r\n").await.unwrap();
        let mut said = String::new();
        monitor.read_to_string(&mut said).await.unwrap();
        said
    }

    /// A server of somebody else's that asks the first one to join.
    fn start_stranger(&mut self, name: &str, tls: &str) {
        let file = self.directory.join(format!("{name}.conf"));
        let route = &self.routes[0];
        let text = format!(
            "server_name: {name}\nlisten: \"127.0.0.1:-1\"\n\
             cluster {{ name: tephra, listen: \"127.0.0.1:-1\", routes: [\"nats://{route}\"]\n{tls} }}\n"
        );
        std::fs::write(&file, text).unwrap();
        self.running.push(start(&program(), &file, &[]));
    }
}

fn program() -> String {
    let found = Command::new(crate::cluster::script()).arg("program").output().unwrap();
    assert!(found.status.success(), "{}", String::from_utf8_lossy(&found.stderr));
    String::from_utf8(found.stdout).unwrap().trim().to_owned()
}

/// What the servers wrote.
fn said(directory: &Path) -> String {
    let logs = (0..SERVERS).map(|number| directory.join(format!("server-{number}.conf.log")));
    logs.map(|log| std::fs::read_to_string(log).unwrap_or_default()).collect()
}

fn start(program: &str, file: &Path, environment: &[(&str, String)]) -> Child {
    let log = std::fs::File::create(format!("{}.log", file.display())).unwrap();
    Command::new(program)
        .arg("--config")
        .arg(file)
        .envs(environment.iter().map(|(name, value)| (name, value)))
        .stdin(Stdio::null())
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .spawn()
        .unwrap()
}

/// Addresses that nobody listens at, one for each server.
fn free_addresses() -> Vec<String> {
    let listeners: Vec<_> = (0..SERVERS).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
    listeners.iter().map(|listener| listener.local_addr().unwrap().to_string()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_ledger_is_safe_on_servers_that_are_run_as_the_example_says() {
    let certificates = Certificates::new();
    let mut servers = Servers::start(&certificates);
    let config = NatsConfig {
        servers: servers.addresses.clone(),
        replicas: SERVERS,
        auth: NatsAuth::NkeyFile(certificates.path("TEPHRA_SEQUENCER_NKEY")),
        inbox_prefix: Some("_INBOX_sequencer".to_owned()),
        durability: DurabilityClaim::Ask,
        tls: NatsTls { required: true, ca_file: Some(certificates.path("ca.pem")), client: None },
        ..NatsConfig::default()
    };
    let directory = servers.directory.clone();
    let mut opened = None;
    until("the servers have found each other", async || {
        for server in &mut servers.running {
            let has_ended = server.try_wait().unwrap().is_some();
            assert!(!has_ended, "a server has ended:\n{}", said(&directory));
        }
        if let Ok(client) = connect(&config, "test").await {
            opened = JetStreamLog::open(&client, &config).await.ok();
        }
        opened.is_some()
    })
    .await;
    let log = opened.unwrap();
    let all = (1..=SERVERS).map(|number| format!("nats-{number}")).collect();
    assert_eq!(log.health().durability, DurabilityProof::Verified { servers: all, silent: Vec::new() });
    assert_eq!(log.health().replicas, SERVERS);
    let block = crate::support::small_block(1, [0; 32]).bytes;
    log.append(BlockNumber(0), block.clone()).await;
    assert_eq!(log.read(BlockNumber(1), 9).await.unwrap(), [(BlockNumber(1), block)]);
    strangers_do_not_join(&mut servers, &certificates).await;
}

/// Neither without a certificate, nor with one of the authority that clients believe.
async fn strangers_do_not_join(servers: &mut Servers, certificates: &Certificates) {
    const REFUSED: &str = "TLS route handshake error";
    let path = |name: &str| certificates.path(name).display().to_string();
    let of_clients = format!(
        "tls {{ cert_file: \"{}\", key_file: \"{}\", ca_file: \"{}\" }}",
        path("server.pem"),
        path("server-key.pem"),
        path("routes-ca.pem")
    );
    let directory = servers.directory.clone();
    assert!(!said(&directory).contains(REFUSED), "{}", said(&directory));
    for (name, tls, why) in [
        ("plain", "", "first record does not look like a TLS handshake"),
        ("client", of_clients.as_str(), "certificate signed by unknown authority"),
    ] {
        servers.start_stranger(name, tls);
        until("the stranger is refused", async || {
            said(&directory).lines().any(|line| line.contains(REFUSED) && line.contains(why))
        })
        .await;
    }
    let joined = servers.joined().await;
    assert!(joined.contains("nats-2") && joined.contains("nats-3"), "{joined}");
    assert!(!joined.contains("plain") && !joined.contains("\"client\""), "{joined}");
}

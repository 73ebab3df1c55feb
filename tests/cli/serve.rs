//! `tephra serve`: what survives a stop, a kill and damage, and what it refuses to start on.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use crate::support::{Server, run, run_on, until};
use redb::{Database, ReadableTable as _, TableDefinition};
use reqwest::Method;
use rustix::process::Signal;

const BLOCKS: TableDefinition<'static, u64, &[u8]> = TableDefinition::new("blocks");

/// A data directory inside a temporary one, so that the server makes it itself.
fn directory() -> (tempfile::TempDir, std::path::PathBuf) {
    let outer = tempfile::tempdir().unwrap();
    let data = outer.path().join("data");
    (outer, data)
}

#[tokio::test]
async fn a_stopped_server_comes_back_with_every_volume_and_its_data() {
    let (_outer, data) = directory();
    let server = Server::start(&data);
    let volume = server.volume("v").await;
    std::fs::OpenOptions::new()
        .write(true)
        .open(server.volume_file(&volume))
        .unwrap()
        .write_all(b"lava")
        .unwrap();
    server.stop();
    assert!(!data.join("server.json").exists(), "a stopped server is not announced any more");

    let server = Server::start(&data);
    server.settled("volumes", &volume).await;
    let mut start = [0; 4];
    std::fs::File::open(server.volume_file(&volume)).unwrap().read_exact(&mut start).unwrap();
    assert_eq!(&start, b"lava");
    server.stop();
}

#[tokio::test]
async fn nobody_else_can_read_the_ledger_even_in_a_directory_that_was_there_and_open() {
    let (_outer, data) = directory();
    std::fs::create_dir(&data).unwrap();
    std::fs::set_permissions(&data, std::fs::Permissions::from_mode(0o755)).unwrap();
    // left behind by a server that had another idea of it
    std::fs::write(data.join("ledger.redb"), "").unwrap();
    std::fs::set_permissions(data.join("ledger.redb"), std::fs::Permissions::from_mode(0o644)).unwrap();
    let server = Server::start(&data);
    for name in ["ledger.redb", "views.redb"] {
        let mode = std::fs::metadata(data.join(name)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }
    server.stop();
}

#[tokio::test]
async fn kill_9_loses_nothing_that_was_accepted() {
    let (_outer, data) = directory();
    let mut accepted = Vec::new();
    for round in 0..3 {
        let server = Server::start(&data);
        for number in 0..3 {
            accepted.push(server.accept_volume("demo", &format!("v{round}-{number}")).await);
        }
        server.kill();
    }
    let server = Server::start(&data);
    for volume in &accepted {
        server.settled("volumes", volume).await;
        assert!(server.volume_file(volume).is_file());
    }
    server.stop();
    run_on(&data, &["verify"]).exits(0);
}

#[tokio::test]
async fn a_second_server_on_the_same_directory_is_told_who_has_it() {
    let (_outer, data) = directory();
    let server = Server::start(&data);
    let second = run_on(&data, &["serve", "--listen", "127.0.0.1:0"]).exits(6);
    assert!(second.stderr.contains(&server.pid().to_string()), "{}", second.stderr);
    assert!(second.stderr.contains(&server.url), "{}", second.stderr);
    server.volume("still served").await;
    server.stop();
}

/// Changes one byte in the middle of a block.
fn damage_block(journal: &Path, number: u64) {
    let database = Database::open(journal).unwrap();
    let transaction = database.begin_write().unwrap();
    {
        let mut table = transaction.open_table(BLOCKS).unwrap();
        let mut bytes = table.get(number).unwrap().unwrap().value().to_vec();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        table.insert(number, bytes.as_slice()).unwrap();
    }
    transaction.commit().unwrap();
}

#[tokio::test]
async fn a_damaged_block_is_named_and_the_journal_is_left_as_it_is() {
    let (_outer, data) = directory();
    let server = Server::start(&data);
    server.volume("v").await;
    server.stop();
    let journal = data.join("ledger.redb");
    damage_block(&journal, 3);
    let before = std::fs::read(&journal).unwrap();

    let refused = run_on(&data, &["serve", "--listen", "127.0.0.1:0"]).exits(4);
    assert!(refused.stderr.contains("block 3"), "{}", refused.stderr);
    assert!(refused.stderr.contains("after commit 2"), "{}", refused.stderr);
    let verified = run_on(&data, &["verify"]).exits(4);
    assert!(verified.stderr.contains("block 3"), "{}", verified.stderr);
    run_on(&data, &["rebuild"]).exits(4);

    let blocks = |bytes: &[u8]| {
        let copy = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(copy.path(), bytes).unwrap();
        let database = Database::open(copy.path()).unwrap();
        let table = redb::ReadableDatabase::begin_read(&database).unwrap().open_table(BLOCKS).unwrap();
        table.iter().unwrap().map(|row| row.unwrap().1.value().to_vec()).collect::<Vec<_>>()
    };
    assert_eq!(blocks(&before), blocks(&std::fs::read(&journal).unwrap()));
}

#[tokio::test]
async fn damaged_views_are_made_again_from_the_journal() {
    let (_outer, data) = directory();
    let server = Server::start(&data);
    let volume = server.volume("v").await;
    server.stop();
    let views = data.join("views.redb");
    std::fs::write(&views, b"this is not what was written").unwrap();

    let server = Server::start(&data);
    server.settled("volumes", &volume).await;
    assert!(server.log().contains("made again from the journal"), "{}", server.log());
    server.stop();

    std::fs::remove_file(&views).unwrap();
    let server = Server::start(&data);
    server.settled("volumes", &volume).await;
    server.stop();
}

#[tokio::test]
async fn a_journal_that_lost_its_end_or_is_another_one_is_refused() {
    let (_one, first) = directory();
    let (_two, second) = directory();
    for data in [&first, &second] {
        let server = Server::start(data);
        server.volume("v").await;
        server.stop();
    }
    let older = std::fs::read(first.join("ledger.redb")).unwrap();
    let server = Server::start(&first);
    let volume = server.volume("acknowledged").await;
    server.stop();
    let newer = std::fs::read(first.join("ledger.redb")).unwrap();
    for wrong in [older, std::fs::read(second.join("ledger.redb")).unwrap()] {
        std::fs::write(first.join("ledger.redb"), wrong).unwrap();
        let refused = run_on(&first, &["serve", "--listen", "127.0.0.1:0"]).exits(4);
        assert!(refused.stderr.contains("do not follow from the journal"), "{}", refused.stderr);
    }
    std::fs::write(first.join("ledger.redb"), newer).unwrap();
    let server = Server::start(&first);
    assert!(server.volume_file(&volume).is_file());
    server.stop();
}

#[tokio::test]
async fn a_second_signal_does_not_wait_for_what_is_under_way() {
    let (_outer, data) = directory();
    let mut server = Server::start(&data);
    let address = server.url.trim_start_matches("http://").to_owned();
    let mut slow = TcpStream::connect(&address).unwrap();
    // the body never comes, so the request stays under way
    slow.write_all(b"POST /v3/demo/volumes HTTP/1.1\r\nHost: x\r\nX-Auth-Token: admin:demo\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n")
        .unwrap();
    // answered on another connection: by then the first one has been taken
    server.call(Method::GET, "/v3/demo/volumes", None).await;
    server.signal(Signal::TERM);
    until("nobody is let in any more", || TcpStream::connect(&address).is_err().then_some(()));
    assert!(server.is_running(), "a request is under way");
    server.signal(Signal::TERM);
    assert_eq!(server.ended().code(), Some(1));
}

#[test]
fn noauth_is_refused_where_others_can_reach_it() {
    let (_outer, data) = directory();
    let refused = run_on(&data, &["serve", "--listen", "0.0.0.0:0"]).exits(2);
    assert!(refused.stderr.contains("i_know_that_noauth_lets_everybody_in"), "{}", refused.stderr);
    assert!(!data.exists(), "a server that is refused makes nothing");
}

#[test]
fn an_address_that_is_taken_is_named() {
    let (_outer, data) = directory();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let refused = run_on(&data, &["serve", "--listen", &address]).exits(1);
    assert!(refused.stderr.contains(&address), "{}", refused.stderr);
}

#[tokio::test]
async fn a_token_file_decides_who_is_let_in() {
    let (outer, data) = directory();
    let tokens = outer.path().join("tokens.toml");
    std::fs::write(&tokens, "[[token]]\ntoken = \"a-token-that-is-long-enough\"\nuser = \"ann\"\nproject = \"demo\"\nrole = \"admin\"\n")
        .unwrap();
    let config = outer.path().join("tephra.toml");
    std::fs::write(&config, format!("[auth]\nmode = \"tokens\"\ntoken_file = {tokens:?}\n")).unwrap();
    let server = Server::start_with(&data, &["--config", config.to_str().unwrap()]);
    let stranger = run_on(&data, &["log"]).exits(8);
    assert!(stranger.stderr.contains("TEPHRA_TOKEN"), "{}", stranger.stderr);
    run_on(&data, &["log", "--token", "a-token-that-is-long-enough"]).exits(0);
    server.stop();
    assert!(!run(&["config", "check", config.to_str().unwrap()]).exits(0).stdout.contains("long-enough"));
}

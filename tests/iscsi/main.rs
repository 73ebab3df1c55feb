//! Volumes over iSCSI: a real server before a real tgtd, with initiators in user space.
//!
//! Each test has a tgtd and a server of its own. `./test iscsi` installs what they need and runs
//! them.

mod initiator;
#[path = "../crash/server.rs"]
#[allow(dead_code, reason = "the crash test uses the rest")]
mod server;
mod tgtd;
mod world;

use std::os::unix::fs::FileExt as _;

use anyhow::{Result, ensure};
use reqwest::Method;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::initiator::{Initiator, WRITTEN};
use crate::server::until;
use crate::world::{World, connector, initiator_name};

const GIB: u64 = 1 << 30;

/// Whether a file's bytes from `offset` on are all `byte`, for as many as 64 KiB.
fn holds(path: &std::path::Path, offset: u64, byte: u8) -> Result<bool> {
    let mut bytes = vec![0; 64 << 10];
    std::fs::File::open(path)?.read_exact_at(&mut bytes, offset)?;
    Ok(bytes.iter().all(|found| *found == byte))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs tgt: ./test iscsi"]
async fn the_host_that_attached_reads_and_writes_and_nobody_else_gets_in() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let world = World::start(directory.path()).await?;
    let volume = world.volume(json!({ "size": 1 })).await?;
    let (attachment, host) = world.attach(&volume, "alpha", "rw").await?;
    let shown = world.settled(&volume, "in-use").await?;
    ensure!(shown["attachments"][0]["attachment_id"] == *attachment, "{shown}");
    ensure!(world.tgtd.targets()? == [host.target.clone()], "{:?}", world.tgtd.targets()?);

    ensure!(host.bytes()? == GIB);
    ensure!(host.serial()? == volume, "{}", host.serial()?);
    host.does(&["write -P 0xa1 0 64k", "write -P 0xa2 768M 64k"])?;
    host.does(&["read -P 0xa1 0 64k", "read -P 0xa2 768M 64k", "read -P 0 64k 64k"])?;

    let wrong = Initiator { password: "abcdefghijklmnop".to_owned(), ..host.clone() };
    let refused = wrong.is_refused(&["read 0 4k"])?;
    ensure!(refused.contains("Authentication failure"), "{refused}");
    let stranger = Initiator { name: initiator_name("mallory"), ..host.clone() };
    let refused = stranger.is_refused(&["read 0 4k"])?;
    ensure!(refused.contains("Target not found"), "{refused}");
    let shown = stranger.discovers()?;
    ensure!(!shown.contains(&attachment), "a stranger is shown {shown}");

    // without reflinks a file is copied piece by piece, and not while a host writes to it
    let snapshot = json!({ "snapshot": { "volume_id": volume, "force": true } });
    if !world.has_reflinks(&volume)? {
        let torn = world.told(Method::POST, "snapshots", snapshot.clone()).await?;
        let torn = torn["snapshot"]["id"].as_str().unwrap_or_default().to_owned();
        world.snapshot_settled(&torn, "error").await?;
        world.delete("snapshot", &torn).await?;
    }
    world.detach(&attachment).await?;
    world.settled(&volume, "available").await?;
    let answer = world.told(Method::POST, "snapshots", snapshot).await?;
    let snapshot = answer["snapshot"]["id"].as_str().unwrap_or_default().to_owned();
    world.snapshot_settled(&snapshot, "available").await?;

    // what is in use stays where it is
    let (attachment, host) = world.attach(&volume, "alpha", "rw").await?;
    world.settled(&volume, "in-use").await?;
    let revert = json!({ "revert": { "snapshot_id": snapshot } });
    let (status, said) = world.refused(Method::POST, &format!("volumes/{volume}/action"), revert).await?;
    let expected = format!(
        "Invalid volume: Can't revert volume {volume} to its latest snapshot {snapshot}. Volume's status must be 'available'."
    );
    ensure!((status, &said) == (409, &expected), "{status} {said}");
    let (status, said) = world.refused(Method::DELETE, &format!("volumes/{volume}"), Value::Null).await?;
    ensure!(status == 400 && said.contains("must not be migrating, attached, belong to a group"), "{said}");

    host.does(&["write -P 0xa3 0 64k"])?;
    world.detach(&attachment).await?;
    world.tgtd.ensure_empty()?;
    host.is_refused(&["read 0 4k"])?;
    world.settled(&volume, "available").await?;
    let file = world.file(&volume);
    ensure!(holds(&file, 0, 0xa3)? && holds(&file, 768 << 20, 0xa2)? && holds(&file, 64 << 10, 0)?);

    // the snapshot has what was there when it was taken, and the volume can go back to it now
    let revert = json!({ "revert": { "snapshot_id": snapshot } });
    world.act(&volume, revert).await?;
    world.settled(&volume, "available").await?;
    ensure!(holds(&file, 0, 0xa1)? && holds(&file, 768 << 20, 0xa2)?);
    world.ensure_nowhere(&host.password)?;
    world.delete("snapshot", &snapshot).await?;
    world.delete("volume", &volume).await?;
    ensure!(!file.exists());
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs tgt: ./test iscsi"]
async fn a_volume_attached_for_reading_takes_no_writes() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let world = World::start(directory.path()).await?;
    let volume = world.volume(json!({ "size": 1 })).await?;
    let (attachment, host) = world.attach(&volume, "alpha", "rw").await?;
    host.does(&["write -P 0xb1 0 64k"])?;
    world.detach(&attachment).await?;

    let (attachment, host) = world.attach(&volume, "alpha", "ro").await?;
    host.reads(&["read -P 0xb1 0 64k"])?;
    host.is_refused(&["write -P 0xb2 0 64k"])?;
    world.detach(&attachment).await?;

    // the volume's flag says more than the request
    world.settled(&volume, "available").await?;
    world.act(&volume, json!({ "os-update_readonly_flag": { "readonly": true } })).await?;
    let (attachment, host) = world.attach(&volume, "alpha", "rw").await?;
    host.reads(&["read -P 0xb1 0 64k"])?;
    host.is_refused(&["write -P 0xb2 0 64k"])?;
    let shown = world.told(Method::GET, &format!("attachments/{attachment}"), Value::Null).await?;
    ensure!(shown["attachment"]["attach_mode"] == "ro", "{shown}");
    world.detach(&attachment).await?;
    ensure!(holds(&world.file(&volume), 0, 0xb1)?);
    world.tgtd.ensure_empty()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs tgt: ./test iscsi"]
async fn two_hosts_share_a_multiattach_volume_until_the_last_lets_go() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let world = World::start(directory.path()).await?;
    let specs = json!({ "volume_type": { "name": "shared", "extra_specs": { "multiattach": "<is> True" } } });
    world.told(Method::POST, "types", specs).await?;
    let alone = world.volume(json!({ "size": 1 })).await?;
    let (only, _) = world.attach(&alone, "alpha", "rw").await?;
    let another = json!({ "attachment": {
        "volume_uuid": alone, "instance_uuid": Uuid::new_v4().to_string(), "connector": connector("beta"),
    } });
    let (status, said) = world.refused(Method::POST, "attachments", another).await?;
    ensure!(status == 400 && said.contains("status must be available"), "{status} {said}");

    let volume = world.volume(json!({ "size": 1, "volume_type": "shared" })).await?;
    let (first, alpha) = world.attach(&volume, "alpha", "rw").await?;
    let (second, beta) = world.attach(&volume, "beta", "rw").await?;
    ensure!(alpha.target != beta.target && alpha.password != beta.password);
    ensure!(alpha.serial()? == beta.serial()?);
    alpha.does(&["write -P 0xc1 0 64k"])?;
    beta.does(&["read -P 0xc1 0 64k", "write -P 0xc2 64k 64k"])?;
    alpha.does(&["read -P 0xc2 64k 64k"])?;
    let crossed = Initiator { name: beta.name.clone(), ..alpha.clone() };
    crossed.is_refused(&["read 0 4k"])?;

    world.detach(&first).await?;
    world.settled(&volume, "in-use").await?;
    alpha.is_refused(&["read 0 4k"])?;
    beta.does(&["read -P 0xc1 0 64k"])?;
    world.detach(&second).await?;
    world.settled(&volume, "available").await?;
    world.detach(&only).await?;
    world.tgtd.ensure_empty()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs tgt: ./test iscsi"]
async fn a_volume_grows_under_a_host_that_writes() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let world = World::start(directory.path()).await?;
    let volume = world.volume(json!({ "size": 1 })).await?;
    let (attachment, host) = world.attach(&volume, "alpha", "rw").await?;
    let writer = host.writes_on()?;
    // its first login would be refused while the target is offline, and QEMU does not come again before it is in
    until("the host writes", async || Ok(holds(&world.file(&volume), 0, WRITTEN)?.then_some(()))).await?;
    for size in 2..=5_u64 {
        world.act(&volume, json!({ "os-extend": { "new_size": size } })).await?;
        let shown = world.settled(&volume, "in-use").await?;
        ensure!(shown["size"] == size, "{shown}");
        until("the target shows the new size", async || Ok((host.bytes()? == size * GIB).then_some(())))
            .await?;
    }
    let before = std::fs::metadata(world.file(&volume))?.modified()?;
    until("the host goes on", async || {
        Ok((std::fs::metadata(world.file(&volume))?.modified()? > before).then_some(()))
    })
    .await?;
    let written = writer.stop()?;
    println!("{written} blocks written meanwhile");
    host.does(&["read -P 90 0 64k", "write -P 0xd1 4G 64k", "read -P 0xd1 4G 64k"])?;
    world.detach(&attachment).await?;
    ensure!(holds(&world.file(&volume), 0, WRITTEN)? && holds(&world.file(&volume), 4 * GIB, 0xd1)?);
    world.tgtd.ensure_empty()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs tgt: ./test iscsi"]
async fn exports_come_back_after_tgtd_is_killed_and_hosts_go_on() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let mut world = World::start(directory.path()).await?;
    let volume = world.volume(json!({ "size": 1 })).await?;
    let (attachment, host) = world.attach(&volume, "alpha", "rw").await?;
    let other = world.volume(json!({ "size": 2 })).await?;
    let (second, beta) = world.attach(&other, "beta", "ro").await?;
    host.does(&["write -P 0xe1 512M 64k"])?;
    let writer = host.writes_on()?;
    until("the host writes", async || Ok(holds(&world.file(&volume), 0, WRITTEN)?.then_some(()))).await?;

    world.tgtd.kill()?;
    world.tgtd.start().await?;
    until("both exports are back", async || Ok((world.tgtd.targets()?.len() == 2).then_some(()))).await?;
    let before = std::fs::metadata(world.file(&volume))?.modified()?;
    until("the host writes again", async || {
        Ok((std::fs::metadata(world.file(&volume))?.modified()? > before).then_some(()))
    })
    .await?;
    writer.stop()?;
    host.does(&["read -P 0xe1 512M 64k", "read -P 90 0 64k"])?;
    until("the second export is whole", async || Ok(beta.bytes().ok().filter(|bytes| *bytes == 2 * GIB)))
        .await?;
    beta.is_refused(&["write 0 4k"])?;

    // killed together with the server: whoever starts first, the exports come back
    world.server.kill()?;
    world.tgtd.kill()?;
    world.server.spawn()?;
    world.server.ready().await?;
    world.api = world.server.api("admin", "demo")?;
    world.tgtd.start().await?;
    until("both exports are back", async || {
        Ok((host.bytes().ok() == Some(GIB) && beta.bytes().ok() == Some(2 * GIB)).then_some(()))
    })
    .await?;
    world.detach(&attachment).await?;
    world.detach(&second).await?;
    world.tgtd.ensure_empty()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs tgt: ./test iscsi"]
async fn a_server_killed_between_any_two_commands_of_an_export_ends_with_all_or_nothing() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let mut world = World::start(directory.path()).await?;
    let mut caught = (0, 0);
    for after in 0.. {
        let volume = world.volume(json!({ "size": 1 })).await?;
        let body =
            json!({ "attachment": { "volume_uuid": volume, "instance_uuid": Uuid::new_v4().to_string() } });
        let answer = world.told(Method::POST, "attachments", body).await?;
        let id = answer["attachment"]["id"].as_str().unwrap_or_default().to_owned();

        world.trap.set(after)?;
        let update = json!({ "attachment": { "connector": connector("alpha") } });
        let is_caught =
            interrupted(&mut world, Method::PUT, &format!("attachments/{id}"), Some(&update)).await?;
        caught.0 += u32::from(is_caught);
        let shown = world.attachment(&id).await?;
        let shown = shown.ok_or_else(|| anyhow::anyhow!("{id} is gone"))?;
        ensure!(shown["status"] == "attaching", "{shown}");
        let host = Initiator::told(&initiator_name("alpha"), &shown["connection_info"])?;
        host.does(&["write -P 0xf1 0 64k", "read -P 0xf1 0 64k"])?;
        ensure!(world.tgtd.targets()?.len() == 1, "{}", world.tgtd.listing()?);

        world.trap.set(after)?;
        let was_caught = interrupted(&mut world, Method::DELETE, &format!("attachments/{id}"), None).await?;
        caught.1 += u32::from(was_caught);
        ensure!(world.attachment(&id).await?.is_none());
        world.settled(&volume, "available").await?;
        world.tgtd.ensure_empty()?;
        world.delete("volume", &volume).await?;
        if !is_caught && !was_caught {
            break;
        }
    }
    println!("killed {} times while connecting, {} times while disconnecting", caught.0, caught.1);
    ensure!(caught.0 >= 6 && caught.1 >= 2, "{caught:?}");
    Ok(())
}

/// Asks for something, kills the server where the trap holds it, and starts it again. Whether it was
/// caught at all.
async fn interrupted(world: &mut World, method: Method, path: &str, body: Option<&Value>) -> Result<bool> {
    let path = format!("/v3/demo/{path}");
    let is_caught = {
        let asking = world.api.send(method, &path, None, body);
        let caught = until("the server is caught", async || Ok(world.trap.has_caught().then_some(())));
        tokio::select! {
            answer = asking => { answer?; false }
            caught = caught => { caught?; true }
        }
    };
    world.trap.clear()?;
    if is_caught {
        world.restart_server().await?;
    }
    Ok(is_caught)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs tgt: ./test iscsi"]
async fn who_attaches_while_tgtd_is_down_waits_for_it() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let mut world = World::start(directory.path()).await?;
    let volume = world.volume(json!({ "size": 1 })).await?;
    world.tgtd.kill()?;
    let body = json!({ "attachment": {
        "volume_uuid": volume, "instance_uuid": Uuid::new_v4().to_string(), "connector": connector("alpha"),
    } });
    let api = world.api.clone();
    let asking =
        tokio::spawn(async move { api.send(Method::POST, "/v3/demo/attachments", None, Some(&body)).await });
    let shown = world.settled(&volume, "attaching").await?;
    ensure!(shown["attachments"] == json!([]), "{shown}");
    world.tgtd.start().await?;
    let answer = format!("{:?}", asking.await??);
    ensure!(answer.starts_with("Answer(200"), "{answer}");
    let listed = world.told(Method::GET, "attachments", Value::Null).await?;
    let id = listed["attachments"][0]["id"].as_str().unwrap_or_default().to_owned();
    ensure!(world.attachment(&id).await?.is_some_and(|one| one["status"] == "attaching"));

    // and letting go is possible at any time, and done when it can be
    world.tgtd.kill()?;
    let api = world.api.clone();
    let path = format!("/v3/demo/attachments/{id}");
    let asking = tokio::spawn(async move { api.send(Method::DELETE, &path, None, None).await });
    until("the attachment is being detached", async || {
        let shown = world.told(Method::GET, &format!("attachments/{id}"), Value::Null).await?;
        Ok((shown["attachment"]["status"] == "detaching").then_some(()))
    })
    .await?;
    world.tgtd.start().await?;
    let answer = format!("{:?}", asking.await??);
    ensure!(answer.starts_with("Answer(200"), "{answer}");
    world.settled(&volume, "available").await?;
    world.tgtd.ensure_empty()
}

//! `tephra demo`: a tour in a few seconds, on a directory of its own that is removed at the end.
//!
//! Nothing in it is make-believe: it starts the same server as `serve`, on a free port, and speaks
//! to it over HTTP as any client would. Only the writing into the volume is done in its file, as a
//! server that has the volume attached would do.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use clap::Args;
use reqwest::Method;
use serde_json::{Value, json};

use crate::client::Remote;
use crate::commands::event_table::{history_row, history_table, text};
use crate::commands::verify;
use crate::config::Config;
use crate::failure::{CommandError, CommandResult, Exit};
use crate::output::{Ink, Output};
use crate::serve::Server;

/// How long one step of the tour may take before it is given up.
const STEP_LIMIT: Duration = Duration::from_secs(30);

/// How often a volume is asked whether it is ready.
const POLL: Duration = Duration::from_millis(5);

/// Where the tour writes into its volume of 1 GiB: at the beginning, in the middle, at the end.
const OFFSETS: [u64; 3] = [0, 512 << 20, (1 << 30) - CHUNK_BYTES_U64];
const CHUNK_BYTES: usize = 1 << 20;
const CHUNK_BYTES_U64: u64 = 1 << 20;

/// A tour: create a volume, write into it, snapshot, overwrite, revert, compare, and look back.
///
/// Starts a server on a temporary directory and a free port, and takes a few seconds. Everything is
/// removed at the end.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  tephra demo
  tephra demo --keep            # leaves the directory, to look around in it with `tephra log`")]
pub struct DemoArgs {
    /// Leave the directory as it is at the end.
    #[arg(long)]
    keep: bool,
}

/// Runs it.
///
/// # Errors
/// The first step that did not do what it should.
pub async fn run(args: &DemoArgs, output: Output) -> CommandResult {
    let directory = tempfile::Builder::new().prefix("tephra-demo-").tempdir()?;
    let path = directory.path().to_owned();
    let began = Instant::now();
    let config = Config { listen: ([127, 0, 0, 1], 0).into(), data_dir: path.clone(), ..Config::default() }
        .completed()?;
    let mut tour = Tour { output, step: 0, steps: Vec::new(), began: Instant::now() };
    tour.say(&output.ink(Ink::Heading, "Tephra, a tour: block storage that remembers."))?;
    let fate = if args.keep { "is kept" } else { "is removed at the end" };
    tour.say(&format!("Everything happens in {} and {fate}.", path.display()))?;

    let walked = tour.walk(config).await;
    if args.keep {
        drop(directory.keep());
    } else {
        directory.close().with_context(|| format!("cannot remove {}", path.display()))?;
    }
    walked?;

    let total_ms = began.elapsed().as_millis();
    if output.is_json() {
        return output.document(&json!({
            "steps": tour.steps,
            "total_ms": u64::try_from(total_ms).unwrap_or(u64::MAX),
            "directory": args.keep.then(|| path.display().to_string()),
        }));
    }
    tour.say("")?;
    tour.say(&output.ink(Ink::Good, &format!("Done in {:.1} s.", began.elapsed().as_secs_f64())))?;
    if args.keep {
        let look = format!("tephra log --data-dir {}", path.display());
        tour.say(&format!("Look around:           {}", output.ink(Ink::Accent, &look)))?;
    }
    tour.say(&format!("A server of your own:  {}", output.ink(Ink::Accent, "tephra serve")))
}

struct Tour {
    output: Output,
    step: u32,
    steps: Vec<Value>,
    began: Instant,
}

impl Tour {
    async fn walk(&mut self, config: Config) -> CommandResult {
        self.next("Start a server: journal, views, one backend, the HTTP API")?;
        let volumes = config.data_dir.join("volumes");
        let server = Server::start(&config, self.output).await?;
        let url = server.info.as_ref().map(|info| info.url.clone()).unwrap_or_default();
        self.done(&format!("listens at {url}"), json!({ "url": url }))?;
        let toured = self.tour(&url, &volumes).await;
        let stopped = server.stop().await;
        toured?;
        stopped
    }

    async fn tour(&mut self, url: &str, volumes: &Path) -> CommandResult {
        let cloud = Cloud { remote: Remote::new(url, Some("admin:demo"))? };

        self.next("Create a volume of 1 GiB: POST /v3/demo/volumes")?;
        let volume = cloud.create("volumes", json!({ "volume": { "size": 1, "name": "tour" } })).await?;
        cloud.settled("volumes", &volume).await?;
        let file = volume_file(volumes, &volume)?;
        self.done(&format!("available, as the file {}", file.display()), json!({ "volume_id": volume }))?;

        self.next("Write into it, as a server with the volume attached would")?;
        let first = Pattern(b'A');
        first.write(&file)?;
        self.done(
            "3 MiB: at the beginning, in the middle, at the very end",
            json!({ "bytes": written_bytes() }),
        )?;

        self.next("Take a snapshot: POST /v3/demo/snapshots")?;
        let snapshot = cloud
            .create("snapshots", json!({ "snapshot": { "volume_id": volume, "name": "before" } }))
            .await?;
        cloud.settled("snapshots", &snapshot).await?;
        self.done(&format!("snapshot {snapshot} is available"), json!({ "snapshot_id": snapshot }))?;

        self.next("Overwrite the data")?;
        let second = Pattern(b'B');
        second.write(&file)?;
        if !second.is_in(&file)? || first.is_in(&file)? {
            return Err(wrong("the volume does not hold what was written last"));
        }
        self.done("what was written first is gone from the volume", json!({ "bytes": written_bytes() }))?;

        self.next("Revert the volume to its snapshot: POST …/action {\"revert\": …}")?;
        let revert = json!({ "revert": { "snapshot_id": snapshot } });
        cloud.send(Method::POST, &format!("/v3/demo/volumes/{volume}/action"), Some(&revert)).await?;
        cloud.settled("volumes", &volume).await?;
        self.done("available again", json!({ "volume_id": volume }))?;

        self.next("Compare the bytes")?;
        if !first.is_in(&file)? {
            return Err(wrong("the volume does not hold what it held when the snapshot was taken"));
        }
        self.done("every byte is what it was when the snapshot was taken", json!({ "equal": true }))?;

        self.history(&cloud, &volume).await?;
        self.verify(&cloud).await
    }

    async fn history(&mut self, cloud: &Cloud, volume: &str) -> CommandResult {
        self.next(&format!("Look back: tephra history {volume}"))?;
        let timeline = cloud.history(volume).await?;
        if timeline.is_empty() {
            return Err(wrong("the volume has no history"));
        }
        let mut table = history_table();
        for line in &timeline {
            table.row(history_row(line));
        }
        let count = timeline.len();
        let told = format!("{count} events, each with its time and its author");
        self.done(&told, json!({ "timeline": timeline }))?;
        self.block(&table.render(self.output.paint(), true))
    }

    async fn verify(&mut self, cloud: &Cloud) -> CommandResult {
        self.next("Prove that nobody edited it: tephra verify")?;
        let report = verify::ask(&cloud.remote).await?;
        verify::check(&report)?;
        self.done(&verify::sentence(&report), report)
    }

    fn next(&mut self, title: &str) -> CommandResult {
        self.step = self.step.saturating_add(1);
        self.began = Instant::now();
        let number = self.output.ink(Ink::Accent, &format!("{:>2}", self.step));
        self.steps.push(json!({ "step": self.step, "title": title }));
        self.say(&format!("\n{number}  {}", self.output.ink(Ink::Heading, title)))
    }

    fn done(&mut self, what: &str, result: Value) -> CommandResult {
        let took = self.began.elapsed();
        if let Some(step) = self.steps.last_mut() {
            step["result"] = result;
            step["took_ms"] = json!(u64::try_from(took.as_millis()).unwrap_or(u64::MAX));
        }
        let took = self.output.ink(Ink::Dim, &format!("({} ms)", took.as_millis()));
        self.say(&format!("    {what} {took}"))
    }

    fn block(&self, text: &str) -> CommandResult {
        let indented: String = text.lines().map(|line| format!("    {line}\n")).collect();
        if self.output.is_json() { Ok(()) } else { self.output.text(&indented) }
    }

    fn say(&self, line: &str) -> CommandResult {
        if self.output.is_json() { Ok(()) } else { self.output.line(line) }
    }
}

fn wrong(message: &str) -> CommandError {
    CommandError::new(Exit::VerificationFailed, message)
}

fn volume_file(volumes: &Path, volume: &str) -> CommandResult<PathBuf> {
    let file = volumes.join(format!("volume-{volume}"));
    if file.is_file() {
        return Ok(file);
    }
    Err(wrong(&format!("{} is not there, although the volume is available", file.display())))
}

const fn written_bytes() -> u64 {
    CHUNK_BYTES_U64 * 3
}

/// Bytes that only one letter gives, different at each offset.
struct Pattern(u8);

impl Pattern {
    fn chunk(&self, offset: u64) -> Vec<u8> {
        let line = format!("{} {offset:>12} Tephra remembers what the volcano wrote.\n", char::from(self.0));
        line.bytes().cycle().take(CHUNK_BYTES).collect()
    }

    fn write(&self, file: &Path) -> CommandResult {
        let volume = OpenOptions::new().write(true).open(file)?;
        for offset in OFFSETS {
            volume.write_all_at(&self.chunk(offset), offset)?;
        }
        volume.sync_all()?;
        Ok(())
    }

    fn is_in(&self, file: &Path) -> CommandResult<bool> {
        let volume = File::open(file)?;
        for offset in OFFSETS {
            let mut found = vec![0; CHUNK_BYTES];
            volume.read_exact_at(&mut found, offset)?;
            if found != self.chunk(offset) {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

struct Cloud {
    remote: Remote,
}

impl Cloud {
    async fn send(&self, method: Method, path: &str, body: Option<&Value>) -> CommandResult<Value> {
        self.remote.send_json(method, path, body).await
    }

    async fn create(&self, collection: &str, body: Value) -> CommandResult<String> {
        let created = self.send(Method::POST, &format!("/v3/demo/{collection}"), Some(&body)).await?;
        let singular = collection.trim_end_matches('s');
        let id = created.pointer(&format!("/{singular}/id")).and_then(Value::as_str);
        Ok(id.with_context(|| format!("the answer names no {singular}: {created}"))?.to_owned())
    }

    /// Waits until a resource is at rest, which must be `available`.
    async fn settled(&self, collection: &str, id: &str) -> CommandResult {
        let singular = collection.trim_end_matches('s');
        let deadline = tokio::time::Instant::now() + STEP_LIMIT;
        loop {
            let shown = self.send(Method::GET, &format!("/v3/demo/{collection}/{id}"), None).await?;
            let status = text(&shown[singular], "status").to_owned();
            match status.as_str() {
                "available" => return Ok(()),
                transitional if transitional.ends_with("ing") && tokio::time::Instant::now() < deadline => {
                    tokio::time::sleep(POLL).await;
                }
                _ => return Err(wrong(&format!("the {singular} is `{status}`, not `available`"))),
            }
        }
    }

    async fn history(&self, volume: &str) -> CommandResult<Vec<Value>> {
        let page = self.send(Method::GET, &format!("/ledger/v1/history/volume/{volume}"), None).await?;
        Ok(page["timeline"].as_array().cloned().unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_differ_by_letter_and_place() {
        assert_ne!(Pattern(b'A').chunk(0), Pattern(b'B').chunk(0));
        assert_ne!(Pattern(b'A').chunk(0), Pattern(b'A').chunk(OFFSETS[1]));
    }

    #[test]
    fn what_is_written_is_found_until_it_is_overwritten() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("volume");
        File::create(&file).unwrap().set_len(1 << 30).unwrap();
        Pattern(b'A').write(&file).unwrap();
        assert!(Pattern(b'A').is_in(&file).unwrap());
        Pattern(b'B').write(&file).unwrap();
        assert!(!Pattern(b'A').is_in(&file).unwrap());
    }
}

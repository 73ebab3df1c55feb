//! The only place that starts other programs.
//!
//! * A program is an argument vector, never a line for a shell.
//! * It sees `LC_ALL=C`, the `PATH`, and what the caller adds; nothing else of our environment.
//! * It has a time limit, and a bound on what is kept of its output.
//! * It leads a process group of its own. At the time limit, or when nobody waits for it any more,
//!   the whole group is killed. A program that must not die half-way ([`Program::stopped_gently`]) is
//!   asked to end instead, and may finish what it cannot leave.
//! * For an order that may be somebody else's by now it is not started, and what runs for such an order
//!   is killed ([`crate::fence`]).
//! * It dies with us, even if we are killed with SIGKILL: `setpriv --pdeathsig KILL` (util-linux)
//!   asks the kernel for that. Asking from here would take unsafe code between fork and exec. The
//!   kernel watches the thread that forked, so one thread that never ends forks for everybody.
//!   Only the program itself is covered, not what it starts in turn. On a host without `setpriv` a
//!   SIGKILL of ours leaves the program running until it ends by itself.

use std::ffi::{OsStr, OsString};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::mpsc;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use async_trait::async_trait;
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, Command};
use tokio::sync::oneshot;

use crate::fence::{self, Fence};

/// How much of a program's standard output is kept at most. A listing of 100,000 volumes in JSON
/// takes about 30 MiB.
pub const STDOUT_LIMIT_BYTES: usize = 64 << 20;

/// How much of the end of a program's standard error is kept.
pub const STDERR_TAIL_BYTES: usize = 2048;

/// Who runs programs for a backend.
///
/// Everywhere but in tests that is [`Spawner`]. A test of what a crash leaves behind gives the
/// backend one that dies between two programs.
#[async_trait]
pub trait Launcher: Send + Sync {
    /// Runs a program to its end, like [`Program::run`].
    async fn launch(&self, program: Program) -> Result<Output, ProcessError>;
}

/// Runs programs, and does nothing else.
#[derive(Clone, Copy, Debug, Default)]
pub struct Spawner;

#[async_trait]
impl Launcher for Spawner {
    async fn launch(&self, program: Program) -> Result<Output, ProcessError> {
        program.run().await
    }
}

/// A program to run.
#[derive(Clone)]
pub struct Program {
    argv: Vec<OsString>,
    environment: Vec<(OsString, OsString)>,
    stdin: Vec<u8>,
    time_limit: Duration,
    stdout_limit_bytes: usize,
    stop: Stop,
    only_looks: bool,
}

/// How a program is made to end before its time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stop {
    /// SIGKILL: at once.
    Kill,
    /// SIGTERM: when it can.
    Ask,
}

impl Stop {
    const fn signal(self) -> Signal {
        match self {
            Self::Kill => Signal::KILL,
            Self::Ask => Signal::TERM,
        }
    }

    /// As `setpriv` writes it.
    const fn name(self) -> &'static str {
        match self {
            Self::Kill => "KILL",
            Self::Ask => "TERM",
        }
    }
}

/// What a program printed on its standard output before it ended with success.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Output {
    /// As it was printed.
    pub stdout: Vec<u8>,
    /// The end of its standard error: warnings, mostly.
    pub stderr_tail: String,
}

/// Why there is no output. Arguments, environment and input are not in it: they may hold secrets.
#[derive(Debug, thiserror::Error)]
pub enum ProcessError {
    /// The program is not installed.
    #[error("{program} is not installed")]
    NotFound {
        /// `argv[0]`.
        program: String,
    },
    /// It could not be started, or not be talked to.
    #[error("{program} could not be run: {source}")]
    Broken {
        /// `argv[0]`.
        program: String,
        /// What the operating system said.
        source: io::Error,
    },
    /// It ended without success.
    #[error("{program} failed with {}: {stderr_tail}", ended(*code))]
    Failed {
        /// `argv[0]`.
        program: String,
        /// Its exit code; nothing if a signal ended it.
        code: Option<i32>,
        /// The end of its standard error.
        stderr_tail: String,
    },
    /// It took too long and was killed.
    #[error("{program} did not end within {} s", time_limit.as_secs_f64())]
    TimedOut {
        /// `argv[0]`.
        program: String,
        /// What it was given.
        time_limit: Duration,
        /// The end of its standard error.
        stderr_tail: String,
    },
    /// It printed more than is kept, and was killed.
    #[error("{program} printed more than {limit_bytes} bytes")]
    TooMuchOutput {
        /// `argv[0]`.
        program: String,
        /// What is kept at most.
        limit_bytes: usize,
    },
}

fn ended(code: Option<i32>) -> String {
    code.map_or_else(|| "a signal".to_owned(), |code| format!("exit code {code}"))
}

impl Program {
    /// A program by its name (looked up in `PATH`) or its path.
    pub fn new(program: impl Into<OsString>, time_limit: Duration) -> Self {
        Self {
            argv: vec![program.into()],
            environment: Vec::new(),
            stdin: Vec::new(),
            time_limit,
            stdout_limit_bytes: STDOUT_LIMIT_BYTES,
            stop: Stop::Kill,
            only_looks: false,
        }
    }

    /// The program and its arguments.
    pub fn argv(&self) -> &[OsString] {
        &self.argv
    }

    /// After how long it is made to end.
    pub const fn time_limit(&self) -> Duration {
        self.time_limit
    }

    /// Asks it to end (SIGTERM) where others are killed. For lvm2: killed between two calls to the
    /// kernel it leaves devices suspended, but asked it lets go of its lock first. One that does
    /// not end goes on by itself, and nobody waits for it.
    #[must_use]
    pub const fn stopped_gently(mut self) -> Self {
        self.stop = Stop::Ask;
        self
    }

    /// It changes nothing, so that it harms nobody who has the storage by now: the ledger need not be
    /// asked before.
    #[must_use]
    pub const fn only_looking(mut self) -> Self {
        self.only_looks = true;
        self
    }

    /// One more argument.
    #[must_use]
    pub fn arg(mut self, arg: impl Into<OsString>) -> Self {
        self.argv.push(arg.into());
        self
    }

    /// More arguments.
    #[must_use]
    pub fn args<A: Into<OsString>>(mut self, args: impl IntoIterator<Item = A>) -> Self {
        self.argv.extend(args.into_iter().map(Into::into));
        self
    }

    /// One more variable of its environment. Secrets belong here or in the input, never in the
    /// arguments, which everybody on the host can read.
    #[must_use]
    pub fn env(mut self, name: impl Into<OsString>, value: impl Into<OsString>) -> Self {
        self.environment.push((name.into(), value.into()));
        self
    }

    /// What it reads on its standard input; nothing otherwise.
    #[must_use]
    pub fn stdin(mut self, input: impl Into<Vec<u8>>) -> Self {
        self.stdin = input.into();
        self
    }

    /// Another bound on its standard output than [`STDOUT_LIMIT_BYTES`].
    #[must_use]
    pub const fn stdout_limit_bytes(mut self, limit_bytes: usize) -> Self {
        self.stdout_limit_bytes = limit_bytes;
        self
    }

    /// Runs it to its end. Dropping the future kills it.
    ///
    /// # Errors
    /// If it is not installed, cannot be run, fails, takes too long or prints too much. `Broken` if the
    /// order that it is for may be somebody else's, of which nobody hears.
    pub async fn run(self) -> Result<Output, ProcessError> {
        let program = self.name();
        let path = find(self.argv.first().map_or_else(|| OsStr::new(""), OsString::as_os_str))
            .ok_or_else(|| ProcessError::NotFound { program: program.clone() })?;
        let broken = |source| ProcessError::Broken { program: program.clone(), source };
        let fence = fence::current();
        if let Some(fence) = fence.as_ref().filter(|_| !self.only_looks)
            && !fence.is_confirmed().await
        {
            return Err(broken(not_ours()));
        }
        let child = spawn(self.command(&path), fence).await.map_err(broken)?;
        let mut group = Group { child, ended: false, stop: self.stop };
        let mut stderr_tail = Vec::new();
        let talked =
            tokio::time::timeout(self.time_limit, self.talk(&mut group.child, &mut stderr_tail)).await;
        let stderr_tail = String::from_utf8_lossy(&stderr_tail).trim().to_owned();
        match talked {
            Err(_elapsed) => {
                Err(ProcessError::TimedOut { program, time_limit: self.time_limit, stderr_tail })
            }
            Ok(Err(source)) => Err(broken(source)),
            Ok(Ok(Talked::TooMuch)) => {
                Err(ProcessError::TooMuchOutput { program, limit_bytes: self.stdout_limit_bytes })
            }
            Ok(Ok(Talked::Ended(status, stdout))) => {
                group.ended = true;
                if status.success() {
                    Ok(Output { stdout, stderr_tail })
                } else {
                    Err(ProcessError::Failed { program, code: status.code(), stderr_tail })
                }
            }
        }
    }

    fn name(&self) -> String {
        self.argv.first().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
    }

    fn command(&self, path: &Path) -> Command {
        let mut command = match setpriv() {
            Some(setpriv) => {
                let mut command = Command::new(setpriv);
                command.args(["--pdeathsig", self.stop.name(), "--"]).arg(path);
                command
            }
            None => Command::new(path),
        };
        command
            .args(self.argv.iter().skip(1))
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("LC_ALL", "C")
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .stdin(if self.stdin.is_empty() { Stdio::null() } else { Stdio::piped() })
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(self.stop == Stop::Kill);
        command
    }

    async fn talk(&self, child: &mut Child, stderr_tail: &mut Vec<u8>) -> io::Result<Talked> {
        let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let feed = async {
            match stdin {
                // a program that does not read to the end is none of our business
                Some(mut stdin) => stdin.write_all(&self.stdin).await.or_else(|error| {
                    if error.kind() == io::ErrorKind::BrokenPipe { Ok(()) } else { Err(error) }
                }),
                None => Ok(()),
            }
        };
        let read = read_bounded(stdout, self.stdout_limit_bytes);
        let tail = read_tail(stderr, stderr_tail);
        tokio::pin!(tail);
        let read = async { tokio::try_join!(feed, read).map(|((), stdout)| stdout) };
        tokio::pin!(read);
        // too much output ends it at once; the tail is read along, so that it never blocks
        let mut tail_is_read = false;
        let stdout = loop {
            tokio::select! {
                stdout = &mut read => break stdout?,
                tailed = &mut tail, if !tail_is_read => { tailed?; tail_is_read = true; }
            }
        };
        let Some(stdout) = stdout else { return Ok(Talked::TooMuch) };
        if !tail_is_read {
            tail.await?;
        }
        Ok(Talked::Ended(child.wait().await?, stdout))
    }
}

enum Talked {
    Ended(ExitStatus, Vec<u8>),
    TooMuch,
}

/// A child that leads its own process group. Unless it has ended, dropping this stops the group.
struct Group {
    child: Child,
    ended: bool,
    stop: Stop,
}

impl Drop for Group {
    fn drop(&mut self) {
        // a leader that is reaped has no id any more, so this never meets a stranger's group
        let leader = self.child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
        if let (false, Some(leader)) = (self.ended, leader)
            && let Err(error) = kill_process_group(leader, self.stop.signal())
            && error != rustix::io::Errno::SRCH
        {
            tracing::warn!(%error, "a process group could not be stopped");
        }
    }
}

async fn read_bounded(from: Option<impl AsyncRead + Unpin>, limit: usize) -> io::Result<Option<Vec<u8>>> {
    let mut kept = Vec::new();
    if let Some(from) = from {
        let most = u64::try_from(limit).unwrap_or(u64::MAX).saturating_add(1);
        from.take(most).read_to_end(&mut kept).await?;
    }
    Ok((kept.len() <= limit).then_some(kept))
}

async fn read_tail(from: Option<impl AsyncRead + Unpin>, tail: &mut Vec<u8>) -> io::Result<()> {
    let Some(mut from) = from else { return Ok(()) };
    let mut chunk = [0; 1024];
    loop {
        let read = from.read(&mut chunk).await?;
        let Some(chunk) = chunk.get(..read).filter(|chunk| !chunk.is_empty()) else { return Ok(()) };
        tail.extend_from_slice(chunk);
        let excess = tail.len().saturating_sub(STDERR_TAIL_BYTES);
        tail.drain(..excess);
    }
}

fn not_ours() -> io::Error {
    io::Error::other("the order that it is for may be somebody else's by now")
}

struct SpawnOrder {
    command: Command,
    fence: Option<Arc<Fence>>,
    runtime: tokio::runtime::Handle,
    answer: oneshot::Sender<io::Result<Child>>,
}

/// Forks on the one thread that lives as long as we do.
async fn spawn(command: Command, fence: Option<Arc<Fence>>) -> io::Result<Child> {
    static SPAWNER: OnceLock<io::Result<mpsc::Sender<SpawnOrder>>> = OnceLock::new();
    let spawner = SPAWNER.get_or_init(|| {
        let (orders, waiting) = mpsc::channel::<SpawnOrder>();
        std::thread::Builder::new().name("tephra-spawner".to_owned()).spawn(move || {
            for SpawnOrder { mut command, fence, runtime, answer } in waiting {
                let _entered = runtime.enter();
                // here, so that hardly anything can take its time between the look and the fork
                let may_start = fence.is_none_or(|fence| fence.is_open());
                let started = if may_start { command.spawn() } else { Err(not_ours()) };
                // nobody waits any more: the child is dropped, and killed with that
                drop(answer.send(started));
            }
        })?;
        Ok(orders)
    });
    let stopped = || io::Error::other("the thread that starts programs is gone");
    let spawner =
        spawner.as_ref().map_err(|error| io::Error::new(error.kind(), "no thread to start programs"))?;
    let (answer, child) = oneshot::channel();
    let order = SpawnOrder { command, fence, runtime: tokio::runtime::Handle::current(), answer };
    spawner.send(order).map_err(|_| stopped())?;
    child.await.map_err(|_| stopped())?
}

fn setpriv() -> Option<&'static Path> {
    static SETPRIV: OnceLock<Option<PathBuf>> = OnceLock::new();
    let found = SETPRIV.get_or_init(|| {
        let found = find(OsStr::new("setpriv"));
        if found.is_none() {
            tracing::warn!("setpriv is not installed: programs may outlive a kill -9 of this one");
        }
        found
    });
    found.as_deref()
}

/// Where a program is: so that "not installed" is told from "failed", also behind `setpriv`.
fn find(program: &OsStr) -> Option<PathBuf> {
    let path = Path::new(program);
    if path.components().count() > 1 {
        return path.is_file().then(|| path.to_owned());
    }
    let directories = std::env::var_os("PATH")?;
    std::env::split_paths(&directories).map(|directory| directory.join(path)).find(|found| found.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(20);

    fn shell(script: &str) -> Program {
        Program::new("sh", LIMIT).args(["-c", script])
    }

    async fn is_gone(pid: i32) -> bool {
        for _ in 0..500 {
            let state = std::fs::read_to_string(format!("/proc/{pid}/stat"));
            if state.is_err() || state.is_ok_and(|state| state.contains(") Z ")) {
                return true;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        false
    }

    async fn number_in(file: &Path) -> i32 {
        for _ in 0..500 {
            if let Ok(text) = std::fs::read_to_string(file)
                && let Ok(number) = text.trim().parse()
            {
                return number;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("{} never held a number", file.display());
    }

    #[tokio::test]
    async fn arguments_reach_the_program_as_they_are() {
        let output = Program::new("printf", LIMIT).args(["%s|", "a b", "$HOME", "; ls"]).run().await.unwrap();
        assert_eq!(String::from_utf8(output.stdout).unwrap(), "a b|$HOME|; ls|");
    }

    #[tokio::test]
    async fn the_environment_is_c_and_nothing_else_of_ours() {
        let output = Program::new("env", LIMIT).env("EXTRA", "1").run().await.unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let mut names: Vec<&str> = text.lines().filter_map(|line| line.split('=').next()).collect();
        names.sort_unstable();
        assert_eq!(names, ["EXTRA", "LC_ALL", "PATH"]);
        assert!(text.contains("LC_ALL=C\n"), "{text}");
    }

    #[tokio::test]
    async fn input_larger_than_a_pipe_comes_back_whole() {
        let input = vec![7; 1 << 20];
        let output = Program::new("cat", LIMIT).stdin(input.clone()).run().await.unwrap();
        assert!(output.stdout == input);
    }

    #[tokio::test]
    async fn a_failure_names_the_program_its_code_and_the_end_of_its_stderr() {
        let script = "i=0; while [ $i -lt 2000 ]; do echo noise >&2; i=$((i+1)); done; echo 'no such pool' >&2; exit 5";
        let error =
            shell(script).arg("secret-argument").env("TOKEN", "secret-value").run().await.unwrap_err();
        let text = format!("{error} {error:?}");
        assert!(!text.contains("secret"), "{text}");
        let ProcessError::Failed { program, code, stderr_tail } = error else { panic!("{text}") };
        assert_eq!((program.as_str(), code), ("sh", Some(5)));
        assert!(stderr_tail.ends_with("no such pool") && stderr_tail.len() <= STDERR_TAIL_BYTES);
    }

    #[tokio::test]
    async fn a_missing_program_is_told_from_a_failing_one() {
        let error = Program::new("no-such-program-at-all", LIMIT).run().await.unwrap_err();
        assert!(matches!(error, ProcessError::NotFound { .. }), "{error:?}");
    }

    #[tokio::test]
    async fn too_much_output_ends_the_program() {
        let error = Program::new("yes", LIMIT).stdout_limit_bytes(10_000).run().await.unwrap_err();
        assert!(matches!(error, ProcessError::TooMuchOutput { limit_bytes: 10_000, .. }), "{error:?}");
    }

    #[tokio::test]
    async fn the_time_limit_kills_the_program_and_what_it_started() {
        let directory = tempfile::tempdir().unwrap();
        let pid_file = directory.path().join("pid");
        let script = format!("sleep 1000 & echo $! > {}; wait", pid_file.display());
        let mut program = shell(&script);
        program.time_limit = Duration::from_millis(500);
        let error = program.run().await.unwrap_err();
        assert!(matches!(error, ProcessError::TimedOut { .. }), "{error:?}");
        assert!(is_gone(number_in(&pid_file).await).await, "the grandchild lives on");
    }

    #[tokio::test]
    async fn a_program_that_nobody_waits_for_is_killed() {
        let directory = tempfile::tempdir().unwrap();
        let pid_file = directory.path().join("pid");
        let running =
            tokio::spawn(shell(&format!("echo $$ > {}; exec sleep 1000", pid_file.display())).run());
        let pid = number_in(&pid_file).await;
        running.abort();
        assert!(is_gone(pid).await, "the child lives on");
    }

    #[tokio::test]
    async fn a_program_that_is_stopped_gently_finishes_what_it_holds() {
        let directory = tempfile::tempdir().unwrap();
        let (held, finished) = (directory.path().join("held"), directory.path().join("finished"));
        // the shell would speak of its ended sleep into a closed pipe
        let script = format!(
            "exec 2>/dev/null; trap 'echo 1 > {}; exit' TERM; echo $$ > {}; while :; do sleep 0.01; done",
            finished.display(),
            held.display()
        );
        let running = tokio::spawn(shell(&script).stopped_gently().run());
        let pid = number_in(&held).await;
        running.abort();
        assert_eq!(number_in(&finished).await, 1);
        assert!(is_gone(pid).await, "the child lives on");
    }

    #[tokio::test]
    async fn the_kernel_is_asked_to_kill_children_with_us() {
        assert!(setpriv().is_some(), "install setpriv (util-linux)");
        // setpriv shows its own death signal, which it inherited through exec
        let output = Program::new("setpriv", LIMIT).arg("--dump").run().await.unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(
            text.lines().any(|line| line == "Parent death signal: KILL" || line.ends_with(": SIGKILL")),
            "{text}"
        );
    }
}

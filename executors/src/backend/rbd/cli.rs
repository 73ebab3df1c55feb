//! The commands: every `rbd`, `ceph`, `rados` and `qemu-img` that is ever run, one function each.
//!
//! Names are given as options of their own, never as `pool/image@snapshot`: whatever a name holds,
//! it names one thing.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::sync::Arc;
use std::time::Duration;

use serde::de::DeserializeOwned;
use tephra_domain::effect::{Failure, FailureKind};

use super::RbdConfig;
use super::failure::{Refusal, refusal};
use super::plan::CloneFormat;
use super::report::{Extent, Fsid, Image, Listed, Monitors, PoolDetail, Snapshot, Status, Trashed, Usage};
use crate::copy::DIFFERENT;
use crate::process::{Launcher, ProcessError, Program};

/// What a command that moves data may take at most: as long as the cluster answers, it goes on.
pub(super) const DATA_LIMIT: Duration = Duration::from_secs(24 * 60 * 60);

/// Between the tools' own time limits and the moment at which they are killed: they say more
/// about what did not answer than a killed one.
const GRACE: Duration = Duration::from_secs(3);

/// What a command may take whose work does not grow with the data.
pub(super) const fn quick_limit(config: &RbdConfig) -> Duration {
    config.command_timeout.saturating_add(GRACE)
}

/// The object in each pool that has as keys the ids of images that we put into the trash. An image in
/// the trash has no name of its own any more, and no metadata that `rbd` would show.
const TRASH_MARKS: &str = "tephra.trash";

/// What the differences of an image may take in JSON: 64 bytes for each of the 2 Mi objects of 8 TiB.
const DIFF_LIMIT_BYTES: usize = 128 << 20;

/// An image by its name, or by its id where it may be in the trash.
#[derive(Clone, Copy, Debug)]
pub enum Of<'a> {
    Name(&'a str),
    Id(&'a str),
}

/// What a clone is made of.
#[derive(Clone, Copy, Debug)]
pub struct Origin<'a> {
    pub pool: &'a str,
    pub image: &'a str,
    pub snapshot: &'a str,
}

/// Runs commands as one user of one cluster.
pub struct Cli {
    config: Arc<RbdConfig>,
    launcher: Arc<dyn Launcher>,
}

type Done<T = ()> = Result<T, Refusal>;

impl Cli {
    pub fn new(config: Arc<RbdConfig>, launcher: Arc<dyn Launcher>) -> Self {
        Self { config, launcher }
    }

    /// Who connects, to what, and how long it waits.
    fn connection(&self) -> Vec<OsString> {
        let config = &self.config;
        let mut args: Vec<OsString> = vec!["--id".into(), config.user.clone().into()];
        args.extend(["--conf".into(), config.ceph_conf.clone().into_os_string()]);
        if let Some(keyring) = &config.keyring {
            args.extend(["--keyring".into(), keyring.clone().into_os_string()]);
        }
        if let Some(cluster) = &config.cluster {
            args.extend(["--cluster".into(), cluster.clone().into()]);
        }
        let seconds = OsString::from(config.command_timeout.as_secs().max(1).to_string());
        for limit in ["--client-mount-timeout", "--rados-mon-op-timeout", "--rados-osd-op-timeout"] {
            args.extend([limit.into(), seconds.clone()]);
        }
        args
    }

    fn rbd(&self, limit: Duration, command: &str, pool: &str) -> Program {
        Program::new("rbd", limit)
            .args(self.connection())
            .args(command.split(' '))
            .arg(format!("--pool={pool}"))
    }

    /// A command whose work does not grow with the data.
    fn quick(&self, command: &str, pool: &str) -> Program {
        self.rbd(quick_limit(&self.config), command, pool)
    }

    fn long(&self, command: &str, pool: &str) -> Program {
        self.rbd(DATA_LIMIT, command, pool).arg("--no-progress")
    }

    async fn run(&self, command: &str, program: Program) -> Done<Vec<u8>> {
        let ended = self.launcher.launch(program).await;
        ended.map(|output| output.stdout).map_err(|error| refusal(command, error))
    }

    async fn act(&self, command: &str, program: Program) -> Done {
        self.run(command, program).await.map(drop)
    }

    async fn ask<T: DeserializeOwned>(&self, command: &str, program: Program) -> Done<T> {
        let program = program.args(["--format", "json"]).only_looking();
        parse(command, &self.run(command, program).await?)
    }

    /// An image; with a snapshot, as it was then.
    pub async fn info(&self, pool: &str, image: Of<'_>, snapshot: Option<&str>) -> Done<Option<Image>> {
        let program = with_snapshot(with_image(self.quick("info", pool), image), snapshot);
        present(self.ask("info", program).await)
    }

    pub async fn snapshots(&self, pool: &str, image: Of<'_>) -> Done<Option<Vec<Snapshot>>> {
        present(self.ask("snap ls", with_image(self.quick("snap ls --all", pool), image)).await)
    }

    /// The addresses of whoever has the image open.
    pub async fn watchers(&self, pool: &str, image: &str) -> Done<Vec<String>> {
        let status: Status =
            self.ask("status", with_image(self.quick("status", pool), Of::Name(image))).await?;
        Ok(status.watchers.into_iter().map(|watcher| watcher.address).collect())
    }

    pub async fn list(&self, pool: &str) -> Done<Vec<Listed>> {
        self.ask("ls", self.rbd(DATA_LIMIT, "ls --long", pool)).await
    }

    pub async fn trash(&self, pool: &str) -> Done<Vec<Trashed>> {
        self.ask("trash ls", self.quick("trash ls", pool)).await
    }

    /// Whether there is data beyond an offset.
    pub async fn has_data_beyond(&self, pool: &str, image: &str, bytes: u64) -> Done<bool> {
        let program = with_image(self.rbd(DATA_LIMIT, "diff --whole-object", pool), Of::Name(image));
        let extents: Vec<Extent> = self.ask("diff", program.stdout_limit_bytes(DIFF_LIMIT_BYTES)).await?;
        Ok(extents.iter().any(|extent| extent.is_beyond(bytes)))
    }

    pub async fn create(&self, pool: &str, image: &str, bytes: u64) -> Done {
        let program = with_image(self.quick("create", pool), Of::Name(image));
        self.act("create", program.arg(format!("--size={bytes}B"))).await
    }

    pub async fn resize(&self, pool: &str, image: &str, bytes: u64, shrink: bool) -> Done {
        let program = with_image(self.long("resize", pool), Of::Name(image)).arg(format!("--size={bytes}B"));
        self.act("resize", if shrink { program.arg("--allow-shrink") } else { program }).await
    }

    pub async fn snap_create(&self, pool: &str, image: &str, snapshot: &str) -> Done {
        let program = with_image(self.quick("snap create --no-progress", pool), Of::Name(image));
        self.act("snap create", with_snapshot(program, Some(snapshot))).await
    }

    pub async fn snap_protect(&self, pool: &str, image: &str, snapshot: &str) -> Done {
        let program = with_image(self.quick("snap protect", pool), Of::Name(image));
        self.act("snap protect", with_snapshot(program, Some(snapshot))).await
    }

    pub async fn snap_unprotect(&self, pool: &str, image: Of<'_>, snapshot: &str) -> Done {
        let program = with_image(self.quick("snap unprotect", pool), image);
        self.act("snap unprotect", with_snapshot(program, Some(snapshot))).await
    }

    pub async fn snap_remove(&self, pool: &str, image: Of<'_>, snapshot: &str) -> Done {
        let program = with_image(self.long("snap rm", pool), image);
        self.act("snap rm", with_snapshot(program, Some(snapshot))).await
    }

    /// Also one in the snapshots' trash.
    pub async fn snap_remove_by_id(&self, pool: &str, image: Of<'_>, snapshot: u64) -> Done {
        let program = with_image(self.long("snap rm", pool), image);
        self.act("snap rm", program.arg(format!("--snap-id={snapshot}"))).await
    }

    pub async fn snap_rename(&self, pool: &str, image: &str, snapshot: &str, to: &str) -> Done {
        let program = with_image(self.quick("snap rename", pool), Of::Name(image));
        let program = with_snapshot(program, Some(snapshot))
            .arg(format!("--dest-pool={pool}"))
            .arg(format!("--dest={image}"))
            .arg(format!("--dest-snap={to}"));
        self.act("snap rename", program).await
    }

    pub async fn snap_rollback(&self, pool: &str, image: &str, snapshot: &str) -> Done {
        let program = with_image(self.long("snap rollback", pool), Of::Name(image));
        self.act("snap rollback", with_snapshot(program, Some(snapshot))).await
    }

    pub async fn clone(&self, from: Origin<'_>, pool: &str, to: &str, format: CloneFormat) -> Done {
        let program = with_image(self.quick("clone", from.pool), Of::Name(from.image));
        let program = with_snapshot(program, Some(from.snapshot))
            .arg(format!("--dest-pool={pool}"))
            .arg(format!("--dest={to}"))
            .arg(format!("--rbd-default-clone-format={}", format.number()));
        self.act("clone", program).await
    }

    pub async fn flatten(&self, pool: &str, image: &str) -> Done {
        self.act("flatten", with_image(self.long("flatten", pool), Of::Name(image))).await
    }

    pub async fn rename(&self, pool: &str, image: &str, to: &str) -> Done {
        let program = with_image(self.quick("rename", pool), Of::Name(image));
        self.act("rename", program.arg(format!("--dest-pool={pool}")).arg(format!("--dest={to}"))).await
    }

    pub async fn remove(&self, pool: &str, image: &str) -> Done {
        self.act("rm", with_image(self.long("rm", pool), Of::Name(image))).await
    }

    /// Nothing takes it out of the trash before that time is over.
    pub async fn trash_move(&self, pool: &str, image: &str, keep: Duration) -> Done {
        let program = with_image(self.quick("trash mv", pool), Of::Name(image));
        let program = match keep.as_secs() {
            0 => program,
            seconds => program.arg(format!("--expires-at={seconds} seconds")),
        };
        self.act("trash mv", program).await
    }

    fn marks(&self, command: &str, pool: &str) -> Program {
        Program::new("rados", quick_limit(&self.config))
            .args(self.connection())
            .arg(format!("--pool={pool}"))
            .args([command, TRASH_MARKS])
    }

    /// Which images in the trash are ours: their ids. Also of some that are not in the trash.
    pub async fn trash_marks(&self, pool: &str) -> Done<BTreeSet<String>> {
        let listed = self.run("listomapkeys", self.marks("listomapkeys", pool).only_looking()).await;
        let printed = present(listed)?.unwrap_or_default();
        Ok(String::from_utf8_lossy(&printed).lines().map(ToOwned::to_owned).collect())
    }

    /// An image that is ours goes to the trash.
    pub async fn mark_as_trash(&self, pool: &str, id: &str, name: &str) -> Done {
        self.act("setomapval", self.marks("setomapval", pool).args([id, name])).await
    }

    /// An image is not in the trash any more, or for somebody else to take out of it.
    pub async fn unmark_as_trash(&self, pool: &str, id: &str) -> Done {
        self.act("rmomapkey", self.marks("rmomapkey", pool).arg(id)).await
    }

    pub async fn trash_remove(&self, pool: &str, id: &str) -> Done {
        self.act("trash rm", with_image(self.long("trash rm", pool), Of::Id(id))).await
    }

    /// One object's data over another, with zeroes where the first is empty or ends. Without a cache,
    /// because nobody hears whether its last flush failed, and compared afterwards.
    pub async fn copy_over(&self, pool: &str, source: (&str, Option<&str>), target: &str) -> Done {
        let (image, snapshot) = source;
        let ends = [self.qemu_name(pool, image, snapshot), self.qemu_name(pool, target, None)];
        let convert = Program::new("qemu-img", DATA_LIMIT)
            .args(["convert", "-n", "-t", "none", "-f", "raw", "-O", "raw"])
            .args(ends.clone());
        self.act("convert", convert).await?;
        let compare = Program::new("qemu-img", DATA_LIMIT)
            .args(["compare", "-q", "-T", "none", "-f", "raw", "-F", "raw"])
            .args(ends);
        match self.launcher.launch(compare).await {
            Ok(_) => Ok(()),
            Err(ProcessError::Failed { code: Some(DIFFERENT), .. }) => Err(Refusal::Failed(Failure::new(
                FailureKind::BackendError,
                format!("{target} does not hold what was copied into it"),
            ))),
            Err(error) => Err(refusal("compare", error)),
        }
    }

    /// `rbd:pool/image@snapshot:option=value`, where `\` escapes.
    pub fn qemu_name(&self, pool: &str, image: &str, snapshot: Option<&str>) -> String {
        let config = &self.config;
        let seconds = config.command_timeout.as_secs().max(1);
        let mut name = format!("rbd:{}/{}", escaped(pool), escaped(image));
        if let Some(snapshot) = snapshot {
            name = format!("{name}@{}", escaped(snapshot));
        }
        name = format!("{name}:id={}", escaped(&config.user));
        name = format!("{name}:conf={}", escaped(&config.ceph_conf.to_string_lossy()));
        if let Some(keyring) = &config.keyring {
            name = format!("{name}:keyring={}", escaped(&keyring.to_string_lossy()));
        }
        for limit in ["client_mount_timeout", "rados_mon_op_timeout", "rados_osd_op_timeout"] {
            name = format!("{name}:{limit}={seconds}");
        }
        name
    }

    fn ceph(&self) -> Program {
        Program::new("ceph", quick_limit(&self.config))
            .args(self.connection())
            .arg(format!("--connect-timeout={}", self.config.command_timeout.as_secs().max(1)))
            .args(["--format", "json"])
            .only_looking()
    }

    /// How full everything is, and where the monitors are, if the user may know: one process for
    /// all questions, because each start of `ceph` costs a start of Python.
    pub async fn usage(&self) -> Done<(Usage, Vec<PoolDetail>, Option<Monitors>)> {
        let printed = self.run("df", self.ceph().stdin("df\nosd pool ls detail\nmon dump\n")).await?;
        let mut values = serde_json::Deserializer::from_slice(&printed).into_iter::<serde_json::Value>();
        let mut next = || match values.next() {
            Some(Ok(value)) => Ok(value),
            Some(Err(error)) => Err(unreadable("df", &error.to_string())),
            None => Err(unreadable("df", "an answer is missing")),
        };
        let (usage, details) = (next()?, next()?);
        let monitors = next().ok().and_then(|monitors| serde_json::from_value(monitors).ok());
        Ok((from_value("df", usage)?, from_value("osd pool ls", details)?, monitors))
    }

    pub async fn pool_details(&self) -> Done<Vec<PoolDetail>> {
        let printed = self.run("osd pool ls", self.ceph().args(["osd", "pool", "ls", "detail"])).await?;
        parse("osd pool ls", &printed)
    }

    /// Which cluster it is.
    pub async fn fsid(&self) -> Done<String> {
        let printed = self.run("fsid", self.ceph().arg("fsid")).await?;
        parse::<Fsid>("fsid", &printed).map(|cluster| cluster.fsid)
    }

    /// What the cluster makes of new clones, by the oldest clients that it lets in.
    pub async fn clone_format(&self) -> Done<CloneFormat> {
        let program = self.ceph().args(["osd", "get-require-min-compat-client"]);
        let printed = self.run("osd get-require-min-compat-client", program).await?;
        Ok(CloneFormat::for_oldest_client(String::from_utf8_lossy(&printed).trim().trim_matches('"')))
    }
}

fn with_image(program: Program, image: Of<'_>) -> Program {
    program.arg(match image {
        Of::Name(name) => format!("--image={name}"),
        Of::Id(id) => format!("--image-id={id}"),
    })
}

fn with_snapshot(program: Program, snapshot: Option<&str>) -> Program {
    match snapshot {
        Some(snapshot) => program.arg(format!("--snap={snapshot}")),
        None => program,
    }
}

fn present<T>(asked: Done<T>) -> Done<Option<T>> {
    match asked {
        Ok(found) => Ok(Some(found)),
        Err(Refusal::Missing) => Ok(None),
        Err(refusal) => Err(refusal),
    }
}

fn unreadable(command: &str, why: &str) -> Refusal {
    Refusal::Failed(Failure::new(
        FailureKind::BackendError,
        format!("{command}: its answer cannot be read: {why}"),
    ))
}

fn parse<T: DeserializeOwned>(command: &str, printed: &[u8]) -> Done<T> {
    serde_json::from_slice(printed).map_err(|error| unreadable(command, &error.to_string()))
}

fn from_value<T: DeserializeOwned>(command: &str, value: serde_json::Value) -> Done<T> {
    serde_json::from_value(value).map_err(|error| unreadable(command, &error.to_string()))
}

fn escaped(text: &str) -> String {
    text.chars().fold(String::new(), |mut text, c| {
        if matches!(c, ':' | '@' | '/' | '=' | '\\') {
            text.push('\\');
        }
        text.push(c);
        text
    })
}

/// Whether a command changes anything, for tests that die after each that does.
pub fn changes(argv: &[OsString]) -> bool {
    let looks =
        ["info", "ls", "status", "diff", "df", "get-require-min-compat-client", "compare", "listomapkeys"];
    let words: Vec<_> = argv.iter().filter_map(|word| word.to_str()).collect();
    // `ceph` only looks; its questions are on its standard input
    words.first() != Some(&"ceph") && !words.iter().any(|word| looks.contains(word))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_cannot_change_what_qemu_reads() {
        assert_eq!(escaped("volume-1"), "volume-1");
        assert_eq!(escaped("a:b@c/d=e\\f"), "a\\:b\\@c\\/d\\=e\\\\f");
    }

    #[test]
    fn commands_that_only_look_are_known() {
        let argv = |words: &[&str]| words.iter().map(OsString::from).collect::<Vec<_>>();
        assert!(!changes(&argv(&["rbd", "--id", "cinder", "snap", "ls", "--all"])));
        assert!(!changes(&argv(&["ceph", "--id", "cinder"])));
        assert!(changes(&argv(&["rbd", "--id", "cinder", "snap", "create"])));
        assert!(changes(&argv(&["qemu-img", "convert"])));
        assert!(changes(&argv(&["rados", "--id", "cinder", "setomapval", "tephra.trash"])));
        assert!(!changes(&argv(&["rados", "--id", "cinder", "listomapkeys", "tephra.trash"])));
        assert!(!changes(&argv(&["qemu-img", "compare"])));
    }
}

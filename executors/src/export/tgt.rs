//! iSCSI targets by tgtd, the userland target (Debian package `tgt`): one target for each
//! attachment, with an account and an access list of its own.
//!
//! What it runs (`A` is `tgtadm --control-port C --lld iscsi`):
//!
//! | when | commands |
//! |---|---|
//! | always first | `A --op show --mode target` |
//! | a new export | `A --op new --mode account`, `… target`, `… logicalunit`, `--op update --mode logicalunit`, `--op bind --mode account`, `… target`: nobody can log in before the last |
//! | always last, for an export | `A --op show --mode portal`; `… new …` if tgtd does not listen there |
//! | it shows an old size | `A --op update --mode target` with `state` = `offline`, the connections and the unit as below, the unit as new, `state` = `ready` |
//! | it is for another host | as removed, then as new |
//! | removed | `A --op unbind --mode target`, `… account`: nobody can log in any more; `--op delete --mode connection` for each that there is; `--op delete --mode target --force`, `… account` |
//!
//! tgtd performs commands in threads of their own. While any is under way it deletes neither a unit
//! nor its target, whatever `--force` says, and a file that is opened again under it (`path=`) loses
//! writes that are answered as done. So connections are closed first, and deleting is tried until
//! what was under way has ended. A target that is `offline` refuses logins as something passing:
//! initiators come again, and send again what had no answer.
//!
//! A tgtd without any target closes whatever connects to it, and Linux's initiator (seen with kernel 6.1)
//! does not come back from that by itself: it does from a target that is not there yet, and from nobody
//! listening. So tgtd may be started on another portal, and is given its own with the first target.
//!
//! `tgtadm` takes the password as an argument and in no other way: whoever can list processes on the
//! export's host can see it in the moment in which the account is made.

mod shown;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tephra_domain::attachment::AttachMode;
use tephra_domain::effect::{Export, Failure, FailureKind};
use tephra_domain::ids::{AttachmentId, VolumeId};
use tephra_journal::secrets::MasterKey;
use tokio::net::UnixStream;
use tokio::sync::Mutex;
use tokio::time::Instant;

use self::shown::{LUN, Listening, Plan, Target, Wanted, plan};
use super::Exporter;
use crate::process::{Launcher, Output, ProcessError, Program};

/// How long one `tgtadm` may take. It answers within milliseconds; a target with busy sessions
/// waits for them.
const TGTADM_LIMIT: Duration = Duration::from_secs(20);

/// How long a daemon may take to be connected to.
const CONNECT_LIMIT: Duration = Duration::from_secs(2);

/// How often a target's number is chosen anew when another process was faster.
const NUMBER_TRIES: u32 = 8;

/// Where tgtd listens for `tgtadm`, if `TGT_IPC_SOCKET` does not say so.
const DEFAULT_SOCKET: &str = "/var/run/tgtd/socket";

/// How long commands that are under way may take to end, once their connections are closed.
const DRAIN_LIMIT: Duration = Duration::from_secs(15);

/// How often it is looked whether they have.
const DRAIN_INTERVAL: Duration = Duration::from_millis(20);

/// How long a target may be offline: less than hosts try to come back (open-iscsi: 120 s by default).
const REOPEN_LIMIT: Duration = Duration::from_secs(60);

/// How long it is waited before what has failed meanwhile is tried again.
const REOPEN_INTERVAL: Duration = Duration::from_millis(100);

/// More targets than one attachment has: one under each prefix that was ever configured.
const MOST_TARGETS: u32 = 16;

/// What `tgtadm` says of a unit with commands under way (its exit status says nothing).
const UNIT_ACTIVE: &str = "logical unit is still active";

/// Every initiator's address, to tgt.
const ALL: &str = "ALL";

/// What `tgtadm` exits with where there is no tgtd (ENOTCONN), and where it has died with the request
/// unread (ECONNRESET) or unsent (EPIPE; mostly the signal for it comes first).
const EXITS_WITHOUT_TGTD: [i32; 3] = [107, 104, 32];

/// What `tgtadm` says, and exits with 0, where tgtd has died with the request half done.
const UNANSWERED: [&str; 2] = ["tgtd closed the socket", "a partial response"];

/// What target names begin with if nobody says (Cinder's `target_prefix`).
pub const DEFAULT_IQN_PREFIX: &str = "iqn.2010-10.org.openstack:";

/// The settings of a [`TgtExporter`].
#[derive(Clone, Debug)]
pub struct TgtConfig {
    /// Where initiators connect: `address:port`.
    pub portal: String,
    /// What target names begin with.
    pub iqn_prefix: String,
    /// tgtd's control port (`tgtd -C`).
    pub control_port: u16,
    /// tgtd's control socket without the port, if it is not the default (`TGT_IPC_SOCKET`).
    pub socket: Option<PathBuf>,
    /// What passwords are derived from.
    pub key: MasterKey,
}

/// Exports by tgtd.
pub struct TgtExporter {
    config: TgtConfig,
    launcher: Arc<dyn Launcher>,
    /// Targets are numbered by whoever makes them: one at a time.
    making: Mutex<()>,
}

/// Whether one of the exporter's commands changes anything, for tests that die between them.
pub fn changes(argv: &[OsString]) -> bool {
    !argv.iter().any(|argument| argument == "show")
}

/// The name of an attachment's target.
pub fn target_name(prefix: &str, attachment: AttachmentId) -> String {
    format!("{prefix}{}", name_end(attachment))
}

fn name_end(attachment: AttachmentId) -> String {
    format!("attachment-{attachment}")
}

impl TgtExporter {
    /// An exporter over a tgtd, which need not run yet.
    pub fn new(config: TgtConfig, launcher: Arc<dyn Launcher>) -> Self {
        Self { config, launcher, making: Mutex::new(()) }
    }

    async fn tgtadm<I, A>(&self, args: I) -> Result<String, ProcessError>
    where
        I: IntoIterator<Item = A> + Send,
        A: Into<OsString>,
    {
        let mut program = Program::new("tgtadm", TGTADM_LIMIT);
        if let Some(socket) = &self.config.socket {
            program = program.env("TGT_IPC_SOCKET", socket);
        }
        let port = self.config.control_port.to_string();
        let program = program.args(["--control-port", &port, "--lld", "iscsi"]).args(args);
        let Output { stdout, stderr_tail } = self.launcher.launch(program).await?;
        if is_unanswered(&stderr_tail) {
            return Err(ProcessError::Failed { program: "tgtadm".to_owned(), code: Some(0), stderr_tail });
        }
        Ok(String::from_utf8_lossy(&stdout).into_owned())
    }

    async fn targets(&self) -> Result<Vec<Target>, Failure> {
        let text = self.tgtadm(["--op", "show", "--mode", "target"]).await.map_err(failure)?;
        Ok(shown::parse(&text))
    }

    /// The attachment's target, also one from before the prefix was changed.
    async fn find(&self, attachment: AttachmentId) -> Result<Option<Target>, Failure> {
        let end = name_end(attachment);
        let found = self.targets().await?.into_iter().find(|target| target.name.ends_with(&end));
        if let Some(old) = found.iter().find(|found| found.name != self.name(attachment)) {
            tracing::warn!(target = old.name, "an export is not named as the configuration says now");
        }
        Ok(found)
    }

    fn name(&self, attachment: AttachmentId) -> String {
        target_name(&self.config.iqn_prefix, attachment)
    }

    async fn create(
        &self,
        name: &str,
        volume: VolumeId,
        wanted: &Wanted<'_>,
        password: &str,
    ) -> Result<(), Failure> {
        // what an earlier attempt left of the account may have another password
        drop(self.remove_account(wanted.account).await);
        let account = ["--user", wanted.account, "--password", password];
        self.tgtadm(["--op", "new", "--mode", "account"].into_iter().chain(account))
            .await
            .map_err(failure)?;
        let tid = self.new_target(name).await?;
        self.new_unit(&tid, volume, wanted).await?;
        let bind = ["--op", "bind", "--mode"];
        let account = ["account", "--tid", &tid, "--user", wanted.account];
        self.tgtadm(bind.into_iter().chain(account)).await.map_err(failure)?;
        let allowed = ["target", "--tid", &tid, by(wanted.allowed), wanted.allowed];
        self.tgtadm(bind.into_iter().chain(allowed)).await.map_err(failure)?;
        Ok(())
    }

    /// Makes a target under a number that is free.
    async fn new_target(&self, name: &str) -> Result<String, Failure> {
        let mut tries = 0;
        loop {
            let highest = self.targets().await?.iter().map(|target| target.tid).max().unwrap_or(0);
            let tid = highest.saturating_add(1).to_string();
            let made = ["--op", "new", "--mode", "target", "--tid", &tid, "--targetname", name];
            match self.tgtadm(made).await {
                Ok(_) => return Ok(tid),
                Err(error) if tries >= NUMBER_TRIES => return Err(failure(error)),
                Err(_) => tries = tries.saturating_add(1),
            }
        }
    }

    async fn new_unit(&self, tid: &str, volume: VolumeId, wanted: &Wanted<'_>) -> Result<(), Failure> {
        let lun = LUN.to_string();
        let unit = ["--mode", "logicalunit", "--tid", tid, "--lun", &lun];
        let made = ["--op", "new", "--backing-store", wanted.path];
        self.tgtadm(made.into_iter().chain(unit)).await.map_err(failure)?;
        // several paths to one volume are told to be that by the same identity
        let id = volume.as_uuid().simple();
        let readonly = u8::from(wanted.readonly);
        let params =
            format!("vendor_id=TEPHRA,product_id=volume,scsi_id={id},scsi_sn={volume},readonly={readonly}");
        let update = ["--op", "update", "--params", &params];
        self.tgtadm(update.into_iter().chain(unit)).await.map_err(failure)?;
        Ok(())
    }

    /// Has the file opened again, and with it its length. What fails on the way is tried again at once:
    /// from the first command to the last, hosts that have the volume wait, and not for ever.
    async fn reopen(&self, target: &Target, volume: VolumeId, wanted: &Wanted<'_>) -> Result<(), Failure> {
        let tid = target.tid.to_string();
        let end = Instant::now().checked_add(REOPEN_LIMIT);
        let (mut has_unit, mut serves) = (target.unit.is_some(), !target.is_offline);
        loop {
            let Err(failure) = self.exchange_unit(&tid, has_unit, volume, wanted).await else {
                return Ok(());
            };
            if failure.kind == FailureKind::Busy && has_unit && serves {
                // as it was: it serves the old size
                return self.set_ready(&tid, end).await.and(Err(failure));
            }
            // a tgtd that has gone has no target any more
            if failure.kind == FailureKind::BackendUnavailable || end.is_none_or(|end| Instant::now() >= end)
            {
                return Err(failure);
            }
            tracing::warn!(target = target.name, %failure, "an export that grows is tried again");
            tokio::time::sleep(REOPEN_INTERVAL).await;
            let Ok(targets) = self.targets().await else { continue };
            let Some(now) = targets.into_iter().find(|now| now.tid == target.tid) else {
                return Err(failure);
            };
            has_unit = now.unit.is_some();
            serves &= now.unit == target.unit;
        }
    }

    /// Whatever of it fails can be repeated from its beginning.
    async fn exchange_unit(
        &self,
        tid: &str,
        has_unit: bool,
        volume: VolumeId,
        wanted: &Wanted<'_>,
    ) -> Result<(), Failure> {
        let lun = LUN.to_string();
        self.set_state(tid, "offline").await?;
        if has_unit {
            let unit = ["--op", "delete", "--mode", "logicalunit", "--tid", tid, "--lun", &lun];
            self.delete_idle(tid, &unit).await?;
        }
        self.new_unit(tid, volume, wanted).await?;
        self.set_state(tid, "ready").await
    }

    async fn set_ready(&self, tid: &str, end: Option<Instant>) -> Result<(), Failure> {
        loop {
            let set = self.set_state(tid, "ready").await;
            if set.is_ok() || end.is_none_or(|end| Instant::now() >= end) {
                return set;
            }
            tokio::time::sleep(REOPEN_INTERVAL).await;
        }
    }

    async fn set_state(&self, tid: &str, state: &str) -> Result<(), Failure> {
        let update =
            ["--op", "update", "--mode", "target", "--tid", tid, "--name", "state", "--value", state];
        self.tgtadm(update).await.map_err(failure)?;
        Ok(())
    }

    /// Closes the target's connections and deletes it, or its unit, once no command is under way.
    async fn delete_idle(&self, tid: &str, delete: &[&str]) -> Result<(), Failure> {
        let end = Instant::now().checked_add(DRAIN_LIMIT);
        loop {
            self.close_connections(tid).await?;
            match self.tgtadm(delete).await {
                Ok(_) => return Ok(()),
                Err(ProcessError::Failed { stderr_tail, .. }) if stderr_tail.contains(UNIT_ACTIVE) => {
                    if end.is_none_or(|end| Instant::now() >= end) {
                        let busy = "commands of a host that had the volume do not end";
                        return Err(Failure::new(FailureKind::Busy, busy));
                    }
                }
                Err(error) => return Err(failure(error)),
            }
            tokio::time::sleep(DRAIN_INTERVAL).await;
        }
    }

    async fn close_connections(&self, tid: &str) -> Result<(), Failure> {
        let on = ["--mode", "connection", "--tid", tid];
        let text = self.tgtadm(["--op", "show"].into_iter().chain(on)).await.map_err(failure)?;
        for (sid, cid) in shown::parse_connections(&text) {
            let close = ["--op", "delete", "--sid", &sid, "--cid", &cid];
            // one that has gone by itself cannot be closed
            drop(self.tgtadm(close.into_iter().chain(on)).await);
        }
        Ok(())
    }

    async fn remove(&self, target: &Target) -> Result<(), Failure> {
        let tid = target.tid.to_string();
        // access first: without an account, whoever is in the list needs no password
        for allowed in &target.allowed {
            let unbind = ["--op", "unbind", "--mode", "target", "--tid", &tid, by(allowed), allowed];
            self.tgtadm(unbind).await.map_err(failure)?;
        }
        for account in &target.accounts {
            let unbind = ["--op", "unbind", "--mode", "account", "--tid", &tid, "--user", account];
            self.tgtadm(unbind).await.map_err(failure)?;
        }
        self.delete_idle(&tid, &["--op", "delete", "--mode", "target", "--force", "--tid", &tid]).await
    }

    async fn remove_account(&self, account: &str) -> Result<(), Failure> {
        self.tgtadm(["--op", "delete", "--mode", "account", "--user", account]).await.map_err(failure)?;
        Ok(())
    }

    async fn listening(&self) -> Result<Listening, Failure> {
        let text = self.tgtadm(["--op", "show", "--mode", "portal"]).await.map_err(failure)?;
        Ok(shown::listening(&text, &self.config.portal))
    }

    /// Lets hosts connect, once there is a target. Until they can, there is no export: an address may be given
    /// to the host later.
    async fn open_portal(&self) -> Result<(), Failure> {
        match self.listening().await {
            Ok(Listening::There) => return Ok(()),
            Ok(Listening::Beside | Listening::Elsewhere) => {}
            Err(failure) if failure.kind == FailureKind::BackendUnavailable => return Err(failure),
            // the export is there; a tgtd that cannot say where it listens does as it was started
            Err(failure) => {
                tracing::warn!(%failure, "tgtd does not say where it listens");
                return Ok(());
            }
        }
        let portal = format!("portal={}", self.config.portal);
        let opened = self.tgtadm(["--op", "new", "--mode", "portal", "--param", &portal]).await;
        let Err(failure) = opened.map_err(failure) else { return Ok(()) };
        if failure.kind == FailureKind::BackendUnavailable {
            return Err(failure);
        }
        // another backend's exporter over the same tgtd may have been faster
        match self.listening().await? {
            Listening::There => Ok(()),
            Listening::Beside => {
                tracing::warn!(portal = self.config.portal, %failure, "tgtd listens on another address");
                Ok(())
            }
            Listening::Elsewhere => {
                let message = format!(
                    "tgtd does not listen on {}, and cannot be told to: {}",
                    self.config.portal, failure.message
                );
                Err(Failure::new(FailureKind::BackendUnavailable, message))
            }
        }
    }

    async fn has_account(&self, account: &str) -> Result<bool, Failure> {
        let text = self.tgtadm(["--op", "show", "--mode", "account"]).await.map_err(failure)?;
        Ok(text.lines().any(|line| line.trim() == account))
    }

    fn control_socket(&self) -> PathBuf {
        let mut path: OsString =
            self.config.socket.clone().unwrap_or_else(|| PathBuf::from(DEFAULT_SOCKET)).into();
        path.push(format!(".{}", self.config.control_port));
        path.into()
    }
}

/// How `tgtadm` is told who may connect.
fn by(allowed: &str) -> &'static str {
    let is_address = allowed == ALL || allowed.parse::<IpAddr>().is_ok();
    if is_address { "--initiator-address" } else { "--initiator-name" }
}

fn is_unanswered(stderr: &str) -> bool {
    UNANSWERED.iter().any(|said| stderr.contains(said))
}

fn failure(error: ProcessError) -> Failure {
    let kind = match &error {
        ProcessError::NotFound { .. } | ProcessError::Broken { .. } => FailureKind::BackendUnavailable,
        ProcessError::Failed { code, stderr_tail, .. }
            if code.is_none_or(|code| EXITS_WITHOUT_TGTD.contains(&code)) || is_unanswered(stderr_tail) =>
        {
            FailureKind::BackendUnavailable
        }
        ProcessError::Failed { .. } | ProcessError::TooMuchOutput { .. } => FailureKind::BackendError,
        ProcessError::TimedOut { .. } => FailureKind::TimedOut,
    };
    Failure::new(kind, error.to_string())
}

/// The present length of a file or device.
async fn length_of(path: &Path) -> Result<u64, Failure> {
    let path = path.to_owned();
    let measured = tokio::task::spawn_blocking(move || {
        use std::io::{Seek, SeekFrom};
        // a device's metadata has no length
        std::fs::File::open(&path).and_then(|mut file| file.seek(SeekFrom::End(0)))
    });
    let stopping = |_| Failure::new(FailureKind::BackendUnavailable, "the executor is stopping");
    let broken = |error| Failure::new(FailureKind::ObjectMissing, format!("cannot be exported: {error}"));
    measured.await.map_err(stopping)?.map_err(broken)
}

#[async_trait]
impl Exporter for TgtExporter {
    fn facts(&self) -> BTreeMap<String, String> {
        [
            ("portal", self.config.portal.clone()),
            ("iqn_prefix", self.config.iqn_prefix.clone()),
            ("lun", LUN.to_string()),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .into()
    }

    async fn export(&self, source: &Path, volume: VolumeId, export: &Export) -> Result<(), Failure> {
        let secret = self.config.key.chap(export.attachment);
        // a comma ends a parameter
        let path = source.to_str().filter(|path| !path.contains(',')).ok_or_else(|| {
            Failure::new(FailureKind::Unsupported, "tgt takes only paths that are UTF-8 and have no comma")
        })?;
        let wanted = Wanted {
            path,
            bytes: length_of(source).await?,
            readonly: export.mode == AttachMode::ReadOnly,
            account: &secret.user,
            allowed: export.initiator.as_deref().or(export.address.as_deref()).unwrap_or(ALL),
        };
        let _making = self.making.lock().await;
        let name = self.name(export.attachment);
        let found = self.find(export.attachment).await?;
        match (plan(found.as_ref(), &wanted), found) {
            (Plan::Nothing, _) => {}
            (Plan::Reopen, Some(found)) => self.reopen(&found, volume, &wanted).await?,
            (Plan::Rebuild, Some(found)) => {
                self.remove(&found).await?;
                self.create(&name, volume, &wanted, &secret.password).await?;
            }
            (Plan::Create | Plan::Reopen | Plan::Rebuild, _) => {
                self.create(&name, volume, &wanted, &secret.password).await?;
            }
        }
        self.open_portal().await
    }

    async fn unexport(&self, attachment: AttachmentId) -> Result<(), Failure> {
        let _making = self.making.lock().await;
        let mut removed = 0;
        while let Some(found) = self.find(attachment).await? {
            if removed == MOST_TARGETS {
                let message = format!("tgtd says that {} is deleted, and has it still", found.name);
                return Err(Failure::new(FailureKind::BackendError, message));
            }
            self.remove(&found).await?;
            removed = removed.saturating_add(1);
        }
        let account = self.config.key.chap(attachment).user;
        if self.has_account(&account).await? { self.remove_account(&account).await } else { Ok(()) }
    }

    async fn is_written(&self, source: &Path) -> Result<bool, Failure> {
        let units = self.targets().await?.into_iter().filter_map(|target| target.unit);
        Ok(units.filter(|unit| !unit.readonly).any(|unit| Path::new(&unit.path) == source))
    }

    /// The daemon's process, by the credentials of its control socket, and when it began.
    async fn incarnation(&self) -> Result<String, Failure> {
        let unreachable = |error: &dyn std::fmt::Display| {
            Failure::new(FailureKind::BackendUnavailable, format!("tgtd: {error}"))
        };
        let connecting = UnixStream::connect(self.control_socket());
        let stream = tokio::time::timeout(CONNECT_LIMIT, connecting)
            .await
            .map_err(|_| unreachable(&"does not answer"))?
            .map_err(|error| unreachable(&error))?;
        let pid = stream.peer_cred().map_err(|error| unreachable(&error))?.pid();
        let pid = pid.ok_or_else(|| unreachable(&"its process is not known"))?;
        let stat = tokio::fs::read_to_string(format!("/proc/{pid}/stat")).await;
        let stat = stat.map_err(|error| unreachable(&error))?;
        // after the name, which may hold anything, the 20th field is when the process began
        let began = stat.rsplit_once(')').and_then(|(_, rest)| rest.split_whitespace().nth(19));
        Ok(format!("{pid}@{}", began.unwrap_or_default()))
    }
}

#[cfg(test)]
mod tests;

//! Whether a server would lose what it acknowledged.
//!
//! A server syncs before it acknowledges only with `sync_interval: always`, which is a setting of
//! the whole server. An ordinary account is not told: neither the server's greeting nor any answer
//! of the JetStream API has it. The system account is (`$SYS.REQ.SERVER.PING.JSZ`, field
//! `config.sync_always`, one answer a server), and it can export that one question to our account.
//! So there are three ways to know: the export, a user of the system account, or the operator's
//! word ([`DurabilityClaim`]).

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_nats::jetstream::stream::{
    Config, DiscardPolicy, Info, PersistenceMode, RetentionPolicy, StorageType,
};
use async_nats::{Client, StatusCode};
use futures::StreamExt;
use serde::Deserialize;

use super::connect::{DurabilityClaim, NatsConfig, NatsError, connect_as};
use super::log::{HEADER_BYTES, MAX_BLOCK_BYTES};

/// The oldest server that the ledger is safe on: from here on, one sync a Raft entry holds for
/// replicated streams too.
pub const OLDEST_SERVER: (u64, u64, u64) = (2, 15, 1);

/// What the system account is asked.
const QUESTION: &str = "$SYS.REQ.SERVER.PING.JSZ";

/// How long servers may take to answer.
const ANSWERS_WITHIN: Duration = Duration::from_secs(2);

/// How often servers are asked before they are refused for what they do not say: those that have just
/// started, or are busy, may answer late, and whoever is refused is not started again.
const QUESTIONS: usize = 4;

/// The pause before they are asked again.
const QUESTION_PAUSE: Duration = Duration::from_millis(500);

/// The pause before those are asked again that have not said yet that they sync.
const ASKED_AGAIN_EVERY: Duration = Duration::from_secs(10);

/// A server or a stream that would lose what it acknowledged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RefusedServer {
    /// What is wrong, one thing each.
    pub problems: Vec<String>,
    /// The configuration that would not lose anything.
    pub remedy: String,
}

impl fmt::Display for RefusedServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "the ledger would not be safe on this NATS:")?;
        for problem in &self.problems {
            writeln!(f, "  - {problem}")?;
        }
        write!(f, "{}", self.remedy)
    }
}

impl std::error::Error for RefusedServer {}

/// How it is known that acknowledged means synced, or that it is not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DurabilityProof {
    /// These servers said so: more than half of those that have the stream, so that every acknowledged
    /// block is synced on one at least.
    Verified {
        /// By name.
        servers: Vec<String>,
        /// Those of the others that have said nothing yet: down, as a rule. They are asked again.
        silent: Vec<String>,
    },
    /// The operator said so.
    Stated,
    /// These servers said that they do not sync. At a start only with `allow_unsynced`; later it is said
    /// loudly, because to stop would lose more than that: a sequencer that is started anew refuses them.
    Unsynced {
        /// By name.
        servers: Vec<String>,
    },
    /// Half of the servers that have the stream, or more, said nothing; only with `allow_unsynced`.
    Unknown {
        /// By name.
        silent: Vec<String>,
    },
    /// Not asked: this process only reads.
    NotAsked,
}

/// What is known about the servers under a log: for `/readyz` and for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogHealth {
    /// The version of the server that we were connected to at the start.
    pub server_version: String,
    /// On how many servers the log is kept.
    pub replicas: usize,
    /// Whether acknowledged means synced.
    pub durability: DurabilityProof,
}

impl LogHealth {
    /// What is not as it should be, in words; nothing if all is well.
    pub fn warning(&self) -> Option<String> {
        match &self.durability {
            DurabilityProof::Verified { silent, .. } if !silent.is_empty() => Some(format!(
                "acknowledged commands may be lost if all servers lose power: it is not known yet whether these \
                 NATS servers sync before they acknowledge: {}",
                silent.join(", ")
            )),
            DurabilityProof::Verified { .. } | DurabilityProof::Stated | DurabilityProof::NotAsked => None,
            DurabilityProof::Unsynced { servers } => Some(format!(
                "acknowledged commands may be lost on power loss: {} acknowledge before they sync",
                servers.join(", ")
            )),
            DurabilityProof::Unknown { silent } => Some(format!(
                "acknowledged commands may be lost on power loss: it is not known whether NATS servers sync \
                 before they acknowledge: {}",
                silent.join(", ")
            )),
        }
    }
}

/// Checks the server that we are connected to, before anything is made on it.
pub(super) fn check_server(client: &Client) -> Result<(), RefusedServer> {
    let info = client.server_info();
    let mut problems = Vec::new();
    if let Some(problem) = too_old(&info.server_name, &info.version) {
        problems.push(problem);
    }
    if info.max_payload < MAX_BLOCK_BYTES + HEADER_BYTES {
        problems.push(format!(
            "its max_payload is {} bytes; blocks of the ledger need {}",
            info.max_payload,
            MAX_BLOCK_BYTES + HEADER_BYTES
        ));
    }
    refuse_if(problems, server_remedy)
}

fn too_old(server: &str, version: &str) -> Option<String> {
    let (major, minor, patch) = OLDEST_SERVER;
    match parse_version(version) {
        Some(found) if found >= OLDEST_SERVER => None,
        Some(_) | None => Some(format!(
            "server `{server}` is version {version}; {major}.{minor}.{patch} or newer is needed"
        )),
    }
}

fn parse_version(version: &str) -> Option<(u64, u64, u64)> {
    let numbers = version.split(['-', '+']).next()?;
    let mut parts = numbers.split('.').map(str::parse);
    let parsed = (parts.next()?.ok()?, parts.next()?.ok()?, parts.next()?.ok()?);
    parts.next().is_none().then_some(parsed)
}

/// Checks a stream of blocks against what the configuration asks for.
pub(super) fn check_stream(info: &Info, wanted: &Config) -> Result<(), RefusedServer> {
    let name = &wanted.name;
    let problems = stream_problems(info, wanted, MAX_BLOCK_BYTES);
    let mut problems: Vec<String> =
        problems.into_iter().map(|problem| format!("stream {name} {problem}")).collect();
    if let Some(problem) = lacks_messages(info) {
        problems.push(format!("stream {name} {problem}. Restore it from a copy; nothing in here can"));
    }
    let needs_servers_alone = problems.len() == 1 && on_too_few_servers(&info.config, wanted).is_some();
    refuse_if(problems, || {
        if needs_servers_alone {
            return more_servers(wanted);
        }
        format!(
            "Stop all writers, keep the stream's messages (nats stream backup), and make the stream again with:\n{}",
            serde_json::to_string_pretty(wanted).unwrap_or_default()
        )
    })
}

/// Checks the place of a stream that is made again when it is lost: nothing is lost with it, but nobody
/// goes on without it. Those that are to survive a server are to be on several.
pub(super) fn check_place(info: &Info, wanted: &Config) -> Result<(), RefusedServer> {
    let (name, in_memory) = (&wanted.name, in_memory(&info.config));
    let problems = [in_memory.map(str::to_owned), on_too_few_servers(&info.config, wanted)];
    let problems = problems.into_iter().flatten().map(|problem| format!("stream {name} {problem}")).collect();
    // The servers change neither of the two, and put no stream on more servers that does not wait for the disk.
    let is_made_anew = in_memory.is_some() || info.config.persist_mode == Some(PersistenceMode::Async);
    refuse_if(problems, || {
        if is_made_anew {
            format!("Remove it; what is needed of it is made again:\n\x20 nats stream rm {name}")
        } else {
            more_servers(wanted)
        }
    })
}

fn in_memory(found: &Config) -> Option<&'static str> {
    (found.storage != StorageType::File).then_some("is in memory: it does not survive its server")
}

fn on_too_few_servers(found: &Config, wanted: &Config) -> Option<String> {
    (found.num_replicas < wanted.num_replicas).then(|| {
        format!("is on {} servers, not on {} as configured", found.num_replicas, wanted.num_replicas)
    })
}

/// What puts a stream on as many servers as configured; it goes on meanwhile.
fn more_servers(wanted: &Config) -> String {
    let (name, replicas) = (&wanted.name, wanted.num_replicas);
    format!(
        "Put it on more servers, which takes nothing from it:\n\x20 nats stream edit --replicas {replicas} {name}"
    )
}

/// That a stream from which nothing may vanish has fewer messages than it has had.
pub(super) fn lacks_messages(info: &Info) -> Option<String> {
    let (messages, last) = (info.state.messages, info.state.last_sequence);
    (messages != last).then(|| format!("lacks messages: it has {messages} of {last}"))
}

/// What is wrong with the configuration of a stream from which nothing may vanish, and on which a
/// message is what somebody published: one thing each, to be read after the stream's name.
pub(super) fn stream_problems(info: &Info, wanted: &Config, max_message_bytes: usize) -> Vec<String> {
    let found = &info.config;
    let mut problems: Vec<String> = in_memory(found).map(str::to_owned).into_iter().collect();
    problems.extend(on_too_few_servers(found, wanted));
    let mut require = |holds: bool, problem: String| {
        if !holds {
            problems.push(problem);
        }
    };
    require(found.deny_delete, "lets messages be deleted (deny_delete is off)".into());
    require(found.deny_purge, "lets itself be purged (deny_purge is off)".into());
    require(found.max_age.is_zero(), "forgets old messages (max_age)".into());
    require(found.discard == DiscardPolicy::New, "discards old messages when it is full".into());
    require(found.max_messages_per_subject <= 0, "keeps a limited number of messages".into());
    // With `discard: new` nothing vanishes, but from then on nothing can be appended.
    require(found.max_messages <= 0, format!("takes {} messages and no more (max_msgs)", found.max_messages));
    require(found.max_bytes <= 0, format!("takes {} bytes and no more (max_bytes)", found.max_bytes));
    require(found.retention == RetentionPolicy::Limits, "forgets what was read (retention)".into());
    require(!found.allow_rollup, "lets a message replace all before it (allow_rollup_hdrs)".into());
    require(!found.allow_message_ttl, "lets messages expire (allow_msg_ttl)".into());
    require(!found.no_ack, "does not acknowledge (no_ack)".into());
    require(!found.sealed, "is sealed".into());
    require(
        found.persist_mode == wanted.persist_mode
            || found.persist_mode.as_ref().is_none_or(|mode| *mode == PersistenceMode::Default),
        "acknowledges before it stores (persist_mode: async)".into(),
    );
    require(
        found.mirror.is_none() && found.sources.as_ref().is_none_or(Vec::is_empty),
        "gets messages from other streams, which are not ours".into(),
    );
    require(
        found.subjects == wanted.subjects && found.subject_transform.is_none(),
        format!("listens on {:?}, not on {:?} alone", found.subjects, wanted.subjects),
    );
    require(
        found.max_message_size <= 0
            || usize::try_from(found.max_message_size).is_ok_and(|max| max >= max_message_bytes),
        format!("takes messages of {} bytes at most", found.max_message_size),
    );
    problems
}

fn refuse_if(problems: Vec<String>, remedy: impl FnOnce() -> String) -> Result<(), RefusedServer> {
    if problems.is_empty() { Ok(()) } else { Err(RefusedServer { problems, remedy: remedy() }) }
}

fn server_remedy() -> String {
    let (major, minor, patch) = OLDEST_SERVER;
    format!(
        "Run nats-server {major}.{minor}.{patch} or newer, each server with:\n\
         \x20 max_payload: 1MB\n\
         \x20 jetstream {{ store_dir: \"/var/lib/nats\", sync_interval: always }}"
    )
}

fn durability_remedy() -> String {
    format!(
        "{}\nand let the ledger's account ask whether it is so:\n\
         \x20 accounts {{\n\
         \x20   SYS: {{ exports: [{{ service: \"{QUESTION}\", response: stream }}], users: [...] }}\n\
         \x20   TEPHRA: {{ jetstream: enabled, imports: [{{ service: {{ account: SYS, subject: \"{QUESTION}\" }} }}], users: [...] }}\n\
         \x20 }}\n\
         \x20 system_account: SYS\n\
         Or name a user of the system account in the configuration, or state there that the servers sync.\n\
         --allow-unsynced goes on without: acknowledged commands may then be lost on power loss.",
        server_remedy()
    )
}

/// The servers of a stream, and what they have said so far.
pub(super) struct Inquiry {
    asker: Client,
    peers: BTreeSet<String>,
    answers: BTreeMap<String, Answer>,
    stated: bool,
}

impl Inquiry {
    async fn begin(client: &Client, config: &NatsConfig, info: &Info) -> Result<Self, NatsError> {
        let asker = match &config.durability {
            DurabilityClaim::Stated | DurabilityClaim::Ask => client.clone(),
            DurabilityClaim::AskAs(auth) => connect_as(config, auth, "tephra: is everything synced?").await?,
        };
        let stated = config.durability == DurabilityClaim::Stated;
        Ok(Self { asker, peers: stream_servers(client, info), answers: BTreeMap::new(), stated })
    }

    /// Asks once. A later answer of a server counts in place of an earlier one.
    async fn ask(&mut self) -> DurabilityProof {
        self.answers.extend(ask(&self.asker, &self.peers).await);
        judge(&self.answers, &self.peers, self.stated)
    }

    /// Asks for as long as a server has not said that it syncs, and keeps `health` up with the answers.
    pub(super) async fn go_on(mut self, health: Arc<Mutex<LogHealth>>) {
        let current = || health.lock().unwrap_or_else(PoisonError::into_inner).durability.clone();
        while is_open(&current()) {
            tokio::time::sleep(ASKED_AGAIN_EVERY).await;
            let proof = self.ask().await;
            if proof == current() {
                continue;
            }
            let warning = {
                let mut health = health.lock().unwrap_or_else(PoisonError::into_inner);
                health.durability = proof;
                health.warning()
            };
            match warning {
                Some(warning) => tracing::error!(warning, "NATS servers that may lose commands"),
                None => tracing::info!("every NATS server of the ledger syncs before it acknowledges"),
            }
        }
    }
}

/// Whether there is a server that may yet say something else.
fn is_open(proof: &DurabilityProof) -> bool {
    match proof {
        DurabilityProof::Verified { silent, .. } => !silent.is_empty(),
        DurabilityProof::Unsynced { .. } | DurabilityProof::Unknown { .. } => true,
        DurabilityProof::Stated | DurabilityProof::NotAsked => false,
    }
}

/// Finds out whether the servers of a stream sync before they acknowledge. Who has not said so can be
/// asked further.
pub(super) async fn check_durability(
    client: &Client,
    config: &NatsConfig,
    info: &Info,
) -> Result<(DurabilityProof, Inquiry), NatsError> {
    let mut inquiry = Inquiry::begin(client, config, info).await?;
    let mut proof = inquiry.ask().await;
    for _ in 1..QUESTIONS {
        if !matches!(proof, DurabilityProof::Unknown { .. }) {
            break;
        }
        tokio::time::sleep(QUESTION_PAUSE).await;
        proof = inquiry.ask().await;
    }
    let Inquiry { answers, peers, .. } = &inquiry;
    let mut problems: Vec<String> = answers
        .iter()
        .filter(|(server, _)| peers.contains(*server))
        .filter_map(|(server, answer)| too_old(server, &answer.version))
        .collect();
    if !problems.is_empty() {
        return Err(RefusedServer { problems, remedy: server_remedy() }.into());
    }
    match &proof {
        DurabilityProof::Verified { silent, .. } => {
            if !silent.is_empty() {
                // One of three may be down: that must not keep a sequencer from starting.
                tracing::warn!(servers = ?silent, "these servers did not say whether they sync before they acknowledge; they are asked again");
            }
            return Ok((proof, inquiry));
        }
        DurabilityProof::Stated | DurabilityProof::NotAsked => return Ok((proof, inquiry)),
        DurabilityProof::Unsynced { servers } => {
            for server in servers {
                problems.push(format!(
                    "server `{server}` acknowledges before it syncs: power loss takes what it acknowledged"
                ));
            }
        }
        DurabilityProof::Unknown { silent } if silent.len() == peers.len() => problems.push(
            "no server says whether it syncs before it acknowledges: it tells only its system account".into(),
        ),
        DurabilityProof::Unknown { silent } => problems.push(format!(
            "too few servers say whether they sync before they acknowledge: these do not: {}",
            silent.join(", ")
        )),
    }
    if !config.allow_unsynced {
        return Err(RefusedServer { problems, remedy: durability_remedy() }.into());
    }
    for problem in problems {
        tracing::error!(%problem, "ACKNOWLEDGED COMMANDS MAY BE LOST: going on because of --allow-unsynced");
    }
    Ok((proof, inquiry))
}

fn judge(answers: &BTreeMap<String, Answer>, peers: &BTreeSet<String>, stated: bool) -> DurabilityProof {
    let asked = answers.iter().filter(|(server, _)| peers.contains(*server));
    let (synced, unsynced): (Vec<_>, Vec<_>) = asked.partition(|(_, answer)| answer.synced);
    let names = |found: Vec<(&String, &Answer)>| found.into_iter().map(|(name, _)| name.clone()).collect();
    if !unsynced.is_empty() {
        return DurabilityProof::Unsynced { servers: names(unsynced) };
    }
    let silent: Vec<String> = peers.iter().filter(|peer| !answers.contains_key(*peer)).cloned().collect();
    // What is acknowledged is on more than half of them. As many must sync, or a block could be on none
    // that does.
    if synced.len() <= peers.len() / 2 {
        return if stated { DurabilityProof::Stated } else { DurabilityProof::Unknown { silent } };
    }
    DurabilityProof::Verified { servers: names(synced), silent }
}

/// The servers that a stream is kept on.
fn stream_servers(client: &Client, info: &Info) -> BTreeSet<String> {
    let mut servers = BTreeSet::new();
    if let Some(cluster) = &info.cluster {
        servers.extend(cluster.leader.clone());
        servers.extend(cluster.replicas.iter().map(|peer| peer.name.clone()));
    }
    if servers.is_empty() {
        servers.insert(client.server_info().server_name);
    }
    servers
}

struct Answer {
    version: String,
    synced: bool,
}

#[derive(Deserialize)]
struct AnswerJson {
    server: ServerJson,
    data: DataJson,
}

#[derive(Deserialize)]
struct ServerJson {
    name: String,
    ver: String,
}

#[derive(Deserialize)]
struct DataJson {
    #[serde(default)]
    config: ConfigJson,
}

#[derive(Default, Deserialize)]
struct ConfigJson {
    #[serde(default)]
    sync_always: bool,
}

/// What servers say, by name. Nothing if they do not answer us.
async fn ask(client: &Client, peers: &BTreeSet<String>) -> BTreeMap<String, Answer> {
    let mut answers = BTreeMap::new();
    let inbox = client.new_inbox();
    let Ok(mut subscription) = client.subscribe(inbox.clone()).await else { return answers };
    if client.publish_with_reply(QUESTION, inbox, "".into()).await.is_err() {
        return answers;
    }
    let gathering = async {
        while let Some(message) = subscription.next().await {
            if message.status == Some(StatusCode::NO_RESPONDERS) {
                return;
            }
            if let Ok(AnswerJson { server, data }) = serde_json::from_slice(&message.payload) {
                let answer = Answer { version: server.ver, synced: data.config.sync_always };
                answers.insert(server.name, answer);
            }
            if peers.iter().all(|peer| answers.contains_key(peer)) {
                return;
            }
        }
    };
    let _in_time = tokio::time::timeout(ANSWERS_WITHIN, gathering).await.is_ok();
    answers
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::{Answer, DurabilityProof, judge, parse_version, too_old};

    #[test]
    fn versions_are_compared_by_number() {
        assert_eq!(parse_version("2.15.1"), Some((2, 15, 1)));
        assert_eq!(parse_version("2.16.0-RC.1"), Some((2, 16, 0)));
        assert_eq!(parse_version("2.15"), None);
        for old in ["2.9.10", "2.15.0", "2.14.6", "1.99.99", "unknown"] {
            assert!(too_old("n1", old).is_some(), "{old}");
        }
        for new in ["2.15.1", "2.15.10", "2.16.0", "3.0.0"] {
            assert!(too_old("n1", new).is_none(), "{new}");
        }
    }

    fn verdict(answers: &[(&str, bool)], stated: bool) -> DurabilityProof {
        let peers: BTreeSet<String> = ["a", "b", "c"].map(str::to_owned).into();
        let answer = |synced: bool| Answer { version: "2.15.1".into(), synced };
        let answers: BTreeMap<_, _> =
            answers.iter().map(|(name, synced)| ((*name).to_owned(), answer(*synced))).collect();
        judge(&answers, &peers, stated)
    }

    #[test]
    fn one_server_that_does_not_sync_spoils_it_whatever_the_operator_says() {
        let unsynced = DurabilityProof::Unsynced { servers: vec!["b".into()] };
        assert_eq!(verdict(&[("a", true), ("b", false), ("c", true)], false), unsynced);
        assert_eq!(verdict(&[("a", true), ("b", false)], true), unsynced);
    }

    #[test]
    fn a_server_that_does_not_hold_the_stream_does_not_matter() {
        let (servers, silent) = (vec!["a".into(), "b".into()], vec!["c".into()]);
        let verified = DurabilityProof::Verified { servers, silent };
        assert_eq!(verdict(&[("a", true), ("b", true), ("x", false)], false), verified);
    }

    #[test]
    fn silence_is_no_proof_unless_the_operator_gives_one() {
        let silent = ["a", "b", "c"].map(str::to_owned).to_vec();
        assert_eq!(verdict(&[], false), DurabilityProof::Unknown { silent });
        assert_eq!(verdict(&[], true), DurabilityProof::Stated);
    }

    #[test]
    fn one_of_three_may_be_silent_and_two_may_not() {
        let (servers, silent) = (vec!["a".into(), "c".into()], vec!["b".into()]);
        let two = DurabilityProof::Verified { servers, silent };
        assert_eq!(verdict(&[("a", true), ("c", true)], false), two);
        let silent = vec!["b".to_owned(), "c".to_owned()];
        assert_eq!(verdict(&[("a", true)], false), DurabilityProof::Unknown { silent });
        assert_eq!(verdict(&[("a", true), ("x", true), ("y", true)], true), DurabilityProof::Stated);
    }
}

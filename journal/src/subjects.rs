//! Every name on NATS: subjects, streams, consumers, buckets. Nowhere else is one put together.
//!
//! | name | what it is |
//! |---|---|
//! | stream `TEPHRA_LEDGER_<cell>`, subject `tephra.ledger.<cell>` | the log: message n is block n |
//! | `tephra.block.<cell>` | new blocks, told by whoever appended them |
//! | stream `TEPHRA_WORK_<cell>`, subjects `tephra.work.<cell>.<backend>.<attempt>` | work orders |
//! | `tephra.command.<cell>` | commands to the sequencer, by request and reply |
//! | `tephra.report.<cell>.<backend>` | what a backend's executor says to the sequencer, likewise |
//! | `tephra.pools.<cell>.<backend>` | how full the pools of a backend are |
//! | `tephra.progress.<cell>.<backend>` | how far the long work of a backend's executor has come |
//! | `tephra.inventory.<cell>.<backend>` | what is on a pool of a backend, by request and reply |
//! | `tephra.loans.<cell>.<backend>.any`, `….<executor>` | what executors of a backend lend to others, likewise: of any of them, of one |
//! | bucket `TEPHRA_LEASE_<cell>`, key `sequencer` | who the sequencer is |
//! | the same, key `events` | who publishes events |
//! | stream `TEPHRA_EVENTS`, subjects `tephra.event.<project>.<resource>.<id>.<kind>` | public events of cell `main` |
//! | stream `TEPHRA_EVENTS_<cell>`, subjects `tephra.cell.<cell>.event.<project>.…` | those of any other cell |
//!
//! A cell is one ledger: one log, one sequencer, its projects. Names of backends are chosen by
//! people; [`token`] makes one token of a subject of them.
//!
//! Events are for programs that are not ours, and nearly every deployment has one cell: there the
//! names are the plain ones. Those of further cells begin differently, so that no stream listens to
//! another's subjects and what is allowed for a project of one cell is not allowed in another.

use std::fmt;
use std::str::FromStr;

use tephra_domain::effect::EffectKey;
use tephra_domain::ids::BackendName;
use uuid::Uuid;

/// The key of the sequencer's lease in its bucket.
pub const SEQUENCER_LEASE: &str = "sequencer";

/// The key of the lease of whoever publishes events.
pub const EVENTS_LEASE: &str = "events";

/// The token of a subject that stands for the deployment where a project's name would stand. No
/// project has it: [`token`] makes no `@`.
pub const DEPLOYMENT_TOKEN: &str = "@deployment";

/// The token that stands for an empty text, of which no token can be made.
const EMPTY_TOKEN: &str = "@empty";

/// The name of the cell of a deployment that has one.
const USUAL_CELL: &str = "main";

/// The longest name of a cell.
const MAX_CELL_LENGTH: usize = 32;

/// The name of a cell.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cell(String);

/// What a cell cannot be called.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` cannot be a cell's name: 1 to {MAX_CELL_LENGTH} letters, digits, `-` or `_`")]
pub struct InvalidCell(String);

impl Cell {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The stream of blocks.
    pub fn ledger_stream(&self) -> String {
        format!("TEPHRA_LEDGER_{self}")
    }

    /// The only subject of the stream of blocks.
    pub fn ledger_subject(&self) -> String {
        format!("tephra.ledger.{self}")
    }

    /// Where whoever appends a block tells readers of it.
    pub fn block_subject(&self) -> String {
        format!("tephra.block.{self}")
    }

    /// The stream of work orders.
    pub fn work_stream(&self) -> String {
        format!("TEPHRA_WORK_{self}")
    }

    /// Every work order.
    pub fn work_subjects(&self) -> String {
        format!("tephra.work.{self}.>")
    }

    /// Every work order of a backend.
    pub fn backend_work_subjects(&self, backend: &BackendName) -> String {
        format!("tephra.work.{self}.{}.>", token(backend.as_str()))
    }

    /// The order for one attempt. One subject an attempt: that is how the stream knows that an
    /// order is there already.
    pub fn work_subject(&self, backend: &BackendName, key: EffectKey) -> String {
        format!("tephra.work.{self}.{}.{}", token(backend.as_str()), token(&key.to_string()))
    }

    /// Where commands are sent.
    pub fn command_subject(&self) -> String {
        format!("tephra.command.{self}")
    }

    /// Where a backend's executor sends what it has to say.
    pub fn report_subject(&self, backend: &BackendName) -> String {
        format!("tephra.report.{self}.{}", token(backend.as_str()))
    }

    /// The backend whose executor speaks on a subject; nothing if it is not one of theirs.
    pub fn reporting_backend(&self, subject: &str) -> Option<BackendName> {
        backend_of(subject, &format!("tephra.report.{self}."))
    }

    /// What all executors have to say.
    pub fn report_subjects(&self) -> String {
        format!("tephra.report.{self}.*")
    }

    /// Where a backend's pools are reported.
    pub fn pools_subject(&self, backend: &BackendName) -> String {
        format!("tephra.pools.{self}.{}", token(backend.as_str()))
    }

    /// Every backend's pools.
    pub fn pools_subjects(&self) -> String {
        format!("tephra.pools.{self}.*")
    }

    /// Where a backend's executor says how far its long work has come.
    pub fn progress_subject(&self, backend: &BackendName) -> String {
        format!("tephra.progress.{self}.{}", token(backend.as_str()))
    }

    /// The backend whose progress is told on a subject; nothing if it is none of these subjects.
    pub fn progressing_backend(&self, subject: &str) -> Option<BackendName> {
        backend_of(subject, &format!("tephra.progress.{self}."))
    }

    /// Every backend's progress.
    pub fn progress_subjects(&self) -> String {
        format!("tephra.progress.{self}.*")
    }

    /// The stream of public events.
    pub fn events_stream(&self) -> String {
        if self.0 == USUAL_CELL { "TEPHRA_EVENTS".to_owned() } else { format!("TEPHRA_EVENTS_{self}") }
    }

    fn event_prefix(&self) -> String {
        if self.0 == USUAL_CELL { "tephra.event".to_owned() } else { format!("tephra.cell.{self}.event") }
    }

    /// Every public event.
    pub fn event_subjects(&self) -> String {
        format!("{}.>", self.event_prefix())
    }

    /// Every public event about things of a project; of no project, about those of the deployment.
    pub fn project_event_subjects(&self, project: Option<&str>) -> String {
        format!("{}.{}.>", self.event_prefix(), project_token(project))
    }

    /// One public event: whose it is (nobody's is the deployment's), what it is about, and its name.
    pub fn event_subject(&self, project: Option<&str>, resource: &str, id: &str, kind: &str) -> String {
        let [resource, id, kind] = [resource, id, kind].map(filled_token);
        format!("{}.{}.{resource}.{id}.{kind}", self.event_prefix(), project_token(project))
    }

    /// Where a backend's executor is asked what is on a pool.
    pub fn inventory_subject(&self, backend: &BackendName) -> String {
        format!("tephra.inventory.{self}.{}", token(backend.as_str()))
    }

    /// Where the executors of a backend are asked to lend: any of them, or the one that lent before.
    pub fn loans_subject(&self, backend: &BackendName, lender: Option<Uuid>) -> String {
        let lender = lender.map_or_else(|| "any".to_owned(), |lender| lender.to_string());
        format!("tephra.loans.{self}.{}.{lender}", token(backend.as_str()))
    }

    /// The bucket of leases.
    pub fn lease_bucket(&self) -> String {
        format!("TEPHRA_LEASE_{self}")
    }
}

impl Default for Cell {
    /// The cell of a deployment that has one.
    fn default() -> Self {
        Self(USUAL_CELL.to_owned())
    }
}

impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Cell {
    type Err = InvalidCell;

    fn from_str(text: &str) -> Result<Self, InvalidCell> {
        let fits = (1..=MAX_CELL_LENGTH).contains(&text.len());
        if fits && text.bytes().all(is_plain) {
            Ok(Self(text.to_owned()))
        } else {
            Err(InvalidCell(text.to_owned()))
        }
    }
}

/// The name of a backend's consumer of work orders.
pub fn work_consumer(backend: &BackendName) -> String {
    token(backend.as_str())
}

/// The backend that is the last token of a subject which begins like this.
fn backend_of(subject: &str, prefix: &str) -> Option<BackendName> {
    subject.strip_prefix(prefix).and_then(text_of).map(BackendName::new)
}

const fn is_plain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_'
}

fn project_token(project: Option<&str>) -> String {
    project.map_or_else(|| DEPLOYMENT_TOKEN.to_owned(), filled_token)
}

/// [`token`], also where there may be no text at all.
fn filled_token(text: &str) -> String {
    if text.is_empty() { EMPTY_TOKEN.to_owned() } else { token(text) }
}

/// One token of a subject that stands for any text, and for no other: letters, digits, `-` and `_`
/// are themselves, every other byte is `=` and two hexadecimal digits.
pub fn token(text: &str) -> String {
    let mut token = String::with_capacity(text.len());
    for byte in text.bytes() {
        if is_plain(byte) {
            token.push(char::from(byte));
        } else {
            token.push('=');
            token.push_str(&hex::encode([byte]));
        }
    }
    token
}

/// The text that a [`token`] stands for; nothing if it is none.
fn text_of(token: &str) -> Option<String> {
    let mut text = Vec::new();
    let mut rest = token.bytes();
    while let Some(byte) = rest.next() {
        match byte {
            b'=' => {
                let mut decoded = [0];
                hex::decode_to_slice([rest.next()?, rest.next()?], &mut decoded).ok()?;
                text.extend(decoded);
            }
            plain if is_plain(plain) => text.push(plain),
            _ => return None,
        }
    }
    String::from_utf8(text).ok()
}

#[cfg(test)]
mod tests {
    use tephra_domain::effect::{Direction, EffectKey};
    use tephra_domain::ids::{BackendName, OperationId};
    use uuid::Uuid;

    use super::{Cell, token, work_consumer};

    #[test]
    fn a_token_has_nothing_that_a_subject_takes_for_structure() {
        for (text, expected) in
            [("lvm-fast", "lvm-fast"), ("a.b", "a=2eb"), ("*", "=2a"), (">", "=3e"), ("é=", "=c3=a9=3d")]
        {
            assert_eq!(token(text), expected);
        }
    }

    #[test]
    fn an_order_is_among_those_of_its_backend_and_of_no_other() {
        let cell = Cell::default();
        let backend = BackendName::new("lvm.fast");
        let operation = OperationId::from_uuid(Uuid::nil());
        let key = EffectKey::Step { operation, direction: Direction::Undo, step: 2, attempt: 7 };
        let subject = cell.work_subject(&backend, key);
        assert_eq!(
            subject,
            "tephra.work.main.lvm=2efast.00000000-0000-0000-0000-000000000000=2fundo=2f2=2f7"
        );
        let prefix = cell.backend_work_subjects(&backend).replace('>', "");
        assert!(subject.starts_with(&prefix));
        assert!(!subject.starts_with(&cell.backend_work_subjects(&BackendName::new("lvm")).replace('>', "")));
        assert_eq!(work_consumer(&backend), "lvm=2efast");
    }

    #[test]
    fn an_event_s_subject_has_its_tokens_whatever_things_are_called() {
        let cell = Cell::default();
        for project in [
            None,
            Some(""),
            Some("shop"),
            Some("a.b"),
            Some("*"),
            Some(">"),
            Some("a b\t"),
            Some("@deployment"),
        ] {
            for id in ["", "default", "lvm.fast", "6a1f2c1e-0a4b-4a6e-9d55-5d4f5b2f1a10.0", "é >"] {
                let subject = cell.event_subject(project, "backend", id, "BackendEnabled");
                let tokens: Vec<&str> = subject.split('.').collect();
                assert_eq!(tokens.len(), 6, "{subject}");
                assert!(tokens.iter().all(|token| !token.is_empty()), "{subject}");
                assert!(!subject.contains(|c: char| c.is_whitespace() || "*>".contains(c)), "{subject}");
                assert!(subject.is_ascii(), "{subject}");
                let of_project = cell.project_event_subjects(project).replace('>', "");
                assert!(subject.starts_with(&of_project), "{subject}");
                let is_of_deployment = subject.starts_with("tephra.event.@deployment.");
                assert_eq!(is_of_deployment, project.is_none(), "{subject}");
            }
        }
        assert_eq!(
            cell.event_subject(Some("shop"), "volume", "1", "VolumeCreated"),
            "tephra.event.shop.volume.1.VolumeCreated"
        );
    }

    #[test]
    fn no_cell_s_events_are_another_s() {
        let (usual, other): (Cell, Cell) = (Cell::default(), "eu".parse().unwrap());
        assert_eq!(
            (usual.events_stream().as_str(), other.events_stream().as_str()),
            ("TEPHRA_EVENTS", "TEPHRA_EVENTS_eu")
        );
        assert_eq!(usual.event_subjects(), "tephra.event.>");
        assert_eq!(other.event_subjects(), "tephra.cell.eu.event.>");
        assert_eq!(
            other.event_subject(None, "type", "1", "VolumeTypeDeleted"),
            "tephra.cell.eu.event.@deployment.type.1.VolumeTypeDeleted"
        );
    }

    #[test]
    fn the_subject_of_a_report_names_its_backend_and_no_other_subject_does() {
        let cell = Cell::default();
        for name in ["lvm", "lvm.fast", "a=b c*>", "größe"] {
            let backend = BackendName::new(name);
            assert_eq!(cell.reporting_backend(&cell.report_subject(&backend)), Some(backend.clone()));
            assert_eq!(cell.progressing_backend(&cell.progress_subject(&backend)), Some(backend));
        }
        for other in [
            "tephra.command.main",
            "tephra.report.other.lvm",
            "tephra.report.main.a.b",
            "tephra.report.main.=4",
        ] {
            assert_eq!(cell.reporting_backend(other), None, "{other}");
            let other = other.replace("report", "progress");
            assert_eq!(cell.progressing_backend(&other), None, "{other}");
        }
    }

    #[test]
    fn a_cell_has_a_plain_name() {
        assert_eq!("eu-1_a".parse::<Cell>().unwrap().ledger_stream(), "TEPHRA_LEDGER_eu-1_a");
        for name in ["", "a.b", "a b", "*", ">", &"x".repeat(33)] {
            assert!(name.parse::<Cell>().is_err(), "{name}");
        }
    }
}

//! Every name on NATS: subjects, streams, consumers, buckets. Nowhere else is one put together.
//!
//! | name | what it is |
//! |---|---|
//! | stream `TEPHRA_LEDGER_<cell>`, subject `tephra.ledger.<cell>` | the log: message n is block n |
//! | stream `TEPHRA_WORK_<cell>`, subjects `tephra.work.<cell>.<backend>.<attempt>` | work orders |
//! | `tephra.command.<cell>` | commands to the sequencer, by request and reply |
//! | `tephra.report.<cell>.<backend>` | what a backend's executor says to the sequencer, likewise |
//! | `tephra.pools.<cell>.<backend>` | how full the pools of a backend are |
//! | bucket `TEPHRA_LEASE_<cell>`, key `sequencer` | who the sequencer is |
//!
//! A cell is one ledger: one log, one sequencer, its projects. Names of backends are chosen by
//! people; [`token`] makes one token of a subject of them.

use std::fmt;
use std::str::FromStr;

use tephra_domain::effect::EffectKey;
use tephra_domain::ids::BackendName;

/// The key of the sequencer's lease in its bucket.
pub const SEQUENCER_LEASE: &str = "sequencer";

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

    /// The bucket of leases.
    pub fn lease_bucket(&self) -> String {
        format!("TEPHRA_LEASE_{self}")
    }
}

impl Default for Cell {
    /// The cell of a deployment that has one.
    fn default() -> Self {
        Self("main".to_owned())
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

const fn is_plain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_'
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
    fn a_cell_has_a_plain_name() {
        assert_eq!("eu-1_a".parse::<Cell>().unwrap().ledger_stream(), "TEPHRA_LEDGER_eu-1_a");
        for name in ["", "a.b", "a b", "*", ">", &"x".repeat(33)] {
            assert!(name.parse::<Cell>().is_err(), "{name}");
        }
    }
}

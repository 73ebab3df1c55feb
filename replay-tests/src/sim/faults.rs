//! What can go wrong in a simulation, each kind with its name, so that it can be counted, and left
//! out to see whether a failure needs it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

macro_rules! fault_kinds {
    ($($(#[$doc:meta])* $name:ident $word:literal;)*) => {
        /// A kind of fault.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum FaultKind {
            $($(#[$doc])* $name,)*
        }

        impl FaultKind {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$name),*];

            /// Its name on the command line.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$name => $word,)*
                }
            }
        }
    };
}

fault_kinds! {
    /// An append takes up to some seconds.
    AppendSlow "append-slow";
    /// A conflict is reported though nobody else wrote.
    AppendConflict "append-conflict";
    /// It is written, and the answer is lost.
    AppendUnknownWritten "append-unknown-written";
    /// It is not written, and no answer comes.
    AppendUnknownLost "append-unknown-lost";
    /// No answer comes, and it is written some seconds later.
    AppendLate "append-late";
    /// A read of the log fails.
    ReadFails "read-fails";
    /// A node cannot reach the log for a while.
    LogPartition "log-partition";
    /// A work order never arrives.
    OrderLost "order-lost";
    /// A work order arrives twice.
    OrderTwice "order-twice";
    /// A work order arrives late.
    OrderLate "order-late";
    /// Work orders overtake each other.
    OrderReordered "order-reordered";
    /// An acknowledgement of an order is lost: it comes again.
    AckLost "ack-lost";
    /// A lease is not kept, though the executor tries: the order comes again meanwhile.
    LeaseLost "lease-lost";
    /// A request never reaches the sequencer.
    RequestLost "request-lost";
    /// A request reaches the sequencer late.
    RequestLate "request-late";
    /// The sequencer's answer is lost.
    ReplyLost "reply-lost";
    /// A request goes to a sequencer whose turn is over.
    StaleSequencer "stale-sequencer";
    /// The backend fails before it acts.
    ActFailsBefore "act-fails-before";
    /// The backend acts and then fails.
    ActFailsAfter "act-fails-after";
    /// The backend acts in part and then fails.
    ActPartial "act-partial";
    /// The backend is slow to act.
    ActSlow "act-slow";
    /// The executor dies before it acts.
    CrashBeforeAct "crash-before-act";
    /// The executor dies while it acts.
    CrashDuringAct "crash-during-act";
    /// The executor dies after it acted, before it reports.
    CrashAfterAct "crash-after-act";
    /// The backend does not answer for hours.
    BackendDown "backend-down";
    /// The backend has no room.
    BackendFull "backend-full";
    /// Somebody else has an object open: it cannot be removed, reverted or given up for a while.
    ObjectInUse "object-in-use";
    /// The export daemon of a host dies and is started again, without its exports.
    ExportsLost "exports-lost";
    /// An executor dies at a random moment.
    ExecutorCrash "executor-crash";
    /// A node with a projector, perhaps with the sequencer, dies at a random moment.
    NodeCrash "node-crash";
    /// Every process dies at the same moment.
    Blackout "blackout";
    /// Another node becomes the sequencer.
    LeaderChange "leader-change";
    /// Another node becomes the sequencer, and the old one does not know yet.
    TwoLeaders "two-leaders";
    /// A client does not wait for its answer.
    ClientGivesUp "client-gives-up";
}

/// Which faults strike, and how often they did.
#[derive(Clone)]
pub struct Faults {
    strike: Arc<AtomicBool>,
    without: Arc<BTreeSet<FaultKind>>,
    harshness: Arc<BTreeMap<FaultKind, u32>>,
    struck: Arc<Mutex<BTreeMap<FaultKind, u64>>>,
}

impl Faults {
    /// All kinds but these, some of them more often.
    pub fn new(without: &BTreeSet<FaultKind>, harshness: &BTreeMap<FaultKind, u32>) -> Self {
        let (without, harshness) = (Arc::new(without.clone()), Arc::new(harshness.clone()));
        Self { strike: Arc::new(AtomicBool::new(true)), without, harshness, struck: Arc::default() }
    }

    /// Whether this kind strikes now: one time in so many, or more often if the run is harsh there.
    /// Draws whether or not it may.
    pub fn strikes(&self, kind: FaultKind, random: &mut fastrand::Rng, one_in: u32) -> bool {
        let times = self.harshness.get(&kind).copied().unwrap_or(1).max(1);
        let drawn = random.u32(0..one_in.max(1)) < times.min(one_in.div_ceil(2));
        let strikes = drawn && self.may_strike(kind);
        if strikes {
            let mut struck = self.struck.lock().unwrap_or_else(PoisonError::into_inner);
            *struck.entry(kind).or_default() += 1;
        }
        strikes
    }

    /// Whether faults of this kind happen at all.
    pub fn may_strike(&self, kind: FaultKind) -> bool {
        self.strike.load(Ordering::Relaxed) && !self.without.contains(&kind)
    }

    /// Nothing goes wrong from now on.
    pub fn stop(&self) {
        self.strike.store(false, Ordering::Relaxed);
    }

    /// How often each kind struck.
    pub fn struck(&self) -> BTreeMap<FaultKind, u64> {
        self.struck.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

//! Orders on their way from the decisions to the queue.
//!
//! Nothing here waits: while the queue takes no orders, commands are decided all the same. An order that
//! finds no room is not kept. Whose it is stands in a line, and what is due for them then goes out when
//! there is room, first come, first served. Everybody who may have something due gets into the line at
//! the start and now and then, in case orders were lost; those who stand in it keep their place. The line
//! and what has just become due have lanes of their own and take turns: a long line delays nothing new.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tephra_domain::ledger::Ledger;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::requests::Requests;
use super::shell::SequencerConfig;
use crate::dispatcher::{Claimant, Dispatcher};
use crate::log::Block;
use crate::work_queue::{WorkOrder, WorkQueue};

/// Orders of the line that are on their way to the queue; and those in the line who are looked at before
/// commands are decided again.
const SLICE: usize = 256;

/// The orders that leave a sequencer.
pub(super) struct Outbox {
    dispatcher: Dispatcher,
    fresh: mpsc::Sender<WorkOrder>,
    again: mpsc::Sender<WorkOrder>,
    line: VecDeque<Claimant>,
    /// The same, to be asked who is in it.
    standing: BTreeSet<Claimant>,
    interval: Duration,
    next_round: Instant,
}

impl Outbox {
    /// At a state, whose operations and debts came from these requests. Publishes in a task of its own,
    /// and is due for a round at once: for what was due when the last process ended.
    pub(super) fn open(
        ledger: &Ledger,
        requests: Requests,
        queue: Arc<dyn WorkQueue>,
        config: SequencerConfig,
    ) -> Self {
        let (fresh, fresh_lane) = mpsc::channel(config.queued_orders.max(1));
        let (again, again_lane) = mpsc::channel(SLICE);
        tokio::spawn(publish(fresh_lane, again_lane, queue));
        Self {
            dispatcher: Dispatcher::at(ledger, requests),
            fresh,
            again,
            line: VecDeque::new(),
            standing: BTreeSet::new(),
            interval: Duration::from_millis(config.redispatch_ms.max(1)),
            next_round: Instant::now(),
        }
    }

    /// Sends what became due with a block. `ledger` stands right after it.
    pub(super) fn after(&mut self, ledger: &Ledger, block: &Block) {
        for order in self.dispatcher.after(ledger, block) {
            let claimant = Claimant::of(order.due.key);
            if self.fresh.try_send(order).is_err() {
                self.stand(claimant);
            }
        }
    }

    /// Lets everybody stand in the line if it is time to, and sends what is due for the first of them
    /// while there is room.
    pub(super) fn go_on(&mut self, ledger: &Ledger) {
        if self.next_round <= Instant::now() {
            self.next_round = Instant::now() + self.interval;
            for claimant in Dispatcher::everyone(ledger) {
                self.stand(claimant);
            }
        }
        for _ in 0..SLICE {
            if self.line.is_empty() {
                return;
            }
            // A publisher that is gone is so with the runtime; what is lost then is due at the next start.
            let Ok(place) = self.again.try_reserve() else { return };
            let Some(claimant) = self.line.pop_front() else { return };
            self.standing.remove(&claimant);
            if let Some(order) = self.dispatcher.due_for(ledger, claimant) {
                place.send(order);
            }
        }
    }

    /// When to go on, if nothing happens before: when there is room for those who stand in the line, or
    /// when it is time for the next round.
    pub(super) fn turn(&self) -> impl Future<Output = ()> + Send + use<> {
        let (again, waits, next_round) = (self.again.clone(), !self.line.is_empty(), self.next_round);
        async move {
            let room = async {
                if !waits || again.reserve().await.is_err() {
                    std::future::pending::<()>().await;
                }
            };
            tokio::select! {
                biased;
                () = room => {}
                () = tokio::time::sleep_until(next_round) => {}
            }
        }
    }

    fn stand(&mut self, claimant: Claimant) {
        if self.standing.insert(claimant) {
            self.line.push_back(claimant);
        }
    }
}

/// Publishes, one of each lane after the other, until both are closed.
async fn publish(
    mut fresh: mpsc::Receiver<WorkOrder>,
    mut again: mpsc::Receiver<WorkOrder>,
    queue: Arc<dyn WorkQueue>,
) {
    let mut is_turn_of_fresh = true;
    loop {
        let (first, second) =
            if is_turn_of_fresh { (&mut fresh, &mut again) } else { (&mut again, &mut fresh) };
        let order = tokio::select! {
            biased;
            Some(order) = first.recv() => order,
            Some(order) = second.recv() => order,
            else => return,
        };
        is_turn_of_fresh = !is_turn_of_fresh;
        queue.publish(order).await;
    }
}

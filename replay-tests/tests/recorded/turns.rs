//! A history that several sequencers decided, one after the other.

use tephra_domain::actor::Role;
use tephra_domain::ids::CommandId;

use super::Recorder;

const ROUNDS: usize = 60;
const SEQUENCERS: [&str; 3] = ["host-a", "host-b", "Rechner – 3"];

/// The history of a seed.
pub fn record_turns(seed: u64) -> Recorder {
    Recorder::of(seed, ROUNDS, |recorder| {
        if recorder.draw(6) == 0 {
            recorder.another_begins();
        }
        (Role::Member, recorder.a_new_volume())
    })
}

impl Recorder {
    fn another_begins(&mut self) {
        let sequencer = self.pick(&SEQUENCERS).unwrap();
        let (command, block_id) = (CommandId::from_uuid(self.fresh()), self.fresh());
        let batch = self.core.begin_turn(sequencer, self.now, command, block_id).unwrap();
        self.blocks.push(batch.bytes);
        self.core.acknowledged().unwrap();
    }
}

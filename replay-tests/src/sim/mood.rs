//! What a run leans on. Where everything happens as often as everywhere else, what needs two rare
//! things at once never happens: so every other run asks for some operations often and for others
//! never, and in every run some kinds of fault strike more often.

use std::collections::BTreeMap;

use super::faults::FaultKind;
use super::operations;
use super::seeds::Seeds;

/// By what the weight of an operation is multiplied in a run that leans.
const LEANINGS: [u32; 5] = [0, 1, 1, 2, 8];

/// By what the odds of a fault are multiplied, for one kind in [`HARSH_ONE_IN`].
const HARSHER: [u32; 2] = [3, 10];
/// See [`HARSHER`].
const HARSH_ONE_IN: u8 = 8;

/// In one run of so many, somebody holds on to a volume again and again: what a volume may have of
/// something is met in no other way.
const HOARDING_ONE_IN: u32 = 64;
/// By what the weight of that is multiplied then.
const HOARDING: u32 = 60;

/// The mood of a run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mood {
    /// How often each operation is drawn, relative to the others; in the order of
    /// [`operations::ALL`].
    pub weights: Vec<u32>,
    /// By what the odds of a fault are multiplied, where they are.
    pub harshness: BTreeMap<FaultKind, u32>,
}

impl Mood {
    /// The mood of a seed.
    pub fn of(seeds: Seeds) -> Self {
        let mut random = seeds.stream("mood", 0);
        let leans = random.bool();
        let hoards = random.u32(0..HOARDING_ONE_IN) == 0;
        let mut lean = |operation: &operations::Operation| {
            let drawn = LEANINGS[random.usize(0..LEANINGS.len())];
            if hoards && operation.name == "create_attachment" {
                return operation.weight * HOARDING;
            }
            // without volumes nothing else happens
            let times = if operation.name == "create_volume" { drawn.max(1) } else { drawn };
            operation.weight * if leans { times } else { 1 }
        };
        let weights = operations::ALL.iter().map(&mut lean).collect();
        let mut harshness = BTreeMap::new();
        for kind in FaultKind::ALL {
            if random.u8(0..HARSH_ONE_IN) == 0 {
                harshness.insert(*kind, HARSHER[random.usize(0..HARSHER.len())]);
            }
        }
        Self { weights, harshness }
    }
}

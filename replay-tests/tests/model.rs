//! Small worlds explored whole: every interleaving of clients, executors and faults. See
//! [`tephra_replay_tests::model`].
//!
//! `TEPHRA_MODEL_COMMANDS=2` lets each client of the first world ask twice.

#![allow(clippy::panic, clippy::unwrap_used, reason = "a test fails by panicking")]

use tephra_replay_tests::model::{Ask, Client, Explored, Model};

const MEMBER: Client = Client { asks: Ask::OF_MEMBERS, commands: 1 };
const OPERATOR: Client = Client { asks: Ask::OF_OPERATORS, commands: 1 };

fn explore(name: &str, clients: &[Client], faults: u8, native_revert: bool) -> Explored {
    let model = Model { clients: clients.to_vec(), faults, native_revert, executors: 2 };
    let explored = model.explore().unwrap_or_else(|broken| panic!("{broken}"));
    println!("{name}, native revert {native_revert}, {faults} faults: {explored}");
    explored
}

#[test]
fn two_members_and_a_fault() {
    let commands = std::env::var("TEPHRA_MODEL_COMMANDS").map_or(1, |value| value.parse().unwrap());
    let member = Client { commands, ..MEMBER };
    for native_revert in [true, false] {
        let explored = explore("two members", &[member, member], 1, native_revert);
        assert!(explored.states > 1_000, "{explored}");
    }
}

#[test]
fn a_member_that_asks_twice_and_a_fault() {
    for native_revert in [true, false] {
        explore("a member that asks twice", &[Client { commands: 2, ..MEMBER }], 1, native_revert);
    }
}

#[test]
fn a_member_and_an_operator_and_a_fault() {
    for native_revert in [true, false] {
        explore("a member and an operator", &[MEMBER, OPERATOR], 1, native_revert);
    }
}

#[test]
fn a_member_and_four_faults() {
    for native_revert in [true, false] {
        explore("a member", &[MEMBER], 4, native_revert);
    }
}

#[test]
fn a_member_and_an_operator_and_three_faults() {
    explore("a member and an operator", &[MEMBER, OPERATOR], 3, true);
}

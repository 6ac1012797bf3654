//! Whatever the order of events, an Envoy ends with exactly what the snapshot says; but for what it refuses, in whose place it has
//! the last good version that it could have.
//!
//! Events change the snapshot, carry messages, lose them, move the Envoy to another replica (which lags, and has a quarantine of its own),
//! start its process anew, and turn to another Envoy of the same node, which shares the quarantine.

use proptest::prelude::*;

use super::cases::{Case, Seeds};
use super::world::Event::{self, *};
use super::world::World;
use crate::xds::session::Variant;

/// One of the two variants, and events of which `settles` in some 600 let the world come to rest, as the last one does.
fn schedules(
    length: std::ops::Range<usize>,
    settles: u32,
) -> impl Strategy<Value = Case<Variant, Event>> {
    let event = prop_oneof![
        120 => (0..4usize, 0..4u8, 0..7u8).prop_map(|(kind, name, version)| Change(kind, name, version)),
        20 => (1..7u8).prop_map(Burst),
        60 => (0..2usize).prop_map(Learn),
        160 => Just(Take),
        160 => Just(Hear),
        20 => (2..4usize, 0..4u8).prop_map(|(kind, name)| Toggle(kind, name)),
        20 => (0..2usize).prop_map(Reconnect),
        10 => (0..2usize).prop_map(Restart),
        10 => Just(LetGo),
        10 => Just(Swap),
        settles => Just(Settle),
    ];
    let events = prop::collection::vec(event, length)
        .prop_map(|events| events.into_iter().chain([Settle]).collect());
    (prop_oneof![Just(Variant::Delta), Just(Variant::StateOfTheWorld)], events)
}

fn happen(variant: Variant, events: &[Event]) -> Result<(), TestCaseError> {
    let mut world = World::new(variant);
    events.iter().try_for_each(|event| world.happen(event))
}

fn check(seeds: Seeds, test: &str, schedules: &impl Strategy<Value = Case<Variant, Event>>) {
    let paste = |variant: &Variant, events: &[Event]| {
        format!("converges(Variant::{variant:?}, &{events:?});")
    };
    seeds.check(test, schedules, |variant, events| happen(*variant, events), paste);
}

#[test]
fn short_schedules_converge() {
    check(Seeds { fixed: 300, new: 700 }, "short_schedules_converge", &schedules(0..80, 10));
}

#[test]
fn long_schedules_converge() {
    check(Seeds { fixed: 1, new: 2 }, "long_schedules_converge", &schedules(15_000..16_000, 1));
}

/// What a random schedule has shown to break a rule, made short.
fn converges(variant: Variant, events: &[Event]) {
    if let Err(failure) = happen(variant, events) {
        panic!("{failure}");
    }
}

#[test]
fn who_shows_no_version_is_tried_again_even_if_it_once_accepted_something() {
    converges(
        Variant::StateOfTheWorld,
        &[
            Change(1, 1, 5),
            Reconnect(1),
            Toggle(2, 2),
            Toggle(2, 3),
            Change(3, 0, 3),
            Toggle(2, 1),
            Burst(5),
            Settle,
            Restart(1),
            Hear,
            Take,
            Toggle(2, 0),
            Hear,
            Hear,
            Take,
            Take,
            Hear,
            Take,
            Reconnect(1),
            Settle,
        ],
    );
}

#[test]
fn a_secret_that_only_the_envoy_knows_to_differ_holds_up_no_cluster() {
    converges(
        Variant::Delta,
        &[
            Change(2, 0, 1),
            Change(2, 1, 1),
            Settle,
            Change(2, 0, 4),
            Change(2, 0, 3),
            Change(2, 1, 2),
            Take,
            Hear,
            Take,
            Change(2, 0, 4),
            Change(2, 1, 5),
            Reconnect(0),
            Settle,
            Change(2, 1, 1),
            Change(0, 0, 1),
            Settle,
        ],
    );
}

#[test]
fn a_removal_in_a_response_that_was_refused_is_sent_again() {
    converges(
        Variant::Delta,
        &[
            Hear,
            Burst(5),
            Hear,
            Hear,
            Take,
            Take,
            Toggle(2, 0),
            Hear,
            Hear,
            Toggle(2, 0),
            Hear,
            Change(2, 0, 0),
            Settle,
        ],
    );
}

#[test]
fn a_fallback_that_one_envoys_refusal_brings_reaches_the_other_envoy_too() {
    converges(
        Variant::Delta,
        &[Swap, Burst(2), Hear, Take, Hear, Hear, Hear, Hear, Take, Hear, Burst(5), Settle],
    );
    // Also where the other one remembers the refusal itself, and the quarantine no more.
    converges(
        Variant::StateOfTheWorld,
        &[
            Swap,
            Change(2, 1, 5),
            Settle,
            Change(2, 3, 5),
            Take,
            Burst(4),
            Hear,
            Burst(5),
            Change(2, 0, 0),
            Settle,
        ],
    );
}

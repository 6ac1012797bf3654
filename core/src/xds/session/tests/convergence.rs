//! Whatever the order of events, an Envoy ends with exactly what the snapshot says; but for what it refuses, in whose place it has
//! the last good version that it could have.
//!
//! Events change the snapshot, carry messages, lose them, move the Envoy to another replica (which lags, and has a quarantine of its own),
//! start its process anew, and turn to another Envoy of the same node, which shares the quarantine.

use proptest::prelude::*;

use super::random_cases::{Case, Seeds};
use super::simulation::Event::{self, *};
use super::simulation::Simulation;
use crate::xds::messages::Variant;

/// One of the two variants, and events of which `settles` in some 600 let the simulation come to rest, as the last one does.
fn schedules(
    length: std::ops::Range<usize>,
    settles: u32,
) -> impl Strategy<Value = Case<Variant, Event>> {
    let event = prop_oneof![
        120 => (0..4usize, 0..4u8, 0..7u8).prop_map(|(kind, name, version)| Change(kind, name, version)),
        20 => (1..7u8).prop_map(ChangeMany),
        60 => (0..2usize).prop_map(CatchUp),
        160 => Just(EnvoyReceives),
        160 => Just(AtlasReceives),
        20 => (2..4usize, 0..4u8).prop_map(|(kind, name)| ToggleName(kind, name)),
        20 => (0..2usize).prop_map(Reconnect),
        10 => (0..2usize).prop_map(Restart),
        10 => Just(RemoveUnknown),
        10 => Just(SwitchEnvoy),
        settles => Just(Converge),
    ];
    let events = prop::collection::vec(event, length)
        .prop_map(|events| events.into_iter().chain([Converge]).collect());
    (prop_oneof![Just(Variant::Delta), Just(Variant::StateOfTheWorld)], events)
}

fn apply(variant: Variant, events: &[Event]) -> Result<(), TestCaseError> {
    let mut simulation = Simulation::new(variant);
    events.iter().try_for_each(|event| simulation.apply(event))
}

fn check(seeds: Seeds, test: &str, schedules: &impl Strategy<Value = Case<Variant, Event>>) {
    let paste = |variant: &Variant, events: &[Event]| {
        format!("converges(Variant::{variant:?}, &{events:?});")
    };
    seeds.check(test, schedules, |variant, events| apply(*variant, events), paste);
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
    if let Err(failure) = apply(variant, events) {
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
            ToggleName(2, 2),
            ToggleName(2, 3),
            Change(3, 0, 3),
            ToggleName(2, 1),
            ChangeMany(5),
            Converge,
            Restart(1),
            AtlasReceives,
            EnvoyReceives,
            ToggleName(2, 0),
            AtlasReceives,
            AtlasReceives,
            EnvoyReceives,
            EnvoyReceives,
            AtlasReceives,
            EnvoyReceives,
            Reconnect(1),
            Converge,
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
            Converge,
            Change(2, 0, 4),
            Change(2, 0, 3),
            Change(2, 1, 2),
            EnvoyReceives,
            AtlasReceives,
            EnvoyReceives,
            Change(2, 0, 4),
            Change(2, 1, 5),
            Reconnect(0),
            Converge,
            Change(2, 1, 1),
            Change(0, 0, 1),
            Converge,
        ],
    );
}

#[test]
fn a_removal_in_a_response_that_was_refused_is_sent_again() {
    converges(
        Variant::Delta,
        &[
            AtlasReceives,
            ChangeMany(5),
            AtlasReceives,
            AtlasReceives,
            EnvoyReceives,
            EnvoyReceives,
            ToggleName(2, 0),
            AtlasReceives,
            AtlasReceives,
            ToggleName(2, 0),
            AtlasReceives,
            Change(2, 0, 0),
            Converge,
        ],
    );
}

#[test]
fn a_fallback_that_one_envoys_refusal_brings_reaches_the_other_envoy_too() {
    converges(
        Variant::Delta,
        &[
            SwitchEnvoy,
            ChangeMany(2),
            AtlasReceives,
            EnvoyReceives,
            AtlasReceives,
            AtlasReceives,
            AtlasReceives,
            AtlasReceives,
            EnvoyReceives,
            AtlasReceives,
            ChangeMany(5),
            Converge,
        ],
    );
    // Also where the other one remembers the refusal itself, and the quarantine no more.
    converges(
        Variant::StateOfTheWorld,
        &[
            SwitchEnvoy,
            Change(2, 1, 5),
            Converge,
            Change(2, 3, 5),
            EnvoyReceives,
            ChangeMany(4),
            AtlasReceives,
            ChangeMany(5),
            Change(2, 0, 0),
            Converge,
        ],
    );
}

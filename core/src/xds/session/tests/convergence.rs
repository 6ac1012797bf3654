//! Whatever the order of events, an Envoy ends with the snapshot's resources. Instead of a version
//! that it rejects, it has the last good one that it could have.

use proptest::prelude::*;

use super::random_cases::{Case, Seeds};
use super::simulation::Event::{self, *};
use super::simulation::Simulation;
use crate::xds::messages::Variant;

/// A variant, and events. `converge_weight` of some 600 are [`Converge`], and so is the last one.
fn schedules(
    length: std::ops::Range<usize>,
    converge_weight: u32,
) -> impl Strategy<Value = Case<Variant, Event>> {
    let event = prop_oneof![
        120 => (0..4usize, 0..4u8, 0..7u8)
            .prop_map(|(kind, name, content)| Change(kind, name, content)),
        20 => (1..7u8).prop_map(ChangeMany),
        60 => (0..2usize).prop_map(CatchUp),
        160 => Just(EnvoyReceives),
        160 => Just(AtlasReceives),
        20 => (2..4usize, 0..4u8).prop_map(|(kind, name)| ToggleName(kind, name)),
        20 => (0..2usize).prop_map(Reconnect),
        10 => (0..2usize).prop_map(Restart),
        10 => Just(RemoveUnknown),
        10 => Just(SwitchEnvoy),
        converge_weight => Just(Converge),
    ];
    let events = prop::collection::vec(event, length)
        .prop_map(|events| events.into_iter().chain([Converge]).collect());
    (prop_oneof![Just(Variant::Delta), Just(Variant::StateOfTheWorld)], events)
}

fn simulate(variant: Variant, events: &[Event]) -> Result<(), TestCaseError> {
    let mut simulation = Simulation::new(variant);
    events.iter().try_for_each(|event| simulation.apply(event))
}

fn check(seeds: Seeds, test: &str, schedules: &impl Strategy<Value = Case<Variant, Event>>) {
    let paste = |variant: &Variant, events: &[Event]| {
        format!("converges(Variant::{variant:?}, &{events:?});")
    };
    seeds.check(test, schedules, |variant, events| simulate(*variant, events), paste);
}

#[test]
fn short_schedules_converge() {
    check(Seeds { fixed: 300, new: 700 }, "short_schedules_converge", &schedules(0..80, 10));
}

#[test]
fn long_schedules_converge() {
    check(Seeds { fixed: 1, new: 2 }, "long_schedules_converge", &schedules(15_000..16_000, 1));
}

/// For schedules that once broke a rule, shortened.
fn converges(variant: Variant, events: &[Event]) {
    if let Err(failure) = simulate(variant, events) {
        panic!("{failure}");
    }
}

#[test]
fn a_client_that_shows_no_version_counts_as_a_new_process() {
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
fn a_secret_that_envoy_does_not_list_holds_up_no_cluster() {
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
fn a_removal_in_a_rejected_response_is_sent_again() {
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
fn a_fallback_from_one_envoy_reaches_the_other() {
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
    // Also if only the other Envoy's stream remembers the NACK, and the quarantine doesn't.
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

//! Attacks on the real programs while honest clients use them. `cargo xtask siege` runs each for a
//! chosen time, the tests for some seconds.
//!
//! ```text
//! Attack::run(topology, duration)
//!   Attack::run_attack ─▶ SiegeTopology ◀─ HonestClient::request   until the time is over
//!          │                                       │
//!          ▼                                       ▼
//!    AttackCounts                            Measurement
//!          └──────────▶ AttackReport ◀─────────────┘  failures, latency, memory
//! ```
//!
//! The number and the rate of attackers are bounded, so that the result shows which resources they
//! occupy, and not only that two processors are busy. They reconnect when they are refused.
//! Attackers have no certificate, or all credentials of the cluster `osaka` and everything behind
//! its Envoy. The clusters `tokyo` and `paris` and all clients at the hub are honest.

mod attackers;
mod attacks;
mod clients;
mod dial;
mod frames;
mod grpc;
mod hostile_store;
mod measure;
mod run;
mod topology;

use std::time::{Duration, Instant};

use anyhow::{Context, Result};

pub use attackers::AttackCounts;
pub use measure::Memory;
pub use run::{AttackReport, Baseline, ClientReport, wait_recovered};
pub use topology::{PARTS, SiegeTopology};

use clients::HonestClient;

/// One attack: a row of the table in `docs/security.md`.
pub struct Attack {
    /// The argument of `--attack`.
    pub name: &'static str,
    /// What is done, by whom.
    pub does: &'static str,
    /// How much of it at most.
    pub bound: &'static str,
    /// The shortest time in which it has its effect.
    min_duration: Duration,
    /// The clients none of whose requests may fail.
    clients: fn() -> Vec<HonestClient>,
    /// Attacks until the given moment.
    run_attack: fn(&SiegeTopology, Instant) -> Result<AttackCounts>,
}

pub fn attacks() -> impl Iterator<Item = &'static Attack> {
    attacks::ALL.iter().copied().flatten()
}

/// Finds an attack by its name.
///
/// # Errors
/// No attack has this name; the error lists all names.
pub fn find_attack(name: &str) -> Result<&'static Attack> {
    attacks().find(|attack| attack.name == name).with_context(|| {
        let names: Vec<&str> = attacks().map(|attack| attack.name).collect();
        format!("there is no attack {name:?}; the attacks are {}", names.join(", "))
    })
}

/// All honest clients but those of `osaka`'s store and of `tokyo`'s own alerting.
fn all_clients() -> Vec<HonestClient> {
    clients::ALL.to_vec()
}

/// The same, and a client of the hostile cluster's store.
fn all_clients_and_osaka() -> Vec<HonestClient> {
    let mut all = all_clients();
    all.push(HonestClient::Store("osaka"));
    all
}

/// `tokyo`'s own alerting, and all clients but those that post alerts to the hub.
fn without_hub_alerts() -> Vec<HonestClient> {
    let all = all_clients().into_iter().filter(|kind| !matches!(kind, HonestClient::Alert(_)));
    all.chain([HonestClient::LocalAlerts]).collect()
}

/// `tokyo`'s own alerting, and all clients but the one that posts to the second Alertmanager.
fn without_second_alertmanager() -> Vec<HonestClient> {
    let all = all_clients().into_iter().filter(|kind| *kind != HonestClient::Alert(1));
    all.chain([HonestClient::LocalAlerts]).collect()
}

//! The siege: attacks on the real programs, with honest clients beside. `cargo xtask siege` runs
//! each for as long as one likes, the tests for some seconds.
//!
//! ```text
//! Field (what is besieged) ◀── Attack (what is done to it, for how long) ─▶ Held (what the attackers were let have)
//!        ▲                                 │ beside it
//!        └── Honest (what others ask) ◀────┘ ─▶ Row: requests, failures, latency against the quiet time before, memory
//! ```
//!
//! Attackers are bounded in number and in rate, so that what is shown is what they *hold*, not that
//! two processors are busy. They come back when they are turned away. A stranger has no
//! certificate; the cluster `osaka` is hostile, with all its credentials and everything behind its
//! Envoy; its neighbours `tokyo` and `paris`, and everybody at the hub, are honest.

mod attacks;
mod backend;
mod crowd;
mod dial;
mod field;
mod frames;
mod grpc;
mod honest;
mod run;
mod watch;

use std::time::{Duration, Instant};

use anyhow::{Context, Result};

pub use crowd::Held;
pub use field::{Field, PARTS};
pub use run::{Kind, Quiet, Row, recover};
pub use watch::Memory;

use honest::Honest;

/// One attack: a row of the table in `docs/security.md`.
pub struct Attack {
    /// What people type.
    pub name: &'static str,
    /// What is done, by whom.
    pub does: &'static str,
    /// How much of it at most.
    pub bound: &'static str,
    /// How long it takes until it is one.
    least: Duration,
    /// Whom it must not cost a request.
    honest: fn() -> Vec<Honest>,
    attack: fn(&Field, Instant) -> Result<Held>,
}

/// Every attack.
pub fn attacks() -> impl Iterator<Item = &'static Attack> {
    attacks::ALL.iter().copied().flatten()
}

/// The attack of that name.
///
/// # Errors
/// There is none; the error lists them.
pub fn named(name: &str) -> Result<&'static Attack> {
    attacks().find(|attack| attack.name == name).with_context(|| {
        let names: Vec<&str> = attacks().map(|attack| attack.name).collect();
        format!("there is no attack {name:?}; the attacks are {}", names.join(", "))
    })
}

/// Everybody.
fn everybody() -> Vec<Honest> {
    honest::ALL.to_vec()
}

/// Everybody, and those who ask the hostile cluster's store as well.
fn everybody_and_osaka() -> Vec<Honest> {
    let mut all = everybody();
    all.push(Honest::Store("osaka"));
    all
}

/// Everybody but those who post alerts, and tokyo's own alerting.
fn local_alerting() -> Vec<Honest> {
    let all = everybody().into_iter().filter(|kind| !matches!(kind, Honest::Alert(_)));
    all.chain([Honest::LocalAlerts]).collect()
}

/// Everybody but those who post to the second Alertmanager, and tokyo's own alerting.
fn all_but_second_alertmanager() -> Vec<Honest> {
    let all = everybody().into_iter().filter(|kind| *kind != Honest::Alert(1));
    all.chain([Honest::LocalAlerts]).collect()
}

//! One attack: a quiet time, the attack, the recovery, and what came of it.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde::Serialize;

use super::Attack;
use super::crowd::Held;
use super::field::{Field, RECOVERY};
use super::honest::Honest;
use super::watch::{Memory, Seen, while_asking};
use crate::process::wait_until;

/// Before it counts that someone waits longer: with fewer milliseconds than that, a ratio says
/// nothing.
const FLOOR: Duration = Duration::from_millis(1);

/// One kind of honest client, in one attack.
#[derive(Clone, Debug, Serialize)]
pub struct Kind {
    /// What it asks.
    pub name: String,
    pub requests: usize,
    pub failures: usize,
    /// Why the first one failed.
    pub first_failure: Option<String>,
    pub p50_ms: f64,
    pub p99_ms: f64,
    /// Of what the same took in the quiet time.
    pub p50_ratio: f64,
    pub p99_ratio: f64,
}

/// What came of one attack.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    pub attack: String,
    /// How long it lasted.
    pub seconds: f64,
    /// Of all honest clients.
    pub requests: usize,
    pub failures: usize,
    pub kinds: Vec<Kind>,
    /// What the attackers held.
    pub held: Held,
    /// Before it, and at most.
    pub before: Memory,
    pub peak: Memory,
    /// Until everything was as before, in seconds; `None`: it wasn't, and the programs had to be
    /// started again.
    pub recovered_after: Option<f64>,
}

impl Row {
    /// The greatest ratio of the median, and of the 99th percentile, of any kind.
    pub fn worst(&self) -> (f64, f64) {
        let most = |ratio: fn(&Kind) -> f64| self.kinds.iter().map(ratio).fold(0.0, f64::max);
        (most(|kind| kind.p50_ratio), most(|kind| kind.p99_ratio))
    }

    /// A line for each kind of which a request failed.
    pub fn failures(&self) -> Vec<String> {
        let failed = self.kinds.iter().filter(|kind| kind.failures > 0);
        let late = self.held.late;
        let late = (late > 0).then(|| {
            format!("{}: {late} posts that had to fail waited for more than 3 s", self.attack)
        });
        failed
            .map(|kind| {
                let why = kind.first_failure.as_deref().unwrap_or_default();
                let why: String = why.chars().take(300).collect();
                format!(
                    "{}: {}: {} of {} failed, first: {why}",
                    self.attack, kind.name, kind.failures, kind.requests
                )
            })
            .chain(late)
            .collect()
    }
}

/// What honest clients see when nobody attacks.
pub struct Quiet(Vec<Seen>);

impl Quiet {
    /// A line for each kind of which a request failed though nobody attacked.
    pub fn failures(&self) -> Vec<String> {
        let line = |seen: &Seen| {
            let first = seen.failures.first()?;
            Some(format!(
                "quiet: {}: {} of {} failed, first: {first}",
                seen.kind.name(),
                seen.failures.len(),
                seen.times.len()
            ))
        };
        self.0.iter().filter_map(line).collect()
    }
}

impl Attack {
    /// Attacks for a while, or for as long as the attack takes to be one. `quiet`: what honest
    /// clients saw before; without it ratios are 0.
    ///
    /// # Errors
    /// The attack couldn't be made; that an honest request failed is in the row.
    pub fn run(&self, field: &Field, length: Duration, quiet: Option<&Quiet>) -> Result<Row> {
        let (honest, before) = ((self.honest)(), Memory::now(field));
        field.forget_peaks()?;
        let (began, length) = (Instant::now(), length.max(self.least));
        let (held, seen) = while_asking(field, &honest, || (self.attack)(field, began + length))
            .with_context(|| format!("the attack {} couldn't be made", self.name))?;
        let (seconds, peak) = (began.elapsed().as_secs_f64(), Memory::peak(field));
        let kinds: Vec<Kind> = seen.iter().map(|seen| kind(seen, quiet)).collect();
        let over = Instant::now();
        let recovered = recover(field).is_ok();
        Ok(Row {
            attack: self.name.into(),
            seconds,
            requests: kinds.iter().map(|kind| kind.requests).sum(),
            failures: kinds.iter().map(|kind| kind.failures).sum::<usize>()
                + usize::try_from(held.late).unwrap_or(usize::MAX),
            kinds,
            held,
            before,
            peak,
            recovered_after: recovered.then(|| over.elapsed().as_secs_f64()),
        })
    }

    /// Lets those ask whom it may cost nothing, while nobody attacks.
    ///
    /// # Errors
    /// The clients can't be started.
    pub fn quiet(&self, field: &Field, length: Duration) -> Result<Quiet> {
        let ((), seen) = while_asking(field, &(self.honest)(), || {
            thread::sleep(length);
            Ok(())
        })?;
        Ok(Quiet(seen))
    }
}

/// So many good answers one after another show that it wasn't luck: a cluster has two addresses.
const IN_A_ROW: usize = 2;

/// Waits until everybody is served again.
///
/// # Errors
/// Somebody isn't, in time.
pub fn recover(field: &Field) -> Result<()> {
    thread::scope(|scope| {
        let waiting: Vec<_> = super::honest::ALL
            .iter()
            .map(|&kind| scope.spawn(move || wait_served(field, kind)))
            .collect();
        waiting.into_iter().try_for_each(|one| one.join().expect("waiting doesn't panic"))
    })
}

fn wait_served(field: &Field, kind: Honest) -> Result<()> {
    let mut good = 0;
    wait_until(&format!("{} is served", kind.name()), RECOVERY, || {
        let answer = kind.ask(field);
        good = if answer.is_ok() { good + 1 } else { 0 };
        answer.map(|()| (good == IN_A_ROW).then_some(()))
    })
}

fn kind(seen: &Seen, quiet: Option<&Quiet>) -> Kind {
    let before = quiet.and_then(|quiet| quiet.0.iter().find(|before| before.kind == seen.kind));
    let ratio = |share| {
        before.map_or(0.0, |before| ratio(seen.percentile(share), before.percentile(share)))
    };
    Kind {
        name: seen.kind.name(),
        requests: seen.times.len(),
        failures: seen.failures.len(),
        first_failure: seen.failures.first().cloned(),
        p50_ms: milliseconds(seen.percentile(50)),
        p99_ms: milliseconds(seen.percentile(99)),
        p50_ratio: ratio(50),
        p99_ratio: ratio(99),
    }
}

fn ratio(now: Duration, before: Duration) -> f64 {
    let ratio = now.max(FLOOR).as_secs_f64() / before.max(FLOOR).as_secs_f64();
    (ratio * 100.0).round() / 100.0
}

fn milliseconds(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e4).round() / 10.0
}

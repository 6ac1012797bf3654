//! Runs one attack: the baseline, the attack, the recovery, and the report.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde::Serialize;

use super::Attack;
use super::attackers::AttackCounts;
use super::clients::HonestClient;
use super::measure::{Measurement, Memory, measure_while};
use super::topology::{RECOVERY, SiegeTopology};
use crate::process::wait_until;

/// Durations below this are rounded up to it before a ratio is taken: ratios of shorter ones are
/// noise.
const MIN_DURATION: Duration = Duration::from_millis(1);

/// The requests of one kind of honest client during an attack.
#[derive(Clone, Debug, Serialize)]
pub struct ClientReport {
    /// [`HonestClient::name`].
    pub name: String,
    pub requests: usize,
    pub failures: usize,
    /// The first failed request's error.
    pub first_failure: Option<String>,
    pub p50_ms: f64,
    pub p99_ms: f64,
    /// Against the baseline's percentile; 0 without a baseline.
    pub p50_ratio: f64,
    pub p99_ratio: f64,
}

/// The result of one attack.
#[derive(Clone, Debug, Serialize)]
pub struct AttackReport {
    pub attack: String,
    /// How long the attack lasted.
    pub seconds: f64,
    /// Requests of all honest clients.
    pub requests: usize,
    pub failures: usize,
    #[serde(rename = "kinds")]
    pub clients: Vec<ClientReport>,
    #[serde(rename = "held")]
    pub attackers: AttackCounts,
    /// Memory before the attack.
    pub before: Memory,
    /// Peak memory during the attack.
    pub peak: Memory,
    /// Seconds until every honest client was served again; `None`: not within 45 s.
    pub recovered_after: Option<f64>,
}

impl AttackReport {
    /// The greatest `p50_ratio` and `p99_ratio` of any kind of client.
    pub fn worst_ratios(&self) -> (f64, f64) {
        let most =
            |ratio: fn(&ClientReport) -> f64| self.clients.iter().map(ratio).fold(0.0, f64::max);
        (most(|kind| kind.p50_ratio), most(|kind| kind.p99_ratio))
    }

    /// A line for each kind of client with a failed request.
    pub fn failures(&self) -> Vec<String> {
        let failed = self.clients.iter().filter(|kind| kind.failures > 0);
        let late = self.attackers.late;
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

/// The requests of honest clients without an attack.
pub struct Baseline(Vec<Measurement>);

impl Baseline {
    /// A line for each kind of client with a failed request.
    pub fn failures(&self) -> Vec<String> {
        let line = |measurement: &Measurement| {
            let first = measurement.failures.first()?;
            Some(format!(
                "quiet: {}: {} of {} failed, first: {first}",
                measurement.kind.name(),
                measurement.failures.len(),
                measurement.times.len()
            ))
        };
        self.0.iter().filter_map(line).collect()
    }
}

impl Attack {
    /// Attacks for `length`, or for the attack's own least time if that is longer. Without a
    /// `baseline` the ratios are 0.
    ///
    /// # Errors
    /// The attack couldn't be made. Failed requests of honest clients are in the report instead.
    pub fn run(
        &self,
        topology: &SiegeTopology,
        length: Duration,
        baseline: Option<&Baseline>,
    ) -> Result<AttackReport> {
        let (kinds, before) = ((self.clients)(), Memory::now(topology));
        topology.reset_memory_peaks()?;
        let (began, length) = (Instant::now(), length.max(self.min_duration));
        let (attackers, measurements) =
            measure_while(topology, &kinds, || (self.run_attack)(topology, began + length))
                .with_context(|| format!("the attack {} couldn't be made", self.name))?;
        let (seconds, peak) = (began.elapsed().as_secs_f64(), Memory::peak(topology));
        let clients: Vec<ClientReport> =
            measurements.iter().map(|measurement| client_report(measurement, baseline)).collect();
        let over = Instant::now();
        let recovered = wait_recovered(topology).is_ok();
        Ok(AttackReport {
            attack: self.name.into(),
            seconds,
            requests: clients.iter().map(|kind| kind.requests).sum(),
            failures: clients.iter().map(|kind| kind.failures).sum::<usize>()
                + usize::try_from(attackers.late).unwrap_or(usize::MAX),
            clients,
            attackers,
            before,
            peak,
            recovered_after: recovered.then(|| over.elapsed().as_secs_f64()),
        })
    }

    /// Runs this attack's honest clients for `length` without the attack.
    ///
    /// # Errors
    /// The clients can't be started.
    pub fn baseline(&self, topology: &SiegeTopology, length: Duration) -> Result<Baseline> {
        let ((), measurements) = measure_while(topology, &(self.clients)(), || {
            thread::sleep(length);
            Ok(())
        })?;
        Ok(Baseline(measurements))
    }
}

/// Successive requests that must succeed. A cluster has two addresses, so one could succeed
/// although the other address is dead.
const REQUIRED_SUCCESSES: usize = 2;

/// Waits until all honest clients are served again.
///
/// # Errors
/// One isn't served within 45 s.
pub fn wait_recovered(topology: &SiegeTopology) -> Result<()> {
    thread::scope(|scope| {
        let waiting: Vec<_> = super::clients::ALL
            .iter()
            .map(|&kind| scope.spawn(move || wait_served(topology, kind)))
            .collect();
        waiting.into_iter().try_for_each(|thread| thread.join().expect("waiting doesn't panic"))
    })
}

fn wait_served(topology: &SiegeTopology, kind: HonestClient) -> Result<()> {
    let mut successes = 0;
    wait_until(&format!("{} is served", kind.name()), RECOVERY, || {
        let answer = kind.request(topology);
        successes = if answer.is_ok() { successes + 1 } else { 0 };
        answer.map(|()| (successes == REQUIRED_SUCCESSES).then_some(()))
    })
}

fn client_report(measurement: &Measurement, baseline: Option<&Baseline>) -> ClientReport {
    let before = baseline
        .and_then(|baseline| baseline.0.iter().find(|before| before.kind == measurement.kind));
    let ratio = |share| {
        before.map_or(0.0, |before| ratio(measurement.percentile(share), before.percentile(share)))
    };
    ClientReport {
        name: measurement.kind.name(),
        requests: measurement.times.len(),
        failures: measurement.failures.len(),
        first_failure: measurement.failures.first().cloned(),
        p50_ms: milliseconds(measurement.percentile(50)),
        p99_ms: milliseconds(measurement.percentile(99)),
        p50_ratio: ratio(50),
        p99_ratio: ratio(99),
    }
}

fn ratio(now: Duration, before: Duration) -> f64 {
    let ratio = now.max(MIN_DURATION).as_secs_f64() / before.max(MIN_DURATION).as_secs_f64();
    (ratio * 100.0).round() / 100.0
}

fn milliseconds(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e4).round() / 10.0
}

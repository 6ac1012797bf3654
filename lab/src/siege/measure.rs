//! Measures honest clients' requests, and the memory of Atlas and the Envoys.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;
use serde::Serialize;

use super::clients::HonestClient;
use super::topology::SiegeTopology;

/// Between two requests of a client.
const PAUSE: Duration = Duration::from_millis(150);

/// The requests of one kind of client.
#[derive(Clone, Debug)]
pub(super) struct Measurement {
    pub(super) kind: HonestClient,
    /// Duration of each request, sorted.
    pub(super) times: Vec<Duration>,
    /// Errors of the failed requests, in order.
    pub(super) failures: Vec<String>,
}

impl Measurement {
    /// Adds another client's requests of the same kind.
    fn merge(&mut self, other: Self) {
        self.times.extend(other.times);
        self.times.sort();
        self.failures.extend(other.failures);
    }

    /// The percentile `share` (0 to 100) of the durations.
    pub(super) fn percentile(&self, share: usize) -> Duration {
        let place = (self.times.len() * share).div_ceil(100).saturating_sub(1);
        self.times.get(place).copied().unwrap_or_default()
    }
}

/// Resident memory in bytes (VmRSS or VmHWM).
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Memory {
    /// The hub's Envoy.
    pub hub_envoy: u64,
    /// The largest of the clusters' Envoys.
    pub cluster_envoy: u64,
    pub atlas: u64,
}

impl Memory {
    /// At present.
    pub(super) fn now(topology: &SiegeTopology) -> Self {
        Self::of(topology, crate::process::Proc::resident_bytes)
    }

    /// The peak since [`SiegeTopology::reset_memory_peaks`].
    pub(super) fn peak(topology: &SiegeTopology) -> Self {
        Self::of(topology, crate::process::Proc::peak_bytes)
    }

    fn of(topology: &SiegeTopology, bytes: impl Fn(&crate::process::Proc) -> u64) -> Self {
        Self {
            hub_envoy: bytes(&topology.hub.envoy.process),
            cluster_envoy: topology
                .cluster_envoys()
                .iter()
                .map(|envoy| bytes(&envoy.process))
                .max()
                .unwrap_or_default(),
            atlas: bytes(&topology.hub.atlas.process),
        }
    }
}

/// Runs a client for each entry of `kinds` while `body` runs; each makes at least one request.
pub(super) fn measure_while<T>(
    topology: &SiegeTopology,
    kinds: &[HonestClient],
    body: impl FnOnce() -> Result<T>,
) -> Result<(T, Vec<Measurement>)> {
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let over = &over;
        let asking: Vec<_> = kinds
            .iter()
            .map(|&kind| scope.spawn(move || request_until(topology, kind, over)))
            .collect();
        let result = body();
        over.store(true, Ordering::Relaxed);
        let mut measurements: Vec<Measurement> = Vec::new();
        for client in asking {
            let one = client.join().expect("an honest client doesn't panic");
            match measurements.iter_mut().find(|other| other.kind == one.kind) {
                Some(same) => same.merge(one),
                None => measurements.push(one),
            }
        }
        Ok((result?, measurements))
    })
}

fn request_until(topology: &SiegeTopology, kind: HonestClient, over: &AtomicBool) -> Measurement {
    let mut measurements = Measurement { kind, times: Vec::new(), failures: Vec::new() };
    loop {
        kind.wait_for_failover(topology);
        let began = Instant::now();
        match kind.request(topology) {
            Ok(()) => measurements.times.push(began.elapsed()),
            Err(error) => {
                measurements.times.push(began.elapsed());
                measurements.failures.push(format!("{error:#}"));
            }
        }
        if over.load(Ordering::Relaxed) {
            break;
        }
        thread::sleep(PAUSE);
    }
    measurements.times.sort();
    measurements
}

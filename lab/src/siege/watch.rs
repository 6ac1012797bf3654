//! Honest clients at work, and the memory of what they ask.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;
use serde::Serialize;

use super::field::Field;
use super::honest::Honest;

/// Between two requests of one client.
const PAUSE: Duration = Duration::from_millis(150);

/// What one kind of client saw.
#[derive(Clone, Debug)]
pub(super) struct Seen {
    pub(super) kind: Honest,
    /// How long each request took, sorted.
    pub(super) times: Vec<Duration>,
    /// Why requests failed, in the order in which they did.
    pub(super) failures: Vec<String>,
}

impl Seen {
    /// Another client's of the same kind.
    fn add(&mut self, other: Self) {
        self.times.extend(other.times);
        self.times.sort();
        self.failures.extend(other.failures);
    }

    /// The time that `share` percent of the requests don't exceed.
    pub(super) fn percentile(&self, share: usize) -> Duration {
        let place = (self.times.len() * share).div_ceil(100).saturating_sub(1);
        self.times.get(place).copied().unwrap_or_default()
    }
}

/// Resident memory in bytes.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Memory {
    /// The hub's Envoy.
    pub hub_envoy: u64,
    /// Of the clusters' Envoys the one that has most.
    pub cluster_envoy: u64,
    /// Atlas.
    pub atlas: u64,
}

impl Memory {
    /// At present.
    pub(super) fn now(field: &Field) -> Self {
        Self::of(field, crate::process::Proc::resident_bytes)
    }

    /// The most since [`Field::forget_peaks`].
    pub(super) fn peak(field: &Field) -> Self {
        Self::of(field, crate::process::Proc::peak_bytes)
    }

    fn of(field: &Field, bytes: impl Fn(&crate::process::Proc) -> u64) -> Self {
        Self {
            hub_envoy: bytes(&field.hub.envoy.process),
            cluster_envoy: field
                .cluster_envoys()
                .iter()
                .map(|envoy| bytes(&envoy.process))
                .max()
                .unwrap_or_default(),
            atlas: bytes(&field.hub.atlas.process),
        }
    }
}

/// Lets clients of these kinds ask, one for each in the list, while `body` runs; each asks at least
/// once.
pub(super) fn while_asking<T>(
    field: &Field,
    kinds: &[Honest],
    body: impl FnOnce() -> Result<T>,
) -> Result<(T, Vec<Seen>)> {
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let over = &over;
        let asking: Vec<_> =
            kinds.iter().map(|&kind| scope.spawn(move || ask_until(field, kind, over))).collect();
        let result = body();
        over.store(true, Ordering::Relaxed);
        let mut seen: Vec<Seen> = Vec::new();
        for client in asking {
            let one = client.join().expect("an honest client doesn't panic");
            match seen.iter_mut().find(|other| other.kind == one.kind) {
                Some(same) => same.add(one),
                None => seen.push(one),
            }
        }
        Ok((result?, seen))
    })
}

fn ask_until(field: &Field, kind: Honest, over: &AtomicBool) -> Seen {
    let mut seen = Seen { kind, times: Vec::new(), failures: Vec::new() };
    loop {
        kind.wait(field);
        let began = Instant::now();
        match kind.ask(field) {
            Ok(()) => seen.times.push(began.elapsed()),
            Err(error) => {
                seen.times.push(began.elapsed());
                seen.failures.push(format!("{error:#}"));
            }
        }
        if over.load(Ordering::Relaxed) {
            break;
        }
        thread::sleep(PAUSE);
    }
    seen.times.sort();
    seen
}

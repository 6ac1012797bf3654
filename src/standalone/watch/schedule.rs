//! When to scan again.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at, sleep_until, timeout_at};

use super::pending_events::PendingEvents;
use super::scanner::{ScanReason, ScanResult};
use super::timing::WatchTiming;
use super::walk::FileId;
use crate::process::debounce::Debouncer;

/// Says when to scan, and why.
pub(super) struct ScanSchedule {
    dir: PathBuf,
    events: Arc<PendingEvents>,
    debouncer: Debouncer,
    poll: Interval,
    rescan: Interval,
}

impl ScanSchedule {
    pub fn new(dir: &Path, events: &Arc<PendingEvents>, timing: &WatchTiming) -> Self {
        Self {
            dir: dir.to_owned(),
            events: Arc::clone(events),
            debouncer: Debouncer::new(timing.debounce),
            poll: every(timing.poll),
            rescan: every(timing.rescan),
        }
    }

    /// Waits until the next scan.
    pub async fn next(&mut self, last: &ScanResult) -> ScanReason {
        let due = async {
            match last.due {
                Some(due) => sleep_until(due).await,
                None => std::future::pending().await,
            }
        };
        let mut due = std::pin::pin!(due);
        loop {
            tokio::select! {
                () = &mut due => return ScanReason::WaitingFile,
                () = self.events.changed() => {
                    let events = &self.events;
                    let burst = self.debouncer.burst();
                    while let Some(until) = burst.wait_until(events.all_complete()) {
                        if timeout_at(until, events.changed()).await.is_err() {
                            break;
                        }
                    }
                    self.debouncer.acted();
                    return ScanReason::Events;
                }
                _ = self.rescan.tick() => return ScanReason::Rescan,
                _ = self.poll.tick() => {
                    let metadata = tokio::fs::metadata(&self.dir).await.ok();
                    if last.retry || metadata.as_ref().map(FileId::of) != last.id {
                        return ScanReason::Rescan;
                    }
                }
            }
        }
    }
}

fn every(period: Duration) -> Interval {
    let mut interval = interval_at(Instant::now() + period, period);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    interval
}

//! When the next reconcile about everything is due, if nothing changes before.

use std::time::Duration;

use atlas_core::pki::Time;
use tokio::time::Instant;

use crate::process::clock;

/// Longest time between two looks at everything, so that nothing depends on a notification alone.
const FULL_EVERY: Duration = Duration::from_secs(60);
/// Pause after a failure.
const RETRY: Duration = Duration::from_secs(2);

/// When everything is looked at again.
#[derive(Clone, Copy, Debug)]
pub struct ReconcileSchedule {
    next: Instant,
}

impl ReconcileSchedule {
    /// Nothing has been looked at yet.
    pub fn new() -> Self {
        Self { next: Instant::now() + FULL_EVERY }
    }

    /// When to look at everything.
    pub fn next(&self) -> Instant {
        self.next
    }

    /// A reconcile has succeeded. `full`: it was about everything; `next_due`: when the next
    /// certificate is to be renewed.
    pub fn succeeded(&mut self, full: bool, next_due: Time) {
        let seconds = u64::try_from(next_due.saturating_sub(clock::now())).unwrap_or(0);
        // A certificate that is due now and still there couldn't be renewed, or only by another.
        let due = Duration::from_secs(seconds.max(1));
        self.plan(full, due.min(FULL_EVERY));
    }

    /// A reconcile, or a part of it, has failed, or there was nothing to look at yet.
    pub fn failed(&mut self, full: bool) {
        self.plan(full, RETRY);
    }

    fn plan(&mut self, full: bool, pause: Duration) {
        let next = Instant::now() + pause;
        self.next = if full { next } else { next.min(self.next) };
    }
}

//! Many concurrent attackers, each of which connects again when it is refused or closed.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Result;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};

/// How many connect at the same time. The attack is what they do with their connections, not the
/// rate at which they connect.
const MAX_CONNECTING: usize = 32;
/// Before an attacker connects again.
const PAUSE: Duration = Duration::from_millis(500);

/// How many connections, streams or requests of the attackers were accepted, refused or closed.
#[derive(Clone, Copy, Debug, Default, serde::Serialize)]
pub struct AttackCounts {
    /// Accepted.
    pub opened: u64,
    /// Failed before they were accepted.
    pub refused: u64,
    /// Ended by the peer after they were accepted.
    pub closed: u64,
    /// Honest posts that had to fail and took too long to do so. They count as failures.
    pub late: u64,
}

#[derive(Default)]
struct AtomicCounts {
    opened: AtomicU64,
    refused: AtomicU64,
    closed: AtomicU64,
}

/// One attempt of one attacker.
pub(super) struct Attacker {
    pub(super) number: usize,
    counts: Arc<AtomicCounts>,
    connecting: Arc<Semaphore>,
    until: Instant,
    /// How many connections, streams or requests of this attempt were accepted.
    opened: AtomicU64,
}

impl Attacker {
    /// Waits until fewer than [`MAX_CONNECTING`] attackers are connecting.
    pub(super) async fn connect_permit(&self) -> Result<tokio::sync::SemaphorePermit<'_>> {
        Ok(self.connecting.acquire().await?)
    }

    pub(super) fn count_opened(&self) {
        self.opened.fetch_add(1, Ordering::Relaxed);
        self.counts.opened.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts one of several requests of this attempt as ended by the peer.
    pub(super) fn count_closed(&self) {
        self.counts.closed.fetch_add(1, Ordering::Relaxed);
    }

    /// Whether the attack is over.
    pub(super) fn is_over(&self) -> bool {
        Instant::now() >= self.until
    }
}

/// Runs `size` attackers until `until`. An attempt that returns was ended by the peer.
pub(super) async fn run_attackers<V, F>(
    size: usize,
    until: std::time::Instant,
    attempt: V,
) -> Result<AttackCounts>
where
    V: Fn(Arc<Attacker>) -> F + Send + Sync + 'static,
    F: Future<Output = Result<()>> + Send,
{
    let (until, counts, attempt) =
        (Instant::from_std(until), Arc::new(AtomicCounts::default()), Arc::new(attempt));
    let connecting = Arc::new(Semaphore::new(MAX_CONNECTING));
    let mut all = JoinSet::new();
    for number in 0..size {
        let (counts, attempt, connecting) =
            (Arc::clone(&counts), Arc::clone(&attempt), Arc::clone(&connecting));
        all.spawn(async move {
            loop {
                let (counts, connecting) = (Arc::clone(&counts), Arc::clone(&connecting));
                let attacker = Arc::new(Attacker {
                    number,
                    counts,
                    connecting,
                    until,
                    opened: AtomicU64::new(0),
                });
                let ended = attempt(Arc::clone(&attacker)).await;
                let counts = &attacker.counts;
                match (ended, attacker.opened.load(Ordering::Relaxed)) {
                    (Ok(()), _) | (Err(_), 1..) => counts.closed.fetch_add(1, Ordering::Relaxed),
                    (Err(_), 0) => counts.refused.fetch_add(1, Ordering::Relaxed),
                };
                sleep(PAUSE).await;
            }
        });
    }
    sleep_until(until).await;
    let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    let counts = AttackCounts {
        opened: count(&counts.opened),
        refused: count(&counts.refused),
        closed: count(&counts.closed),
        late: 0,
    };
    all.abort_all();
    Ok(counts)
}

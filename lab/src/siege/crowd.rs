//! Many attackers at once, each of whom comes back when he is turned away.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Result;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};

/// So many connect at a time: the attack is what they do then, not how fast they come.
const AT_ONCE: usize = 32;
/// Before one comes back who was turned away.
const PAUSE: Duration = Duration::from_millis(500);

/// What became of the attackers' connections, streams or requests.
#[derive(Clone, Copy, Debug, Default, serde::Serialize)]
pub struct Held {
    /// Let in.
    pub opened: u64,
    /// Turned away before that.
    pub refused: u64,
    /// Ended by the other side after that.
    pub closed: u64,
    /// Of honest posts that had to fail, those that waited too long for it. They count as failures.
    pub late: u64,
}

#[derive(Default)]
struct Counts {
    opened: AtomicU64,
    refused: AtomicU64,
    closed: AtomicU64,
}

/// One attacker on one visit.
pub(super) struct Visitor {
    pub(super) number: usize,
    counts: Arc<Counts>,
    connecting: Arc<Semaphore>,
    until: Instant,
    /// How many times this visit has been let in.
    opened: AtomicU64,
}

impl Visitor {
    /// Waits for a turn to connect; the turn ends when what is returned is dropped.
    pub(super) async fn turn(&self) -> Result<tokio::sync::SemaphorePermit<'_>> {
        Ok(self.connecting.acquire().await?)
    }

    /// Says that something is open.
    pub(super) fn opened(&self) {
        self.opened.fetch_add(1, Ordering::Relaxed);
        self.counts.opened.fetch_add(1, Ordering::Relaxed);
    }

    /// Says that one request of several that this visit makes was refused or ended.
    pub(super) fn closed(&self) {
        self.counts.closed.fetch_add(1, Ordering::Relaxed);
    }

    /// Whether the attack is over.
    pub(super) fn is_over(&self) -> bool {
        Instant::now() >= self.until
    }
}

/// Lets so many attackers make visits until `until`. A visit that returns was ended by the other
/// side.
pub(super) async fn crowd<V, F>(size: usize, until: std::time::Instant, visit: V) -> Result<Held>
where
    V: Fn(Arc<Visitor>) -> F + Send + Sync + 'static,
    F: Future<Output = Result<()>> + Send,
{
    let (until, counts, visit) =
        (Instant::from_std(until), Arc::new(Counts::default()), Arc::new(visit));
    let connecting = Arc::new(Semaphore::new(AT_ONCE));
    let mut all = JoinSet::new();
    for number in 0..size {
        let (counts, visit, connecting) =
            (Arc::clone(&counts), Arc::clone(&visit), Arc::clone(&connecting));
        all.spawn(async move {
            loop {
                let (counts, connecting) = (Arc::clone(&counts), Arc::clone(&connecting));
                let visitor = Arc::new(Visitor {
                    number,
                    counts,
                    connecting,
                    until,
                    opened: AtomicU64::new(0),
                });
                let ended = visit(Arc::clone(&visitor)).await;
                let counts = &visitor.counts;
                match (ended, visitor.opened.load(Ordering::Relaxed)) {
                    (Ok(()), _) | (Err(_), 1..) => counts.closed.fetch_add(1, Ordering::Relaxed),
                    (Err(_), 0) => counts.refused.fetch_add(1, Ordering::Relaxed),
                };
                sleep(PAUSE).await;
            }
        });
    }
    sleep_until(until).await;
    let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    let held = Held {
        opened: count(&counts.opened),
        refused: count(&counts.refused),
        closed: count(&counts.closed),
        late: 0,
    };
    all.abort_all();
    Ok(held)
}

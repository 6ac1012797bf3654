//! How much memory the streams of one node may take together, in bytes, for what their clients say: requests that are still arriving,
//! names that are remembered, answers that repeat them.
//!
//! Memory is asked for before it is taken. Where there is too little, the stream that takes most must end, and whoever asked waits until
//! its memory is free. So a node never takes more than its limit, and no number of streams that take much keeps out an Envoy that needs
//! little.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::process::lock::lock;

/// What the streams of one node may take, and take.
#[derive(Default)]
pub struct Budget {
    account: Mutex<Account>,
    /// Wakes those who wait for memory.
    freed: Notify,
}

#[derive(Default)]
struct Account {
    limit: usize,
    used: usize,
    streams: BTreeMap<u64, Use>,
}

/// What one stream takes.
struct Use {
    bytes: usize,
    /// It must end, because it took most when there was too little.
    exhausted: bool,
    end: CancellationToken,
}

/// One stream's part of its node's budget.
pub struct Share {
    budget: Arc<Budget>,
    key: u64,
    end: CancellationToken,
}

/// Some of a stream's memory; free again when dropped.
pub struct Charge {
    share: Arc<Share>,
    bytes: usize,
}

/// There is no memory left for this stream, since it takes most or is about to; or it is ending already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exhausted;

/// What comes of asking for memory.
#[derive(Debug, PartialEq, Eq)]
enum Asked {
    Granted,
    /// Others are ending; then there will be enough.
    Wait,
    Refused,
}

impl Budget {
    /// A stream's part, by a number that no other has; `end` ends the stream.
    pub fn share(self: &Arc<Self>, key: u64, end: CancellationToken) -> Arc<Share> {
        lock(&self.account)
            .streams
            .insert(key, Use { bytes: 0, exhausted: false, end: end.clone() });
        Arc::new(Share { budget: Arc::clone(self), key, end })
    }
}

impl Account {
    fn ask(&mut self, key: u64, more: usize) -> Asked {
        let Some(own) = self.streams.get(&key).filter(|own| !own.exhausted).map(|own| own.bytes)
        else {
            return Asked::Refused;
        };
        if self.used.saturating_add(more) <= self.limit {
            self.take(key, more);
            return Asked::Granted;
        }
        let mut ending: usize =
            self.streams.values().filter(|other| other.exhausted).map(|other| other.bytes).sum();
        while self.used.saturating_add(more) - ending > self.limit {
            let others = self
                .streams
                .iter_mut()
                .filter(|(other, stream)| **other != key && !stream.exhausted);
            match others
                .max_by_key(|(_, stream)| stream.bytes)
                .filter(|(_, stream)| stream.bytes > own.saturating_add(more))
            {
                Some((_, most)) => {
                    most.exhausted = true;
                    most.end.cancel();
                    ending += most.bytes;
                }
                None => {
                    self.streams.entry(key).and_modify(|own| own.exhausted = true);
                    return Asked::Refused;
                }
            }
        }
        Asked::Wait
    }

    fn take(&mut self, key: u64, more: usize) {
        self.used += more;
        self.streams.entry(key).and_modify(|stream| stream.bytes += more);
    }

    fn free(&mut self, key: u64, bytes: usize) {
        self.used = self.used.saturating_sub(bytes);
        self.streams
            .entry(key)
            .and_modify(|stream| stream.bytes = stream.bytes.saturating_sub(bytes));
    }
}

impl Share {
    /// From now on all streams of the node have so much. What is taken already stays.
    pub fn limit(&self, bytes: usize) {
        lock(&self.budget.account).limit = bytes;
    }

    /// How much all streams of the node take.
    #[cfg(test)]
    pub fn used(&self) -> usize {
        lock(&self.budget.account).used
    }

    /// Nothing yet.
    pub fn charge(self: &Arc<Self>) -> Charge {
        Charge { share: Arc::clone(self), bytes: 0 }
    }

    /// Whether the stream must end because it took most.
    pub fn is_exhausted(&self) -> bool {
        lock(&self.budget.account).streams.get(&self.key).is_none_or(|stream| stream.exhausted)
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        lock(&self.budget.account).streams.remove(&self.key);
    }
}

impl Charge {
    /// Asks for so much altogether, and waits for it where others must end first.
    ///
    /// # Errors
    /// The stream itself must end.
    pub async fn ask(&mut self, bytes: usize) -> Result<(), Exhausted> {
        let budget = &self.share.budget;
        while bytes > self.bytes {
            let freed = budget.freed.notified();
            match lock(&budget.account).ask(self.share.key, bytes - self.bytes) {
                Asked::Granted => self.bytes = bytes,
                Asked::Refused => return Err(Exhausted),
                Asked::Wait => {}
            }
            if self.bytes < bytes {
                tokio::select! {
                    () = freed => {}
                    () = self.share.end.cancelled() => return Err(Exhausted),
                }
            }
        }
        self.set(bytes);
        Ok(())
    }

    /// Is so much from now on, whether there is room for it or not: for what has been asked for under another charge.
    pub fn set(&mut self, bytes: usize) {
        let budget = &self.share.budget;
        if bytes > self.bytes {
            lock(&budget.account).take(self.share.key, bytes - self.bytes);
        } else if bytes < self.bytes {
            lock(&budget.account).free(self.share.key, self.bytes - bytes);
            budget.freed.notify_waiters();
        }
        self.bytes = bytes;
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.set(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn budget(limit: usize) -> Arc<Budget> {
        let budget = Arc::new(Budget::default());
        lock(&budget.account).limit = limit;
        budget
    }

    async fn taking(budget: &Arc<Budget>, key: u64, bytes: usize) -> (Arc<Share>, Charge) {
        let share = budget.share(key, CancellationToken::new());
        let mut charge = share.charge();
        charge.ask(bytes).await.unwrap();
        (share, charge)
    }

    #[tokio::test]
    async fn what_is_dropped_is_free_again() {
        let budget = budget(100);
        let (share, charge) = taking(&budget, 1, 60).await;
        let mut second = share.charge();
        second.ask(40).await.unwrap();
        assert_eq!(lock(&budget.account).used, 100);
        second.ask(10).await.unwrap();
        assert_eq!(lock(&budget.account).used, 70);
        drop((charge, second));
        assert_eq!(lock(&budget.account).used, 0);
        drop(share);
        assert!(lock(&budget.account).streams.is_empty());
    }

    #[tokio::test]
    async fn who_asks_for_more_than_there_is_gets_nothing_and_ends_nobody() {
        let budget = budget(100);
        let (other, _charge) = taking(&budget, 1, 50).await;
        let share = budget.share(2, CancellationToken::new());
        assert_eq!(share.charge().ask(51).await, Err(Exhausted));
        assert!(share.is_exhausted() && !other.is_exhausted());
        assert_eq!(share.charge().ask(1).await, Err(Exhausted), "it is ending");
    }

    #[tokio::test]
    async fn where_there_is_too_little_who_takes_most_ends_and_who_asked_waits_until_it_is_gone() {
        let budget = budget(100);
        let (small, _small) = taking(&budget, 1, 20).await;
        let (large, charge) = taking(&budget, 2, 70).await;
        let share = budget.share(3, CancellationToken::new());
        let mut asking = share.charge();
        {
            let mut waiting = std::pin::pin!(asking.ask(30));
            let early = tokio::time::timeout(Duration::from_millis(50), waiting.as_mut()).await;
            assert!(early.is_err(), "never more than the limit");
            assert!(large.is_exhausted() && large.end.is_cancelled() && !small.is_exhausted());
            drop(charge);
            waiting.await.unwrap();
        }
        assert_eq!(lock(&budget.account).used, 50);
    }

    #[tokio::test]
    async fn who_waits_and_is_ended_meanwhile_waits_no_longer() {
        let budget = budget(100);
        let (_large, _charge) = taking(&budget, 1, 90).await;
        let share = budget.share(2, CancellationToken::new());
        let mut asking = share.charge();
        let mut waiting = std::pin::pin!(asking.ask(50));
        assert!(tokio::time::timeout(Duration::from_millis(50), waiting.as_mut()).await.is_err());
        share.end.cancel();
        assert_eq!(waiting.await, Err(Exhausted));
    }
}

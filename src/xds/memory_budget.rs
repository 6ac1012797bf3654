//! The memory budget of a node: how many bytes all of its streams together may use for what their
//! clients send. That is requests that are still arriving, names that the session remembers, and
//! responses that repeat them.
//!
//! Memory is reserved before it is used. When too little is left, the stream that uses most must
//! end, and the stream that asked waits until that memory is free. So a node never uses more than
//! its budget, and streams that use much can't keep out an Envoy that needs little.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::process::lock::lock;

/// The budget of one node.
#[derive(Default)]
pub struct MemoryBudget {
    usage: Mutex<NodeUsage>,
    /// Notified when memory is given back.
    freed: Notify,
}

/// All sizes are in bytes.
#[derive(Default)]
struct NodeUsage {
    limit: usize,
    used: usize,
    streams: BTreeMap<u64, StreamUsage>,
}

struct StreamUsage {
    used: usize,
    /// The stream must end, because it used most when there was too little.
    exhausted: bool,
    cancel: CancellationToken,
}

/// One stream's access to the budget of its node.
pub struct StreamMemory {
    budget: Arc<MemoryBudget>,
    stream_id: u64,
    cancel: CancellationToken,
}

/// Memory that a stream has reserved. Dropping it gives the memory back.
pub struct Reservation {
    memory: Arc<StreamMemory>,
    bytes: usize,
}

/// The budget is exhausted, and this stream must end for it or is ending already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BudgetExhausted;

/// The answer to a request for memory.
#[derive(Debug, PartialEq, Eq)]
enum Decision {
    Granted,
    /// Other streams are ending. Ask again when memory has been given back.
    Wait,
    Refused,
}

impl MemoryBudget {
    /// Adds a stream, by an ID that no other stream has. `cancel` ends the stream.
    pub fn add_stream(
        self: &Arc<Self>,
        stream_id: u64,
        cancel: CancellationToken,
    ) -> Arc<StreamMemory> {
        let usage = StreamUsage { used: 0, exhausted: false, cancel: cancel.clone() };
        lock(&self.usage).streams.insert(stream_id, usage);
        Arc::new(StreamMemory { budget: Arc::clone(self), stream_id, cancel })
    }
}

impl NodeUsage {
    /// Reserves more memory for a stream, or ends the streams that use most.
    fn request(&mut self, stream_id: u64, more: usize) -> Decision {
        let own = self.streams.get(&stream_id).filter(|own| !own.exhausted);
        let Some(own_used) = own.map(|own| own.used) else {
            return Decision::Refused;
        };
        if self.used.saturating_add(more) <= self.limit {
            self.add(stream_id, more);
            return Decision::Granted;
        }
        let mut ending: usize = 0;
        for other in self.streams.values() {
            if other.exhausted {
                ending += other.used;
            }
        }
        while self.used.saturating_add(more) - ending > self.limit {
            let others = self
                .streams
                .iter_mut()
                .filter(|(id, other)| **id != stream_id && !other.exhausted)
                .map(|(_, other)| other);
            let largest = others.max_by_key(|other| other.used);
            match largest.filter(|largest| largest.used > own_used.saturating_add(more)) {
                Some(largest) => {
                    largest.exhausted = true;
                    largest.cancel.cancel();
                    ending += largest.used;
                }
                None => {
                    self.streams.entry(stream_id).and_modify(|own| own.exhausted = true);
                    return Decision::Refused;
                }
            }
        }
        Decision::Wait
    }

    fn add(&mut self, stream_id: u64, bytes: usize) {
        self.used += bytes;
        if let Some(stream) = self.streams.get_mut(&stream_id) {
            stream.used += bytes;
        }
    }

    fn subtract(&mut self, stream_id: u64, bytes: usize) {
        self.used = self.used.saturating_sub(bytes);
        if let Some(stream) = self.streams.get_mut(&stream_id) {
            stream.used = stream.used.saturating_sub(bytes);
        }
    }
}

impl StreamMemory {
    /// Sets the budget of the whole node, in bytes. What is used already stays.
    pub fn set_node_limit(&self, bytes: usize) {
        lock(&self.budget.usage).limit = bytes;
    }

    /// How many bytes all streams of the node use.
    #[cfg(test)]
    pub fn used_by_node(&self) -> usize {
        lock(&self.budget.usage).used
    }

    /// An empty reservation.
    pub fn reservation(self: &Arc<Self>) -> Reservation {
        Reservation { memory: Arc::clone(self), bytes: 0 }
    }

    /// Whether the stream must end because it used most.
    pub fn is_exhausted(&self) -> bool {
        let usage = lock(&self.budget.usage);
        usage.streams.get(&self.stream_id).is_none_or(|stream| stream.exhausted)
    }
}

impl Drop for StreamMemory {
    fn drop(&mut self) {
        lock(&self.budget.usage).streams.remove(&self.stream_id);
    }
}

impl Reservation {
    /// Grows or shrinks the reservation to `bytes`. Waits where other streams must end first.
    ///
    /// # Errors
    /// The stream itself must end.
    pub async fn resize(&mut self, bytes: usize) -> Result<(), BudgetExhausted> {
        let memory = &self.memory;
        while bytes > self.bytes {
            let freed = memory.budget.freed.notified();
            let more = bytes - self.bytes;
            match lock(&memory.budget.usage).request(memory.stream_id, more) {
                Decision::Granted => self.bytes = bytes,
                Decision::Refused => return Err(BudgetExhausted),
                Decision::Wait => {}
            }
            if self.bytes < bytes {
                tokio::select! {
                    () = freed => {}
                    () = memory.cancel.cancelled() => return Err(BudgetExhausted),
                }
            }
        }
        self.set(bytes);
        Ok(())
    }

    /// Sets the reservation to `bytes` although the budget may be exceeded by that: for memory for
    /// which there was another reservation until now.
    pub fn set(&mut self, bytes: usize) {
        let (budget, stream_id) = (&self.memory.budget, self.memory.stream_id);
        if bytes > self.bytes {
            lock(&budget.usage).add(stream_id, bytes - self.bytes);
        } else if bytes < self.bytes {
            lock(&budget.usage).subtract(stream_id, self.bytes - bytes);
            budget.freed.notify_waiters();
        }
        self.bytes = bytes;
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.set(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn budget(limit: usize) -> Arc<MemoryBudget> {
        let budget = Arc::new(MemoryBudget::default());
        lock(&budget.usage).limit = limit;
        budget
    }

    /// A stream that has reserved so many bytes.
    async fn stream_with(
        budget: &Arc<MemoryBudget>,
        stream_id: u64,
        bytes: usize,
    ) -> (Arc<StreamMemory>, Reservation) {
        let memory = budget.add_stream(stream_id, CancellationToken::new());
        let mut reservation = memory.reservation();
        reservation.resize(bytes).await.unwrap();
        (memory, reservation)
    }

    #[tokio::test]
    async fn a_dropped_reservation_is_free_again() {
        let budget = budget(100);
        let (memory, first) = stream_with(&budget, 1, 60).await;
        let mut second = memory.reservation();
        second.resize(40).await.unwrap();
        assert_eq!(lock(&budget.usage).used, 100);
        second.resize(10).await.unwrap();
        assert_eq!(lock(&budget.usage).used, 70);
        drop((first, second));
        assert_eq!(lock(&budget.usage).used, 0);
        drop(memory);
        assert!(lock(&budget.usage).streams.is_empty());
    }

    #[tokio::test]
    async fn a_stream_that_asks_for_too_much_ends_itself_only() {
        let budget = budget(100);
        let (other, _other_reservation) = stream_with(&budget, 1, 50).await;
        let memory = budget.add_stream(2, CancellationToken::new());
        assert_eq!(memory.reservation().resize(51).await, Err(BudgetExhausted));
        assert!(memory.is_exhausted() && !other.is_exhausted());
        assert_eq!(memory.reservation().resize(1).await, Err(BudgetExhausted), "it is ending");
    }

    #[tokio::test]
    async fn a_stream_waits_until_the_largest_one_has_ended() {
        let budget = budget(100);
        let (small, _small_reservation) = stream_with(&budget, 1, 20).await;
        let (large, large_reservation) = stream_with(&budget, 2, 70).await;
        let memory = budget.add_stream(3, CancellationToken::new());
        let mut reservation = memory.reservation();
        {
            let mut waiting = std::pin::pin!(reservation.resize(30));
            let early = tokio::time::timeout(Duration::from_millis(50), waiting.as_mut()).await;
            assert!(early.is_err(), "never more than the limit");
            assert!(large.is_exhausted() && large.cancel.is_cancelled() && !small.is_exhausted());
            drop(large_reservation);
            waiting.await.unwrap();
        }
        assert_eq!(lock(&budget.usage).used, 50);
    }

    #[tokio::test]
    async fn a_waiting_stream_that_is_cancelled_waits_no_longer() {
        let budget = budget(100);
        let (_large, _large_reservation) = stream_with(&budget, 1, 90).await;
        let memory = budget.add_stream(2, CancellationToken::new());
        let mut reservation = memory.reservation();
        let mut waiting = std::pin::pin!(reservation.resize(50));
        assert!(tokio::time::timeout(Duration::from_millis(50), waiting.as_mut()).await.is_err());
        memory.cancel.cancel();
        assert_eq!(waiting.await, Err(BudgetExhausted));
    }
}

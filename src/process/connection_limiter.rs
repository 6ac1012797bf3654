//! Connection limiter: when full, closes the oldest connection older than `grace`.
//!
//! So nobody can take all connections and keep them, and a client that needs one for a moment gets
//! it. `grace` protects clients that connect at the same time from closing each other's
//! connections before they are of any use.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::process::lock::lock;

/// How often a waiting caller looks whether a permit has been dropped.
const POLL_INTERVAL: Duration = Duration::from_millis(2);

/// Hands out a bounded number of [`Permit`]s.
pub struct ConnectionLimiter {
    capacity: usize,
    grace: Duration,
    permits: Mutex<Permits>,
}

/// The permits that are held, from the oldest to the newest.
#[derive(Default)]
struct Permits {
    next_id: u64,
    held: BTreeMap<u64, (Instant, CancellationToken)>,
}

/// Stands for one connection; returned to the limiter when dropped.
pub struct Permit {
    limiter: Arc<ConnectionLimiter>,
    id: u64,
    /// Cancelled when the connection must close, because another one takes its place.
    pub revoked: CancellationToken,
}

impl Drop for Permit {
    fn drop(&mut self) {
        lock(&self.limiter.permits).held.remove(&self.id);
    }
}

impl ConnectionLimiter {
    /// At most `capacity` permits, at least one. A permit isn't revoked before it is `grace` old.
    pub fn new(capacity: usize, grace: Duration) -> Arc<Self> {
        Arc::new(Self { capacity: capacity.max(1), grace, permits: Mutex::default() })
    }

    /// Waits for a permit; says whether another one was revoked for it.
    pub async fn acquire(self: &Arc<Self>) -> (Permit, bool) {
        loop {
            match self.try_acquire(Instant::now()) {
                Ok(acquired) => return acquired,
                Err(revocable_at) => {
                    let next_poll = Instant::now() + POLL_INTERVAL;
                    tokio::time::sleep_until(revocable_at.min(next_poll)).await;
                }
            }
        }
    }

    /// Hands out a permit. The error is the time from which on the oldest one may be revoked.
    fn try_acquire(self: &Arc<Self>, now: Instant) -> Result<(Permit, bool), Instant> {
        let mut permits = lock(&self.permits);
        let mut revoked_another = false;
        if permits.held.len() >= self.capacity
            && let Some(oldest) = permits.held.first_entry()
        {
            let revocable_at = oldest.get().0 + self.grace;
            if revocable_at > now {
                return Err(revocable_at);
            }
            oldest.remove().1.cancel();
            revoked_another = true;
        }
        let id = permits.next_id;
        permits.next_id += 1;
        let revoked = CancellationToken::new();
        permits.held.insert(id, (now, revoked.clone()));
        Ok((Permit { limiter: Arc::clone(self), id, revoked }, revoked_another))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_limiter_revokes_the_oldest_permit_after_its_grace() {
        let (grace, began) = (Duration::from_secs(1), Instant::now());
        let limiter = ConnectionLimiter::new(2, grace);
        let acquire = |after: u64| limiter.try_acquire(began + Duration::from_millis(after));
        let ((first, _), (second, revoked_another)) = (acquire(0).unwrap(), acquire(10).unwrap());
        assert!(!revoked_another);
        assert_eq!(acquire(999).err(), Some(began + grace), "within its grace");
        let (third, revoked_another) = acquire(1000).unwrap();
        assert!(revoked_another && first.revoked.is_cancelled() && !second.revoked.is_cancelled());
        drop(first);
        drop(third);
        let (_fourth, revoked_another) = acquire(1001).unwrap();
        assert!(!revoked_another && !second.revoked.is_cancelled(), "a dropped permit is free");
    }
}

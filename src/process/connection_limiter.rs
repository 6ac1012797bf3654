//! A bounded number of strangers: where there is no room for another, the one that has been there longest goes, if that is long enough
//! for who means well. So whoever takes every place has to take it again all the time, and who needs it for a moment gets it; and
//! where everyone comes back at once, nobody is turned away half-way.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::process::lock::lock;

/// So often it is looked whether somebody has left.
const LOOK: Duration = Duration::from_millis(2);

/// The places.
pub struct ConnectionLimiter {
    places: usize,
    /// Nobody has to go before.
    patience: Duration,
    guests: Mutex<Permits>,
}

#[derive(Default)]
struct Permits {
    next: u64,
    there: BTreeMap<u64, (Instant, CancellationToken)>,
}

/// One place; free again when dropped.
pub struct Permit {
    room: Arc<ConnectionLimiter>,
    key: u64,
    /// Says that it must go.
    pub leave: CancellationToken,
}

impl Drop for Permit {
    fn drop(&mut self) {
        lock(&self.room.guests).there.remove(&self.key);
    }
}

impl ConnectionLimiter {
    /// So many places, at least one; nobody has to go before so long.
    pub fn new(places: usize, patience: Duration) -> Arc<Self> {
        Arc::new(Self { places: places.max(1), patience, guests: Mutex::default() })
    }

    /// Takes a place as soon as there is one, and says whether another guest had to go for it.
    pub async fn enter(self: &Arc<Self>) -> (Permit, bool) {
        loop {
            match self.try_enter(Instant::now()) {
                Ok(entered) => return entered,
                Err(until) => tokio::time::sleep_until(until.min(Instant::now() + LOOK)).await,
            }
        }
    }

    /// Takes a place; the error says until when nobody has to go for it.
    fn try_enter(self: &Arc<Self>, now: Instant) -> Result<(Permit, bool), Instant> {
        let mut guests = lock(&self.guests);
        let mut another_left = false;
        if guests.there.len() >= self.places {
            let oldest =
                guests.there.first_key_value().map(|(_, (since, _))| *since + self.patience);
            if let Some(until) = oldest.filter(|until| *until > now) {
                return Err(until);
            }
            let oldest = guests.there.pop_first();
            oldest.iter().for_each(|(_, (_, leave))| leave.cancel());
            another_left = oldest.is_some();
        }
        let key = guests.next;
        guests.next += 1;
        let leave = CancellationToken::new();
        guests.there.insert(key, (now, leave.clone()));
        Ok((Permit { room: Arc::clone(self), key, leave }, another_left))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_goes() {
        let (patience, began) = (Duration::from_secs(1), Instant::now());
        let room = ConnectionLimiter::new(2, patience);
        let enter = |after: u64| room.try_enter(began + Duration::from_millis(after));
        let ((first, _), (second, another)) = (enter(0).unwrap(), enter(10).unwrap());
        assert!(!another);
        assert_eq!(enter(999).err(), Some(began + patience), "who has just come may stay a while");
        let (third, another) = enter(1000).unwrap();
        assert!(another && first.leave.is_cancelled() && !second.leave.is_cancelled());
        drop(first);
        drop(third);
        let (_fourth, another) = enter(1001).unwrap();
        assert!(!another && !second.leave.is_cancelled(), "who left of itself made room");
    }
}

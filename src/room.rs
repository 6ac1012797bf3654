//! A bounded number of strangers: where there is no room for another, the one that has been there longest goes. So whoever
//! takes every place has to take it again all the time, and who needs it for a moment gets it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use tokio_util::sync::CancellationToken;

use crate::lock::lock;

/// The places.
pub struct Room {
    places: usize,
    guests: Mutex<Guests>,
}

#[derive(Default)]
struct Guests {
    next: u64,
    there: BTreeMap<u64, CancellationToken>,
}

/// One place; free again when dropped.
pub struct Guest {
    room: Arc<Room>,
    key: u64,
    /// Says that it must go.
    pub leave: CancellationToken,
}

impl Drop for Guest {
    fn drop(&mut self) {
        lock(&self.room.guests).there.remove(&self.key);
    }
}

impl Room {
    /// So many places, at least one.
    pub fn new(places: usize) -> Arc<Self> {
        Arc::new(Self { places: places.max(1), guests: Mutex::default() })
    }

    /// Takes a place, and says whether another guest had to go for it.
    pub fn enter(self: &Arc<Self>) -> (Guest, bool) {
        let mut guests = lock(&self.guests);
        let oldest = if guests.there.len() >= self.places { guests.there.pop_first() } else { None };
        if let Some((_, leave)) = &oldest {
            leave.cancel();
        }
        let key = guests.next;
        guests.next += 1;
        let leave = CancellationToken::new();
        guests.there.insert(key, leave.clone());
        (Guest { room: Arc::clone(self), key, leave }, oldest.is_some())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_goes() {
        let room = Room::new(2);
        let ((first, _), (second, another)) = (room.enter(), room.enter());
        assert!(!another);
        let (third, another) = room.enter();
        assert!(another && first.leave.is_cancelled() && !second.leave.is_cancelled());
        drop(first);
        drop(third);
        let (_fourth, another) = room.enter();
        assert!(!another && !second.leave.is_cancelled(), "who left of itself made room");
    }
}

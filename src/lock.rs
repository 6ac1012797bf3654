//! Locking plain data.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Locks, whatever happened to the last holder: plain data is as good after a panic as before.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

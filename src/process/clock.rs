//! Wall-clock time, as certificates count it.

use std::time::{SystemTime, UNIX_EPOCH};

/// Seconds since 1970. 0 if the clock is set to an earlier time.
pub fn now() -> i64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |elapsed| i64::try_from(elapsed.as_secs()).unwrap_or(i64::MAX))
}

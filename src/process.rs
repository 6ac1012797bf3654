//! What every part needs of the process it runs in: sockets, tasks, signals, locks, the clock.

pub mod clock;
pub mod connection_limiter;
pub mod debounce;
pub mod lock;
pub mod serve;

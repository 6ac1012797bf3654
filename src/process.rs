//! What every part needs of the process it runs in: the clock, locks, sockets, tasks, signals.

pub mod clock;
pub mod connection_limiter;
pub mod debounce;
pub mod listen;
pub mod lock;
pub mod open_files;
pub mod shutdown;
pub mod tasks;

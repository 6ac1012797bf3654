//! [`language`] says how the tests are written.

use std::cell::Cell;

mod bounds;
mod cases;
mod convergence;
mod delta;
mod envoy;
mod fuzz;
mod language;
mod quarantine;
mod size;
mod whole;
mod world;

std::thread_local! {
    /// At how many names sessions have looked.
    pub(super) static LOOKS: Cell<u64> = const { Cell::new(0) };
}

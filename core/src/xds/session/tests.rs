//! The tests of a session. [`notation`] is how most of them write requests and responses.

mod convergence;
mod cost;
mod delta;
mod fake_envoy;
mod fuzz;
mod limits;
mod notation;
mod quarantine;
mod random_cases;
mod simulation;
mod sotw;

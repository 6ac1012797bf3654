//! The lab: the real programs that Atlas is tried with, how each starts, a private world to run
//! them in, and whole scenes.
//!
//! ```text
//! parts (which, where from) ─▶ run (how each starts) ─▶ scene (a hub and its clusters) ─▶ tests, demo
//!                              world (hosts, links)  ─┘      └▶ siege: attacks on a scene, with honest clients beside
//! ```

pub mod browser;
pub mod http;
pub mod parts;
pub mod process;
pub mod run;
pub mod scene;
pub mod siege;
pub mod tls;
pub mod world;

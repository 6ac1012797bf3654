//! The lab runs Atlas with the real programs around it, in private networks, for tests and the demo.
//!
//! ```text
//! parts (programs and their pins) ─▶ run (launchers)      ─┬▶ scene (a hub and its clusters)
//!                                    world (hosts, links) ─┘    └▶ siege (attacks on a scene)
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

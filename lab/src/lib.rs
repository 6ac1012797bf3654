//! The lab.

pub mod http;
pub mod parts;
pub mod process;
pub mod run;
pub mod world;

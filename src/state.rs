//! What is in force: written by the engine, read by every server.

mod nodes;
mod published;

#[cfg(test)]
pub use nodes::NodeState;
pub use nodes::{Node, Nodes};
pub use published::{PublishedState, StateStore};

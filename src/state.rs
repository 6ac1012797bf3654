//! What is in force: written by the engine, read by every server.

mod command;
mod nodes;
mod published;

pub use command::EngineCommand;
#[cfg(test)]
pub use nodes::NodeResources;
pub use nodes::{Node, Nodes, QuarantinedResource};
pub use published::{PublishedState, StateStore, ZoneSource, ZoneVersion};

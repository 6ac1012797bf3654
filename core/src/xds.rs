//! What nodes get, and how it is told: [`snapshot`] is the state, [`session`] the conversation, [`quarantine`] what was refused in it.

pub mod quarantine;
pub mod session;
pub mod snapshot;

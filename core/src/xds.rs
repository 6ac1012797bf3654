//! What an xDS server sends: [`snapshot`] is what one node should have, [`session`] is the protocol
//! of one stream.
//!
//! [`quarantine`] has the versions that Envoys of a node rejected. [`resource`] and [`messages`]
//! are the data, [`limits`] what one client may ask for.

pub mod limits;
pub mod messages;
pub mod quarantine;
pub mod resource;
pub mod session;
pub mod snapshot;

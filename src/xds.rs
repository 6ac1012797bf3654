//! The xDS service: one task per stream carries what [`atlas_core::xds::session`] decides.
//!
//! ```text
//! connection ── request frames ──▶ requests ──▶ stream ──▶ session      one task per stream, woken by its own node alone
//!      ▲                                           │
//!      └────── response frames ◀── wire ◀── outbox ┘                    encoded when the client has room for it
//! ```
//!
//! gRPC is a header of five bytes in front of each message, and trailers. It is written here and not left to tonic's codec for
//! the memory's sake: that keeps for each stream two buffers as large as the largest message that has passed, where an idle
//! stream of ours keeps none, and one whose client doesn't read keeps one piece of [`wire::PIECE`] bytes.

pub mod memory_budget;
pub mod streams;
pub mod tls;

mod connection;
mod limits;
mod requests;
mod responses;
mod service;
mod stream;
mod wire;

use std::sync::Arc;
use std::time::Duration;

use atlas_core::name::NodeId;
use atlas_core::xds::resource::ResourceType;
use tokio_util::sync::CancellationToken;

use crate::metrics::Metrics;
use crate::state::Nodes;
use crate::state::StateStore;
use crate::xds::streams::{Most, Streams};
use crate::xds::tls::ClientAuthorizer;

pub use connection::serve;
pub use limits::{LimitOptions, Limits};

/// What the service needs to know.
pub struct Xds {
    /// What each node should have.
    pub nodes: Arc<Nodes>,
    /// What is in force: how many Envoys a cluster has.
    pub state_store: Arc<StateStore>,
    /// The open streams and connections.
    pub streams: Arc<Streams>,
    /// Who is let in.
    pub client_authorizer: Arc<ClientAuthorizer>,
    /// Counts.
    pub metrics: Arc<Metrics>,
    /// How much of everything there may be.
    pub limits: Limits,
    /// Longest life of a stream; some end a little earlier, so that they don't all come back at once.
    pub max_age: Duration,
    /// For how long a stream keeps what its Envoy had from another replica and this one doesn't know; zero where there is only
    /// one.
    pub hold: Duration,
    /// Ends every stream.
    pub drain: CancellationToken,
}

impl Xds {
    /// How many connections there may be for one more of this node, as its manifest says now.
    pub fn connections(&self, node: &NodeId) -> Most {
        let envoys = match node {
            NodeId::Hub => None,
            NodeId::Cluster(name) => self.state_store.read(|published| {
                published?.fleet.clusters.get(name).map(|cluster| cluster.envoy_replicas)
            }),
        };
        self.limits.connections(node, envoys)
    }
}

/// What is quarantined: refused by an Envoy, and still what it should have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Quarantined {
    /// Its type.
    pub kind: ResourceType,
    /// Its name.
    pub name: String,
    /// The version that was refused.
    pub version: String,
    /// The Envoy's words.
    pub message: String,
}

/// What is quarantined of a node, whether an Envoy is connected or not.
pub fn quarantined(nodes: &Nodes, node: &NodeId) -> Vec<Quarantined> {
    let Some(node) = nodes.get(node) else { return Vec::new() };
    let state = node.state();
    let entries = state.quarantine.entries().filter(|(kind, name, refusal)| {
        // What has changed since is out of quarantine, whether or not a stream has noticed.
        state.snapshot.get(*kind, name).is_some_and(|resource| resource.version == refusal.version)
    });
    let entry = |(kind, name, refusal): (
        ResourceType,
        &str,
        &atlas_core::xds::quarantine::RejectedVersion,
    )| {
        Quarantined {
            kind,
            name: name.to_owned(),
            version: refusal.version.to_string(),
            message: refusal.message.to_string(),
        }
    };
    entries.map(entry).collect()
}

#[cfg(test)]
mod tests;

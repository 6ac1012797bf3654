//! What every connection and stream of the xDS server shares.

use std::sync::Arc;
use std::time::Duration;

use atlas_core::name::NodeId;
use tokio_util::sync::CancellationToken;

use super::client_authorizer::ClientAuthorizer;
use super::limits::{ConnectionLimits, Limits};
use super::open_streams::Streams;
use crate::metrics::Metrics;
use crate::state::{Nodes, StateStore};

/// The server's configuration and shared state.
pub struct XdsServer {
    /// The resources of each node.
    pub nodes: Arc<Nodes>,
    /// The state in force. It says how many Envoys a cluster has.
    pub state_store: Arc<StateStore>,
    /// The open connections and streams.
    pub streams: Arc<Streams>,
    /// Which clients may open streams.
    pub client_authorizer: Arc<ClientAuthorizer>,
    pub metrics: Arc<Metrics>,
    /// Limits of connections, requests and memory.
    pub limits: Limits,
    /// Longest life of a stream. Each ends up to a fifth earlier, so that not all Envoys come back
    /// at the same time.
    pub max_stream_age: Duration,
    /// How long a new stream keeps resources that this replica doesn't know yet. An Envoy may have
    /// them from another replica. Zero where there is only one.
    pub keep_unknown_for: Duration,
    /// Cancelled when Atlas stops; ends every stream.
    pub drain: CancellationToken,
}

impl XdsServer {
    /// How many connections a node may have, by the number of Envoys in its manifest.
    pub fn connection_limits(&self, node: &NodeId) -> ConnectionLimits {
        let envoys = match node {
            NodeId::Hub => None,
            NodeId::Cluster(name) => self.state_store.read(|published| {
                published?.fleet.clusters.get(name).map(|cluster| cluster.envoy_replicas)
            }),
        };
        self.limits.connection_limits(node, envoys)
    }
}

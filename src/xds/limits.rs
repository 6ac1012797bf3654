//! Limits of connections, requests and memory. A client with one cluster's credential can slow down
//! that cluster and nobody else.
//!
//! The memory that one node can make Atlas use is bounded by two of them: its connections, each
//! with at most [`STREAMS_PER_CONNECTION`] streams, and [`Limits::node_bytes`] for all that its
//! clients send.

use std::time::Duration;

use atlas_core::model::DEFAULT_ENVOY_REPLICAS;
use atlas_core::name::NodeId;
use atlas_core::xds::limits::SessionLimits;

/// The limits that flags set.
#[derive(Clone, Copy, Debug)]
pub struct LimitOptions {
    /// All connections. `None`: as many as this process may open files, less [`OTHER_FILES`].
    pub connections: Option<usize>,
    /// Connections of each node. `None`: as many as its Envoys may need.
    pub connections_per_node: Option<usize>,
    /// Unfinished handshakes. `None`: an eighth of the files that this process may open, at most
    /// 512.
    pub handshakes: Option<usize>,
    /// How long a handshake may take before another client may take its place. A handshake takes
    /// one round trip, which is a second from the farthest clusters, and as much again when all
    /// clients connect at once.
    pub handshake_grace: Duration,
    /// Largest request of the hub's Envoy, in bytes.
    pub request_bytes: usize,
    /// About how many bytes of resources one incremental response carries.
    pub response_bytes: usize,
    /// How long a connection may have no stream.
    pub idle_timeout: Duration,
}

impl Default for LimitOptions {
    fn default() -> Self {
        Self {
            connections: None,
            connections_per_node: None,
            handshakes: None,
            handshake_grace: Duration::from_secs(2),
            request_bytes: 16 << 20,
            response_bytes: 1 << 20,
            idle_timeout: Duration::from_secs(60),
        }
    }
}

/// Files that a process needs for everything but connections.
const OTHER_FILES: usize = 256;
/// Most connections, however many files the process may open.
const MAX_CONNECTIONS: usize = 40_000;
/// Streams of one connection at a time. An Envoy needs one, or one for each type if it doesn't
/// aggregate them.
pub const STREAMS_PER_CONNECTION: u32 = 8;

/// Connections for each Envoy of a cluster: its own, that of the Envoy that replaces it in a
/// rollout, and two that were cut and still seem to be open.
const CONNECTIONS_PER_ENVOY: usize = 4;
/// Connections of a cluster with few Envoys.
const MIN_CLUSTER_CONNECTIONS: usize = 16;
/// Connections of the hub. Atlas isn't told how many Envoys it has.
const HUB_CONNECTIONS: usize = 64;

/// Largest request of a cluster's Envoy, in bytes. It lists its own extensions, some 100 KiB, and
/// few resources.
const CLUSTER_REQUEST_BYTES: usize = 1 << 20;
/// Memory budget of a cluster, in bytes: this, or so much for each connection if that is more. An
/// Envoy needs some 10 KiB, and for a moment its largest request.
const CLUSTER_BYTES: usize = 4 << 20;
const BYTES_PER_CONNECTION: usize = 64 << 10;
/// Memory budget of the hub, in bytes: this, or so much for each of its resources if that is more.
/// It is enough for some Envoys that reconnect at once and list all their resources.
const HUB_BYTES: usize = 128 << 20;
const BYTES_PER_RESOURCE: usize = 4 << 10;
/// Bytes by which an Envoy lists one resource: its name and version. Those of Atlas take some 110.
const BYTES_PER_LISTED_RESOURCE: usize = 256;

/// The limits in force.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Connections of authenticated clients. Each takes some 50 KB of memory with its stream.
    connections: usize,
    connections_per_node: Option<usize>,
    /// Connections of unauthenticated clients.
    pub handshakes: usize,
    /// See [`LimitOptions::handshake_grace`].
    pub handshake_grace: Duration,
    request_bytes: usize,
    response_bytes: usize,
    /// How long a connection may have no stream.
    pub idle_timeout: Duration,
}

/// How many connections there may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectionLimits {
    /// Connections of all nodes.
    pub total: usize,
    /// Connections of the node that connects.
    pub per_node: usize,
    /// The number of that node's Envoys. So many of its connections can't be replaced by those of
    /// other clusters.
    pub envoys: usize,
}

impl LimitOptions {
    /// The limits of a process that may open this many files.
    pub fn for_open_files(self, files: u64) -> Limits {
        let files = usize::try_from(files).unwrap_or(usize::MAX);
        let possible = files.saturating_sub(OTHER_FILES).max(64);
        let handshakes = self.handshakes.unwrap_or((files / 8).clamp(16, 512));
        let connections = self.connections.unwrap_or(possible.min(MAX_CONNECTIONS));
        if connections > possible {
            tracing::warn!(
                wanted = connections,
                possible,
                "--max-connections is more than this process may open files: raise the limit of \
                 open files (LimitNOFILE, ulimit -n)"
            );
        }
        Limits {
            connections: connections.min(possible),
            connections_per_node: self.connections_per_node,
            handshakes,
            handshake_grace: self.handshake_grace,
            request_bytes: self.request_bytes,
            response_bytes: self.response_bytes,
            idle_timeout: self.idle_timeout,
        }
    }
}

impl Limits {
    /// How many connections a node with so many Envoys may have; `None`: the number isn't known.
    pub fn connection_limits(&self, node: &NodeId, envoys: Option<u32>) -> ConnectionLimits {
        let envoys =
            usize::try_from(envoys.unwrap_or(DEFAULT_ENVOY_REPLICAS)).unwrap_or(usize::MAX);
        let needed = match node {
            NodeId::Hub => HUB_CONNECTIONS,
            NodeId::Cluster(_) => {
                envoys.saturating_mul(CONNECTIONS_PER_ENVOY).max(MIN_CLUSTER_CONNECTIONS)
            }
        };
        ConnectionLimits {
            total: self.connections,
            per_node: self.connections_per_node.unwrap_or(needed),
            envoys,
        }
    }

    /// The memory budget of a node, in bytes. `connections` is how many it may have, `resources`
    /// how many its snapshot has.
    pub fn node_bytes(&self, node: &NodeId, connections: usize, resources: usize) -> usize {
        match node {
            NodeId::Hub => HUB_BYTES.max(resources.saturating_mul(BYTES_PER_RESOURCE)),
            NodeId::Cluster(_) => {
                CLUSTER_BYTES.max(connections.saturating_mul(BYTES_PER_CONNECTION))
            }
        }
    }

    /// Largest request of a node, in bytes. In its first request of a type an Envoy lists all
    /// resources that it has. The hub's Envoy has some for each cluster, perhaps of a fleet that
    /// was larger; a cluster's Envoy has few.
    pub fn request_bytes(&self, node: &NodeId, resources: usize) -> usize {
        match node {
            NodeId::Hub => {
                self.request_bytes.max(resources.saturating_mul(BYTES_PER_LISTED_RESOURCE))
            }
            NodeId::Cluster(_) => (self.request_bytes / 4).min(CLUSTER_REQUEST_BYTES),
        }
    }

    /// The limits of a stream's session. They are lower for a cluster, whose Envoy may be another
    /// organisation's.
    pub fn session(&self, node: &NodeId) -> SessionLimits {
        let hub = SessionLimits { response_bytes: self.response_bytes, ..SessionLimits::default() };
        match node {
            NodeId::Hub => hub,
            NodeId::Cluster(_) => SessionLimits { names: 4096, bytes: 256 << 10, ..hub },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_leave_files_for_everything_else() {
        let few = LimitOptions::default().for_open_files(1024);
        assert_eq!((few.connections, few.handshakes), (768, 128));
        let many = LimitOptions::default().for_open_files(1 << 20);
        assert_eq!((many.connections, many.handshakes), (40_000, 512));
        let configured = LimitOptions {
            connections: Some(5000),
            handshakes: Some(7),
            ..LimitOptions::default()
        };
        assert_eq!(
            (
                configured.for_open_files(1024).connections,
                configured.for_open_files(1024).handshakes
            ),
            (768, 7)
        );
        assert_eq!(configured.for_open_files(1 << 20).connections, 5000);
    }

    #[test]
    fn a_cluster_has_lower_limits_than_the_hub() {
        let limits = LimitOptions::default().for_open_files(1024);
        let tokyo = "tokyo".parse().unwrap();
        assert!(limits.request_bytes(&tokyo, 20) < limits.request_bytes(&NodeId::Hub, 20));
        assert!(limits.session(&tokyo).bytes < limits.session(&NodeId::Hub).bytes);
        assert!(limits.node_bytes(&tokyo, 16, 20) < limits.node_bytes(&NodeId::Hub, 64, 20));
    }

    #[test]
    fn the_hubs_limits_grow_with_its_resources() {
        let limits = LimitOptions::default().for_open_files(1024);
        let hub = NodeId::Hub;
        // Enough for all resources of 10,000 clusters with four stores each, even if they have been
        // removed since.
        assert!(
            limits.request_bytes(&hub, 0) > 50_000 * 120 && limits.session(&hub).names > 50_000
        );
        assert!(limits.request_bytes(&hub, 1_000_000) > 1_000_000 * 120);
        assert!(limits.node_bytes(&hub, 64, 1_000_000) > limits.request_bytes(&hub, 1_000_000) * 4);
        let tokyo = "tokyo".parse().unwrap();
        assert_eq!(limits.request_bytes(&tokyo, 1_000_000), limits.request_bytes(&tokyo, 0));
        assert_eq!(limits.node_bytes(&tokyo, 16, 1_000_000), limits.node_bytes(&tokyo, 16, 0));
    }

    #[test]
    fn a_nodes_connections_follow_its_number_of_envoys() {
        let limits = LimitOptions::default().for_open_files(1 << 20);
        let tokyo = "tokyo".parse().unwrap();
        let per_node = |envoys| limits.connection_limits(&tokyo, envoys).per_node;
        assert_eq!(
            [None, Some(1), Some(2), Some(5), Some(1000)].map(per_node),
            [16, 16, 16, 20, 4000]
        );
        assert_eq!(limits.connection_limits(&NodeId::Hub, None).per_node, 64);
        let fixed = LimitOptions { connections_per_node: Some(3), ..LimitOptions::default() }
            .for_open_files(1 << 20);
        assert_eq!(
            [None, Some(1000)].map(|envoys| fixed.connection_limits(&tokyo, envoys).per_node),
            [3, 3]
        );
    }
}

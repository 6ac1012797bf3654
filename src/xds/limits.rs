//! How much of everything there may be: whoever holds one cluster's credential can slow down that cluster, and nobody else.
//!
//! What one node may make Atlas keep is a product: its connections, each with at most [`STREAMS_PER_CONNECTION`] streams, and
//! [`Limits::node_bytes`] for all that their clients say.

use std::time::Duration;

use atlas_core::model::DEFAULT_ENVOY_REPLICAS;
use atlas_core::name::NodeId;
use atlas_core::xds::limits::Limits as SessionLimits;

use crate::xds::streams::Most;

/// What people may set; see the flags.
#[derive(Clone, Copy, Debug)]
pub struct LimitOptions {
    /// Connections; `None`: as many as this process may open files, less some.
    pub connections: Option<usize>,
    /// Connections of one node, whichever; `None`: as many as its Envoys may need.
    pub connections_per_node: Option<usize>,
    /// Handshakes that aren't finished; `None`: an eighth of the files that this process may open, at most 512.
    pub handshakes: Option<usize>,
    /// How long a handshake may take before it may have to make room for another. It takes one round trip, which is a second from the
    /// farthest clusters, and as much again when everyone comes at once.
    pub handshake_patience: Duration,
    /// Largest request of the hub's Envoy, in bytes.
    pub request_bytes: usize,
    /// About how many bytes of resources one incremental response carries.
    pub response_bytes: usize,
    /// For how long a connection may have no stream.
    pub idle: Duration,
}

impl Default for LimitOptions {
    fn default() -> Self {
        Self {
            connections: None,
            connections_per_node: None,
            handshakes: None,
            handshake_patience: Duration::from_secs(2),
            request_bytes: 16 << 20,
            response_bytes: 1 << 20,
            idle: Duration::from_secs(60),
        }
    }
}

/// Files that a process needs for everything but connections.
const OTHER_FILES: usize = 256;
/// A connection carries so many streams at a time. An Envoy needs one, or one per type where it doesn't aggregate them.
pub const STREAMS_PER_CONNECTION: u32 = 8;

/// Connections for each of a cluster's Envoys: its own, that of the one which takes its place in a rollout, and two that are cut off and
/// not yet known to be.
const CONNECTIONS_PER_ENVOY: usize = 4;
/// Connections of a cluster with few Envoys.
const FEWEST_CONNECTIONS: usize = 16;
/// Connections of the hub, whose Envoys Atlas isn't told the number of.
const HUB_CONNECTIONS: usize = 64;

/// Largest request of a cluster's Envoy. It has some 100 KiB of its own extensions to list, and few resources.
const CLUSTER_REQUEST: usize = 1 << 20;
/// What a cluster's Envoys may make Atlas keep, altogether, and for each connection where that is more. One needs some 10 KiB, and its
/// largest request for a moment.
const CLUSTER_BYTES: usize = 4 << 20;
const CONNECTION_BYTES: usize = 64 << 10;
/// The same of the hub's, and for each of its resources where that is more: some Envoys that come back at once and list all that they have.
const HUB_BYTES: usize = 128 << 20;
const RESOURCE_BYTES: usize = 4 << 10;
/// What an Envoy says of one resource that it lists: its name and version. Atlas's own have some 110 bytes.
const LISTED_BYTES: usize = 256;

/// How much of everything there may be.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Connections whose other end is known. Each costs some 50 KB with its stream.
    pub connections: usize,
    connections_per_node: Option<usize>,
    /// Connections whose other end isn't known yet: strangers get as far as this.
    pub handshakes: usize,
    /// How long each of those may take when there is no room for another.
    pub handshake_patience: Duration,
    request_bytes: usize,
    response_bytes: usize,
    /// For how long a connection may have no stream.
    pub idle: Duration,
}

impl LimitOptions {
    /// What holds in a process that can open this many files.
    pub fn within(self, files: u64) -> Limits {
        let files = usize::try_from(files).unwrap_or(usize::MAX);
        let room = files.saturating_sub(OTHER_FILES).max(64);
        let handshakes = self.handshakes.unwrap_or((files / 8).clamp(16, 512));
        let connections = self.connections.unwrap_or(room.min(40_000));
        if connections > room {
            tracing::warn!(
                wanted = connections,
                possible = room,
                "--max-connections is more than this process may open files: raise the limit of open files (LimitNOFILE, ulimit -n)"
            );
        }
        Limits {
            connections: connections.min(room),
            connections_per_node: self.connections_per_node,
            handshakes,
            handshake_patience: self.handshake_patience,
            request_bytes: self.request_bytes,
            response_bytes: self.response_bytes,
            idle: self.idle,
        }
    }
}

impl Limits {
    /// How many connections there may be for one more of a node that has so many Envoys; `None`: that isn't known.
    pub fn connections(&self, node: &NodeId, envoys: Option<u32>) -> Most {
        let envoys =
            usize::try_from(envoys.unwrap_or(DEFAULT_ENVOY_REPLICAS)).unwrap_or(usize::MAX);
        let needed = match node {
            NodeId::Hub => HUB_CONNECTIONS,
            NodeId::Cluster(_) => {
                envoys.saturating_mul(CONNECTIONS_PER_ENVOY).max(FEWEST_CONNECTIONS)
            }
        };
        Most {
            of_all: self.connections,
            of_node: self.connections_per_node.unwrap_or(needed),
            envoys,
        }
    }

    /// What all streams of a node may make Atlas keep of what they say, in bytes; it may have so many connections, and has so many
    /// resources.
    pub fn node_bytes(&self, node: &NodeId, connections: usize, resources: usize) -> usize {
        match node {
            NodeId::Hub => HUB_BYTES.max(resources.saturating_mul(RESOURCE_BYTES)),
            NodeId::Cluster(_) => CLUSTER_BYTES.max(connections.saturating_mul(CONNECTION_BYTES)),
        }
    }

    /// Largest request of a node, in bytes. On its first request of a type an Envoy lists all that it has: the hub's has some resources
    /// for each cluster, perhaps of a fleet that was larger; nobody else has many.
    pub fn request_bytes(&self, node: &NodeId, resources: usize) -> usize {
        match node {
            NodeId::Hub => self.request_bytes.max(resources.saturating_mul(LISTED_BYTES)),
            NodeId::Cluster(_) => (self.request_bytes / 4).min(CLUSTER_REQUEST),
        }
    }

    /// What a stream of a node may make Atlas remember. A cluster's Envoy is another organisation's machine.
    pub fn session(&self, node: &NodeId) -> SessionLimits {
        let most =
            SessionLimits { response_bytes: self.response_bytes, ..SessionLimits::default() };
        match node {
            NodeId::Hub => most,
            NodeId::Cluster(_) => SessionLimits { names: 4096, bytes: 256 << 10, ..most },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_leave_files_for_everything_else() {
        let few = LimitOptions::default().within(1024);
        assert_eq!((few.connections, few.handshakes), (768, 128));
        let many = LimitOptions::default().within(1 << 20);
        assert_eq!((many.connections, many.handshakes), (40_000, 512));
        let wished = LimitOptions {
            connections: Some(5000),
            handshakes: Some(7),
            ..LimitOptions::default()
        };
        assert_eq!((wished.within(1024).connections, wished.within(1024).handshakes), (768, 7));
        assert_eq!(wished.within(1 << 20).connections, 5000);
    }

    #[test]
    fn a_cluster_may_have_less_remembered_than_the_hub() {
        let limits = LimitOptions::default().within(1024);
        let tokyo = "tokyo".parse().unwrap();
        assert!(limits.request_bytes(&tokyo, 20) < limits.request_bytes(&NodeId::Hub, 20));
        assert!(limits.session(&tokyo).bytes < limits.session(&NodeId::Hub).bytes);
        assert!(limits.node_bytes(&tokyo, 16, 20) < limits.node_bytes(&NodeId::Hub, 64, 20));
    }

    #[test]
    fn the_hubs_limits_grow_with_what_it_has() {
        let limits = LimitOptions::default().within(1024);
        let hub = NodeId::Hub;
        // What a fleet of 10,000 clusters with four stores each has had may be listed whatever there is now.
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
    fn connections_of_a_node_follow_its_number_of_envoys() {
        let limits = LimitOptions::default().within(1 << 20);
        let tokyo = "tokyo".parse().unwrap();
        let of_node = |envoys| limits.connections(&tokyo, envoys).of_node;
        assert_eq!(
            [None, Some(1), Some(2), Some(5), Some(1000)].map(of_node),
            [16, 16, 16, 20, 4000]
        );
        assert_eq!(limits.connections(&NodeId::Hub, None).of_node, 64);
        let fixed = LimitOptions { connections_per_node: Some(3), ..LimitOptions::default() }
            .within(1 << 20);
        assert_eq!(
            [None, Some(1000)].map(|envoys| fixed.connections(&tokyo, envoys).of_node),
            [3, 3]
        );
    }
}

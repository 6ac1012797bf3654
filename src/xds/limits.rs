//! How much of everything there may be: whoever holds one cluster's credential can slow down that cluster, and nobody else.

use std::time::Duration;

use atlas_core::name::NodeId;
use atlas_core::xds::session;

/// What people may set; see the flags.
#[derive(Clone, Copy, Debug)]
pub struct LimitOptions {
    /// Connections; `None`: as many as this process may open files, less some.
    pub connections: Option<usize>,
    /// Connections of one node.
    pub connections_per_node: usize,
    /// Handshakes that aren't finished; `None`: an eighth of the files that this process may open, at most 256.
    pub handshakes: Option<usize>,
    /// How long a handshake may take before it may have to make room for another. It takes one round trip, which is a second from the
    /// farthest clusters, and as much again when everyone comes at once.
    pub handshake_patience: Duration,
    /// Largest request, in bytes.
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
            connections_per_node: 64,
            handshakes: None,
            handshake_patience: Duration::from_secs(2),
            request_bytes: 4 << 20,
            response_bytes: 1 << 20,
            idle: Duration::from_secs(60),
        }
    }
}

/// Files that a process needs for everything but connections.
const OTHER_FILES: usize = 256;
/// A connection carries so many streams at a time. An Envoy needs one, or one per type where it doesn't aggregate them.
pub const STREAMS_PER_CONNECTION: u32 = 8;

/// How much of everything there may be.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Connections whose other end is known. Each costs some 50 KB with its stream.
    pub connections: usize,
    /// Of one node.
    pub connections_per_node: usize,
    /// Connections whose other end isn't known yet: strangers get as far as this.
    pub handshakes: usize,
    /// How long each of those may take when there is no room for another.
    pub handshake_patience: Duration,
    /// Largest request, in bytes.
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
        let handshakes = self.handshakes.unwrap_or((files / 8).clamp(16, 256));
        let connections = self.connections.unwrap_or(room.min(20_000));
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
    /// Streams that one node may have at a time: an Envoy needs one per connection, and has two while one replaces another.
    pub fn streams_per_node(&self) -> usize {
        self.connections_per_node.saturating_mul(2)
    }

    /// Largest request of a node, in bytes. On its first request of a type an Envoy lists all that it has, some 80 bytes each:
    /// the hub's has three resources per cluster, and nobody else has many.
    pub fn request_bytes(&self, node: &NodeId) -> usize {
        match node {
            NodeId::Hub => self.request_bytes,
            NodeId::Cluster(_) => self.request_bytes / 4,
        }
    }

    /// What a stream of a node may make Atlas remember. A cluster's Envoy is another organisation's machine.
    pub fn session(&self, node: &NodeId) -> session::Limits {
        let most = session::Limits { response_bytes: self.response_bytes, ..session::Limits::default() };
        match node {
            NodeId::Hub => most,
            NodeId::Cluster(_) => session::Limits { names: 4096, bytes: 256 << 10, ..most },
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
        assert_eq!((many.connections, many.handshakes), (20_000, 256));
        let wished = LimitOptions { connections: Some(5000), handshakes: Some(7), ..LimitOptions::default() };
        assert_eq!((wished.within(1024).connections, wished.within(1024).handshakes), (768, 7));
        assert_eq!(wished.within(1 << 20).connections, 5000);
    }

    #[test]
    fn a_cluster_may_have_less_remembered_than_the_hub() {
        let limits = LimitOptions::default().within(1024);
        let tokyo = "tokyo".parse().unwrap();
        assert!(limits.request_bytes(&tokyo) < limits.request_bytes(&NodeId::Hub));
        assert!(limits.session(&tokyo).bytes < limits.session(&NodeId::Hub).bytes);
        // 15,000 resources that an Envoy lists when it comes back.
        assert!(limits.request_bytes(&NodeId::Hub) > 15_000 * 120);
    }
}

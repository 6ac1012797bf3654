//! The registry of open connections and xDS streams.
//!
//! When a limit of connections is reached, a new connection replaces another one. Within the same
//! node that is the one whose client has been silent for longest: an Envoy whose link was cut can
//! always reconnect, while its former connections still seem to be open.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use atlas_core::name::NodeId;
use atlas_core::xds::session::Session;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::client::{AuthenticatedClient, SelfDescription};
use super::connection::{CloseReason, Connection, LimitReached};
use super::first_bytes::PlaintextClients;
use super::limits::ConnectionLimits;
use super::memory_budget::{MemoryBudget, StreamMemory};
use crate::process::lock::lock;

/// How often [`Streams::wait_closed`] looks.
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// One open stream.
pub struct Stream {
    /// Who is at the other end.
    pub client: Arc<AuthenticatedClient>,
    /// When the stream was opened, in seconds since 1970.
    pub opened: i64,
    /// The state of the protocol. A thread that also locks the node's resources locks those first.
    pub session: Mutex<Session>,
    /// What the Envoy says of itself.
    pub self_description: Mutex<SelfDescription>,
    /// Its share of the node's memory budget.
    pub memory: Arc<StreamMemory>,
    /// Cancelled to end the stream.
    pub cancel: CancellationToken,
}

/// All open connections and streams.
#[derive(Default)]
pub struct Streams {
    /// Clients of the xDS port that didn't speak TLS.
    pub plaintext_clients: PlaintextClients,
    next_id: AtomicU64,
    open: Mutex<OpenStreams>,
}

#[derive(Default)]
struct OpenStreams {
    streams: BTreeMap<u64, Arc<Stream>>,
    connections: BTreeMap<u64, Arc<Connection>>,
    nodes: BTreeMap<NodeId, NodeConnections>,
}

/// The open connections of one node.
#[derive(Default)]
struct NodeConnections {
    connections: BTreeMap<u64, Arc<Connection>>,
    /// How many Envoys the node has, according to its manifest when one last connected.
    envoys: usize,
    memory: Arc<MemoryBudget>,
}

/// A stream in the registry. Dropping this removes it.
pub struct RegisteredStream {
    streams: Arc<Streams>,
    id: u64,
    /// The stream's connection.
    pub connection: Arc<Connection>,
    pub stream: Arc<Stream>,
}

/// A connection in the registry. Dropping this removes it.
pub struct RegisteredConnection {
    streams: Arc<Streams>,
    id: u64,
    pub connection: Arc<Connection>,
}

impl Drop for RegisteredStream {
    fn drop(&mut self) {
        self.connection.note_stream_ended();
        lock(&self.streams.open).streams.remove(&self.id);
    }
}

impl Drop for RegisteredConnection {
    fn drop(&mut self) {
        lock(&self.streams.open).remove_connection(self.id, &self.connection.client.node);
        self.connection.note_closed();
    }
}

impl OpenStreams {
    fn remove_connection(&mut self, id: u64, node: &NodeId) {
        self.connections.remove(&id);
        if let Some(of_node) = self.nodes.get_mut(node) {
            of_node.connections.remove(&id);
            if of_node.connections.is_empty() {
                self.nodes.remove(node);
            }
        }
    }

    /// The connection that one more connection of `node` replaces; `None` if no limit is reached.
    /// The error: a limit is reached and no connection may be replaced.
    fn connection_to_replace(
        &self,
        node: &NodeId,
        limits: &ConnectionLimits,
    ) -> Result<Option<(Arc<Connection>, LimitReached)>, LimitReached> {
        let now = Instant::now();
        if let Some(of_node) = self.nodes.get(node)
            && of_node.connections.len() >= limits.per_node
        {
            let least = of_node.connections.values().min_by_key(|c| c.keep_priority(now));
            return Ok(least.map(|least| (Arc::clone(least), LimitReached::PerNode)));
        }
        if self.connections.len() < limits.total {
            return Ok(None);
        }
        let replaceable =
            self.connections.values().filter(|other| self.may_replace(node, other, now));
        let least = replaceable.min_by_key(|c| c.keep_priority(now)).ok_or(LimitReached::Total)?;
        Ok(Some((Arc::clone(least), LimitReached::Total)))
    }

    /// Whether a connection of `node` may replace `other` when the limit of all connections is
    /// reached. The hub may replace every connection, since it needs its own. Everybody may replace
    /// unused connections, and those of clusters that have more connections than Envoys.
    fn may_replace(&self, node: &NodeId, other: &Connection, now: Instant) -> bool {
        let owner = &other.client.node;
        let has_spare =
            self.nodes.get(owner).is_some_and(|of_node| of_node.connections.len() > of_node.envoys);
        *node == NodeId::Hub || !other.is_used(now) || (*owner != NodeId::Hub && has_spare)
    }
}

impl Streams {
    /// Adds a connection. If a limit is reached, waits until another connection has closed for it.
    ///
    /// # Errors
    /// The limit of all connections is reached, and no connection may be replaced.
    pub async fn add_connection(
        self: &Arc<Self>,
        client: AuthenticatedClient,
        limits: ConnectionLimits,
    ) -> Result<RegisteredConnection, LimitReached> {
        loop {
            let (other, limit) = {
                let mut open = lock(&self.open);
                match open.connection_to_replace(&client.node, &limits)? {
                    Some(other) => other,
                    None => return Ok(self.insert_connection(&mut open, client, limits.envoys)),
                }
            };
            other.close(CloseReason::Replaced(limit));
            other.closed().await;
        }
    }

    fn insert_connection(
        self: &Arc<Self>,
        open: &mut OpenStreams,
        client: AuthenticatedClient,
        envoys: usize,
    ) -> RegisteredConnection {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let connection = Arc::new(Connection::new(client));
        let of_node = open.nodes.entry(connection.client.node.clone()).or_default();
        of_node.connections.insert(id, Arc::clone(&connection));
        of_node.envoys = envoys;
        open.connections.insert(id, Arc::clone(&connection));
        RegisteredConnection { streams: Arc::clone(self), id, connection }
    }

    /// Adds a stream. `opened` is the time in seconds since 1970; `cancel` ends the stream.
    pub fn add_stream(
        self: &Arc<Self>,
        connection: &Arc<Connection>,
        session: Session,
        opened: i64,
        cancel: CancellationToken,
    ) -> RegisteredStream {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let client = Arc::clone(&connection.client);
        let mut open = lock(&self.open);
        // The connection may just have been removed, and it may have been the last of its node.
        let of_node = open.nodes.get(&client.node);
        let budget = of_node.map(|of_node| Arc::clone(&of_node.memory)).unwrap_or_default();
        let stream = Arc::new(Stream {
            client,
            opened,
            session: Mutex::new(session),
            self_description: Mutex::default(),
            memory: budget.add_stream(id, cancel.clone()),
            cancel,
        });
        open.streams.insert(id, Arc::clone(&stream));
        drop(open);
        connection.note_stream_opened();
        RegisteredStream {
            streams: Arc::clone(self),
            id,
            connection: Arc::clone(connection),
            stream,
        }
    }

    /// The open streams, in the order in which they were opened.
    pub fn open(&self) -> Vec<Arc<Stream>> {
        lock(&self.open).streams.values().cloned().collect()
    }

    /// The number of open connections.
    pub fn connections(&self) -> usize {
        lock(&self.open).connections.len()
    }

    /// Closes the connections of a node, with or without streams.
    pub fn close_node(&self, node: &NodeId) {
        self.close_where(|client| client.node == *node);
    }

    /// Closes the connections of those clients, with or without streams: their credentials are no
    /// longer accepted.
    pub fn close_where(&self, is_closed: impl Fn(&AuthenticatedClient) -> bool) {
        let open = lock(&self.open);
        for stream in open.streams.values() {
            if is_closed(&stream.client) {
                stream.cancel.cancel();
            }
        }
        for connection in open.connections.values() {
            if is_closed(&connection.client) {
                connection.close(CloseReason::Credential);
            }
        }
    }

    /// Waits until no stream is open, or `timeout` is over.
    pub async fn wait_closed(&self, timeout: Duration) {
        let until_closed = async {
            while !lock(&self.open).streams.is_empty() {
                tokio::time::sleep(POLL_INTERVAL).await;
            }
        };
        let _ = tokio::time::timeout(timeout, until_closed).await;
    }
}

#[cfg(test)]
mod tests;

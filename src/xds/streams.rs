//! The open connections and xDS streams: who is connected, how many there may be, and how each stands.
//!
//! Where there are as many connections as there may be, a new one takes the place of another: of its own node the one that has been
//! silent for longest, so that an Envoy whose link was cut always gets in, while its former connections still seem to be there.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use atlas_core::name::NodeId;
use atlas_core::xds::session::Session;
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, WaitForCancellationFuture};

use crate::process::lock::lock;
use crate::xds::memory_budget::{Budget, Share};
use crate::xds::tls::Peer;

/// A connection may have no stream for so long before that makes it worth less than one that has: an Envoy opens one at once.
const GRACE: Duration = Duration::from_secs(5);

/// One open stream.
pub struct Stream {
    /// Who is at the other end.
    pub peer: Arc<Peer>,
    /// Since when, in seconds since 1970.
    pub since: i64,
    /// Its conversation. Whoever locks the node's state too locks that first.
    pub session: Mutex<Session>,
    /// What the Envoy says of itself.
    pub client: Mutex<Client>,
    /// Its part of the memory of its node.
    pub share: Arc<Share>,
    /// Ends it.
    pub cancel: CancellationToken,
}

/// One open connection.
pub struct Connection {
    /// Who is at the other end.
    pub peer: Arc<Peer>,
    since: Instant,
    /// Milliseconds after `since` when the client last said anything.
    heard: AtomicU64,
    use_: Mutex<Use>,
    end: CancellationToken,
    cause: OnceLock<Cause>,
    /// It has ended, and its memory is free.
    gone: CancellationToken,
}

struct Use {
    streams: usize,
    /// When the last stream ended.
    idle_since: Instant,
}

/// Why Atlas ends a connection before its time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// Its credential counts no more.
    Credential,
    /// Another one takes its place.
    Replaced(Full),
    /// A stream on it took too much memory, or asked for more without reading: only the connection's end frees what waits for it.
    Memory,
}

/// What an Envoy says of itself: for display, never for authorisation.
#[derive(Clone, Debug, Default)]
pub struct Client {
    /// `node.id`.
    pub id: String,
    /// Its version, e.g. `1.40.0`.
    pub version: String,
}

/// All open connections and streams.
#[derive(Default)]
pub struct Streams {
    /// Who came to the port of the streams without TLS.
    pub not_tls: crate::xds::tls::NotTls,
    next: AtomicU64,
    open: Mutex<Open>,
}

#[derive(Default)]
struct Open {
    streams: BTreeMap<u64, Arc<Stream>>,
    connections: BTreeMap<u64, Arc<Connection>>,
    of_node: BTreeMap<NodeId, OfNode>,
}

/// What is open of one node.
#[derive(Default)]
struct OfNode {
    connections: BTreeMap<u64, Arc<Connection>>,
    /// How many Envoys it has, as was known when one last connected.
    envoys: usize,
    budget: Arc<Budget>,
}

/// How many connections there may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Most {
    /// Of all nodes.
    pub of_all: usize,
    /// Of the node that connects.
    pub of_node: usize,
    /// How many Envoys that node has; so many connections of it give way to nobody else's.
    pub envoys: usize,
}

/// Removes its stream from the list when dropped.
pub struct Registration {
    streams: Arc<Streams>,
    key: u64,
    /// On which it is.
    pub connection: Arc<Connection>,
    /// The stream itself.
    pub stream: Arc<Stream>,
}

/// Removes its connection from the list when dropped.
pub struct Place {
    streams: Arc<Streams>,
    key: u64,
    /// The connection itself.
    pub connection: Arc<Connection>,
}

/// Where there is no room for a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Full {
    /// There are too many.
    All,
    /// There are too many of this node.
    OfNode,
}

impl Full {
    /// One of few words, for the metric.
    pub fn limit(self) -> &'static str {
        match self {
            Self::All => "connections",
            Self::OfNode => "connections_per_node",
        }
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        let mut use_ = lock(&self.connection.use_);
        use_.streams = use_.streams.saturating_sub(1);
        use_.idle_since = Instant::now();
        drop(use_);
        lock(&self.streams.open).streams.remove(&self.key);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut open = lock(&self.streams.open);
        open.connections.remove(&self.key);
        let node = &self.connection.peer.node;
        if let Some(of_node) = open.of_node.get_mut(node) {
            of_node.connections.remove(&self.key);
            if of_node.connections.is_empty() {
                open.of_node.remove(node);
            }
        }
        drop(open);
        self.connection.gone.cancel();
    }
}

impl Open {
    /// Whose place a new connection takes, if it must take one; the error: nobody's.
    fn whose_place(
        &self,
        node: &NodeId,
        most: &Most,
    ) -> Result<Option<(Arc<Connection>, Full)>, Full> {
        let now = Instant::now();
        let of_node = self.of_node.get(node).map(|of_node| &of_node.connections);
        if let Some(connections) = of_node.filter(|connections| connections.len() >= most.of_node) {
            let silent = connections.values().min_by_key(|connection| connection.worth(now));
            return Ok(silent.map(|silent| (Arc::clone(silent), Full::OfNode)));
        }
        if self.connections.len() < most.of_all {
            return Ok(None);
        }
        // Those without a stream, and those of nodes that have more than one for each of their Envoys. The hub needs its own.
        let gives_way = |connection: &Connection| {
            let peer = &connection.peer.node;
            let spare = || {
                self.of_node
                    .get(peer)
                    .is_some_and(|of_node| of_node.connections.len() > of_node.envoys)
            };
            *node == NodeId::Hub || !connection.worth(now).0 || (*peer != NodeId::Hub && spare())
        };
        let dispensable = self.connections.values().filter(|connection| gives_way(connection));
        let silent = dispensable.min_by_key(|connection| connection.worth(now)).ok_or(Full::All)?;
        Ok(Some((Arc::clone(silent), Full::All)))
    }
}

impl Connection {
    fn new(peer: Peer) -> Self {
        let since = Instant::now();
        Self {
            peer: Arc::new(peer),
            since,
            heard: AtomicU64::new(0),
            use_: Mutex::new(Use { streams: 0, idle_since: since }),
            end: CancellationToken::new(),
            cause: OnceLock::new(),
            gone: CancellationToken::new(),
        }
    }

    /// The client says something, if only that it is there.
    pub fn hears(&self) {
        self.heard.store(
            u64::try_from(self.since.elapsed().as_millis()).unwrap_or(u64::MAX),
            Ordering::Relaxed,
        );
    }

    /// Which of two is to be kept, the greater one: whether it has a stream, or may still open one; and when its client last said
    /// anything.
    fn worth(&self, now: Instant) -> (bool, Instant) {
        let use_ = lock(&self.use_);
        let in_use = use_.streams > 0 || now.saturating_duration_since(use_.idle_since) < GRACE;
        (in_use, self.since + Duration::from_millis(self.heard.load(Ordering::Relaxed)))
    }

    /// Ends it, and every stream on it. The first cause counts.
    pub fn end(&self, cause: Cause) {
        let _ = self.cause.set(cause);
        self.end.cancel();
    }

    /// Resolves when it is to end.
    pub fn ended(&self) -> WaitForCancellationFuture<'_> {
        self.end.cancelled()
    }

    /// Why it is to end; `None`: it isn't.
    pub fn cause(&self) -> Option<Cause> {
        self.cause.get().copied()
    }

    /// Resolves when it has had no stream for so long.
    pub async fn idle(&self, longest: Duration) {
        loop {
            let (busy, since) = {
                let use_ = lock(&self.use_);
                (use_.streams > 0, use_.idle_since)
            };
            let until = if busy { Instant::now() } else { since } + longest;
            if until <= Instant::now() {
                return;
            }
            tokio::time::sleep_until(until).await;
        }
    }
}

impl Streams {
    /// Adds a connection for as long as its place lives. Where there are too many, another one ends first.
    ///
    /// # Errors
    /// There are too many, and nobody has one to spare.
    pub async fn connect(self: &Arc<Self>, peer: Peer, most: Most) -> Result<Place, Full> {
        loop {
            let (other, full) = {
                let mut open = lock(&self.open);
                match open.whose_place(&peer.node, &most)? {
                    Some(other) => other,
                    None => return Ok(self.add(&mut open, peer, most.envoys)),
                }
            };
            other.end(Cause::Replaced(full));
            other.gone.cancelled().await;
        }
    }

    fn add(self: &Arc<Self>, open: &mut Open, peer: Peer, envoys: usize) -> Place {
        let key = self.next.fetch_add(1, Ordering::Relaxed);
        let connection = Arc::new(Connection::new(peer));
        let of_node = open.of_node.entry(connection.peer.node.clone()).or_default();
        of_node.connections.insert(key, Arc::clone(&connection));
        of_node.envoys = envoys;
        open.connections.insert(key, Arc::clone(&connection));
        Place { streams: Arc::clone(self), key, connection }
    }

    /// Adds a stream for as long as the registration lives.
    pub fn register(
        self: &Arc<Self>,
        connection: &Arc<Connection>,
        session: Session,
        since: i64,
        cancel: CancellationToken,
    ) -> Registration {
        let key = self.next.fetch_add(1, Ordering::Relaxed);
        let peer = Arc::clone(&connection.peer);
        let mut open = lock(&self.open);
        // A connection that has just been ended may be the last one of its node, and its list gone.
        let budget = open
            .of_node
            .get(&peer.node)
            .map(|of_node| Arc::clone(&of_node.budget))
            .unwrap_or_default();
        let share = budget.share(key, cancel.clone());
        let (session, client) = (Mutex::new(session), Mutex::default());
        let stream = Arc::new(Stream { peer, since, session, client, share, cancel });
        open.streams.insert(key, Arc::clone(&stream));
        drop(open);
        lock(&connection.use_).streams += 1;
        Registration { streams: Arc::clone(self), key, connection: Arc::clone(connection), stream }
    }

    /// Those open now, in order of opening.
    pub fn open(&self) -> Vec<Arc<Stream>> {
        lock(&self.open).streams.values().cloned().collect()
    }

    /// How many connections are open.
    pub fn connections(&self) -> usize {
        lock(&self.open).connections.len()
    }

    /// Ends a node's streams and connections, also those without a stream.
    pub fn end(&self, node: &NodeId) {
        self.end_those(|peer| peer.node == *node);
    }

    /// Ends the streams and connections of those.
    pub fn end_those(&self, those: impl Fn(&Peer) -> bool) {
        let open = lock(&self.open);
        open.streams
            .values()
            .filter(|stream| those(&stream.peer))
            .for_each(|stream| stream.cancel.cancel());
        open.connections
            .values()
            .filter(|connection| those(&connection.peer))
            .for_each(|connection| connection.end(Cause::Credential));
    }
}

#[cfg(test)]
mod tests;

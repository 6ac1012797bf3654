//! The open connections and xDS streams: who is connected, how many there may be, and how each stands.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use atlas_core::name::NodeId;
use atlas_core::xds::session::Session;
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, WaitForCancellationFuture};

use crate::lock::lock;
use crate::tls::Peer;

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
    /// Ends it.
    pub cancel: CancellationToken,
}

/// One open connection.
pub struct Connection {
    /// Who is at the other end.
    pub peer: Arc<Peer>,
    use_: Mutex<Use>,
    end: CancellationToken,
}

struct Use {
    streams: usize,
    /// When the last stream ended.
    idle_since: Instant,
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
    next: AtomicU64,
    open: Mutex<Open>,
}

#[derive(Default)]
struct Open {
    streams: BTreeMap<u64, Arc<Stream>>,
    connections: BTreeMap<u64, Arc<Connection>>,
    of_node: BTreeMap<NodeId, Count>,
}

#[derive(Default)]
struct Count {
    streams: usize,
    connections: usize,
}

/// Removes its stream from the list when dropped.
pub struct Registration {
    streams: Arc<Streams>,
    key: u64,
    connection: Arc<Connection>,
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

/// Why there is no place for a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Full {
    /// There are too many.
    All,
    /// There are too many of this node.
    OfNode,
}

impl Drop for Registration {
    fn drop(&mut self) {
        let mut use_ = lock(&self.connection.use_);
        use_.streams = use_.streams.saturating_sub(1);
        use_.idle_since = Instant::now();
        drop(use_);
        let mut open = lock(&self.streams.open);
        open.streams.remove(&self.key);
        open.count(&self.stream.peer.node, |count| count.streams = count.streams.saturating_sub(1));
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut open = lock(&self.streams.open);
        open.connections.remove(&self.key);
        open.count(&self.connection.peer.node, |count| count.connections = count.connections.saturating_sub(1));
    }
}

impl Open {
    /// Changes what is counted of a node; one of which nothing is open isn't kept.
    fn count(&mut self, node: &NodeId, change: impl FnOnce(&mut Count)) {
        if let Some(count) = self.of_node.get_mut(node) {
            change(count);
            if count.streams == 0 && count.connections == 0 {
                self.of_node.remove(node);
            }
        }
    }
}

impl Connection {
    /// Ends it, and every stream on it.
    pub fn end(&self) {
        self.end.cancel();
    }

    /// Resolves when it is to end.
    pub fn ended(&self) -> WaitForCancellationFuture<'_> {
        self.end.cancelled()
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
    /// Adds a connection for as long as its place lives, if there is room.
    ///
    /// # Errors
    /// There are `most` already, or `most_of_node` of this node.
    pub fn connect(self: &Arc<Self>, peer: Peer, most: usize, most_of_node: usize) -> Result<Place, Full> {
        let key = self.next.fetch_add(1, Ordering::Relaxed);
        let mut open = lock(&self.open);
        if open.connections.len() >= most {
            return Err(Full::All);
        }
        if open.of_node.get(&peer.node).is_some_and(|count| count.connections >= most_of_node) {
            return Err(Full::OfNode);
        }
        open.of_node.entry(peer.node.clone()).or_default().connections += 1;
        let use_ = Mutex::new(Use { streams: 0, idle_since: Instant::now() });
        let connection = Arc::new(Connection { peer: Arc::new(peer), use_, end: CancellationToken::new() });
        open.connections.insert(key, Arc::clone(&connection));
        Ok(Place { streams: Arc::clone(self), key, connection })
    }

    /// Adds a stream for as long as the registration lives; `None` if there are `most` of its node already.
    pub fn register(
        self: &Arc<Self>,
        connection: &Arc<Connection>,
        session: Session,
        since: i64,
        cancel: CancellationToken,
        most: usize,
    ) -> Option<Registration> {
        let key = self.next.fetch_add(1, Ordering::Relaxed);
        let peer = Arc::clone(&connection.peer);
        let mut open = lock(&self.open);
        let count = open.of_node.entry(peer.node.clone()).or_default();
        if count.streams >= most {
            return None;
        }
        count.streams += 1;
        let stream = Arc::new(Stream { peer, since, session: Mutex::new(session), client: Mutex::default(), cancel });
        open.streams.insert(key, Arc::clone(&stream));
        drop(open);
        lock(&connection.use_).streams += 1;
        Some(Registration { streams: Arc::clone(self), key, connection: Arc::clone(connection), stream })
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
        open.streams.values().filter(|stream| those(&stream.peer)).for_each(|stream| stream.cancel.cancel());
        open.connections.values().filter(|connection| those(&connection.peer)).for_each(|connection| connection.end());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use atlas_core::xds::session::Variant;

    fn peer(node: &str) -> Peer {
        Peer {
            node: node.parse().unwrap(),
            spiffe_id: String::new(),
            fingerprint: node.into(),
            not_after: i64::MAX,
            address: ([127, 0, 0, 1], 1).into(),
        }
    }

    #[test]
    fn one_node_cannot_take_everybodys_place() {
        let streams = Arc::new(Streams::default());
        let places: Vec<Place> = (0..3).map(|_| streams.connect(peer("tokyo"), 5, 3).unwrap_or_else(|_| panic!("room"))).collect();
        assert!(matches!(streams.connect(peer("tokyo"), 5, 3), Err(Full::OfNode)));
        let _paris = streams.connect(peer("paris"), 5, 3).unwrap_or_else(|_| panic!("room"));
        let _hub = streams.connect(peer("hub"), 5, 3).unwrap_or_else(|_| panic!("room"));
        assert!(matches!(streams.connect(peer("oslo"), 5, 3), Err(Full::All)));
        drop(places);
        assert_eq!(streams.connections(), 2);
        assert!(streams.connect(peer("tokyo"), 5, 3).is_ok());
        assert_eq!(lock(&streams.open).of_node.len(), 2, "who is gone isn't counted any more");
    }

    #[test]
    fn whoever_ends_a_node_ends_its_connections_without_streams_too() {
        let streams = Arc::new(Streams::default());
        let connect = |node| streams.connect(peer(node), 9, 9).unwrap_or_else(|_| panic!("room"));
        let (busy, idle, other) = (connect("tokyo"), connect("tokyo"), connect("paris"));
        let session = || Session::new(Variant::Delta, None);
        let stream = streams.register(&busy.connection, session(), 0, CancellationToken::new(), 1).unwrap();
        assert!(streams.register(&idle.connection, session(), 0, CancellationToken::new(), 1).is_none(), "one stream per node");
        streams.end(&"tokyo".parse().unwrap());
        assert!(stream.stream.cancel.is_cancelled() && busy.connection.end.is_cancelled() && idle.connection.end.is_cancelled());
        assert!(!other.connection.end.is_cancelled());
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_is_idle_when_its_last_stream_has_been_gone_for_long_enough() {
        let streams = Arc::new(Streams::default());
        let place = streams.connect(peer("tokyo"), 9, 9).unwrap_or_else(|_| panic!("room"));
        let begin = Instant::now();
        place.connection.idle(Duration::from_secs(60)).await;
        assert_eq!(begin.elapsed(), Duration::from_secs(60));
        let stream = streams.register(&place.connection, Session::new(Variant::Delta, None), 0, CancellationToken::new(), 9);
        let end = async {
            tokio::time::sleep(Duration::from_secs(150)).await;
            drop(stream);
        };
        let begin = Instant::now();
        tokio::join!(end, place.connection.idle(Duration::from_secs(60)));
        assert!((210..=211).contains(&begin.elapsed().as_secs()), "{:?}", begin.elapsed());
    }
}

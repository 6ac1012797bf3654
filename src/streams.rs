//! The open xDS streams: who is connected, and how each stands.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use atlas_core::name::NodeId;
use atlas_core::xds::session::Session;
use tokio_util::sync::CancellationToken;

use crate::lock::lock;
use crate::tls::Peer;

/// One open stream.
pub struct Stream {
    /// Who is at the other end.
    pub peer: Peer,
    /// Since when, in seconds since 1970.
    pub since: i64,
    /// Its conversation.
    pub session: Mutex<Session>,
    /// What the Envoy says of itself.
    pub client: Mutex<Client>,
    /// Ends it.
    pub cancel: CancellationToken,
}

/// What an Envoy says of itself: for display, never for authorisation.
#[derive(Clone, Debug, Default)]
pub struct Client {
    /// `node.id`.
    pub id: String,
    /// Its version, e.g. `1.40.0`.
    pub version: String,
}

/// All open streams.
#[derive(Default)]
pub struct Streams {
    next: AtomicU64,
    open: Mutex<BTreeMap<u64, Arc<Stream>>>,
}

/// Removes its stream from the list when dropped.
pub struct Registration {
    streams: Arc<Streams>,
    key: u64,
    /// The stream itself.
    pub stream: Arc<Stream>,
}

impl Drop for Registration {
    fn drop(&mut self) {
        lock(&self.streams.open).remove(&self.key);
    }
}

impl Streams {
    /// Adds a stream for as long as the registration lives.
    pub fn register(self: &Arc<Self>, peer: Peer, since: i64, cancel: CancellationToken) -> Registration {
        let key = self.next.fetch_add(1, Ordering::Relaxed);
        let stream = Arc::new(Stream { peer, since, session: Mutex::default(), client: Mutex::default(), cancel });
        lock(&self.open).insert(key, Arc::clone(&stream));
        Registration { streams: Arc::clone(self), key, stream }
    }

    /// Those open now, in order of opening.
    pub fn open(&self) -> Vec<Arc<Stream>> {
        lock(&self.open).values().cloned().collect()
    }

    /// Ends a node's streams and the connections that they came on.
    pub fn end(&self, node: &NodeId) {
        for stream in self.open().iter().filter(|stream| stream.peer.node == *node) {
            stream.cancel.cancel();
            stream.peer.connection.cancel();
        }
    }
}

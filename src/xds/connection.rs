//! An open connection of an authenticated client: what is known of it, and how it is told to close.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, WaitForCancellationFuture};

use super::client::AuthenticatedClient;
use crate::process::lock::lock;

/// How long a connection without a stream counts as used. An Envoy opens its stream at once.
pub const STREAM_GRACE: Duration = Duration::from_secs(5);

/// One open connection.
pub struct Connection {
    /// Who is at the other end.
    pub client: Arc<AuthenticatedClient>,
    opened: Instant,
    /// When the client last sent anything, in milliseconds after `opened`.
    last_received: AtomicU64,
    usage: Mutex<ConnectionUsage>,
    close_requested: CancellationToken,
    close_reason: OnceLock<CloseReason>,
    /// Cancelled when the connection has closed and its memory is free.
    closed: CancellationToken,
}

struct ConnectionUsage {
    streams: usize,
    /// When the last stream ended.
    idle_since: Instant,
}

/// Why Atlas closes a connection early.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CloseReason {
    /// Its credential is no longer accepted.
    Credential,
    /// Another connection takes its place.
    Replaced(LimitReached),
    /// One of its streams used too much memory, or asked for more without reading. What HTTP/2
    /// has buffered for it is only freed with the connection.
    Memory,
}

/// Which limit of connections is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LimitReached {
    /// The limit of all connections.
    Total,
    /// The limit of the node's connections.
    PerNode,
}

impl LimitReached {
    /// The value of the metric's label.
    pub fn metric_label(self) -> &'static str {
        match self {
            Self::Total => "connections",
            Self::PerNode => "connections_per_node",
        }
    }
}

impl Connection {
    /// A connection that has just been opened.
    pub fn new(client: AuthenticatedClient) -> Self {
        let opened = Instant::now();
        Self {
            client: Arc::new(client),
            opened,
            last_received: AtomicU64::new(0),
            usage: Mutex::new(ConnectionUsage { streams: 0, idle_since: opened }),
            close_requested: CancellationToken::new(),
            close_reason: OnceLock::new(),
            closed: CancellationToken::new(),
        }
    }

    /// Notes that the client has just sent something, be it a keepalive.
    pub fn note_received(&self) {
        let milliseconds = u64::try_from(self.opened.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last_received.store(milliseconds, Ordering::Relaxed);
    }

    /// Notes that a stream has been opened.
    pub fn note_stream_opened(&self) {
        lock(&self.usage).streams += 1;
    }

    /// Notes that a stream has ended.
    pub fn note_stream_ended(&self) {
        let mut usage = lock(&self.usage);
        usage.streams = usage.streams.saturating_sub(1);
        usage.idle_since = Instant::now();
    }

    /// Notes that the connection has closed.
    pub fn note_closed(&self) {
        self.closed.cancel();
    }

    /// Whether it has a stream, or is so new that it may still open one.
    pub fn is_used(&self, now: Instant) -> bool {
        let usage = lock(&self.usage);
        usage.streams > 0 || now.saturating_duration_since(usage.idle_since) < STREAM_GRACE
    }

    /// Orders connections by how much they are worth keeping: used ones after unused ones, and then
    /// by when the client last sent anything.
    pub fn keep_priority(&self, now: Instant) -> (bool, Instant) {
        let last_received = Duration::from_millis(self.last_received.load(Ordering::Relaxed));
        (self.is_used(now), self.opened + last_received)
    }

    /// Closes the connection and its streams. The first reason is kept.
    pub fn close(&self, reason: CloseReason) {
        let _ = self.close_reason.set(reason);
        self.close_requested.cancel();
    }

    /// Waits until [`Connection::close`] is called.
    pub fn close_requested(&self) -> WaitForCancellationFuture<'_> {
        self.close_requested.cancelled()
    }

    /// Waits until the connection has closed.
    pub fn closed(&self) -> WaitForCancellationFuture<'_> {
        self.closed.cancelled()
    }

    /// The reason that [`Connection::close`] was called with.
    pub fn close_reason(&self) -> Option<CloseReason> {
        self.close_reason.get().copied()
    }

    /// Waits until the connection has had no stream for `timeout`.
    pub async fn idle_for(&self, timeout: Duration) {
        loop {
            let idle_since = {
                let usage = lock(&self.usage);
                if usage.streams > 0 { Instant::now() } else { usage.idle_since }
            };
            let deadline = idle_since + timeout;
            if deadline <= Instant::now() {
                return;
            }
            tokio::time::sleep_until(deadline).await;
        }
    }
}

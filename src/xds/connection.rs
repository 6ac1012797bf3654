//! One HTTP/2 connection: served until it has no stream, its certificate ends, or it is told to.

use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};

use super::Xds;
use super::limits::STREAMS_PER_CONNECTION;
use super::service::OnConnection;
use super::wire::PIECE;
use crate::clock;
use crate::serve::DRAIN;
use crate::streams::Place;

/// A peer that is gone without a word is noticed after both of these.
const KEEPALIVE: Duration = Duration::from_secs(30);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);
/// So much of requests may be on its way on one stream, and on one connection: a client whose requests nobody reads (there is
/// nothing to answer with yet) costs no more. Requests are small; an Envoy that lists 15,000 resources needs some twenty turns.
const STREAM_WINDOW: u32 = 64 << 10;
const CONNECTION_WINDOW: u32 = 128 << 10;
/// Largest head of a request, in bytes. An Envoy's has some 300.
const HEAD: u32 = 8 << 10;
/// Streams that a client has reset before they were looked at, and those that Atlas has reset for what the client did wrong:
/// more of either, and the connection ends ("rapid reset", CVE-2023-44487).
const RESETS: usize = 16;
/// For so long what has been told to end may still say why.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Why a connection ends that the client would have kept.
enum End {
    /// It has no stream.
    Idle,
    /// Its certificate ends.
    Certificate,
    /// Its credential counts no more.
    Refused,
    /// Atlas stops.
    Stopping,
}

/// Serves a connection to its end.
pub async fn serve(io: impl AsyncRead + AsyncWrite + Send + Unpin + 'static, place: Place, xds: Arc<Xds>) {
    let connection = Arc::clone(&place.connection);
    let service = OnConnection { xds: Arc::clone(&xds), connection: Arc::clone(&connection) };
    let http = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .keep_alive_interval(KEEPALIVE)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT)
        .max_concurrent_streams(STREAMS_PER_CONNECTION)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_header_list_size(HEAD)
        // No table of headers to remember between requests: a connection sees one or two of them.
        .header_table_size(0)
        .max_pending_accept_reset_streams(RESETS)
        .max_local_error_reset_streams(RESETS)
        // Most that waits for a client that doesn't read, beside the piece that is being made.
        .max_send_buf_size(PIECE)
        .serve_connection(TokioIo::new(io), service);
    tokio::pin!(http);
    let left = Duration::from_secs(u64::try_from(connection.peer.not_after - clock::now()).unwrap_or(0));
    let end = tokio::select! {
        result = http.as_mut() => {
            if let Err(error) = result {
                tracing::debug!(node = %connection.peer.node, address = %connection.peer.address, %error, "a connection ended badly");
            }
            return;
        }
        () = connection.ended() => End::Refused,
        () = connection.idle(xds.limits.idle) => End::Idle,
        () = tokio::time::sleep(left) => End::Certificate,
        () = xds.drain.cancelled() => End::Stopping,
    };
    let (reason, patience) = match end {
        End::Idle => ("idle", LAST_WORDS),
        End::Certificate => ("certificate", LAST_WORDS),
        End::Refused => ("credential", LAST_WORDS),
        End::Stopping => ("stopping", DRAIN),
    };
    xds.metrics.connection_ended(reason);
    tracing::info!(node = %connection.peer.node, address = %connection.peer.address, reason, "ending a connection");
    http.as_mut().graceful_shutdown();
    // Its streams end by themselves, for the same reason; the client has so long to hear of it.
    let _ = tokio::time::timeout(patience, http).await;
}

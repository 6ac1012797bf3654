//! One HTTP/2 connection: served until it has no stream, its certificate ends, or it is told to.

use std::io::{Error, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::server::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::Xds;
use super::limits::STREAMS_PER_CONNECTION;
use super::service::OnConnection;
use super::wire::PIECE;
use crate::process::clock;
use crate::process::serve::DRAIN;
use crate::xds::streams::{Cause, Connection, Full, Place};

/// A peer that is gone without a word is noticed after both of these.
const KEEPALIVE: Duration = Duration::from_secs(30);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);
/// So much of requests may be on its way on one stream, and on one connection: a client whose requests nobody reads (there is
/// nothing to answer with yet) costs no more. Requests are small; an Envoy that lists 50,000 resources needs some eighty turns.
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
    /// It was told to.
    Told(Cause),
    /// Atlas stops.
    Stopping,
}

/// Serves a connection to its end.
pub async fn serve(
    io: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    place: Place,
    xds: Arc<Xds>,
) {
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
        .serve_connection(TokioIo::new(Heard { io, connection: Arc::clone(&connection) }), service);
    tokio::pin!(http);
    let left =
        Duration::from_secs(u64::try_from(connection.peer.not_after - clock::now()).unwrap_or(0));
    let end = tokio::select! {
        result = http.as_mut() => {
            if let Err(error) = result {
                tracing::debug!(node = %connection.peer.node, address = %connection.peer.address, %error, "a connection ended badly");
            }
            return;
        }
        () = connection.ended() => End::Told(connection.cause().unwrap_or(Cause::Credential)),
        () = connection.idle(xds.limits.idle) => End::Idle,
        () = tokio::time::sleep(left) => End::Certificate,
        () = xds.drain.cancelled() => End::Stopping,
    };
    let (reason, patience) = match end {
        End::Idle => ("idle", LAST_WORDS),
        End::Certificate => ("certificate", LAST_WORDS),
        End::Told(Cause::Credential) => ("credential", LAST_WORDS),
        End::Told(Cause::Memory) => ("memory", LAST_WORDS),
        // Who takes its place waits until it is gone.
        End::Told(Cause::Replaced(full)) => return replaced(&connection, full, &xds),
        End::Stopping => ("stopping", DRAIN),
    };
    xds.metrics.connection_ended(reason);
    tracing::info!(node = %connection.peer.node, address = %connection.peer.address, reason, "ending a connection");
    http.as_mut().graceful_shutdown();
    // Its streams end by themselves, for the same reason; the client has so long to hear of it.
    let _ = tokio::time::timeout(patience, http).await;
}

fn replaced(connection: &Connection, full: Full, xds: &Xds) {
    let limit = full.limit();
    xds.metrics.connection_dropped(limit);
    tracing::debug!(node = %connection.peer.node, address = %connection.peer.address, limit, "a connection makes room for another");
}

/// A connection of which it is noted when its client last said anything.
struct Heard<I> {
    io: I,
    connection: Arc<Connection>,
}

impl<I: AsyncRead + Unpin> AsyncRead for Heard<I> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<Result<(), Error>> {
        let read = Pin::new(&mut self.io).poll_read(cx, buf);
        if read.is_ready() {
            self.connection.hears();
        }
        read
    }
}

impl<I: AsyncWrite + Unpin> AsyncWrite for Heard<I> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<Result<usize, Error>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<Result<usize, Error>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

//! Serves HTTP/2 on one connection: until it has had no stream for too long, its certificate
//! expires, it is told to close, or Atlas stops.

use std::io::{Error, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::server::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::connection::{CloseReason, Connection, LimitReached};
use super::limits::STREAMS_PER_CONNECTION;
use super::open_streams::RegisteredConnection;
use super::response_encoder::CHUNK_BYTES;
use super::server::XdsServer;
use super::service::ConnectionService;
use crate::process::clock;
use crate::process::shutdown::DRAIN_TIMEOUT;

/// A client whose link was cut is noticed after both of these times.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(30);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);
/// Flow-control windows, in bytes: how much of its requests a client may send before Atlas reads
/// them. Requests aren't read while the node has no resources yet. Requests are small; an Envoy
/// that lists 50,000 resources needs some eighty windows.
const STREAM_WINDOW: u32 = 64 << 10;
const CONNECTION_WINDOW: u32 = 128 << 10;
/// Largest request headers, in bytes. An Envoy's have some 300.
const MAX_HEADER_BYTES: u32 = 8 << 10;
/// How many streams a client may reset before Atlas has looked at them, and how many Atlas may
/// reset for protocol errors of the client. One more of either ends the connection ("rapid reset",
/// CVE-2023-44487).
const MAX_RESETS: usize = 16;
/// How long a connection that closes may take to tell the client why.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// Why Atlas ends a connection.
enum ConnectionEnd {
    /// It has had no stream for too long.
    Idle,
    /// Its certificate has expired.
    Certificate,
    /// [`Connection::close`] was called.
    Closed(CloseReason),
    /// Atlas stops.
    Stopping,
}

/// Serves a connection until it ends.
pub async fn serve(
    io: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    registered: RegisteredConnection,
    server: Arc<XdsServer>,
) {
    let connection = Arc::clone(&registered.connection);
    let client = Arc::clone(&connection.client);
    let service =
        ConnectionService { server: Arc::clone(&server), connection: Arc::clone(&connection) };
    let io = ReceiveNotingIo { io, connection: Arc::clone(&connection) };
    let http = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .keep_alive_interval(KEEPALIVE_INTERVAL)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT)
        .max_concurrent_streams(STREAMS_PER_CONNECTION)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_header_list_size(MAX_HEADER_BYTES)
        // No HPACK table: a connection has one or two requests, so it would only cost memory.
        .header_table_size(0)
        .max_pending_accept_reset_streams(MAX_RESETS)
        .max_local_error_reset_streams(MAX_RESETS)
        // Bytes that are buffered for a client that doesn't read.
        .max_send_buf_size(CHUNK_BYTES)
        .serve_connection(TokioIo::new(io), service);
    tokio::pin!(http);
    let seconds_left = u64::try_from(client.not_after - clock::now()).unwrap_or(0);
    let end = tokio::select! {
        result = http.as_mut() => {
            if let Err(error) = result {
                let (node, address) = (&client.node, client.address);
                tracing::debug!(%node, %address, %error, "a connection ended with an error");
            }
            return;
        }
        () = connection.close_requested() => {
            ConnectionEnd::Closed(connection.close_reason().unwrap_or(CloseReason::Credential))
        }
        () = connection.idle_for(server.limits.idle_timeout) => ConnectionEnd::Idle,
        () = tokio::time::sleep(Duration::from_secs(seconds_left)) => ConnectionEnd::Certificate,
        () = server.drain.cancelled() => ConnectionEnd::Stopping,
    };
    let (reason, timeout) = match end {
        ConnectionEnd::Idle => ("idle", CLOSE_TIMEOUT),
        ConnectionEnd::Certificate => ("certificate", CLOSE_TIMEOUT),
        ConnectionEnd::Closed(CloseReason::Credential) => ("credential", CLOSE_TIMEOUT),
        ConnectionEnd::Closed(CloseReason::Memory) => ("memory", CLOSE_TIMEOUT),
        // Closed at once, since the connection that replaces it waits for that.
        ConnectionEnd::Closed(CloseReason::Replaced(limit)) => {
            return report_replaced(&connection, limit, &server);
        }
        ConnectionEnd::Stopping => ("stopping", DRAIN_TIMEOUT),
    };
    server.metrics.connection_ended(reason);
    tracing::info!(node = %client.node, address = %client.address, reason, "ending a connection");
    http.as_mut().graceful_shutdown();
    // The streams end by themselves, for the same reason.
    let _ = tokio::time::timeout(timeout, http).await;
}

fn report_replaced(connection: &Connection, limit: LimitReached, server: &XdsServer) {
    let limit = limit.metric_label();
    server.metrics.connection_dropped(limit);
    let (node, address) = (&connection.client.node, connection.client.address);
    tracing::debug!(%node, %address, limit, "closed a connection for another one");
}

/// Notes on the [`Connection`] when its client sends anything.
struct ReceiveNotingIo<I> {
    io: I,
    connection: Arc<Connection>,
}

impl<I: AsyncRead + Unpin> AsyncRead for ReceiveNotingIo<I> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<Result<(), Error>> {
        let read = Pin::new(&mut self.io).poll_read(cx, buf);
        if read.is_ready() {
            self.connection.note_received();
        }
        read
    }
}

impl<I: AsyncWrite + Unpin> AsyncWrite for ReceiveNotingIo<I> {
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

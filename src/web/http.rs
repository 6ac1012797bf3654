//! An HTTP/1.1 server with limits that axum's own server lacks: of the number of connections, of
//! the size of request headers, and of the time that headers may take to arrive and a response to
//! be read.

use std::future::Future;
use std::io::{Error, ErrorKind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::serve::Listener;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::metrics::Metrics;
use crate::process::connection_limiter::{ConnectionLimiter, Permit};

#[derive(Clone, Copy, Debug)]
struct PortLimits {
    /// Open connections. The clients are the kubelet, a few Prometheus and the hub's Envoys. One
    /// more connection closes the oldest.
    connections: usize,
    /// A connection whose next request headers haven't arrived after this time is closed.
    header_timeout: Duration,
    /// A connection whose client reads nothing for this long is closed.
    write_timeout: Duration,
}

const PORT_LIMITS: PortLimits = PortLimits {
    connections: 256,
    header_timeout: Duration::from_secs(10),
    write_timeout: Duration::from_secs(10),
};

/// Largest request headers, in bytes: as large as those that the hub's Envoy passes on. hyper's
/// default is a buffer of 408 KiB for each connection.
const MAX_HEADER_BYTES: usize = 64 << 10;
/// How long a request may still take when Atlas stops.
const STOP_TIMEOUT: Duration = Duration::from_secs(2);

/// What [`serve`] needs beside the listener.
pub struct HttpServer {
    /// The routes that are served.
    pub router: Router,
    /// The value of the metric's label.
    pub port: &'static str,
    pub metrics: Arc<Metrics>,
    /// Cancelled to stop the server.
    pub stop: CancellationToken,
}

/// Serves until `stop` is cancelled; then closes each connection after its current request.
pub async fn serve(listener: impl Listener, server: HttpServer) {
    serve_with_limits(PORT_LIMITS, listener, server).await;
}

async fn serve_with_limits(limits: PortLimits, mut listener: impl Listener, server: HttpServer) {
    let HttpServer { router, port, metrics, stop } = server;
    let limiter = ConnectionLimiter::new(limits.connections, Duration::ZERO);
    let connections = TaskTracker::new();
    loop {
        let (io, _) = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stop.cancelled() => break,
        };
        let (permit, revoked_another) = limiter.acquire().await;
        if revoked_another {
            metrics.port_connection_dropped(port);
            tracing::debug!(port, "closed the oldest HTTP connection for another one");
        }
        connections.spawn(serve_connection(limits, io, router.clone(), permit, stop.clone()));
    }
    connections.close();
    connections.wait().await;
}

async fn serve_connection<I>(
    limits: PortLimits,
    io: I,
    router: Router,
    permit: Permit,
    stop: CancellationToken,
) where
    I: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let service = TowerToHyperService::new(router);
    let io = TokioIo::new(WriteTimeoutIo { io, timeout: limits.write_timeout, blocked: None });
    let mut http = http1::Builder::new();
    let connection = http
        .timer(TokioTimer::new())
        .header_read_timeout(limits.header_timeout)
        .max_buf_size(MAX_HEADER_BYTES)
        .serve_connection(io, service);
    tokio::pin!(connection);
    let result = tokio::select! {
        result = connection.as_mut() => result,
        () = permit.revoked.cancelled() => return,
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            match tokio::time::timeout(STOP_TIMEOUT, connection).await {
                Ok(result) => result,
                Err(_) => return,
            }
        }
    };
    if let Err(error) = result {
        tracing::debug!(%error, "an HTTP connection ended with an error");
    }
}

/// A socket on which a write fails that has been blocked for longer than `timeout`, because the
/// client doesn't read.
struct WriteTimeoutIo<I> {
    io: I,
    timeout: Duration,
    /// The end of the timeout, while a write is blocked.
    blocked: Option<Pin<Box<Sleep>>>,
}

impl<I> WriteTimeoutIo<I> {
    fn with_timeout<T>(
        &mut self,
        cx: &mut Context<'_>,
        written: Poll<Result<T, Error>>,
    ) -> Poll<Result<T, Error>> {
        if written.is_ready() {
            self.blocked = None;
            return written;
        }
        let timeout =
            self.blocked.get_or_insert_with(|| Box::pin(tokio::time::sleep(self.timeout)));
        timeout
            .as_mut()
            .poll(cx)
            .map(|()| Err(Error::new(ErrorKind::TimedOut, "the client doesn't read")))
    }
}

impl<I: AsyncRead + Unpin> AsyncRead for WriteTimeoutIo<I> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<Result<(), Error>> {
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl<I: AsyncWrite + Unpin> AsyncWrite for WriteTimeoutIo<I> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<Result<usize, Error>> {
        let written = Pin::new(&mut self.io).poll_write(cx, buf);
        self.with_timeout(cx, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[std::io::IoSlice<'_>],
    ) -> Poll<Result<usize, Error>> {
        let written = Pin::new(&mut self.io).poll_write_vectored(cx, bufs);
        self.with_timeout(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        let flushed = Pin::new(&mut self.io).poll_flush(cx);
        self.with_timeout(cx, flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::routing::get;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
    use tokio::time::{Instant, timeout};

    const SECOND: Duration = Duration::from_secs(1);
    const GET: &[u8] = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n";

    /// A server whose response has so many bytes.
    fn server(bytes: usize) -> HttpServer {
        let router = Router::new().route("/", get(move || async move { "x".repeat(bytes) }));
        HttpServer {
            router,
            port: "web",
            metrics: Arc::new(Metrics::new()),
            stop: CancellationToken::new(),
        }
    }

    /// Starts a server whose response has so many bytes.
    async fn start(limits: PortLimits, bytes: usize) -> std::net::SocketAddr {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(serve_with_limits(limits, listener, server(bytes)));
        address
    }

    /// Waits until the server has closed the connection; returns how many bytes came before.
    async fn closed(io: &mut (impl AsyncRead + Unpin)) -> usize {
        let (mut all, mut buffer) = (0, [0; 65_536]);
        let reading = async {
            while let Ok(n @ 1..) = io.read(&mut buffer).await {
                all += n;
            }
        };
        timeout(10 * SECOND, reading).await.expect("the server closes it");
        all
    }

    #[tokio::test]
    async fn silent_clients_are_closed_before_and_after_a_request() {
        let address = start(PortLimits { header_timeout: SECOND / 4, ..PORT_LIMITS }, 10).await;
        let mut silent = TcpStream::connect(address).await.unwrap();
        assert_eq!(closed(&mut silent).await, 0);
        let mut once = TcpStream::connect(address).await.unwrap();
        once.write_all(GET).await.unwrap();
        assert!(closed(&mut once).await > 10);
    }

    #[tokio::test]
    async fn a_client_that_does_not_read_is_closed() {
        const BYTES: usize = 64 << 20;
        let address = start(PortLimits { write_timeout: SECOND / 4, ..PORT_LIMITS }, BYTES).await;
        let mut lazy = TcpStream::connect(address).await.unwrap();
        lazy.write_all(GET).await.unwrap();
        tokio::time::sleep(SECOND).await;
        assert!(closed(&mut lazy).await < BYTES, "the rest never came");
        let mut eager = TcpStream::connect(address).await.unwrap();
        eager.write_all(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await.unwrap();
        assert!(closed(&mut eager).await > BYTES);
    }

    /// Opens four connections, which are as many as there may be, and then one more.
    async fn five_for_four<I: AsyncRead + AsyncWrite + Unpin>(connect: impl AsyncFn() -> I) {
        let mut taken = Vec::new();
        for _ in 0..4 {
            taken.push(connect().await);
        }
        // Once the last one is answered, all of them have been accepted.
        let mut last = taken.pop().unwrap();
        last.write_all(GET).await.unwrap();
        assert!(last.read(&mut [0; 1000]).await.unwrap() > 0);
        let begin = Instant::now();
        let mut probe = connect().await;
        probe.write_all(GET).await.unwrap();
        assert!(timeout(5 * SECOND, probe.read(&mut [0; 1000])).await.unwrap().unwrap() > 0);
        assert_eq!(closed(&mut taken[0]).await, 0, "the oldest");
        assert!(begin.elapsed() < 5 * SECOND, "at once, not after the timeout");
    }

    #[tokio::test]
    async fn the_oldest_connections_are_closed_for_new_ones() {
        let address = start(PortLimits { connections: 4, ..PORT_LIMITS }, 10).await;
        five_for_four(async || TcpStream::connect(address).await.unwrap()).await;
    }

    #[tokio::test]
    async fn connections_to_a_unix_socket_are_limited_and_counted_too() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        let server = server(10);
        let metrics = Arc::clone(&server.metrics);
        tokio::spawn(serve_with_limits(
            PortLimits { connections: 4, ..PORT_LIMITS },
            UnixListener::bind(&path).unwrap(),
            server,
        ));
        five_for_four(async || UnixStream::connect(&path).await.unwrap()).await;
        assert!(
            metrics.render().contains("atlas_port_connections_dropped_total{port=\"web\"} 1"),
            "{}",
            metrics.render()
        );
    }

    #[tokio::test]
    async fn endless_headers_are_refused_before_they_take_memory() {
        let address = start(PORT_LIMITS, 10).await;
        let mut long = TcpStream::connect(address).await.unwrap();
        long.write_all(b"GET / HTTP/1.1\r\nHost: ").await.unwrap();
        // It is refused, and the connection is closed.
        let writing = async { while long.write_all(&[b'x'; 4096]).await.is_ok() {} };
        timeout(5 * SECOND, writing).await.expect("the server reads no further");
    }
}

//! An HTTP/1.1 server with what a public port needs and axum's own lacks: a limit of connections, of the length of a request's head, and
//! of the time that it may take to arrive and an answer to be read.

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

/// What one port takes.
#[derive(Clone, Copy, Debug)]
struct Bounds {
    /// Connections at a time: the kubelet, some Prometheus, the hub's Envoys. One more ends the oldest, so nobody can take all
    /// places and keep them.
    connections: usize,
    /// A request's head that hasn't arrived by then ends the connection, also where none has begun.
    head: Duration,
    /// A client that reads nothing for so long is gone.
    write: Duration,
}

const BOUNDS: Bounds =
    Bounds { connections: 256, head: Duration::from_secs(10), write: Duration::from_secs(10) };

/// Longest head of a request, in bytes: such as the hub's Envoy passes on. hyper's default is 408 KiB for each connection.
const HEAD: usize = 64 << 10;
/// How long a request may still take when Atlas stops.
const LAST_REQUEST: Duration = Duration::from_secs(2);

/// Who serves, for the metric, and for how long.
pub struct Server {
    /// What is served.
    pub router: Router,
    /// The port's name, for the metric.
    pub port: &'static str,
    /// Counts.
    pub metrics: Arc<Metrics>,
    /// Ends it.
    pub stop: CancellationToken,
}

/// Serves until told to stop; then ends each connection after the request it is at.
pub async fn serve(listener: impl Listener, server: Server) {
    serve_within(BOUNDS, listener, server).await;
}

async fn serve_within(bounds: Bounds, mut listener: impl Listener, server: Server) {
    let Server { router, port, metrics, stop } = server;
    let room = ConnectionLimiter::new(bounds.connections, Duration::ZERO);
    let connections = TaskTracker::new();
    loop {
        let (io, _) = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stop.cancelled() => break,
        };
        let (guest, another_left) = room.enter().await;
        if another_left {
            metrics.port_connection_dropped(port);
            tracing::debug!(port, "too many HTTP connections: the oldest goes");
        }
        connections.spawn(serve_connection(bounds, io, router.clone(), guest, stop.clone()));
    }
    connections.close();
    connections.wait().await;
}

async fn serve_connection<I>(
    bounds: Bounds,
    io: I,
    router: Router,
    guest: Permit,
    stop: CancellationToken,
) where
    I: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let service = TowerToHyperService::new(router);
    let io = TokioIo::new(Impatient { io, longest: bounds.write, stuck: None });
    let mut http = http1::Builder::new();
    let connection = http
        .timer(TokioTimer::new())
        .header_read_timeout(bounds.head)
        .max_buf_size(HEAD)
        .serve_connection(io, service);
    tokio::pin!(connection);
    let result = tokio::select! {
        result = connection.as_mut() => result,
        () = guest.leave.cancelled() => return,
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            match tokio::time::timeout(LAST_REQUEST, connection).await {
                Ok(result) => result,
                Err(_) => return,
            }
        }
    };
    if let Err(error) = result {
        tracing::debug!(%error, "an HTTP connection ended badly");
    }
}

/// A socket whose other end must go on reading.
struct Impatient<I> {
    io: I,
    longest: Duration,
    /// Until when something must have been read; there since nothing more could be written.
    stuck: Option<Pin<Box<Sleep>>>,
}

impl<I> Impatient<I> {
    fn judge<T>(
        &mut self,
        cx: &mut Context<'_>,
        written: Poll<Result<T, Error>>,
    ) -> Poll<Result<T, Error>> {
        if written.is_ready() {
            self.stuck = None;
            return written;
        }
        let stuck = self.stuck.get_or_insert_with(|| Box::pin(tokio::time::sleep(self.longest)));
        stuck
            .as_mut()
            .poll(cx)
            .map(|()| Err(Error::new(ErrorKind::TimedOut, "the client doesn't read")))
    }
}

impl<I: AsyncRead + Unpin> AsyncRead for Impatient<I> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<Result<(), Error>> {
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl<I: AsyncWrite + Unpin> AsyncWrite for Impatient<I> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<Result<usize, Error>> {
        let written = Pin::new(&mut self.io).poll_write(cx, buf);
        self.judge(cx, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[std::io::IoSlice<'_>],
    ) -> Poll<Result<usize, Error>> {
        let written = Pin::new(&mut self.io).poll_write_vectored(cx, bufs);
        self.judge(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        let flushed = Pin::new(&mut self.io).poll_flush(cx);
        self.judge(cx, flushed)
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

    /// What answers with so many bytes.
    fn server(bytes: usize) -> Server {
        let router = Router::new().route("/", get(move || async move { "x".repeat(bytes) }));
        Server {
            router,
            port: "web",
            metrics: Arc::new(Metrics::new()),
            stop: CancellationToken::new(),
        }
    }

    /// A server whose answer has so many bytes.
    async fn start(bounds: Bounds, bytes: usize) -> std::net::SocketAddr {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(serve_within(bounds, listener, server(bytes)));
        address
    }

    /// Resolves when the server has closed the connection; returns what came before.
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
    async fn who_says_nothing_is_cut_before_and_after_a_request() {
        let address = start(Bounds { head: SECOND / 4, ..BOUNDS }, 10).await;
        let mut silent = TcpStream::connect(address).await.unwrap();
        assert_eq!(closed(&mut silent).await, 0);
        let mut once = TcpStream::connect(address).await.unwrap();
        once.write_all(GET).await.unwrap();
        assert!(closed(&mut once).await > 10);
    }

    #[tokio::test]
    async fn who_does_not_read_is_cut() {
        const BYTES: usize = 64 << 20;
        let address = start(Bounds { write: SECOND / 4, ..BOUNDS }, BYTES).await;
        let mut lazy = TcpStream::connect(address).await.unwrap();
        lazy.write_all(GET).await.unwrap();
        tokio::time::sleep(SECOND).await;
        assert!(closed(&mut lazy).await < BYTES, "the rest never came");
        let mut eager = TcpStream::connect(address).await.unwrap();
        eager.write_all(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await.unwrap();
        assert!(closed(&mut eager).await > BYTES);
    }

    /// Takes all of four places, and then one more.
    async fn five_for_four<I: AsyncRead + AsyncWrite + Unpin>(connect: impl AsyncFn() -> I) {
        let mut taken = Vec::new();
        for _ in 0..4 {
            taken.push(connect().await);
        }
        // All are in the room when the last one is answered.
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
    async fn who_takes_every_place_loses_them_to_who_comes() {
        let address = start(Bounds { connections: 4, ..BOUNDS }, 10).await;
        five_for_four(async || TcpStream::connect(address).await.unwrap()).await;
    }

    #[tokio::test]
    async fn a_socket_in_a_directory_keeps_nobody_out_either_and_counts_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        let server = server(10);
        let metrics = Arc::clone(&server.metrics);
        tokio::spawn(serve_within(
            Bounds { connections: 4, ..BOUNDS },
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
    async fn a_head_that_never_ends_is_cut_before_it_takes_memory() {
        let address = start(BOUNDS, 10).await;
        let mut long = TcpStream::connect(address).await.unwrap();
        long.write_all(b"GET / HTTP/1.1\r\nHost: ").await.unwrap();
        // It is refused, and then the connection ends.
        let writing = async { while long.write_all(&[b'x'; 4096]).await.is_ok() {} };
        timeout(5 * SECOND, writing).await.expect("not read on");
    }
}

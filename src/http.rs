//! An HTTP/1.1 server with what a public port needs and axum's own lacks: a limit of connections, and of the time that a
//! request may take to arrive and an answer to be read.

use std::future::Future;
use std::io::{Error, ErrorKind};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Sleep;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::room::{Guest, Room};

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

const BOUNDS: Bounds = Bounds { connections: 256, head: Duration::from_secs(10), write: Duration::from_secs(10) };

/// How long a request may still take when Atlas stops.
const LAST_REQUEST: Duration = Duration::from_secs(2);

/// Serves until told to stop; then ends each connection after the request it is at.
pub async fn serve(listener: TcpListener, router: Router, stop: CancellationToken) {
    serve_within(BOUNDS, listener, router, stop).await;
}

async fn serve_within(bounds: Bounds, listener: TcpListener, router: Router, stop: CancellationToken) {
    let room = Room::new(bounds.connections, Duration::ZERO);
    let connections = TaskTracker::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stop.cancelled() => break,
        };
        match accepted {
            Ok((tcp, address)) => {
                let (guest, another_left) = room.enter().await;
                if another_left {
                    tracing::debug!(%address, "too many HTTP connections: the oldest goes");
                }
                connections.spawn(serve_connection(bounds, tcp, router.clone(), guest, stop.clone()));
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
    connections.close();
    connections.wait().await;
}

async fn serve_connection(bounds: Bounds, tcp: TcpStream, router: Router, guest: Guest, stop: CancellationToken) {
    let service = TowerToHyperService::new(router);
    let io = TokioIo::new(Impatient { tcp, longest: bounds.write, stuck: None });
    let connection = http1::Builder::new().timer(TokioTimer::new()).header_read_timeout(bounds.head).serve_connection(io, service);
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
struct Impatient {
    tcp: TcpStream,
    longest: Duration,
    /// Until when something must have been read; there since nothing more could be written.
    stuck: Option<Pin<Box<Sleep>>>,
}

impl Impatient {
    fn judge<T>(&mut self, cx: &mut Context<'_>, written: Poll<Result<T, Error>>) -> Poll<Result<T, Error>> {
        if written.is_ready() {
            self.stuck = None;
            return written;
        }
        let stuck = self.stuck.get_or_insert_with(|| Box::pin(tokio::time::sleep(self.longest)));
        stuck.as_mut().poll(cx).map(|()| Err(Error::new(ErrorKind::TimedOut, "the client doesn't read")))
    }
}

impl AsyncRead for Impatient {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<Result<(), Error>> {
        Pin::new(&mut self.tcp).poll_read(cx, buf)
    }
}

impl AsyncWrite for Impatient {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<Result<usize, Error>> {
        let written = Pin::new(&mut self.tcp).poll_write(cx, buf);
        self.judge(cx, written)
    }

    fn poll_write_vectored(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bufs: &[std::io::IoSlice<'_>]) -> Poll<Result<usize, Error>> {
        let written = Pin::new(&mut self.tcp).poll_write_vectored(cx, bufs);
        self.judge(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.tcp.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        let flushed = Pin::new(&mut self.tcp).poll_flush(cx);
        self.judge(cx, flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Pin::new(&mut self.tcp).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::routing::get;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::time::{Instant, timeout};

    const SECOND: Duration = Duration::from_secs(1);
    const GET: &[u8] = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n";

    /// A server whose answer has so many bytes.
    async fn start(bounds: Bounds, bytes: usize) -> std::net::SocketAddr {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let router = Router::new().route("/", get(move || async move { "x".repeat(bytes) }));
        tokio::spawn(serve_within(bounds, listener, router, CancellationToken::new()));
        address
    }

    /// Resolves when the server has closed the connection; returns what came before.
    async fn closed(tcp: &mut TcpStream) -> usize {
        let (mut all, mut buffer) = (0, [0; 65_536]);
        let reading = async {
            while let Ok(n @ 1..) = tcp.read(&mut buffer).await {
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

    #[tokio::test]
    async fn who_takes_every_place_loses_them_to_who_comes() {
        let address = start(Bounds { connections: 4, ..BOUNDS }, 10).await;
        let mut taken = Vec::new();
        for _ in 0..4 {
            taken.push(TcpStream::connect(address).await.unwrap());
        }
        // All are in the room when the last one is answered.
        let mut last = taken.pop().unwrap();
        last.write_all(GET).await.unwrap();
        assert!(last.read(&mut [0; 1000]).await.unwrap() > 0);
        let begin = Instant::now();
        let mut probe = TcpStream::connect(address).await.unwrap();
        probe.write_all(GET).await.unwrap();
        assert!(timeout(SECOND, probe.read(&mut [0; 1000])).await.unwrap().unwrap() > 0);
        assert_eq!(closed(&mut taken[0]).await, 0, "the oldest");
        assert!(begin.elapsed() < 5 * SECOND, "at once, not after the timeout");
    }
}

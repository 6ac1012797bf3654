//! The source of large and small answers, and their readers.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use atlas_lab::world::Host;
use bytes::Bytes;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Empty, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::client::conn::http2::SendRequest;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::{TcpListener, TcpStream};

use super::super::cost::Times;

/// The path of an endless answer; every other path is answered with [`SMALL`] bytes.
pub(super) const ENDLESS: &str = "/endless";
/// Bytes of a small answer, such as a store's labels.
const SMALL: usize = 1024;
/// Bytes of one write of a large answer.
const PIECE: usize = 16 << 10;
/// HTTP/2 windows of the local connections: so large that they are never the bottleneck.
const LOCAL_WINDOW: u32 = 64 << 20;
/// Between two small requests.
const PAUSE: Duration = Duration::from_millis(100);
/// Time limit of a small answer, which is recorded as its time if it is exceeded.
const PATIENCE: Duration = Duration::from_secs(60);

/// The server behind the cluster's Envoy. Dropping it ends it.
pub(super) struct Source {
    _runtime: tokio::runtime::Runtime,
}

impl Source {
    pub(super) fn start(host: &Host, at: SocketAddr) -> Result<Self> {
        // A socket stays in the network namespace where it was made.
        let listener = host.within(|| {
            let listener = std::net::TcpListener::bind(at)
                .with_context(|| format!("cannot listen at {at}"))?;
            listener.set_nonblocking(true)?;
            Ok(listener)
        })?;
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let listener = runtime.block_on(async { TcpListener::from_std(listener) })?;
        runtime.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let service = hyper::service::service_fn(|request| async move {
                    Ok::<_, Infallible>(answer(&request))
                });
                let mut server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                tokio::spawn(
                    server
                        .max_concurrent_streams(1000)
                        .serve_connection(TokioIo::new(stream), service),
                );
            }
        });
        Ok(Self { _runtime: runtime })
    }
}

fn answer(request: &Request<Incoming>) -> Response<BoxBody<Bytes, Infallible>> {
    if request.uri().path() != ENDLESS {
        return Response::new(Full::new(Bytes::from_static(&[0; SMALL])).boxed());
    }
    let pieces = tokio_stream::iter(std::iter::repeat_with(|| {
        Ok(Frame::data(Bytes::from_static(&[0; PIECE])))
    }));
    Response::new(StreamBody::new(pieces).boxed())
}

/// The measured answers.
#[derive(Default)]
pub(super) struct Read {
    /// Bytes per second of each large answer.
    pub(super) large: Vec<f64>,
    /// Times of the small answers.
    pub(super) small: Times,
}

/// Reads `large` large answers concurrently for `time`, and with `small` also small ones, one at a
/// time.
///
/// # Errors
/// An answer that ends or fails.
pub(super) fn read(
    hub: &Host,
    at: SocketAddr,
    large: usize,
    small: bool,
    time: Duration,
) -> Result<Read> {
    hub.within(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(read_at_once(at, large, small, time))
    })
}

async fn read_at_once(at: SocketAddr, large: usize, small: bool, time: Duration) -> Result<Read> {
    // Opens the connection between the Envoys, so that its handshake isn't measured.
    let mut sender = connect(at).await?;
    ask(&mut sender, "/warm").await?;
    let until = Instant::now() + time;
    let large: Vec<_> = (0..large).map(|_| tokio::spawn(read_large(at, until))).collect();
    let mut times = Times::default();
    if small {
        // By then the large answers have begun.
        tokio::time::sleep(time / 5).await;
        while Instant::now() < until {
            let began = Instant::now();
            // A timeout is recorded too.
            let answered = tokio::time::timeout(PATIENCE, ask(&mut sender, "/small")).await;
            answered.unwrap_or(Ok(()))?;
            times.push(began.elapsed());
            tokio::time::sleep(PAUSE).await;
        }
    }
    let mut read = Read { small: times, ..Read::default() };
    for one in large {
        read.large.push(one.await??);
    }
    Ok(read)
}

/// Bytes per second until `until`.
async fn read_large(at: SocketAddr, until: Instant) -> Result<f64> {
    let mut sender = connect(at).await?;
    let began = Instant::now();
    let mut bytes = 0;
    let reading = async {
        let mut answer = send(&mut sender, ENDLESS).await?;
        while let Some(frame) = answer.frame().await {
            bytes += frame?.data_ref().map_or(0, Bytes::len);
        }
        anyhow::bail!("an endless answer has ended")
    };
    // The timeout is the normal end.
    if let Ok(ended) = tokio::time::timeout_at(until.into(), reading).await {
        ended?;
    }
    #[expect(clippy::cast_precision_loss, reason = "bytes of one answer")]
    let bytes = bytes as f64;
    Ok(bytes / began.elapsed().as_secs_f64())
}

async fn ask(sender: &mut SendRequest<Empty<Bytes>>, path: &str) -> Result<()> {
    let body = send(sender, path).await?.collect().await?.to_bytes();
    ensure!(body.len() == SMALL, "an answer of {} bytes", body.len());
    Ok(())
}

async fn send(sender: &mut SendRequest<Empty<Bytes>>, path: &str) -> Result<Incoming> {
    sender.ready().await?;
    let request = Request::get(format!("http://link{path}")).body(Empty::new())?;
    let answer = sender.send_request(request).await?;
    ensure!(answer.status() == 200, "{path}: {}", answer.status());
    Ok(answer.into_body())
}

async fn connect(at: SocketAddr) -> Result<SendRequest<Empty<Bytes>>> {
    let stream = TcpStream::connect(at).await?;
    let mut client = hyper::client::conn::http2::Builder::new(TokioExecutor::new());
    client.initial_stream_window_size(LOCAL_WINDOW).initial_connection_window_size(LOCAL_WINDOW);
    let (sender, connection) = client.handshake(TokioIo::new(stream)).await?;
    tokio::spawn(async move {
        // The reader gets the error.
        let _ = connection.await;
    });
    Ok(sender)
}

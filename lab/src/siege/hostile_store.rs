//! The hostile cluster's store, behind its real Envoy.
//!
//! | Call | Answer |
//! | --- | --- |
//! | `grpc.health.v1.Health/Check` | `SERVING` |
//! | `thanos.info.Info/Info` | an empty message |
//! | `thanos.Store/LabelNames` | UNKNOWN, as of a sidecar whose Prometheus refuses a query |
//! | `thanos.Store/LabelValues` | RST_STREAM, as of a sidecar that dies |
//! | `thanos.Store/Series` | [`LARGE_ANSWER_BYTES`] |

use std::net::SocketAddr;
use std::thread;

use anyhow::{Context, Result};
use bytes::Bytes;
use h2::RecvStream;
use h2::server::SendResponse;
use http::{HeaderMap, HeaderValue, Request, Response};
use tokio::net::{TcpListener, TcpStream};

use super::grpc::{discard, frame};
use crate::world::Host;

/// Answered at once.
pub(super) const INFO: &str = "/thanos.info.Info/Info";
/// Fails with UNKNOWN.
pub(super) const FAILING: &str = "/thanos.Store/LabelNames";
/// The stream is reset.
pub(super) const RESETTING: &str = "/thanos.Store/LabelValues";
/// Answered with [`LARGE_ANSWER_BYTES`].
pub(super) const LARGE_ANSWER: &str = "/thanos.Store/Series";
const LARGE_ANSWER_BYTES: usize = 200 << 20;
/// Bytes of each message of it.
const MESSAGE_BYTES: usize = 256 << 10;

/// Listens in the network of `host` until this process ends.
pub(super) fn start(host: &Host, at: SocketAddr) -> Result<()> {
    let listener = host.within(|| {
        let listener =
            std::net::TcpListener::bind(at).with_context(|| format!("cannot listen at {at}"))?;
        listener.set_nonblocking(true)?;
        Ok(listener)
    })?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot make a runtime")?;
    // This thread needn't be in the host's network: accepted connections are in their listener's.
    thread::Builder::new()
        .name("siege-backend".into())
        .spawn(move || runtime.block_on(serve(listener)))?;
    Ok(())
}

async fn serve(listener: std::net::TcpListener) -> Result<()> {
    let listener = TcpListener::from_std(listener)?;
    loop {
        if let Ok((tcp, _)) = listener.accept().await {
            tokio::spawn(connection(tcp));
        }
    }
}

async fn connection(tcp: TcpStream) {
    let Ok(mut requests) = h2::server::handshake(tcp).await else { return };
    while let Some(Ok((request, answer))) = requests.accept().await {
        // An error ends only this call.
        tokio::spawn(async move { call(request, answer).await.unwrap_or_default() });
    }
}

async fn call(request: Request<RecvStream>, mut answer: SendResponse<Bytes>) -> Result<()> {
    let (request_parts, mut body) = request.into_parts();
    // h2 resets a stream whose request isn't read to its end.
    discard(&mut body).await?;
    let head = Response::builder().header("content-type", "application/grpc");
    let messages: Vec<Bytes> = match request_parts.uri.path() {
        FAILING => {
            let failed = head.header("grpc-status", "2").header("grpc-message", "the query failed");
            answer.send_response(failed.body(())?, true)?;
            return Ok(());
        }
        RESETTING => {
            answer.send_reset(h2::Reason::INTERNAL_ERROR);
            return Ok(());
        }
        // `status: SERVING`.
        "/grpc.health.v1.Health/Check" => vec![frame(&[0x08, 0x01])],
        LARGE_ANSWER => {
            vec![frame(&vec![0; MESSAGE_BYTES]); LARGE_ANSWER_BYTES / MESSAGE_BYTES]
        }
        _ => vec![frame(&[])],
    };
    let mut body = answer.send_response(head.body(())?, false)?;
    for mut message in messages {
        while !message.is_empty() {
            // Only as much as the peer's window allows, so that nothing is buffered here.
            body.reserve_capacity(message.len());
            let capacity = std::future::poll_fn(|context| body.poll_capacity(context))
                .await
                .context("the reader is gone")??;
            body.send_data(message.split_to(capacity.min(message.len())), false)?;
        }
    }
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    body.send_trailers(trailers)?;
    Ok(())
}

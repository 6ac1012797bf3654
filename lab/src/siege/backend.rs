//! What stands behind the hostile cluster's Envoy: a store that does as it likes. Its Envoy, and
//! everything else, is real.
//!
//! | Asked for | Answers |
//! | --- | --- |
//! | `grpc.health.v1.Health/Check` | it is serving |
//! | `thanos.info.Info/Info` | well, with nothing |
//! | `thanos.Store/LabelNames` | UNKNOWN, as a sidecar whose Prometheus refuses a query |
//! | `thanos.Store/LabelValues` | nothing: it resets the call, as a sidecar that dies |
//! | `thanos.Store/Series` | [`STREAM`] bytes |

use std::net::SocketAddr;
use std::thread;

use anyhow::{Context, Result};
use bytes::Bytes;
use h2::RecvStream;
use h2::server::SendResponse;
use http::{HeaderMap, HeaderValue, Request, Response};
use tokio::net::{TcpListener, TcpStream};

use super::grpc::{framed, read};
use crate::world::Host;

/// The path of what it always answers.
pub(super) const INFO: &str = "/thanos.info.Info/Info";
/// The path of what it never answers well.
pub(super) const FAILS: &str = "/thanos.Store/LabelNames";
/// The path of what it breaks off.
pub(super) const RESETS: &str = "/thanos.Store/LabelValues";
/// The path of what it answers with very much.
pub(super) const STREAMS: &str = "/thanos.Store/Series";
/// How much, in bytes.
pub(super) const STREAM: usize = 200 << 20;
/// In one message.
const MESSAGE: usize = 256 << 10;

/// Starts it in the network of a host, until this process ends.
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
    // Outside of the host's network: an accepted connection is of the listener's.
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
        // A broken call is its caller's trouble.
        tokio::spawn(async move { call(request, answer).await.unwrap_or_default() });
    }
}

async fn call(request: Request<RecvStream>, mut answer: SendResponse<Bytes>) -> Result<()> {
    let (question, mut body) = request.into_parts();
    // A stream whose request is not read to its end is reset, answer or not.
    read(&mut body).await?;
    let head = Response::builder().header("content-type", "application/grpc");
    let messages: Vec<Bytes> = match question.uri.path() {
        FAILS => {
            let failed = head.header("grpc-status", "2").header("grpc-message", "the query failed");
            answer.send_response(failed.body(())?, true)?;
            return Ok(());
        }
        RESETS => {
            answer.send_reset(h2::Reason::INTERNAL_ERROR);
            return Ok(());
        }
        // `status: SERVING`.
        "/grpc.health.v1.Health/Check" => vec![framed(&[0x08, 0x01])],
        STREAMS => vec![framed(&vec![0; MESSAGE]); STREAM / MESSAGE],
        _ => vec![framed(&[])],
    };
    let mut body = answer.send_response(head.body(())?, false)?;
    for mut message in messages {
        while !message.is_empty() {
            // As much as the reader takes: what is buffered then is buffered on the way.
            body.reserve_capacity(message.len());
            let room = std::future::poll_fn(|context| body.poll_capacity(context))
                .await
                .context("the reader is gone")??;
            body.send_data(message.split_to(room.min(message.len())), false)?;
        }
    }
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    body.send_trailers(trailers)?;
    Ok(())
}

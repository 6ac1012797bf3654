//! A minimal gRPC client: a call on each connection, and whether its status is OK.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use bytes::{BufMut, Bytes, BytesMut};
use envoy_types::pb::envoy::config::core::v3::Node;
use envoy_types::pb::envoy::service::discovery::v3::DeltaDiscoveryRequest;
use h2::client::{ResponseFuture, SendRequest};
use h2::{RecvStream, SendStream};
use http::{HeaderMap, Request};
use prost::Message;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::attackers::Attacker;
use super::dial::{Endpoint, Io};

/// The type that an Envoy subscribes to first.
pub(super) const CLUSTER_TYPE: &str = "type.googleapis.com/envoy.config.cluster.v3.Cluster";

/// The method of incremental ADS.
pub(super) const DELTA_PATH: &str =
    "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources";

/// Starts HTTP/2 on a connection. It ends with the runtime, or when all handles are dropped.
pub(super) async fn http2(io: Box<dyn Io>) -> Result<SendRequest<Bytes>> {
    http2_with(io, &h2::client::Builder::new()).await
}

/// Like [`http2`], with settings.
pub(super) async fn http2_with(
    io: Box<dyn Io>,
    settings: &h2::client::Builder,
) -> Result<SendRequest<Bytes>> {
    let (sender, connection) = settings.handshake(io).await.context("HTTP/2")?;
    tokio::spawn(connection);
    Ok(sender)
}

/// A message with gRPC's prefix: a compression flag and the length.
pub(super) fn frame(message: &[u8]) -> Bytes {
    let mut bytes = BytesMut::with_capacity(message.len() + 5);
    bytes.put_u8(0);
    bytes.put_u32(u32::try_from(message.len()).unwrap_or(u32::MAX));
    bytes.put_slice(message);
    bytes.freeze()
}

/// Sends a request's headers as soon as the peer allows another stream. The caller sends the body.
pub(super) async fn send_headers(
    sender: &mut SendRequest<Bytes>,
    authority: &str,
    path: &str,
) -> Result<(ResponseFuture, SendStream<Bytes>)> {
    sender.clone().ready().await.context("no stream")?;
    send_headers_now(sender, authority, path)
}

/// Sends a request's headers.
pub(super) fn send_headers_now(
    sender: &mut SendRequest<Bytes>,
    authority: &str,
    path: &str,
) -> Result<(ResponseFuture, SendStream<Bytes>)> {
    let request = Request::post(format!("http://{authority}{path}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(())
        .context("BUG: not a request")?;
    sender.send_request(request, false).context("send")
}

/// How often [`keep_open`] looks for requests that have ended.
const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// Keeps `size` requests open on a connection and releases no capacity for their answers. Replaces
/// requests that the peer ends; returns when the peer closes the connection.
pub(super) async fn keep_open(
    attacker: &Attacker,
    mut sender: SendRequest<Bytes>,
    size: usize,
    begin: impl Fn(&mut SendRequest<Bytes>) -> Result<(ResponseFuture, SendStream<Bytes>)>,
) -> Result<()> {
    let mut open = JoinSet::new();
    loop {
        while open.len() < size {
            // The peer may allow fewer streams.
            let Ok(ready) = timeout(POLL_INTERVAL, sender.clone().ready()).await else { break };
            sender = ready.context("the connection is closed")?;
            let (answer, body) = begin(&mut sender)?;
            attacker.count_opened();
            open.spawn(async move {
                if let Ok(answer) = answer.await {
                    // Capacity is never released, so the window fills.
                    let mut unread = answer.into_body();
                    while unread.data().await.is_some_and(|data| data.is_ok()) {}
                }
                drop(body);
            });
            tokio::task::yield_now().await;
        }
        sleep(POLL_INTERVAL).await;
        while open.try_join_next().is_some() {
            attacker.count_closed();
        }
    }
}

/// A unary call.
///
/// # Errors
/// Its status isn't OK.
pub(super) async fn unary(
    endpoint: &Endpoint,
    authority: &str,
    path: &str,
    message: &[u8],
) -> Result<()> {
    let mut sender = http2(endpoint.connect().await?).await?;
    let (answer, mut body) = send_headers(&mut sender, authority, path).await?;
    body.send_data(frame(message), true).context("send")?;
    let answer = answer.await.context("no answer")?;
    ensure!(answer.status() == 200, "HTTP status {}", answer.status());
    if let Some(status) = status(answer.headers()) {
        return status;
    }
    let mut answer = answer.into_body();
    discard(&mut answer).await?;
    let trailers =
        answer.trailers().await.context("no trailers")?.context("an answer without trailers")?;
    status(&trailers).context("an answer without a status")?
}

/// Opens an incremental xDS stream and subscribes to all Envoy clusters; returns after the first
/// response.
pub(super) async fn open_delta_stream(endpoint: &Endpoint, node: &str) -> Result<()> {
    let mut sender = http2(endpoint.connect().await?).await?;
    let (answer, mut body) = send_headers(&mut sender, "atlas", DELTA_PATH).await?;
    let request = DeltaDiscoveryRequest {
        node: Some(Node { id: node.into(), cluster: node.into(), ..Node::default() }),
        type_url: CLUSTER_TYPE.into(),
        resource_names_subscribe: vec!["*".into()],
        ..DeltaDiscoveryRequest::default()
    };
    body.send_data(frame(&request.encode_to_vec()), false).context("send")?;
    let answer = answer.await.context("no answer")?;
    if let Some(status) = status(answer.headers()) {
        status?;
        bail!("the stream ended at once");
    }
    let first = answer.into_body().data().await.context("the stream ended without an answer")?;
    first.map(drop).context("the stream broke")
}

/// Reads a body to its end and discards it.
pub(super) async fn discard(body: &mut RecvStream) -> Result<()> {
    while let Some(data) = body.data().await {
        let length = data.context("the answer broke")?.len();
        body.flow_control().release_capacity(length)?;
    }
    Ok(())
}

/// The call's status, if these headers or trailers have one.
fn status(headers: &HeaderMap) -> Option<Result<()>> {
    let text =
        |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
    let code = text("grpc-status")?;
    Some(if code == "0" {
        Ok(())
    } else {
        Err(anyhow::anyhow!("gRPC status {code}: {}", text("grpc-message").unwrap_or_default()))
    })
}

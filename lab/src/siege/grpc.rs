//! gRPC calls, one on each connection, as short as they can be: what is asked and whether it was
//! answered well.

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

use super::crowd::Visitor;
use super::dial::{Door, Io};

/// The type that everybody asks for first.
pub(super) const CLUSTERS: &str = "type.googleapis.com/envoy.config.cluster.v3.Cluster";

/// The path of incremental aggregated discovery.
pub(super) const DELTA: &str =
    "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources";

/// HTTP/2 on a connection. It ends with the runtime, or when all handles are dropped.
pub(super) async fn http2(io: Box<dyn Io>) -> Result<SendRequest<Bytes>> {
    http2_with(io, &h2::client::Builder::new()).await
}

/// The same, with settings.
pub(super) async fn http2_with(
    io: Box<dyn Io>,
    settings: &h2::client::Builder,
) -> Result<SendRequest<Bytes>> {
    let (sender, connection) = settings.handshake(io).await.context("HTTP/2")?;
    tokio::spawn(connection);
    Ok(sender)
}

/// A message with gRPC's five bytes before it.
pub(super) fn framed(message: &[u8]) -> Bytes {
    let mut bytes = BytesMut::with_capacity(message.len() + 5);
    bytes.put_u8(0);
    bytes.put_u32(u32::try_from(message.len()).unwrap_or(u32::MAX));
    bytes.put_slice(message);
    bytes.freeze()
}

/// Sends a request when the connection has room for it; the body follows.
pub(super) async fn begin(
    sender: &mut SendRequest<Bytes>,
    authority: &str,
    path: &str,
) -> Result<(ResponseFuture, SendStream<Bytes>)> {
    sender.clone().ready().await.context("no stream")?;
    begin_now(sender, authority, path)
}

/// Sends a request.
pub(super) fn begin_now(
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

/// Between two looks at what has ended.
const LOOK: Duration = Duration::from_millis(100);

/// Keeps so many requests open on a connection, reads nothing of their answers, and begins anew
/// what the other side ends; returns when it ends the connection.
pub(super) async fn keep(
    visitor: &Visitor,
    mut sender: SendRequest<Bytes>,
    size: usize,
    begin: impl Fn(&mut SendRequest<Bytes>) -> Result<(ResponseFuture, SendStream<Bytes>)>,
) -> Result<()> {
    let mut open = JoinSet::new();
    loop {
        while open.len() < size {
            // Where the server allows fewer streams, so many it is.
            let Ok(ready) = timeout(LOOK, sender.clone().ready()).await else { break };
            sender = ready.context("the connection is closed")?;
            let (answer, body) = begin(&mut sender)?;
            visitor.opened();
            open.spawn(async move {
                if let Ok(answer) = answer.await {
                    // What comes is not given back to the window.
                    let mut unread = answer.into_body();
                    while unread.data().await.is_some_and(|data| data.is_ok()) {}
                }
                drop(body);
            });
            tokio::task::yield_now().await;
        }
        sleep(LOOK).await;
        while open.try_join_next().is_some() {
            visitor.closed();
        }
    }
}

/// One question, one answer: an error unless its status is OK.
pub(super) async fn unary(door: &Door, authority: &str, path: &str, message: &[u8]) -> Result<()> {
    let mut sender = http2(door.open().await?).await?;
    let (answer, mut body) = begin(&mut sender, authority, path).await?;
    body.send_data(framed(message), true).context("send")?;
    let answer = answer.await.context("no answer")?;
    ensure!(answer.status() == 200, "HTTP status {}", answer.status());
    if let Some(status) = status(answer.headers()) {
        return status;
    }
    let mut answer = answer.into_body();
    read(&mut answer).await?;
    let trailers =
        answer.trailers().await.context("no trailers")?.context("an answer without trailers")?;
    status(&trailers).context("an answer without a status")?
}

/// Opens an incremental xDS stream and asks for all Envoy clusters; returns when the server has
/// answered.
pub(super) async fn discover(door: &Door, node: &str) -> Result<()> {
    let mut sender = http2(door.open().await?).await?;
    let (answer, mut body) = begin(&mut sender, "atlas", DELTA).await?;
    let request = DeltaDiscoveryRequest {
        node: Some(Node { id: node.into(), cluster: node.into(), ..Node::default() }),
        type_url: CLUSTERS.into(),
        resource_names_subscribe: vec!["*".into()],
        ..DeltaDiscoveryRequest::default()
    };
    body.send_data(framed(&request.encode_to_vec()), false).context("send")?;
    let answer = answer.await.context("no answer")?;
    if let Some(status) = status(answer.headers()) {
        status?;
        bail!("the stream ended at once");
    }
    let first = answer.into_body().data().await.context("the stream ended without an answer")?;
    first.map(drop).context("the stream broke")
}

/// Reads a body to its end and forgets it.
pub(super) async fn read(body: &mut RecvStream) -> Result<()> {
    while let Some(data) = body.data().await {
        let length = data.context("the answer broke")?.len();
        body.flow_control().release_capacity(length)?;
    }
    Ok(())
}

/// What headers or trailers say of the call.
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

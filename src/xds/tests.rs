//! The server with real gRPC clients: over connections in memory, and over TLS on loopback.

mod flood;
mod limits;
mod protocol;
mod trust;

use std::collections::HashMap;
use std::future::{Ready, ready};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use atlas_core::name::{ClusterName, NodeId};
use atlas_core::plan::NodeChange;
use atlas_core::xds::messages::Variant;
use atlas_core::xds::resource::{Resource, ResourceType, Version};
use atlas_core::xds::session::Session;
use atlas_core::xds::snapshot::Change;
use envoy_types::pb::envoy::service::discovery::v3::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use envoy_types::pb::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, Resource as Wire,
};
use envoy_types::pb::google::protobuf::Any;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::{Channel, Endpoint, Uri};
use tonic::{Status, Streaming};

use super::client::AuthenticatedClient;
use super::open_streams::{RegisteredStream, Streams};
use super::{ClientAuthorizer, LimitOptions, XdsServer, http2};
use crate::metrics::Metrics;
use crate::process::clock;
use crate::process::lock::lock;
use crate::state::{Nodes, StateStore};

/// Longest time to wait for something that must happen.
const SOON: Duration = Duration::from_secs(5);
/// Time to wait for something that must not happen.
const A_WHILE: Duration = Duration::from_millis(150);

/// A server without a socket.
struct World {
    server: Arc<XdsServer>,
}

/// Options that differ between tests.
struct Options {
    limits: LimitOptions,
    max_stream_age: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self { limits: LimitOptions::default(), max_stream_age: Duration::from_secs(1800) }
    }
}

fn world(options: Options) -> World {
    let client_authorizer = ClientAuthorizer::new("atlas".parse().unwrap());
    client_authorizer.replace_allowed(allowed(&["tokyo", "paris"]));
    let server = XdsServer {
        nodes: Arc::new(Nodes::default()),
        state_store: Arc::new(StateStore::default()),
        streams: Arc::new(Streams::default()),
        client_authorizer: Arc::new(client_authorizer),
        metrics: Arc::new(Metrics::new()),
        limits: options.limits.for_open_files(10_000),
        max_stream_age: options.max_stream_age,
        keep_unknown_for: Duration::ZERO,
        drain: CancellationToken::new(),
    };
    World { server: Arc::new(server) }
}

/// The accepted fingerprints of these clusters: each cluster's name.
fn allowed(clusters: &[&str]) -> HashMap<ClusterName, Vec<String>> {
    clusters.iter().map(|name| (name.parse().unwrap(), vec![name.to_string()])).collect()
}

/// A client of a node; its fingerprint is the node's name.
fn client(node: &str) -> AuthenticatedClient {
    AuthenticatedClient {
        node: node.parse().unwrap(),
        spiffe_id: format!("spiffe://atlas/bootstrap/{node}/1"),
        fingerprint: node.into(),
        not_after: clock::now() + 3600,
        address: ([127, 0, 0, 1], 1).into(),
    }
}

/// A resource with this content.
fn resource(kind: ResourceType, name: &str, content: &[u8]) -> Arc<Resource> {
    let body = Any { type_url: kind.url().into(), value: content.to_vec() };
    Resource::with_version(kind, name, Version::of(content), &body)
}

const CDS: ResourceType = ResourceType::Cluster;
const SDS: ResourceType = ResourceType::Secret;

impl World {
    fn new() -> Self {
        world(Options::default())
    }

    /// Replaces the resources of a node.
    fn set_resources(&self, node: &str, resources: &[(ResourceType, &str, &str)]) {
        let resources = resources
            .iter()
            .map(|(kind, name, content)| resource(*kind, name, content.as_bytes()))
            .collect();
        self.server.nodes.apply(vec![(node.parse().unwrap(), NodeChange::Replace(resources))]);
    }

    /// Adds or changes one resource of a node.
    fn set_resource(&self, node: &str, resource: Arc<Resource>) {
        self.server
            .nodes
            .apply(vec![(node.parse().unwrap(), NodeChange::Apply(vec![Change::Set(resource)]))]);
    }

    /// Opens a connection of an authenticated client; returns the client's end.
    async fn connect(&self, client: AuthenticatedClient) -> DuplexStream {
        let limits = self.server.connection_limits(&client.node);
        let added = self.server.streams.add_connection(client, limits).await;
        let registered = added.unwrap_or_else(|reached| panic!("{reached:?}"));
        let (client_end, server_end) = tokio::io::duplex(64 << 10);
        tokio::spawn(http2::serve(server_end, registered, Arc::clone(&self.server)));
        client_end
    }

    async fn channel(&self, node: &str) -> Channel {
        channel(self.connect(client(node)).await).await
    }

    /// An incremental ADS stream on a connection of its own.
    async fn delta(&self, node: &str) -> Delta {
        Delta::open(self.channel(node).await).await.unwrap()
    }

    /// Bytes that the streams of all nodes have reserved.
    fn reserved_bytes(&self) -> usize {
        let streams = self.server.streams.open();
        let mut used: HashMap<NodeId, usize> = HashMap::new();
        for stream in &streams {
            used.insert(stream.client.node.clone(), stream.memory.used_by_node());
        }
        used.into_values().sum()
    }

    /// The value of a metric in a scrape, by its name and labels.
    fn metric(&self, name: &str) -> u64 {
        let text = self.server.metrics.render();
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix(name))
            .unwrap_or_else(|| panic!("no {name} in {text}"));
        line.trim().parse().unwrap()
    }
}

/// Waits until a condition holds.
async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let waiting = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(SOON, waiting).await.unwrap_or_else(|_| panic!("{what}"));
}

/// A connector that hands out a connection that is open already.
struct OpenConnection<I>(Option<I>);

impl<I: AsyncRead + AsyncWrite + Unpin + Send + 'static> tonic::codegen::Service<Uri>
    for OpenConnection<I>
{
    type Response = TokioIo<I>;
    type Error = std::io::Error;
    type Future = Ready<Result<TokioIo<I>, std::io::Error>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), std::io::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        ready(
            self.0.take().map(TokioIo::new).ok_or_else(|| std::io::ErrorKind::NotConnected.into()),
        )
    }
}

/// A gRPC channel on an open connection.
async fn channel<I: AsyncRead + AsyncWrite + Unpin + Send + 'static>(io: I) -> Channel {
    Endpoint::from_static("http://atlas")
        .connect_with_connector(OpenConnection(Some(io)))
        .await
        .unwrap()
}

/// An incremental ADS stream.
struct Delta {
    requests: mpsc::Sender<DeltaDiscoveryRequest>,
    responses: Streaming<DeltaDiscoveryResponse>,
}

impl Delta {
    async fn open(channel: Channel) -> Result<Self, Status> {
        let (requests, receiver) = mpsc::channel(16);
        let mut client = AggregatedDiscoveryServiceClient::new(channel);
        let responses =
            client.delta_aggregated_resources(ReceiverStream::new(receiver)).await?.into_inner();
        Ok(Self { requests, responses })
    }

    async fn send(&self, request: DeltaDiscoveryRequest) {
        self.requests.send(request).await.unwrap();
    }

    /// Subscribes to resources of a type; `*` is all.
    async fn subscribe(&self, kind: ResourceType, names: &[&str]) {
        let resource_names_subscribe = names.iter().map(ToString::to_string).collect();
        self.send(DeltaDiscoveryRequest {
            type_url: kind.url().into(),
            resource_names_subscribe,
            ..Default::default()
        })
        .await;
    }

    async fn ack(&self, response: &DeltaDiscoveryResponse) {
        let (type_url, response_nonce) = (response.type_url.clone(), response.nonce.clone());
        self.send(DeltaDiscoveryRequest { type_url, response_nonce, ..Default::default() }).await;
    }

    async fn next(&mut self) -> Result<Option<DeltaDiscoveryResponse>, Status> {
        tokio::time::timeout(SOON, self.responses.message())
            .await
            .expect("a response, or the end of the stream")
    }

    /// Acknowledges the next response; returns the names and contents of its resources.
    async fn receive(&mut self) -> Vec<(String, String)> {
        let response = self.next().await.unwrap().expect("a response");
        self.ack(&response).await;
        contents(&response.resources)
    }

    /// Asserts that no response comes.
    async fn receive_nothing(&mut self) {
        let received = tokio::time::timeout(A_WHILE, self.responses.message()).await;
        assert!(received.is_err(), "{received:?}");
    }

    /// Waits for the end of the stream; returns its status.
    async fn end(&mut self) -> Status {
        loop {
            match self.next().await {
                Ok(Some(_)) => {}
                Ok(None) => return Status::ok(""),
                Err(status) => return status,
            }
        }
    }
}

fn contents(resources: &[Wire]) -> Vec<(String, String)> {
    let content =
        |wire: &Wire| String::from_utf8(wire.resource.clone().unwrap_or_default().value).unwrap();
    resources.iter().map(|wire| (wire.name.clone(), content(wire))).collect()
}

fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs.iter().map(|(name, content)| (name.to_string(), content.to_string())).collect()
}

/// A server for the unit test of a part of it.
pub fn server() -> Arc<XdsServer> {
    World::new().server
}

/// An open stream of that server.
pub async fn registered_stream(server: &Arc<XdsServer>) -> RegisteredStream {
    let client = client("tokyo");
    let limits = server.connection_limits(&client.node);
    let added = server.streams.add_connection(client, limits).await;
    let registered = added.unwrap_or_else(|reached| panic!("{reached:?}"));
    server.streams.add_stream(
        &registered.connection,
        Session::new(Variant::Delta, None),
        0,
        CancellationToken::new(),
    )
}

/// A request body in which nothing arrives, as large as hyper's own.
pub struct IdleBody([usize; 6]);

impl hyper::body::Body for IdleBody {
    type Data = bytes::Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        self: std::pin::Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<hyper::body::Frame<bytes::Bytes>, std::convert::Infallible>>> {
        Poll::Pending
    }
}

pub fn idle_body() -> IdleBody {
    let body = IdleBody([0; 6]);
    assert!(size_of_val(&body.0) >= size_of::<hyper::body::Incoming>());
    body
}

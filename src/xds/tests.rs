//! The service over real streams: in memory, and through TLS on loopback.

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

use super::{LimitOptions, Xds, serve};
use crate::metrics::Metrics;
use crate::process::clock;
use crate::state::Nodes;
use crate::state::StateStore;
use crate::xds::streams::{Registration, Streams};
use crate::xds::tls::{ClientAuthorizer, Peer};

/// What never comes hasn't come by then.
const SOON: Duration = Duration::from_secs(5);
/// What comes at once would have come by then.
const A_WHILE: Duration = Duration::from_millis(150);

/// One server.
struct World {
    xds: Arc<Xds>,
}

/// How a world differs from the usual.
struct Options {
    limits: LimitOptions,
    max_age: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self { limits: LimitOptions::default(), max_age: Duration::from_secs(1800) }
    }
}

fn world(options: Options) -> World {
    let client_authorizer = ClientAuthorizer::new("atlas".parse().unwrap());
    client_authorizer.replace_allowed(counting(&["tokyo", "paris"]));
    let xds = Xds {
        nodes: Arc::new(Nodes::default()),
        state_store: Arc::new(StateStore::default()),
        streams: Arc::new(Streams::default()),
        client_authorizer: Arc::new(client_authorizer),
        metrics: Arc::new(Metrics::new()),
        limits: options.limits.within(10_000),
        max_age: options.max_age,
        hold: Duration::ZERO,
        drain: CancellationToken::new(),
    };
    World { xds: Arc::new(xds) }
}

/// The credentials of these clusters, whose fingerprints are their names, count.
fn counting(clusters: &[&str]) -> HashMap<ClusterName, Vec<String>> {
    clusters.iter().map(|name| (name.parse().unwrap(), vec![name.to_string()])).collect()
}

/// What the peer of a node shows; its fingerprint is its name.
fn peer(node: &str) -> Peer {
    Peer {
        node: node.parse().unwrap(),
        spiffe_id: format!("spiffe://atlas/bootstrap/{node}/1"),
        fingerprint: node.into(),
        not_after: clock::now() + 3600,
        address: ([127, 0, 0, 1], 1).into(),
    }
}

/// A resource of some content.
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

    /// A node has exactly these.
    fn has(&self, node: &str, resources: &[(ResourceType, &str, &str)]) {
        let resources = resources
            .iter()
            .map(|(kind, name, content)| resource(*kind, name, content.as_bytes()))
            .collect();
        self.xds.nodes.apply(vec![(node.parse().unwrap(), NodeChange::All(resources))]);
    }

    /// One resource of a node changes.
    fn sets(&self, node: &str, resource: Arc<Resource>) {
        self.xds
            .nodes
            .apply(vec![(node.parse().unwrap(), NodeChange::Some(vec![Change::Set(resource)]))]);
    }

    /// The client's end of a connection of this peer.
    async fn accepts(&self, peer: Peer) -> DuplexStream {
        let most = self.xds.connections(&peer.node);
        let place =
            self.xds.streams.connect(peer, most).await.unwrap_or_else(|full| panic!("{full:?}"));
        let (client, server) = tokio::io::duplex(64 << 10);
        tokio::spawn(serve(server, place, Arc::clone(&self.xds)));
        client
    }

    async fn channel(&self, node: &str) -> Channel {
        channel(self.accepts(peer(node)).await).await
    }

    /// An incremental ADS stream on a connection of its own.
    async fn delta(&self, node: &str) -> Delta {
        Delta::open(self.channel(node).await).await.unwrap()
    }

    /// Memory that is taken by what clients say, of all nodes.
    fn remembered(&self) -> usize {
        let streams = self.xds.streams.open();
        let shares: HashMap<NodeId, usize> =
            streams.iter().map(|stream| (stream.peer.node.clone(), stream.share.used())).collect();
        shares.into_values().sum()
    }

    /// A counter with one label, as a scrape shows it.
    fn metric(&self, name: &str) -> u64 {
        let text = self.xds.metrics.render();
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix(name))
            .unwrap_or_else(|| panic!("no {name} in {text}"));
        line.trim().parse().unwrap()
    }
}

/// Waits until something is so.
async fn until(what: &str, mut so: impl FnMut() -> bool) {
    let waiting = async {
        while !so() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(SOON, waiting).await.unwrap_or_else(|_| panic!("{what}"));
}

/// Hands out a connection that is there already.
struct There<I>(Option<I>);

impl<I: AsyncRead + AsyncWrite + Unpin + Send + 'static> tonic::codegen::Service<Uri> for There<I> {
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

/// A gRPC client on a connection.
async fn channel<I: AsyncRead + AsyncWrite + Unpin + Send + 'static>(io: I) -> Channel {
    Endpoint::from_static("http://atlas").connect_with_connector(There(Some(io))).await.unwrap()
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

    async fn say(&self, request: DeltaDiscoveryRequest) {
        self.requests.send(request).await.unwrap();
    }

    /// Subscribes to all of a type.
    async fn subscribe(&self, kind: ResourceType, names: &[&str]) {
        let resource_names_subscribe = names.iter().map(ToString::to_string).collect();
        self.say(DeltaDiscoveryRequest {
            type_url: kind.url().into(),
            resource_names_subscribe,
            ..Default::default()
        })
        .await;
    }

    async fn ack(&self, response: &DeltaDiscoveryResponse) {
        let (type_url, response_nonce) = (response.type_url.clone(), response.nonce.clone());
        self.say(DeltaDiscoveryRequest { type_url, response_nonce, ..Default::default() }).await;
    }

    async fn next(&mut self) -> Result<Option<DeltaDiscoveryResponse>, Status> {
        tokio::time::timeout(SOON, self.responses.message())
            .await
            .expect("the server says something")
    }

    /// The next response, acknowledged: names and contents.
    async fn hears(&mut self) -> Vec<(String, String)> {
        let response = self.next().await.unwrap().expect("a response");
        self.ack(&response).await;
        contents(&response.resources)
    }

    /// That nothing comes.
    async fn hears_nothing(&mut self) {
        let heard = tokio::time::timeout(A_WHILE, self.responses.message()).await;
        assert!(heard.is_err(), "{heard:?}");
    }

    /// How the stream ends.
    async fn ends(&mut self) -> Status {
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

/// For tests of parts: a server, one registered stream, and a body in which nothing ever comes.
pub fn world_of_one() -> Arc<Xds> {
    World::new().xds
}

pub async fn registered(xds: &Arc<Xds>) -> Registration {
    let peer = peer("tokyo");
    let most = xds.connections(&peer.node);
    let place = xds.streams.connect(peer, most).await.unwrap_or_else(|full| panic!("{full:?}"));
    xds.streams.register(
        &place.connection,
        Session::new(Variant::Delta, None),
        0,
        CancellationToken::new(),
    )
}

/// As large as hyper's own.
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

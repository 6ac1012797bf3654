//! A simulated Envoy: one connection with one ADS stream. It acknowledges every response and keeps
//! the resources.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use envoy_types::pb::envoy::config::core::v3::Node;
use envoy_types::pb::envoy::service::discovery::v3 as discovery;
use envoy_types::pb::envoy::service::discovery::v3::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use envoy_types::pb::google::protobuf::Any;
use hyper_util::rt::TokioIo;
use prost::Message;
use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};
use tokio_rustls::TlsConnector;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint, Uri};

use super::Variant;

/// The type URLs, in the order in which an Envoy subscribes.
pub const TYPES: [&str; 4] = [
    "type.googleapis.com/envoy.config.cluster.v3.Cluster",
    "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret",
    "type.googleapis.com/envoy.config.listener.v3.Listener",
    "type.googleapis.com/envoy.config.route.v3.RouteConfiguration",
];
pub const CLUSTER: usize = 0;
pub const SECRET: usize = 1;
pub const LISTENER: usize = 2;
pub const ROUTE: usize = 3;

/// Pauses between attempts to connect.
const PAUSES: [Duration; 4] = [
    Duration::from_millis(50),
    Duration::from_millis(200),
    Duration::from_millis(500),
    Duration::from_secs(1),
];

/// A client's identity, its subscriptions and its server.
#[derive(Clone)]
pub struct Identity {
    /// `node.id`, and the name of its certificate.
    pub node: String,
    /// Secrets that it subscribes to by name.
    pub secrets: Vec<String>,
    /// Route configurations that it subscribes to by name.
    pub routes: Vec<String>,
    pub server: SocketAddr,
    /// `None`: plaintext.
    pub tls: Option<TlsConnector>,
    pub variant: Variant,
}

#[derive(Clone, Debug, PartialEq)]
pub struct ReceivedResource {
    /// Empty in the state-of-the-world variant.
    pub version: String,
    pub body: Any,
}

/// A client's resources, by type (an index of [`TYPES`]) and name.
pub type ReceivedResources = [BTreeMap<String, ReceivedResource>; 4];

/// Totals of all clients' streams.
#[derive(Default)]
pub struct StreamCounts {
    pub messages: AtomicU64,
    pub bytes: AtomicU64,
    /// When the last message came, in nanoseconds after [`Shared::start`].
    pub last: AtomicU64,
    /// Clients with an open connection.
    pub connected: AtomicU64,
}

/// A client has acknowledged a response.
pub struct Acknowledgement {
    pub client: usize,
    pub at: Instant,
}

/// What all clients share.
pub struct Shared {
    pub counts: StreamCounts,
    pub start: Instant,
    /// Gets an entry for every acknowledged response.
    pub acknowledgements: mpsc::UnboundedSender<Acknowledgement>,
}

/// A running client.
pub struct Client {
    pub identity: Identity,
    pub has: Arc<Mutex<ReceivedResources>>,
    /// A counter; its change makes the client drop its connection and connect again.
    pub reconnect: watch::Sender<u64>,
    /// Types answered on the present stream: a bit for each index of [`TYPES`].
    pub answered: Arc<AtomicU64>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Client {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Client {
    /// Starts a client, which connects again whenever its stream ends.
    pub fn start(number: usize, identity: Identity, shared: Arc<Shared>) -> Self {
        let (has, answered): (Arc<Mutex<ReceivedResources>>, Arc<AtomicU64>) =
            (Arc::default(), Arc::default());
        let (reconnect, mut restart) = watch::channel(0);
        let stream = Stream {
            number,
            identity: identity.clone(),
            has: Arc::clone(&has),
            answered: Arc::clone(&answered),
            shared,
        };
        let task = tokio::spawn(async move {
            let mut failures = 0;
            loop {
                restart.borrow_and_update();
                let began = Instant::now();
                tokio::select! {
                    result = stream.run_stream() => {
                        if let Err(error) = result {
                            // The first failures after a restart are expected.
                            print_error(&stream.identity.node, &error, failures);
                        }
                    }
                    _ = restart.changed() => {}
                }
                stream.answered.store(0, Ordering::Relaxed);
                failures = if began.elapsed() > Duration::from_secs(2) { 0 } else { failures + 1 };
                let pause = PAUSES.get(failures).copied().unwrap_or(Duration::from_secs(1));
                tokio::time::sleep(pause.mul_f64(0.5 + fastrand::f64())).await;
            }
        });
        Self { identity, has, reconnect, answered, task }
    }

    /// Locks its resources.
    pub fn lock(&self) -> std::sync::MutexGuard<'_, ReceivedResources> {
        self.has.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Whether every type has been answered on the present stream.
    pub fn is_answered(&self) -> bool {
        self.answered.load(Ordering::Relaxed) == 0b1111
    }
}

/// Prints a client's error once, at its 20th failure in a row.
fn print_error(node: &str, error: &anyhow::Error, failures: usize) {
    if failures == 20 {
        eprintln!("{node}: cannot stay connected: {error:#}");
    }
}

struct Stream {
    number: usize,
    identity: Identity,
    has: Arc<Mutex<ReceivedResources>>,
    answered: Arc<AtomicU64>,
    shared: Arc<Shared>,
}

impl Stream {
    async fn channel(&self) -> Result<Channel> {
        let (server, tls) = (self.identity.server, self.identity.tls.clone());
        let connect = tower::service_fn(move |_: Uri| {
            let tls = tls.clone();
            async move {
                let tcp = TcpStream::connect(server).await?;
                tcp.set_nodelay(true)?;
                let io: Box<dyn Io> = match tls {
                    Some(tls) => {
                        let name = rustls::pki_types::ServerName::try_from("atlas")
                            .map_err(std::io::Error::other)?;
                        Box::new(tls.connect(name, tcp).await?)
                    }
                    None => Box::new(tcp),
                };
                std::io::Result::Ok(TokioIo::new(io))
            }
        });
        let endpoint = Endpoint::from_static("http://atlas")
            .initial_stream_window_size(4 << 20)
            .initial_connection_window_size(8 << 20);
        endpoint.connect_with_connector(connect).await.context("cannot connect")
    }

    async fn run_stream(&self) -> Result<()> {
        let client = AggregatedDiscoveryServiceClient::new(self.channel().await?)
            .max_decoding_message_size(1 << 30);
        let _counted = Connected::new(&self.shared.counts.connected);
        match self.identity.variant {
            Variant::Delta => self.delta(client).await,
            Variant::Sotw => self.sotw(client).await,
        }
    }

    fn node(&self) -> Option<Node> {
        Some(Node {
            id: self.identity.node.clone(),
            cluster: self.identity.node.clone(),
            ..Node::default()
        })
    }

    /// The names that it subscribes to of a type; empty: all.
    fn names(&self, kind: usize) -> Vec<String> {
        match kind {
            SECRET => self.identity.secrets.clone(),
            ROUTE => self.identity.routes.clone(),
            _ => Vec::new(),
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, ReceivedResources> {
        self.has.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn count_response(&self, kind: usize, bytes: usize) {
        let counts = &self.shared.counts;
        counts.messages.fetch_add(1, Ordering::Relaxed);
        counts.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        let now = Instant::now();
        let since =
            u64::try_from(now.duration_since(self.shared.start).as_nanos()).unwrap_or(u64::MAX);
        counts.last.fetch_max(since, Ordering::Relaxed);
        self.answered.fetch_or(1 << kind, Ordering::Relaxed);
        // The receiver may have been dropped already.
        let _ = self.shared.acknowledgements.send(Acknowledgement { client: self.number, at: now });
    }

    async fn delta(&self, mut client: AggregatedDiscoveryServiceClient<Channel>) -> Result<()> {
        let (requests, outgoing) = mpsc::channel(16);
        for (kind, type_url) in TYPES.iter().enumerate() {
            let initial: HashMap<String, String> = {
                let has = self.lock();
                has.get(kind)
                    .into_iter()
                    .flatten()
                    .map(|(name, resource)| (name.clone(), resource.version.clone()))
                    .collect()
            };
            let names = self.names(kind);
            let request = discovery::DeltaDiscoveryRequest {
                node: if kind == 0 { self.node() } else { None },
                type_url: (*type_url).into(),
                resource_names_subscribe: if names.is_empty() { vec!["*".into()] } else { names },
                initial_resource_versions: initial,
                ..Default::default()
            };
            requests.send(request).await.context("the stream is closed")?;
        }
        let mut responses =
            client.delta_aggregated_resources(ReceiverStream::new(outgoing)).await?.into_inner();
        while let Some(response) = responses.message().await? {
            let bytes = response.encoded_len() + 5;
            let Some(kind) = TYPES.iter().position(|url| *url == response.type_url) else {
                bail!("the type {:?}?", response.type_url)
            };
            {
                let mut has = self.lock();
                let has = has.get_mut(kind).context("BUG: four types")?;
                for resource in response.resources {
                    let body = resource.resource.context("a resource without a body")?;
                    has.insert(resource.name, ReceivedResource { version: resource.version, body });
                }
                for name in &response.removed_resources {
                    has.remove(name);
                }
            }
            let ack = discovery::DeltaDiscoveryRequest {
                type_url: response.type_url,
                response_nonce: response.nonce,
                ..Default::default()
            };
            requests.send(ack).await.context("the stream is closed")?;
            self.count_response(kind, bytes);
        }
        bail!("the server ended the stream")
    }

    async fn sotw(&self, mut client: AggregatedDiscoveryServiceClient<Channel>) -> Result<()> {
        let (requests, outgoing) = mpsc::channel(16);
        for (kind, type_url) in TYPES.iter().enumerate() {
            let request = discovery::DiscoveryRequest {
                node: if kind == 0 { self.node() } else { None },
                type_url: (*type_url).into(),
                resource_names: self.names(kind),
                ..Default::default()
            };
            requests.send(request).await.context("the stream is closed")?;
        }
        let mut responses =
            client.stream_aggregated_resources(ReceiverStream::new(outgoing)).await?.into_inner();
        while let Some(response) = responses.message().await? {
            let bytes = response.encoded_len() + 5;
            let Some(kind) = TYPES.iter().position(|url| *url == response.type_url) else {
                bail!("the type {:?}?", response.type_url)
            };
            {
                let mut has = self.lock();
                let has = has.get_mut(kind).context("BUG: four types")?;
                if kind == CLUSTER || kind == LISTENER {
                    has.clear();
                }
                for body in response.resources {
                    has.insert(name_of(&body)?, ReceivedResource { version: String::new(), body });
                }
            }
            let ack = discovery::DiscoveryRequest {
                type_url: response.type_url,
                resource_names: self.names(kind),
                version_info: response.version_info,
                response_nonce: response.nonce,
                ..Default::default()
            };
            requests.send(ack).await.context("the stream is closed")?;
            self.count_response(kind, bytes);
        }
        bail!("the server ended the stream")
    }
}

/// Counts a stream as connected until it is dropped, since its future may be dropped while it
/// waits.
struct Connected<'a>(&'a AtomicU64);

impl<'a> Connected<'a> {
    fn new(count: &'a AtomicU64) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count)
    }
}

impl Drop for Connected<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The field `name`, which is field 1 of all four types.
fn name_of(body: &Any) -> Result<String> {
    #[derive(prost::Message)]
    struct Named {
        #[prost(string, tag = "1")]
        name: String,
    }
    Ok(Named::decode(body.value.as_slice())?.name)
}

/// A connection, encrypted or not.
trait Io: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin {}
impl<T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin> Io for T {}

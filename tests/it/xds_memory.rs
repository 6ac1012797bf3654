//! What one credential may take of the real Atlas, once and again: clients through mutual TLS that
//! ask for all they can think of.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use atlas_lab::tls::trusting_client;
use envoy_types::pb::envoy::service::discovery::v3::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use envoy_types::pb::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse,
};
use hyper_util::rt::TokioIo;
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_rustls::TlsConnector;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tonic::transport::{Channel, Endpoint, Uri};

use crate::atlas;

const TYPES: [&str; 5] = [
    "type.googleapis.com/envoy.config.cluster.v3.Cluster",
    "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret",
    "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment",
    "type.googleapis.com/envoy.config.listener.v3.Listener",
    "type.googleapis.com/envoy.config.route.v3.RouteConfiguration",
];
const MIB: u64 = 1 << 20;
/// Longer than anything here takes.
const SOON: Duration = Duration::from_secs(60);

/// A running Atlas on loopback, and what it takes.
struct Server {
    child: Child,
    dir: tempfile::TempDir,
    xds: SocketAddr,
    metrics: SocketAddr,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn manifest(name: &str, service: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata:\n  name: {name}\n  labels: {{goatlas.io/cluster: \"true\"}}\n  annotations: {{goatlas.io/prometheus-service: {service}}}\nspec: {{externalIPs: [10.0.0.1]}}\n"
    )
}

fn free_port() -> Result<u16> {
    Ok(std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}

impl Server {
    async fn start(clusters: &[&str]) -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let ports = [free_port()?, free_port()?, free_port()?, free_port()?];
        let from = dir.path().join("clusters");
        std::fs::create_dir(&from)?;
        for name in clusters {
            std::fs::write(
                from.join(format!("{name}.yaml")),
                manifest(name, "prometheus.example.com"),
            )?;
        }
        let mut command = Command::new(atlas());
        command.arg("run").arg("--from").arg(&from).arg("--state").arg(dir.path().join("state"));
        command.args(["--hub-address=hub.example.com", "--log-level=warn"]);
        for (flag, port) in
            ["--xds-port", "--metrics-port", "--web-port", "--dns-port"].iter().zip(&ports)
        {
            command.arg(format!("{flag}={port}"));
        }
        let child = command.stdout(Stdio::null()).spawn()?;
        let [xds, metrics, ..] = ports.map(|port| SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
        let server = Self { child, dir, xds, metrics };
        wait_for("atlas is ready", async || {
            Ok(server.get("/readyz").await.is_ok_and(|text| text.contains("200 OK")))
        })
        .await?;
        Ok(server)
    }

    fn change(&self, cluster: &str, service: &str) -> Result<()> {
        let path = self.dir.path().join("clusters").join(format!("{cluster}.yaml"));
        let new = path.with_extension("new");
        std::fs::write(&new, manifest(cluster, service))?;
        Ok(std::fs::rename(new, path)?)
    }

    async fn get(&self, path: &str) -> Result<String> {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let mut tcp = TcpStream::connect(self.metrics).await?;
        tcp.write_all(
            format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
                .as_bytes(),
        )
        .await?;
        let mut text = String::new();
        tcp.read_to_string(&mut text).await?;
        Ok(text)
    }

    /// A metric by its name and labels.
    async fn metric(&self, name: &str) -> Result<u64> {
        let text = self.get("/metrics").await?;
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        Ok(value.with_context(|| format!("no {name} in {text}"))?.parse()?)
    }

    /// Resident memory, in bytes.
    fn resident(&self) -> u64 {
        resident(self.child.id())
    }

    /// The TLS of whoever holds a cluster's credential.
    fn credential(&self, cluster: &str) -> Result<TlsConnector> {
        let dir = self.dir.path().join("state/nodes").join(cluster);
        connector(&dir)
    }

    async fn channel(&self, tls: &TlsConnector) -> Result<Channel> {
        let (server, tls) = (self.xds, tls.clone());
        let connect = tower::service_fn(move |_: Uri| {
            let tls = tls.clone();
            async move {
                let tcp = TcpStream::connect(server).await?;
                tcp.set_nodelay(true)?;
                let name = ServerName::from(server.ip());
                std::io::Result::Ok(TokioIo::new(tls.connect(name, tcp).await?))
            }
        });
        Ok(Endpoint::from_static("http://atlas").connect_with_connector(connect).await?)
    }
}

fn resident(process: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or_default();
    line.trim().trim_end_matches("kB").trim().parse().unwrap_or(0) * 1024
}

/// Looks again and again until something is so.
async fn wait_for(what: &str, mut so: impl AsyncFnMut() -> Result<bool>) -> Result<()> {
    let began = Instant::now();
    while !so().await? {
        ensure!(began.elapsed() < SOON, "{what}: not so after {SOON:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}

/// What a node's Envoy connects with: `tls.crt` and `tls.key` of its directory.
fn connector(dir: &Path) -> Result<TlsConnector> {
    let read = |name: &str| {
        std::fs::read_to_string(dir.join(name))
            .with_context(|| format!("cannot read {}/{name}", dir.display()))
    };
    let pem = read("tls.crt")? + &read("tls.key")?;
    let config = trusting_client(Some(&pem), &rustls::version::TLS13, &[b"h2"])?;
    Ok(TlsConnector::from(Arc::new(config)))
}

/// An incremental ADS stream.
struct Stream {
    requests: mpsc::Sender<DeltaDiscoveryRequest>,
    responses: Streaming<DeltaDiscoveryResponse>,
}

impl Stream {
    async fn open(channel: Channel) -> Result<Self> {
        let (requests, outgoing) = mpsc::channel(16);
        let mut client = AggregatedDiscoveryServiceClient::new(channel);
        let responses =
            client.delta_aggregated_resources(ReceiverStream::new(outgoing)).await?.into_inner();
        Ok(Self { requests, responses })
    }

    async fn subscribe(&self, kind: usize, names: &[String]) -> Result<()> {
        let type_url = TYPES[kind].into();
        Ok(self
            .requests
            .send(DeltaDiscoveryRequest {
                type_url,
                resource_names_subscribe: names.to_vec(),
                ..Default::default()
            })
            .await?)
    }

    /// The names in the next response, which is acknowledged.
    async fn receive(&mut self) -> Result<Vec<String>> {
        let response = tokio::time::timeout(SOON, self.responses.message())
            .await
            .context("nothing comes")??
            .context("the stream ended")?;
        let (type_url, response_nonce) = (response.type_url, response.nonce);
        self.requests
            .send(DeltaDiscoveryRequest { type_url, response_nonce, ..Default::default() })
            .await?;
        Ok(response.resources.into_iter().map(|resource| resource.name).collect())
    }
}

/// All that one credential can think of: 64 connections with two streams each, of which each asks
/// for so many names of each of five types, and never reads an answer. Returns what it still has.
async fn open_greedy_streams(server: &Server, cluster: &str, names: usize) -> Result<Vec<Stream>> {
    let tls = server.credential(cluster)?;
    let names: Vec<String> = (0..names).map(|n| format!("a-name-of-nothing-at-all-{n}")).collect();
    let mut open = Vec::new();
    for _ in 0..64 {
        // Any of it may fail: that is the server's right.
        let Ok(channel) = server.channel(&tls).await else { continue };
        for _ in 0..2 {
            let Ok(stream) = Stream::open(channel.clone()).await else { continue };
            for kind in 0..TYPES.len() {
                let _ = stream.subscribe(kind, &names).await;
            }
            open.push(stream);
        }
    }
    Ok(open)
}

/// Watches a process's memory until dropped.
struct MemoryWatch {
    peak: Arc<AtomicU64>,
    ended: Arc<AtomicBool>,
}

impl MemoryWatch {
    fn on(process: u32) -> Self {
        let (peak, ended): (Arc<AtomicU64>, Arc<AtomicBool>) = Default::default();
        let watch = Self { peak: Arc::clone(&peak), ended: Arc::clone(&ended) };
        std::thread::spawn(move || {
            while !ended.load(Ordering::Relaxed) {
                peak.fetch_max(resident(process), Ordering::Relaxed);
                std::thread::sleep(Duration::from_millis(5));
            }
        });
        watch
    }
}

impl Drop for MemoryWatch {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
    }
}

/// The chart lets Atlas have 512 MiB.
#[tokio::test(flavor = "multi_thread")]
async fn hostile_credentials_use_bounded_memory() -> Result<()> {
    let server = Server::start(&["tokyo", "paris", "oslo"]).await?;
    let mut honest = Stream::open(server.channel(&server.credential("oslo")?).await?).await?;
    honest.subscribe(0, &["*".into()]).await?;
    ensure!(!honest.receive().await?.is_empty(), "oslo has Envoy clusters");
    let before = server.resident();
    let watch = MemoryWatch::on(server.child.id());
    // As many as a stream may ask for; fewer, on as many connections as there may be; and again,
    // for what isn't given back would add up.
    for (round, names) in [4090, 100, 4090, 100, 4090, 4090].into_iter().enumerate() {
        let attack = async {
            tokio::try_join!(
                open_greedy_streams(&server, "tokyo", names),
                open_greedy_streams(&server, "paris", names)
            )
        };
        let changes = async {
            for change in 0..5 {
                server.change("oslo", &format!("prometheus-{round}-{change}.example.com"))?;
                let received = honest.receive().await?;
                ensure!(!received.is_empty(), "a change arrives meanwhile");
            }
            Ok(())
        };
        let (open, ()) = tokio::try_join!(attack, changes)?;
        let now = server.resident();
        println!("round {round}: {} MiB before, {} MiB at its end", before / MIB, now / MIB);
        drop(open);
        wait_for("all but the honest stream are gone", async || {
            Ok(server.metric("atlas_xds_streams").await? == 1)
        })
        .await?;
    }
    let peak = watch.peak.load(Ordering::Relaxed);
    println!(
        "{} MiB before, {} MiB at most, {} MiB now",
        before / MIB,
        peak / MIB,
        server.resident() / MIB
    );
    ensure!(peak < before + 64 * MIB, "{} MiB", peak / MIB);
    ensure!(
        server.metric("atlas_connections_dropped_total{limit=\"connections_per_node\"}").await? > 0,
        "connections made room"
    );
    ensure!(
        server.metric("atlas_xds_streams_ended_total{reason=\"memory\"}").await? > 0,
        "streams ended for their node's memory"
    );
    wait_for("what it took is free, or small", async || Ok(server.resident() < before + 32 * MIB))
        .await?;
    println!("{} MiB after", server.resident() / MIB);
    // After the flood an Envoy of the same cluster is served.
    let mut tokyo = Stream::open(server.channel(&server.credential("tokyo")?).await?).await?;
    tokyo.subscribe(0, &["*".into()]).await?;
    ensure!(!tokyo.receive().await?.is_empty());
    Ok(())
}

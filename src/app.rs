//! All wiring: what runs, in which order it starts, in which it stops.
//!
//! Start: lock the state, load the keys, bind every port (so that a taken one is an error at once), watch, serve.
//! Stop: say so to every stream, let them end, then the rest.

use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use atlas_core::model::Settings;
use atlas_core::pki::Lifetimes;
use envoy_types::pb::envoy::service::discovery::v3::aggregated_discovery_service_server::AggregatedDiscoveryServiceServer;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;

use crate::ads::Ads;
use crate::ca::{Directory, Pki};
use crate::controller::Controller;
use crate::dns;
use crate::http;
use crate::metrics::Metrics;
use crate::nodefiles::NodeFiles;
use crate::published::Published;
use crate::source::files;
use crate::state_dir::StateDir;
use crate::streams::Streams;
use crate::tls::{self, Gate, Limits};
use crate::web::{self, Web};

/// How long streams get to end by themselves.
const DRAIN: Duration = Duration::from_secs(5);

/// What `atlas run` was told.
#[derive(Clone, Debug)]
pub struct Options {
    /// Directory of manifests.
    pub from: PathBuf,
    /// State directory.
    pub state: PathBuf,
    /// Where what Thanos and CoreDNS read goes too.
    pub public_dir: Option<PathBuf>,
    /// What the plan depends on.
    pub settings: Settings,
    /// How long certificates live.
    pub lifetimes: Lifetimes,
    /// Where Atlas listens.
    pub listen: IpAddr,
    /// Its xDS port.
    pub xds_port: u16,
    /// Its port for metrics and health.
    pub metrics_port: u16,
    /// Its port for the web page.
    pub web_port: u16,
    /// Its port for DNS.
    pub dns_port: u16,
    /// Longest life of an xDS stream.
    pub max_stream_age: Duration,
}

/// Runs until a signal, or until something that must run can't.
pub async fn run(options: Options) -> anyhow::Result<()> {
    let limits = Limits::for_files(raise_file_limit());
    let state = StateDir::at(&options.state)?;
    let _lock = state.lock()?;
    let domain = options.settings.trust_domain.clone();
    let pki = Pki::load(Directory(state.clone()), domain.clone(), options.lifetimes)?;
    let bind = |port| bind(options.listen, port);
    let (xds, metrics_port, web_port) = (bind(options.xds_port).await?, bind(options.metrics_port).await?, bind(options.web_port).await?);
    let dns_sockets = dns::Sockets::bind(SocketAddr::new(options.listen, options.dns_port)).await?;
    let socket = bind_socket(&state)?;

    let (published_in, published) = watch::channel::<Option<Arc<Published>>>(None);
    let (reports_in, reports) = watch::channel(None);
    let (commands_in, commands) = mpsc::channel(16);
    let (metrics, streams, gate) = (Arc::new(Metrics::new()), Arc::new(Streams::default()), Arc::new(Gate::new(domain)));
    let (drain, stop) = (CancellationToken::new(), CancellationToken::new());
    let mut tasks = Tasks::default();

    let controller = Controller {
        settings: options.settings.clone(),
        pki,
        state: state.clone(),
        public_dir: options.public_dir.clone(),
        node_files: NodeFiles::new(state.clone()),
        gate: Arc::clone(&gate),
        streams: Arc::clone(&streams),
        metrics: Arc::clone(&metrics),
        out: published_in,
    };
    tasks.spawn("the controller", controller.run(reports, commands, stop.clone()));
    let ads = Ads {
        published: published.clone(),
        streams: Arc::clone(&streams),
        gate: Arc::clone(&gate),
        metrics: Arc::clone(&metrics),
        max_age: options.max_stream_age,
        drain: drain.clone(),
    };
    tasks.spawn("the xDS server", serve_xds(xds, ads, gate, Arc::clone(&metrics), limits, drain.clone()));
    tasks.spawn("the DNS server", dns::serve(dns_sockets, published.clone(), Arc::clone(&metrics), stop.clone()));
    let web = Web { published, streams: Arc::clone(&streams), metrics, commands: commands_in };
    tasks.spawn("the metrics server", http::serve(metrics_port, web::operations(web.clone()), stop.clone()));
    tasks.spawn("the web server", http::serve(web_port, web::public(web.clone()), stop.clone()));
    tasks.spawn("the control socket", serve_socket(socket, web::control(web), stop.clone()));
    tracing::info!(from = %options.from.display(), state = %state.root().display(), listen = %options.listen, xds = options.xds_port, "atlas runs");

    // Kept until the end, or the controller would take the end of the watch for its own.
    let _reports = reports_in.clone();
    let watching = files::watch(options.from.clone(), reports_in, stop.clone());
    let result = tokio::select! {
        result = watching => result.context("cannot watch the manifests"),
        ended = tasks.first() => Err(anyhow::anyhow!("{ended} has ended, which it never should: please report this")),
        signal = signal() => {
            tracing::info!(signal, "stopping: ending {} streams", streams.open().len());
            Ok(())
        }
    };
    drain.cancel();
    let emptied = async {
        while !streams.open().is_empty() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let _ = tokio::time::timeout(DRAIN, emptied).await;
    stop.cancel();
    if tokio::time::timeout(DRAIN, tasks.all()).await.is_err() {
        tracing::warn!("some connections did not end in time");
    }
    let _ = std::fs::remove_file(state.socket());
    tracing::info!("stopped");
    result
}

/// What runs beside each other. None ends before it is told to.
#[derive(Default)]
struct Tasks(JoinSet<&'static str>);

impl Tasks {
    fn spawn(&mut self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        self.0.spawn(async move {
            task.await;
            name
        });
    }

    /// The name of the first to end, or that one panicked.
    async fn first(&mut self) -> &'static str {
        match self.0.join_next().await {
            Some(Ok(name)) => name,
            Some(Err(_)) => "a task that panicked (see above)",
            None => std::future::pending().await,
        }
    }

    async fn all(&mut self) {
        while self.0.join_next().await.is_some() {}
    }
}

/// Lets this process open as many files as it may; returns how many. The usual soft limit of 1,024 is for programs that
/// call `select`.
fn raise_file_limit() -> u64 {
    let limit = getrlimit(Resource::Nofile);
    let wanted = Rlimit { current: limit.maximum, maximum: limit.maximum };
    let raised = setrlimit(Resource::Nofile, wanted).is_ok();
    let files = if raised { limit.maximum } else { limit.current };
    // No limit is still bounded by memory.
    files.unwrap_or(1 << 20)
}

async fn bind(ip: IpAddr, port: u16) -> anyhow::Result<TcpListener> {
    let address = SocketAddr::new(ip, port);
    TcpListener::bind(address).await.with_context(|| {
        format!("cannot listen on {address}: is another program there? (--listen-address and the --*-port flags change it)")
    })
}

/// The lock is held, so a socket that is there is a dead process's.
fn bind_socket(state: &StateDir) -> anyhow::Result<UnixListener> {
    let path = state.socket();
    let _ = std::fs::remove_file(&path);
    let listener = UnixListener::bind(&path)
        .with_context(|| format!("cannot listen on {} (a socket's path may have 107 characters at most)", path.display()))?;
    std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
    Ok(listener)
}

async fn serve_xds(listener: TcpListener, ads: Ads, gate: Arc<Gate>, metrics: Arc<Metrics>, limits: Limits, drain: CancellationToken) {
    let (connections_in, connections) = mpsc::channel(64);
    tokio::spawn(tls::accept(listener, gate, metrics, limits, connections_in, drain.clone()));
    let server = tonic::transport::Server::builder()
        // A peer that is gone without a word is noticed after 40 s.
        .http2_keepalive_interval(Some(Duration::from_secs(30)))
        .http2_keepalive_timeout(Some(Duration::from_secs(10)))
        // One ADS stream is what an Envoy needs.
        .max_concurrent_streams(Some(8))
        .add_service(AggregatedDiscoveryServiceServer::new(ads))
        .serve_with_incoming_shutdown(ReceiverStream::new(connections), drain.cancelled_owned());
    if let Err(error) = server.await {
        tracing::error!(%error, "the xDS server ended");
    }
}

async fn serve_socket(listener: UnixListener, router: axum::Router, stop: CancellationToken) {
    if let Err(error) = axum::serve(listener, router).with_graceful_shutdown(stop.cancelled_owned()).await {
        tracing::error!(%error, "the control socket ended");
    }
}

/// Waits for a signal to stop; returns its name.
async fn signal() -> &'static str {
    use tokio::signal::unix::{SignalKind, signal};
    let (Ok(mut terminate), Ok(mut interrupt)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt())) else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = terminate.recv() => "SIGTERM",
        _ = interrupt.recv() => "SIGINT",
    }
}

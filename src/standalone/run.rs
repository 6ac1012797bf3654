//! All wiring: what runs, in which order it starts, in which it stops.
//!
//! Start: lock the state, load the keys, bind every port (so that a taken one is an error at once), watch, serve.
//! Stop: say so to every stream, let them end, then the rest.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use tokio::net::UnixListener;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::config::{Config, StandaloneConfig};
use crate::dns;
use crate::engine::Engine;
use crate::engine::publisher::Publisher;
use crate::metrics::Metrics;
use crate::pki::Pki;
use crate::process::debounce::Debounce;
use crate::process::listen::bind_tcp;
use crate::process::open_files;
use crate::process::shutdown::{DRAIN_TIMEOUT, wait_for_signal};
use crate::process::tasks::Tasks;
use crate::standalone::last_good_files::LastGoodFiles;
use crate::standalone::output_files::OutputFiles;
use crate::standalone::pki_directory::PkiDirectory;
use crate::standalone::provider::DirectoryProvider;
use crate::standalone::state_dir::StateDir;
use crate::standalone::watch::{self, UpdateQueue, WatchTiming};
use crate::state::{Nodes, StateStore};
use crate::web::http::{self, Server};
use crate::web::{self, Web};
use crate::xds::streams::Streams;
use crate::xds::{self, ClientAuthorizer, XdsServer};

/// Runs until a signal, or until something that must run can't.
pub async fn run(config: Config, standalone: StandaloneConfig) -> anyhow::Result<()> {
    let limits = config.limits.for_open_files(open_files::raise_limit());
    // Whatever is made is its owner's alone, unless it is made readable: the control socket too, from its first moment.
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
    let state = StateDir::at(&standalone.state)?;
    let _lock = state.lock()?;
    if let Some(dir) = &standalone.public_dir {
        state.ensure_apart(dir)?;
    }
    let domain = config.settings.trust_domain.clone();
    let pki = Pki::load(PkiDirectory::new(state.clone()), domain.clone(), config.lifetimes)?;
    let listen = config.listen;
    let bind = |port| bind_tcp(listen.ip, port);
    let (xds_port, metrics_port, web_port) =
        (bind(listen.xds).await?, bind(listen.metrics).await?, bind(listen.web).await?);
    let dns_sockets = dns::Sockets::bind(SocketAddr::new(listen.ip, listen.dns)).await?;
    let socket = bind_socket(&state)?;

    let (state_store, nodes, queue) = (
        Arc::new(StateStore::default()),
        Arc::new(Nodes::default()),
        Arc::new(UpdateQueue::default()),
    );
    let (commands_in, commands) = mpsc::channel(16);
    let (metrics, streams, client_authorizer) = (
        Arc::new(Metrics::new()),
        Arc::new(Streams::default()),
        Arc::new(ClientAuthorizer::new(domain)),
    );
    let (drain, stop) = (CancellationToken::new(), CancellationToken::new());
    let mut tasks = Tasks::default();

    let publisher = Publisher {
        client_authorizer: Arc::clone(&client_authorizer),
        streams: Arc::clone(&streams),
        nodes: Arc::clone(&nodes),
        metrics: Arc::clone(&metrics),
        state_store: Arc::clone(&state_store),
    };
    let last_good = LastGoodFiles::load(state.clone());
    let earlier = last_good.manifests().clone();
    let outputs = OutputFiles::new(state.clone(), standalone.public_dir.clone());
    let provider = DirectoryProvider::new(Arc::clone(&queue), last_good, outputs);
    // The watch of the directory has waited for the end of a burst already.
    let debounce = Debounce { idle: Duration::ZERO, longest: Duration::ZERO };
    let settings = config.settings.clone();
    let engine = Engine::new(settings, provider, pki, publisher, debounce, Some(commands));
    tasks.spawn("the engine", engine.run(stop.clone()));
    let service = Arc::new(XdsServer {
        nodes: Arc::clone(&nodes),
        state_store: Arc::clone(&state_store),
        streams: Arc::clone(&streams),
        client_authorizer,
        metrics: Arc::clone(&metrics),
        limits,
        max_stream_age: config.max_stream_age,
        keep_unknown_for: Duration::ZERO,
        drain: drain.clone(),
    });
    tasks.spawn("the xDS server", xds::accept(xds_port, service));
    tasks.spawn(
        "the DNS server",
        dns::serve(dns_sockets, state_store.zone_source(), Arc::clone(&metrics), stop.clone()),
    );
    let server =
        |router, port| Server { router, port, metrics: Arc::clone(&metrics), stop: stop.clone() };
    let path = config.settings.web_path().to_owned();
    let web = Web {
        path,
        state_store,
        nodes,
        streams: Arc::clone(&streams),
        metrics: Arc::clone(&metrics),
    };
    tasks.spawn(
        "the metrics server",
        http::serve(metrics_port, server(web::operations(web.clone()), "metrics")),
    );
    tasks.spawn("the web server", http::serve(web_port, server(web::public(web.clone()), "web")));
    tasks.spawn(
        "the control socket",
        http::serve(socket, server(web::control(web, commands_in), "control")),
    );
    tracing::info!(from = %standalone.manifests.display(), state = %state.root().display(), listen = %listen.ip, xds = listen.xds, "atlas runs");

    let timing = WatchTiming { debounce: config.debounce, ..WatchTiming::default() };
    let watching = watch::watch(standalone.manifests.clone(), queue, timing, earlier, stop.clone());
    let result = tokio::select! {
        result = watching => result.context("cannot watch the manifests"),
        ended = tasks.first_ended() => Err(anyhow::anyhow!("{ended} has ended, which it never should: please report this")),
        signal = wait_for_signal() => {
            tracing::info!(signal, "stopping: ending {} streams", streams.open().len());
            Ok(())
        }
    };
    drain.cancel();
    streams.wait_closed(DRAIN_TIMEOUT).await;
    stop.cancel();
    if tokio::time::timeout(DRAIN_TIMEOUT, tasks.join_all()).await.is_err() {
        tracing::warn!("some connections did not end in time");
    }
    let _ = std::fs::remove_file(state.socket());
    tracing::info!("stopped");
    result
}

/// The lock is held, so a socket that is there is a dead process's.
fn bind_socket(state: &StateDir) -> anyhow::Result<UnixListener> {
    let path = state.socket();
    let _ = std::fs::remove_file(&path);
    let listener = UnixListener::bind(&path).with_context(|| {
        format!(
            "cannot listen on {} (a socket's path may have 107 characters at most)",
            path.display()
        )
    })?;
    std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
    Ok(listener)
}

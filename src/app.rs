//! The wiring of both modes: which servers run, and in which order everything starts and stops.
//!
//! Start: bind every port, so that a taken one is an error at once; then serve; then run the
//! engine. Stop: end the xDS streams, then the engine and the servers. What a mode has beside them
//! stops after that.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use tokio_util::sync::CancellationToken;

use crate::config::Config;
use crate::dns;
use crate::engine::publisher::Publisher;
use crate::metrics::Metrics;
use crate::process::listen::bind_tcp;
use crate::process::open_files;
use crate::process::shutdown::{DRAIN_TIMEOUT, wait_for_signal};
use crate::process::tasks::Tasks;
use crate::state::{Nodes, StateStore};
use crate::web::http::{self, HttpServer};
use crate::web::{self, WebState};
use crate::xds::open_streams::Streams;
use crate::xds::{self, ClientAuthorizer, XdsServer};

/// The servers of one process, and what they share with the engine.
pub struct App {
    /// Everything that runs until [`App::stop`].
    pub tasks: Tasks,
    /// Cancelled when everything but the xDS streams is to end.
    pub stop: CancellationToken,
    /// The state in force.
    pub state_store: Arc<StateStore>,
    /// Open streams.
    pub streams: Arc<Streams>,
    pub metrics: Arc<Metrics>,
    nodes: Arc<Nodes>,
    client_authorizer: Arc<ClientAuthorizer>,
    /// Cancelled when the xDS streams are to end.
    drain: CancellationToken,
    web_path: String,
}

impl App {
    /// Binds the ports and starts the servers: of metrics always, the others where this process
    /// `serves`.
    ///
    /// # Errors
    /// A port is taken, or the address isn't this machine's.
    pub async fn start(
        config: &Config,
        serves: bool,
        keep_unknown_for: Duration,
    ) -> anyhow::Result<Self> {
        let limits = config.limits.for_open_files(open_files::raise_limit());
        let listen = config.listen;
        let metrics_port = bind_tcp(listen.ip, listen.metrics).await?;
        let ports = if serves {
            Some((
                bind_tcp(listen.ip, listen.xds).await?,
                bind_tcp(listen.ip, listen.web).await?,
                dns::Sockets::bind(SocketAddr::new(listen.ip, listen.dns)).await?,
            ))
        } else {
            None
        };
        let trust_domain = config.settings.trust_domain.clone();
        let mut app = Self {
            tasks: Tasks::default(),
            stop: CancellationToken::new(),
            state_store: Arc::new(StateStore::default()),
            streams: Arc::new(Streams::default()),
            metrics: Arc::new(Metrics::new()),
            nodes: Arc::new(Nodes::default()),
            client_authorizer: Arc::new(ClientAuthorizer::new(trust_domain)),
            drain: CancellationToken::new(),
            web_path: config.settings.web_path().to_owned(),
        };
        let server = app.http_server(web::operations(app.web()), "metrics");
        app.tasks.spawn("the metrics server", http::serve(metrics_port, server));
        let Some((xds_port, web_port, dns_sockets)) = ports else { return Ok(app) };
        let xds_server = Arc::new(XdsServer {
            nodes: Arc::clone(&app.nodes),
            state_store: Arc::clone(&app.state_store),
            streams: Arc::clone(&app.streams),
            client_authorizer: Arc::clone(&app.client_authorizer),
            metrics: Arc::clone(&app.metrics),
            limits,
            max_stream_age: config.max_stream_age,
            keep_unknown_for,
            drain: app.drain.clone(),
        });
        app.tasks.spawn("the xDS server", xds::accept(xds_port, xds_server));
        let zones = app.state_store.zone_source();
        let metrics = Arc::clone(&app.metrics);
        app.tasks
            .spawn("the DNS server", dns::serve(dns_sockets, zones, metrics, app.stop.clone()));
        let server = app.http_server(web::public(app.web()), "web");
        app.tasks.spawn("the web server", http::serve(web_port, server));
        Ok(app)
    }

    /// What the handlers of HTTP servers read.
    pub fn web(&self) -> WebState {
        WebState {
            path: self.web_path.clone(),
            state_store: Arc::clone(&self.state_store),
            nodes: Arc::clone(&self.nodes),
            streams: Arc::clone(&self.streams),
            metrics: Arc::clone(&self.metrics),
        }
    }

    /// An HTTP server that stops with this. `port`: its label in metrics.
    pub fn http_server(&self, router: Router, port: &'static str) -> HttpServer {
        HttpServer { router, port, metrics: Arc::clone(&self.metrics), stop: self.stop.clone() }
    }

    /// Where the engine's results take effect.
    pub fn publisher(&self) -> Publisher {
        Publisher {
            client_authorizer: Arc::clone(&self.client_authorizer),
            streams: Arc::clone(&self.streams),
            nodes: Arc::clone(&self.nodes),
            metrics: Arc::clone(&self.metrics),
            state_store: Arc::clone(&self.state_store),
        }
    }

    /// Runs the engine until a signal, then stops everything. `other_ended` completes if what a
    /// mode runs beside the tasks ends, with the reason.
    ///
    /// # Errors
    /// Something has ended that should run for as long as the process does. Everything is stopped
    /// all the same.
    pub async fn run(
        mut self,
        engine: impl Future<Output = ()> + Send + 'static,
        other_ended: impl Future<Output = anyhow::Error>,
    ) -> anyhow::Result<()> {
        self.tasks.spawn("the engine", engine);
        let ended = tokio::select! {
            name = self.tasks.first_ended() => Err(has_ended(name)),
            reason = other_ended => Err(reason),
            signal = wait_for_signal() => {
                tracing::info!(signal, "stopping: ending {} streams", self.streams.open().len());
                Ok(())
            }
        };
        self.drain.cancel();
        self.streams.wait_closed(DRAIN_TIMEOUT).await;
        self.stop.cancel();
        if tokio::time::timeout(DRAIN_TIMEOUT, self.tasks.join_all()).await.is_err() {
            tracing::warn!("some connections did not end in time");
        }
        ended
    }
}

/// The error for something that has ended although it should run for as long as the process does.
pub fn has_ended(name: &str) -> anyhow::Error {
    anyhow::anyhow!("{name} has ended, which it never should: please report this")
}

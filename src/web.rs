//! HTTP: the page and read-only API on 6310, health and metrics on 6309, and the 0600 socket for commands.

pub mod http;
pub mod status;

mod page;

use std::sync::Arc;

use axum::Router;
use axum::extract::{Path, State};
use axum::http::{StatusCode, header};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::{get, post};
use tokio::sync::{mpsc, oneshot};

use crate::engine::Command;
use crate::kube::election::Candidate;
use crate::metrics::Metrics;
use crate::process::clock;
use crate::state::Nodes;
use crate::state::StateStore;
use crate::xds;
use crate::xds::streams::Streams;
use status::Status;

/// What the handlers read.
#[derive(Clone)]
pub struct Web {
    /// What is in force.
    pub state_store: Arc<StateStore>,
    /// What nodes should have.
    pub nodes: Arc<Nodes>,
    /// Open streams.
    pub streams: Arc<Streams>,
    /// Counts.
    pub metrics: Arc<Metrics>,
    /// To the controller.
    pub commands: mpsc::Sender<Command>,
    /// The path of `--web-url`, below which people's browsers see this page.
    pub path: String,
    /// On Kubernetes: this replica in the election.
    pub candidate: Option<Arc<Candidate>>,
}

impl Web {
    fn status(&self) -> Status {
        let mut status = self
            .state_store
            .read(|published| status::status(published, &self.nodes, &self.streams, clock::now()));
        status.leader =
            self.candidate.as_ref().map(|candidate| candidate.seen().holder.unwrap_or_default());
        status
    }
}

/// 6310: for people, through the hub Envoy. Reads only.
pub fn public(web: Web) -> Router {
    let router = Router::new()
        .route("/", get(index))
        .route("/api/v1/status", get(api_status))
        .with_state(web);
    router.layer(axum::middleware::from_fn(known_host))
}

/// 6309: for the kubelet and Prometheus.
pub fn operations(web: Web) -> Router {
    Router::new()
        .route("/livez", get(|| async { "ok\n" }))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .with_state(web)
}

/// The socket in the state directory: for whoever owns it.
pub fn control(web: Web) -> Router {
    Router::new()
        .route("/api/v1/status", get(api_status))
        .route("/api/v1/forget/{cluster}", post(forget))
        .with_state(web)
}

/// Answers only by an address, `localhost` or the name that the hub's Envoy uses: a page from elsewhere whose own name has
/// been turned to this address (DNS rebinding) reads nothing. Through the hub's Envoy any name leads here: there it is the
/// ingress in front that knows the right ones.
async fn known_host(request: axum::extract::Request, next: axum::middleware::Next) -> Response {
    let host =
        request.headers().get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    let name = host
        .rsplit_once(':')
        .filter(|(name, _)| !name.contains(':') || name.ends_with(']'))
        .map_or(host, |(name, _)| name);
    let address =
        name.trim_start_matches('[').trim_end_matches(']').parse::<std::net::IpAddr>().is_ok();
    if address || name == "localhost" || name == atlas_core::envoy::ATLAS_AUTHORITY {
        return next.run(request).await;
    }
    (
        StatusCode::MISDIRECTED_REQUEST,
        "open this page through the hub's Envoy, or by an IP address\n",
    )
        .into_response()
}

async fn index(State(web): State<Web>) -> Html<String> {
    Html(page::index(&web.status(), &web.path))
}

/// Also read with `curl` on a terminal.
async fn api_status(State(web): State<Web>) -> Response {
    let body =
        serde_json::to_string(&web.status()).map(|text| atlas_core::text::json(&text).into_owned());
    body.map(|body| ([(header::CONTENT_TYPE, "application/json")], body))
        .map_err(|error| {
            (StatusCode::INTERNAL_SERVER_ERROR, format!("BUG: the status is no JSON: {error}\n"))
        })
        .into_response()
}

async fn readyz(State(web): State<Web>) -> (StatusCode, &'static str) {
    if web.state_store.is_ready() {
        (StatusCode::OK, "ready\n")
    } else {
        (
            StatusCode::SERVICE_UNAVAILABLE,
            "not ready: not everything has been read yet, or there is no certificate yet\n",
        )
    }
}

async fn metrics(State(web): State<Web>) -> Response {
    let mut counts = std::collections::BTreeMap::new();
    web.state_store
        .read(|published| published.into_iter().for_each(|published| web.metrics.count(published)));
    counts.extend(web.nodes.all().iter().map(|node| (node.to_string(), 0i64)));
    web.streams
        .open()
        .iter()
        .for_each(|stream| *counts.entry(stream.peer.node.to_string()).or_default() += 1);
    // Nodes that are gone must not linger.
    web.metrics.connected.clear();
    for (node, count) in counts {
        web.metrics.connected.get_or_create(&[("node", node)]).set(count);
    }
    web.metrics.connections.set(i64::try_from(web.streams.connections()).unwrap_or(i64::MAX));
    web.metrics.quarantined.clear();
    for node in web.nodes.all() {
        let count = xds::quarantined(&web.nodes, &node).len();
        if count > 0 {
            web.metrics
                .quarantined
                .get_or_create(&[("node", node.to_string())])
                .set(i64::try_from(count).unwrap_or(i64::MAX));
        }
    }
    (
        [(header::CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")],
        web.metrics.render(),
    )
        .into_response()
}

async fn forget(State(web): State<Web>, Path(cluster): Path<String>) -> (StatusCode, String) {
    let cluster = match cluster.parse::<atlas_core::name::ClusterName>() {
        Ok(name) => name,
        Err(error) => return (StatusCode::BAD_REQUEST, format!("{cluster:?} {error}\n")),
    };
    let (reply, answer) = oneshot::channel();
    if web.commands.send(Command::Forget(cluster, reply)).await.is_err() {
        return (StatusCode::SERVICE_UNAVAILABLE, "Atlas is stopping\n".into());
    }
    match answer.await {
        Ok(Ok(())) => (StatusCode::OK, "forgotten\n".into()),
        Ok(Err(error)) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error:#}\n")),
        Err(_) => (StatusCode::SERVICE_UNAVAILABLE, "Atlas is stopping\n".into()),
    }
}

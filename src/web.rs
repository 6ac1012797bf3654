//! HTTP: the web page and the read-only API (port 6310), health and metrics (port 6309), and the
//! control socket of a standalone Atlas, whose file mode is 0600.

pub mod http;
pub mod status;

mod known_host;
mod page;
mod scrape;

use std::sync::Arc;

use atlas_core::name::ClusterName;
use axum::Router;
use axum::extract::{Path, State};
use axum::http::{StatusCode, header};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::{get, post};
use tokio::sync::{mpsc, oneshot};

use crate::metrics::Metrics;
use crate::process::clock;
use crate::state::{EngineCommand, Nodes, StateStore};
use crate::xds::open_streams::Streams;
use status::Status;

/// The data that the handlers read.
#[derive(Clone)]
pub struct WebState {
    /// The state in force.
    pub state_store: Arc<StateStore>,
    /// The resources of each node.
    pub nodes: Arc<Nodes>,
    /// Open streams.
    pub streams: Arc<Streams>,
    pub metrics: Arc<Metrics>,
    /// The path of `--web-url`, under which browsers reach the page.
    pub path: String,
}

impl WebState {
    fn status(&self) -> Status {
        let mut status = self
            .state_store
            .read(|published| status::status(published, &self.nodes, &self.streams, clock::now()));
        status.leader = self.state_store.leader();
        status
    }
}

/// Port 6310: for people, through the hub's Envoy. It only reads.
pub fn public(web: WebState) -> Router {
    let router = Router::new()
        .route("/", get(index))
        .route("/api/v1/status", get(api_status))
        .with_state(web);
    router.layer(axum::middleware::from_fn(known_host::require))
}

/// Port 6309: for the kubelet and Prometheus.
pub fn operations(web: WebState) -> Router {
    Router::new()
        .route("/livez", get(|| async { "ok\n" }))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .with_state(web)
}

/// The control socket in the state directory: for the user who runs Atlas.
pub fn control(web: WebState, commands: mpsc::Sender<EngineCommand>) -> Router {
    let status = Router::new().route("/api/v1/status", get(api_status)).with_state(web);
    let forget =
        Router::new().route("/api/v1/forget/{cluster}", post(forget_cluster)).with_state(commands);
    status.merge(forget)
}

async fn index(State(web): State<WebState>) -> Html<String> {
    Html(page::index(&web.status(), &web.path))
}

/// The status as JSON. What an Envoy or an object says is escaped in it, because people also read
/// it with `curl` on a terminal.
async fn api_status(State(web): State<WebState>) -> Response {
    match serde_json::to_string(&web.status()) {
        Ok(text) => {
            let body = atlas_core::text::json(&text).into_owned();
            ([(header::CONTENT_TYPE, "application/json")], body).into_response()
        }
        Err(error) => {
            let body = format!("BUG: the status is no JSON: {error}\n");
            (StatusCode::INTERNAL_SERVER_ERROR, body).into_response()
        }
    }
}

async fn readyz(State(web): State<WebState>) -> (StatusCode, &'static str) {
    if web.state_store.is_ready() {
        (StatusCode::OK, "ready\n")
    } else {
        (
            StatusCode::SERVICE_UNAVAILABLE,
            "not ready: not everything has been read yet, or there is no certificate yet\n",
        )
    }
}

async fn metrics(State(web): State<WebState>) -> Response {
    const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, OPEN_METRICS)], scrape::scrape(&web)).into_response()
}

async fn forget_cluster(
    State(commands): State<mpsc::Sender<EngineCommand>>,
    Path(cluster): Path<String>,
) -> (StatusCode, String) {
    let cluster = match cluster.parse::<ClusterName>() {
        Ok(name) => name,
        Err(error) => return (StatusCode::BAD_REQUEST, format!("{cluster:?} {error}\n")),
    };
    let (reply, answer) = oneshot::channel();
    if commands.send(EngineCommand::ForgetCluster(cluster, reply)).await.is_err() {
        return (StatusCode::SERVICE_UNAVAILABLE, "Atlas is stopping\n".into());
    }
    match answer.await {
        Ok(Ok(())) => (StatusCode::OK, "forgotten\n".into()),
        Ok(Err(error)) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error:#}\n")),
        Err(_) => (StatusCode::SERVICE_UNAVAILABLE, "Atlas is stopping\n".into()),
    }
}

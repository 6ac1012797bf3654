//! Honest clients: what each asks, and what is a good answer.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::PoisonError;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::json;

use super::backend::INFO;
use super::dial::{self, Door};
use super::field::{Field, service};
use super::grpc;
use crate::http::{self, Request};
use crate::process::wait_until;
use crate::world::Host;

/// Who doesn't have an answer by then has failed. Thrice what a busy machine needs for the slowest
/// of them.
const PATIENCE: Duration = Duration::from_secs(15);

/// A kind of request. `&'static str` is a cluster's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Honest {
    /// A PromQL query of one cluster's data, through Thanos Query.
    Query(&'static str),
    /// A gRPC call to one cluster's store at 10901.
    Store(&'static str),
    /// A page of one cluster's Prometheus at 10904.
    Prometheus(&'static str),
    /// A page of one cluster's Alertmanager at 10904.
    Alertmanager(&'static str),
    /// Atlas's page at 10904.
    Page,
    /// An alert that paris posts to one of the hub's Alertmanagers, by way of its own 11903.
    Alert(usize),
    /// A new xDS stream through 10900.
    Connect,
    /// A cluster that comes or goes, as the hub's Envoy knows it.
    HubChange,
    /// A changed annotation, as paris's Envoy knows it.
    ClusterChange,
    /// 9001 of the hub's Envoy.
    HubProbe,
    /// 9001 of paris's Envoy.
    ClusterProbe,
    /// Atlas's own readiness.
    AtlasProbe,
    /// Alerts of tokyo at tokyo's own Alertmanager.
    LocalAlerts,
}

/// Everybody whom no attack may cost anything.
pub(super) const ALL: &[Honest] = &[
    Honest::Query("paris"),
    Honest::Query("tokyo"),
    Honest::Store("paris"),
    Honest::Prometheus("paris"),
    Honest::Prometheus("tokyo"),
    Honest::Alertmanager("tokyo"),
    Honest::Page,
    Honest::Alert(0),
    Honest::Alert(1),
    Honest::Connect,
    Honest::HubChange,
    Honest::ClusterChange,
    Honest::HubProbe,
    Honest::ClusterProbe,
    Honest::AtlasProbe,
];

impl Honest {
    /// What it is called in tables.
    pub(super) fn name(self) -> String {
        match self {
            Honest::Query(cluster) => format!("query of {cluster}"),
            Honest::Store(cluster) => format!("store of {cluster}"),
            Honest::Prometheus(cluster) => format!("Prometheus of {cluster}"),
            Honest::Alertmanager(cluster) => format!("Alertmanager of {cluster}"),
            Honest::Page => "Atlas's page".into(),
            Honest::Alert(index) => format!("alert to Alertmanager {index}"),
            Honest::Connect => "new xDS stream".into(),
            Honest::HubChange => "change at the hub".into(),
            Honest::ClusterChange => "change at paris".into(),
            Honest::HubProbe => "9001 of the hub".into(),
            Honest::ClusterProbe => "9001 of paris".into(),
            Honest::AtlasProbe => "Atlas's readiness".into(),
            Honest::LocalAlerts => "tokyo's own alerting".into(),
        }
    }

    /// Whether it asks from the strangers' host.
    pub(super) fn is_asked_by_strangers(self) -> bool {
        matches!(
            self,
            Honest::Prometheus(_)
                | Honest::Alertmanager(_)
                | Honest::Page
                | Honest::HubChange
                | Honest::ClusterChange
        )
    }

    /// Waits until what it asks for has been promised: local alerting may stand still until it is
    /// known that nobody at the hub answers.
    pub(super) fn wait(self, field: &Field) {
        if self != Honest::LocalAlerts {
            return;
        }
        // The attack begins at the same time.
        thread::sleep(Duration::from_millis(500));
        let known = *field.known.lock().unwrap_or_else(PoisonError::into_inner);
        thread::sleep(
            known.map_or(Duration::ZERO, |known| known.saturating_duration_since(Instant::now())),
        );
    }

    /// Asks once; an error is a failure.
    pub(super) fn ask(self, field: &Field) -> Result<()> {
        let round = ROUND.fetch_add(1, Ordering::Relaxed);
        let hub = &field.hub.place.host;
        match self {
            Honest::Query(cluster) => query(field, cluster),
            Honest::Store(cluster) => {
                let door = Door::plain(field.hub_port(10901));
                let authority = format!("{cluster}-thanos-sidecar0.sidecars.thanos.atlas:10901");
                within(hub, move || async move { grpc::unary(&door, &authority, INFO, &[]).await })
            }
            Honest::Prometheus(cluster) => page(field, &format!("/prom/{cluster}/-/healthy")),
            Honest::Alertmanager(cluster) => {
                page(field, &format!("/alertmanager/{cluster}/-/healthy"))
            }
            Honest::Page => page(field, "/"),
            Honest::Alert(index) => alert(field, index, round),
            Honest::Connect => {
                let door = Door::secure(
                    field.hub_port(10900),
                    Some(&field.credential("bootstrap.kyoto")?),
                )?;
                within(&field.paris.place.host, move || async move { connect(&door).await })
            }
            Honest::HubChange => hub_change(field),
            Honest::ClusterChange => cluster_change(field),
            Honest::HubProbe => {
                probe(hub, SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 9001), "/ready")
            }
            Honest::ClusterProbe => probe(
                &field.paris.place.host,
                SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 9001),
                "/ready",
            ),
            Honest::AtlasProbe => {
                probe(hub, SocketAddr::new(field.hub.atlas.options.listen, 6309), "/readyz")
            }
            Honest::LocalAlerts => local_alerts(field, round),
        }
    }
}

/// How often anybody has asked: alerts differ by it.
static ROUND: AtomicUsize = AtomicUsize::new(0);

/// Runs a future in a host's network, for as long as an honest client waits.
fn within<F: Future<Output = Result<()>>>(
    host: &Host,
    future: impl FnOnce() -> F + Send,
) -> Result<()> {
    dial::run(host, || async {
        tokio::time::timeout(PATIENCE, future())
            .await
            .with_context(|| format!("no answer within {PATIENCE:?}"))?
    })
}

/// So often an Envoy may be turned away when it connects, and between two tries it waits so long
/// (its backoff begins there). When very many connect at once, Atlas ends handshakes that have
/// taken a second.
const TRIES: usize = 3;
const BACKOFF: Duration = Duration::from_millis(500);

/// Opens an xDS stream as an Envoy does, which tries again.
async fn connect(door: &Door) -> Result<()> {
    for _ in 1..TRIES {
        if grpc::discover(door, "kyoto").await.is_ok() {
            return Ok(());
        }
        tokio::time::sleep(BACKOFF).await;
    }
    grpc::discover(door, "kyoto").await
}

fn get(host: &Host, url: &str) -> Result<http::Response> {
    host.within(|| http::get_within(PATIENCE, url))
}

/// The whole answer of one cluster, without a word that something of it is missing.
fn query(field: &Field, cluster: &str) -> Result<()> {
    let promql = format!("count%28up%7Bcluster%3D%22{cluster}%22%7D%29");
    let url = format!("{}/api/v1/query?query={promql}", field.hub.query.url());
    let answer = get(&field.hub.place.host, &url)?.ok()?;
    let json: serde_json::Value = answer.json()?;
    ensure!(
        json["data"]["result"].as_array().is_some_and(|series| series.len() == 1),
        "{}",
        answer.text()
    );
    ensure!(!json["warnings"].to_string().contains(cluster), "{}", answer.text());
    Ok(())
}

fn page(field: &Field, path: &str) -> Result<()> {
    get(&field.stranger, &field.hub.web_url(path))?.ok().map(drop)
}

fn probe(host: &Host, at: SocketAddr, path: &str) -> Result<()> {
    get(host, &format!("http://{at}{path}"))?.ok().map(drop)
}

fn alert(field: &Field, index: usize, round: usize) -> Result<()> {
    let place = &field.paris.place;
    let url = format!(
        "http://{}/alertmanager/{index}/api/v2/alerts",
        SocketAddr::new(place.envoy, 11903)
    );
    let body = json!([{"labels": {"alertname": "Siege", "cluster": "paris", "round": (round % 10).to_string()}}]);
    let post = || {
        let request = Request::new("POST", url)?
            .header("content-type", "application/json")
            .body(serde_json::to_vec(&body)?);
        request.timeout(PATIENCE).send()?.ok().map(drop)
    };
    place.host.within(post)
}

/// The page of a cluster that the hub's Envoy doesn't know answers 404.
fn hub_change(field: &Field) -> Result<()> {
    let there = !field.hub.atlas.options.from.join("nara.yaml").exists();
    if there {
        // Nothing answers there, and nothing is asked but for its page.
        field.hub.atlas.write_manifest(
            "nara.yaml",
            &service("nara", &[("addresses", IpAddr::from([10, 91, 250, 1]).to_string())]),
        )?;
    } else {
        field.hub.atlas.remove_manifest("nara.yaml")?;
    }
    let url = field.hub.web_url("/prom/nara/-/healthy");
    wait_until("the hub's Envoy routes by the change", PATIENCE, || {
        Ok(((get(&field.stranger, &url)?.status != 404) == there).then_some(()))
    })
}

/// Paris's Envoy refuses a path, or doesn't.
fn cluster_change(field: &Field) -> Result<()> {
    let path = field.hub.atlas.options.from.join("paris.yaml");
    let mut manifest: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(path)?)?;
    let annotations = manifest["metadata"]["annotations"]
        .as_object_mut()
        .context("BUG: paris has no annotations")?;
    let allowed = annotations.remove("goatlas.io/allow-paths").is_none();
    if allowed {
        annotations.insert("goatlas.io/allow-paths".into(), json!("/debug"));
    }
    field.hub.atlas.write_manifest("paris.yaml", &manifest.to_string())?;
    let url = field.hub.web_url("/prom/paris/debug/none");
    let status = || get(&field.stranger, &url).map(|answer| answer.status);
    // 503 and its like are no answer of paris's Envoy.
    wait_until("paris's Envoy routes by the change", PATIENCE, || {
        let status = status()?;
        ensure!(status < 500, "status {status}");
        Ok(((status != 403) == allowed).then_some(()))
    })
}

/// So many alerts fire in tokyo at once; Prometheus sends 64 at a time.
const ALERTS: usize = 320;

/// New alerts of tokyo are at its own Alertmanager.
fn local_alerts(field: &Field, round: usize) -> Result<()> {
    let generation = format!("{}-{round}", std::process::id());
    let rules: Vec<_> =
        (0..ALERTS).map(|n| json!({"alert": format!("Siege{n}"), "expr": "vector(1)", "labels": {"generation": generation}})).collect();
    let rules =
        json!({"groups": [{"name": "siege", "interval": "1s", "rules": rules}]}).to_string();
    field.tokyo.prometheus[0].reload_rules(&rules)?;
    let path = format!("/api/v2/alerts?filter=generation%3D%22{generation}%22");
    let began = Instant::now();
    wait_until("all alerts at tokyo's own Alertmanager", LOCAL, || {
        let alerts: Vec<serde_json::Value> = field.tokyo.alertmanager.get(&path)?.ok()?.json()?;
        ensure!(alerts.len() == ALERTS, "{} of {ALERTS} after {:?}", alerts.len(), began.elapsed());
        Ok(Some(()))
    })
}

/// What local alerting may take. It takes a second by itself; a busy machine needs thrice that, and
/// more to start.
const LOCAL: Duration = Duration::from_secs(10);

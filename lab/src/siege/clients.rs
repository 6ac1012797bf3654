//! Honest clients: what each requests, and when its request has succeeded.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::PoisonError;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::json;

use super::dial::{self, Endpoint};
use super::grpc;
use super::hostile_store::INFO;
use super::topology::{SiegeTopology, service};
use crate::http::{self, Request};
use crate::process::wait_until;
use crate::world::Host;

/// Time limit of a request: three times what the slowest needs on a busy machine.
const TIMEOUT: Duration = Duration::from_secs(15);

/// A kind of client. `&'static str` is a cluster's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum HonestClient {
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
    /// An alert that `paris` posts to one of the hub's Alertmanagers through its own Envoy's 11903.
    Alert(usize),
    /// A new xDS stream through 10900.
    Connect,
    /// A cluster is added or removed, until the hub's Envoy routes accordingly.
    HubChange,
    /// An annotation changes, until `paris`'s Envoy routes accordingly.
    ClusterChange,
    /// `/ready` at 9001 of the hub's Envoy.
    HubProbe,
    /// `/ready` at 9001 of `paris`'s Envoy.
    ClusterProbe,
    /// Atlas's `/readyz`.
    AtlasProbe,
    /// New alerts of `tokyo`, until they are at its own Alertmanager.
    LocalAlerts,
}

/// The clients that every attack must leave alone, unless it lists others.
pub(super) const ALL: &[HonestClient] = &[
    HonestClient::Query("paris"),
    HonestClient::Query("tokyo"),
    HonestClient::Store("paris"),
    HonestClient::Prometheus("paris"),
    HonestClient::Prometheus("tokyo"),
    HonestClient::Alertmanager("tokyo"),
    HonestClient::Page,
    HonestClient::Alert(0),
    HonestClient::Alert(1),
    HonestClient::Connect,
    HonestClient::HubChange,
    HonestClient::ClusterChange,
    HonestClient::HubProbe,
    HonestClient::ClusterProbe,
    HonestClient::AtlasProbe,
];

impl HonestClient {
    /// Its name in reports.
    pub(super) fn name(self) -> String {
        match self {
            HonestClient::Query(cluster) => format!("query of {cluster}"),
            HonestClient::Store(cluster) => format!("store of {cluster}"),
            HonestClient::Prometheus(cluster) => format!("Prometheus of {cluster}"),
            HonestClient::Alertmanager(cluster) => format!("Alertmanager of {cluster}"),
            HonestClient::Page => "Atlas's page".into(),
            HonestClient::Alert(index) => format!("alert to Alertmanager {index}"),
            HonestClient::Connect => "new xDS stream".into(),
            HonestClient::HubChange => "change at the hub".into(),
            HonestClient::ClusterChange => "change at paris".into(),
            HonestClient::HubProbe => "9001 of the hub".into(),
            HonestClient::ClusterProbe => "9001 of paris".into(),
            HonestClient::AtlasProbe => "Atlas's readiness".into(),
            HonestClient::LocalAlerts => "tokyo's own alerting".into(),
        }
    }

    /// Whether its requests come from the attackers' host.
    pub(super) fn uses_attacker_host(self) -> bool {
        matches!(
            self,
            HonestClient::Prometheus(_)
                | HonestClient::Alertmanager(_)
                | HonestClient::Page
                | HonestClient::HubChange
                | HonestClient::ClusterChange
        )
    }

    /// Waits until its requests must succeed: local alerting may be delayed until the failure of
    /// the hub must have been noticed.
    pub(super) fn wait_for_failover(self, topology: &SiegeTopology) {
        if self != HonestClient::LocalAlerts {
            return;
        }
        // The attack starts at the same time and sets the deadline first.
        thread::sleep(Duration::from_millis(500));
        let failover_deadline =
            *topology.failover_deadline.lock().unwrap_or_else(PoisonError::into_inner);
        thread::sleep(failover_deadline.map_or(Duration::ZERO, |failover_deadline| {
            failover_deadline.saturating_duration_since(Instant::now())
        }));
    }

    /// Makes one request.
    ///
    /// # Errors
    /// The request failed.
    pub(super) fn request(self, topology: &SiegeTopology) -> Result<()> {
        let number = REQUEST_NUMBER.fetch_add(1, Ordering::Relaxed);
        let hub = &topology.hub.place.host;
        match self {
            HonestClient::Query(cluster) => query(topology, cluster),
            HonestClient::Store(cluster) => {
                let endpoint = Endpoint::plain(topology.hub_port(10901));
                let authority = format!("{cluster}-thanos-sidecar0.sidecars.thanos.atlas:10901");
                within(
                    hub,
                    move || async move { grpc::unary(&endpoint, &authority, INFO, &[]).await },
                )
            }
            HonestClient::Prometheus(cluster) => {
                page(topology, &format!("/prom/{cluster}/-/healthy"))
            }
            HonestClient::Alertmanager(cluster) => {
                page(topology, &format!("/alertmanager/{cluster}/-/healthy"))
            }
            HonestClient::Page => page(topology, "/"),
            HonestClient::Alert(index) => alert(topology, index, number),
            HonestClient::Connect => {
                let endpoint = Endpoint::tls(
                    topology.hub_port(10900),
                    Some(&topology.credential("bootstrap.kyoto")?),
                )?;
                within(&topology.paris.place.host, move || async move { connect(&endpoint).await })
            }
            HonestClient::HubChange => hub_change(topology),
            HonestClient::ClusterChange => cluster_change(topology),
            HonestClient::HubProbe => {
                probe(hub, SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 9001), "/ready")
            }
            HonestClient::ClusterProbe => probe(
                &topology.paris.place.host,
                SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 9001),
                "/ready",
            ),
            HonestClient::AtlasProbe => {
                probe(hub, SocketAddr::new(topology.hub.atlas.options.listen, 6309), "/readyz")
            }
            HonestClient::LocalAlerts => local_alerts(topology, number),
        }
    }
}

/// Counts requests of all clients; makes alerts distinct.
static REQUEST_NUMBER: AtomicUsize = AtomicUsize::new(0);

/// Runs a future in a host's network, for at most [`TIMEOUT`].
fn within<F: Future<Output = Result<()>>>(
    host: &Host,
    future: impl FnOnce() -> F + Send,
) -> Result<()> {
    dial::run(host, || async {
        tokio::time::timeout(TIMEOUT, future())
            .await
            .with_context(|| format!("no answer within {TIMEOUT:?}"))?
    })
}

/// How often an Envoy may try to connect. When very many clients connect at once, Atlas ends
/// handshakes that take longer than a second.
const CONNECT_ATTEMPTS: usize = 3;
/// Between two attempts: the initial backoff of Envoy.
const BACKOFF: Duration = Duration::from_millis(500);

/// Opens an xDS stream, with an Envoy's retries.
async fn connect(endpoint: &Endpoint) -> Result<()> {
    for _ in 1..CONNECT_ATTEMPTS {
        if grpc::open_delta_stream(endpoint, "kyoto").await.is_ok() {
            return Ok(());
        }
        tokio::time::sleep(BACKOFF).await;
    }
    grpc::open_delta_stream(endpoint, "kyoto").await
}

fn get(host: &Host, url: &str) -> Result<http::Response> {
    host.within(|| http::get_within(TIMEOUT, url))
}

/// A query must return one cluster's series, without a warning about this cluster.
fn query(topology: &SiegeTopology, cluster: &str) -> Result<()> {
    let promql = format!("count%28up%7Bcluster%3D%22{cluster}%22%7D%29");
    let url = format!("{}/api/v1/query?query={promql}", topology.hub.query.url());
    let answer = get(&topology.hub.place.host, &url)?.ok()?;
    let json: serde_json::Value = answer.json()?;
    ensure!(
        json["data"]["result"].as_array().is_some_and(|series| series.len() == 1),
        "{}",
        answer.text()
    );
    ensure!(!json["warnings"].to_string().contains(cluster), "{}", answer.text());
    Ok(())
}

fn page(topology: &SiegeTopology, path: &str) -> Result<()> {
    get(&topology.attacker_host, &topology.hub.web_url(path))?.ok().map(drop)
}

fn probe(host: &Host, at: SocketAddr, path: &str) -> Result<()> {
    get(host, &format!("http://{at}{path}"))?.ok().map(drop)
}

fn alert(topology: &SiegeTopology, index: usize, number: usize) -> Result<()> {
    let place = &topology.paris.place;
    let url = format!(
        "http://{}/alertmanager/{index}/api/v2/alerts",
        SocketAddr::new(place.envoy, 11903)
    );
    let number = (number % 10).to_string();
    let body = json!([{"labels": {"alertname": "Siege", "cluster": "paris", "number": number}}]);
    let post = || {
        let request = Request::new("POST", url)?
            .header("content-type", "application/json")
            .body(serde_json::to_vec(&body)?);
        request.timeout(TIMEOUT).send()?.ok().map(drop)
    };
    place.host.within(post)
}

/// Adds or removes a cluster. The hub's Envoy answers 404 for a cluster that it doesn't know.
fn hub_change(topology: &SiegeTopology) -> Result<()> {
    let add = !topology.hub.atlas.options.from.join("nara.yaml").exists();
    if add {
        // Nothing listens at this address; only the status of its page matters.
        topology.hub.atlas.write_manifest(
            "nara.yaml",
            &service("nara", &[("addresses", IpAddr::from([10, 91, 250, 1]).to_string())]),
        )?;
    } else {
        topology.hub.atlas.remove_manifest("nara.yaml")?;
    }
    let url = topology.hub.web_url("/prom/nara/-/healthy");
    wait_until("the hub's Envoy routes by the change", TIMEOUT, || {
        Ok(((get(&topology.attacker_host, &url)?.status != 404) == add).then_some(()))
    })
}

/// Allows or forbids a path. `paris`'s Envoy answers 403 for a forbidden one.
fn cluster_change(topology: &SiegeTopology) -> Result<()> {
    let path = topology.hub.atlas.options.from.join("paris.yaml");
    let mut manifest: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(path)?)?;
    let annotations = manifest["metadata"]["annotations"]
        .as_object_mut()
        .context("BUG: paris has no annotations")?;
    let allow = annotations.remove("goatlas.io/allow-paths").is_none();
    if allow {
        annotations.insert("goatlas.io/allow-paths".into(), json!("/debug"));
    }
    topology.hub.atlas.write_manifest("paris.yaml", &manifest.to_string())?;
    let url = topology.hub.web_url("/prom/paris/debug/none");
    let status = || get(&topology.attacker_host, &url).map(|answer| answer.status);
    // 5xx comes from the hub's Envoy, not from `paris`'s.
    wait_until("paris's Envoy routes by the change", TIMEOUT, || {
        let status = status()?;
        ensure!(status < 500, "status {status}");
        Ok(((status != 403) == allow).then_some(()))
    })
}

/// How many alerts fire in `tokyo` at once. Prometheus sends 64 at a time.
const ALERTS: usize = 320;

/// Replaces `tokyo`'s alerts, and waits until the new ones are at its own Alertmanager.
fn local_alerts(topology: &SiegeTopology, number: usize) -> Result<()> {
    let generation = format!("{}-{number}", std::process::id());
    let rule = |n| {
        let labels = json!({"generation": generation});
        json!({"alert": format!("Siege{n}"), "expr": "vector(1)", "labels": labels})
    };
    let rules: Vec<_> = (0..ALERTS).map(rule).collect();
    let rules =
        json!({"groups": [{"name": "siege", "interval": "1s", "rules": rules}]}).to_string();
    topology.tokyo.prometheus[0].reload_rules(&rules)?;
    let path = format!("/api/v2/alerts?filter=generation%3D%22{generation}%22");
    let began = Instant::now();
    wait_until("all alerts at tokyo's own Alertmanager", LOCAL_ALERTING_TIMEOUT, || {
        let alerts: Vec<serde_json::Value> =
            topology.tokyo.alertmanager.get(&path)?.ok()?.json()?;
        ensure!(alerts.len() == ALERTS, "{} of {ALERTS} after {:?}", alerts.len(), began.elapsed());
        Ok(Some(()))
    })
}

/// Time limit of local alerting. It takes a second on an idle machine, and three on a busy one,
/// more at the start.
const LOCAL_ALERTING_TIMEOUT: Duration = Duration::from_secs(10);

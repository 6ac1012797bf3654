//! Metrics in Prometheus's text format, on `/metrics`. docs/reference.md lists them.

use std::sync::Mutex;
use std::sync::atomic::AtomicI64;

use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use crate::lock::lock;
use crate::published::Published;

/// All of Atlas's metrics.
pub struct Metrics {
    registry: Mutex<Registry>,
    /// Downstream clusters in force.
    pub clusters: Gauge,
    /// Stores in force.
    pub stores: Gauge,
    /// Stores behind which any replica may answer.
    pub inexact_stores: Gauge,
    /// Alertmanagers of the hub.
    pub alertmanagers: Gauge,
    /// Objects and files that are rejected.
    pub rejected: Gauge,
    /// Open xDS streams.
    pub streams: Gauge,
    /// Open streams by node.
    pub connected: Family<[(&'static str, String); 1], Gauge>,
    /// xDS requests received.
    pub requests: Counter,
    /// xDS responses sent.
    pub responses: Counter,
    /// Resources in them.
    pub resources_sent: Counter,
    /// Bytes of resources in them.
    pub bytes_sent: Counter,
    /// Responses that Envoys refused.
    pub nacks: Counter,
    /// TLS handshakes that failed.
    pub handshakes_refused: Counter,
    /// Connections for which there was no room.
    pub connections_dropped: Counter,
    /// Rounds of the controller.
    pub rounds: Counter,
    /// Rounds that failed; what was in force stays.
    pub failed_rounds: Counter,
    /// When the next certificate ends, in seconds since 1970.
    pub first_expiry: Gauge,
    /// DNS queries answered.
    pub dns_queries: Counter,
    /// Whether this replica leads.
    pub leads: Gauge,
    /// Objects that are not yet as they should be, as the leader knows.
    pub unwritten: Gauge,
}

impl Metrics {
    /// All at zero.
    pub fn new() -> Self {
        let mut registry = Registry::with_prefix("atlas");
        let mut gauge = |name: &str, help: &str| {
            let gauge: Gauge<i64, AtomicI64> = Gauge::default();
            registry.register(name, help, gauge.clone());
            gauge
        };
        let clusters = gauge("clusters", "Downstream clusters in force");
        let stores = gauge("stores", "Stores (Thanos sidecars) in force");
        let inexact_stores = gauge("inexact_stores", "Stores with a service name as last resort, behind which any replica may answer");
        let alertmanagers = gauge("alertmanagers", "Alertmanager replicas of the hub");
        let rejected = gauge("rejected", "Objects and files that are rejected");
        let streams = gauge("xds_streams", "Open xDS streams");
        let leads = gauge("leads", "Whether this replica leads (1) or not; on Kubernetes one does");
        let unwritten = gauge("unwritten_objects", "Kubernetes objects that are not yet as they should be; of the leader alone");
        let first_expiry = gauge("first_certificate_expiry_timestamp_seconds", "When the first of the current certificates ends");
        let connected: Family<[(&'static str, String); 1], Gauge> = Family::default();
        registry.register("node_connected", "Open xDS streams of a node", connected.clone());
        let mut counter = |name: &str, help: &str| {
            let counter: Counter = Counter::default();
            registry.register(name, help, counter.clone());
            counter
        };
        Self {
            clusters,
            stores,
            inexact_stores,
            alertmanagers,
            rejected,
            streams,
            connected,
            first_expiry,
            leads,
            unwritten,
            requests: counter("xds_requests", "xDS requests received"),
            responses: counter("xds_responses", "xDS responses sent"),
            resources_sent: counter("xds_resources_sent", "Resources sent in xDS responses"),
            bytes_sent: counter("xds_resource_bytes_sent", "Bytes of resources sent in xDS responses"),
            nacks: counter("xds_nacks", "xDS responses that Envoys refused"),
            handshakes_refused: counter("tls_handshakes_refused", "TLS handshakes on the xDS port that failed or were refused"),
            connections_dropped: counter("connections_dropped", "Connections to the xDS port for which there was no room"),
            rounds: counter("rounds", "Times that the plan was made"),
            failed_rounds: counter("failed_rounds", "Times that the plan could not be made or written"),
            dns_queries: counter("dns_queries", "DNS queries answered"),
            registry: Mutex::new(registry),
        }
    }

    /// Counts what is in force: when it is scraped, so that a change costs nothing for it.
    pub fn count(&self, published: &Published) {
        let fleet = &published.fleet;
        let stores = || fleet.clusters.values().flat_map(|cluster| &cluster.stores);
        let count = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
        self.clusters.set(count(fleet.clusters.len()));
        self.stores.set(count(stores().count()));
        self.inexact_stores.set(count(stores().filter(|store| store.last_resort.is_some()).count()));
        self.alertmanagers.set(count(fleet.alertmanagers.len()));
        self.rejected.set(count(published.rejected()));
        let of_nodes = published.ends.values().flat_map(|ends| [ends.leaf, ends.credential]).flatten();
        let ends = of_nodes.chain(published.authorities.values().copied()).chain(published.own_end);
        self.first_expiry.set(ends.min().unwrap_or(0));
    }

    /// The text that Prometheus scrapes.
    pub fn render(&self) -> String {
        let mut text = String::new();
        match encode(&mut text, &lock(&self.registry)) {
            Ok(()) => text,
            Err(error) => format!("# cannot write the metrics: {error}\n"),
        }
    }
}

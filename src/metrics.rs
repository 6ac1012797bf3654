//! Metrics in Prometheus's text format, on `/metrics`. docs/reference.md lists them.

use std::sync::Mutex;
use std::sync::atomic::AtomicI64;

use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use atlas_core::xds::resource::ResourceType;

use crate::process::lock::lock;
use crate::state::PublishedState;

/// A counter by one label of few values.
pub type By = Family<[(&'static str, &'static str); 1], Counter>;

/// Types of resources, as labels; the last is every type that Atlas doesn't serve.
const TYPES: [&str; 6] = ["SDS", "CDS", "EDS", "LDS", "RDS", "other"];
/// Why streams end.
const STREAM_ENDS: [&str; 13] = [
    "client",
    "lost",
    "replaced",
    "age",
    "certificate",
    "stopping",
    "credential",
    "removed",
    "slow",
    "names",
    "request_bytes",
    "memory",
    "nonsense",
];
/// Why streams are refused.
const STREAM_REFUSALS: [&str; 1] = ["credential"];
/// Why Atlas ends connections.
const CONNECTION_ENDS: [&str; 5] = ["idle", "certificate", "credential", "memory", "stopping"];
/// Ports, beside xDS's, on which one more connection ends the oldest.
const PORTS: [&str; 4] = ["metrics", "web", "dns", "control"];
/// What connections there may be.
const CONNECTION_LIMITS: [&str; 3] = ["connections", "connections_per_node", "handshakes"];

fn of_type(kind: Option<ResourceType>) -> &'static str {
    match kind {
        Some(ResourceType::Secret) => "SDS",
        Some(ResourceType::Cluster) => "CDS",
        Some(ResourceType::Endpoints) => "EDS",
        Some(ResourceType::Listener) => "LDS",
        Some(ResourceType::Route) => "RDS",
        None => "other",
    }
}

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
    /// Quarantined resources by node, where there are any.
    pub quarantined: Family<[(&'static str, String); 1], Gauge>,
    /// Open connections to the xDS port.
    pub connections: Gauge,
    /// xDS responses sent, by type.
    responses: By,
    /// Resources in them.
    resources_sent: By,
    /// Bytes of resources in them.
    bytes_sent: By,
    /// Responses that Envoys refused, by type.
    nacks: By,
    /// xDS streams that ended, by reason.
    streams_ended: By,
    /// xDS streams that were refused, by reason.
    streams_refused: By,
    /// Connections that Atlas ended, by reason.
    connections_ended: By,
    /// Connections for which there was no room, by limit.
    connections_dropped: By,
    /// Connections to other ports that made room for another, by port.
    port_connections_dropped: By,
    /// TLS handshakes that failed.
    pub handshakes_refused: Counter,
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
        let inexact_stores = gauge("inexact_stores", "Stores behind which any replica may answer");
        let alertmanagers = gauge("alertmanagers", "Alertmanager replicas of the hub");
        let rejected = gauge("rejected", "Objects and files that are rejected");
        let streams = gauge("xds_streams", "Open xDS streams");
        let connections = gauge("connections", "Open connections to the xDS port");
        let leads = gauge("leads", "Whether this replica leads (1) or not; on Kubernetes one does");
        let unwritten = gauge(
            "unwritten_objects",
            "Kubernetes objects that are not yet as they should be; of the leader alone",
        );
        let first_expiry = gauge(
            "first_certificate_expiry_timestamp_seconds",
            "When the first of the current certificates ends",
        );
        let connected: Family<[(&'static str, String); 1], Gauge> = Family::default();
        registry.register("node_connected", "Open xDS streams of a node", connected.clone());
        let quarantined: Family<[(&'static str, String); 1], Gauge> = Family::default();
        let help =
            "Resources that an Envoy of this node refused and that are still what it should have";
        registry.register("xds_quarantined", help, quarantined.clone());
        // Every value is there from the beginning, so that its first increase is seen.
        let mut by = |name: &str, help: &str, label: &'static str, values: &[&'static str]| {
            let family = By::default();
            for value in values {
                drop(family.get_or_create(&[(label, *value)]));
            }
            registry.register(name, help, family.clone());
            family
        };
        let responses = by("xds_responses", "xDS responses sent", "type", &TYPES);
        let resources_sent =
            by("xds_resources_sent", "Resources sent in xDS responses", "type", &TYPES);
        let bytes_sent = by(
            "xds_resource_bytes_sent",
            "Bytes of resources sent in xDS responses",
            "type",
            &TYPES,
        );
        let nacks = by("xds_nacks", "xDS responses that Envoys refused", "type", &TYPES);
        let streams_ended =
            by("xds_streams_ended", "xDS streams that ended", "reason", &STREAM_ENDS);
        let streams_refused =
            by("xds_streams_refused", "xDS streams that were refused", "reason", &STREAM_REFUSALS);
        let connections_ended = by(
            "connections_ended",
            "Connections to the xDS port that Atlas ended",
            "reason",
            &CONNECTION_ENDS,
        );
        let help = "Connections to the xDS port for which there was no room, or that made room for another";
        let connections_dropped = by("connections_dropped", help, "limit", &CONNECTION_LIMITS);
        let help = "Connections to other ports that made room for another";
        let port_connections_dropped = by("port_connections_dropped", help, "port", &PORTS);
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
            quarantined,
            connections,
            responses,
            resources_sent,
            bytes_sent,
            nacks,
            streams_ended,
            streams_refused,
            connections_ended,
            connections_dropped,
            port_connections_dropped,
            first_expiry,
            leads,
            unwritten,
            requests: counter("xds_requests", "xDS requests received"),
            handshakes_refused: counter(
                "tls_handshakes_refused",
                "TLS handshakes on the xDS port that failed or were refused",
            ),
            rounds: counter("rounds", "Times that the plan was made"),
            failed_rounds: counter(
                "failed_rounds",
                "Times that the plan could not be made or written",
            ),
            dns_queries: counter("dns_queries", "DNS queries answered"),
            registry: Mutex::new(registry),
        }
    }

    /// A response is about to be sent, with so many resources of so many bytes.
    pub fn sent(&self, kind: Option<ResourceType>, resources: usize, bytes: usize) {
        let label = [("type", of_type(kind))];
        self.responses.get_or_create(&label).inc();
        self.resources_sent.get_or_create(&label).inc_by(resources as u64);
        self.bytes_sent.get_or_create(&label).inc_by(bytes as u64);
    }

    /// An Envoy refused a response.
    pub fn nacked(&self, kind: Option<ResourceType>) {
        self.nacks.get_or_create(&[("type", of_type(kind))]).inc();
    }

    /// A stream ended; the reason is one of few.
    pub fn stream_ended(&self, reason: &'static str) {
        self.streams_ended.get_or_create(&[("reason", reason)]).inc();
    }

    /// A stream was refused; the reason is one of few.
    pub fn stream_refused(&self, reason: &'static str) {
        self.streams_refused.get_or_create(&[("reason", reason)]).inc();
    }

    /// Atlas ended a connection; the reason is one of few.
    pub fn connection_ended(&self, reason: &'static str) {
        self.connections_ended.get_or_create(&[("reason", reason)]).inc();
    }

    /// A connection to another port made room for one more; the port is one of few.
    pub fn port_connection_dropped(&self, port: &'static str) {
        self.port_connections_dropped.get_or_create(&[("port", port)]).inc();
    }

    /// There was no room for a connection, or it made room for another; the limit is one of few.
    pub fn connection_dropped(&self, limit: &'static str) {
        self.connections_dropped.get_or_create(&[("limit", limit)]).inc();
    }

    /// Counts what is in force: when it is scraped, so that a change costs nothing for it.
    pub fn count(&self, published: &PublishedState) {
        let fleet = &published.fleet;
        let stores = || fleet.clusters.values().flat_map(|cluster| &cluster.stores);
        let count = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
        self.clusters.set(count(fleet.clusters.len()));
        self.stores.set(count(stores().count()));
        self.inexact_stores.set(count(stores().filter(|store| !store.exact).count()));
        self.alertmanagers.set(count(fleet.alertmanagers.len()));
        self.rejected.set(count(published.rejected()));
        let of_nodes =
            published.expiries.values().flat_map(|ends| [ends.leaf, ends.credential]).flatten();
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

//! Atlas's metrics, in OpenMetrics's text format. docs/reference.md lists them.
//!
//! Counters are increased where things happen. Gauges of the state in force are set when a scrape
//! asks for them (`web/scrape.rs`), so that a change costs nothing for them.

use std::sync::Mutex;
use std::sync::atomic::AtomicI64;

use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use atlas_core::xds::resource::ResourceType;

use crate::process::lock::lock;

/// A counter with one label, whose values are known beforehand.
type CounterByLabel = Family<[(&'static str, &'static str); 1], Counter>;

/// Values of the label `type`. `other` is every type that Atlas doesn't serve.
const TYPES: [&str; 6] = ["SDS", "CDS", "EDS", "LDS", "RDS", "other"];
/// Why a stream ends.
const STREAM_END_REASONS: [&str; 13] = [
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
/// Why a stream is refused.
const STREAM_REFUSAL_REASONS: [&str; 1] = ["credential"];
/// Why Atlas ends a connection to the xDS port.
const CONNECTION_END_REASONS: [&str; 5] =
    ["idle", "certificate", "credential", "memory", "stopping"];
/// Ports with a limit of connections, other than the xDS port.
const PORTS: [&str; 4] = ["metrics", "web", "dns", "control"];
/// Limits of connections to the xDS port.
const CONNECTION_LIMITS: [&str; 3] = ["connections", "connections_per_node", "handshakes"];

/// The value of the label `type`.
fn type_label(kind: Option<ResourceType>) -> &'static str {
    match kind {
        Some(ResourceType::Secret) => "SDS",
        Some(ResourceType::Cluster) => "CDS",
        Some(ResourceType::Endpoints) => "EDS",
        Some(ResourceType::Listener) => "LDS",
        Some(ResourceType::Route) => "RDS",
        None => "other",
    }
}

pub struct Metrics {
    registry: Mutex<Registry>,
    /// Clusters in force.
    pub clusters: Gauge,
    /// Stores in force.
    pub stores: Gauge,
    /// Stores in force of which any replica of the cluster may answer.
    pub inexact_stores: Gauge,
    /// Alertmanagers of the hub.
    pub alertmanagers: Gauge,
    /// Rejected objects and files.
    pub rejected: Gauge,
    /// Open xDS streams.
    pub streams: Gauge,
    /// Open xDS streams by node.
    pub connected: Family<[(&'static str, String); 1], Gauge>,
    /// xDS requests received.
    pub requests: Counter,
    /// Quarantined resources by node. Nodes that have none are left out.
    pub quarantined: Family<[(&'static str, String); 1], Gauge>,
    /// Open connections to the xDS port.
    pub connections: Gauge,
    /// xDS responses sent, by type.
    responses: CounterByLabel,
    /// Resources in xDS responses sent, by type.
    resources_sent: CounterByLabel,
    /// Bytes of resources in xDS responses sent, by type.
    bytes_sent: CounterByLabel,
    /// Responses that Envoys refused, by type.
    nacks: CounterByLabel,
    /// xDS streams that ended, by reason.
    streams_ended: CounterByLabel,
    /// xDS streams that were refused, by reason.
    streams_refused: CounterByLabel,
    /// Connections to the xDS port that Atlas ended, by reason.
    connections_ended: CounterByLabel,
    /// Connections to the xDS port that were refused or closed for another one, by limit.
    connections_dropped: CounterByLabel,
    /// Connections to other ports that were closed for another one, by port.
    port_connections_dropped: CounterByLabel,
    /// TLS handshakes on the xDS port that failed.
    pub handshakes_refused: Counter,
    /// Times that the engine has reconciled.
    pub reconciles: Counter,
    /// Times that reconciling failed and the state in force stayed.
    pub failed_reconciles: Counter,
    /// When the first of the current certificates expires, in seconds since 1970.
    pub first_expiry: Gauge,
    /// DNS queries answered.
    pub dns_queries: Counter,
    /// 1 if this replica leads, else 0.
    pub leads: Gauge,
    /// Kubernetes objects that the leader has not yet written as they should be.
    pub unwritten: Gauge,
}

impl Metrics {
    /// Registers all metrics, with the value 0.
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
        // Every label value is there from the start, so that its first increase is seen.
        let mut counters =
            |name: &str, help: &str, label: &'static str, values: &[&'static str]| {
                let family = CounterByLabel::default();
                for value in values {
                    drop(family.get_or_create(&[(label, *value)]));
                }
                registry.register(name, help, family.clone());
                family
            };
        let responses = counters("xds_responses", "xDS responses sent", "type", &TYPES);
        let resources_sent =
            counters("xds_resources_sent", "Resources sent in xDS responses", "type", &TYPES);
        let bytes_sent = counters(
            "xds_resource_bytes_sent",
            "Bytes of resources sent in xDS responses",
            "type",
            &TYPES,
        );
        let nacks = counters("xds_nacks", "xDS responses that Envoys refused", "type", &TYPES);
        let streams_ended =
            counters("xds_streams_ended", "xDS streams that ended", "reason", &STREAM_END_REASONS);
        let streams_refused = counters(
            "xds_streams_refused",
            "xDS streams that were refused",
            "reason",
            &STREAM_REFUSAL_REASONS,
        );
        let connections_ended = counters(
            "connections_ended",
            "Connections to the xDS port that Atlas ended",
            "reason",
            &CONNECTION_END_REASONS,
        );
        let help = "Connections to the xDS port for which there was no room, or that made room for \
            another";
        let connections_dropped =
            counters("connections_dropped", help, "limit", &CONNECTION_LIMITS);
        let help = "Connections to other ports that made room for another";
        let port_connections_dropped = counters("port_connections_dropped", help, "port", &PORTS);
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
            reconciles: counter("rounds", "Times that the plan was made"),
            failed_reconciles: counter(
                "failed_rounds",
                "Times that the plan could not be made or written",
            ),
            dns_queries: counter("dns_queries", "DNS queries answered"),
            registry: Mutex::new(registry),
        }
    }

    /// Counts a response that is about to be sent: its resources, and their bytes.
    pub fn response_sent(&self, kind: Option<ResourceType>, resources: usize, bytes: usize) {
        let label = [("type", type_label(kind))];
        self.responses.get_or_create(&label).inc();
        self.resources_sent.get_or_create(&label).inc_by(resources as u64);
        self.bytes_sent.get_or_create(&label).inc_by(bytes as u64);
    }

    /// Counts a response that an Envoy refused.
    pub fn response_refused(&self, kind: Option<ResourceType>) {
        self.nacks.get_or_create(&[("type", type_label(kind))]).inc();
    }

    /// Counts a stream that ended, by one of [`STREAM_END_REASONS`].
    pub fn stream_ended(&self, reason: &'static str) {
        self.streams_ended.get_or_create(&[("reason", reason)]).inc();
    }

    /// Counts a stream that was refused, by one of [`STREAM_REFUSAL_REASONS`].
    pub fn stream_refused(&self, reason: &'static str) {
        self.streams_refused.get_or_create(&[("reason", reason)]).inc();
    }

    /// Counts a connection to the xDS port that Atlas ended, by one of [`CONNECTION_END_REASONS`].
    pub fn connection_ended(&self, reason: &'static str) {
        self.connections_ended.get_or_create(&[("reason", reason)]).inc();
    }

    /// Counts a connection to the xDS port that was refused, or closed for another one, because
    /// one of [`CONNECTION_LIMITS`] was reached.
    pub fn connection_dropped(&self, limit: &'static str) {
        self.connections_dropped.get_or_create(&[("limit", limit)]).inc();
    }

    /// Counts a connection to one of [`PORTS`] that was closed for another one.
    pub fn port_connection_dropped(&self, port: &'static str) {
        self.port_connections_dropped.get_or_create(&[("port", port)]).inc();
    }

    /// All metrics in OpenMetrics's text format.
    pub fn render(&self) -> String {
        let mut text = String::new();
        match encode(&mut text, &lock(&self.registry)) {
            Ok(()) => text,
            Err(error) => format!("# cannot write the metrics: {error}\n"),
        }
    }
}

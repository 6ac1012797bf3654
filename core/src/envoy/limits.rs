//! Every limit of the Envoys: what may be open at a time, how long it may take, and how much memory it may hold. What is not
//! said here Envoy would decide by its defaults. `docs/reference.md` has the same tables; a test compares them.
//!
//! Sized for one Envoy of the hub with 10,000 downstream clusters of two Envoys each. A stream whose reader stops keeps at most
//! the window of the connection that it comes from and the window of the one that it goes to, so memory is bounded by
//! streams × both windows, and connections × what one costs. Beyond that, [`super::overload`] sheds load by the memory that the
//! process really has.

use envoy_types::pb::envoy::config::cluster::v3 as cluster;
use envoy_types::pb::envoy::config::cluster::v3::circuit_breakers::{
    Thresholds, thresholds::RetryBudget,
};
use envoy_types::pb::envoy::config::core::v3 as core;
use envoy_types::pb::envoy::r#type::v3::Percent;

use super::{number, seconds};

/// What one answer from a downstream cluster may have on its way to the hub's Envoy, in bytes: as much as that keeps for a reader
/// that stops, and, divided by the round trip, the most that one answer can carry (1 MiB: 3.3 MiB/s at 300 ms).
pub const LINK_STREAM_WINDOW: u32 = 1 << 20;
/// The same within one cluster's network. Small, so that what is asked for beside a large answer, or after one that nobody wants
/// any more, doesn't wait behind what the cluster's Envoy has taken of it already.
pub const LOCAL_STREAM_WINDOW: u32 = 256 << 10;
/// What Envoy keeps of one connection's bytes before it stops reading the other side, beside the windows.
pub const CONNECTION_BUFFER: u32 = 128 << 10;
/// Streams of one connection to an upstream; one more opens another connection. The connection's window fits all of them, so
/// that readers that stop hold up nobody else on it.
pub const UPSTREAM_STREAMS: u32 = 64;

/// Largest post of alerts: it is read whole before it is passed on. Prometheus sends at most 256 alerts in one, which are some
/// 300 KiB.
pub const ALERT_POST_BYTES: u32 = 2 << 20;
/// Largest body of a request to a web UI: it is read whole before it is passed on. The longest queries are some KiB.
pub const WEB_REQUEST_BYTES: u32 = 128 << 10;
/// On 10903: posts of one downstream cluster to one Alertmanager replica that may be under way on one worker thread of the hub's Envoy.
pub const ALERT_POSTS_OF_A_CLUSTER: u32 = 16;
/// On 10903: bytes of these together.
pub const ALERT_POST_BYTES_OF_A_CLUSTER: u32 = 8 << 20;
/// How long an Alertmanager may take to answer a post. Prometheus waits for 10 s for all of it.
pub const ALERT_POST_SECONDS: i64 = 5;
/// How long it may take from a cluster's Envoy: 300 KiB of alerts over a link of 20 KiB/s.
pub const ALERT_POST_FROM_CLUSTER_SECONDS: i64 = 15;

/// What a listener lets in. Times are in seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListenerLimits {
    /// Which, as its resource is called.
    pub name: &'static str,
    /// Its port.
    pub port: u16,
    /// Connections at a time; one more is closed at once.
    pub connections: u64,
    /// From the TCP connection to the end of the TLS handshake, where the Envoy ends TLS.
    pub handshake: Option<i64>,
    /// From the first byte of a request to the end of its headers; where there is no handshake, also from the connection to its first
    /// byte.
    pub headers: i64,
    /// From the first byte of a request to its end, its body included.
    pub request: i64,
    /// Without a byte in either direction of a stream.
    pub stream_idle: i64,
    /// A connection without a stream.
    pub idle: i64,
    /// Streams of one HTTP/2 connection at a time.
    pub streams: u32,
    /// What one stream may have on its way to the Envoy, in bytes.
    pub stream_window: u32,
    /// What all streams of a connection together may have on their way to the Envoy, in bytes.
    pub connection_window: u32,
}

impl ListenerLimits {
    /// The same where a request may take so many seconds: it may be silent for as long.
    pub(super) fn for_requests_of(self, seconds: u32) -> Self {
        Self {
            stream_idle: self
                .stream_idle
                .max(i64::from(seconds) + super::CLUSTER_WAITS_LONGER_SECONDS),
            ..self
        }
    }
}

/// 10900 on the hub is plain TCP, of which nothing but connections is limited here: Atlas ends the TLS, and gives strangers 10 s.
/// Two Envoys of each cluster, and the same again while they are replaced.
pub const HUB_XDS_CONNECTIONS: u64 = 40_000;
/// 10900: a connection without a byte, in seconds. Streams are quiet between changes; Atlas's keepalive ends dead ones.
pub const HUB_XDS_IDLE: i64 = 3600;

/// 10901 on the hub. Thanos Query has one connection for each store: two Querys with 20,000 stores.
pub const HUB_STORES: ListenerLimits = ListenerLimits {
    name: "stores",
    port: crate::ports::HUB_STORES,
    connections: 40_000,
    handshake: None,
    headers: 10,
    request: 30,
    stream_idle: 300,
    idle: 600,
    streams: 256,
    stream_window: 64 << 10,
    connection_window: 1 << 20,
};

/// 10903 on the hub. Of each cluster's two Envoys two worker threads and a health check, and as many again of a few that are replaced.
pub const HUB_ALERTS: ListenerLimits = ListenerLimits {
    name: "alerts",
    port: crate::ports::HUB_ALERTS,
    connections: 80_000,
    handshake: Some(10),
    headers: 10,
    request: 15,
    stream_idle: 15,
    idle: 300,
    streams: 32,
    stream_window: 64 << 10,
    connection_window: 512 << 10,
};

/// 10904 on the hub: people's browsers and an ingress.
pub const HUB_WEB: ListenerLimits = ListenerLimits {
    name: "web",
    port: crate::ports::HUB_WEB,
    connections: 16_384,
    handshake: None,
    headers: 10,
    request: 60,
    stream_idle: 300,
    idle: 300,
    streams: 32,
    stream_window: 256 << 10,
    connection_window: 4 << 20,
};

/// 11901 in a cluster: the hub's Envoys. A worker thread opens another connection for every [`UPSTREAM_STREAMS`] streams.
pub const CLUSTER_INBOUND: ListenerLimits = ListenerLimits {
    name: "inbound",
    port: crate::ports::CLUSTER_INBOUND,
    connections: 4096,
    handshake: Some(10),
    headers: 10,
    request: 60,
    stream_idle: 300,
    idle: 3600,
    streams: 2 * UPSTREAM_STREAMS,
    stream_window: 64 << 10,
    connection_window: 4 << 20,
};

/// 11903 in a cluster: its Prometheus.
pub const CLUSTER_ALERTS: ListenerLimits = ListenerLimits {
    name: "alerts",
    port: crate::ports::CLUSTER_ALERTS,
    connections: 128,
    handshake: None,
    headers: 10,
    request: 10,
    stream_idle: 15,
    idle: 120,
    streams: 8,
    stream_window: 64 << 10,
    connection_window: 512 << 10,
};

/// 9001 of every Envoy: probes and Prometheus.
pub const STATUS: ListenerLimits = ListenerLimits {
    name: "status",
    port: crate::ports::ENVOY_STATUS,
    connections: 2048,
    handshake: None,
    headers: 5,
    request: 10,
    stream_idle: 15,
    idle: 10,
    streams: 8,
    stream_window: 64 << 10,
    connection_window: 512 << 10,
};

/// What an Envoy cluster may be asked for at a time, on all worker threads together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UpstreamLimits {
    /// Connections.
    pub connections: u32,
    /// Requests that wait for a connection.
    pub pending: u32,
    /// Requests under way (HTTP/2; HTTP/1.1 has one per connection).
    pub requests: u32,
    /// Requests that may be tried again at a time; more where that is less than all requests under way.
    pub retries: u32,
}

/// On the hub: the stores of one downstream cluster.
pub const LINK_STORES: UpstreamLimits =
    UpstreamLimits { connections: 128, pending: 512, requests: 512, retries: 128 };
/// On the hub: the web UIs of one downstream cluster.
pub const LINK_WEB: UpstreamLimits =
    UpstreamLimits { connections: 64, pending: 128, requests: 256, retries: 64 };
/// On the hub: Atlas's xDS server, by 10900.
pub const ATLAS_XDS: UpstreamLimits =
    UpstreamLimits { connections: 40_000, pending: 4096, requests: 1, retries: 1 };
/// On the hub: Atlas's page. Atlas takes 256 connections.
pub const ATLAS_WEB: UpstreamLimits =
    UpstreamLimits { connections: 128, pending: 256, requests: 256, retries: 32 };
/// On the hub: one Alertmanager replica. Every cluster posts there, each within its share.
pub const ALERTMANAGER: UpstreamLimits =
    UpstreamLimits { connections: 512, pending: 4096, requests: 4096, retries: 512 };
/// In a cluster: one Thanos sidecar.
pub const STORE: UpstreamLimits =
    UpstreamLimits { connections: 64, pending: 256, requests: 256, retries: 64 };
/// In a cluster: Prometheus or Alertmanager. Prometheus takes 512 connections by default.
pub const BACKEND: UpstreamLimits =
    UpstreamLimits { connections: 256, pending: 256, requests: 256, retries: 64 };
/// In a cluster: the hub's alert entry.
pub const TO_HUB_ALERTS: UpstreamLimits =
    UpstreamLimits { connections: 64, pending: 256, requests: 256, retries: 64 };
/// In every Envoy: its ADS stream.
pub const XDS_STREAM: UpstreamLimits =
    UpstreamLimits { connections: 8, pending: 8, requests: 16, retries: 1 };
/// In every Envoy: its own admin page, by 9001.
pub const ADMIN: UpstreamLimits =
    UpstreamLimits { connections: 64, pending: 64, requests: 64, retries: 1 };

impl UpstreamLimits {
    /// As Envoy wants it said.
    pub(super) fn circuit_breakers(&self) -> cluster::CircuitBreakers {
        cluster::CircuitBreakers {
            thresholds: vec![self.thresholds(core::RoutingPriority::Default)],
            ..Default::default()
        }
    }

    /// Limits of requests of the usual priority, and others for those of high priority: neither takes what the other has. Each
    /// has connections of its own, too.
    pub(super) fn circuit_breakers_by_priority(
        usual: &Self,
        high: &Self,
    ) -> cluster::CircuitBreakers {
        let thresholds = vec![
            usual.thresholds(core::RoutingPriority::Default),
            high.thresholds(core::RoutingPriority::High),
        ];
        cluster::CircuitBreakers { thresholds, ..Default::default() }
    }

    fn thresholds(&self, priority: core::RoutingPriority) -> Thresholds {
        let budget = RetryBudget {
            // Of requests that are under way or wait, so many may be tried again; every one of them while there are few.
            budget_percent: Some(Percent { value: 50.0 }),
            min_retry_concurrency: number(self.retries),
            ..Default::default()
        };
        Thresholds {
            priority: priority.into(),
            max_connections: number(self.connections),
            max_pending_requests: number(self.pending),
            max_requests: number(self.requests),
            retry_budget: Some(budget),
            ..Default::default()
        }
    }
}

/// HTTP/2 as a server.
pub(super) fn http2_server(limits: &ListenerLimits) -> core::Http2ProtocolOptions {
    core::Http2ProtocolOptions {
        max_concurrent_streams: number(limits.streams),
        initial_stream_window_size: number(limits.stream_window),
        initial_connection_window_size: number(limits.connection_window),
        // Ends connections whose other end is gone without a word.
        connection_keepalive: Some(core::KeepaliveSettings {
            interval: seconds(60),
            timeout: seconds(20),
            ..Default::default()
        }),
        ..http2_floods()
    }
}

/// HTTP/2 as a client.
pub(super) fn http2_client(
    stream_window: u32,
    keepalive: core::KeepaliveSettings,
) -> core::Http2ProtocolOptions {
    core::Http2ProtocolOptions {
        max_concurrent_streams: number(UPSTREAM_STREAMS),
        initial_stream_window_size: number(stream_window),
        initial_connection_window_size: number(UPSTREAM_STREAMS * stream_window),
        connection_keepalive: Some(keepalive),
        allow_connect: true,
        ..http2_floods()
    }
}

/// What the other side of an HTTP/2 connection may make an Envoy queue or count; beyond it the connection ends.
fn http2_floods() -> core::Http2ProtocolOptions {
    core::Http2ProtocolOptions {
        max_outbound_frames: number(10_000),
        max_outbound_control_frames: number(1000),
        max_consecutive_inbound_frames_with_empty_payload: number(1),
        max_inbound_priority_frames_per_stream: number(100),
        max_inbound_window_update_frames_per_data_frame_sent: number(10),
        ..Default::default()
    }
}

/// Rows of the tables in `docs/reference.md`, in their order.
pub fn listeners() -> [ListenerLimits; 6] {
    [HUB_STORES, HUB_ALERTS, HUB_WEB, CLUSTER_INBOUND, CLUSTER_ALERTS, STATUS]
}

/// Rows of the table of Envoy clusters in `docs/reference.md`, in their order.
pub fn upstreams() -> [(&'static str, UpstreamLimits); 10] {
    [
        ("hub: `cluster/<name>`, stores", LINK_STORES),
        ("hub: `cluster/<name>`, web UIs", LINK_WEB),
        ("hub: `alertmanager/<index>`", ALERTMANAGER),
        ("hub: `atlas/xds`", ATLAS_XDS),
        ("hub: `atlas/web`", ATLAS_WEB),
        ("cluster: `store/<name>-thanos-sidecarN`", STORE),
        ("cluster: `backend/prometheus`, `backend/alertmanager`", BACKEND),
        ("cluster: `hub/alerts`", TO_HUB_ALERTS),
        ("every Envoy: `atlas-xds`", XDS_STREAM),
        ("every Envoy: `envoy-admin`", ADMIN),
    ]
}

//! The limits of the Envoys: how much may be open at a time, how long it may take, and how much
//! memory it may use. Without them Envoy's defaults would decide. `docs/reference.md` has the same
//! tables; a test compares them.
//!
//! Sized for one Envoy of the hub with 10,000 downstream clusters of two Envoys each. A stream
//! whose reader stops holds at most the window of the connection from which it comes and that of
//! the connection to which it goes. So memory is bounded by the number of streams times both
//! windows, plus the number of connections times the memory of one. Beyond that,
//! `overload.rs` sheds load by the memory that the process really uses.

use envoy_types::pb::envoy::config::cluster::v3 as cluster;
use envoy_types::pb::envoy::config::cluster::v3::circuit_breakers::{
    Thresholds, thresholds::RetryBudget,
};
use envoy_types::pb::envoy::config::core::v3 as core;
use envoy_types::pb::envoy::r#type::v3::Percent;

use super::{seconds, uint32};

/// The longest duration of a WebSocket or an event stream, and how long it may be idle.
pub const MAX_LONG_LIVED_SECONDS: i64 = 3600;
/// How much longer than the hub's Envoy a cluster's Envoy waits for a response. So the hub's ends
/// the request, and its local reply says why.
pub(super) const CLUSTER_EXTRA_SECONDS: i64 = 10;

/// Stream window of responses from a downstream cluster to the hub's Envoy, in bytes. The hub's
/// Envoy holds as much for a reader that stops. Divided by the round trip, it is the highest
/// throughput of one response (1 MiB: 3.3 MiB/s at 300 ms).
pub const LINK_STREAM_WINDOW: u32 = 1 << 20;
/// The same within one cluster. It is smaller, so that a response needn't wait behind much of a
/// larger one that the cluster's Envoy has read already, and that perhaps nobody wants any more.
pub const LOCAL_STREAM_WINDOW: u32 = 256 << 10;
/// How many bytes of a connection Envoy buffers, beside the windows, before it stops reading.
pub const CONNECTION_BUFFER: u32 = 128 << 10;
/// Streams of one connection to an upstream; for another stream Envoy opens another connection. The
/// connection's window is as large as those of all its streams, so that readers that stop don't
/// hold up the others.
pub const UPSTREAM_STREAMS: u32 = 64;

/// The largest post of alerts, which is buffered whole. Prometheus sends at most 256 alerts in one,
/// which are about 300 KiB.
pub const ALERT_POST_BYTES: u32 = 2 << 20;
/// The largest body of a request to a web UI, which is buffered whole. The longest queries are some
/// KiB.
pub const WEB_REQUEST_BYTES: u32 = 128 << 10;
/// On 10903: how many posts of one downstream cluster to one Alertmanager replica may be under way
/// on one worker thread.
pub const ALERT_POSTS_OF_A_CLUSTER: u32 = 16;
/// On 10903: the bytes of these posts together.
pub const ALERT_POST_BYTES_OF_A_CLUSTER: u32 = 8 << 20;
/// How long an Alertmanager may take to respond to a post. Prometheus's whole post may take 10 s.
pub const ALERT_POST_SECONDS: i64 = 5;
/// How long a post may take in a cluster's Envoy: 300 KiB of alerts over a link of 20 KiB/s.
pub const ALERT_POST_FROM_CLUSTER_SECONDS: i64 = 15;

/// The limits of a listener. Times are in seconds, windows in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListenerLimits {
    /// The name of its resource.
    pub name: &'static str,
    /// The port on which it listens.
    pub port: u16,
    /// Open connections; another one is closed at once.
    pub connections: u64,
    /// From the TCP connection to the end of the TLS handshake; `None`: no TLS.
    pub handshake: Option<i64>,
    /// From the first byte of a request to the end of its headers. Without TLS also from the
    /// connection to the first byte.
    pub headers: i64,
    /// From the first byte of a request to the end of its body.
    pub request: i64,
    /// A stream without a byte in either direction.
    pub stream_idle: i64,
    /// A connection without a stream.
    pub idle: i64,
    /// Open streams of one HTTP/2 connection.
    pub streams: u32,
    /// The HTTP/2 window of one stream.
    pub stream_window: u32,
    /// The HTTP/2 window of one connection.
    pub connection_window: u32,
}

impl ListenerLimits {
    /// The same for requests of at most this duration: they may be idle for as long.
    pub(super) fn for_requests_of(self, max_request_seconds: u32) -> Self {
        let longest = i64::from(max_request_seconds) + CLUSTER_EXTRA_SECONDS;
        Self { stream_idle: self.stream_idle.max(longest), ..self }
    }
}

/// 10900 on the hub: connections. It passes TCP on, so nothing else is limited here; Atlas gives a
/// client 10 s for the TLS handshake. Two Envoys of each cluster, and as many while they are
/// replaced.
pub const HUB_XDS_CONNECTIONS: u64 = 40_000;
/// 10900 on the hub: a connection without a byte, in seconds. Streams are quiet between changes.
/// The keepalive of Atlas closes dead ones.
pub const HUB_XDS_IDLE: i64 = 3600;

/// 10901 on the hub: two Thanos Querys with 20,000 stores, for each of which Query has a
/// connection.
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

/// 10903 on the hub: two worker threads and a health check of each cluster's two Envoys, and some
/// more while Envoys are replaced.
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

/// 11901 in a cluster: the hub's Envoys. Each worker thread has a connection for every
/// [`UPSTREAM_STREAMS`] streams.
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

/// The circuit breakers of an Envoy cluster, for all worker threads together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UpstreamLimits {
    /// Open connections.
    pub connections: u32,
    /// Requests that wait for a connection.
    pub pending: u32,
    /// Open requests of HTTP/2. (Those of HTTP/1.1 are limited by the connections.)
    pub requests: u32,
    /// Open retries; more if half of the open and waiting requests are more.
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
/// On the hub: Atlas's web page. Atlas accepts 256 connections.
pub const ATLAS_WEB: UpstreamLimits =
    UpstreamLimits { connections: 128, pending: 256, requests: 256, retries: 32 };
/// On the hub: one Alertmanager replica, to which every cluster posts within its own limits.
pub const ALERTMANAGER: UpstreamLimits =
    UpstreamLimits { connections: 512, pending: 4096, requests: 4096, retries: 512 };
/// In a cluster: one Thanos sidecar.
pub const STORE: UpstreamLimits =
    UpstreamLimits { connections: 64, pending: 256, requests: 256, retries: 64 };
/// In a cluster: Prometheus or Alertmanager. Prometheus accepts 512 connections by default.
pub const BACKEND: UpstreamLimits =
    UpstreamLimits { connections: 256, pending: 256, requests: 256, retries: 64 };
/// In a cluster: 10903 of the hub's Envoys.
pub const TO_HUB_ALERTS: UpstreamLimits =
    UpstreamLimits { connections: 64, pending: 256, requests: 256, retries: 64 };
/// In every Envoy: its ADS stream.
pub const XDS_STREAM: UpstreamLimits =
    UpstreamLimits { connections: 8, pending: 8, requests: 16, retries: 1 };
/// In every Envoy: its admin interface, by 9001.
pub const ADMIN: UpstreamLimits =
    UpstreamLimits { connections: 64, pending: 64, requests: 64, retries: 1 };

impl UpstreamLimits {
    pub(super) fn circuit_breakers(&self) -> cluster::CircuitBreakers {
        cluster::CircuitBreakers {
            thresholds: vec![self.thresholds(core::RoutingPriority::Default)],
            ..Default::default()
        }
    }

    /// Own limits, and own connections, for requests of high priority.
    pub(super) fn circuit_breakers_by_priority(
        default: &Self,
        high: &Self,
    ) -> cluster::CircuitBreakers {
        let thresholds = vec![
            default.thresholds(core::RoutingPriority::Default),
            high.thresholds(core::RoutingPriority::High),
        ];
        cluster::CircuitBreakers { thresholds, ..Default::default() }
    }

    fn thresholds(&self, priority: core::RoutingPriority) -> Thresholds {
        let budget = RetryBudget {
            // Of the open and waiting requests.
            budget_percent: Some(Percent { value: 50.0 }),
            min_retry_concurrency: uint32(self.retries),
            ..Default::default()
        };
        Thresholds {
            priority: priority.into(),
            max_connections: uint32(self.connections),
            max_pending_requests: uint32(self.pending),
            max_requests: uint32(self.requests),
            retry_budget: Some(budget),
            ..Default::default()
        }
    }
}

/// HTTP/2 of a listener.
pub(super) fn http2_server(limits: &ListenerLimits) -> core::Http2ProtocolOptions {
    core::Http2ProtocolOptions {
        max_concurrent_streams: uint32(limits.streams),
        initial_stream_window_size: uint32(limits.stream_window),
        initial_connection_window_size: uint32(limits.connection_window),
        // Closes connections whose client is gone without closing them.
        connection_keepalive: Some(core::KeepaliveSettings {
            interval: seconds(60),
            timeout: seconds(20),
            ..Default::default()
        }),
        ..http2_floods()
    }
}

/// HTTP/2 of an Envoy cluster.
pub(super) fn http2_client(
    stream_window: u32,
    keepalive: core::KeepaliveSettings,
) -> core::Http2ProtocolOptions {
    core::Http2ProtocolOptions {
        max_concurrent_streams: uint32(UPSTREAM_STREAMS),
        initial_stream_window_size: uint32(stream_window),
        initial_connection_window_size: uint32(UPSTREAM_STREAMS * stream_window),
        connection_keepalive: Some(keepalive),
        allow_connect: true,
        ..http2_floods()
    }
}

/// Limits of frames by which the other side could make an Envoy use memory or time. Beyond them the
/// connection is closed.
fn http2_floods() -> core::Http2ProtocolOptions {
    core::Http2ProtocolOptions {
        max_outbound_frames: uint32(10_000),
        max_outbound_control_frames: uint32(1000),
        max_consecutive_inbound_frames_with_empty_payload: uint32(1),
        max_inbound_priority_frames_per_stream: uint32(100),
        max_inbound_window_update_frames_per_data_frame_sent: uint32(10),
        ..Default::default()
    }
}

/// The rows of the table of listeners in `docs/reference.md`, in their order.
pub fn listeners() -> [ListenerLimits; 6] {
    [HUB_STORES, HUB_ALERTS, HUB_WEB, CLUSTER_INBOUND, CLUSTER_ALERTS, STATUS]
}

/// The rows of the table of Envoy clusters in `docs/reference.md`, in their order.
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

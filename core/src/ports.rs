//! Every port, with who listens and who connects. The same table is in `docs/reference.md`.

/// Hub Envoy: xDS entry, TCP-proxied to Atlas.
pub const HUB_XDS: u16 = 10900;
/// Hub Envoy: stores, plain HTTP/2.
pub const HUB_STORES: u16 = 10901;
/// Hub Envoy: alerts in, mutual TLS.
pub const HUB_ALERTS: u16 = 10903;
/// Hub Envoy: web UIs.
pub const HUB_WEB: u16 = 10904;
/// Cluster Envoy: everything that comes from the hub, mutual TLS.
pub const CLUSTER_INBOUND: u16 = 11901;
/// Cluster Envoy: alerts out, plain.
pub const CLUSTER_ALERTS: u16 = 11903;
/// Envoys: admin, loopback only.
pub const ENVOY_ADMIN: u16 = 9000;
/// Envoys: `/ready` and `/stats/prometheus`.
pub const ENVOY_STATUS: u16 = 9001;
/// Atlas: xDS, mutual TLS.
pub const XDS: u16 = 6305;
/// Atlas: metrics, health, readiness.
pub const METRICS: u16 = 6309;
/// Atlas: its web page and read-only API.
pub const WEB: u16 = 6310;
/// Atlas: DNS.
pub const DNS: u16 = 5353;
/// Thanos sidecar, gRPC.
pub const THANOS: u16 = 10901;
/// Prometheus.
pub const PROMETHEUS: u16 = 9090;
/// Alertmanager.
pub const ALERTMANAGER: u16 = 9093;

//! Every TCP port, by who listens on it. `docs/reference.md` has the same table.

/// Hub Envoy: xDS of the clusters' Envoys, proxied to Atlas as TCP.
pub const HUB_XDS: u16 = 10900;
/// Hub Envoy: stores for Thanos Query, HTTP/2 without TLS.
pub const HUB_STORES: u16 = 10901;
/// Hub Envoy: alerts from the clusters' Envoys, mutual TLS.
pub const HUB_ALERTS: u16 = 10903;
/// Hub Envoy: web UIs for people.
pub const HUB_WEB: u16 = 10904;
/// Cluster Envoy: all traffic from the hub, mutual TLS.
pub const CLUSTER_INBOUND: u16 = 11901;
/// Cluster Envoy: alerts from the cluster's Prometheus, without TLS.
pub const CLUSTER_ALERTS: u16 = 11903;
/// Both Envoys: admin interface, on the loopback address only.
pub const ENVOY_ADMIN: u16 = 9000;
/// Both Envoys: `/ready` and `/stats/prometheus`.
pub const ENVOY_STATUS: u16 = 9001;
/// Atlas: xDS, mutual TLS.
pub const XDS: u16 = 6305;
/// Atlas: metrics, health, readiness.
pub const METRICS: u16 = 6309;
/// Atlas: web page and read-only API.
pub const WEB: u16 = 6310;
/// Atlas: DNS, also UDP.
pub const DNS: u16 = 5353;
/// Thanos sidecar: gRPC.
pub const THANOS: u16 = 10901;
/// Prometheus: HTTP.
pub const PROMETHEUS: u16 = 9090;
/// Alertmanager: HTTP.
pub const ALERTMANAGER: u16 = 9093;

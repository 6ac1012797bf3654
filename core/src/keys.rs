//! Every key that people write, every default, every port. The reference in `docs/reference.md` lists the same.

use crate::quantity::Memory;

/// Label: this Service is a downstream cluster (any value but `false`).
pub const CLUSTER: &str = "goatlas.io/cluster";
/// Label: Prometheus/Thanos replicas there.
pub const REPLICAS: &str = "goatlas.io/replicas";
/// Label or annotation on Atlas's own replica Services: not a cluster.
pub const THANOS_SIDECAR: &str = "goatlas.io/thanos-sidecar";

/// Annotation: selector of the hub Envoy's pods.
pub const ENVOY_SELECTORS: &str = "goatlas.io/envoy-selectors";
/// Annotation: name of the Thanos sidecars' service inside the cluster.
pub const THANOS_SERVICE: &str = "goatlas.io/thanos-service";
/// Annotation: its port.
pub const THANOS_SERVICE_PORT: &str = "goatlas.io/thanos-service-port";
/// Annotation: name of Prometheus's service inside the cluster.
pub const PROMETHEUS_SERVICE: &str = "goatlas.io/prometheus-service";
/// Annotation: its port.
pub const PROMETHEUS_SERVICE_PORT: &str = "goatlas.io/prometheus-service-port";
/// Annotation: name of Alertmanager's service inside the cluster.
pub const ALERTMANAGER_SERVICE: &str = "goatlas.io/alertmanager-service";
/// Annotation: its port.
pub const ALERTMANAGER_SERVICE_PORT: &str = "goatlas.io/alertmanager-service-port";
/// Annotation: where the cluster's Envoy listens; wins over `spec.externalIPs`.
pub const ADDRESSES: &str = "goatlas.io/addresses";
/// Annotation: the Prometheus resource's name, from which its pods' names follow.
pub const PROMETHEUS_NAME: &str = "goatlas.io/prometheus-name";
/// Annotation: Prometheus shards.
pub const SHARDS: &str = "goatlas.io/shards";
/// Annotation: one host per store, where pods aren't named as the operator names them.
pub const THANOS_REPLICA_HOSTS: &str = "goatlas.io/thanos-replica-hosts";
/// Annotation: Prometheus's `routePrefix`.
pub const PROMETHEUS_PATH_PREFIX: &str = "goatlas.io/prometheus-path-prefix";
/// Annotation: Alertmanager's `routePrefix`.
pub const ALERTMANAGER_PATH_PREFIX: &str = "goatlas.io/alertmanager-path-prefix";
/// Annotation: the `Host` that Prometheus sees.
pub const PROMETHEUS_HOST_HEADER: &str = "goatlas.io/prometheus-host-header";
/// Annotation: the `Host` that Alertmanager sees.
pub const ALERTMANAGER_HOST_HEADER: &str = "goatlas.io/alertmanager-host-header";
/// Annotation: how this cluster reaches the hub.
pub const HUB_ADDRESSES: &str = "goatlas.io/hub-addresses";
/// Annotation: where that cluster's Envoy binds.
pub const BIND_ADDRESS: &str = "goatlas.io/bind-address";
/// Annotation: path prefixes of the web UIs that are let through although refused by default.
pub const ALLOW_PATHS: &str = "goatlas.io/allow-paths";
/// Annotation: which side dials.
pub const CONNECT: &str = "goatlas.io/connect";
/// Annotation: issue credential N.
pub const CREDENTIAL_REVISION: &str = "goatlas.io/credential-revision";
/// Annotation: refuse every credential below N.
pub const REVOKE_BELOW: &str = "goatlas.io/revoke-below";
/// Annotation: Envoy replicas in that cluster.
pub const ENVOY_REPLICAS: &str = "goatlas.io/envoy-replicas";
/// Annotation: memory that one Envoy in that cluster may take.
pub const ENVOY_MEMORY: &str = "goatlas.io/envoy-memory";
/// `spec.externalIPs`, as messages name it.
pub const EXTERNAL_IPS: &str = "spec.externalIPs";
/// `spec.externalName`, as messages name it.
pub const EXTERNAL_NAME: &str = "spec.externalName";
/// `spec.type`, as messages name it.
pub const SERVICE_TYPE: &str = "spec.type";

/// The labels that a cluster's Service may carry.
pub const CLUSTER_LABELS: &[&str] = &[CLUSTER, REPLICAS];
/// The annotations that a cluster's Service may carry.
pub const CLUSTER_ANNOTATIONS: &[&str] = &[
    ENVOY_SELECTORS,
    THANOS_SERVICE,
    THANOS_SERVICE_PORT,
    PROMETHEUS_SERVICE,
    PROMETHEUS_SERVICE_PORT,
    ALERTMANAGER_SERVICE,
    ALERTMANAGER_SERVICE_PORT,
    ADDRESSES,
    PROMETHEUS_NAME,
    SHARDS,
    THANOS_REPLICA_HOSTS,
    PROMETHEUS_PATH_PREFIX,
    ALERTMANAGER_PATH_PREFIX,
    PROMETHEUS_HOST_HEADER,
    ALERTMANAGER_HOST_HEADER,
    HUB_ADDRESSES,
    BIND_ADDRESS,
    ALLOW_PATHS,
    CONNECT,
    CREDENTIAL_REVISION,
    REVOKE_BELOW,
    ENVOY_REPLICAS,
    ENVOY_MEMORY,
];

/// Label of every object that Atlas writes, and its value: for people. Atlas selects nothing by it, since other tools write it too.
pub const MANAGED_BY: (&str, &str) = ("app.kubernetes.io/managed-by", "atlas");
/// Label of every object that Atlas writes: what it is for. What has it is Atlas's.
pub const PART: &str = "goatlas.io/part";

/// Service: the hub's Envoys, to which the stores' names lead. One for other `goatlas.io/envoy-selectors` has a hyphen and a
/// hash of them behind this.
pub const HUB_STORES: &str = "atlas-hub-stores";
/// Where an Envoy's container sees the files that it starts from.
pub const ENVOY_DIR: &str = "/etc/atlas";
/// Secret: what the hub's Envoys start from.
pub const HUB_SECRET: &str = "atlas-hub";
/// Secret: values for the hub's own Envoy.
pub const HUB_VALUES: &str = "atlas-envoy-values";
/// Secrets of clusters: `<cluster>-envoy-values`.
pub const VALUES_SUFFIX: &str = "-envoy-values";
/// ConfigMap with the DNS zone, and its key.
pub const ZONE_CONFIG_MAP: (&str, &str) = ("atlas-coredns", "atlas.zone");
/// ConfigMap with Thanos Query's endpoint SD file, and its key.
pub const ENDPOINTS_CONFIG_MAP: (&str, &str) = ("atlas-thanos-endpoints", "endpoints.yaml");
/// Secret in a downstream cluster with Prometheus's Alertmanager configuration, and its key.
pub const ALERTMANAGER_CONFIGS: (&str, &str) = ("atlas-alertmanager-configs", "config.yaml");

/// Label of an EndpointSlice: the Service it belongs to.
pub const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// Default of [`PROMETHEUS_NAME`]: what kube-prometheus-stack calls it in a release of the same name.
pub const DEFAULT_PROMETHEUS_NAME: &str = "kube-prometheus-stack-prometheus";
/// Default of [`ENVOY_REPLICAS`].
pub const DEFAULT_ENVOY_REPLICAS: u32 = 2;
/// Default of [`ENVOY_MEMORY`]; the chart of a cluster's Envoy says the same.
pub const DEFAULT_ENVOY_MEMORY: Memory = Memory::mebibytes(256);
/// What an Envoy of the hub may take by default; the chart says the same. 10,000 clusters fit.
pub const DEFAULT_HUB_ENVOY_MEMORY: Memory = Memory::mebibytes(6144);
/// Least memory of an Envoy: with less it sheds load at once.
pub const LEAST_ENVOY_MEMORY: Memory = Memory::mebibytes(128);
/// Longest time one request may take, in seconds, where nobody says otherwise. Thanos's own query timeout is 2 minutes, and Envoy
/// can't end a request in flight otherwise (revocation, removal), so this bounds both.
pub const DEFAULT_MAX_REQUEST_SECONDS: u32 = 150;
/// The longest that can be asked for: what a WebSocket has.
pub const MOST_MAX_REQUEST_SECONDS: u32 = 3600;
/// Most stores of one cluster: their numbers have two digits.
pub const MAX_STORES: u32 = 100;

/// Ports, with who listens and who connects. The same table is in ARCHITECTURE.md.
pub mod port {
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
}

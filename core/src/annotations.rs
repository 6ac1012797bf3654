//! Every label and annotation that people write on a cluster's Service. `docs/reference.md` lists the same.

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

/// Label of an EndpointSlice: the Service it belongs to.
pub const SERVICE_NAME: &str = "kubernetes.io/service-name";

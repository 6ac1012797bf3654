//! The labels and annotations that people write on a cluster's Service, and the fields of it that
//! messages name. `docs/reference.md` explains each key; defaults stand beside the types in
//! [`crate::model`].

/// Label: this Service is a downstream cluster. Any value but `false`.
pub const CLUSTER: &str = "goatlas.io/cluster";
/// Label: how many replicas of Prometheus with a Thanos sidecar the cluster has, per shard.
pub const REPLICAS: &str = "goatlas.io/replicas";
/// Label of the Services that Atlas writes for stores, an annotation of Atlas 0.3's: a Service that
/// has it is not a cluster.
pub const THANOS_SIDECAR: &str = "goatlas.io/thanos-sidecar";

/// Annotation: selector of the hub Envoy's pods, `key=value,key=value`.
pub const ENVOY_SELECTORS: &str = "goatlas.io/envoy-selectors";
/// Annotation: host of the Thanos sidecars' Service inside the cluster.
pub const THANOS_SERVICE: &str = "goatlas.io/thanos-service";
/// Annotation: its port.
pub const THANOS_SERVICE_PORT: &str = "goatlas.io/thanos-service-port";
/// Annotation: host of Prometheus's Service inside the cluster.
pub const PROMETHEUS_SERVICE: &str = "goatlas.io/prometheus-service";
/// Annotation: its port.
pub const PROMETHEUS_SERVICE_PORT: &str = "goatlas.io/prometheus-service-port";
/// Annotation: host of Alertmanager's Service inside the cluster.
pub const ALERTMANAGER_SERVICE: &str = "goatlas.io/alertmanager-service";
/// Annotation: its port.
pub const ALERTMANAGER_SERVICE_PORT: &str = "goatlas.io/alertmanager-service-port";
/// Annotation: where the cluster's Envoy listens, `host[:port]` separated by commas. It takes
/// precedence over `spec.externalIPs`.
pub const ADDRESSES: &str = "goatlas.io/addresses";
/// Annotation: the Prometheus resource's name, from which its pods' names follow.
pub const PROMETHEUS_NAME: &str = "goatlas.io/prometheus-name";
/// Annotation: how many shards Prometheus has.
pub const SHARDS: &str = "goatlas.io/shards";
/// Annotation: one host per store, for pods that aren't named as the Prometheus operator names
/// them.
pub const THANOS_REPLICA_HOSTS: &str = "goatlas.io/thanos-replica-hosts";
/// Annotation: Prometheus's `routePrefix`.
pub const PROMETHEUS_PATH_PREFIX: &str = "goatlas.io/prometheus-path-prefix";
/// Annotation: Alertmanager's `routePrefix`.
pub const ALERTMANAGER_PATH_PREFIX: &str = "goatlas.io/alertmanager-path-prefix";
/// Annotation: the `Host` header that Prometheus receives.
pub const PROMETHEUS_HOST_HEADER: &str = "goatlas.io/prometheus-host-header";
/// Annotation: the `Host` header that Alertmanager receives.
pub const ALERTMANAGER_HOST_HEADER: &str = "goatlas.io/alertmanager-host-header";
/// Annotation: addresses at which this cluster reaches the hub.
pub const HUB_ADDRESSES: &str = "goatlas.io/hub-addresses";
/// Annotation: IP address on which the cluster's Envoy listens.
pub const BIND_ADDRESS: &str = "goatlas.io/bind-address";
/// Annotation: path prefixes of the web UIs that are allowed although refused by default.
pub const ALLOW_PATHS: &str = "goatlas.io/allow-paths";
/// Annotation: which side opens connections. Only `direct`, the hub, is built.
pub const CONNECT: &str = "goatlas.io/connect";
/// Annotation: the revision of the credential to issue.
pub const CREDENTIAL_REVISION: &str = "goatlas.io/credential-revision";
/// Annotation: credentials of lower revisions are refused.
pub const REVOKE_BELOW: &str = "goatlas.io/revoke-below";
/// Annotation: how many replicas the cluster's Envoy has.
pub const ENVOY_REPLICAS: &str = "goatlas.io/envoy-replicas";
/// Annotation: memory limit of one of the cluster's Envoys.
pub const ENVOY_MEMORY: &str = "goatlas.io/envoy-memory";

/// Field, as messages name it.
pub const EXTERNAL_IPS: &str = "spec.externalIPs";
/// Field, as messages name it.
pub const EXTERNAL_NAME: &str = "spec.externalName";
/// Field, as messages name it.
pub const SERVICE_TYPE: &str = "spec.type";

/// The labels of Atlas's domain that are read from a cluster's Service.
pub const CLUSTER_LABELS: &[&str] = &[CLUSTER, REPLICAS];
/// The annotations of Atlas's domain that are read from a cluster's Service.
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

/// Label of an EndpointSlice: the Service to which it belongs.
pub const SERVICE_NAME: &str = "kubernetes.io/service-name";

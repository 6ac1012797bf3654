//! Names of the objects, labels and keys that Atlas writes. `docs/reference.md` lists the same.

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

//! Names of the Kubernetes objects, labels and keys that Atlas writes. `docs/reference.md` lists
//! the same.

/// Label of every object that Atlas writes, and its value. It is for people: Atlas selects nothing
/// by it, since other tools write it too.
pub const MANAGED_BY: (&str, &str) = ("app.kubernetes.io/managed-by", "atlas");
/// Label of every object that Atlas writes, with what the object is for as its value. Atlas changes
/// and deletes only objects that have it.
pub const PART: &str = "goatlas.io/part";

/// Service of the hub's Envoys, to which the stores' ExternalName Services lead. For each other
/// value of `goatlas.io/envoy-selectors` there is one more, whose name has `-` and a hash of the
/// labels at its end.
pub const HUB_STORES: &str = "atlas-hub-stores";
/// Directory in an Envoy's container with its bootstrap and its credential.
pub const ENVOY_DIR: &str = "/etc/atlas";
/// Secret with the bootstrap and the credential of the hub's Envoys.
pub const HUB_SECRET: &str = "atlas-hub";
/// Secret with Helm values for the hub's Envoy.
pub const HUB_VALUES: &str = "atlas-envoy-values";
/// End of the name of a cluster's Secret, `<cluster>-envoy-values`.
pub const VALUES_SUFFIX: &str = "-envoy-values";
/// ConfigMap with the DNS zone's file, and the file's key.
pub const ZONE_CONFIG_MAP: (&str, &str) = ("atlas-coredns", "atlas.zone");
/// ConfigMap with Thanos Query's endpoint SD file, and the file's key.
pub const ENDPOINTS_CONFIG_MAP: (&str, &str) = ("atlas-thanos-endpoints", "endpoints.yaml");
/// Secret in a downstream cluster with Prometheus's `additionalAlertManagerConfigs`, and their key.
pub const ALERTMANAGER_CONFIGS: (&str, &str) = ("atlas-alertmanager-configs", "config.yaml");

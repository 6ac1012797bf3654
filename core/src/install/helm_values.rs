//! Helm values for the Envoy's chart, and for kube-prometheus-stack in the same cluster.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::model::{Cluster, Settings};
use crate::quantity::Memory;
use crate::render;

/// Key of the values for the Envoy's chart.
pub const VALUES: &str = "values.yaml";
/// Key of the values for kube-prometheus-stack.
pub const PROMETHEUS_VALUES: &str = "prometheus-values.yaml";

/// Values for the Envoy of `node`, with its private key. The container's memory limit is the one in
/// the bootstrap, near which Envoy sheds load.
pub fn envoy(
    node: &str,
    replicas: u32,
    memory: Memory,
    files: &BTreeMap<String, String>,
) -> String {
    let resources = json!({"limits": {"memory": memory.to_string()}});
    let values =
        json!({"cluster": node, "replicaCount": replicas, "resources": resources, "files": files});
    format!(
        "# Written by Atlas for the chart of the Envoy of {node}. It holds a private key.\n{}",
        document(&values)
    )
}

/// Values for kube-prometheus-stack in a downstream cluster: those that Atlas needs and that differ
/// from the chart's defaults.
pub fn prometheus(settings: &Settings, cluster: &Cluster) -> String {
    let name = &cluster.name;
    let stores = u32::try_from(cluster.stores.len()).unwrap_or(crate::model::MAX_STORES);
    let (secret, key) = crate::object_names::ALERTMANAGER_CONFIGS;
    let mut prometheus = json!({
        "additionalAlertManagerConfigsSecret": {"name": secret, "key": key, "optional": true},
        "externalLabels": {"cluster": name.as_str()},
        "replicas": stores / cluster.shards.max(1),
        "routePrefix": prefix(&cluster.prometheus.path_prefix),
        // Any value but the empty default starts a sidecar. `getConfigInterval` is how often the
        // sidecar asks whether its Prometheus is up (default 30 s). After an interruption, the
        // store is not ready until it has asked.
        "thanos": {"getConfigInterval": "5s", "logLevel": "info"},
    });
    if cluster.shards > 1 {
        prometheus["shards"] = cluster.shards.into();
    }
    let mut alertmanager = json!({"routePrefix": prefix(&cluster.alertmanager.path_prefix)});
    if let Some(url) = &settings.web_url {
        prometheus["externalUrl"] = format!("{url}/prom/{name}").into();
        alertmanager["externalUrl"] = format!("{url}/alertmanager/{name}").into();
    }
    let values = json!({
        "prometheus": {"prometheusSpec": prometheus},
        "alertmanager": {"alertmanagerSpec": alertmanager},
    });
    let hint = match settings.web_url {
        Some(_) => "",
        None => {
            "# With --web-url, Atlas would say here under which URL people see this Prometheus and this Alertmanager (externalUrl).\n"
        }
    };
    format!("# Written by Atlas for kube-prometheus-stack in {name}.\n{hint}{}", document(&values))
}

fn prefix(path_prefix: &str) -> &str {
    if path_prefix.is_empty() { "/" } else { path_prefix }
}

fn document(value: &Value) -> String {
    let tree = serde_yaml_ng::to_value(value).expect("BUG: JSON that is no YAML");
    render::document(&tree)
}

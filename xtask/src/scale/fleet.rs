//! The manifests of the fleet, in a directory that Atlas reads.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::{Value, json};

/// A directory of manifests: a file for each cluster, and one with the hub's Alertmanagers.
pub struct Fleet {
    from: PathBuf,
}

/// The name of the n-th cluster.
pub fn name(n: usize) -> String {
    format!("c{n:05}")
}

/// The first address of the n-th cluster.
pub fn address(n: usize) -> String {
    format!("10.{}.{}.{}", 1 + n / 62_500, n / 250 % 250, 1 + n % 250)
}

/// An address that the n-th edit gives a cluster.
pub fn edited_address(n: usize) -> String {
    format!("172.16.{}.{}", n / 250, 1 + n % 250)
}

impl Fleet {
    /// Writes `clusters` clusters and two Alertmanagers.
    pub fn write(from: &Path, clusters: usize) -> Result<Self> {
        std::fs::create_dir_all(from).with_context(|| format!("cannot make {}", from.display()))?;
        let fleet = Self { from: from.to_owned() };
        fleet.alertmanagers(2)?;
        (0..clusters).try_for_each(|n| fleet.cluster(&name(n), &address(n)))?;
        Ok(fleet)
    }

    /// Writes one cluster with two replicas of Prometheus.
    pub fn cluster(&self, name: &str, address: &str) -> Result<()> {
        let labels = json!({"goatlas.io/cluster": "true", "goatlas.io/replicas": "2"});
        let annotations = json!({"goatlas.io/prometheus-name": "kube-prometheus-stack-prometheus"});
        let manifest = json!({
            "apiVersion": "v1", "kind": "Service",
            "metadata": {"name": name, "labels": labels, "annotations": annotations},
            "spec": {"externalIPs": [address]},
        });
        self.write_file(&format!("{name}.json"), &manifest)
    }

    /// Removes a cluster's manifest.
    pub fn remove(&self, name: &str) -> Result<()> {
        let path = self.from.join(format!("{name}.json"));
        std::fs::remove_file(&path).with_context(|| format!("cannot remove {}", path.display()))
    }

    /// Writes the EndpointSlice of the hub's Alertmanagers.
    pub fn alertmanagers(&self, count: usize) -> Result<()> {
        let endpoints: Vec<Value> = (0..count)
            .map(|n| {
                let address = format!("10.250.0.{}", n + 1);
                json!({"addresses": [address], "hostname": format!("alertmanager-main-{n}")})
            })
            .collect();
        let manifest = json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
            "metadata": {
                "name": "alertmanager-operated",
                "labels": {"kubernetes.io/service-name": "alertmanager-operated"},
            },
            "endpoints": endpoints,
            "ports": [{"name": "http-web", "port": 9093}],
        });
        self.write_file("alertmanagers.json", &manifest)
    }

    /// Writes a file under a name that Atlas ignores, then renames it, so that Atlas reads it
    /// whole.
    fn write_file(&self, file: &str, manifest: &Value) -> Result<()> {
        let (half, whole) = (self.from.join(".half"), self.from.join(file));
        std::fs::write(&half, manifest.to_string())
            .and_then(|()| std::fs::rename(&half, &whole))
            .with_context(|| format!("cannot write {}", whole.display()))
    }

    /// The name of a cluster's Envoy cluster on the hub.
    pub fn hub_cluster_name(name: &str) -> String {
        format!("cluster/{name}")
    }
}

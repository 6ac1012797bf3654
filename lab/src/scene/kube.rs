//! A scene on Kubernetes, set up as documented: Helm applies the hub's chart to a real API server,
//! its Pods run with their own RBAC, and each cluster's Envoy is installed with the values that
//! Atlas wrote.
//!
//! ```text
//! KubeHub::start      etcd, kube-apiserver, controllers, CoreDNS; charts/atlas (two Atlas, an Envoy);
//!                     Alertmanagers, Thanos Query
//! KubeCluster::start  its Service ─▶ the values Secret ─▶ charts/envoy in its own namespace;
//!                     Prometheus, sidecars, an Alertmanager
//! ```
//!
//! One API server serves as the hub's and as the clusters'. Atlas doesn't read the clusters'
//! namespaces, and has no rights there.

mod cluster;
mod hub;
mod proxy;

use std::path::{Path, PathBuf};

use anyhow::Result;
use serde_json::Value;

use crate::parts::Part;
use crate::run::{Kube, START, helm_install, helm_template};
use crate::world::World;

pub use cluster::KubeCluster;
pub use hub::KubeHub;

/// The hub's DNS name.
pub const HUB_NAME: &str = "hub.example.com";

/// Which server serves the stores' zone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Zone {
    /// Atlas itself.
    Atlas,
    /// The chart's CoreDNS, by the ConfigMap that Atlas writes.
    CoreDns,
}

/// How Thanos Query finds its stores.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stores {
    /// By the endpoint SD file, a ConfigMap that Atlas writes.
    File,
    /// By the zone's SRV records.
    Srv,
}

/// Options of a scene.
#[derive(Clone, Debug)]
pub struct KubeOptions {
    /// Atlas's binary.
    pub atlas: PathBuf,
    /// The namespace of the hub, and of kube-prometheus-stack in the clusters.
    pub namespace: String,
    /// DNS domain of the Kubernetes clusters.
    pub domain: String,
    /// Which server serves the stores' zone.
    pub zone: Zone,
    /// How Thanos Query finds its stores.
    pub stores: Stores,
    /// Whether clusters are added by Atlas's commands, as in docs/installing.md; otherwise by
    /// applying a Service and reading the Secret.
    pub by_commands: bool,
}

impl KubeOptions {
    /// Default names, Atlas's own DNS, and the SD file.
    pub fn new(atlas: &Path) -> Self {
        let (namespace, domain) = ("monitoring".into(), "cluster.local".into());
        Self {
            atlas: atlas.to_owned(),
            namespace,
            domain,
            zone: Zone::Atlas,
            stores: Stores::File,
            by_commands: false,
        }
    }
}

/// A hub on Kubernetes and its clusters.
#[derive(Debug)]
pub struct KubeScene {
    /// The downstream clusters, in order of starting.
    pub clusters: Vec<KubeCluster>,
    pub hub: KubeHub,
}

impl KubeScene {
    /// Starts a hub, `tokyo` and `paris`, and waits until all are connected.
    ///
    /// # Errors
    /// A program doesn't start.
    pub fn start(world: &World, options: KubeOptions) -> Result<Self> {
        let hub = KubeHub::start(world, options)?;
        let clusters = ["tokyo", "paris"]
            .into_iter()
            .map(|name| KubeCluster::start(world, &hub, name, 2))
            .collect::<Result<_>>()?;
        let mut scene = Self { clusters, hub };
        scene.wait_connected()?;
        Ok(scene)
    }

    /// Waits until every Envoy is in sync, and Thanos Query has every store.
    ///
    /// # Errors
    /// It takes too long.
    pub fn wait_connected(&mut self) -> Result<()> {
        self.hub.wait_synced(self.clusters.iter().map(|cluster| cluster.name.as_str()))?;
        let stores = self.clusters.iter().map(|cluster| cluster.programs.sidecars.len()).sum();
        self.hub.query.wait_stores(stores, START).map(drop)
    }

    /// A cluster by name.
    ///
    /// # Panics
    /// There is no cluster of this name.
    pub fn cluster(&mut self, name: &str) -> &mut KubeCluster {
        self.clusters
            .iter_mut()
            .find(|cluster| cluster.name == name)
            .expect("a cluster of this name")
    }
}

/// Installs one of the project's charts.
///
/// # Errors
/// Helm or the API server rejects something.
pub fn install(
    kube: &Kube,
    chart: &str,
    release: &str,
    namespace: &str,
    values: &[&str],
) -> Result<()> {
    let chart = Path::new(env!("CARGO_MANIFEST_DIR")).join("../charts").join(chart);
    helm_install(Part::Helm, kube, &chart, release, namespace, values).map(drop)
}

/// The objects of one of the project's charts as Helm renders them, without hooks. `values`: YAML
/// texts.
///
/// # Errors
/// Helm rejects the chart or the values.
pub fn rendered(
    chart: &str,
    release: &str,
    namespace: &str,
    values: &[&str],
) -> Result<Vec<Value>> {
    let chart = Path::new(env!("CARGO_MANIFEST_DIR")).join("../charts").join(chart);
    let mut objects = helm_template(Part::Helm, &chart, release, namespace, values)?;
    objects.retain(|object| object["metadata"]["annotations"]["helm.sh/hook"].is_null());
    Ok(objects)
}

/// A rendered Deployment by name.
fn deployment<'a>(objects: &'a [Value], name: &str) -> Result<&'a Value> {
    let is_it =
        |object: &&Value| object["kind"] == "Deployment" && object["metadata"]["name"] == name;
    objects.iter().find(is_it).ok_or_else(|| anyhow::anyhow!("the chart has no Deployment {name}"))
}

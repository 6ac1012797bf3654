//! A scene on Kubernetes, set up as a person would: the hub's chart rendered by Helm and applied to
//! a real API server, its Pods run with its own rights, each cluster's Envoy installed with the
//! values that Atlas wrote for it.
//!
//! ```text
//! KubeHub::start      etcd, kube-apiserver, controllers, CoreDNS; charts/atlas: two Atlas, an Envoy; Alertmanagers, Thanos Query
//! KubeCluster::start  its Service ─▶ the values Secret ─▶ charts/envoy in a namespace of its own; what is monitored with
//! ```
//!
//! One API server stands for the hub's and the clusters': nothing in a cluster's namespace is read
//! by Atlas, nor may it be.

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

/// The hub's name, under which every cluster knows it.
pub const HUB_NAME: &str = "hub.example.com";

/// Who answers for the stores' zone.
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

/// What may differ from scene to scene.
#[derive(Clone, Debug)]
pub struct KubeOptions {
    /// Atlas's binary.
    pub atlas: PathBuf,
    /// The namespace of everything: of the hub, and of kube-prometheus-stack in the clusters.
    pub namespace: String,
    /// DNS domain of the Kubernetes clusters.
    pub domain: String,
    /// Who answers for the zone.
    pub zone: Zone,
    /// How Thanos Query finds its stores.
    pub stores: Stores,
    /// Whether clusters are added and carried by Atlas's own commands, as docs/installing.md says;
    /// otherwise by applying a Service, and reading the Secret.
    pub by_commands: bool,
}

impl KubeOptions {
    /// Names as they are by default, Atlas's own DNS, the SD file.
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
    /// The hub.
    pub hub: KubeHub,
}

impl KubeScene {
    /// The usual scene: a hub, `tokyo` and `paris`, everything connected.
    ///
    /// # Errors
    /// What didn't start.
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

    /// Waits until every Envoy has all it should have, and Thanos Query has every store.
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
    /// There is none.
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
/// Helm or the API server refuses something.
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

/// The objects of one of the project's charts as Helm renders them; hooks are not among them, since
/// nothing is tested by Helm here. `values`: a YAML text each.
///
/// # Errors
/// Helm refuses something.
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

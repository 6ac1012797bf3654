//! A scene: a hub and downstream clusters made of the real programs, with a real Atlas.
//!
//! ```text
//! Place (host, addresses) ─▶ Hub::start      Atlas, Envoy, two Alertmanagers, Thanos Query
//!                         └▶ Cluster::start  Envoy, two Prometheus with sidecars, an Alertmanager
//! ```
//!
//! The demo runs it on loopback addresses, the tests in a private world, with the same programs.

mod atlas;
mod cluster;
mod hub;
pub mod kube;
pub mod prove;

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use anyhow::Result;

use crate::parts::{self, Part};
use crate::process::wait_until;
use crate::run::START;
use crate::world::{Host, World};

pub use atlas::{Atlas, AtlasOptions};
pub use cluster::{Cluster, ClusterOptions, demo_names};
pub use hub::{Hub, HubOptions, alertmanager_slice};
pub use kube::{KubeCluster, KubeHub, KubeOptions, KubeScene};

/// Where the programs of a hub or a cluster run: a host, and addresses of it that nothing else
/// uses.
#[derive(Clone, Debug)]
pub struct Place {
    pub host: Host,
    /// The Envoy's address.
    pub envoy: IpAddr,
    /// The address the Envoy is told to bind to; `None`: all of the host's.
    pub bind: Option<IpAddr>,
    /// Addresses for the other programs: five are enough for a hub or a cluster.
    pub programs: Vec<IpAddr>,
}

impl Place {
    /// A host of its own in a private world.
    ///
    /// # Errors
    /// The host can't be made.
    pub fn in_world(world: &World, name: &str) -> Result<Self> {
        Self::on_host(world.host(name)?)
    }

    /// A host of its own whose link may be far: see [`World::far_host`].
    ///
    /// # Errors
    /// The host can't be made.
    pub fn far_in_world(world: &World, name: &str, seed: u64) -> Result<Self> {
        Self::on_host(world.far_host(name, seed)?)
    }

    fn on_host(host: Host) -> Result<Self> {
        let programs = (0..5).map(|_| host.add_ip().map(IpAddr::from)).collect::<Result<_>>()?;
        Ok(Self { envoy: host.ip().into(), host, bind: None, programs })
    }

    /// Loopback addresses of this machine: `127.0.0.N` for the Envoy, `127.0.N.1` and so on for the
    /// programs.
    pub fn on_loopback(dir: &Path, name: &str, number: u8) -> Self {
        let envoy = IpAddr::from([127, 0, 0, number]);
        let programs = (1..=5).map(|n| IpAddr::from([127, 0, number, n])).collect();
        Self { host: Host::here(dir.join(name)), envoy, bind: Some(envoy), programs }
    }
}

/// A hub and its clusters.
#[derive(Debug)]
pub struct Scene {
    pub hub: Hub,
    /// The downstream clusters, in order of starting.
    pub clusters: Vec<Cluster>,
}

impl Scene {
    /// Starts a hub, `tokyo` and `paris` in a private world, and waits until all are connected.
    ///
    /// # Errors
    /// A program doesn't start.
    pub fn start(world: &World, atlas: &Path, prometheus: Part) -> Result<Self> {
        let mut hub = Hub::start(Place::in_world(world, "hub")?, HubOptions::new(atlas))?;
        let mut clusters = Vec::new();
        for name in ["tokyo", "paris"] {
            let options = ClusterOptions { prometheus, ..ClusterOptions::new(name) };
            clusters.push(Cluster::start(Place::in_world(world, name)?, &mut hub, options)?);
        }
        let mut scene = Self { hub, clusters };
        scene.wait_connected()?;
        Ok(scene)
    }

    /// Waits until every Envoy is in sync, and Thanos Query has every store.
    ///
    /// # Errors
    /// It takes too long.
    pub fn wait_connected(&mut self) -> Result<()> {
        let names: Vec<String> = self.clusters.iter().map(|cluster| cluster.name.clone()).collect();
        self.hub.wait_synced(names.iter().map(String::as_str))?;
        let stores = self.clusters.iter().map(|cluster| cluster.sidecars.len()).sum();
        self.hub.query.wait_stores(stores, START).map(drop)
    }

    /// A cluster by name.
    ///
    /// # Panics
    /// There is no cluster of this name.
    pub fn cluster(&mut self, name: &str) -> &mut Cluster {
        self.clusters
            .iter_mut()
            .find(|cluster| cluster.name == name)
            .expect("a cluster of this name")
    }
}

/// The path of a part's program.
fn program(part: Part) -> Result<PathBuf> {
    parts::get(part)
}

/// Waits until Atlas's status satisfies `holds`.
fn wait_status(
    atlas: &Atlas,
    what: &str,
    mut holds: impl FnMut(&serde_json::Value) -> bool,
) -> Result<()> {
    wait_until(what, START, || {
        let status = atlas.status()?;
        anyhow::ensure!(holds(&status), "the status is {status:#}");
        Ok(Some(()))
    })
}

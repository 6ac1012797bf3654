//! `atlas run`, and its two halves `atlas controller` and `atlas envoy-ads`.

use std::future::Future;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use atlas_core::model::StoreNames;
use clap::Args;

use super::Outcome;
use super::flags::kubernetes::ReplicaArgs;
use super::flags::server::ServerArgs;
use super::output::wrong_usage;
use crate::config::{Role, StandaloneConfig};
use crate::{kube, standalone};

/// Run Atlas: on Kubernetes, or with --from on a directory of manifests.
///
/// On Kubernetes it reads Services and Secrets of its namespace, serves xDS, DNS and the web page,
/// and, on the one replica that holds the Lease, writes what is derived. With --from it reads
/// Services (the downstream clusters; the hub's Alertmanagers) and EndpointSlices (the hub's
/// Alertmanagers) from files: a saved file takes effect at once; a wrong one is reported and
/// changes nothing.
#[derive(Debug, Args)]
pub struct Run {
    /// Directory of Kubernetes manifests (*.yaml, *.yml, *.json), watched. Without it, Atlas runs
    /// on Kubernetes.
    #[arg(long, value_name = "DIR", env = "ATLAS_FROM", requires = "state")]
    from: Option<PathBuf>,
    /// With --from: where keys, certificates and results are kept. Back it up: who loses it must
    /// give every cluster a new credential.
    #[arg(long, value_name = "DIR", env = "ATLAS_STATE", requires = "from")]
    state: Option<PathBuf>,
    /// Write endpoints.yaml and atlas.zone to this directory too, readable by everyone: for Thanos
    /// and CoreDNS that run as other users, since the state directory is its owner's alone.
    #[arg(long, value_name = "DIR", env = "ATLAS_PUBLIC_DIR", requires = "from")]
    public_dir: Option<PathBuf>,
    #[command(flatten)]
    server: ServerArgs,
    #[command(flatten)]
    replica: ReplicaArgs,
}

/// Run only the part that writes to Kubernetes: `atlas run` without its servers
///
/// For deployments that split Atlas in two. Of several replicas, the one that holds the Lease
/// writes.
#[derive(Debug, Args)]
pub struct Controller {
    #[command(flatten)]
    server: ServerArgs,
    #[command(flatten)]
    replica: ReplicaArgs,
}

/// Run only the part that serves xDS, DNS and the web page: `atlas run` that never writes
///
/// For deployments that split Atlas in two; `atlas controller` is the other half.
#[derive(Debug, Args)]
pub struct EnvoyAds {
    #[command(flatten)]
    server: ServerArgs,
    #[command(flatten)]
    replica: ReplicaArgs,
}

impl Controller {
    /// Runs until a signal.
    pub fn run(self) -> anyhow::Result<Outcome> {
        run_on_kubernetes(&self.server, self.replica, Role::Writes)
    }
}

impl EnvoyAds {
    /// Runs until a signal.
    pub fn run(self) -> anyhow::Result<Outcome> {
        run_on_kubernetes(&self.server, self.replica, Role::Serves)
    }
}

impl Run {
    /// Runs until a signal.
    pub fn run(self) -> anyhow::Result<Outcome> {
        let (Some(manifests), Some(state)) = (self.from, self.state) else {
            return run_on_kubernetes(&self.server, self.replica, Role::Both);
        };
        if !manifests.is_dir() {
            let dir = manifests.display();
            return Err(wrong_usage(format!(
                "--from: {dir} is not a directory: make it, and put one manifest per cluster into it"
            )));
        }
        if let Some(dir) = self.public_dir.as_ref().filter(|dir| !dir.is_dir()) {
            return Err(wrong_usage(format!("--public-dir: {} is not a directory", dir.display())));
        }
        let config = self.server.config(StoreNames::Zone)?;
        let standalone = StandaloneConfig { manifests, state, public_dir: self.public_dir };
        block_on(standalone::run::run(config, standalone))?;
        Ok(Outcome::Done)
    }
}

fn run_on_kubernetes(
    server: &ServerArgs,
    replica: ReplicaArgs,
    role: Role,
) -> anyhow::Result<Outcome> {
    let config = server.config(StoreNames::Services)?;
    block_on(kube::run::run(config, replica.config(role)))?;
    Ok(Outcome::Done)
}

fn block_on(task: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    let result = runtime.block_on(task);
    // A read of a dead network file system may never return.
    runtime.shutdown_timeout(Duration::from_secs(1));
    result
}

//! `atlas run`, and its two halves `atlas controller` and `atlas envoy-ads`.

use std::path::PathBuf;

use atlas_core::model::StoreNames;
use clap::Args;

use super::Outcome;
use super::output::wrong_usage;
use super::serve::{ReplicaArgs, ServeArgs, block_on};
use crate::kube::run::Role;
use crate::standalone::run::{self, Options};

/// Run Atlas: on Kubernetes, or with --from on a directory of manifests.
///
/// On Kubernetes it reads Services and Secrets of its namespace, serves xDS, DNS and the web page, and, on the one replica
/// that holds the Lease, writes what is derived. With --from it reads Services (the downstream clusters; the hub's
/// Alertmanagers) and EndpointSlices (the hub's Alertmanagers) from files: a saved file takes effect at once; a wrong one is
/// reported and changes nothing.
#[derive(Debug, Args)]
pub struct Run {
    /// Directory of Kubernetes manifests (*.yaml, *.yml, *.json), watched. Without it, Atlas runs on Kubernetes.
    #[arg(long, value_name = "DIR", env = "ATLAS_FROM", requires = "state")]
    from: Option<PathBuf>,
    /// With --from: where keys, certificates and results are kept. Back it up: who loses it must give every cluster a new
    /// credential.
    #[arg(long, value_name = "DIR", env = "ATLAS_STATE", requires = "from")]
    state: Option<PathBuf>,
    /// Write endpoints.yaml and atlas.zone to this directory too, readable by everyone: for Thanos and CoreDNS that run as
    /// other users, since the state directory is its owner's alone.
    #[arg(long, value_name = "DIR", env = "ATLAS_PUBLIC_DIR", requires = "from")]
    public_dir: Option<PathBuf>,
    #[command(flatten)]
    serve: ServeArgs,
    #[command(flatten)]
    replica: ReplicaArgs,
}

/// Run only the part that writes to Kubernetes: `atlas run` without its servers
///
/// For deployments that split Atlas in two. Of several replicas, the one that holds the Lease writes.
#[derive(Debug, Args)]
pub struct Controller {
    #[command(flatten)]
    serve: ServeArgs,
    #[command(flatten)]
    replica: ReplicaArgs,
}

/// Run only the part that serves xDS, DNS and the web page: `atlas run` that never writes
///
/// For deployments that split Atlas in two; `atlas controller` is the other half.
#[derive(Debug, Args)]
pub struct EnvoyAds {
    #[command(flatten)]
    serve: ServeArgs,
    #[command(flatten)]
    replica: ReplicaArgs,
}

impl Controller {
    /// Runs until a signal.
    pub fn run(self) -> anyhow::Result<Outcome> {
        self.serve.run_on_kubernetes(self.replica, Role::Writes)?;
        Ok(Outcome::Done)
    }
}

impl EnvoyAds {
    /// Runs until a signal.
    pub fn run(self) -> anyhow::Result<Outcome> {
        self.serve.run_on_kubernetes(self.replica, Role::Serves)?;
        Ok(Outcome::Done)
    }
}

impl Run {
    /// Runs until a signal.
    pub fn run(self) -> anyhow::Result<Outcome> {
        let (Some(from), Some(state)) = (self.from, self.state) else {
            self.serve.run_on_kubernetes(self.replica, Role::Both)?;
            return Ok(Outcome::Done);
        };
        if !from.is_dir() {
            let dir = from.display();
            return Err(wrong_usage(format!(
                "--from: {dir} is not a directory: make it, and put one manifest per cluster into it"
            )));
        }
        if let Some(dir) = self.public_dir.as_ref().filter(|dir| !dir.is_dir()) {
            return Err(wrong_usage(format!("--public-dir: {} is not a directory", dir.display())));
        }
        let options = Options {
            from,
            state,
            public_dir: self.public_dir,
            settings: self.serve.settings(StoreNames::Zone)?,
            lifetimes: self.serve.lifetimes(),
            listen: self.serve.listen(),
            max_stream_age: self.serve.max_stream_age,
            limits: self.serve.limits(),
            debounce: self.serve.debounce(),
        };
        block_on(run::run(options))?;
        Ok(Outcome::Done)
    }
}

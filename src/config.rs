//! The configuration of `atlas run`, the same for both modes, and what each mode needs beside it.
//! `cli/flags/` makes it of flags. Each default stands here or beside its type; flags take theirs
//! from there.

use std::path::PathBuf;
use std::time::Duration;

use atlas_core::model::Settings;
use atlas_core::pki::Lifetimes;

use crate::process::debounce::Debounce;
use crate::process::listen::ListenOptions;
use crate::xds::LimitOptions;

/// What both modes are told.
#[derive(Clone, Debug)]
pub struct Config {
    /// What Envoy resources are made from, beside the manifests.
    pub settings: Settings,
    /// How long certificates are valid.
    pub lifetimes: Lifetimes,
    /// Where Atlas listens.
    pub listen: ListenOptions,
    /// Longest life of an xDS stream; some end up to a fifth earlier.
    pub max_stream_age: Duration,
    /// Limits of the xDS port.
    pub limits: LimitOptions,
    /// How long Atlas waits for the end of a burst of changes.
    pub debounce: Debounce,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            settings: Settings::default(),
            lifetimes: Lifetimes::default(),
            listen: ListenOptions::default(),
            max_stream_age: Duration::from_secs(30 * 60),
            limits: LimitOptions::default(),
            debounce: Debounce::default(),
        }
    }
}

/// What the standalone mode (`--from`) needs beside [`Config`].
#[derive(Clone, Debug)]
pub struct StandaloneConfig {
    /// Directory of manifests.
    pub manifests: PathBuf,
    /// State directory.
    pub state: PathBuf,
    /// Where the files of Thanos and CoreDNS are written too, readable by everyone.
    pub public_dir: Option<PathBuf>,
}

/// What the Kubernetes mode needs beside [`Config`].
#[derive(Clone, Debug)]
pub struct KubernetesConfig {
    /// The hub's Kubernetes cluster.
    pub cluster: ClusterAccess,
    /// What this process does.
    pub role: Role,
    /// Name of the Lease by which replicas elect the one that writes.
    pub lease_name: String,
    /// This replica's name in the election: its pod's.
    pub identity: String,
    /// Owner of the objects that belong to the installation as a whole: Kubernetes deletes them
    /// with it.
    pub service_account: Option<String>,
}

impl KubernetesConfig {
    /// Default of [`KubernetesConfig::lease_name`].
    pub const LEASE_NAME: &str = "atlas";
}

/// Which Kubernetes cluster. With neither: the pod's own, or the current context of
/// `~/.kube/config`.
#[derive(Clone, Debug, Default)]
pub struct ClusterAccess {
    /// The kubeconfig; several files are separated by colons, as in `KUBECONFIG`.
    pub kubeconfig: Option<PathBuf>,
    /// Context in the kubeconfig; `None`: its current one.
    pub context: Option<String>,
}

/// Which parts of Atlas a process runs on Kubernetes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Serves, and takes part in the election: `atlas run`.
    Both,
    /// Takes part in the election only: `atlas controller`.
    Writes,
    /// Serves only: `atlas envoy-ads`.
    Serves,
}

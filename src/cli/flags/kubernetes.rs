//! Flags of the Kubernetes mode: which cluster, which namespace, and who of several replicas
//! writes.

use std::path::PathBuf;

use atlas_core::model::Settings;
use clap::Args;

use super::values::dns_label;
use crate::config::{ClusterAccess, KubernetesConfig, Role};
use crate::kube::admin::Admin;

/// Which cluster. Without any of these: the pod's own, or the current context of `~/.kube/config`.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Kubernetes")]
pub struct KubeconfigArgs {
    /// Kubeconfig of the hub cluster [default: ~/.kube/config, or the pod's own service account].
    #[arg(long, value_name = "FILE", env = "KUBECONFIG")]
    kubeconfig: Option<PathBuf>,
    /// Context in the kubeconfig [default: its current one].
    #[arg(long, value_name = "NAME", env = "ATLAS_CONTEXT")]
    context: Option<String>,
}

impl KubeconfigArgs {
    /// The Kubernetes cluster that these flags name.
    pub fn access(&self) -> ClusterAccess {
        ClusterAccess { kubeconfig: self.kubeconfig.clone(), context: self.context.clone() }
    }
}

/// The hub's Kubernetes cluster, and where Atlas is in it.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Kubernetes")]
pub struct HubArgs {
    #[command(flatten)]
    kubeconfig: KubeconfigArgs,
    /// Atlas's namespace, whose Services are the downstream clusters.
    #[arg(
        long,
        value_name = "NAMESPACE",
        default_value_t = Settings::default().namespace,
        value_parser = dns_label,
        env = "ATLAS_NAMESPACE"
    )]
    pub namespace: String,
}

impl HubArgs {
    /// A client of the hub's API server. No request is sent yet.
    ///
    /// # Errors
    /// There is no usable kubeconfig.
    pub fn connect(&self) -> anyhow::Result<Admin> {
        Admin::connect(&self.kubeconfig.access(), &self.namespace)
    }
}

/// Which cluster, and who leads.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Kubernetes")]
pub struct ReplicaArgs {
    #[command(flatten)]
    kubeconfig: KubeconfigArgs,
    /// Name of the Lease by which replicas agree on who writes.
    #[arg(long, alias = "lockname", default_value = KubernetesConfig::LEASE_NAME, env = "ATLAS_LEASE_NAME")]
    lease_name: String,
    /// This replica's name: its pod's [default: the host's name].
    #[arg(long, env = "ATLAS_POD_NAME")]
    identity: Option<String>,
    /// Atlas's ServiceAccount: what Atlas writes for the hub as a whole is removed with it.
    #[arg(long, value_name = "NAME", env = "ATLAS_SERVICE_ACCOUNT")]
    owner_service_account: Option<String>,
}

impl ReplicaArgs {
    /// The configuration of a process with this role.
    pub fn config(self, role: Role) -> KubernetesConfig {
        let host = || rustix::system::uname().nodename().to_string_lossy().into_owned();
        KubernetesConfig {
            cluster: self.kubeconfig.access(),
            role,
            lease_name: self.lease_name,
            identity: self.identity.unwrap_or_else(host),
            service_account: self.owner_service_account.filter(|name| !name.is_empty()),
        }
    }
}

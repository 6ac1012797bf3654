//! How Atlas reaches its API server: by a kubeconfig, or from within a pod.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, anyhow};
use clap::Args;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};

/// Nothing may hang on a dead API server.
const CONNECT: Duration = Duration::from_secs(5);
/// Longer than a watch is silent: the API server ends each after [`super::watch::WATCH`]. So a connection that is half-open is
/// noticed after this.
const READ: Duration = Duration::from_secs(90);

/// Which cluster. Without any of these: the pod's own, or the current context of `~/.kube/config`.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Kubernetes")]
pub struct KubeArgs {
    /// Kubeconfig of the hub cluster [default: ~/.kube/config, or the pod's own service account].
    #[arg(long, value_name = "FILE", env = "KUBECONFIG")]
    pub kubeconfig: Option<PathBuf>,
    /// Context in the kubeconfig [default: its current one].
    #[arg(long, value_name = "NAME", env = "ATLAS_CONTEXT")]
    pub context: Option<String>,
}

impl KubeArgs {
    /// Connects; asks nothing yet.
    ///
    /// # Errors
    /// There is no kubeconfig, or it is broken; and this is no pod.
    pub async fn client(&self) -> anyhow::Result<Client> {
        let mut config = self.config().await?;
        config.connect_timeout = Some(CONNECT);
        config.read_timeout = Some(READ);
        config.reset_reader_on_write = true;
        Client::try_from(config).context("cannot make a client of the kubeconfig")
    }

    async fn config(&self) -> anyhow::Result<Config> {
        let options = KubeConfigOptions { context: self.context.clone(), ..Default::default() };
        if let Some(path) = self.kubeconfig.as_ref().filter(|path| !path.as_os_str().is_empty()) {
            // Several files, separated by colons, are kube's to merge.
            let several = path.to_string_lossy().contains(':');
            let what = || format!("--kubeconfig {}", path.display());
            let kubeconfig = if several {
                Kubeconfig::from_env()?.context("KUBECONFIG names no file")?
            } else {
                // The error says its cause itself.
                Kubeconfig::read_from(path).map_err(|error| anyhow!("{}: {error}", what()))?
            };
            return Config::from_custom_kubeconfig(kubeconfig, &options).await.with_context(what);
        }
        if self.context.is_none()
            && let Ok(config) = Config::incluster()
        {
            return Ok(config);
        }
        Config::from_kubeconfig(&options).await.context(
            "cannot find a Kubernetes cluster: this is no pod, and there is no usable ~/.kube/config; give --kubeconfig (or --from DIR, to \
             run on a directory of manifests)",
        )
    }
}

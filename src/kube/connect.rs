//! A client of the API server, by a kubeconfig or from within a pod.

use std::time::Duration;

use anyhow::{Context, anyhow};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};

use crate::config::ClusterAccess;

/// How long a connection may take to be made.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// When a silent connection counts as dead. It is longer than a watch may be silent: the API server
/// ends each after [`super::reflector::WATCH_TIMEOUT`].
const READ_TIMEOUT: Duration = Duration::from_secs(90);

/// A client of the API server. No request is sent yet.
///
/// # Errors
/// There is no usable kubeconfig, and the process doesn't run in a pod.
pub async fn client(access: &ClusterAccess) -> anyhow::Result<Client> {
    let mut config = config(access).await?;
    config.connect_timeout = Some(CONNECT_TIMEOUT);
    config.read_timeout = Some(READ_TIMEOUT);
    config.reset_reader_on_write = true;
    Client::try_from(config).context("cannot make a client of the kubeconfig")
}

async fn config(access: &ClusterAccess) -> anyhow::Result<Config> {
    let options = KubeConfigOptions { context: access.context.clone(), ..Default::default() };
    if let Some(path) = access.kubeconfig.as_ref().filter(|path| !path.as_os_str().is_empty()) {
        // kube merges several files, separated by colons.
        let several = path.to_string_lossy().contains(':');
        let what = || format!("--kubeconfig {}", path.display());
        let kubeconfig = if several {
            Kubeconfig::from_env()?.context("KUBECONFIG names no file")?
        } else {
            // The error's own text has its cause.
            Kubeconfig::read_from(path).map_err(|error| anyhow!("{}: {error}", what()))?
        };
        return Config::from_custom_kubeconfig(kubeconfig, &options).await.with_context(what);
    }
    if access.context.is_none()
        && let Ok(config) = Config::incluster()
    {
        return Ok(config);
    }
    Config::from_kubeconfig(&options).await.context(
            "cannot find a Kubernetes cluster: this is no pod, and there is no usable ~/.kube/config; give --kubeconfig (or --from DIR, to \
             run on a directory of manifests)",
        )
}

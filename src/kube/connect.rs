//! How Atlas reaches its API server: by a kubeconfig, or from within a pod.

use std::time::Duration;

use anyhow::{Context, anyhow};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};

use crate::config::ClusterAccess;

/// Nothing may hang on a dead API server.
const CONNECT: Duration = Duration::from_secs(5);
/// Longer than a watch is silent: the API server ends each after [`super::watch::WATCH`]. So a connection that is half-open is
/// noticed after this.
const READ: Duration = Duration::from_secs(90);

/// A client of the API server. No request is sent yet.
///
/// # Errors
/// There is no kubeconfig, or it is broken; and this is no pod.
pub async fn client(access: &ClusterAccess) -> anyhow::Result<Client> {
    let mut config = config(access).await?;
    config.connect_timeout = Some(CONNECT);
    config.read_timeout = Some(READ);
    config.reset_reader_on_write = true;
    Client::try_from(config).context("cannot make a client of the kubeconfig")
}

async fn config(access: &ClusterAccess) -> anyhow::Result<Config> {
    let options = KubeConfigOptions { context: access.context.clone(), ..Default::default() };
    if let Some(path) = access.kubeconfig.as_ref().filter(|path| !path.as_os_str().is_empty()) {
        // Several files, separated by colons, are kube's to merge.
        let several = path.to_string_lossy().contains(':');
        let what = || format!("--kubeconfig {}", path.display());
        let kubeconfig = if several {
            Kubeconfig::from_env()?.context("KUBECONFIG names no file")?
        } else {
            // The error says its cause itaccess.
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

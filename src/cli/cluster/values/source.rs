//! Where the values come from: a state directory, or the Secret that Atlas writes.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use atlas_core::install::bootstrap_files::FILES;
use atlas_core::install::helm_values::{self, PROMETHEUS_VALUES, VALUES};
use atlas_core::install::manifests;
use atlas_core::kubernetes::derived_objects::values_secret_name;
use atlas_core::model::{Cluster, DEFAULT_ENVOY_MEMORY, DEFAULT_ENVOY_REPLICAS, Settings};
use atlas_core::name::NodeId;
use atlas_core::object_names::ENVOY_DIR;
use atlas_core::validate::validate;

use crate::cli::output::say;
use crate::kube::admin::Admin;
use crate::standalone::bootstrap_files;
use crate::standalone::state_dir::{StateDir, read_swapped};
use crate::standalone::watch;

/// Pause between two reads of a Secret that is not there yet.
const POLL: Duration = Duration::from_millis(250);

/// Values files by their keys, as in the Secret that Atlas writes.
pub type ValuesFiles = BTreeMap<String, String>;

/// The cluster of a node in a directory of manifests; `None` for the hub.
///
/// # Errors
/// The directory can't be read, or has no such cluster that is valid.
pub fn cluster_of(
    settings: &Settings,
    manifests: &Path,
    node: &NodeId,
) -> anyhow::Result<Option<Cluster>> {
    let NodeId::Cluster(name) = node else { return Ok(None) };
    let mut fleet = validate(settings, &watch::read_once(manifests)?.manifests, None).fleet;
    let cluster = fleet.clusters.remove(name).map(Arc::unwrap_or_clone);
    ensure!(
        cluster.is_some(),
        "there is no cluster {name} in {} that is right: `atlas cluster-list` says what is wrong",
        manifests.display()
    );
    Ok(cluster)
}

/// Makes the values of the files in a state directory. `cluster` is [`cluster_of`] the node, if
/// there are manifests.
///
/// # Errors
/// The state directory has no files of this node, or can't be read.
pub fn from_state(
    state: &Path,
    node: &NodeId,
    settings: &Settings,
    cluster: Option<&Cluster>,
) -> anyhow::Result<ValuesFiles> {
    let dir = bootstrap_files::existing(&StateDir::at(state)?, node)?;
    let files = read_swapped(&dir, &FILES)?.into_iter().collect();
    let files = manifests::replace_directory(files, &dir.display().to_string(), ENVOY_DIR)
        .context("BUG: Atlas has written what is not YAML")?;
    let (replicas, memory) = match (cluster, node) {
        (Some(cluster), _) => (cluster.envoy_replicas, cluster.envoy_memory),
        (None, NodeId::Hub) => (DEFAULT_ENVOY_REPLICAS, settings.hub_envoy_memory),
        (None, NodeId::Cluster(_)) => (DEFAULT_ENVOY_REPLICAS, DEFAULT_ENVOY_MEMORY),
    };
    let values = helm_values::envoy(&node.to_string(), replicas, memory, &files);
    let mut data = ValuesFiles::from([(VALUES.to_owned(), values)]);
    if let Some(cluster) = cluster {
        data.insert(PROMETHEUS_VALUES.to_owned(), helm_values::prometheus(settings, cluster));
    }
    Ok(data)
}

/// Reads the Secret that Atlas writes for a node, and waits for it at most this long.
///
/// # Errors
/// The Secret is not there in time, or the API server refuses.
pub fn from_secret(hub: &Admin, node: &NodeId, wait: Duration) -> anyhow::Result<ValuesFiles> {
    let (secret, namespace) = (values_secret_name(node), &hub.namespace);
    let deadline = Instant::now() + wait;
    let mut has_told = false;
    loop {
        if let Some(data) = hub.secret(&secret)?.filter(|data| data.contains_key(VALUES)) {
            return Ok(data);
        }
        let limit = humantime::format_duration(wait);
        if Instant::now() >= deadline {
            let after = if wait.is_zero() { String::new() } else { format!(" after {limit}") };
            bail!("the Secret {secret} is not in {namespace}{after}: {}", reason(hub, node)?);
        }
        if !has_told {
            has_told = true;
            say(format_args!(
                "waiting for Atlas to write the Secret {secret} in {namespace}, for {limit} at most"
            ));
        }
        std::thread::sleep(POLL);
    }
}

/// Why the Secret may be missing.
fn reason(hub: &Admin, node: &NodeId) -> anyhow::Result<String> {
    if let NodeId::Cluster(name) = node
        && hub.service(name.as_str())?.is_none()
    {
        return Ok(format!(
            "there is no cluster {name} either: add it with `atlas cluster-add {name}`, or see `atlas cluster-list`"
        ));
    }
    Ok("does Atlas run, and was it told where the hub is (--hub-address)? `atlas status` says what is wrong".into())
}

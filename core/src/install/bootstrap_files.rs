//! The files from which an Envoy starts: its bootstrap and its credential.

use std::collections::BTreeMap;

use crate::envoy::bootstrap::{Bootstrap, BootstrapNode, bootstrap, file_secrets};
use crate::model::Fleet;
use crate::name::{HostPort, Identity, NodeId};
use crate::pki::{Leaf, Trust};
use crate::render::{self, Secrets};
use crate::xds::resource::{Resource, ResourceType};

/// Names of the files: the bootstrap, the two files by which Envoy finds its credential, and the
/// credential.
pub const FILES: [&str; 6] =
    ["envoy.yaml", "leaf.yaml", "trust.yaml", "tls.crt", "tls.key", "ca.crt"];

/// Why a node has no bootstrap.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BootstrapError {
    /// There is no cluster of this name.
    #[error("there is no cluster {0:?}: `atlas cluster-list` shows those there are")]
    UnknownCluster(String),
    /// No address of the hub is configured.
    #[error(
        "nobody has said where {0:?} reaches the hub: start Atlas with --hub-address HOST, or set the annotation goatlas.io/hub-addresses"
    )]
    NoHubAddress(String),
}

/// The bootstrap of a node. `credential_dir` is the credential's directory in its Envoy's
/// container.
///
/// # Errors
/// There is no such cluster, or no address of the hub.
pub fn node_bootstrap(
    fleet: &Fleet,
    trust: &Trust,
    node: &NodeId,
    credential_dir: &str,
) -> Result<Bootstrap, BootstrapError> {
    let settings = &fleet.settings;
    let atlas = Identity::Atlas.spiffe_id(&trust.domain);
    let (xds, bind, memory): (&[HostPort], _, _) = match node {
        NodeId::Hub => (
            std::slice::from_ref(&settings.atlas_xds),
            settings.hub_bind,
            settings.hub_envoy_memory,
        ),
        NodeId::Cluster(name) => {
            let cluster = fleet
                .clusters
                .get(name)
                .ok_or_else(|| BootstrapError::UnknownCluster(name.to_string()))?;
            (
                cluster.hub.as_ref().map_or(&settings.hub_xds, |hub| &hub.xds),
                cluster.bind,
                cluster.envoy_memory,
            )
        }
    };
    if xds.is_empty() {
        return Err(BootstrapError::NoHubAddress(node.to_string()));
    }
    Ok(bootstrap(&BootstrapNode {
        name: &node.to_string(),
        xds,
        xds_san: &atlas,
        bind,
        memory: memory.0,
        credential_dir,
    }))
}

/// The content of [`FILES`] for an Envoy in whose container they lie in `dir`. Without a bootstrap,
/// `envoy.yaml` is empty and the credential is still there.
pub fn node_files(
    bootstrap: Option<&Bootstrap>,
    trust: &Trust,
    bootstrap_credential: &Leaf,
    dir: &str,
) -> BTreeMap<String, String> {
    let mut files = BTreeMap::from([
        (
            "envoy.yaml".to_owned(),
            bootstrap.map(|bootstrap| render::yaml(bootstrap, Secrets::Show)).unwrap_or_default(),
        ),
        ("tls.crt".to_owned(), bootstrap_credential.chain.clone()),
        ("tls.key".to_owned(), bootstrap_credential.key.expose().to_owned()),
        ("ca.crt".to_owned(), trust.bundle()),
    ]);
    for (name, secret) in file_secrets(dir) {
        let resource = Resource::new(ResourceType::Secret, secret.name.clone(), &secret);
        files.insert(name, render::resources_yaml([&*resource], Secrets::Show));
    }
    files
}

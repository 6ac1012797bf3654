//! The files that an Envoy starts with: `envoy.yaml`, its credential, and the two SDS files that
//! name the credential's files.

use std::collections::HashMap;
use std::path::Path;

use anyhow::{Context, bail};
use atlas_core::install::bootstrap_files::{BootstrapError, FILES, node_bootstrap, node_files};
use atlas_core::install::manifests::replace_directory;
use atlas_core::model::Fleet;
use atlas_core::name::NodeId;
use atlas_core::pki::{Leaf, Trust};
use prost::Message;
use sha2::{Digest, Sha256};

use crate::standalone::state_dir::{
    StateDir, make_private_dir, read_swapped, swap_files, write_private,
};

/// Nodes' bootstrap files in the state directory. An Envoy on this machine can start with them and
/// notices renewed credentials.
pub struct NodeFiles {
    state: StateDir,
    /// A hash of what each node's files were last made of, so that only files that differ are
    /// written.
    written: HashMap<NodeId, [u8; 32]>,
}

impl NodeFiles {
    /// No files are known yet, so each node's are compared once.
    pub fn new(state: StateDir) -> Self {
        Self { state, written: HashMap::new() }
    }

    /// Whether files that were written are gone.
    pub fn are_missing(&self, node: &NodeId) -> bool {
        self.written.contains_key(node) && !self.state.node(&node.to_string()).exists()
    }

    /// Writes a node's files, if they differ.
    ///
    /// # Errors
    /// They can't be written.
    pub fn write(
        &mut self,
        fleet: &Fleet,
        trust: &Trust,
        node: &NodeId,
        bootstrap_credential: &Leaf,
    ) -> anyhow::Result<()> {
        let dir = self.state.node(&node.to_string());
        let path = dir.display().to_string();
        let bootstrap = match node_bootstrap(fleet, trust, node, &path) {
            Ok(bootstrap) => Some(bootstrap),
            // The credential is there all the same; `atlas bootstrap` says what is missing.
            Err(BootstrapError::NoHubAddress(_)) => None,
            Err(error) => return Err(error.into()),
        };
        let bytes = bootstrap.as_ref().map(Message::encode_to_vec).unwrap_or_default();
        let made_of = Sha256::new()
            .chain_update(bytes)
            .chain_update(&bootstrap_credential.chain)
            .chain_update(trust.bundle())
            .finalize()
            .into();
        if self.written.get(node) == Some(&made_of) && dir.exists() {
            return Ok(());
        }
        let files: Vec<_> = node_files(bootstrap.as_ref(), trust, bootstrap_credential, &path)
            .into_iter()
            .collect();
        swap_files(&dir, &files)?;
        self.written.insert(node.clone(), made_of);
        Ok(())
    }
}

/// Copies a node's files to `out`, to be carried to its Envoy's machine. `seen_as` is their
/// directory there.
///
/// # Errors
/// Atlas has written no files of this node, or `out` can't be written.
pub fn copy(state: &StateDir, node: &NodeId, out: &Path, seen_as: &str) -> anyhow::Result<()> {
    let dir = existing(state, node)?;
    let here = dir.display().to_string();
    make_private_dir(out)?;
    let files = read_swapped(&dir, &FILES)?.into_iter().collect();
    for (name, text) in replace_directory(files, &here, seen_as)
        .context("BUG: Atlas has written what is not YAML")?
    {
        write_private(&out.join(name), &text)?;
    }
    Ok(())
}

/// The directory of the files that Atlas wrote for a node.
///
/// # Errors
/// There is none, or Atlas could not make a bootstrap.
pub fn existing(state: &StateDir, node: &NodeId) -> anyhow::Result<std::path::PathBuf> {
    let dir = state.node(&node.to_string());
    match std::fs::read_to_string(dir.join("envoy.yaml")) {
        Ok(text) if text.is_empty() => Err(BootstrapError::NoHubAddress(node.to_string()).into()),
        Ok(_) => Ok(dir),
        Err(_) => bail!(
            "there are no files for {:?} in {}: `atlas run` writes them once there is a manifest for it (`atlas cluster-list`)",
            node.to_string(),
            state.root().display()
        ),
    }
}

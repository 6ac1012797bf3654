//! The files one Envoy starts from: `envoy.yaml`, its credential, and the two small files that name the credential's.

use std::path::Path;

use anyhow::{Context, bail};
use atlas_core::model::Fleet;
use atlas_core::name::NodeId;
use atlas_core::pki::{Leaf, Trust};
use atlas_core::plan::nodefiles::{NoBootstrap, node_bootstrap};
use atlas_core::render::{self, Secrets};
use atlas_core::xds::snapshot::{Resource, ResourceType};

use crate::state_dir::{StateDir, make_private_dir, swap_files, write_private};

/// All files of a node's directory.
const FILES: [&str; 6] = ["envoy.yaml", "leaf.yaml", "trust.yaml", "tls.crt", "tls.key", "ca.crt"];

/// Writes a node's files into the state directory, where an Envoy on this machine can start from them and is told of
/// renewed credentials.
pub fn write(state: &StateDir, fleet: &Fleet, trust: &Trust, node: &NodeId, opener: &Leaf) -> anyhow::Result<()> {
    let dir = state.node(&node.to_string());
    let path = dir.display().to_string();
    let bootstrap = match node_bootstrap(fleet, trust, node, &path) {
        Ok(bootstrap) => render::yaml(&bootstrap, Secrets::Show),
        // The credential is there all the same; `atlas bootstrap` says what is missing.
        Err(NoBootstrap::NoHub(_)) => String::new(),
        Err(error) => return Err(error.into()),
    };
    let mut files = vec![
        ("envoy.yaml".to_owned(), bootstrap),
        ("tls.crt".to_owned(), opener.chain.clone()),
        ("tls.key".to_owned(), opener.key.expose().to_owned()),
        ("ca.crt".to_owned(), trust.bundle()),
    ];
    for (name, secret) in atlas_core::envoy::bootstrap::file_secrets(&path) {
        let resource = Resource::new(ResourceType::Secret, secret.name.clone(), &secret);
        files.push((name, render::resources_yaml([&*resource], Secrets::Show)));
    }
    swap_files(&dir, &files).map(drop)
}

/// Copies a node's files to `out`, so that they can be carried to where its Envoy runs and sees them as `seen_as`.
///
/// # Errors
/// Atlas has written none, or `out` can't be written.
pub fn copy(state: &StateDir, node: &NodeId, out: &Path, seen_as: &str) -> anyhow::Result<()> {
    let dir = existing(state, node)?;
    let here = dir.display().to_string();
    make_private_dir(out)?;
    for file in FILES {
        let text = std::fs::read_to_string(dir.join(file)).with_context(|| format!("cannot read {}", dir.join(file).display()))?;
        let text = if file.ends_with(".yaml") { relocate(&text, &here, seen_as)? } else { text };
        write_private(&out.join(file), &text)?;
    }
    Ok(())
}

/// The directory that a running Atlas keeps for a node.
///
/// # Errors
/// There is none, or no bootstrap could be made.
pub fn existing(state: &StateDir, node: &NodeId) -> anyhow::Result<std::path::PathBuf> {
    let dir = state.node(&node.to_string());
    match std::fs::read_to_string(dir.join("envoy.yaml")) {
        Ok(text) if text.is_empty() => Err(NoBootstrap::NoHub(node.to_string()).into()),
        Ok(_) => Ok(dir),
        Err(_) => bail!(
            "there are no files for {:?} in {}: `atlas run` writes them once there is a manifest for it (`atlas cluster-list`)",
            node.to_string(),
            state.root().display()
        ),
    }
}

/// Lets every path that begins with `from` begin with `to`.
fn relocate(text: &str, from: &str, to: &str) -> anyhow::Result<String> {
    let mut value: serde_yaml_ng::Value = serde_yaml_ng::from_str(text).context("BUG: Atlas has written what is not YAML")?;
    relocate_value(&mut value, from, to);
    Ok(render::document(&value))
}

fn relocate_value(value: &mut serde_yaml_ng::Value, from: &str, to: &str) {
    match value {
        serde_yaml_ng::Value::String(text) => {
            if let Some(rest) = text.strip_prefix(from).filter(|rest| rest.is_empty() || rest.starts_with('/')) {
                *text = format!("{to}{rest}");
            }
        }
        serde_yaml_ng::Value::Sequence(items) => items.iter_mut().for_each(|item| relocate_value(item, from, to)),
        serde_yaml_ng::Value::Mapping(map) => map.iter_mut().for_each(|(_, item)| relocate_value(item, from, to)),
        _ => {}
    }
}

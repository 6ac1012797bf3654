//! Records the resources that Atlas sends for each change, so that the peer can send the same.

use std::path::Path;

use anyhow::{Context, Result};
use envoy_types::pb::envoy::service::discovery::v3::Resource as Wire;
use prost::Message;

use super::case::Case;
use super::client::{ReceivedResources, TYPES};

/// A change of a node's resources: the node, the resources set, and type and name of those removed.
pub type NodeChange = (String, ReceivedResources, Vec<(usize, String)>);
/// All changes in order: the case, its repetition, and the changes of the affected nodes.
pub type RecordedChanges = Vec<(Case, usize, Vec<NodeChange>)>;

/// The resources of a run on Atlas, for the peer.
pub struct Recording {
    /// Each node's resources at the start.
    pub before: Vec<(String, ReceivedResources)>,
    /// The changes since.
    pub recorded: RecordedChanges,
}

/// The difference of a node's resources; `None`: they are equal.
pub fn difference(
    node: String,
    before: &ReceivedResources,
    now: &ReceivedResources,
) -> Option<NodeChange> {
    let mut set = ReceivedResources::default();
    let mut removed = Vec::new();
    for (kind, (before, now)) in before.iter().zip(now).enumerate() {
        let new = now.iter().filter(|(name, resource)| before.get(*name) != Some(resource));
        set[kind] = new.map(|(name, resource)| (name.clone(), resource.clone())).collect();
        removed.extend(
            before.keys().filter(|name| !now.contains_key(*name)).map(|name| (kind, name.clone())),
        );
    }
    let differs = !removed.is_empty() || set.iter().any(|of_kind| !of_kind.is_empty());
    differs.then_some((node, set, removed))
}

/// Writes a change as the peer reads it: length-delimited `Resource` messages. A removed resource
/// has no body, and its type as its alias.
pub fn write_resources(
    file: &Path,
    set: &ReceivedResources,
    removed: &[(usize, String)],
) -> Result<()> {
    let mut bytes = Vec::new();
    let set = set.iter().flatten().map(|(name, resource)| Wire {
        name: name.clone(),
        resource: Some(resource.body.clone()),
        ..Wire::default()
    });
    let removed = removed.iter().map(|(kind, name)| Wire {
        name: name.clone(),
        aliases: vec![TYPES[*kind].into()],
        ..Wire::default()
    });
    for wire in set.chain(removed) {
        wire.encode_length_delimited(&mut bytes)?;
    }
    std::fs::write(file, bytes).with_context(|| format!("cannot write {}", file.display()))
}

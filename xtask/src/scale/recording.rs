//! What Atlas made of each change, so that another server can be told the same.

use std::path::Path;

use anyhow::{Context, Result};
use envoy_types::pb::envoy::service::discovery::v3::Resource as Wire;
use prost::Message;

use super::cases::Case;
use super::client::{Has, TYPES};

/// One change of one node's resources, as Atlas made it: what the other server is told.
pub type NodeChange = (String, Has, Vec<(usize, String)>);
/// What Atlas did, in order: which change, and what it meant.
pub type Recorded = Vec<(Case, usize, Vec<NodeChange>)>;

/// What a run left for the other server.
pub struct Changes {
    /// What everyone had at first.
    pub before: Vec<(String, Has)>,
    /// What changed then.
    pub recorded: Recorded,
}

/// What a node has now and hadn't before, and what it has no more; `None`: nothing.
pub fn difference(node: String, before: &Has, now: &Has) -> Option<NodeChange> {
    let mut set = Has::default();
    let mut removed = Vec::new();
    for (kind, (before, now)) in before.iter().zip(now).enumerate() {
        let new = now.iter().filter(|(name, held)| before.get(*name) != Some(held));
        set[kind] = new.map(|(name, held)| (name.clone(), held.clone())).collect();
        removed.extend(
            before.keys().filter(|name| !now.contains_key(*name)).map(|name| (kind, name.clone())),
        );
    }
    let differs = !removed.is_empty() || set.iter().any(|of_kind| !of_kind.is_empty());
    differs.then_some((node, set, removed))
}

/// Resources as the other server reads them: each with its length before it; one without a body is
/// removed, and an alias says its type.
pub fn write_resources(file: &Path, set: &Has, removed: &[(usize, String)]) -> Result<()> {
    let mut bytes = Vec::new();
    let set = set.iter().flatten().map(|(name, held)| Wire {
        name: name.clone(),
        resource: Some(held.body.clone()),
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

//! Envoy's resources as YAML: for people (`atlas translate`), for golden files, and for Envoy
//! itself (the bootstrap file).
//!
//! ```text
//! message ─▶ bytes ─▶ message with names ─▶ tree ─▶ YAML
//!                        ▲                   ▲
//!          the API's descriptors      each Any unpacked, private keys redacted
//! ```
//!
//! Envoy accepts what is rendered with [`Secrets::Show`]: field names as in the `.proto` files,
//! durations as `5s`, enums by name, every `Any` as `@type` and fields. Fields are in the order in
//! which the API declares them; those that have their default value are left out. Text of several
//! lines (Lua, PEM) is a block.

mod descriptors;
mod static_config;
mod tree;
mod write;

use prost::{Message, Name};
use serde_yaml_ng::{Mapping, Value};

use crate::xds::resource::Resource;
use crate::xds::snapshot::Snapshot;

pub use descriptors::{decode, descriptors};

/// Whether private keys are shown, and other data that Envoy's API marks as sensitive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Secrets {
    /// They are replaced by `[redacted]`, at any depth. Names of files are shown.
    Redact,
    /// They are shown.
    Show,
}

/// A message, without its `@type`.
pub fn yaml<M: Message + Name>(message: &M, secrets: Secrets) -> String {
    document(&tree::untyped(&crate::envoy::any(message), secrets))
}

/// A list of resources by type and name: `resources:`, each with its `@type`. Envoy reads such
/// files by `path_config_source`.
pub fn resources_yaml<'a>(
    resources: impl IntoIterator<Item = &'a Resource>,
    secrets: Secrets,
) -> String {
    let mut resources: Vec<&Resource> = resources.into_iter().collect();
    resources.sort_by_key(|resource| (resource.kind, &resource.name));
    let list =
        resources.into_iter().map(|resource| tree::typed(&resource.body(), secrets)).collect();
    document(&mapping([("resources", Value::Sequence(list))]))
}

/// A snapshot as a static configuration, which needs no xDS server: for people, and for `envoy
/// --mode validate`. Secrets are read from `<secrets_dir>/<name>.yaml`
/// ([`crate::envoy::bootstrap::file_secrets`]).
pub fn static_yaml(snapshot: &Snapshot, secrets_dir: &str) -> String {
    document(&static_config::configuration(snapshot, secrets_dir))
}

/// A tree of values as YAML that every parser reads alike.
pub fn document(tree: &Value) -> String {
    write::document(tree)
}

fn mapping<const N: usize>(entries: [(&str, Value); N]) -> Value {
    let entries = entries.into_iter().map(|(key, value)| (Value::from(key), value));
    Value::Mapping(entries.collect::<Mapping>())
}

#[cfg(test)]
mod tests;

//! Envoy's resources as YAML: for people (`atlas translate`), for golden files, and for Envoy itself (the bootstrap file).
//!
//! ```text
//! message ─▶ bytes ─▶ message with names ─▶ tree ─▶ YAML
//!                        ▲                   ▲
//!          the API's descriptors      Any unpacked, keys redacted, static in place of xDS
//! ```
//!
//! What is rendered with [`Secrets::Show`] Envoy accepts as it is: field names as in the `.proto` files, durations as `5s`,
//! enums by name, every `Any` as `@type` and fields. Fields are in the order in which the API declares them; those that have
//! their default value are left out. Text of several lines (Lua, PEM) is a block.

mod descriptors;
mod statically;
mod tree;
mod write;

use prost::{Message, Name};
use serde_yaml_ng::{Mapping, Value};

use crate::xds::resource::Resource;
use crate::xds::snapshot::Snapshot;

pub use descriptors::{decode, descriptors};

/// What becomes of private keys and other data that Envoy's API calls sensitive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Secrets {
    /// `[redacted]` stands in its place, however deep it is nested; names of files are shown.
    Redact,
    /// It is shown.
    Show,
}

/// One message, without its type.
pub fn yaml<M: Message + Name>(message: &M, secrets: Secrets) -> String {
    document(&tree::untyped(&crate::envoy::any(message), secrets))
}

/// A list of resources, in sending order and by name: `resources:`, each with its `@type`. It has the form of the files
/// that Envoy reads with `path_config_source`.
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

/// One node's snapshot as a configuration that needs no Atlas: what comes over xDS stands in it, and the secrets are read
/// from `<secrets_dir>/<name>.yaml` (see [`crate::envoy::bootstrap::file_secrets`]). To look at, and to have Envoy check:
/// `envoy --mode validate`.
pub fn static_yaml(snapshot: &Snapshot, secrets_dir: &str) -> String {
    document(&statically::configuration(snapshot, secrets_dir))
}

/// Plain values as YAML that Envoy reads as it is meant: for a rendered text that was read and changed.
pub fn document(tree: &Value) -> String {
    write::document(tree)
}

fn mapping<const N: usize>(entries: [(&str, Value); N]) -> Value {
    let entries = entries.into_iter().map(|(key, value)| (Value::from(key), value));
    Value::Mapping(entries.collect::<Mapping>())
}

#[cfg(test)]
mod tests;

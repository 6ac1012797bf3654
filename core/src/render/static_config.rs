//! A snapshot as a static configuration: routes are in their listeners, secrets in files.

use serde_yaml_ng::{Mapping, Value};

use super::{Secrets, mapping, tree};
use crate::xds::resource::ResourceType;
use crate::xds::snapshot::Snapshot;

/// `node.id` and `node.cluster`.
const NODE: &str = "atlas-static";

/// The whole configuration.
pub(super) fn configuration(snapshot: &Snapshot, secrets_dir: &str) -> Value {
    let without_xds = WithoutXds { snapshot, secrets_dir };
    let resources = |kind| {
        let trees = snapshot
            .of_type(kind)
            .iter()
            .map(|resource| tree::untyped(&resource.body(), Secrets::Redact));
        Value::Sequence(trees.map(|tree| without_xds.value(tree)).collect())
    };
    let static_resources = mapping([
        ("listeners", resources(ResourceType::Listener)),
        ("clusters", resources(ResourceType::Cluster)),
    ]);
    // Envoy requires a node if it reads secrets, even from files.
    let node = mapping([("id", NODE.into()), ("cluster", NODE.into())]);
    mapping([("node", node), ("static_resources", static_resources)])
}

/// Replaces references to xDS.
struct WithoutXds<'a> {
    snapshot: &'a Snapshot,
    secrets_dir: &'a str,
}

impl WithoutXds<'_> {
    fn value(&self, value: Value) -> Value {
        match value {
            Value::Mapping(fields) => self.fields(fields),
            Value::Sequence(list) => {
                Value::Sequence(list.into_iter().map(|value| self.value(value)).collect())
            }
            other => other,
        }
    }

    fn fields(&self, fields: Mapping) -> Value {
        let name = fields.get("name").and_then(Value::as_str).unwrap_or_default().to_owned();
        let field = |(key, value): (Value, Value)| match key.as_str() {
            Some("rds") => self.route_config(value),
            Some("sds_config") => (key, self.sds_config(&name)),
            _ => (key, self.value(value)),
        };
        Value::Mapping(fields.into_iter().map(field).collect())
    }

    /// The route configuration. If the snapshot doesn't have it, the reference stays, and Envoy
    /// reports it.
    fn route_config(&self, rds: Value) -> (Value, Value) {
        let resource = rds["route_config_name"]
            .as_str()
            .and_then(|name| self.snapshot.get(ResourceType::Route, name));
        match resource {
            Some(resource) => (
                "route_config".into(),
                self.value(tree::untyped(&resource.body(), Secrets::Redact)),
            ),
            None => ("rds".into(), rds),
        }
    }

    fn sds_config(&self, secret: &str) -> Value {
        let path = format!("{}/{secret}.yaml", self.secrets_dir);
        mapping([
            ("resource_api_version", "V3".into()),
            ("path_config_source", mapping([("path", path.into())])),
        ])
    }
}

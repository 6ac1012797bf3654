//! Visits all fields of a message, also of messages packed in `Any`.

use atlas_core::render;
use envoy_types::pb::google::protobuf::Any;
use prost_reflect::{DynamicMessage, FieldDescriptor, ReflectMessage, Value};

/// A field that is set.
pub struct Set<'a> {
    /// Its path from the root of the resource: `filter_chains[0].filters[0].name`.
    pub path: String,
    /// The message it is a field of.
    pub parent: &'a DynamicMessage,
    /// The field.
    pub field: FieldDescriptor,
    /// Its value: a list or map as a whole.
    pub value: &'a Value,
}

impl Set<'_> {
    /// The message it is a field of, by its full name, and its own name:
    /// `envoy.config.route.v3.RouteAction.cluster`.
    pub fn full_name(&self) -> &str {
        self.field.full_name()
    }

    /// The string field `name` of the same message.
    pub fn sibling(&self, name: &str) -> Option<String> {
        self.parent.get_field_by_name(name)?.as_str().map(str::to_owned)
    }
}

/// Calls `visit` for every field that is set in `any`.
pub fn walk(any: &Any, visit: &mut dyn FnMut(&Set<'_>)) {
    within(any, "", visit);
}

fn within(any: &Any, path: &str, visit: &mut dyn FnMut(&Set<'_>)) {
    let message = render::decode(any)
        .unwrap_or_else(|| panic!("{path}: {} is no message of the Envoy API", any.type_url));
    fields(&message, path, visit);
}

fn fields(message: &DynamicMessage, path: &str, visit: &mut dyn FnMut(&Set<'_>)) {
    if message.descriptor().full_name() == "google.protobuf.Any" {
        let any: Any = message.transcode_to().expect("an Any is an Any");
        return within(&any, path, visit);
    }
    for (field, value) in message.fields() {
        let path = format!("{path}.{}", field.name()).trim_start_matches('.').to_owned();
        visit(&Set { path: path.clone(), parent: message, field, value });
        match value {
            Value::Message(message) => fields(message, &path, visit),
            Value::List(list) => {
                for (index, value) in list.iter().enumerate() {
                    if let Some(message) = value.as_message() {
                        fields(message, &format!("{path}[{index}]"), visit);
                    }
                }
            }
            Value::Map(map) => {
                for (key, value) in map {
                    if let Some(message) = value.as_message() {
                        fields(message, &format!("{path}[{key:?}]"), visit);
                    }
                }
            }
            _ => {}
        }
    }
}

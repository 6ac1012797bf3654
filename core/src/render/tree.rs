//! Messages as trees of plain values, in protobuf's JSON mapping with the field names of the
//! `.proto` files.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use envoy_types::pb::google::protobuf::Any;
use prost_reflect::{
    DynamicMessage, FieldDescriptor, Kind, MapKey, ReflectMessage, SerializeOptions, Value as Field,
};
use serde_yaml_ng::{Mapping, Value};

use super::descriptors::decode_bootstrap;
use super::{Secrets, decode, mapping};

/// Replaces what isn't shown.
const REDACTED: &str = "[redacted]";
/// Deepest nesting of `Any`. Envoy's own is four.
const MAX_NESTING: u32 = 32;
/// The message that has a private key inline, or the name of its file.
const DATA_SOURCE: &str = "envoy.config.core.v3.DataSource";
/// The option of fields that Envoy doesn't show either.
const SENSITIVE: &str = "udpa.annotations.sensitive";

/// A message with its `@type`.
pub(super) fn typed(any: &Any, secrets: Secrets) -> Value {
    Converter { secrets, nesting: 0 }.any(any)
}

/// The same without its `@type`.
pub(super) fn untyped(any: &Any, secrets: Secrets) -> Value {
    match decode_any(any, secrets) {
        Some(message) => Converter { secrets, nesting: 0 }.message(&message),
        None => typed(any, secrets),
    }
}

/// The message. If nothing is redacted, the descriptors of bootstrap files are tried first.
fn decode_any(any: &Any, secrets: Secrets) -> Option<DynamicMessage> {
    let of_bootstrap = if secrets == Secrets::Show { decode_bootstrap(any) } else { None };
    of_bootstrap.or_else(|| decode(any))
}

/// Converts messages to trees.
#[derive(Clone, Copy)]
struct Converter {
    secrets: Secrets,
    nesting: u32,
}

impl Converter {
    fn any(self, any: &Any) -> Value {
        let message = if self.nesting < MAX_NESTING { decode_any(any, self.secrets) } else { None };
        let Some(message) = message else { return self.unknown(any) };
        let inner = Converter { nesting: self.nesting + 1, ..self };
        let type_url = (Value::from("@type"), Value::from(any.type_url.as_str()));
        match inner.message(&message) {
            Value::Mapping(fields) if !is_well_known(&message) => {
                Value::Mapping([type_url].into_iter().chain(fields).collect())
            }
            value => Value::Mapping([type_url, ("value".into(), value)].into_iter().collect()),
        }
    }

    /// An unknown message as bytes. They can't be searched for private keys, so they are redacted
    /// altogether.
    fn unknown(self, any: &Any) -> Value {
        let bytes = match self.secrets {
            Secrets::Show => BASE64_STANDARD.encode(&any.value),
            Secrets::Redact => REDACTED.to_owned(),
        };
        let note = format!(
            "{} bytes that are no message of the Envoy API that Atlas knows, in base64",
            any.value.len()
        );
        mapping([
            ("@type", any.type_url.as_str().into()),
            ("note", note.into()),
            ("base64", bytes.into()),
        ])
    }

    fn message(self, message: &DynamicMessage) -> Value {
        if message.descriptor().full_name() == "google.protobuf.Any" {
            return self.any(&message.transcode_to().unwrap_or_default());
        }
        if is_well_known(message) {
            return well_known(message);
        }
        let mut fields: Vec<(FieldDescriptor, &Field)> = message.fields().collect();
        fields.sort_by_key(|(field, _)| (field.name() != "name", declaration_index(field)));
        let entry = |(field, value): (FieldDescriptor, &Field)| {
            (Value::from(field.name()), self.field(&field, value))
        };
        Value::Mapping(fields.into_iter().map(entry).collect())
    }

    fn field(self, field: &FieldDescriptor, value: &Field) -> Value {
        match value {
            Field::List(list) => {
                Value::Sequence(list.iter().map(|value| self.single(field, value)).collect())
            }
            Field::Map(map) => {
                let mut entries: Vec<(String, &Field)> =
                    map.iter().map(|(key, value)| (map_key(key), value)).collect();
                entries.sort_by(|(a, _), (b, _)| a.cmp(b));
                let of = map_value(field).unwrap_or_else(|| field.clone());
                Value::Mapping(
                    entries
                        .into_iter()
                        .map(|(key, value)| (Value::from(key), self.single(&of, value)))
                        .collect(),
                )
            }
            single => self.single(field, single),
        }
    }

    fn single(self, field: &FieldDescriptor, value: &Field) -> Value {
        match value {
            Field::Message(source) if self.secrets == Secrets::Redact && is_secret(field) => {
                redacted(source)
            }
            Field::Message(message) => self.message(message),
            Field::EnumNumber(number) => enum_value(field, *number),
            Field::Bytes(bytes) => BASE64_STANDARD.encode(bytes).into(),
            Field::String(text) => text.as_str().into(),
            Field::Bool(value) => (*value).into(),
            Field::I32(value) => (*value).into(),
            Field::I64(value) => (*value).into(),
            Field::U32(value) => (*value).into(),
            Field::U64(value) => (*value).into(),
            Field::F32(value) => (*value).into(),
            Field::F64(value) => (*value).into(),
            Field::List(_) | Field::Map(_) => self.field(field, value),
        }
    }
}

/// A data source without inline data. Names of files and environment variables are shown.
fn redacted(source: &DynamicMessage) -> Value {
    let inline = |name: &str| matches!(name, "inline_string" | "inline_bytes");
    let shown = Converter { secrets: Secrets::Show, nesting: 0 };
    let entry = |(field, value): (FieldDescriptor, &Field)| {
        let value = if inline(field.name()) { REDACTED.into() } else { shown.field(&field, value) };
        (Value::from(field.name()), value)
    };
    Value::Mapping(source.fields().map(entry).collect())
}

fn is_secret(field: &FieldDescriptor) -> bool {
    let is_source = matches!(field.kind(), Kind::Message(of) if of.full_name() == DATA_SOURCE);
    is_source && (field.name() == "private_key" || is_sensitive(field))
}

fn is_sensitive(field: &FieldDescriptor) -> bool {
    let option = field.parent_pool().get_extension_by_name(SENSITIVE);
    option.is_some_and(|option| field.options().get_extension(&option).as_bool() == Some(true))
}

/// Whether protobuf's JSON mapping has a form of its own for the message, such as for durations and
/// wrappers.
fn is_well_known(message: &DynamicMessage) -> bool {
    message.descriptor().package_name() == "google.protobuf"
}

fn well_known(message: &DynamicMessage) -> Value {
    let options = SerializeOptions::new().use_proto_field_name(true);
    match message.serialize_with_options(serde_yaml_ng::value::Serializer, &options) {
        Ok(value) => sorted(value),
        Err(error) => format!("cannot be shown: {error}").into(),
    }
}

/// Sorts a `Struct`, which is a map without an order.
fn sorted(value: Value) -> Value {
    match value {
        Value::Mapping(entries) => {
            let mut entries: Vec<(Value, Value)> =
                entries.into_iter().map(|(key, value)| (key, sorted(value))).collect();
            entries.sort_by(|(a, _), (b, _)| a.as_str().cmp(&b.as_str()));
            Value::Mapping(entries.into_iter().collect::<Mapping>())
        }
        Value::Sequence(list) => Value::Sequence(list.into_iter().map(sorted).collect()),
        other => other,
    }
}

fn enum_value(field: &FieldDescriptor, number: i32) -> Value {
    let value = match field.kind() {
        Kind::Enum(of) => of.get_value(number),
        _ => None,
    };
    value.map_or_else(|| number.into(), |value| value.name().into())
}

fn map_key(key: &MapKey) -> String {
    match key {
        MapKey::Bool(key) => key.to_string(),
        MapKey::I32(key) => key.to_string(),
        MapKey::I64(key) => key.to_string(),
        MapKey::U32(key) => key.to_string(),
        MapKey::U64(key) => key.to_string(),
        MapKey::String(key) => key.clone(),
    }
}

/// The field of a map's entries that has the values.
fn map_value(field: &FieldDescriptor) -> Option<FieldDescriptor> {
    match field.kind() {
        Kind::Message(entry) if entry.is_map_entry() => Some(entry.map_entry_value_field()),
        _ => None,
    }
}

/// The index of the field in its message's declaration.
fn declaration_index(field: &FieldDescriptor) -> i32 {
    field.path().last().copied().unwrap_or_default()
}

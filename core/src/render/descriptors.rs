//! The names of Envoy's messages, fields and enum values. The generated code doesn't have them.

use std::sync::OnceLock;

use envoy_types::pb::google::protobuf::Any;
use prost_reflect::{DescriptorPool, DynamicMessage, Value};

/// The descriptor set that envoy-types ships; `build.rs` finds it.
const ENCODED: &[u8] = include_bytes!(env!("ENVOY_DESCRIPTORS"));

/// The descriptors of Envoy's whole API. The first call decodes them, which takes some 10 ms (130
/// ms in a debug build).
pub fn descriptors() -> &'static DescriptorPool {
    static POOL: OnceLock<DescriptorPool> = OnceLock::new();
    POOL.get_or_init(|| {
        DescriptorPool::decode(ENCODED)
            .expect("BUG: envoy-types ships a descriptor set that can't be decoded")
    })
}

/// The message in `any`; `None` if it isn't of Envoy's API or can't be decoded.
pub fn decode(any: &Any) -> Option<DynamicMessage> {
    let (_, name) = any.type_url.rsplit_once('/')?;
    let descriptor = descriptors().get_message_by_name(name)?;
    DynamicMessage::decode(descriptor, any.value.as_slice()).ok()
}

/// The descriptors of the messages in bootstrap files.
const BOOTSTRAP: &[u8] = include_bytes!(env!("BOOTSTRAP_DESCRIPTORS"));

/// Like [`decode`], with the descriptors of bootstrap files, which take little memory. `None` also
/// if a field isn't among them. They don't mark sensitive fields.
pub(super) fn decode_bootstrap(any: &Any) -> Option<DynamicMessage> {
    static POOL: OnceLock<DescriptorPool> = OnceLock::new();
    let pool = POOL.get_or_init(|| {
        DescriptorPool::decode(BOOTSTRAP)
            .expect("BUG: the build has made descriptors that can't be decoded")
    });
    let (_, name) = any.type_url.rsplit_once('/')?;
    let message =
        DynamicMessage::decode(pool.get_message_by_name(name)?, any.value.as_slice()).ok()?;
    has_known_fields(&message).then_some(message)
}

/// Whether every field is known, at any depth.
fn has_known_fields(message: &DynamicMessage) -> bool {
    message.unknown_fields().next().is_none()
        && message.fields().all(|(_, value)| value_has_known_fields(value))
}

fn value_has_known_fields(value: &Value) -> bool {
    match value {
        Value::Message(message) => has_known_fields(message),
        Value::List(list) => list.iter().all(value_has_known_fields),
        Value::Map(map) => map.values().all(value_has_known_fields),
        _ => true,
    }
}

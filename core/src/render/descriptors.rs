//! The names of Envoy's messages, fields and enum values, which the generated code doesn't carry.

use std::sync::OnceLock;

use envoy_types::pb::google::protobuf::Any;
use prost_reflect::{DescriptorPool, DynamicMessage, Value};

/// The descriptor set that envoy-types ships; `build.rs` finds it.
const ENCODED: &[u8] = include_bytes!(env!("ENVOY_DESCRIPTORS"));

/// The descriptors of Envoy's whole API. The first call decodes them, which takes some 10 ms (130 ms in a debug build).
pub fn descriptors() -> &'static DescriptorPool {
    static POOL: OnceLock<DescriptorPool> = OnceLock::new();
    POOL.get_or_init(|| {
        DescriptorPool::decode(ENCODED)
            .expect("BUG: envoy-types ships a descriptor set that can't be decoded")
    })
}

/// The message in `any`, with names; `None` where it is not of Envoy's API, or broken.
pub fn decode(any: &Any) -> Option<DynamicMessage> {
    let (_, name) = any.type_url.rsplit_once('/')?;
    let descriptor = descriptors().get_message_by_name(name)?;
    DynamicMessage::decode(descriptor, any.value.as_slice()).ok()
}

/// Of those only what bootstrap files are made of.
const FEW: &[u8] = include_bytes!(env!("BOOTSTRAP_DESCRIPTORS"));

/// As [`decode`], by few descriptors, which take little memory; `None` also where some field is not among them. They don't say which
/// fields are sensitive.
pub(super) fn decode_by_few(any: &Any) -> Option<DynamicMessage> {
    static POOL: OnceLock<DescriptorPool> = OnceLock::new();
    let pool = POOL.get_or_init(|| {
        DescriptorPool::decode(FEW)
            .expect("BUG: the build has made descriptors that can't be decoded")
    });
    let (_, name) = any.type_url.rsplit_once('/')?;
    let message =
        DynamicMessage::decode(pool.get_message_by_name(name)?, any.value.as_slice()).ok()?;
    is_whole(&message).then_some(message)
}

/// Whether every field is known, however deep.
fn is_whole(message: &DynamicMessage) -> bool {
    message.unknown_fields().next().is_none()
        && message.fields().all(|(_, value)| is_whole_value(value))
}

fn is_whole_value(value: &Value) -> bool {
    match value {
        Value::Message(message) => is_whole(message),
        Value::List(list) => list.iter().all(is_whole_value),
        Value::Map(map) => map.values().all(is_whole_value),
        _ => true,
    }
}

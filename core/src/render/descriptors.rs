//! The names of Envoy's messages, fields and enum values, which the generated code doesn't carry.

use std::sync::OnceLock;

use envoy_types::pb::google::protobuf::Any;
use prost_reflect::{DescriptorPool, DynamicMessage};

/// The descriptor set that envoy-types ships; `build.rs` finds it.
const ENCODED: &[u8] = include_bytes!(env!("ENVOY_DESCRIPTORS"));

/// The descriptors of Envoy's whole API. The first call decodes them, which takes some 10 ms (130 ms in a debug build).
pub fn descriptors() -> &'static DescriptorPool {
    static POOL: OnceLock<DescriptorPool> = OnceLock::new();
    POOL.get_or_init(|| DescriptorPool::decode(ENCODED).expect("BUG: envoy-types ships a descriptor set that can't be decoded"))
}

/// The message in `any`, with names; `None` where it is not of Envoy's API, or broken.
pub fn decode(any: &Any) -> Option<DynamicMessage> {
    let (_, name) = any.type_url.rsplit_once('/')?;
    let descriptor = descriptors().get_message_by_name(name)?;
    DynamicMessage::decode(descriptor, any.value.as_slice()).ok()
}

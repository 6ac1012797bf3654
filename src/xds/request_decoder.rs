//! Decodes the fields of a discovery request that Atlas uses. The others, which are most of what an
//! Envoy says of itself, are skipped.

use std::collections::HashMap;

use atlas_core::xds::messages::{Request, Variant};
use bytes::{Buf, Bytes};
use prost::encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field};
use prost::{DecodeError, Message};

/// The size of a request's lists of names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ListSizes {
    /// The number of names in the longest list.
    pub longest: usize,
    /// The number of names in all lists.
    pub names: usize,
    /// The bytes of all names.
    pub bytes: usize,
}

/// Measures a request's lists of names without decoding them. A name of two bytes in the message
/// takes a hundred bytes of memory once decoded, so the memory is reserved first.
///
/// # Errors
/// The bytes are no protobuf message.
pub fn measure_lists(variant: Variant, message: &[u8]) -> Result<ListSizes, DecodeError> {
    // Field numbers. DeltaDiscoveryRequest: resource_names_subscribe, resource_names_unsubscribe,
    // initial_resource_versions. DiscoveryRequest: resource_names.
    let lists: &[u32] = if variant == Variant::Delta { &[3, 4, 5] } else { &[3] };
    let (mut rest, mut counts, mut bytes) = (message, [0; 3], 0);
    while rest.has_remaining() {
        let (field, wire) = decode_key(&mut rest)?;
        match lists.iter().position(|list| *list == field).and_then(|list| counts.get_mut(list)) {
            Some(count) if wire == WireType::LengthDelimited => {
                let length = usize::try_from(decode_varint(&mut rest)?).unwrap_or(usize::MAX);
                // A field that is cut off is reported by `decode`.
                rest = rest.get(length..).unwrap_or_default();
                *count += 1;
                bytes += length.min(message.len());
            }
            _ => skip_field(wire, field, &mut rest, DecodeContext::default())?,
        }
    }
    Ok(ListSizes {
        longest: counts.into_iter().max().unwrap_or_default(),
        names: counts.iter().sum(),
        bytes,
    })
}

/// Decodes a request, and the description of the Envoy that an Envoy's first request has.
///
/// # Errors
/// The bytes are no such message.
pub fn decode(
    variant: Variant,
    message: Bytes,
) -> Result<(Request, Option<NodeMessage>), DecodeError> {
    match variant {
        Variant::Delta => {
            let request = DeltaRequest::decode(message)?;
            let decoded = Request {
                type_url: request.type_url,
                nonce: request.response_nonce,
                error: request.error_detail.map(|status| status.message),
                subscribe: request.subscribe,
                unsubscribe: request.unsubscribe,
                initial_versions: request.initial_resource_versions.into_iter().collect(),
                ..Request::default()
            };
            Ok((decoded, request.node))
        }
        Variant::StateOfTheWorld => {
            let request = SotwRequest::decode(message)?;
            let decoded = Request {
                type_url: request.type_url,
                nonce: request.response_nonce,
                error: request.error_detail.map(|status| status.message),
                names: request.resource_names,
                version_info: request.version_info,
                ..Request::default()
            };
            Ok((decoded, request.node))
        }
    }
}

/// `envoy.service.discovery.v3.DeltaDiscoveryRequest`.
#[derive(prost::Message)]
struct DeltaRequest {
    #[prost(message, optional, tag = "1")]
    node: Option<NodeMessage>,
    #[prost(string, tag = "2")]
    type_url: String,
    #[prost(string, repeated, tag = "3")]
    subscribe: Vec<String>,
    #[prost(string, repeated, tag = "4")]
    unsubscribe: Vec<String>,
    #[prost(map = "string, string", tag = "5")]
    initial_resource_versions: HashMap<String, String>,
    #[prost(string, tag = "6")]
    response_nonce: String,
    #[prost(message, optional, tag = "7")]
    error_detail: Option<StatusMessage>,
}

/// `envoy.service.discovery.v3.DiscoveryRequest`.
#[derive(prost::Message)]
struct SotwRequest {
    #[prost(string, tag = "1")]
    version_info: String,
    #[prost(message, optional, tag = "2")]
    node: Option<NodeMessage>,
    #[prost(string, repeated, tag = "3")]
    resource_names: Vec<String>,
    #[prost(string, tag = "4")]
    type_url: String,
    #[prost(string, tag = "5")]
    response_nonce: String,
    #[prost(message, optional, tag = "6")]
    error_detail: Option<StatusMessage>,
}

/// `google.rpc.Status`.
#[derive(prost::Message)]
struct StatusMessage {
    #[prost(string, tag = "2")]
    message: String,
}

/// `envoy.config.core.v3.Node`: how an Envoy describes itself.
#[derive(prost::Message)]
pub struct NodeMessage {
    #[prost(string, tag = "1")]
    pub id: String,
    #[prost(string, tag = "7")]
    user_agent_version: String,
    #[prost(message, optional, tag = "8")]
    user_agent_build_version: Option<BuildVersion>,
}

/// `envoy.config.core.v3.BuildVersion`.
#[derive(prost::Message)]
struct BuildVersion {
    #[prost(message, optional, tag = "1")]
    version: Option<SemanticVersion>,
}

/// `envoy.type.v3.SemanticVersion`.
#[derive(prost::Message)]
struct SemanticVersion {
    #[prost(uint32, tag = "1")]
    major_number: u32,
    #[prost(uint32, tag = "2")]
    minor_number: u32,
    #[prost(uint32, tag = "3")]
    patch: u32,
}

impl NodeMessage {
    /// Envoy's version, e.g. `1.40.0`.
    pub fn version(&self) -> String {
        let number =
            |v: &SemanticVersion| format!("{}.{}.{}", v.major_number, v.minor_number, v.patch);
        let build = self.user_agent_build_version.as_ref().and_then(|build| build.version.as_ref());
        build.map_or_else(|| self.user_agent_version.clone(), number)
    }
}

#[cfg(test)]
mod tests;

//! Encodes responses as gRPC messages, chunk by chunk. Resources are encoded already; they are
//! copied into the chunk that is about to be sent, and nowhere else.

use std::sync::Arc;

use atlas_core::xds::messages::{Response, Variant};
use atlas_core::xds::resource::Resource;
use bytes::{BufMut, Bytes, BytesMut};
use prost::encoding::{WireType, encode_key, encode_varint, encoded_len_varint, key_len, string};

/// Largest chunk of a response, in bytes. A resource that is larger is a chunk of its own. One
/// chunk is buffered for a client that doesn't read.
pub const CHUNK_BYTES: usize = 16 << 10;

/// The header of a gRPC message: whether it is compressed (1 byte), and its length (4 bytes).
pub const GRPC_HEADER_BYTES: usize = 5;

/// Field numbers that `DeltaDiscoveryResponse` and `DiscoveryResponse` have in common.
const RESOURCES: u32 = 2;
const TYPE_URL: u32 = 4;
const NONCE: u32 = 5;
/// Field number of `DiscoveryResponse` alone.
const VERSION_INFO: u32 = 1;
/// Field number of `DeltaDiscoveryResponse` alone.
const REMOVED: u32 = 6;

/// Encodes one response.
pub struct ResponseEncoder {
    variant: Variant,
    /// The gRPC header and all fields but the resources. Empty once it has been returned.
    head: BytesMut,
    resources: Vec<Arc<Resource>>,
    /// How many resources have been returned.
    encoded: usize,
}

impl ResponseEncoder {
    /// Begins a response. Returns `None` if it is too long for the header of a gRPC message (4
    /// GiB).
    pub fn new(response: Response, variant: Variant) -> Option<Self> {
        let fields = head_length(&response, variant);
        let resources: usize = response
            .resources
            .iter()
            .map(|resource| field_length(resource_bytes(resource, variant)))
            .sum();
        let length = u32::try_from(fields + resources).ok()?;
        let mut head = BytesMut::with_capacity(GRPC_HEADER_BYTES + fields);
        head.put_u8(0);
        head.put_u32(length);
        if !response.version_info.is_empty() && variant == Variant::StateOfTheWorld {
            string::encode(VERSION_INFO, &response.version_info, &mut head);
        }
        put_field(TYPE_URL, response.type_url.as_bytes(), &mut head);
        string::encode(NONCE, &response.nonce, &mut head);
        for name in removed(&response, variant) {
            put_field(REMOVED, name.as_bytes(), &mut head);
        }
        debug_assert_eq!(
            head.len(),
            GRPC_HEADER_BYTES + fields,
            "BUG: the header has another length than the message"
        );
        Some(Self { variant, head, resources: response.resources, encoded: 0 })
    }

    /// The next chunk; `None` at the end of the response.
    pub fn next_chunk(&mut self) -> Option<Bytes> {
        let rest = self.resources.get(self.encoded..).unwrap_or_default();
        let (mut length, mut count) = (self.head.len(), 0);
        for resource in rest {
            let more = field_length(resource_bytes(resource, self.variant));
            if length > 0 && length + more > CHUNK_BYTES {
                break;
            }
            length += more;
            count += 1;
        }
        let mut chunk = std::mem::take(&mut self.head);
        chunk.reserve(length - chunk.len());
        for resource in rest.iter().take(count) {
            put_field(RESOURCES, resource_bytes(resource, self.variant), &mut chunk);
        }
        self.encoded += count;
        (length > 0).then(|| chunk.freeze())
    }
}

/// A resource as this variant encodes it: `Resource` or `google.protobuf.Any`.
fn resource_bytes(resource: &Resource, variant: Variant) -> &[u8] {
    match variant {
        Variant::Delta => resource.wire(),
        Variant::StateOfTheWorld => resource.any_wire(),
    }
}

fn removed(response: &Response, variant: Variant) -> &[Arc<str>] {
    match variant {
        Variant::Delta => &response.removed,
        Variant::StateOfTheWorld => &[],
    }
}

fn head_length(response: &Response, variant: Variant) -> usize {
    let version = if variant == Variant::StateOfTheWorld && !response.version_info.is_empty() {
        string::encoded_len(VERSION_INFO, &response.version_info)
    } else {
        0
    };
    let names: usize =
        removed(response, variant).iter().map(|name| field_length(name.as_bytes())).sum();
    version
        + field_length(response.type_url.as_bytes())
        + string::encoded_len(NONCE, &response.nonce)
        + names
}

/// The encoded length of a field. The numbers of all fields here take one byte.
fn field_length(content: &[u8]) -> usize {
    key_len(RESOURCES) + encoded_len_varint(content.len() as u64) + content.len()
}

fn put_field(field: u32, content: &[u8], out: &mut BytesMut) {
    encode_key(field, WireType::LengthDelimited, out);
    encode_varint(content.len() as u64, out);
    out.put_slice(content);
}

#[cfg(test)]
mod tests {
    use super::*;
    use atlas_core::xds::resource::{ResourceType, Version};
    use envoy_types::pb::envoy::service::discovery::v3 as discovery;
    use envoy_types::pb::google::protobuf::Any;
    use prost::Message;

    fn resource(name: &str, length: usize) -> Arc<Resource> {
        let body = Any { type_url: ResourceType::Cluster.url().into(), value: vec![7; length] };
        Resource::with_version(ResourceType::Cluster, name, Version::of(&body.value), &body)
    }

    fn response(lengths: &[usize]) -> Response {
        let resources = lengths
            .iter()
            .enumerate()
            .map(|(n, length)| resource(&format!("n{n}"), *length))
            .collect();
        Response {
            type_url: ResourceType::Cluster.url().into(),
            version_info: "v7".into(),
            nonce: "12".into(),
            resources,
            removed: vec!["gone".into(), "too".into()],
        }
    }

    /// The lengths of the chunks, and the message without its header.
    fn encoded(response: Response, variant: Variant) -> (Vec<usize>, Vec<u8>) {
        let mut encoder = ResponseEncoder::new(response, variant).unwrap();
        let chunks: Vec<Bytes> = std::iter::from_fn(|| encoder.next_chunk()).collect();
        let all = chunks.concat();
        assert_eq!(all[0], 0, "not compressed");
        assert_eq!(
            u32::from_be_bytes(all[1..5].try_into().unwrap()) as usize,
            all.len() - GRPC_HEADER_BYTES
        );
        (chunks.iter().map(Bytes::len).collect(), all[GRPC_HEADER_BYTES..].to_vec())
    }

    #[test]
    fn an_incremental_response_is_encoded_as_by_prost() {
        let response = response(&[0, 1, 200, 100_000, 5]);
        let (_, bytes) = encoded(response.clone(), Variant::Delta);
        let resource = |resource: &Arc<Resource>| discovery::Resource {
            name: resource.name.to_string(),
            version: resource.version.to_string(),
            resource: Some(resource.body()),
            ..Default::default()
        };
        let expected = discovery::DeltaDiscoveryResponse {
            type_url: response.type_url.to_string(),
            nonce: response.nonce.clone(),
            resources: response.resources.iter().map(resource).collect(),
            removed_resources: vec!["gone".into(), "too".into()],
            ..Default::default()
        };
        assert_eq!(bytes.len(), expected.encoded_len());
        assert_eq!(discovery::DeltaDiscoveryResponse::decode(&*bytes).unwrap(), expected);
    }

    #[test]
    fn a_state_of_the_world_response_is_encoded_as_by_prost() {
        let response = response(&[0, 1, 200, 100_000, 5]);
        let (_, bytes) = encoded(response.clone(), Variant::StateOfTheWorld);
        let expected = discovery::DiscoveryResponse {
            type_url: response.type_url.to_string(),
            version_info: "v7".into(),
            nonce: response.nonce.clone(),
            resources: response.resources.iter().map(|resource| resource.body()).collect(),
            ..Default::default()
        };
        assert_eq!(bytes.len(), expected.encoded_len());
        assert_eq!(discovery::DiscoveryResponse::decode(&*bytes).unwrap(), expected);
    }

    #[test]
    fn a_large_response_is_encoded_in_chunks() {
        let (chunks, bytes) = encoded(response(&[1000; 500]), Variant::Delta);
        assert!(bytes.len() > 500_000 && chunks.len() >= 8, "{chunks:?}");
        assert!(chunks.iter().all(|chunk| *chunk <= CHUNK_BYTES), "{chunks:?}");
        let (chunks, _) = encoded(response(&[10, 3 * CHUNK_BYTES, 10]), Variant::Delta);
        assert_eq!(chunks.len(), 3, "a larger resource is a chunk of its own: {chunks:?}");
        let (chunks, _) = encoded(response(&[]), Variant::Delta);
        assert_eq!(chunks.len(), 1, "an empty response is a message too");
    }
}

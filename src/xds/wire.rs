//! Responses as bytes, from resources that are encoded already: nothing is copied but into the piece that is about to be sent.

use std::sync::Arc;

use atlas_core::xds::messages::{Response, Variant};
use atlas_core::xds::resource::Resource;
use bytes::{BufMut, Bytes, BytesMut};
use prost::encoding::{WireType, encode_key, encode_varint, encoded_len_varint, key_len, string};

/// Most bytes of a response that are made at a time, but for a resource that is larger: so much more is kept for a client
/// that doesn't read.
pub const PIECE: usize = 16 << 10;

/// gRPC's header of a message: whether it is compressed, and its length.
pub const HEADER: usize = 5;

/// Numbers of the fields that `DeltaDiscoveryResponse` and `DiscoveryResponse` have in common.
const RESOURCES: u32 = 2;
const TYPE_URL: u32 = 4;
const NONCE: u32 = 5;
/// Of `DiscoveryResponse` alone; in the incremental variant that field means nothing.
const VERSION_INFO: u32 = 1;
/// Of `DeltaDiscoveryResponse` alone.
const REMOVED: u32 = 6;

/// A response on its way.
pub struct Writer {
    variant: Variant,
    /// The header and everything but the resources, until it has been taken.
    head: BytesMut,
    resources: Vec<Arc<Resource>>,
    /// How many of them have been taken.
    taken: usize,
}

impl Writer {
    /// Begins a response; `None` if it is longer than gRPC can say (4 GiB).
    pub fn new(response: Response, variant: Variant) -> Option<Self> {
        let fields = head_length(&response, variant);
        let resources: usize = response
            .resources
            .iter()
            .map(|resource| field_length(resource_bytes(resource, variant)))
            .sum();
        let length = u32::try_from(fields + resources).ok()?;
        let mut head = BytesMut::with_capacity(HEADER + fields);
        head.put_u8(0);
        head.put_u32(length);
        if !response.version_info.is_empty() && variant == Variant::StateOfTheWorld {
            string::encode(VERSION_INFO, &response.version_info, &mut head);
        }
        text(TYPE_URL, &response.type_url, &mut head);
        string::encode(NONCE, &response.nonce, &mut head);
        for name in removed(&response, variant) {
            text(REMOVED, name, &mut head);
        }
        debug_assert_eq!(
            head.len(),
            HEADER + fields,
            "BUG: the length that is said is not the length that is sent"
        );
        Some(Self { variant, head, resources: response.resources, taken: 0 })
    }

    /// The next bytes; `None` when all have been taken.
    pub fn next(&mut self) -> Option<Bytes> {
        let rest = self.resources.get(self.taken..).unwrap_or_default();
        let (mut length, mut count) = (self.head.len(), 0);
        for resource in rest {
            let more = field_length(resource_bytes(resource, self.variant));
            if length > 0 && length + more > PIECE {
                break;
            }
            length += more;
            count += 1;
        }
        let mut piece = std::mem::take(&mut self.head);
        piece.reserve(length - piece.len());
        for bytes in rest.iter().take(count).map(|resource| resource_bytes(resource, self.variant))
        {
            encode_key(RESOURCES, WireType::LengthDelimited, &mut piece);
            encode_varint(bytes.len() as u64, &mut piece);
            piece.put_slice(bytes);
        }
        self.taken += count;
        (length > 0).then(|| piece.freeze())
    }
}

/// A resource as this variant sends it.
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

/// Length of a field with this content; the numbers of all fields here take one byte.
fn field_length(content: &[u8]) -> usize {
    key_len(RESOURCES) + encoded_len_varint(content.len() as u64) + content.len()
}

fn text(field: u32, content: &str, out: &mut BytesMut) {
    encode_key(field, WireType::LengthDelimited, out);
    encode_varint(content.len() as u64, out);
    out.put_slice(content.as_bytes());
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

    /// The pieces, and all in one without the header.
    fn written(response: Response, variant: Variant) -> (Vec<usize>, Vec<u8>) {
        let mut writer = Writer::new(response, variant).unwrap();
        let pieces: Vec<Bytes> = std::iter::from_fn(|| writer.next()).collect();
        let all = pieces.concat();
        assert_eq!(all[0], 0, "not compressed");
        assert_eq!(u32::from_be_bytes(all[1..5].try_into().unwrap()) as usize, all.len() - HEADER);
        (pieces.iter().map(Bytes::len).collect(), all[HEADER..].to_vec())
    }

    #[test]
    fn an_incremental_response_is_what_prost_would_encode() {
        let response = response(&[0, 1, 200, 100_000, 5]);
        let (_, bytes) = written(response.clone(), Variant::Delta);
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
    fn a_full_state_is_what_prost_would_encode() {
        let response = response(&[0, 1, 200, 100_000, 5]);
        let (_, bytes) = written(response.clone(), Variant::StateOfTheWorld);
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
    fn a_large_response_is_made_in_pieces() {
        let (pieces, bytes) = written(response(&[1000; 500]), Variant::Delta);
        assert!(bytes.len() > 500_000 && pieces.len() >= 8, "{pieces:?}");
        assert!(pieces.iter().all(|piece| *piece <= PIECE), "{pieces:?}");
        let (pieces, _) = written(response(&[10, 3 * PIECE, 10]), Variant::Delta);
        assert_eq!(pieces.len(), 3, "one that is larger than a piece goes alone: {pieces:?}");
        let (pieces, _) = written(response(&[]), Variant::Delta);
        assert_eq!(pieces.len(), 1, "an empty response is a message too");
    }
}

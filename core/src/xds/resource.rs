//! One xDS resource: its type, name and version, encoded once for all streams.

use std::fmt;
use std::ops::Range;
use std::str::FromStr;
use std::sync::Arc;

use envoy_types::pb::google::protobuf::Any;
use prost::encoding::{WireType, encode_key, encode_varint, encoded_len_varint, key_len, string};
use prost::{Message, Name};
use sha2::{Digest, Sha256};

/// The xDS resource types that Atlas serves.
///
/// The session has the orders in which they are sent and removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ResourceType {
    /// SDS.
    Secret,
    /// CDS.
    Cluster,
    /// EDS.
    Endpoints,
    /// LDS.
    Listener,
    /// RDS.
    Route,
}

impl ResourceType {
    /// All types.
    pub const ALL: [Self; 5] =
        [Self::Secret, Self::Cluster, Self::Endpoints, Self::Listener, Self::Route];

    /// The `type_url` of its messages.
    pub const fn url(self) -> &'static str {
        match self {
            Self::Secret => "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret",
            Self::Cluster => "type.googleapis.com/envoy.config.cluster.v3.Cluster",
            Self::Endpoints => "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment",
            Self::Listener => "type.googleapis.com/envoy.config.listener.v3.Listener",
            Self::Route => "type.googleapis.com/envoy.config.route.v3.RouteConfiguration",
        }
    }

    /// The type with this `type_url`; `None` if Atlas doesn't serve it.
    pub fn of_url(url: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.url() == url)
    }
}

impl fmt::Display for ResourceType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Secret => "SDS",
            Self::Cluster => "CDS",
            Self::Endpoints => "EDS",
            Self::Listener => "LDS",
            Self::Route => "RDS",
        })
    }
}

/// A resource's version: the first 128 bits of the SHA-256 of its content. On the wire it is 32
/// lower-case hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version(u128);

impl Version {
    /// The version of some content.
    pub fn of(content: &[u8]) -> Self {
        let digest = Sha256::digest(content);
        Self(digest.iter().take(16).fold(0, |number, byte| number << 8 | u128::from(*byte)))
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Debug for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The text isn't a version that Atlas made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not 32 hexadecimal digits")]
pub struct InvalidVersion;

impl FromStr for Version {
    type Err = InvalidVersion;

    fn from_str(text: &str) -> Result<Self, InvalidVersion> {
        let digits =
            text.len() == 32 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        let number = digits.then(|| u128::from_str_radix(text, 16).ok()).flatten();
        number.map(Self).ok_or(InvalidVersion)
    }
}

/// One resource, encoded once. Both variants of the protocol send slices of the same bytes.
#[derive(Clone)]
pub struct Resource {
    pub kind: ResourceType,
    /// Its name, unique within its type.
    pub name: Arc<str>,
    /// Hash of its content.
    pub version: Version,
    /// An encoded `envoy.service.discovery.v3.Resource`.
    wire: Box<[u8]>,
    /// The part of `wire` that is the `google.protobuf.Any`.
    any: Range<usize>,
}

/// Field numbers of `envoy.service.discovery.v3.Resource`.
const VERSION: u32 = 1;
const BODY: u32 = 2;
const NAME: u32 = 3;

impl Resource {
    /// Encodes a message under the hash of its content.
    pub fn new<M: Message + Name>(
        kind: ResourceType,
        name: impl Into<Arc<str>>,
        message: &M,
    ) -> Arc<Self> {
        let body = crate::envoy::any(message);
        debug_assert_eq!(body.type_url, kind.url(), "BUG: a resource under another type's name");
        let version = Version::of(&body.value);
        Self::with_version(kind, name, version, &body)
    }

    /// Encodes a message under a version that the caller chooses.
    pub fn with_version(
        kind: ResourceType,
        name: impl Into<Arc<str>>,
        version: Version,
        body: &Any,
    ) -> Arc<Self> {
        let name = name.into();
        let (version_text, name_text) = (version.to_string(), name.to_string());
        let length = body.encoded_len();
        let total = string::encoded_len(VERSION, &version_text)
            + key_len(BODY)
            + encoded_len_varint(length as u64)
            + length
            + string::encoded_len(NAME, &name_text);
        let mut wire = Vec::with_capacity(total);
        string::encode(VERSION, &version_text, &mut wire);
        encode_key(BODY, WireType::LengthDelimited, &mut wire);
        encode_varint(length as u64, &mut wire);
        let start = wire.len();
        body.encode_raw(&mut wire);
        let any = start..wire.len();
        string::encode(NAME, &name_text, &mut wire);
        Arc::new(Self { kind, name, version, wire: wire.into(), any })
    }

    /// The encoded `envoy.service.discovery.v3.Resource` of an incremental response.
    pub fn wire(&self) -> &[u8] {
        &self.wire
    }

    /// The encoded `google.protobuf.Any` of a state-of-the-world response.
    pub fn any_wire(&self) -> &[u8] {
        self.wire.get(self.any.clone()).unwrap_or_default()
    }

    /// The message as an `Any`.
    pub fn body(&self) -> Any {
        Any::decode(self.any_wire()).unwrap_or_default()
    }
}

/// Compares the content by its version, which is a hash of it.
impl PartialEq for Resource {
    fn eq(&self, other: &Self) -> bool {
        (self.kind, &self.name, self.version) == (other.kind, &other.name, other.version)
    }
}

impl Eq for Resource {}

/// Leaves the content out, since it may hold a private key.
impl fmt::Debug for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} @{}", self.kind, self.name, self.version)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use envoy_types::pb::envoy::service::discovery::v3::Resource as Wire;

    #[test]
    fn the_encoding_is_the_one_of_prost() {
        let body = Any { type_url: ResourceType::Route.url().into(), value: vec![7; 300] };
        let resource =
            Resource::with_version(ResourceType::Route, "web", Version::of(&body.value), &body);
        let wire = Wire {
            name: "web".into(),
            version: resource.version.to_string(),
            resource: Some(body.clone()),
            ..Wire::default()
        };
        assert_eq!(Wire::decode(resource.wire()).unwrap(), wire);
        assert_eq!(resource.body(), body);
    }

    #[test]
    fn a_version_is_read_as_it_is_written() {
        let version = Version::of(b"content");
        assert_eq!(version.to_string().parse(), Ok(version));
        assert_eq!("+0000000000000000000000000000001".parse::<Version>(), Err(InvalidVersion));
    }
}

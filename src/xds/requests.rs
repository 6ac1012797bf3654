//! Requests from bytes: gRPC's frames, and what of a message matters. The rest of it, which is most of what an Envoy says of itself, isn't
//! read.

use std::collections::HashMap;
use std::pin::Pin;

use atlas_core::xds::messages::{Request, Variant};
use bytes::{Buf, Bytes, BytesMut};
use hyper::body::Body;
use prost::encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field};
use prost::{DecodeError, Message};
use tonic::Status;

use super::wire::HEADER;
use crate::xds::memory_budget::Charge;

/// Bytes of an unfinished request that aren't charged: most requests are small and come as a whole.
const SMALL: usize = 4 << 10;

/// The requests of one stream. Keeps no more than what has come of the next one.
pub struct Requests<B> {
    body: B,
    come: BytesMut,
    /// The memory of `come`.
    charge: Charge,
    /// Largest request, in bytes.
    pub limit: usize,
}

/// Why there is no further request.
#[derive(Debug)]
pub enum Lost {
    /// The connection, or this stream on it.
    Connection(String),
    /// The client says what nobody may.
    Nonsense(Status),
    /// A request is larger than it may be.
    TooLarge(Status),
    /// There is no memory for it.
    NoMemory,
}

impl<B: Body<Data = Bytes> + Unpin> Requests<B>
where
    B::Error: std::fmt::Display,
{
    /// From a body. Before [`Requests::limit`] is set, no request is small enough.
    pub fn new(body: B, charge: Charge) -> Self {
        Self { body, come: BytesMut::new(), charge, limit: 0 }
    }

    /// The next one, still encoded; `None` when the client has said all. May be dropped and called again.
    ///
    /// # Errors
    /// Nothing more will come.
    pub async fn next(&mut self) -> Result<Option<Bytes>, Lost> {
        loop {
            if let Some(message) = self.take()? {
                return Ok(Some(message));
            }
            let kept = self.come.capacity();
            self.charge
                .ask(if kept > SMALL { kept } else { 0 })
                .await
                .map_err(|_| Lost::NoMemory)?;
            match std::future::poll_fn(|cx| Pin::new(&mut self.body).poll_frame(cx)).await {
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        self.come.extend_from_slice(&data);
                    }
                }
                Some(Err(error)) => return Err(Lost::Connection(error.to_string())),
                None if self.come.is_empty() => return Ok(None),
                None => {
                    return Err(Lost::Nonsense(Status::invalid_argument(
                        "the stream ends within a request",
                    )));
                }
            }
        }
    }

    /// A request that has come as a whole.
    fn take(&mut self) -> Result<Option<Bytes>, Lost> {
        let Some((&compressed, rest)) = self.come.split_first() else { return Ok(None) };
        if compressed != 0 {
            let nonsense = Status::unimplemented(
                "a compressed request: Atlas takes plain ones only (grpc-encoding: identity)",
            );
            return Err(Lost::Nonsense(nonsense));
        }
        let Some(length) = rest.first_chunk::<4>() else { return Ok(None) };
        let length = usize::try_from(u32::from_be_bytes(*length)).unwrap_or(usize::MAX);
        if length > self.limit {
            let limit = self.limit;
            let text = format!(
                "a request of {length} bytes is larger than the {limit} that one may have here (atlas run --max-request-bytes)"
            );
            return Err(Lost::TooLarge(Status::resource_exhausted(text)));
        }
        if self.come.len() < HEADER + length {
            return Ok(None);
        }
        self.come.advance(HEADER);
        let message = self.come.split_to(length).freeze();
        if HEADER + length > SMALL || self.come.is_empty() {
            // The rest shares the memory of the request, however large that was, and its capacity wouldn't tell.
            self.come = BytesMut::from(&self.come[..]);
        }
        Ok(Some(message))
    }
}

/// How much a request lists: names and resources, and their bytes. To be known before anything is read, for what takes two bytes of a
/// message takes a hundred in memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Listed {
    /// The longest list's length.
    pub longest: usize,
    /// How many there are in all lists.
    pub count: usize,
    /// Bytes of all of them.
    pub bytes: usize,
}

/// What a request lists.
///
/// # Errors
/// It is no message.
pub fn listed(variant: Variant, message: &[u8]) -> Result<Listed, DecodeError> {
    // Numbers of the fields: names; names that are subscribed to and no more, and resources with their versions.
    let lists: &[u32] = if variant == Variant::Delta { &[3, 4, 5] } else { &[3] };
    let (mut rest, mut counts, mut bytes) = (message, [0; 3], 0);
    while rest.has_remaining() {
        let (field, wire) = decode_key(&mut rest)?;
        match lists.iter().position(|list| *list == field).and_then(|list| counts.get_mut(list)) {
            Some(count) if wire == WireType::LengthDelimited => {
                let length = usize::try_from(decode_varint(&mut rest)?).unwrap_or(usize::MAX);
                // What is cut off is for the reader to say.
                rest = rest.get(length..).unwrap_or_default();
                *count += 1;
                bytes += length.min(message.len());
            }
            _ => skip_field(wire, field, &mut rest, DecodeContext::default())?,
        }
    }
    Ok(Listed {
        longest: counts.into_iter().max().unwrap_or_default(),
        count: counts.iter().sum(),
        bytes,
    })
}

/// Reads a request; also what the client says of itself.
///
/// # Errors
/// It is no such message.
pub fn decode(variant: Variant, message: Bytes) -> Result<(Request, Option<Node>), DecodeError> {
    match variant {
        Variant::Delta => {
            let request = DeltaRequest::decode(message)?;
            let read = Request {
                type_url: request.type_url,
                nonce: request.response_nonce,
                error: request.error_detail.map(|status| status.message),
                subscribe: request.subscribe,
                unsubscribe: request.unsubscribe,
                initial_versions: request.initial_resource_versions.into_iter().collect(),
                ..Request::default()
            };
            Ok((read, request.node))
        }
        Variant::StateOfTheWorld => {
            let request = FullRequest::decode(message)?;
            let read = Request {
                type_url: request.type_url,
                nonce: request.response_nonce,
                error: request.error_detail.map(|status| status.message),
                names: request.resource_names,
                version_info: request.version_info,
                ..Request::default()
            };
            Ok((read, request.node))
        }
    }
}

/// `envoy.service.discovery.v3.DeltaDiscoveryRequest`.
#[derive(prost::Message)]
struct DeltaRequest {
    #[prost(message, optional, tag = "1")]
    node: Option<Node>,
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
    error_detail: Option<Refusal>,
}

/// `envoy.service.discovery.v3.DiscoveryRequest`.
#[derive(prost::Message)]
struct FullRequest {
    #[prost(string, tag = "1")]
    version_info: String,
    #[prost(message, optional, tag = "2")]
    node: Option<Node>,
    #[prost(string, repeated, tag = "3")]
    resource_names: Vec<String>,
    #[prost(string, tag = "4")]
    type_url: String,
    #[prost(string, tag = "5")]
    response_nonce: String,
    #[prost(message, optional, tag = "6")]
    error_detail: Option<Refusal>,
}

/// `google.rpc.Status`.
#[derive(prost::Message)]
struct Refusal {
    #[prost(string, tag = "2")]
    message: String,
}

/// `envoy.config.core.v3.Node`: what an Envoy says of itself.
#[derive(prost::Message)]
pub struct Node {
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

impl Node {
    /// The Envoy's version as it says, e.g. `1.40.0`.
    pub fn version(&self) -> String {
        let number =
            |v: &SemanticVersion| format!("{}.{}.{}", v.major_number, v.minor_number, v.patch);
        let build = self.user_agent_build_version.as_ref().and_then(|build| build.version.as_ref());
        build.map_or_else(|| self.user_agent_version.clone(), number)
    }
}

#[cfg(test)]
mod tests;

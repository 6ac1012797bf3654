//! Requests from bytes: gRPC's frames, and what of a message matters.

use std::pin::Pin;

use atlas_core::xds::session::{Request, Variant};
use bytes::{Buf, Bytes, BytesMut};
use envoy_types::pb::envoy::config::core::v3::Node;
use envoy_types::pb::envoy::config::core::v3::node::UserAgentVersionType;
use envoy_types::pb::envoy::service::discovery::v3 as discovery;
use envoy_types::pb::google::rpc;
use hyper::body::Body;
use prost::{DecodeError, Message};
use tonic::Status;

use super::wire::HEADER;

/// The requests of one stream. Keeps no more than what has come of the next one.
pub struct Requests<B> {
    body: B,
    come: BytesMut,
    /// Largest request, in bytes.
    limit: usize,
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
}

impl<B: Body<Data = Bytes> + Unpin> Requests<B>
where
    B::Error: std::fmt::Display,
{
    /// From a body.
    pub fn new(body: B, limit: usize) -> Self {
        Self { body, come: BytesMut::new(), limit }
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
            match std::future::poll_fn(|cx| Pin::new(&mut self.body).poll_frame(cx)).await {
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        self.come.extend_from_slice(&data);
                    }
                }
                Some(Err(error)) => return Err(Lost::Connection(error.to_string())),
                None if self.come.is_empty() => return Ok(None),
                None => return Err(Lost::Nonsense(Status::invalid_argument("the stream ends within a request"))),
            }
        }
    }

    /// A request that has come as a whole.
    fn take(&mut self) -> Result<Option<Bytes>, Lost> {
        let Some((&compressed, rest)) = self.come.split_first() else { return Ok(None) };
        if compressed != 0 {
            let nonsense = Status::unimplemented("a compressed request: Atlas takes plain ones only (grpc-encoding: identity)");
            return Err(Lost::Nonsense(nonsense));
        }
        let Some(length) = rest.first_chunk::<4>() else { return Ok(None) };
        let length = usize::try_from(u32::from_be_bytes(*length)).unwrap_or(usize::MAX);
        if length > self.limit {
            let limit = self.limit;
            let text =
                format!("a request of {length} bytes is larger than the {limit} that one may have here (atlas run --max-request-bytes)");
            return Err(Lost::TooLarge(Status::resource_exhausted(text)));
        }
        if self.come.len() < HEADER + length {
            return Ok(None);
        }
        self.come.advance(HEADER);
        let message = self.come.split_to(length).freeze();
        if self.come.is_empty() {
            // What is left of its memory would be as large as the largest request that ever came.
            self.come = BytesMut::new();
        }
        Ok(Some(message))
    }
}

/// Reads a request; also what the client says of itself.
///
/// # Errors
/// It is no such message.
pub fn decode(variant: Variant, message: Bytes) -> Result<(Request, Option<Node>), DecodeError> {
    match variant {
        Variant::Delta => {
            let request = discovery::DeltaDiscoveryRequest::decode(message)?;
            let read = Request {
                type_url: request.type_url,
                nonce: request.response_nonce,
                error: request.error_detail.map(reason),
                subscribe: request.resource_names_subscribe,
                unsubscribe: request.resource_names_unsubscribe,
                initial_versions: request.initial_resource_versions.into_iter().collect(),
                ..Request::default()
            };
            Ok((read, request.node))
        }
        Variant::StateOfTheWorld => {
            let request = discovery::DiscoveryRequest::decode(message)?;
            let read = Request {
                type_url: request.type_url,
                nonce: request.response_nonce,
                error: request.error_detail.map(reason),
                names: request.resource_names,
                version_info: request.version_info,
                ..Request::default()
            };
            Ok((read, request.node))
        }
    }
}

/// A refusal's words. What is no text for a terminal in them is the session's to mend.
fn reason(error: rpc::Status) -> String {
    error.message
}

/// The Envoy's version as it says, e.g. `1.40.0`.
pub fn version(node: &Node) -> String {
    match &node.user_agent_version_type {
        Some(UserAgentVersionType::UserAgentBuildVersion(build)) => {
            build.version.as_ref().map(|v| format!("{}.{}.{}", v.major_number, v.minor_number, v.patch)).unwrap_or_default()
        }
        Some(UserAgentVersionType::UserAgentVersion(version)) => version.clone(),
        None => String::new(),
    }
}

/// A text from outside for people's terminals: cut, and without control characters.
pub fn plain(text: &str, longest: usize) -> String {
    text.chars().take(longest).map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::convert::Infallible;
    use std::task::{Context, Poll};

    use hyper::body::Frame;

    /// A body of these frames.
    struct Frames(std::vec::IntoIter<Vec<u8>>);

    impl Body for Frames {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            Poll::Ready(self.0.next().map(|data| Ok(Frame::data(data.into()))))
        }
    }

    fn framed(message: &[u8]) -> Vec<u8> {
        [&[0], u32::try_from(message.len()).unwrap().to_be_bytes().as_slice(), message].concat()
    }

    async fn all(frames: Vec<Vec<u8>>) -> (Vec<Bytes>, Option<Lost>) {
        let mut requests = Requests::new(Frames(frames.into_iter()), 100);
        let mut read = Vec::new();
        loop {
            match requests.next().await {
                Ok(Some(message)) => read.push(message),
                Ok(None) => return (read, None),
                Err(lost) => return (read, Some(lost)),
            }
        }
    }

    #[tokio::test]
    async fn messages_do_not_care_how_they_are_cut() {
        let bytes = [framed(b"one"), framed(b""), framed(&[7; 100])].concat();
        for size in [1, 2, 7, 200] {
            let (read, lost) = all(bytes.chunks(size).map(<[u8]>::to_vec).collect()).await;
            assert_eq!(read, [b"one".as_slice(), b"", &[7; 100]], "in pieces of {size}");
            assert!(lost.is_none(), "{lost:?}");
        }
    }

    #[tokio::test]
    async fn what_is_too_large_is_refused_before_it_comes() {
        let (_, lost) = all(vec![framed(&[7; 101])[..HEADER].to_vec()]).await;
        assert!(matches!(&lost, Some(Lost::TooLarge(status)) if status.message().contains("101 bytes")), "{lost:?}");
        let (_, lost) = all(vec![vec![0, 0xff, 0xff, 0xff, 0xff]]).await;
        assert!(matches!(lost, Some(Lost::TooLarge(_))), "{lost:?}");
    }

    #[tokio::test]
    async fn half_a_message_and_a_compressed_one_are_nonsense() {
        for frames in [vec![framed(b"half")[..7].to_vec()], vec![vec![0, 0]], vec![vec![1, 0, 0, 0, 0]]] {
            let (read, lost) = all(frames).await;
            assert!(read.is_empty() && matches!(lost, Some(Lost::Nonsense(_))), "{lost:?}");
        }
    }

    #[test]
    fn what_an_envoy_says_cannot_move_the_cursor() {
        assert_eq!(plain("tokyo\u{1b}[2J\nhub", 256), "tokyo [2J hub");
        assert_eq!(plain("abc", 2), "ab");
    }
}

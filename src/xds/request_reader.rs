//! Splits the body of a stream's HTTP/2 request into gRPC messages.

use std::pin::Pin;

use bytes::{Buf, Bytes, BytesMut};
use hyper::body::Body;
use tonic::Status;

use super::memory_budget::Reservation;
use super::response_encoder::GRPC_HEADER_BYTES;

/// Bytes of an unfinished message for which no memory is reserved. Most messages are small and
/// arrive as a whole.
const UNRESERVED_BYTES: usize = 4 << 10;

/// Reads the messages of one stream. Buffers no more than what has arrived of the next one.
pub struct RequestReader<B> {
    body: B,
    buffer: BytesMut,
    /// The memory of `buffer`.
    reservation: Reservation,
    /// Largest message, in bytes.
    pub max_bytes: usize,
}

/// Why no further message can be read.
#[derive(Debug)]
pub enum ReadError {
    /// The connection, or this stream on it, has broken.
    Connection(String),
    /// The client violates the protocol.
    Malformed(Status),
    /// A message is larger than [`RequestReader::max_bytes`].
    TooLarge(Status),
    /// The memory budget of the node is exhausted.
    OutOfMemory,
}

impl<B: Body<Data = Bytes> + Unpin> RequestReader<B>
where
    B::Error: std::fmt::Display,
{
    /// Reads from a body. Refuses every message until [`RequestReader::max_bytes`] is set.
    pub fn new(body: B, reservation: Reservation) -> Self {
        Self { body, buffer: BytesMut::new(), reservation, max_bytes: 0 }
    }

    /// The next message, still encoded; `None` when the client has ended the stream. Cancel-safe:
    /// what has arrived is kept for the next call.
    ///
    /// # Errors
    /// No further message can be read.
    pub async fn next(&mut self) -> Result<Option<Bytes>, ReadError> {
        loop {
            if let Some(message) = self.take_message()? {
                return Ok(Some(message));
            }
            let buffered = self.buffer.capacity();
            let reserved = if buffered > UNRESERVED_BYTES { buffered } else { 0 };
            self.reservation.resize(reserved).await.map_err(|_| ReadError::OutOfMemory)?;
            match std::future::poll_fn(|cx| Pin::new(&mut self.body).poll_frame(cx)).await {
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        self.buffer.extend_from_slice(&data);
                    }
                }
                Some(Err(error)) => return Err(ReadError::Connection(error.to_string())),
                None if self.buffer.is_empty() => return Ok(None),
                None => {
                    let status = Status::invalid_argument("the stream ends within a request");
                    return Err(ReadError::Malformed(status));
                }
            }
        }
    }

    /// Takes a message from the buffer, if all of it has arrived.
    fn take_message(&mut self) -> Result<Option<Bytes>, ReadError> {
        let Some((&compressed, rest)) = self.buffer.split_first() else { return Ok(None) };
        if compressed != 0 {
            let status = Status::unimplemented(
                "a compressed request: Atlas takes plain ones only (grpc-encoding: identity)",
            );
            return Err(ReadError::Malformed(status));
        }
        let Some(length) = rest.first_chunk::<4>() else { return Ok(None) };
        let length = usize::try_from(u32::from_be_bytes(*length)).unwrap_or(usize::MAX);
        if length > self.max_bytes {
            let text = format!(
                "a request of {length} bytes is larger than the {} that one may have here \
                 (atlas run --max-request-bytes)",
                self.max_bytes
            );
            return Err(ReadError::TooLarge(Status::resource_exhausted(text)));
        }
        if self.buffer.len() < GRPC_HEADER_BYTES + length {
            return Ok(None);
        }
        self.buffer.advance(GRPC_HEADER_BYTES);
        let message = self.buffer.split_to(length).freeze();
        if GRPC_HEADER_BYTES + length > UNRESERVED_BYTES || self.buffer.is_empty() {
            // The rest shares its allocation with the message, however large that was, and its
            // capacity doesn't tell. A copy has an allocation of its own.
            self.buffer = BytesMut::from(&self.buffer[..]);
        }
        Ok(Some(message))
    }
}

#[cfg(test)]
mod tests;

//! The body of a stream's HTTP/2 response: the responses that the stream's task has queued, as gRPC
//! messages, and the trailers at the end.
//!
//! A queued response repeats names that the client sent; their bytes are reserved in the node's
//! memory budget.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};

use atlas_core::xds::messages::{Response, Variant};
use bytes::Bytes;
use hyper::HeaderMap;
use hyper::body::{Body, Frame, SizeHint};
use tokio::sync::mpsc;
use tonic::Status;

use super::memory_budget::{Reservation, StreamMemory};
use super::response_encoder::ResponseEncoder;

/// Responses that may wait for a client to read them. The session has at most one unanswered
/// response for each of the five types. So a client that needs more sends requests that Atlas must
/// answer, faster than it reads the answers.
const MAX_QUEUED_RESPONSES: usize = 8;

/// Queues the responses of a stream.
pub struct ResponseSender {
    queue: mpsc::Sender<Box<QueuedResponse>>,
    memory: Arc<StreamMemory>,
    end: Arc<OnceLock<Status>>,
}

struct QueuedResponse {
    response: Response,
    reservation: Reservation,
}

/// The body. Empty once the trailers have been returned, and for answers without a stream.
#[derive(Default)]
pub struct ResponseBody(Option<Box<OpenBody>>);

struct OpenBody {
    queue: mpsc::Receiver<Box<QueuedResponse>>,
    variant: Variant,
    /// The response that is being sent.
    current: Option<(ResponseEncoder, Reservation)>,
    end: Arc<OnceLock<Status>>,
}

/// Why a response can't be queued.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SendError {
    /// The client doesn't read.
    QueueFull,
    /// The client has closed the stream.
    Closed,
}

/// A body and the sender that fills it.
pub fn channel(variant: Variant, memory: Arc<StreamMemory>) -> (ResponseSender, ResponseBody) {
    let (sender, receiver) = mpsc::channel(MAX_QUEUED_RESPONSES);
    let end = Arc::new(OnceLock::new());
    let body = OpenBody { queue: receiver, variant, current: None, end: Arc::clone(&end) };
    (ResponseSender { queue: sender, memory, end }, ResponseBody(Some(Box::new(body))))
}

impl ResponseSender {
    /// Queues a response.
    ///
    /// # Errors
    /// The queue is full, or the client has closed the stream.
    pub fn send(&self, response: Response) -> Result<(), SendError> {
        let mut reservation = self.memory.reservation();
        reservation.set(response.queued_bytes());
        let queued = Box::new(QueuedResponse { response, reservation });
        self.queue.try_send(queued).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => SendError::QueueFull,
            mpsc::error::TrySendError::Closed(_) => SendError::Closed,
        })
    }

    /// Waits until the client has closed the stream.
    pub async fn closed(&self) {
        self.queue.closed().await;
    }

    /// Ends the stream with this status. Queued responses are no longer sent.
    pub fn end(self, status: Status) {
        let _ = self.end.set(status);
    }
}

impl OpenBody {
    /// The next chunk of a response, or the status with which the stream ends.
    fn poll_chunk(&mut self, cx: &mut Context<'_>) -> Poll<Result<Bytes, Status>> {
        loop {
            if let Some((encoder, _)) = &mut self.current {
                if let Some(chunk) = encoder.next_chunk() {
                    return Poll::Ready(Ok(chunk));
                }
                self.current = None;
            }
            if let Some(status) = self.end.get() {
                return Poll::Ready(Err(status.clone()));
            }
            let Some(queued) = std::task::ready!(self.queue.poll_recv(cx)) else {
                let status = self.end.get().cloned();
                return Poll::Ready(Err(status
                    .unwrap_or_else(|| Status::internal("BUG: a stream ended without a reason"))));
            };
            let QueuedResponse { response, reservation } = *queued;
            let Some(encoder) = ResponseEncoder::new(response, self.variant) else {
                let status = Status::resource_exhausted("a response of more than 4 GiB");
                return Poll::Ready(Err(status));
            };
            self.current = Some((encoder, reservation));
        }
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let Some(body) = &mut self.0 else { return Poll::Ready(None) };
        let frame = match std::task::ready!(body.poll_chunk(cx)) {
            Ok(chunk) => Frame::data(chunk),
            Err(status) => {
                self.0 = None;
                let mut trailers = HeaderMap::new();
                // Can't fail: Atlas's own messages have no characters that a header may not have.
                let _ = status.add_header(&mut trailers);
                Frame::trailers(trailers)
            }
        };
        Poll::Ready(Some(Ok(frame)))
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        if self.0.is_none() { SizeHint::with_exact(0) } else { SizeHint::default() }
    }
}

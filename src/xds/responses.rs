//! The body of a stream's answer: what the stream's task has put into its outbox, as gRPC's frames. What waits in it of the client's
//! own words counts as its node's memory.

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

use super::wire::Writer;
use crate::xds::memory_budget::{Charge, Share};

/// Responses that may wait for a client to read them. The session keeps one per type under way, and there are five types; so a client
/// that takes more room than this asks for nonsense faster than it reads the answers.
const OUTBOX: usize = 8;

/// Where a stream's task puts its responses.
pub struct Outbox {
    responses: mpsc::Sender<Box<Waiting>>,
    share: Arc<Share>,
    end: Arc<OnceLock<Status>>,
}

/// A response, and the memory that it takes until it has been sent.
struct Waiting {
    response: Response,
    charge: Charge,
}

/// The body of the answer.
#[derive(Default)]
pub struct Responses(Option<Box<Open>>);

/// One that has not ended.
struct Open {
    outbox: mpsc::Receiver<Box<Waiting>>,
    variant: Variant,
    /// The response that is being sent.
    writer: Option<(Writer, Charge)>,
    end: Arc<OnceLock<Status>>,
}

/// Why a response can't be put into an outbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unsent {
    /// The client doesn't read.
    Full,
    /// The client is gone.
    Closed,
}

/// An outbox and the body that it fills, of a stream with this part of its node's memory.
pub fn pair(variant: Variant, share: Arc<Share>) -> (Outbox, Responses) {
    let (responses, outbox) = mpsc::channel(OUTBOX);
    let end = Arc::new(OnceLock::new());
    let open = Open { outbox, variant, writer: None, end: Arc::clone(&end) };
    (Outbox { responses, share, end }, Responses(Some(Box::new(open))))
}

impl Outbox {
    /// Puts a response into it.
    pub fn send(&self, response: Response) -> Result<(), Unsent> {
        let mut charge = self.share.charge();
        charge.set(response.queued_bytes());
        self.responses.try_send(Box::new(Waiting { response, charge })).map_err(|error| match error
        {
            mpsc::error::TrySendError::Full(_) => Unsent::Full,
            mpsc::error::TrySendError::Closed(_) => Unsent::Closed,
        })
    }

    /// Resolves when the client is gone.
    pub async fn closed(&self) {
        self.responses.closed().await;
    }

    /// Ends the stream. What the client hasn't begun to read it doesn't get any more.
    pub fn end(self, status: Status) {
        let _ = self.end.set(status);
    }
}

impl Body for Responses {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let Some(open) = &mut self.0 else { return Poll::Ready(None) };
        loop {
            if let Some(piece) = open.writer.as_mut().and_then(|(writer, _)| writer.next()) {
                return Poll::Ready(Some(Ok(Frame::data(piece))));
            }
            open.writer = None;
            let end = match open.end.get() {
                Some(status) => status.clone(),
                None => match std::task::ready!(open.outbox.poll_recv(cx)) {
                    Some(waiting) => {
                        let Waiting { response, charge } = *waiting;
                        open.writer =
                            Writer::new(response, open.variant).map(|writer| (writer, charge));
                        if open.writer.is_some() {
                            continue;
                        }
                        Status::resource_exhausted("a response of more than 4 GiB")
                    }
                    None => open.end.get().cloned().unwrap_or_else(|| {
                        Status::internal("BUG: a stream ended without a reason")
                    }),
                },
            };
            self.0 = None;
            let mut trailers = HeaderMap::new();
            // Its messages are Atlas's own, so they are fit for a header.
            let _ = end.add_header(&mut trailers);
            return Poll::Ready(Some(Ok(Frame::trailers(trailers))));
        }
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        if self.0.is_none() { SizeHint::with_exact(0) } else { SizeHint::default() }
    }
}

//! The task of one stream: passes requests to the session and sends the session's responses, until
//! the stream ends.

use std::sync::Arc;
use std::time::Duration;

use atlas_core::name::NodeId;
use atlas_core::pki::Time;
use atlas_core::text;
use atlas_core::xds::limits::{LimitExceeded, MAX_NACK_MESSAGE, max_request_memory};
use atlas_core::xds::messages::{Response, Variant};
use atlas_core::xds::resource::ResourceType;
use bytes::Bytes;
use hyper::body::Body;
use tokio::sync::watch;
use tokio::time::Instant;
use tonic::Status;

use super::client::SelfDescription;
use super::connection::CloseReason;
use super::memory_budget::Reservation;
use super::open_streams::RegisteredStream;
use super::request_decoder::{self, NodeMessage};
use super::request_reader::{ReadError, RequestReader};
use super::response_body::{ResponseSender, SendError};
use super::server::XdsServer;
use super::stream_end::StreamEnd;
use crate::process::clock;
use crate::process::lock::lock;
use crate::state::Node;

/// Characters to which a client's name, version and type URLs are cut where they are shown.
const MAX_SHOWN: usize = 256;

/// When a stream must end.
#[derive(Clone, Copy, Debug)]
pub struct Deadline {
    at: Instant,
    /// Whether it is the expiry of the client's certificate, and not the stream's maximum age.
    is_certificate_expiry: bool,
}

impl Deadline {
    /// The deadline of a stream that opens now: its maximum age less up to a fifth, or the expiry
    /// of its certificate if that is earlier. The times are in seconds since 1970.
    pub fn new(max_age: Duration, now: Time, not_after: Time) -> Self {
        let age = max_age.mul_f64(1.0 - 0.2 * fastrand::f64());
        let valid_for = Duration::from_secs(u64::try_from(not_after - now).unwrap_or(0));
        Self { at: Instant::now() + age.min(valid_for), is_certificate_expiry: valid_for < age }
    }

    fn passed(self) -> StreamEnd {
        if self.is_certificate_expiry { StreamEnd::Certificate } else { StreamEnd::Age }
    }
}

pub struct StreamTask {
    server: Arc<XdsServer>,
    registered: RegisteredStream,
    variant: Variant,
    responses: ResponseSender,
    /// The memory of the session.
    session_memory: Reservation,
    deadline: Deadline,
    /// Whether it has been logged that the Envoy's `node.id` is another node's.
    foreign_id_logged: bool,
}

impl StreamTask {
    /// A task that isn't running yet.
    pub fn new(
        server: Arc<XdsServer>,
        registered: RegisteredStream,
        variant: Variant,
        responses: ResponseSender,
        deadline: Deadline,
    ) -> Self {
        let session_memory = registered.stream.memory.reservation();
        Self {
            server,
            registered,
            variant,
            responses,
            session_memory,
            deadline,
            foreign_id_logged: false,
        }
    }

    /// Serves the stream until it ends.
    pub async fn run<B: Body<Data = Bytes> + Unpin>(mut self, mut requests: RequestReader<B>)
    where
        B::Error: std::fmt::Display,
    {
        let client = Arc::clone(&self.registered.stream.client);
        let (node, address) = (&client.node, client.address);
        self.server.metrics.streams.inc();
        tracing::info!(%node, %address, variant = ?self.variant, "xDS stream opened");
        let mut end = self.serve(&mut requests).await;
        let close_reason = self.registered.connection.close_reason();
        if let (StreamEnd::ConnectionLost(_), Some(CloseReason::Replaced(_))) = (&end, close_reason)
        {
            end = StreamEnd::Replaced;
        }
        drop(requests);
        self.server.metrics.streams.dec();
        self.server.metrics.stream_ended(end.metric_label());
        if matches!(end, StreamEnd::OutOfMemory | StreamEnd::NotReading) {
            self.registered.connection.close(CloseReason::Memory);
        }
        let status = end.status();
        tracing::info!(%node, %address, reason = status.message(), "xDS stream ended");
        self.responses.end(status);
    }

    /// Handles requests and changes until something ends the stream; returns what.
    async fn serve<B: Body<Data = Bytes> + Unpin>(
        &mut self,
        requests: &mut RequestReader<B>,
    ) -> StreamEnd
    where
        B::Error: std::fmt::Display,
    {
        let cancel = self.registered.stream.cancel.clone();
        let timer = tokio::time::sleep_until(self.deadline.at);
        tokio::pin!(timer);
        let node = tokio::select! {
            node = self.wait_for_node() => node,
            () = self.responses.closed() => return client_gone(),
            () = &mut timer => return self.deadline.passed(),
            () = cancel.cancelled() => return self.cancelled(),
        };
        // The stream may have waited for days.
        if !self.is_still_allowed() {
            return StreamEnd::Credential;
        }
        self.update_limits(&node, requests);
        let mut changes = node.changes();
        // The node may have been removed before this stream subscribed to its changes.
        if *changes.borrow_and_update() {
            return self.node_removed();
        }
        let keep_unknown_until = Instant::now() + self.server.keep_unknown_for;
        let mut keeps_unknown =
            !self.server.keep_unknown_for.is_zero() && keep_unknown_until < self.deadline.at;
        if keeps_unknown {
            lock(&self.registered.stream.session).keep_unknown_resources();
            timer.as_mut().reset(keep_unknown_until);
        }
        loop {
            let responses = tokio::select! {
                request = requests.next() => match request {
                    Ok(Some(message)) => self.on_request(&node, message).await,
                    Ok(None) => return StreamEnd::Client,
                    Err(error) => return self.read_failed(error),
                },
                changed = changes.changed() => match changed {
                    Ok(()) => self.on_change(&node, &mut changes),
                    Err(_) => return self.node_removed(),
                },
                () = self.responses.closed() => return client_gone(),
                () = &mut timer => {
                    if !keeps_unknown {
                        return self.deadline.passed();
                    }
                    keeps_unknown = false;
                    timer.as_mut().reset(self.deadline.at);
                    lock(&self.registered.stream.session).remove_unknown_resources();
                    self.on_change(&node, &mut changes)
                }
                () = cancel.cancelled() => return self.cancelled(),
            };
            if let Err(end) = responses.and_then(|responses| self.send(responses)) {
                return end;
            }
            self.update_limits(&node, requests);
            // So that a client with ever more requests leaves time for the tasks of other streams.
            tokio::task::coop::consume_budget().await;
        }
    }

    /// Waits until the node has resources; requests aren't read before. Before the first complete
    /// reconcile an empty response would remove what the Envoy has. And a cluster whose manifest
    /// has been deleted, but not its credential, is served at once when a GitOps tool puts the
    /// manifest back; with an error its Envoy would wait longer and longer before it reconnects.
    async fn wait_for_node(&self) -> Arc<Node> {
        let (nodes, node) = (&self.server.nodes, &self.registered.stream.client.node);
        // Once the hub is served, a complete reconcile has been made.
        if nodes.get(&NodeId::Hub).is_some() && nodes.get(node).is_none() {
            tracing::warn!(
                %node,
                "an Envoy waits for a cluster that has no manifest, or one that was never right"
            );
        }
        nodes.wait_for(node).await
    }

    /// Why the stream was cancelled.
    fn cancelled(&self) -> StreamEnd {
        if self.server.drain.is_cancelled() {
            StreamEnd::Stopping
        } else if self.registered.stream.memory.is_exhausted() {
            StreamEnd::OutOfMemory
        } else {
            StreamEnd::Credential
        }
    }

    /// Why no memory could be reserved: the stream must end for it, or was cancelled while it
    /// waited.
    fn out_of_memory(&self) -> StreamEnd {
        if self.registered.stream.cancel.is_cancelled() {
            self.cancelled()
        } else {
            StreamEnd::OutOfMemory
        }
    }

    fn read_failed(&self, error: ReadError) -> StreamEnd {
        match error {
            ReadError::Connection(why) => StreamEnd::ConnectionLost(why),
            ReadError::Malformed(status) => StreamEnd::Malformed(status),
            ReadError::TooLarge(status) => StreamEnd::RequestTooLarge(status),
            ReadError::OutOfMemory => self.out_of_memory(),
        }
    }

    fn node_removed(&self) -> StreamEnd {
        StreamEnd::NodeRemoved(self.registered.stream.client.node.clone())
    }

    fn is_still_allowed(&self) -> bool {
        let client = &self.registered.stream.client;
        self.server.client_authorizer.still_allows(client, clock::now())
    }

    /// Updates the limits that depend on the number of the node's resources.
    fn update_limits<B>(&self, node: &Node, requests: &mut RequestReader<B>) {
        let stream = &self.registered.stream;
        let resources = node.resources().snapshot.len();
        let (limits, id) = (&self.server.limits, &stream.client.node);
        requests.max_bytes = limits.request_bytes(id, resources);
        let connections = self.server.connection_limits(id).per_node;
        stream.memory.set_node_limit(limits.node_bytes(id, connections, resources));
    }

    async fn on_request(
        &mut self,
        node: &Node,
        message: Bytes,
    ) -> Result<Vec<Response>, StreamEnd> {
        self.server.metrics.requests.inc();
        let malformed = |error| {
            let text = format!("not a discovery request: {error}");
            StreamEnd::Malformed(Status::invalid_argument(text))
        };
        let stream = Arc::clone(&self.registered.stream);
        let lists = request_decoder::measure_lists(self.variant, &message).map_err(malformed)?;
        let resources = node.resources().snapshot.len();
        let max_names = self.server.limits.session(&stream.client.node).max_names(resources);
        if lists.longest > max_names {
            return Err(StreamEnd::SessionLimit(LimitExceeded::Names(lists.longest, max_names)));
        }
        // Held until the request has been handled and the session's own memory is reserved.
        let mut reservation = stream.memory.reservation();
        let needed = max_request_memory(lists.names, lists.bytes);
        reservation.resize(needed).await.map_err(|_| self.out_of_memory())?;
        let (request, description) =
            request_decoder::decode(self.variant, message).map_err(malformed)?;
        if let Some(description) = description {
            self.record_self_description(&description);
        }
        let error = request.error.as_ref().map(|error| {
            (
                text::cut(&request.type_url, MAX_SHOWN).into_owned(),
                text::cut(error, MAX_NACK_MESSAGE).into_owned(),
            )
        });
        let mut resources = node.resources();
        let resources = &mut *resources;
        let mut session = lock(&stream.session);
        let nacks_before = session.nacks();
        let responses = session
            .on_request(request, &resources.snapshot, &mut resources.quarantine)
            .map_err(StreamEnd::SessionLimit)?;
        self.session_memory.set(session.memory_bytes());
        if session.nacks() > nacks_before
            && let Some((type_url, error)) = error
        {
            self.server.metrics.response_refused(ResourceType::of_url(&type_url));
            let node = &stream.client.node;
            tracing::warn!(%node, type_url, error, "the Envoy refused a response");
        }
        Ok(responses)
    }

    fn on_change(
        &mut self,
        node: &Node,
        changes: &mut watch::Receiver<bool>,
    ) -> Result<Vec<Response>, StreamEnd> {
        if *changes.borrow_and_update() {
            return Err(self.node_removed());
        }
        // The credential of a cluster without a manifest expires earlier than its certificate.
        if !self.is_still_allowed() {
            return Err(StreamEnd::Credential);
        }
        let resources = node.resources();
        let mut session = lock(&self.registered.stream.session);
        Ok(session.on_change(&resources.snapshot, &resources.quarantine))
    }

    /// Keeps what the Envoy says of itself, for display.
    fn record_self_description(&mut self, description: &NodeMessage) {
        let stream = &self.registered.stream;
        let node = &stream.client.node;
        if description.id != node.to_string() && !self.foreign_id_logged {
            self.foreign_id_logged = true;
            let claims = &*text::cut(&description.id, MAX_SHOWN);
            tracing::warn!(
                %node,
                claims,
                "an Envoy calls itself somebody else; its certificate decides"
            );
        }
        *lock(&stream.self_description) = SelfDescription {
            id: text::line(&description.id, MAX_SHOWN),
            version: text::line(&description.version(), MAX_SHOWN),
        };
    }

    fn send(&self, responses: Vec<Response>) -> Result<(), StreamEnd> {
        for response in responses {
            let kind = ResourceType::of_url(&response.type_url);
            let bytes = response.resources.iter().map(|resource| resource.wire().len()).sum();
            self.server.metrics.response_sent(kind, response.resources.len(), bytes);
            match self.responses.send(response) {
                Ok(()) => {}
                Err(SendError::QueueFull) => return Err(StreamEnd::NotReading),
                Err(SendError::Closed) => return Err(client_gone()),
            }
        }
        Ok(())
    }
}

fn client_gone() -> StreamEnd {
    StreamEnd::ConnectionLost("the client is gone".into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::xds::response_body;
    use crate::xds::tests::{idle_body, registered_stream, server};

    #[test]
    fn a_stream_ends_at_its_age_or_with_its_certificate() {
        let age = Duration::from_secs(1000);
        for _ in 0..100 {
            let deadline = Deadline::new(age, 0, 1_000_000);
            let left = deadline.at - Instant::now();
            assert!(!deadline.is_certificate_expiry && left <= age, "{left:?}");
            assert!(left > Duration::from_secs(799), "{left:?}");
        }
        let deadline = Deadline::new(age, 100, 160);
        assert!(deadline.is_certificate_expiry);
        assert!(deadline.at - Instant::now() <= Duration::from_secs(60));
        assert!(Deadline::new(age, 100, 50).at <= Instant::now());
    }

    /// The memory that an idle stream takes beside its session. There are thousands of them.
    #[tokio::test]
    async fn the_task_of_a_stream_is_small() {
        let server = server();
        let registered = registered_stream(&server).await;
        let memory = Arc::clone(&registered.stream.memory);
        let (responses, _body) = response_body::channel(Variant::Delta, Arc::clone(&memory));
        let deadline = Deadline { at: Instant::now(), is_certificate_expiry: false };
        let task =
            StreamTask::new(Arc::clone(&server), registered, Variant::Delta, responses, deadline);
        let running = task.run(RequestReader::new(idle_body(), memory.reservation()));
        let bytes = size_of_val(&running);
        println!("a stream's task: {bytes} bytes");
        assert!(bytes < 3 << 10, "{bytes} bytes");
    }
}

//! One stream's task: requests in, responses out, until something ends it.

use std::sync::Arc;

use atlas_core::name::NodeId;
use atlas_core::text;
use atlas_core::xds::limits::{LimitExceeded, MAX_NACK_MESSAGE, max_request_memory};
use atlas_core::xds::messages::{Response, Variant};
use atlas_core::xds::resource::ResourceType;
use bytes::Bytes;
use hyper::body::Body;
use tokio::sync::watch;
use tokio::time::Instant;
use tonic::Status;

use super::Xds;
use super::requests::{self, Lost, Requests};
use super::responses::{Outbox, Unsent};
use super::service::REFUSED;
use crate::process::clock;
use crate::process::lock::lock;
use crate::state::Node;
use crate::xds::memory_budget::Charge;
use crate::xds::streams::{Cause, Client, Registration};

/// What an Envoy says of itself is cut to so many characters.
const LONGEST_NAME: usize = 256;

/// Why a stream ends.
enum End {
    /// The client has ended it.
    Client,
    /// The connection is gone.
    Lost(String),
    /// Another connection has taken the place of this stream's.
    Replaced,
    /// It has reached its age.
    Age,
    /// Its certificate ends.
    Certificate,
    /// Atlas stops.
    Stopping,
    /// Its credential counts no more.
    Refused,
    /// Its node is gone.
    NodeGone(NodeId),
    /// The client doesn't read.
    Slow,
    /// The client asks for more than anyone may.
    LimitExceeded(LimitExceeded),
    /// A request is larger than it may be.
    TooLarge(Status),
    /// The streams of its node would take more memory than they may, and this one took most.
    NoMemory,
    /// The client says what nobody may.
    Nonsense(Status),
}

impl End {
    /// One of few words, for the metric.
    fn reason(&self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Lost(_) => "lost",
            Self::Replaced => "replaced",
            Self::Age => "age",
            Self::Certificate => "certificate",
            Self::Stopping => "stopping",
            Self::Refused => "credential",
            Self::NodeGone(_) => "removed",
            Self::Slow => "slow",
            Self::LimitExceeded(_) => "names",
            Self::TooLarge(_) => "request_bytes",
            Self::NoMemory => "memory",
            Self::Nonsense(_) => "nonsense",
        }
    }

    /// What the client hears.
    fn status(self) -> Status {
        match self {
            Self::Client => Status::ok("the client ended it"),
            Self::Lost(why) => Status::ok(format!("connection lost: {why}")),
            Self::Replaced => Status::ok("another connection of its node took its place"),
            Self::Age => Status::unavailable("this stream has reached its age; come back"),
            Self::Certificate => Status::unavailable(
                "the certificate of this connection ends; come back with a new one",
            ),
            Self::Stopping => Status::unavailable("Atlas is stopping; come back"),
            Self::Refused => Status::permission_denied(REFUSED),
            Self::NodeGone(node) => Status::not_found(format!("the manifest of {node} is gone")),
            Self::Slow => Status::resource_exhausted("this client doesn't read its responses"),
            Self::LimitExceeded(exceeded) => Status::resource_exhausted(exceeded.to_string()),
            Self::NoMemory => Status::resource_exhausted(
                "the streams of this node ask for more names, or larger requests, than all of them together may; this one for most",
            ),
            Self::TooLarge(status) | Self::Nonsense(status) => status,
        }
    }
}

/// One stream.
pub struct Task {
    xds: Arc<Xds>,
    registration: Registration,
    variant: Variant,
    outbox: Outbox,
    /// What the session remembers.
    remembered: Charge,
    deadline: Instant,
    /// Whether the deadline is the certificate's.
    by_certificate: bool,
    /// Whether it has been logged that the client calls itself somebody else.
    foreign_id: bool,
}

impl Task {
    /// Not running yet.
    pub fn new(
        xds: Arc<Xds>,
        registration: Registration,
        variant: Variant,
        outbox: Outbox,
        deadline: Instant,
        by_certificate: bool,
    ) -> Self {
        let remembered = registration.stream.share.charge();
        Self {
            xds,
            registration,
            variant,
            outbox,
            remembered,
            deadline,
            by_certificate,
            foreign_id: false,
        }
    }

    /// Runs until something ends it.
    pub async fn run<B: Body<Data = Bytes> + Unpin>(mut self, mut requests: Requests<B>)
    where
        B::Error: std::fmt::Display,
    {
        let peer = Arc::clone(&self.registration.stream.peer);
        self.xds.metrics.streams.inc();
        tracing::info!(node = %peer.node, address = %peer.address, variant = ?self.variant, "xDS stream opened");
        let end = match self.talk(&mut requests).await {
            End::Lost(_)
                if matches!(self.registration.connection.cause(), Some(Cause::Replaced(_))) =>
            {
                End::Replaced
            }
            end => end,
        };
        drop(requests);
        self.xds.metrics.streams.dec();
        self.xds.metrics.stream_ended(end.reason());
        if matches!(end, End::NoMemory | End::Slow) {
            self.registration.connection.end(Cause::Memory);
        }
        let status = end.status();
        tracing::info!(node = %peer.node, address = %peer.address, reason = status.message(), "xDS stream ended");
        self.outbox.end(status);
    }

    /// Carries requests in and responses out until something ends the stream; returns what.
    async fn talk<B: Body<Data = Bytes> + Unpin>(&mut self, requests: &mut Requests<B>) -> End
    where
        B::Error: std::fmt::Display,
    {
        let cancel = self.registration.stream.cancel.clone();
        let alarm = tokio::time::sleep_until(self.deadline);
        tokio::pin!(alarm);
        let node = tokio::select! {
            node = self.node() => node,
            () = self.outbox.closed() => return End::Lost("the client is gone".into()),
            () = &mut alarm => return self.too_old(),
            () = cancel.cancelled() => return self.cancelled(),
        };
        // It may have waited for days.
        if !self.still_admitted() {
            return End::Refused;
        }
        self.follow(&node, requests);
        let mut bell = node.bell();
        // It may have gone before there was anyone to ring for.
        if *bell.borrow_and_update() {
            return self.node_gone();
        }
        let held = Instant::now() + self.xds.hold;
        let mut holding = !self.xds.hold.is_zero() && held < self.deadline;
        if holding {
            lock(&self.registration.stream.session).keep_unknown_resources();
            alarm.as_mut().reset(held);
        }
        loop {
            let responses = tokio::select! {
                request = requests.next() => match request {
                    Ok(Some(message)) => self.on_request(&node, message).await,
                    Ok(None) => return End::Client,
                    Err(Lost::Connection(why)) => return End::Lost(why),
                    Err(Lost::Nonsense(status)) => return End::Nonsense(status),
                    Err(Lost::TooLarge(status)) => return End::TooLarge(status),
                    Err(Lost::NoMemory) => return self.without_memory(),
                },
                changed = bell.changed() => match changed {
                    Ok(()) => self.on_change(&node, &mut bell),
                    Err(_) => return self.node_gone(),
                },
                () = self.outbox.closed() => return End::Lost("the client is gone".into()),
                () = &mut alarm => {
                    if !holding {
                        return self.too_old();
                    }
                    holding = false;
                    alarm.as_mut().reset(self.deadline);
                    lock(&self.registration.stream.session).remove_unknown_resources();
                    self.on_change(&node, &mut bell)
                }
                () = cancel.cancelled() => return self.cancelled(),
            };
            if let Err(end) = responses.and_then(|responses| self.send(responses)) {
                return end;
            }
            self.follow(&node, requests);
            // A client that always has one more request must not keep the others' tasks from running.
            tokio::task::coop::consume_budget().await;
        }
    }

    /// Requests wait until there is something to answer with. Before the first complete sync an empty answer would tear
    /// down what the Envoy has; and a cluster whose manifest is gone (its credential sleeps) is served at once when a
    /// GitOps tool puts it back, where an error would let its Envoy's backoff grow.
    async fn node(&self) -> Arc<Node> {
        let node = &self.registration.stream.peer.node;
        // Where the hub is served there has been a complete sync.
        if self.xds.nodes.get(&NodeId::Hub).is_some() && self.xds.nodes.get(node).is_none() {
            tracing::warn!(%node, "an Envoy waits for a cluster that has no manifest, or one that was never right");
        }
        self.xds.nodes.wait_for(node).await
    }

    fn too_old(&self) -> End {
        if self.by_certificate { End::Certificate } else { End::Age }
    }

    fn cancelled(&self) -> End {
        if self.xds.drain.is_cancelled() {
            End::Stopping
        } else if self.registration.stream.share.is_exhausted() {
            End::NoMemory
        } else {
            End::Refused
        }
    }

    /// Why there is none: it was ended while it waited for some, or it is to end for it.
    fn without_memory(&self) -> End {
        if self.registration.stream.cancel.is_cancelled() {
            self.cancelled()
        } else {
            End::NoMemory
        }
    }

    /// The limits that depend on what the node has.
    fn follow<B>(&self, node: &Node, requests: &mut Requests<B>) {
        let stream = &self.registration.stream;
        let resources = node.state().snapshot.len();
        let (limits, node) = (&self.xds.limits, &stream.peer.node);
        requests.limit = limits.request_bytes(node, resources);
        stream.share.limit(limits.node_bytes(node, self.xds.connections(node).of_node, resources));
    }

    fn node_gone(&self) -> End {
        End::NodeGone(self.registration.stream.peer.node.clone())
    }

    fn still_admitted(&self) -> bool {
        self.xds.client_authorizer.still_admits(&self.registration.stream.peer, clock::now())
    }

    async fn on_request(&mut self, node: &Node, message: Bytes) -> Result<Vec<Response>, End> {
        self.xds.metrics.requests.inc();
        let nonsense = |error| {
            End::Nonsense(Status::invalid_argument(format!("not a discovery request: {error}")))
        };
        let listed = requests::listed(self.variant, &message).map_err(nonsense)?;
        let most = self
            .xds
            .limits
            .session(&self.registration.stream.peer.node)
            .max_names(node.state().snapshot.len());
        if listed.longest > most {
            return Err(End::LimitExceeded(LimitExceeded::Names(listed.longest, most)));
        }
        let mut asked = self.registration.stream.share.charge();
        asked
            .ask(max_request_memory(listed.count, listed.bytes))
            .await
            .map_err(|_| self.without_memory())?;
        let (request, info) = requests::decode(self.variant, message).map_err(nonsense)?;
        if let Some(info) = info {
            self.meet(&info);
        }
        let stream = &self.registration.stream;
        let refusal = request.error.as_ref().map(|error| {
            (
                text::cut(&request.type_url, LONGEST_NAME).into_owned(),
                text::cut(error, MAX_NACK_MESSAGE).into_owned(),
            )
        });
        let mut state = node.state();
        let state = &mut *state;
        let mut session = lock(&stream.session);
        let before = session.nacks();
        let responses = session
            .on_request(request, &state.snapshot, &mut state.quarantine)
            .map_err(End::LimitExceeded)?;
        self.remembered.set(session.memory_bytes());
        if session.nacks() > before
            && let Some((type_url, error)) = refusal
        {
            self.xds.metrics.nacked(ResourceType::of_url(&type_url));
            tracing::warn!(node = %stream.peer.node, type_url, error, "the Envoy refused a response");
        }
        Ok(responses)
    }

    fn on_change(
        &mut self,
        node: &Node,
        bell: &mut watch::Receiver<bool>,
    ) -> Result<Vec<Response>, End> {
        if *bell.borrow_and_update() {
            return Err(self.node_gone());
        }
        // A credential may have slept too long.
        if !self.still_admitted() {
            return Err(End::Refused);
        }
        let state = node.state();
        Ok(lock(&self.registration.stream.session).on_change(&state.snapshot, &state.quarantine))
    }

    /// Notes what the client says of itself. It changes nothing but the display.
    fn meet(&mut self, info: &requests::Node) {
        let peer = &self.registration.stream.peer;
        if info.id != peer.node.to_string() && !self.foreign_id {
            self.foreign_id = true;
            let claims = &*text::cut(&info.id, LONGEST_NAME);
            tracing::warn!(node = %peer.node, claims, "an Envoy calls itself somebody else; its certificate decides");
        }
        *lock(&self.registration.stream.client) = Client {
            id: text::line(&info.id, LONGEST_NAME),
            version: text::line(&info.version(), LONGEST_NAME),
        };
    }

    fn send(&self, responses: Vec<Response>) -> Result<(), End> {
        for response in responses {
            let kind = ResourceType::of_url(&response.type_url);
            let bytes = response.resources.iter().map(|resource| resource.wire().len()).sum();
            self.xds.metrics.sent(kind, response.resources.len(), bytes);
            match self.outbox.send(response) {
                Ok(()) => {}
                Err(Unsent::Full) => return Err(End::Slow),
                Err(Unsent::Closed) => return Err(End::Lost("the client is gone".into())),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::xds::responses;
    use crate::xds::tests::{idle_body, registered, world_of_one};

    /// What an idle stream costs beside its session, of which there are thousands.
    #[tokio::test]
    async fn a_task_is_small() {
        let xds = world_of_one();
        let registration = registered(&xds).await;
        let share = Arc::clone(&registration.stream.share);
        let (outbox, _body) = responses::pair(Variant::Delta, Arc::clone(&share));
        let task = Task::new(
            Arc::clone(&xds),
            registration,
            Variant::Delta,
            outbox,
            Instant::now(),
            false,
        );
        let running = task.run(Requests::new(idle_body(), share.charge()));
        let bytes = size_of_val(&running);
        println!("a stream's task: {bytes} bytes");
        assert!(bytes < 3 << 10, "{bytes} bytes");
    }
}

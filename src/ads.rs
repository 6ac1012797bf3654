//! The ADS service: one task per stream carries what [`atlas_core::xds::session`] decides.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use atlas_core::xds::session::{Request, Response};
use envoy_types::pb::envoy::service::discovery::v3 as discovery;
use envoy_types::pb::envoy::service::discovery::v3::aggregated_discovery_service_server::AggregatedDiscoveryService;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tokio_stream::{Stream, StreamExt};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status, Streaming};

use crate::clock;
use crate::lock::lock;
use crate::metrics::Metrics;
use crate::nodes::{Node, Nodes, State};
use crate::streams::{Client, Registration, Streams};
use crate::tls::{Gate, Peer};

/// Responses that may wait for a client to read them. The session keeps one per type under way, so a client that takes
/// more room than this asks for nonsense faster than it reads the answers.
const OUTBOX: usize = 32;

/// Why a stream ends that has done nothing wrong.
const AGE: &str = "this stream has reached its age; come back";
const CANCELLED: &str = "Atlas is stopping, or this credential no longer counts";
const GONE: &str = "the client is gone";
/// Why a stream is refused on a connection that was once let in.
const REFUSED: &str = "this credential no longer counts: carry the new ones to its Envoy (`atlas bootstrap`, `atlas cluster-values`)";
/// What an Envoy says of itself is cut to so many characters, and its refusals to so many.
const LONGEST_NAME: usize = 256;
const LONGEST_REFUSAL: usize = 2048;

/// What the service needs to know.
pub struct Ads {
    /// What each node should have.
    pub nodes: Arc<Nodes>,
    /// The open streams.
    pub streams: Arc<Streams>,
    /// Who is let in.
    pub gate: Arc<Gate>,
    /// Counts.
    pub metrics: Arc<Metrics>,
    /// Longest life of a stream; some end a little earlier, so that they don't all come back at once.
    pub max_age: Duration,
    /// For how long a stream keeps what its Envoy had from another replica and this one doesn't know; zero where there is only
    /// one.
    pub hold: Duration,
    /// Ends every stream.
    pub drain: CancellationToken,
}

type Responses<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl AggregatedDiscoveryService for Ads {
    type StreamAggregatedResourcesStream = Responses<discovery::DiscoveryResponse>;
    type DeltaAggregatedResourcesStream = Responses<discovery::DeltaDiscoveryResponse>;

    async fn stream_aggregated_resources(
        &self,
        _request: tonic::Request<Streaming<discovery::DiscoveryRequest>>,
    ) -> Result<tonic::Response<Self::StreamAggregatedResourcesStream>, Status> {
        Err(Status::unimplemented("Atlas speaks incremental xDS: set api_type to DELTA_GRPC, as `atlas bootstrap` writes it"))
    }

    async fn delta_aggregated_resources(
        &self,
        request: tonic::Request<Streaming<discovery::DeltaDiscoveryRequest>>,
    ) -> Result<tonic::Response<Self::DeltaAggregatedResourcesStream>, Status> {
        let peer =
            request.extensions().get::<Peer>().cloned().ok_or_else(|| Status::internal("BUG: a connection without a certificate"))?;
        let (out, responses) = mpsc::channel(OUTBOX);
        let (now, not_after) = (clock::now(), peer.not_after);
        let registration = self.streams.register(peer, now, self.drain.child_token());
        // After registering: whoever is refused from now on is found in the list and ended.
        if !self.gate.still_admits(&registration.stream.peer, now) {
            registration.stream.peer.connection.cancel();
            return Err(Status::permission_denied(REFUSED));
        }
        let task = StreamTask {
            registration,
            nodes: Arc::clone(&self.nodes),
            gate: Arc::clone(&self.gate),
            metrics: Arc::clone(&self.metrics),
            deadline: self.deadline(now, not_after),
            hold: self.hold,
            out,
            foreign_id: false,
        };
        tokio::spawn(task.run(request.into_inner()));
        Ok(tonic::Response::new(Box::pin(ReceiverStream::new(responses))))
    }
}

impl Ads {
    /// When a stream that opens now must end: at its maximum age less up to a fifth, or with its certificate.
    fn deadline(&self, now: i64, not_after: i64) -> Instant {
        let age = self.max_age.mul_f64(1.0 - 0.2 * fastrand::f64());
        let certificate = Duration::from_secs(u64::try_from(not_after - now).unwrap_or(0));
        Instant::now() + age.min(certificate)
    }
}

struct StreamTask {
    registration: Registration,
    nodes: Arc<Nodes>,
    gate: Arc<Gate>,
    metrics: Arc<Metrics>,
    deadline: Instant,
    hold: Duration,
    out: mpsc::Sender<Result<discovery::DeltaDiscoveryResponse, Status>>,
    /// Whether it has been logged that the client calls itself somebody else.
    foreign_id: bool,
}

impl StreamTask {
    async fn run(mut self, mut requests: Streaming<discovery::DeltaDiscoveryRequest>) {
        let peer = self.registration.stream.peer.clone();
        self.metrics.streams.inc();
        tracing::info!(node = %peer.node, address = %peer.address, "xDS stream opened");
        let end = self.talk(&mut requests).await;
        tracing::info!(node = %peer.node, address = %peer.address, reason = end.message(), "xDS stream ended");
        self.metrics.streams.dec();
        if end.code() != Code::Ok {
            // A client that doesn't read hears nothing; the stream ends all the same.
            let _ = self.out.try_send(Err(end));
        }
    }

    /// Carries requests in and responses out until something ends the stream; returns what.
    async fn talk(&mut self, requests: &mut Streaming<discovery::DeltaDiscoveryRequest>) -> Status {
        let cancel = self.registration.stream.cancel.clone();
        let out = self.out.clone();
        let deadline = tokio::time::sleep_until(self.deadline);
        tokio::pin!(deadline);
        let node;
        tokio::select! {
            found = self.wait_for_node() => node = found,
            () = out.closed() => return Status::ok(GONE),
            () = &mut deadline => return Status::unavailable(AGE),
            () = cancel.cancelled() => return Status::unavailable(CANCELLED),
        }
        let held = tokio::time::sleep(self.hold);
        tokio::pin!(held);
        let mut holding = !self.hold.is_zero();
        if holding {
            lock(&self.registration.stream.session).hold();
        }
        // It may have waited for days.
        if !self.gate.still_admits(&self.registration.stream.peer, clock::now()) {
            return Status::permission_denied(REFUSED);
        }
        let mut bell = node.bell();
        loop {
            let responses = tokio::select! {
                request = requests.next() => match request {
                    None => return Status::ok("the client ended it"),
                    Some(Err(status)) => return Status::ok(format!("connection lost: {}", status.message())),
                    Some(Ok(request)) => self.on_request(request, &node),
                },
                changed = bell.changed() => match changed {
                    Ok(()) if !*bell.borrow_and_update() => self.on_change(&node),
                    _ => return Status::not_found(format!("the manifest of {} is gone", self.registration.stream.peer.node)),
                },
                () = &mut held, if holding => {
                    holding = false;
                    lock(&self.registration.stream.session).let_go();
                    self.on_change(&node)
                }
                () = out.closed() => return Status::ok(GONE),
                () = &mut deadline => return Status::unavailable(AGE),
                () = cancel.cancelled() => return Status::unavailable(CANCELLED),
            };
            match responses {
                Ok(responses) => {
                    if let Err(end) = self.send(responses) {
                        return end;
                    }
                }
                Err(end) => return end,
            }
        }
    }

    /// Requests wait until there is something to answer with. Before the first complete sync an empty answer would tear
    /// down what the Envoy has; and a cluster whose manifest is gone (its credential sleeps) is served at once when a
    /// GitOps tool puts it back, where an error would let its Envoy's backoff grow.
    async fn wait_for_node(&mut self) -> Arc<Node> {
        let id = self.registration.stream.peer.node.clone();
        if self.nodes.get(&id).is_none() {
            tracing::warn!(node = %id, "an Envoy waits for a cluster that has no manifest, or one that was never right");
        }
        self.nodes.wait_for(&id).await
    }

    fn on_request(&mut self, request: discovery::DeltaDiscoveryRequest, node: &Node) -> Result<Vec<Response>, Status> {
        self.metrics.requests.inc();
        if let Some(node) = &request.node {
            self.meet(node);
        }
        let request = to_request(request);
        if let Some(error) = &request.error {
            self.metrics.nacks.inc();
            let node = &self.registration.stream.peer.node;
            tracing::warn!(%node, type_url = request.type_url, error, "the Envoy refused a response");
        }
        let mut state = node.state();
        let State { snapshot, quarantine } = &mut *state;
        let mut session = lock(&self.registration.stream.session);
        session.on_request(request, snapshot, quarantine).map_err(|abuse| Status::resource_exhausted(abuse.to_string()))
    }

    fn on_change(&mut self, node: &Node) -> Result<Vec<Response>, Status> {
        // A credential may have been forgotten, or have slept too long.
        if !self.gate.still_admits(&self.registration.stream.peer, clock::now()) {
            return Err(Status::permission_denied(REFUSED));
        }
        let state = node.state();
        Ok(lock(&self.registration.stream.session).on_change(&state.snapshot, &state.quarantine))
    }

    /// Notes what the client says of itself. It changes nothing but the display.
    fn meet(&mut self, node: &envoy_types::pb::envoy::config::core::v3::Node) {
        let peer = &self.registration.stream.peer;
        if node.id != peer.node.to_string() && !self.foreign_id {
            self.foreign_id = true;
            tracing::warn!(node = %peer.node, claims = plain(&node.id, LONGEST_NAME), "an Envoy calls itself somebody else; its certificate decides");
        }
        *lock(&self.registration.stream.client) =
            Client { id: plain(&node.id, LONGEST_NAME), version: plain(&version(node), LONGEST_NAME) };
    }

    fn send(&self, responses: Vec<Response>) -> Result<(), Status> {
        for response in responses {
            let bytes: usize = response.resources.iter().map(|resource| resource.wire().len()).sum();
            self.metrics.responses.inc();
            self.metrics.resources_sent.inc_by(response.resources.len() as u64);
            self.metrics.bytes_sent.inc_by(bytes as u64);
            match self.out.try_send(Ok(to_wire(response))) {
                Ok(()) => {}
                Err(mpsc::error::TrySendError::Full(_)) => {
                    return Err(Status::resource_exhausted("this client doesn't read its responses"));
                }
                Err(mpsc::error::TrySendError::Closed(_)) => return Err(Status::ok("connection lost")),
            }
        }
        Ok(())
    }
}

/// A text from outside for people's terminals: cut, and without control characters.
fn plain(text: &str, longest: usize) -> String {
    text.chars().take(longest).map(|c| if c.is_control() { ' ' } else { c }).collect()
}

fn version(node: &envoy_types::pb::envoy::config::core::v3::Node) -> String {
    use envoy_types::pb::envoy::config::core::v3::node::UserAgentVersionType;
    match &node.user_agent_version_type {
        Some(UserAgentVersionType::UserAgentBuildVersion(build)) => {
            build.version.as_ref().map(|v| format!("{}.{}.{}", v.major_number, v.minor_number, v.patch)).unwrap_or_default()
        }
        Some(UserAgentVersionType::UserAgentVersion(version)) => version.clone(),
        None => String::new(),
    }
}

fn to_request(request: discovery::DeltaDiscoveryRequest) -> Request {
    Request {
        type_url: request.type_url,
        nonce: request.response_nonce,
        error: request.error_detail.map(|detail| plain(&detail.message, LONGEST_REFUSAL)),
        subscribe: request.resource_names_subscribe,
        unsubscribe: request.resource_names_unsubscribe,
        initial_versions: request.initial_resource_versions.into_iter().collect(),
    }
}

fn to_wire(response: Response) -> discovery::DeltaDiscoveryResponse {
    let resource = |resource: Arc<atlas_core::xds::snapshot::Resource>| discovery::Resource {
        name: resource.name.to_string(),
        version: resource.version.to_string(),
        resource: Some(resource.body()),
        ..Default::default()
    };
    discovery::DeltaDiscoveryResponse {
        type_url: response.type_url,
        nonce: response.nonce,
        resources: response.resources.into_iter().map(resource).collect(),
        removed_resources: response.removed,
        ..Default::default()
    }
}

#[cfg(test)]
mod tests {
    use super::plain;

    #[test]
    fn what_an_envoy_says_cannot_move_the_cursor() {
        assert_eq!(plain("tokyo\u{1b}[2J\nhub", 256), "tokyo [2J hub");
        assert_eq!(plain("abc", 2), "ab");
    }
}

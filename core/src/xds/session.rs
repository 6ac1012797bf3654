//! One ADS stream as a state machine: requests and changed snapshots go in, responses come out. It
//! has neither a socket nor a clock.
//!
//! ```text
//! request ─▶ limits ─▶ ACK or NACK ─▶ subscribe, unsubscribe ─┐
//! snapshot, quarantine ───────────────────────────────────────┴▶ updates, then removals ─▶ responses
//! ```
//!
//! Each resource type of the stream is a `Subscription`, in one of these states:
//!
//! | State | Meaning | Left when |
//! | --- | --- | --- |
//! | in flight | the latest response has no ACK or NACK yet | the client sends one |
//! | synced | the client has ACKed all that it should have | snapshot or subscriptions change |
//! | NACKed | an Envoy of the node rejected the version | it changes or leaves the quarantine |
//!
//! What each rule is for (docs/envoy.md says what was tried on Envoy):
//!
//! - **At most one response of a type is in flight.** What changes meanwhile is sent in its latest
//!   form when the answer has come. A slow client gets fewer responses and takes no more memory.
//! - **A change costs what it changes.** A subscription remembers up to which position of the
//!   snapshot's log it has sent everything. It checks all names only on a type's first request,
//!   after a NACK, and if the log doesn't reach back.
//! - **Order.** See [`UPDATE_ORDER`] and [`REMOVAL_ORDER`].
//! - **Responses have a limited size** ([`SessionLimits::response_bytes`]). The rest follows when
//!   the answer has come.
//! - **Atlas remembers what a client was sent, even if it was rejected.** Envoy applies the good
//!   resources of a response that it rejects, so they must be removed one day, but it doesn't list
//!   them in `initial_resource_versions`.
//! - **A rejected version isn't sent again**, on any stream of the node
//!   ([`quarantine`](super::quarantine)). The good resources of its response are sent again without
//!   it, and so is what the client had before, if it may have lost that. The next version is sent
//!   at once. An Envoy process that has started since is sent rejected versions once more, since
//!   the cause may be gone. Atlas recognises it by first requests without any version; a process
//!   that has accepted nothing yet looks the same when it reconnects.
//! - **Reconnect** (incremental): versions in `initial_resource_versions` that equal the snapshot's
//!   aren't sent again. Names that the snapshot doesn't have are removed, unless
//!   [`Session::keep_unknown_resources`] was called.
//! - **The first request of each type is answered at once**, even if there is nothing to send:
//!   without a response Envoy's backoff grows, and a missing secret holds up all listeners for 15
//!   s. So a name that doesn't exist is answered as removed.
//!
//! `subscription` says how the state-of-the-world variant differs.

mod client_state;
mod nack;
mod subscription;

use std::collections::BTreeMap;

use super::limits::{LimitExceeded, SessionLimits};
use super::messages::{Request, Response, Variant};
use super::quarantine::Quarantine;
use super::resource::ResourceType;
use super::snapshot::Snapshot;
pub use subscription::ConfigStatus;
use subscription::{Context, Subscription};

/// The order in which additions and changes are sent: an Envoy cluster needs its secrets, a
/// listener its Envoy clusters, a route configuration its listener.
///
/// Envoy clusters wait while changed secrets have still to be sent; listeners and routes wait for
/// secrets and Envoy clusters. So an Envoy that starts opens no listener before it has all Envoy
/// clusters. Secrets and endpoints never wait: Envoy clusters warm up with them.
pub const UPDATE_ORDER: [ResourceType; 5] = [
    ResourceType::Secret,
    ResourceType::Cluster,
    ResourceType::Endpoints,
    ResourceType::Listener,
    ResourceType::Route,
];

/// The order in which removals are sent, all after [updates](UPDATE_ORDER) of every type: as long
/// as any response is in flight nothing is removed, so nothing that the client still refers to is.
pub const REMOVAL_ORDER: [ResourceType; 5] = UPDATE_ORDER;

/// One stream.
#[derive(Clone, Debug)]
pub struct Session {
    variant: Variant,
    /// The stream is of this type's own service (SDS, CDS, …), not of ADS.
    single_type: Option<ResourceType>,
    limits: SessionLimits,
    subscriptions: BTreeMap<ResourceType, Box<Subscription>>,
    /// The nonce of the latest response of any type.
    last_nonce: u64,
    nacks: u64,
    keeps_unknown: bool,
    /// NACKs of the node up to this number came before the client's process started, so what they
    /// rejected is sent once more.
    ignored_nacks: u64,
    /// A first request showed a version: the client's process has accepted something before this
    /// stream.
    is_reconnect: bool,
}

impl Session {
    /// A new stream: of ADS, or of one type's own service. There an empty type URL means that type,
    /// and requests for other types are answered like those for unknown types.
    pub fn new(variant: Variant, single_type: Option<ResourceType>) -> Self {
        Self {
            variant,
            single_type,
            limits: SessionLimits::default(),
            subscriptions: BTreeMap::new(),
            last_nonce: 0,
            nacks: 0,
            keeps_unknown: false,
            ignored_nacks: 0,
            is_reconnect: false,
        }
    }

    /// With other limits.
    pub fn with_limits(self, limits: SessionLimits) -> Self {
        Self { limits, ..self }
    }

    /// From now on keeps the client's resources that the snapshot has never had, until
    /// [`Session::remove_unknown_resources`].
    ///
    /// It is for a replica that may lag behind the one that the client was connected to. It has no
    /// effect in the state of the world, in which a client can't say what it has.
    pub fn keep_unknown_resources(&mut self) {
        self.keeps_unknown = true;
    }

    /// Ends [`Session::keep_unknown_resources`]. The next [`Session::on_change`] sends the
    /// removals.
    pub fn remove_unknown_resources(&mut self) {
        self.keeps_unknown = false;
        for subscription in self.subscriptions.values_mut() {
            subscription.recheck_removals();
        }
    }

    /// Handles a request. Returns the responses to send.
    ///
    /// # Errors
    /// The client exceeds its limits. The caller must end the stream.
    pub fn on_request(
        &mut self,
        request: Request,
        snapshot: &Snapshot,
        quarantine: &mut Quarantine,
    ) -> Result<Vec<Response>, LimitExceeded> {
        let limits = self.limits.for_resources(snapshot.len());
        request.check(&limits)?;
        quarantine.remove_outdated(snapshot);
        let Some(kind) = self.resource_type(&request.type_url) else {
            return Ok(self.answer_unknown_type(request).into_iter().collect());
        };
        let is_first = !self.subscriptions.contains_key(&kind);
        if is_first {
            self.detect_new_process(&request, quarantine);
        }
        let subscription =
            self.subscriptions.entry(kind).or_insert_with(|| Box::new(Subscription::new(kind)));
        let is_latest = subscription.answers_latest_response(&request.nonce);
        if self.variant == Variant::StateOfTheWorld && !is_first && !is_latest {
            // The client wrote it before it read the latest response; its answer to that will have
            // all names again.
            return Ok(Vec::new());
        }
        match &request.error {
            _ if !is_latest => {}
            None => subscription.on_ack(quarantine),
            Some(message) => {
                let is_new = subscription.on_nack(message, snapshot, quarantine);
                self.nacks += u64::from(is_new);
            }
        }
        match self.variant {
            Variant::Delta => {
                subscription.apply_delta_request(is_first, &request, snapshot, &limits)?;
            }
            Variant::StateOfTheWorld => {
                subscription.apply_sotw_request(&request.names, snapshot, &limits)?;
            }
        }
        Ok(self.on_change(snapshot, quarantine))
    }

    /// Handles a changed snapshot or quarantine, or the same again. Returns the responses to send.
    pub fn on_change(&mut self, snapshot: &Snapshot, quarantine: &Quarantine) -> Vec<Response> {
        let context = self.context(snapshot, quarantine);
        let mut responses = self.send_updates(&context);
        responses.extend(self.send_removals(&context));
        responses
    }

    /// The next additions and changes of each type, in [`UPDATE_ORDER`].
    fn send_updates(&mut self, context: &Context) -> Vec<Response> {
        let mut responses = Vec::new();
        let mut earlier_type_has_more = false;
        for kind in UPDATE_ORDER {
            let Some(subscription) = self.subscriptions.get_mut(&kind) else { continue };
            let (waits, is_waited_for) = match kind {
                ResourceType::Secret => (false, true),
                ResourceType::Cluster => (earlier_type_has_more, true),
                ResourceType::Endpoints => (false, false),
                ResourceType::Listener | ResourceType::Route => (earlier_type_has_more, false),
            };
            if !waits && !subscription.is_in_flight() {
                responses.extend(subscription.next_update(context, &mut self.last_nonce));
            }
            earlier_type_has_more |= is_waited_for && subscription.has_updates(context);
        }
        responses
    }

    /// The next removals of each type, in [`REMOVAL_ORDER`]; none as long as any response is in
    /// flight.
    fn send_removals(&mut self, context: &Context) -> Vec<Response> {
        if self.subscriptions.values().any(|subscription| subscription.is_in_flight()) {
            return Vec::new();
        }
        let mut responses = Vec::new();
        for kind in REMOVAL_ORDER {
            if let Some(subscription) = self.subscriptions.get_mut(&kind) {
                responses.extend(subscription.next_removals(context, &mut self.last_nonce));
            }
        }
        responses
    }

    /// The status of each type that the client has asked for.
    pub fn status(
        &self,
        snapshot: &Snapshot,
        quarantine: &Quarantine,
    ) -> BTreeMap<ResourceType, ConfigStatus> {
        let context = self.context(snapshot, quarantine);
        let subscriptions = self.subscriptions.iter();
        subscriptions.map(|(kind, subscription)| (*kind, subscription.status(&context))).collect()
    }

    /// How many responses the client has rejected.
    pub fn nacks(&self) -> u64 {
        self.nacks
    }

    /// About how many bytes of memory the session takes for what the client said. A resource or
    /// name of the snapshot takes only a pointer, which is counted.
    pub fn memory_bytes(&self) -> usize {
        self.subscriptions.values().map(|subscription| subscription.memory_bytes()).sum()
    }

    fn context<'a>(&self, snapshot: &'a Snapshot, quarantine: &'a Quarantine) -> Context<'a> {
        Context {
            snapshot,
            quarantine,
            variant: self.variant,
            ignored_nacks: self.ignored_nacks,
            keeps_unknown: self.keeps_unknown,
            response_bytes: self.limits.response_bytes,
        }
    }

    /// The type that a type URL means on this stream.
    fn resource_type(&self, url: &str) -> Option<ResourceType> {
        match self.single_type {
            Some(single) if url.is_empty() => Some(single),
            Some(single) => ResourceType::of_url(url).filter(|kind| *kind == single),
            None => ResourceType::of_url(url),
        }
    }

    /// Looks at a type's first request for whether the client's process has accepted anything
    /// before this stream. If not, it has started after all NACKs so far.
    fn detect_new_process(&mut self, request: &Request, quarantine: &Quarantine) {
        if self.subscriptions.is_empty() {
            self.ignored_nacks = quarantine.latest_nack();
        }
        self.is_reconnect |=
            !request.initial_versions.is_empty() || !request.version_info.is_empty();
        if self.is_reconnect {
            self.ignored_nacks = 0;
        }
    }

    /// Answers at once that there is nothing of a type which Atlas doesn't serve: Envoy would wait
    /// for it.
    fn answer_unknown_type(&mut self, request: Request) -> Option<Response> {
        let needs_response = match self.variant {
            Variant::Delta => !request.subscribe.is_empty(),
            Variant::StateOfTheWorld => request.nonce.is_empty(),
        };
        if !needs_response {
            return None;
        }
        self.last_nonce += 1;
        let removed = request.subscribe.into_iter().map(Into::into).collect();
        let type_url = request.type_url.into();
        Some(Response::new(self.variant, type_url, self.last_nonce, Vec::new(), removed))
    }
}

#[cfg(test)]
mod tests;

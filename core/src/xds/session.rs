//! One ADS stream as a state machine: a request or a changed snapshot in, responses out. No socket, no clock.
//!
//! ```text
//! Request  ─▶ bounds ─▶ settle (refusal) ─▶ subscribe ─┐
//! Snapshot, Quarantine ────────────────────────────────┴▶ news, gone ─▶ Response
//! ```
//!
//! The protocol, and why each rule is here (what was tried on Envoy is in docs/envoy.md):
//!
//! - **One response per type is under way at a time.** What changes meanwhile is sent when its answer has come, in its
//!   latest form: a slow client gets fewer responses, never older ones, and costs no memory.
//! - **A change costs what it changes.** Each type remembers up to which moment of the snapshot it has looked, and looks at what
//!   the snapshot says has changed since; at everything only on its first request, when it comes too late for that, and after a refusal.
//! - **Order.** Additions and changes go by type (secrets, Envoy clusters, listeners, routes). Clusters wait while secrets that have
//!   changed could not be sent yet, listeners and routes while clusters could not, so an Envoy that starts opens no listener before it
//!   has all its clusters. Secrets and endpoints wait for nothing: clusters warm on them. Removals wait until no answer is
//!   outstanding, so nothing is taken away while something still points at it.
//! - **Responses are of bounded size**; the rest follows when the answer has come.
//! - **A record of what was sent**, also of what was refused: Envoy applies the good part of a response that it refuses,
//!   and only the server can know what to remove later.
//! - **A refused version is never sent again**, on any stream of its node: see [`super::quarantine`] and `refusal`. The good ones that
//!   came with it are sent again without it, for Envoy has applied them but doesn't list them when it reconnects; so is what the client
//!   had before, if it may have lost it; and it is told again which names don't exist. The next version is tried at once. An Envoy
//!   process that starts anew, which shows by the first requests' lack of any version, gets everything tried once more: the cause may be
//!   gone. (A process that shows nothing of what it has accepted looks the same when it reconnects.)
//! - **Reconnect** (incremental): the client says which versions it has (`initial_resource_versions`); equal ones are not sent, and what
//!   it has beyond the snapshot is removed.
//! - **A replica that lags takes nothing away** ([`Session::hold`]): what a client had when it came, and this server does not
//!   know, stays for a while, since another replica may know it already.
//! - **Every type's first request is answered**, if need be with nothing: an unanswered stream lets Envoy's backoff grow,
//!   and a missing secret holds up all listeners for 15 s, so a name that doesn't exist is answered as removed at once.
//!
//! The state of the world differs as `whole` says.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use super::quarantine::Quarantine;
use super::snapshot::{Resource, ResourceType, Snapshot};

mod bounds;
mod held;
mod news;
mod refusal;
mod send;
mod subscription;
mod whole;

pub use bounds::{Limits, MAX_REASON, most_remembered};
use news::View;
use subscription::Subscription;

/// The variant of the protocol that a stream speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Variant {
    /// Incremental: changes and removals by name.
    Delta,
    /// All of a type's resources at once.
    StateOfTheWorld,
}

/// What of a `DeltaDiscoveryRequest` or a `DiscoveryRequest` matters.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Request {
    /// The resources' type.
    pub type_url: String,
    /// The nonce of the response that this answers; empty: it answers none.
    pub nonce: String,
    /// Why that response was refused; `None`: it was accepted.
    pub error: Option<String>,
    /// Incremental: names to subscribe to; `*` is all.
    pub subscribe: Vec<String>,
    /// Incremental: names to unsubscribe from.
    pub unsubscribe: Vec<String>,
    /// Incremental, on a type's first request of a stream: what the client has, name to version.
    pub initial_versions: BTreeMap<String, String>,
    /// State of the world: all names that are subscribed to (`resource_names`).
    pub names: Vec<String>,
    /// State of the world: the last version that was accepted; empty: none.
    pub version_info: String,
}

/// What becomes a `DeltaDiscoveryResponse` or a `DiscoveryResponse`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    /// The resources' type.
    pub type_url: Cow<'static, str>,
    /// State of the world: a hash of what is sent. Incremental: empty.
    pub version_info: String,
    /// Unique within the stream.
    pub nonce: String,
    /// New and changed resources; in the state of the world also those which stay.
    pub resources: Vec<Arc<Resource>>,
    /// Incremental: names of resources that are gone.
    pub removed: Vec<Arc<str>>,
}

/// Why a stream must be ended: what was asked for, and the [limit](Limits).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Abuse {
    /// More names than [`Limits::names`].
    #[error(
        "{0} subscriptions to one type are more than the {1} that a stream may have: subscribe to fewer, or raise the limit"
    )]
    TooManyNames(usize, usize),
    /// A name, version or type longer than [`Limits::name_length`].
    #[error("a name, version or type of {0} bytes is longer than the {1} that one may have")]
    LongName(usize, usize),
    /// Names and versions longer than [`Limits::bytes`] altogether.
    #[error(
        "{0} bytes of names of one type are more than the {1} that a stream may have: subscribe to fewer, or raise the limit"
    )]
    TooManyBytes(usize, usize),
}

/// How one type stands on a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// The client has accepted all that it should have.
    Synced,
    /// Something is on its way, or waits to be.
    Stale,
    /// The client lacks the latest version of something, since an Envoy of its node refused that; its words, at most [`MAX_REASON`]
    /// characters without control characters.
    Nack(String),
}

/// One stream.
#[derive(Clone, Debug)]
pub struct Session {
    variant: Variant,
    /// The stream is of this type's own service.
    only: Option<ResourceType>,
    limits: Limits,
    types: BTreeMap<ResourceType, Box<Subscription>>,
    nonces: u64,
    /// Refusals so far, for metrics.
    nacks: u64,
    /// Whether what clients brought along stays although it is unknown.
    holding: bool,
    /// The number of the last refusal that doesn't count here: the client is a process that has started since. 0: all count.
    tolerated: u64,
    /// The client has accepted something before this stream.
    returning: bool,
}

impl Session {
    /// A new stream: of all types, or of one type's own service (SDS, CDS, …). There an empty type URL means that type, and other types
    /// are answered as unknown ones are.
    pub fn new(variant: Variant, only: Option<ResourceType>) -> Self {
        let types = BTreeMap::new();
        let limits = Limits::default();
        Self {
            variant,
            only,
            limits,
            types,
            nonces: 0,
            nacks: 0,
            holding: false,
            tolerated: 0,
            returning: false,
        }
    }

    /// With other limits.
    pub fn limit(self, limits: Limits) -> Self {
        Self { limits, ..self }
    }

    /// From now on nothing is removed that a client brought along, merely because this server doesn't know it. For servers
    /// that may know less than the one before, until they have had the time to learn: then [`Session::let_go`].
    ///
    /// It has no effect on the state of the world, whose clients can't say what they have: they lose at once what is unknown.
    pub fn hold(&mut self) {
        self.holding = true;
    }

    /// What is unknown now is gone. The next [`Session::on_change`] says so.
    pub fn let_go(&mut self) {
        self.holding = false;
        self.types.values_mut().for_each(|subscription| subscription.let_go());
    }

    /// Takes a request; returns what to send.
    ///
    /// # Errors
    /// The client asks for more than anyone may; end the stream.
    pub fn on_request(
        &mut self,
        request: Request,
        snapshot: &Snapshot,
        quarantine: &mut Quarantine,
    ) -> Result<Vec<Response>, Abuse> {
        let limits = self.limits.with_room_for(snapshot.len());
        limits.check(&request)?;
        quarantine.follow(snapshot);
        let Some(kind) = self.type_of(&request.type_url) else {
            return Ok(self.refuse_unknown_type(request).into_iter().collect());
        };
        let first = !self.types.contains_key(&kind);
        if first {
            self.meet(&request, quarantine);
        }
        let subscription =
            self.types.entry(kind).or_insert_with(|| Box::new(Subscription::new(kind)));
        let is_answer = subscription.is_latest(&request.nonce);
        if self.variant == Variant::StateOfTheWorld && !first && !is_answer {
            // Written before the latest response was read; the answer to that one will say it all again.
            return Ok(Vec::new());
        }
        if is_answer && subscription.settle(request.error.as_deref(), snapshot, quarantine) {
            self.nacks += u64::from(request.error.is_some());
        }
        match self.variant {
            Variant::Delta => subscription.subscribe(first, request, snapshot, &limits)?,
            Variant::StateOfTheWorld => {
                subscription.become_subscribed(&request.names, snapshot, &limits)?
            }
        }
        Ok(self.on_change(snapshot, quarantine))
    }

    /// Takes a changed snapshot (or the same again); returns what to send.
    pub fn on_change(&mut self, snapshot: &Snapshot, quarantine: &Quarantine) -> Vec<Response> {
        let view = self.view(snapshot, quarantine);
        let mut responses = Vec::new();
        let mut more_to_come = false;
        for (kind, subscription) in &mut self.types {
            let waits = more_to_come
                && matches!(
                    kind,
                    ResourceType::Cluster | ResourceType::Listener | ResourceType::Route
                );
            if !waits && !subscription.is_under_way() {
                responses.extend(subscription.advance(&view, &mut self.nonces));
            }
            if matches!(kind, ResourceType::Secret | ResourceType::Cluster) {
                more_to_come = more_to_come || subscription.has_more(&view);
            }
        }
        if !self.types.values().any(|subscription| subscription.is_under_way()) {
            let sweep = self
                .types
                .values_mut()
                .filter_map(|subscription| subscription.sweep(&view, &mut self.nonces));
            responses.extend(sweep);
        }
        responses
    }

    /// How each type that the client asked for stands.
    pub fn standing(
        &self,
        snapshot: &Snapshot,
        quarantine: &Quarantine,
    ) -> BTreeMap<ResourceType, Standing> {
        let view = self.view(snapshot, quarantine);
        self.types
            .iter()
            .map(|(kind, subscription)| (*kind, subscription.standing(&view)))
            .collect()
    }

    /// How many responses the client has refused.
    pub fn nacks(&self) -> u64 {
        self.nacks
    }

    fn view<'a>(&self, snapshot: &'a Snapshot, quarantine: &'a Quarantine) -> View<'a> {
        let response_bytes = self.limits.response_bytes;
        View {
            snapshot,
            quarantine,
            variant: self.variant,
            tolerated: self.tolerated,
            holding: self.holding,
            response_bytes,
        }
    }

    /// The type that a URL means on this stream.
    fn type_of(&self, url: &str) -> Option<ResourceType> {
        match self.only {
            Some(only) if url.is_empty() => Some(only),
            Some(only) => ResourceType::of_url(url).filter(|kind| *kind == only),
            None => ResourceType::of_url(url),
        }
    }

    /// Takes a type's first request: a client that has accepted nothing yet started after all that was refused until now.
    fn meet(&mut self, request: &Request, quarantine: &Quarantine) {
        if self.types.is_empty() {
            self.tolerated = quarantine.latest();
        }
        self.returning |= !request.initial_versions.is_empty() || !request.version_info.is_empty();
        if self.returning {
            self.tolerated = 0;
        }
    }

    /// Atlas serves no such type; saying so at once keeps Envoy from waiting.
    fn refuse_unknown_type(&mut self, request: Request) -> Option<Response> {
        let asks = match self.variant {
            Variant::Delta => !request.subscribe.is_empty(),
            Variant::StateOfTheWorld => request.nonce.is_empty(),
        };
        if !asks {
            return None;
        }
        self.nonces += 1;
        let version_info =
            if self.variant == Variant::Delta { String::new() } else { whole::version(&[]) };
        let removed = request.subscribe.into_iter().map(Arc::from).collect();
        Some(Response {
            type_url: request.type_url.into(),
            version_info,
            nonce: self.nonces.to_string(),
            resources: Vec::new(),
            removed,
        })
    }
}

#[cfg(test)]
mod tests;

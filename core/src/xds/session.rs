//! One incremental ADS stream as a state machine: a request or a new snapshot in, responses out. No socket, no clock.
//!
//! The protocol, and why each rule is here (what was tried on Envoy is in docs/envoy.md):
//!
//! - **One response per type is under way at a time.** What changes meanwhile is sent when its answer has come, in its
//!   latest form: a slow client gets fewer responses, never older ones, and costs no memory.
//! - **Order.** Additions and changes go by type (secrets, Envoy clusters, listeners, routes). Removals wait until no
//!   answer is outstanding, so nothing is taken away while something still points at it.
//! - **A record of what was sent**, also of what was refused: Envoy applies the good part of a response that it refuses,
//!   and only the server can know what to remove later.
//! - **A refused version is never sent again** on a stream; the next version is.
//! - **Reconnect**: the client says which versions it has (`initial_resource_versions`); equal ones are not sent, and what
//!   it has beyond the snapshot is removed.
//! - **A replica that lags takes nothing away** ([`Session::hold`]): what a client had when it came, and this server does not
//!   know, stays for a while, since another replica may know it already.
//! - **Every type's first request is answered**, if need be with nothing: an unanswered stream lets Envoy's backoff grow,
//!   and a missing secret holds up all listeners for 15 s, so a name that doesn't exist is answered as removed at once.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::quarantine::Quarantine;
use super::snapshot::{Resource, ResourceType, Snapshot, Version};

mod bounds;

pub use bounds::{MAX_BYTES, MAX_NAME, MAX_NAMES, MAX_REASON};

/// What of a `DeltaDiscoveryRequest` matters.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Request {
    /// The resources' type.
    pub type_url: String,
    /// The nonce of the response that this answers; empty: it answers none.
    pub nonce: String,
    /// Why that response was refused; `None`: it was accepted.
    pub error: Option<String>,
    /// Names to subscribe to; `*` is all.
    pub subscribe: Vec<String>,
    /// Names to unsubscribe from.
    pub unsubscribe: Vec<String>,
    /// On a type's first request of a stream: what the client has, name to version.
    pub initial_versions: BTreeMap<String, String>,
}

/// What becomes a `DeltaDiscoveryResponse`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    /// The resources' type.
    pub type_url: String,
    /// Unique within the stream.
    pub nonce: String,
    /// New and changed resources.
    pub resources: Vec<Arc<Resource>>,
    /// Names of resources that are gone.
    pub removed: Vec<String>,
}

/// Why a stream must be ended.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Abuse {
    /// More names than [`MAX_NAMES`].
    #[error("{0} subscriptions to one type are more than the {MAX_NAMES} that a stream may have")]
    TooManyNames(usize),
    /// A name, version or type longer than [`MAX_NAME`].
    #[error("a name of {0} bytes is longer than the {MAX_NAME} that one may have")]
    LongName(usize),
    /// Names and versions longer than [`MAX_BYTES`] altogether.
    #[error("{0} bytes of names of one type are more than the {MAX_BYTES} that a stream may have")]
    TooManyBytes(usize),
}

/// How one type stands on a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// The client has accepted all that it should have.
    Synced,
    /// Something is on its way, or waits to be.
    Stale,
    /// The client refused the latest version; its own words, at most [`MAX_REASON`] characters without control characters.
    Nack(String),
}

/// One stream.
#[derive(Clone, Debug, Default)]
pub struct Session {
    types: BTreeMap<ResourceType, Subscription>,
    nonces: u64,
    /// Refusals so far, for metrics.
    nacks: u64,
    /// Whether what clients brought along stays although it is unknown.
    holding: bool,
}

/// One type on a stream.
#[derive(Clone, Debug, Default)]
struct Subscription {
    wildcard: bool,
    names: BTreeSet<String>,
    /// What the client was sent, or said that it has: name to version.
    sent: BTreeMap<Arc<str>, Option<Version>>,
    /// What the client had when it came, and this server has not known since.
    brought: BTreeSet<Arc<str>>,
    /// Names that must be answered even if nothing changed.
    owed: BTreeSet<String>,
    /// The response whose answer is outstanding.
    under_way: Option<UnderWay>,
    answered: bool,
    nack: Option<Nack>,
}

#[derive(Clone, Debug)]
struct UnderWay {
    nonce: String,
    /// What it carried: names and versions.
    carried: Vec<(Arc<str>, Version)>,
}

#[derive(Clone, Debug)]
struct Nack {
    /// The client's own words, made [plain](bounds::plain).
    message: String,
    /// What it refused: names and versions.
    refused: Vec<(Arc<str>, Version)>,
}

impl Session {
    /// A new stream.
    pub fn new() -> Self {
        Self::default()
    }

    /// From now on nothing is removed that a client brought along, merely because this server doesn't know it. For servers
    /// that may know less than the one before, until they have had the time to learn: then [`Session::let_go`].
    pub fn hold(&mut self) {
        self.holding = true;
    }

    /// What is unknown now is gone. The next [`Session::on_change`] says so.
    pub fn let_go(&mut self) {
        self.holding = false;
    }

    /// Takes a request; returns what to send.
    ///
    /// # Errors
    /// The client asks for more than anyone may; end the stream.
    pub fn on_request(&mut self, request: Request, snapshot: &Snapshot, quarantine: &mut Quarantine) -> Result<Vec<Response>, Abuse> {
        bounds::check(&request)?;
        let Some(kind) = ResourceType::of_url(&request.type_url) else {
            return Ok(self.refuse_unknown_type(request).into_iter().collect());
        };
        let first = !self.types.contains_key(&kind);
        let subscription = self.types.entry(kind).or_default();
        if let Some(answered) = subscription.under_way.take_if(|sent| sent.nonce == request.nonce) {
            self.nacks += u64::from(request.error.is_some());
            subscription.settle(answered, request.error.as_deref().map(bounds::plain));
        }
        subscription.subscribe(kind, first, request)?;
        Ok(self.on_change(snapshot, quarantine))
    }

    /// Takes a new snapshot (or the same again); returns what to send.
    pub fn on_change(&mut self, snapshot: &Snapshot, _quarantine: &Quarantine) -> Vec<Response> {
        let mut responses = Vec::new();
        let holding = self.holding;
        for (kind, subscription) in &mut self.types {
            // What was known once and isn't any more has been removed.
            subscription.brought.retain(|name| holding && snapshot.get(*kind, name).is_none());
            if subscription.under_way.is_some() {
                continue;
            }
            let (resources, absent) = subscription.news(*kind, snapshot);
            if !resources.is_empty() || !absent.is_empty() || !subscription.answered {
                responses.push(subscription.send(*kind, &mut self.nonces, resources, absent));
            }
        }
        if self.types.values().all(|subscription| subscription.under_way.is_none()) {
            for (kind, subscription) in &mut self.types {
                let gone = subscription.gone(*kind, snapshot);
                if !gone.is_empty() {
                    responses.push(subscription.send(*kind, &mut self.nonces, Vec::new(), gone));
                }
            }
        }
        responses
    }

    /// How each type that the client asked for stands.
    pub fn standing(&self, snapshot: &Snapshot, _quarantine: &Quarantine) -> BTreeMap<ResourceType, Standing> {
        self.types.iter().map(|(kind, subscription)| (*kind, subscription.standing(*kind, snapshot))).collect()
    }

    /// How many responses the client has refused.
    pub fn nacks(&self) -> u64 {
        self.nacks
    }

    /// Atlas serves no such type; saying so at once keeps Envoy from waiting.
    fn refuse_unknown_type(&mut self, request: Request) -> Option<Response> {
        if request.subscribe.is_empty() {
            return None;
        }
        self.nonces += 1;
        Some(Response { type_url: request.type_url, nonce: self.nonces.to_string(), resources: Vec::new(), removed: request.subscribe })
    }
}

impl Subscription {
    /// A response has been accepted (`None`) or refused. An answer to an empty one says nothing of earlier refusals.
    fn settle(&mut self, answered: UnderWay, error: Option<String>) {
        match error {
            Some(message) => self.nack = Some(Nack { message, refused: answered.carried }),
            None if answered.carried.is_empty() => {}
            None => self.nack = None,
        }
    }

    fn subscribe(&mut self, kind: ResourceType, first: bool, request: Request) -> Result<(), Abuse> {
        if first {
            self.brought = request.initial_versions.keys().map(|name| name.as_str().into()).collect();
            self.sent = request.initial_versions.iter().map(|(name, version)| (name.as_str().into(), version.parse().ok())).collect();
            // Before `*` was a name, a first request without any meant all (xDS protocol, "wildcard").
            let wildcard_types = matches!(kind, ResourceType::Cluster | ResourceType::Listener);
            self.wildcard = wildcard_types && request.subscribe.is_empty();
        }
        for name in request.subscribe {
            if name == "*" {
                self.wildcard = true;
                continue;
            }
            // What the client said it has needs no answer unless it differs, which shows by itself.
            if !first || !self.sent.contains_key(name.as_str()) {
                self.owed.insert(name.clone());
            }
            self.names.insert(name);
        }
        for name in request.unsubscribe {
            if name == "*" {
                self.wildcard = false;
            }
            self.names.remove(&name);
            self.owed.remove(&name);
        }
        let (wildcard, names) = (self.wildcard, &self.names);
        self.sent.retain(|name, _| wildcard || names.contains(&**name));
        let texts = self.names.iter().map(String::len).chain(self.sent.keys().map(|name| name.len()));
        bounds::check_total(self.names.len().max(self.sent.len()), texts)
    }

    fn wants(&self, name: &str) -> bool {
        self.wildcard || self.names.contains(name)
    }

    /// What is new or changed, and what was asked for but doesn't exist.
    fn news(&self, kind: ResourceType, snapshot: &Snapshot) -> (Vec<Arc<Resource>>, Vec<String>) {
        let news = |resource: &&Arc<Resource>| {
            let known = self.sent.get(&resource.name) == Some(&Some(resource.version));
            !known || self.owed.contains(&*resource.name)
        };
        let resources = if self.wildcard {
            snapshot.of(kind).iter().filter(news).cloned().collect()
        } else {
            self.names.iter().filter_map(|name| snapshot.get(kind, name)).filter(news).cloned().collect()
        };
        let absent = self.owed.iter().filter(|name| snapshot.get(kind, name).is_none()).cloned().collect();
        (resources, absent)
    }

    /// What the client has, still wants, and should have no more.
    fn gone(&self, kind: ResourceType, snapshot: &Snapshot) -> Vec<String> {
        self.sent
            .keys()
            .filter(|name| snapshot.get(kind, name).is_none() && !self.brought.contains(*name))
            .map(|name| name.to_string())
            .collect()
    }

    fn send(&mut self, kind: ResourceType, nonces: &mut u64, resources: Vec<Arc<Resource>>, removed: Vec<String>) -> Response {
        *nonces += 1;
        let nonce = nonces.to_string();
        for resource in &resources {
            self.sent.insert(resource.name.clone(), Some(resource.version));
        }
        for name in &removed {
            self.sent.remove(name.as_str());
        }
        self.owed.clear();
        self.answered = true;
        let carried = resources.iter().map(|resource| (Arc::clone(&resource.name), resource.version)).collect();
        self.under_way = Some(UnderWay { nonce: nonce.clone(), carried });
        Response { type_url: kind.url().to_owned(), nonce, resources, removed }
    }

    fn standing(&self, kind: ResourceType, snapshot: &Snapshot) -> Standing {
        if let Some(nack) = &self.nack {
            let current = nack
                .refused
                .iter()
                .any(|(name, version)| self.wants(name) && snapshot.get(kind, name).is_some_and(|resource| resource.version == *version));
            if current {
                return Standing::Nack(nack.message.clone());
            }
        }
        let (resources, absent) = self.news(kind, snapshot);
        let pending = !resources.is_empty() || !absent.is_empty() || !self.gone(kind, snapshot).is_empty();
        if pending || self.under_way.is_some() { Standing::Stale } else { Standing::Synced }
    }
}

#[cfg(test)]
mod tests;

//! One resource type on a stream: what the client subscribes to, and which response it is sent
//! next.
//!
//! The state-of-the-world variant differs from the incremental one:
//!
//! - A CDS or LDS response has all resources of its type; the client removes what isn't in it. So
//!   each response repeats what is unchanged, what will be removed as soon as no response is in
//!   flight, and what the client had before a rejected version. Such a response may have any size.
//! - A response of another type has what is new or changed. It can't remove anything; a client
//!   removes what it no longer subscribes to.
//! - After a reconnect everything is sent again, since the client can't say what it has. For the
//!   same reason [`Session::keep_unknown_resources`](super::Session::keep_unknown_resources) has no
//!   effect.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::client_state::{Checkpoint, ClientResource, ClientResources, SubscribedNames};
use super::nack::{InFlight, InFlightResource, NackCandidate, Nacks};
use crate::xds::limits::{LimitExceeded, SessionLimits};
use crate::xds::messages::{Request, Response, Variant};
use crate::xds::quarantine::Quarantine;
use crate::xds::resource::{Resource, ResourceType};
use crate::xds::snapshot::{LogPosition, Snapshot};

/// What a response depends on beside the subscription.
#[derive(Clone, Copy)]
pub(super) struct Context<'a> {
    pub snapshot: &'a Snapshot,
    pub quarantine: &'a Quarantine,
    pub variant: Variant,
    /// NACKs up to this number don't keep a version from being sent.
    pub ignored_nacks: u64,
    /// Resources that only the client knows aren't removed.
    pub keeps_unknown: bool,
    pub response_bytes: usize,
}

/// How one type on a stream is, as in Envoy's client status discovery service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ConfigStatus {
    /// The client has ACKed all that it should have.
    Synced,
    /// A response is in flight, or has still to be sent.
    Stale,
    /// The client lacks the snapshot's version of a resource, since an Envoy of its node rejected
    /// it. Has the error message, of at most
    /// [`MAX_NACK_MESSAGE`](crate::xds::limits::MAX_NACK_MESSAGE) characters and without control
    /// characters.
    Nack(String),
}

/// One resource type on a stream.
#[derive(Clone, Debug)]
pub(super) struct Subscription {
    kind: ResourceType,
    pub names: SubscribedNames,
    /// State of the world: the client has subscribed to a name. From then on a request without
    /// names subscribes to nothing.
    has_named: bool,
    pub client: ClientResources,
    pub nacks: Nacks,
    /// The client has ACKed a response on this stream.
    has_acked: bool,
    /// State of the world: all responses so far were rejected, so the client may still have
    /// resources that they left out.
    must_resend_all: bool,
    pub in_flight: Option<InFlight>,
    /// The nonce of the latest response; 0: there was none.
    nonce: u64,
    /// How far additions and changes have been sent.
    checked: Checkpoint,
    /// How far removals have been sent.
    removals_checked: LogPosition,
}

impl Subscription {
    pub fn new(kind: ResourceType) -> Self {
        Self {
            kind,
            names: SubscribedNames::default(),
            has_named: false,
            client: ClientResources::default(),
            nacks: Nacks::default(),
            has_acked: false,
            must_resend_all: false,
            in_flight: None,
            nonce: 0,
            checked: Checkpoint::default(),
            removals_checked: LogPosition::default(),
        }
    }

    /// Whether a request answers the latest response. Before the first response an empty nonce
    /// does.
    pub fn answers_latest_response(&self, nonce: &str) -> bool {
        if self.nonce == 0 { nonce.is_empty() } else { nonce == self.nonce.to_string() }
    }

    pub fn is_in_flight(&self) -> bool {
        self.in_flight.is_some()
    }

    /// Checks for removals of all resources of the client again.
    pub fn recheck_removals(&mut self) {
        self.removals_checked = LogPosition::default();
    }

    /// About how many bytes of memory it takes for what the client said.
    pub fn memory_bytes(&self) -> usize {
        self.names.memory_bytes() + self.client.memory_bytes() + self.nacks.memory_bytes()
    }

    // What the client asks for.

    /// Applies an incremental request's subscriptions, and on the first request
    /// `initial_resource_versions`.
    pub fn apply_delta_request(
        &mut self,
        is_first: bool,
        request: &Request,
        snapshot: &Snapshot,
        limits: &SessionLimits,
    ) -> Result<(), LimitExceeded> {
        if is_first {
            let initial = request.initial_versions.iter().map(|(name, version)| {
                ClientResource::initial(name, version, snapshot.get(self.kind, name))
            });
            self.client.insert_all(initial.collect());
            if self.allows_implicit_wildcard() && request.subscribe.is_empty() {
                self.names.subscribe_to_all();
            }
        }
        if !is_first && request.subscribe.is_empty() && request.unsubscribe.is_empty() {
            return Ok(());
        }
        let had_wildcard = self.names.has_wildcard();
        for name in &request.subscribe {
            // What the client listed needs a response only if it differs from the snapshot, which
            // is found anyway.
            let needs_response = !is_first || self.client.get(name).is_none();
            self.names.subscribe(snapshot.shared_name(self.kind, name), needs_response);
        }
        for name in &request.unsubscribe {
            self.names.unsubscribe(name);
        }
        self.on_names_changed(had_wildcard, limits)
    }

    /// Applies the names of a state-of-the-world request, which are all that the client subscribes
    /// to.
    pub fn apply_sotw_request(
        &mut self,
        names: &[String],
        snapshot: &Snapshot,
        limits: &SessionLimits,
    ) -> Result<(), LimitExceeded> {
        let had_wildcard = self.names.has_wildcard();
        let implies_wildcard =
            self.allows_implicit_wildcard() && names.is_empty() && !self.has_named;
        self.has_named |= !names.is_empty();
        let shared_name = |name: &str| snapshot.shared_name(self.kind, name);
        if !self.names.replace(names, implies_wildcard, shared_name) {
            return Ok(());
        }
        self.on_names_changed(had_wildcard, limits)
    }

    /// Whether a client that has named nothing subscribes to everything: the implicit wildcard of
    /// CDS and LDS (xDS protocol, "How the client specifies what resources to return").
    fn allows_implicit_wildcard(&self) -> bool {
        matches!(self.kind, ResourceType::Cluster | ResourceType::Listener)
    }

    fn on_names_changed(
        &mut self,
        had_wildcard: bool,
        limits: &SessionLimits,
    ) -> Result<(), LimitExceeded> {
        if !self.names.has_wildcard() {
            self.client.retain(|name| self.names.contains_name(name));
            self.nacks.retain(|name| self.names.contains_name(name));
        } else if !had_wildcard {
            self.checked = Checkpoint::default();
        }
        limits.check_total(
            self.names.len().max(self.client.len()),
            self.names.name_bytes() + self.client.name_bytes(),
        )
    }

    // How the client answers.

    /// The client accepts the response in flight.
    pub fn on_ack(&mut self, quarantine: &mut Quarantine) {
        let Some(response) = self.in_flight.take() else { return };
        self.has_acked = true;
        for sent in response.resources.iter().filter(|sent| sent.is_retry) {
            quarantine.release(&sent.resource);
        }
    }

    /// The client rejects the response in flight. Returns whether there was one.
    pub fn on_nack(
        &mut self,
        message: &str,
        snapshot: &Snapshot,
        quarantine: &mut Quarantine,
    ) -> bool {
        let Some(mut response) = self.in_flight.take() else { return false };
        let has_resources = !response.resources.is_empty();
        self.must_resend_all = has_resources && !self.has_acked;
        let absent = std::mem::take(&mut response.absent);
        if has_resources {
            // Envoy hasn't applied the removals of a response that it can't decode. A response with
            // removals alone isn't repeated: a client that rejects even that would be sent it for
            // ever.
            for name in absent {
                self.names.require_response(name);
            }
        }
        if response.resources.iter().any(|sent| self.names.contains(&sent.resource.name)) {
            self.checked = Checkpoint::default();
        }
        let (names, client) = (&self.names, &mut self.client);
        self.nacks.on_nack(response, message, names, client, snapshot, quarantine);
        true
    }

    // Additions and changes.

    /// The next response with additions and changes, if there is anything to send. No response of
    /// this type may be in flight.
    pub fn next_update(&mut self, context: &Context, last_nonce: &mut u64) -> Option<Response> {
        let content = match self.next_candidates(context) {
            Some(candidates) => candidates,
            None => self.next_changes(context),
        };
        let has_content = !content.resources.is_empty()
            || !content.absent.is_empty()
            || !self.names.pending_response().is_empty()
            || self.nonce == 0;
        let resends_all = !has_content
            && self.requires_all_resources(context)
            && std::mem::take(&mut self.must_resend_all);
        if content.attempt == 0 && !content.is_truncated {
            self.checked = Checkpoint::new(context.snapshot, context.quarantine);
        }
        (has_content || resends_all).then(|| self.send(context, last_nonce, content, Vec::new()))
    }

    /// Whether there are additions or changes to send, beside what is in flight.
    pub fn has_updates(&self, context: &Context) -> bool {
        self.nonce == 0
            || !self.names.pending_response().is_empty()
            || self.nacks.has_candidates()
            || self.names_to_check(context).any(|name| self.to_send(name, context).is_some())
    }

    /// What is new or changed, and what is subscribed to but doesn't exist: as much as fits into
    /// one response.
    fn next_changes(&self, context: &Context) -> InFlight {
        let mut content = InFlight::default();
        let mut bytes = 0;
        for name in self.names_to_check(context) {
            let to_send = self.to_send(name, context);
            let is_absent = to_send.is_none()
                && self.names.pending_response().contains(name)
                && self.client.get(name).and_then(ClientResource::version).is_none();
            bytes += match &to_send {
                Some((resource, _)) => resource.wire().len(),
                None if is_absent => name.len(),
                None => continue,
            };
            let is_empty = content.resources.is_empty() && content.absent.is_empty();
            let is_full = bytes > context.response_bytes && !is_empty;
            if is_full && !self.requires_all_resources(context) {
                content.is_truncated = true;
                break;
            }
            match to_send {
                Some((resource, is_retry)) => content.resources.push(InFlightResource {
                    before: self.client.get(name).cloned(),
                    resource,
                    is_retry,
                }),
                None => content.absent.push(Arc::clone(name)),
            }
        }
        content
    }

    fn names_to_check<'a>(&'a self, context: &Context<'a>) -> impl Iterator<Item = &'a Arc<str>> {
        self.names.to_check(self.kind, context.snapshot, context.quarantine, &self.checked)
    }

    /// What must be sent under a name, and whether it is a version in quarantine that this client
    /// tries again.
    fn to_send(&self, name: &str, context: &Context) -> Option<(Arc<Resource>, bool)> {
        #[cfg(test)]
        NAMES_CHECKED.set(NAMES_CHECKED.get() + 1);
        let resource = context.snapshot.get(self.kind, name)?;
        if !self.names.contains(name) {
            return None;
        }
        let client_has = self.client.get(name);
        let is_pending = self.names.pending_response().contains(name);
        if client_has.and_then(ClientResource::version) == Some(resource.version) {
            return is_pending.then(|| (Arc::clone(resource), false));
        }
        let Context { quarantine, ignored_nacks, .. } = *context;
        if self.nacks.message(resource, quarantine, ignored_nacks).is_none() {
            let is_retry = quarantine.find(resource, 0).is_some();
            return Some((Arc::clone(resource), is_retry));
        }
        let instead = Nacks::instead_of(resource, client_has, is_pending, quarantine)?;
        Some((Arc::clone(instead), false))
    }

    /// The next group of NACK candidates of which something is to be sent.
    fn next_candidates(&mut self, context: &Context) -> Option<InFlight> {
        while let Some(group) = self.nacks.next_group() {
            let attempt = group.iter().map(|candidate| candidate.attempt).max().unwrap_or_default();
            let resources = group.into_iter().filter_map(|one| self.send_again(one, context));
            let resources: Vec<InFlightResource> = resources.collect();
            if !resources.is_empty() {
                return Some(InFlight { resources, attempt, ..InFlight::default() });
            }
        }
        None
    }

    fn send_again(&self, candidate: NackCandidate, context: &Context) -> Option<InFlightResource> {
        let NackCandidate { name, before, .. } = candidate;
        if let Some((resource, is_retry)) = self.to_send(&name, context) {
            return Some(InFlightResource { resource, before, is_retry });
        }
        // Nothing is to be sent any more if another stream's client has rejected it too. Then this
        // one should have what it had.
        let exists = context.snapshot.get(self.kind, &name).is_some();
        let had = before.as_ref().and_then(ClientResource::content);
        let resource = had.filter(|_| exists && self.names.contains(&name))?;
        Some(InFlightResource { resource: Arc::clone(resource), before, is_retry: false })
    }

    // Removals.

    /// The next response with removals, if there are any. No response of any type may be in flight.
    pub fn next_removals(&mut self, context: &Context, last_nonce: &mut u64) -> Option<Response> {
        self.client.update_from(context.snapshot, self.kind, &self.removals_checked);
        let mut removals = self.removals(context);
        let mut bytes = 0;
        let fitting = removals.iter().take_while(|name| {
            bytes += name.len();
            bytes <= context.response_bytes
        });
        let fitting = fitting.count().max(1);
        if self.requires_all_resources(context) || removals.len() <= fitting {
            self.removals_checked = context.snapshot.position();
        } else {
            removals.truncate(fitting);
        }
        self.client.remove_all(&removals);
        for name in &removals {
            self.nacks.forget(name);
        }
        let can_remove = context.variant == Variant::Delta || self.requires_all_resources(context);
        (can_remove && !removals.is_empty())
            .then(|| self.send(context, last_nonce, InFlight::default(), removals))
    }

    /// The names of resources that the client has and that the snapshot doesn't have, sorted.
    fn removals(&self, context: &Context) -> Vec<Arc<str>> {
        let Context { snapshot, keeps_unknown, .. } = *context;
        self.client.missing_in(snapshot, self.kind, &self.removals_checked, keeps_unknown)
    }

    // Responses.

    /// Makes a response, which is in flight from then on.
    fn send(
        &mut self,
        context: &Context,
        last_nonce: &mut u64,
        mut content: InFlight,
        removals: Vec<Arc<str>>,
    ) -> Response {
        *last_nonce += 1;
        self.nonce = *last_nonce;
        for sent in &content.resources {
            let name = &sent.resource.name;
            let current = context.snapshot.get(self.kind, name).map(|resource| resource.version);
            self.nacks.forget_other_than(name, current);
            self.names.on_response(name);
        }
        for name in &content.absent {
            self.names.on_response(name);
        }
        if content.attempt == 0 && !content.is_truncated {
            self.names.on_complete_response();
        }
        let sent: Vec<Arc<Resource>> =
            content.resources.iter().map(|sent| Arc::clone(&sent.resource)).collect();
        self.client.insert_all(sent.iter().cloned().map(ClientResource::WithContent).collect());
        let resources =
            if self.requires_all_resources(context) { self.all_resources() } else { sent };
        let mut removed = Vec::new();
        match context.variant {
            Variant::Delta => {
                removed = removals;
                removed.extend(content.absent.iter().cloned());
                removed.sort_unstable();
                self.client.remove_all(&removed);
            }
            // It can't say that a name doesn't exist.
            Variant::StateOfTheWorld => content.absent.clear(),
        }
        self.in_flight = Some(content);
        Response::new(context.variant, self.kind.url().into(), self.nonce, resources, removed)
    }

    /// Whether a response must have all resources that the client is to keep.
    fn requires_all_resources(&self, context: &Context) -> bool {
        context.variant == Variant::StateOfTheWorld
            && matches!(self.kind, ResourceType::Cluster | ResourceType::Listener)
    }

    /// All resources that the client is to keep: what it was sent, and what it had before NACK
    /// candidates that are still to be sent.
    fn all_resources(&self) -> Vec<Arc<Resource>> {
        let candidates =
            self.nacks.candidates().filter(|candidate| self.names.contains(&candidate.name));
        let had = candidates.filter_map(|candidate| candidate.before.as_ref());
        let all = had.chain(self.client.iter()).filter_map(ClientResource::content);
        let by_name: BTreeMap<&Arc<str>, &Arc<Resource>> =
            all.map(|resource| (&resource.name, resource)).collect();
        by_name.into_values().cloned().collect()
    }

    pub fn status(&self, context: &Context) -> ConfigStatus {
        let Context { snapshot, quarantine, ignored_nacks, .. } = *context;
        let names = self.nacks.rejected_names(self.kind, quarantine);
        let subscribed = names.filter(|name| self.names.contains(name));
        let mut messages = subscribed.filter_map(|name| {
            let resource = snapshot.get(self.kind, name)?;
            let has = self.client.get(name).and_then(ClientResource::version);
            let is_lacking = has != Some(resource.version);
            is_lacking.then(|| self.nacks.message(resource, quarantine, ignored_nacks))?
        });
        if let Some(message) = messages.next() {
            return ConfigStatus::Nack(message.to_string());
        }
        let has_more =
            self.is_in_flight() || self.has_updates(context) || !self.removals(context).is_empty();
        if has_more { ConfigStatus::Stale } else { ConfigStatus::Synced }
    }
}

#[cfg(test)]
std::thread_local! {
    /// How many names have been checked for something to send.
    pub(super) static NAMES_CHECKED: std::cell::Cell<u64> = const { std::cell::Cell::new(0) };
}

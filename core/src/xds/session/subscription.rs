//! One type on a stream: what is subscribed to, and what is known of the client.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::held::{Held, Record};
use super::news::{Cursor, Suspect, UnderWay};
use super::{Abuse, Limits, Request};
use crate::xds::snapshot::{Moment, ResourceType, Snapshot, Version};

/// One type on a stream.
#[derive(Clone, Debug)]
pub(super) struct Subscription {
    pub(super) kind: ResourceType,
    pub(super) wildcard: bool,
    /// State of the world: the client has named something, so that no names mean nothing from then on.
    has_named: bool,
    pub(super) names: BTreeSet<Arc<str>>,
    /// Names that must be answered even if nothing changed.
    pub(super) owed: BTreeSet<Arc<str>>,
    pub(super) held: Record,
    /// What the client refused on this stream and the snapshot may still have: versions and reasons.
    pub(super) refused: BTreeMap<Arc<str>, (Version, Arc<str>)>,
    /// Groups of which at least one was refused and nobody knows which; the next one last.
    pub(super) suspects: Vec<Vec<Suspect>>,
    /// The client has accepted a response on this stream.
    pub(super) has_accepted: bool,
    /// A response was refused before any was accepted: where omission removes, the client may still have what it should not.
    pub(super) must_restate: bool,
    /// The response whose answer is outstanding.
    pub(super) under_way: Option<UnderWay>,
    /// The latest response's nonce; 0: there was none.
    pub(super) nonce: u64,
    /// Up to where additions and changes have been looked at.
    pub(super) looked: Cursor,
    /// Up to where removals have been looked at.
    pub(super) swept: Moment,
}

impl Subscription {
    pub fn new(kind: ResourceType) -> Self {
        Self {
            kind,
            wildcard: false,
            has_named: false,
            names: BTreeSet::new(),
            owed: BTreeSet::new(),
            held: Record::default(),
            refused: BTreeMap::new(),
            suspects: Vec::new(),
            has_accepted: false,
            must_restate: false,
            under_way: None,
            nonce: 0,
            looked: Cursor::default(),
            swept: Moment::default(),
        }
    }

    /// Whether a request answers the latest response; before the first one an empty nonce does.
    pub fn is_latest(&self, nonce: &str) -> bool {
        if self.nonce == 0 { nonce.is_empty() } else { nonce == self.nonce.to_string() }
    }

    pub fn is_under_way(&self) -> bool {
        self.under_way.is_some()
    }

    pub fn let_go(&mut self) {
        self.swept = Moment::default();
    }

    pub(super) fn wants(&self, name: &str) -> bool {
        self.wildcard || self.names.contains(name)
    }

    /// Whether a client that asks for no names wants all: an old form of the wildcard (xDS protocol, "How the client specifies what
    /// resources to return").
    fn knows_old_wildcard(&self) -> bool {
        matches!(self.kind, ResourceType::Cluster | ResourceType::Listener)
    }

    /// Takes what an incremental request says of names.
    pub fn subscribe(
        &mut self,
        first: bool,
        request: Request,
        snapshot: &Snapshot,
        limits: &Limits,
    ) -> Result<(), Abuse> {
        if first {
            self.wildcard = self.knows_old_wildcard() && request.subscribe.is_empty();
            self.held.put_all(
                request
                    .initial_versions
                    .iter()
                    .map(|(name, version)| self.brought(name, version, snapshot))
                    .collect(),
            );
        }
        let changes = first || !request.subscribe.is_empty() || !request.unsubscribe.is_empty();
        for name in request.subscribe {
            if name == "*" {
                self.widen();
                continue;
            }
            let name = self.shared(&name, snapshot);
            // What the client said it has needs no answer unless it differs, which shows by itself.
            if !first || self.held.get(&name).is_none() {
                self.owed.insert(Arc::clone(&name));
            }
            self.names.insert(name);
        }
        for name in &request.unsubscribe {
            self.wildcard &= name != "*";
            self.names.remove(name.as_str());
            self.owed.remove(name.as_str());
        }
        if changes { self.forget_unwanted(limits) } else { Ok(()) }
    }

    /// Takes all names of a request of the state of the world.
    pub fn become_subscribed(
        &mut self,
        names: &[String],
        snapshot: &Snapshot,
        limits: &Limits,
    ) -> Result<(), Abuse> {
        let all = names.iter().any(|name| name == "*")
            || (self.knows_old_wildcard() && names.is_empty() && !self.has_named);
        self.has_named |= !names.is_empty();
        let names: BTreeSet<&str> =
            names.iter().map(String::as_str).filter(|name| *name != "*").collect();
        if all == self.wildcard && self.names.iter().map(|name| &**name).eq(names.iter().copied()) {
            return Ok(());
        }
        if all {
            self.widen();
        }
        self.wildcard = all;
        self.names.retain(|name| names.contains(&**name));
        for name in names {
            if !self.names.contains(name) {
                let name = self.shared(name, snapshot);
                self.owed.insert(Arc::clone(&name));
                self.names.insert(name);
            }
        }
        self.owed.retain(|name| self.names.contains(name));
        self.forget_unwanted(limits)
    }

    /// From now on everything is wanted.
    fn widen(&mut self) {
        if !self.wildcard {
            self.wildcard = true;
            self.looked = Cursor::default();
        }
    }

    fn forget_unwanted(&mut self, limits: &Limits) -> Result<(), Abuse> {
        if !self.wildcard {
            self.held.retain(|name| self.names.contains(name));
            self.refused.retain(|name, _| self.names.contains(name));
        }
        let texts = self.names.iter().chain(self.held.iter().map(Held::name));
        limits.check_total(self.names.len().max(self.held.len()), texts.map(|name| name.len()))
    }

    /// What the client says that it has.
    fn brought(&self, name: &str, version: &str, snapshot: &Snapshot) -> Held {
        let version = version.parse().ok();
        match snapshot.get(self.kind, name) {
            Some(resource) if Some(resource.version) == version => {
                Held::Resource(Arc::clone(resource))
            }
            Some(resource) => Held::other(Arc::clone(&resource.name), version, false),
            None => Held::other(name.into(), version, true),
        }
    }

    /// A name, in the snapshot's own memory where it has it.
    fn shared(&self, name: &str, snapshot: &Snapshot) -> Arc<str> {
        snapshot
            .get(self.kind, name)
            .map_or_else(|| name.into(), |resource| Arc::clone(&resource.name))
    }
}

//! What a client should be told: additions, changes, removals; and how it stands.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::held::Held;
use super::subscription::Subscription;
use super::{Standing, Variant};
use crate::xds::quarantine::Quarantine;
use crate::xds::snapshot::{Moment, Resource, Snapshot};

/// What a session looks at.
#[derive(Clone, Copy)]
pub(super) struct View<'a> {
    pub snapshot: &'a Snapshot,
    pub quarantine: &'a Quarantine,
    pub variant: Variant,
    /// Refusals up to this number don't count.
    pub tolerated: u64,
    pub holding: bool,
    pub response_bytes: usize,
}

/// Up to where something has been looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Cursor {
    moment: Moment,
    /// [`Quarantine::released`] at that time.
    released: u64,
    /// [`Quarantine::latest`] at that time.
    refusals: u64,
}

impl Cursor {
    pub fn now(view: &View) -> Self {
        Self {
            moment: view.snapshot.now(),
            released: view.quarantine.released(),
            refusals: view.quarantine.latest(),
        }
    }
}

/// A response whose answer is outstanding.
#[derive(Clone, Debug)]
pub(super) struct UnderWay {
    pub carried: Vec<Carried>,
    /// Incremental: what was asked for but doesn't exist.
    pub absent: Vec<Arc<str>>,
    /// How many refusals in a row it comes from; 0: it isn't made of suspects.
    pub trial: u8,
}

/// A resource of a response that the client didn't have before.
#[derive(Clone, Debug)]
pub(super) struct Carried {
    pub resource: Arc<Resource>,
    /// What the client had under the name.
    pub before: Option<Held>,
    /// It is quarantined, and tried once more.
    pub again: bool,
}

/// A name in a response that was refused.
#[derive(Clone, Debug)]
pub(super) struct Suspect {
    pub name: Arc<str>,
    /// What the client had under the name.
    pub before: Option<Held>,
    /// How many refusals in a row it has been in.
    pub trial: u8,
}

/// What one response says.
#[derive(Default)]
pub(super) struct News {
    pub carried: Vec<Carried>,
    /// What was asked for but doesn't exist.
    pub absent: Vec<Arc<str>>,
    /// There is more than one response may carry.
    pub cut: bool,
    /// How many refusals in a row it comes from; 0: it isn't made of suspects.
    pub trial: u8,
}

impl Subscription {
    /// What the client must be sent under a name, and whether that is quarantined and tried once more.
    fn due(&self, name: &str, view: &View) -> Option<(Arc<Resource>, bool)> {
        #[cfg(test)]
        super::tests::LOOKS.set(super::tests::LOOKS.get() + 1);
        let resource = view.snapshot.get(self.kind, name).filter(|_| self.wants(name))?;
        let held = self.held.get(name);
        let version = held.and_then(Held::version);
        let owed = self.owed.contains(name);
        if version == Some(resource.version) {
            return owed.then(|| (Arc::clone(resource), false));
        }
        let refusal = view.quarantine.refusal(resource, 0);
        if self.bar(resource, view).is_none() {
            return Some((Arc::clone(resource), refusal.is_some()));
        }
        // It keeps what it has; what it may have lost it gets again.
        let has = held.and_then(Held::resource);
        let fallback = || refusal?.fallback.as_ref();
        let instead =
            if version.is_none() { fallback() } else { has.or_else(fallback).filter(|_| owed) };
        instead.map(|resource| (Arc::clone(resource), false))
    }

    /// Why a resource may not be sent: a refusal's reason.
    fn bar<'a>(&'a self, resource: &Resource, view: &View<'a>) -> Option<&'a Arc<str>> {
        let here = self
            .refused
            .get(&resource.name)
            .filter(|(version, _)| *version == resource.version)
            .map(|(_, reason)| reason);
        here.or_else(|| {
            view.quarantine.refusal(resource, view.tolerated).map(|refusal| &refusal.message)
        })
    }

    /// The names under which there may be news, each once, in order where that matters: what changed since the last look, what is owed,
    /// and what another stream's refusal may have brought a fallback for. After a first request or a refusal, or too long after the last look, these are all.
    fn candidates<'a>(&'a self, view: &View<'a>) -> Box<dyn Iterator<Item = &'a Arc<str>> + 'a> {
        let snapshot = view.snapshot;
        let valid = self.looked.released == view.quarantine.released();
        if let Some(changes) = snapshot.since(self.looked.moment).filter(|_| valid) {
            let changed = changes
                .filter(|(kind, name)| *kind == self.kind && self.wants(name))
                .map(|(_, name)| name);
            let refused = view
                .quarantine
                .refused_since(self.kind, self.looked.refusals)
                .filter(|name| self.wants(name));
            return Box::new(
                changed.chain(&self.owed).chain(refused).collect::<BTreeSet<_>>().into_iter(),
            );
        }
        let all = snapshot.of(self.kind);
        if !self.wildcard && self.names.len() <= all.len() {
            return Box::new(self.names.iter());
        }
        let absent = self.owed.iter().filter(move |name| snapshot.get(self.kind, name).is_none());
        Box::new(
            all.iter().map(|resource| &resource.name).filter(|name| self.wants(name)).chain(absent),
        )
    }

    /// What is new or changed, and what was asked for but doesn't exist, as much as one response may carry.
    pub(super) fn look(&self, view: &View) -> News {
        let mut news = News::default();
        let mut bytes = 0;
        for name in self.candidates(view) {
            let due = self.due(name, view);
            let absent = due.is_none()
                && self.owed.contains(name)
                && self.held.get(name).and_then(Held::version).is_none();
            bytes += match &due {
                Some((resource, _)) => resource.wire().len(),
                None if absent => name.len(),
                None => continue,
            };
            if bytes > view.response_bytes
                && !self.is_whole(view)
                && !(news.carried.is_empty() && news.absent.is_empty())
            {
                news.cut = true;
                break;
            }
            match due {
                Some((resource, again)) => news.carried.push(Carried {
                    before: self.held.get(name).cloned(),
                    resource,
                    again,
                }),
                None => news.absent.push(Arc::clone(name)),
            }
        }
        news
    }

    /// The next group of suspects of which something must still be sent.
    pub(super) fn next_trial(&mut self, view: &View) -> Option<News> {
        while let Some(group) = self.suspects.pop() {
            let trial = group.iter().map(|suspect| suspect.trial).max().unwrap_or_default();
            let carried = group.into_iter().filter_map(|Suspect { name, before, .. }| {
                // Where nothing is due any more, another stream's Envoy has refused it too: what the client had is what it should have.
                let had = || {
                    before
                        .as_ref()
                        .and_then(Held::resource)
                        .filter(|_| self.is_there(&name, view))
                        .map(|had| (Arc::clone(had), false))
                };
                let (resource, again) = self.due(&name, view).or_else(had)?;
                Some(Carried { resource, before, again })
            });
            let carried: Vec<Carried> = carried.collect();
            if !carried.is_empty() {
                return Some(News { carried, trial, ..News::default() });
            }
        }
        None
    }

    fn is_there(&self, name: &str, view: &View) -> bool {
        self.wants(name) && view.snapshot.get(self.kind, name).is_some()
    }

    /// Whether there is more to send, beyond what is under way.
    pub(super) fn has_more(&self, view: &View) -> bool {
        self.nonce == 0
            || !self.owed.is_empty()
            || !self.suspects.is_empty()
            || self.candidates(view).any(|name| self.due(name, view).is_some())
    }

    /// Takes note of what the snapshot has come to know of all that the client brought.
    pub(super) fn learn(&mut self, view: &View) {
        let kind = self.kind;
        let learn = |held: &mut Held| {
            let Some(resource) = view.snapshot.get(kind, held.name()) else { return };
            if held.version() == Some(resource.version) {
                *held = Held::Resource(Arc::clone(resource));
            } else if let Held::Other(other) = held {
                other.brought = false;
            }
        };
        match view.snapshot.since(self.swept) {
            None => self.held.iter_mut().for_each(learn),
            Some(changes) => {
                changes
                    .filter(|change| change.0 == kind)
                    .for_each(|(_, name)| self.held.get_mut(name).into_iter().for_each(learn));
            }
        }
    }

    /// What the client has, still wants, and should have no more; in order.
    pub(super) fn gone(&self, view: &View) -> Vec<Arc<str>> {
        let is_gone = |name: &Arc<str>| view.snapshot.get(self.kind, name).is_none();
        match view.snapshot.since(self.swept) {
            // It is in the log, so it was known: whatever the client brought is really gone.
            Some(changes) => {
                let changed = changes.filter(|change| change.0 == self.kind).map(|change| change.1);
                let gone: BTreeSet<_> = changed
                    .filter(|name| is_gone(name))
                    .filter_map(|name| self.held.get(name))
                    .map(Held::name)
                    .collect();
                gone.into_iter().cloned().collect()
            }
            None => {
                let gone = self
                    .held
                    .iter()
                    .filter(|held| is_gone(held.name()) && !(view.holding && held.is_brought()));
                gone.map(|held| Arc::clone(held.name())).collect()
            }
        }
    }

    /// How the client stands.
    pub(super) fn standing(&self, view: &View) -> Standing {
        let quarantined =
            view.quarantine.entries().filter(|entry| entry.0 == self.kind).map(|entry| entry.1);
        let suspicious = quarantined
            .chain(self.refused.keys().map(|name| &**name))
            .filter(|name| self.wants(name));
        let lacking =
            suspicious.filter_map(|name| view.snapshot.get(self.kind, name)).filter(|resource| {
                self.held.get(&resource.name).and_then(Held::version) != Some(resource.version)
            });
        if let Some(reason) = lacking.filter_map(|resource| self.bar(resource, view)).next() {
            return Standing::Nack(reason.to_string());
        }
        let pending = self.is_under_way() || self.has_more(view) || !self.gone(view).is_empty();
        if pending { Standing::Stale } else { Standing::Synced }
    }
}

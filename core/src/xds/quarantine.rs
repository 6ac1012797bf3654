//! What the Envoys of one node refused, so that none of the node's streams sends it again.
//!
//! An entry is one version of one resource. It goes when the snapshot has another version of the resource, or none; and when an
//! Envoy process that started anew has accepted the version: what was wrong with it, a port in use perhaps, is mended.
//!
//! Each replica of Atlas has its own, and forgets it at its end: a version may then be refused once more, and no more than that.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::snapshot::{Moment, Resource, ResourceType, Snapshot, Version};

/// Most entries that are kept for a node; beyond that the oldest goes. Its stream has a memory of its own.
pub const MAX_ENTRIES: usize = 1000;

/// The versions that a node's Envoys refused.
#[derive(Clone, Debug, Default)]
pub struct Quarantine {
    entries: BTreeMap<(ResourceType, Arc<str>), Refusal>,
    /// How many refusals there have been: the number of the latest one.
    count: u64,
    /// How often something was let out, so that streams which passed it over look again.
    released: u64,
    /// Up to where the snapshot has been followed.
    followed: Moment,
}

/// One version of one resource that was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The version.
    pub version: Version,
    /// The client's own words, made plain and cut.
    pub message: Arc<str>,
    /// What Envoys accepted before it, where that is known: for those who have nothing.
    pub fallback: Option<Arc<Resource>>,
    /// Its place in the order of refusals.
    number: u64,
}

impl Quarantine {
    /// What is in it.
    pub fn entries(&self) -> impl Iterator<Item = (ResourceType, &str, &Refusal)> {
        self.entries.iter().map(|((kind, name), refusal)| (*kind, &**name, refusal))
    }

    /// How many versions are in it.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether nothing is in it.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Drops what the snapshot doesn't have any more. Every request does so; who shows the entries when no Envoy is there may, too.
    pub fn follow(&mut self, snapshot: &Snapshot) {
        if !self.entries.is_empty() {
            let is_current = |kind, name: &str, refusal: &Refusal| {
                snapshot.get(kind, name).is_some_and(|resource| resource.version == refusal.version)
            };
            match snapshot.since(self.followed) {
                None => {
                    self.entries.retain(|(kind, name), refusal| is_current(*kind, name, refusal))
                }
                Some(changes) => {
                    for (kind, name) in changes {
                        let key = (kind, Arc::clone(name));
                        if self
                            .entries
                            .get(&key)
                            .is_some_and(|refusal| !is_current(kind, name, refusal))
                        {
                            self.entries.remove(&key);
                        }
                    }
                }
            }
        }
        self.followed = snapshot.now();
    }

    /// The number of the latest refusal: those who come now have seen none of those up to it.
    pub(super) fn latest(&self) -> u64 {
        self.count
    }

    /// Of which resources of a type something was refused after the refusal of this number.
    pub(super) fn refused_since(
        &self,
        kind: ResourceType,
        number: u64,
    ) -> impl Iterator<Item = &Arc<str>> {
        let entries = (self.count > number).then_some(&self.entries).into_iter().flatten();
        entries
            .filter(move |((of, _), refusal)| *of == kind && refusal.number > number)
            .map(|((_, name), _)| name)
    }

    /// Changes whenever something that was barred is not any more.
    pub(super) fn released(&self) -> u64 {
        self.released
    }

    /// The refusal of this very version, if it came after those `tolerated`.
    pub(super) fn refusal(&self, resource: &Resource, tolerated: u64) -> Option<&Refusal> {
        if self.entries.is_empty() {
            return None;
        }
        let refusal = self.entries.get(&(resource.kind, Arc::clone(&resource.name)))?;
        (refusal.version == resource.version && refusal.number > tolerated).then_some(refusal)
    }

    /// Takes what was refused, and what its client had before.
    pub(super) fn add(
        &mut self,
        bad: &Resource,
        message: Arc<str>,
        fallback: Option<Arc<Resource>>,
    ) {
        let key = (bad.kind, Arc::clone(&bad.name));
        let fallback = fallback.or_else(|| self.entries.get(&key)?.fallback.clone());
        self.count += 1;
        self.entries
            .insert(key, Refusal { version: bad.version, message, fallback, number: self.count });
        if self.entries.len() > MAX_ENTRIES {
            let oldest = self
                .entries
                .iter()
                .min_by_key(|(_, refusal)| refusal.number)
                .map(|(key, _)| key.clone());
            oldest.and_then(|key| self.entries.remove(&key));
            self.released += 1;
        }
    }

    /// A process that started anew has accepted it.
    pub(super) fn lift(&mut self, good: &Resource) {
        let key = (good.kind, Arc::clone(&good.name));
        if self.entries.get(&key).is_some_and(|refusal| refusal.version == good.version) {
            self.entries.remove(&key);
            self.released += 1;
        }
    }

    /// What should have stood in for a refused version has been refused itself.
    pub(super) fn forget_fallback(&mut self, bad: &Resource) {
        if let Some(refusal) = self.entries.get_mut(&(bad.kind, Arc::clone(&bad.name))) {
            refusal.fallback.take_if(|fallback| fallback.version == bad.version);
        }
    }
}

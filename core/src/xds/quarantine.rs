//! The quarantine of one node: resource versions that its Envoys rejected. No stream of the node is
//! sent them again.
//!
//! A version leaves the quarantine when the snapshot has another version of the resource or none,
//! and when an Envoy process that has started since then accepts it: the cause, perhaps a port in
//! use, is gone.
//!
//! Each replica of Atlas has a quarantine of its own, in memory. After a restart a version may be
//! rejected once more.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::resource::{Resource, ResourceType, Version};
use super::snapshot::{LogPosition, Snapshot};

/// Most versions that the quarantine of a node has. Beyond that the oldest leaves; the stream that
/// was sent it remembers it too.
pub const MAX_ENTRIES: usize = 1000;

/// The versions that a node's Envoys rejected, at most one of each resource.
#[derive(Clone, Debug, Default)]
pub struct Quarantine {
    entries: BTreeMap<(ResourceType, Arc<str>), RejectedVersion>,
    /// The number of the latest NACK; they are counted from 1.
    latest_nack: u64,
    /// How often a version has left although the snapshot still has it.
    releases: u64,
    /// The snapshot's log up to here has been compared with the entries.
    position: LogPosition,
}

/// One version of one resource that an Envoy rejected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RejectedVersion {
    pub version: Version,
    /// The NACK's error message, shortened and without control characters.
    pub message: Arc<str>,
    /// The version that an Envoy accepted before, if known. It is sent to Envoys that have none.
    pub fallback: Option<Arc<Resource>>,
    /// The number of the NACK.
    nack: u64,
}

impl Quarantine {
    /// All rejected versions, by type and name.
    pub fn entries(&self) -> impl Iterator<Item = (ResourceType, &str, &RejectedVersion)> {
        self.entries.iter().map(|((kind, name), rejected)| (*kind, &**name, rejected))
    }

    /// How many versions there are.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are no versions.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Removes versions that the snapshot doesn't have any more.
    ///
    /// A session does so with each request. Without streams, whoever shows the entries calls it
    /// first.
    pub fn remove_outdated(&mut self, snapshot: &Snapshot) {
        let is_current = |kind, name: &str, rejected: &RejectedVersion| {
            snapshot.get(kind, name).is_some_and(|resource| resource.version == rejected.version)
        };
        if !self.entries.is_empty() {
            match snapshot.changes_since(&self.position) {
                None => {
                    self.entries.retain(|(kind, name), rejected| is_current(*kind, name, rejected));
                }
                Some(changes) => {
                    for (kind, name) in changes {
                        let key = (kind, Arc::clone(name));
                        let entry = self.entries.get(&key);
                        if entry.is_some_and(|rejected| !is_current(kind, name, rejected)) {
                            self.entries.remove(&key);
                        }
                    }
                }
            }
        }
        self.position = snapshot.position();
    }

    /// The number of the latest NACK. A client that connects now can't have caused it or an earlier
    /// one with this process.
    pub(super) fn latest_nack(&self) -> u64 {
        self.latest_nack
    }

    /// The names of resources of a type of which a version was rejected after the NACK of this
    /// number.
    pub(super) fn rejected_since(
        &self,
        kind: ResourceType,
        nack: u64,
    ) -> impl Iterator<Item = &Arc<str>> {
        let entries = (self.latest_nack > nack).then_some(&self.entries).into_iter().flatten();
        entries
            .filter(move |((of, _), rejected)| *of == kind && rejected.nack > nack)
            .map(|((_, name), _)| name)
    }

    /// Grows whenever a version leaves that may be sent from then on.
    pub(super) fn releases(&self) -> u64 {
        self.releases
    }

    /// The entry of exactly this version, unless its NACK's number is at most `ignored_nacks`.
    pub(super) fn find(&self, resource: &Resource, ignored_nacks: u64) -> Option<&RejectedVersion> {
        if self.entries.is_empty() {
            return None;
        }
        let rejected = self.entries.get(&(resource.kind, Arc::clone(&resource.name)))?;
        let matches = rejected.version == resource.version && rejected.nack > ignored_nacks;
        matches.then_some(rejected)
    }

    /// Adds a rejected version. `fallback` is what the client had before; without one, the previous
    /// entry's is kept.
    pub(super) fn add(
        &mut self,
        resource: &Resource,
        message: Arc<str>,
        fallback: Option<Arc<Resource>>,
    ) {
        let key = (resource.kind, Arc::clone(&resource.name));
        let fallback = fallback.or_else(|| self.entries.get(&key)?.fallback.clone());
        self.latest_nack += 1;
        let nack = self.latest_nack;
        let rejected = RejectedVersion { version: resource.version, message, fallback, nack };
        self.entries.insert(key, rejected);
        if self.entries.len() > MAX_ENTRIES {
            let oldest = self.entries.iter().min_by_key(|(_, rejected)| rejected.nack);
            let oldest = oldest.map(|(key, _)| key.clone());
            oldest.and_then(|key| self.entries.remove(&key));
            self.releases += 1;
        }
    }

    /// Removes a version that an Envoy process which has started since the NACK has accepted.
    pub(super) fn release(&mut self, resource: &Resource) {
        let key = (resource.kind, Arc::clone(&resource.name));
        if self.entries.get(&key).is_some_and(|rejected| rejected.version == resource.version) {
            self.entries.remove(&key);
            self.releases += 1;
        }
    }

    /// Removes a fallback that an Envoy rejected, too.
    pub(super) fn remove_fallback(&mut self, resource: &Resource) {
        let key = (resource.kind, Arc::clone(&resource.name));
        if let Some(rejected) = self.entries.get_mut(&key) {
            rejected.fallback.take_if(|fallback| fallback.version == resource.version);
        }
    }
}

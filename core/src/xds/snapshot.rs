//! The snapshot of one node: all resources that its Envoys should have.
//!
//! A snapshot changes in place and keeps a log of its latest changes. A [session](super::session)
//! that has followed it checks the names in the log and not all resources: the hub has several for
//! each cluster.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use super::resource::{Resource, ResourceType};

/// A change to one resource of a [`Snapshot`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Adds the resource, or replaces the one of the same type and name.
    Set(Arc<Resource>),
    /// Removes the resource of this type and name.
    Remove(ResourceType, Arc<str>),
}

impl Change {
    fn key(&self) -> (ResourceType, &Arc<str>) {
        match self {
            Change::Set(resource) => (resource.kind, &resource.name),
            Change::Remove(kind, name) => (*kind, name),
        }
    }
}

/// A position in the log of changes of one snapshot. The default is a position in no snapshot's
/// log.
#[derive(Clone, Debug, Default)]
pub struct LogPosition {
    /// The log that it belongs to. It keeps the [identity](Snapshot::identity) allocated, so that
    /// no later snapshot can have the same.
    log: Option<Arc<()>>,
    /// How many changes lie before it.
    changes: u64,
}

/// Fewest changes that the log keeps. A large snapshot keeps an eighth of its length.
const MIN_LOG_LENGTH: usize = 64;

/// All resources that the Envoys of one node should have.
#[derive(Debug)]
pub struct Snapshot {
    /// Sorted by type and name.
    resources: Vec<Arc<Resource>>,
    /// The latest changes; the last one is at the end.
    log: VecDeque<(ResourceType, Arc<str>)>,
    /// How many changes there have been since the snapshot was made.
    changes: u64,
    /// Tells this log from others by its address: a clone counts its changes anew.
    identity: Arc<()>,
}

impl Snapshot {
    /// Resources must be sorted by type and name.
    fn new(resources: Vec<Arc<Resource>>) -> Self {
        Self { resources, log: VecDeque::new(), changes: 0, identity: Arc::new(()) }
    }

    /// Applies changes in order. Returns how many of them made a difference.
    pub fn apply(&mut self, changes: Vec<Change>) -> usize {
        let before = self.changes;
        if changes.len() > MIN_LOG_LENGTH.max(self.resources.len() / 8) {
            self.apply_many(changes);
        } else {
            for change in changes {
                self.apply_one(change);
            }
        }
        let keep = MIN_LOG_LENGTH.max(self.resources.len() / 8);
        self.log.drain(..self.log.len().saturating_sub(keep));
        usize::try_from(self.changes - before).unwrap_or(usize::MAX)
    }

    fn apply_one(&mut self, change: Change) {
        let (kind, name) = change.key();
        match (self.find(kind, name), change) {
            (Ok(index), Change::Set(resource)) => {
                if let Some(old) = self.resources.get_mut(index).filter(|old| ***old != *resource) {
                    self.log.push_back((resource.kind, Arc::clone(&resource.name)));
                    self.changes += 1;
                    *old = resource;
                }
            }
            (Err(index), Change::Set(resource)) => {
                self.log.push_back((resource.kind, Arc::clone(&resource.name)));
                self.changes += 1;
                self.resources.insert(index, resource);
            }
            (Ok(index), Change::Remove(kind, name)) => {
                self.log.push_back((kind, name));
                self.changes += 1;
                self.resources.remove(index);
            }
            (Err(_), Change::Remove(..)) => {}
        }
    }

    /// Like [`Snapshot::apply_one`] for each change, but in one pass: an insertion into the sorted
    /// list moves what follows.
    fn apply_many(&mut self, changes: Vec<Change>) {
        let key = |resource: &Arc<Resource>| (resource.kind, Arc::clone(&resource.name));
        let mut all: BTreeMap<_, Arc<Resource>> =
            self.resources.drain(..).map(|resource| (key(&resource), resource)).collect();
        for change in changes {
            let (key, differs) = match change {
                Change::Set(resource) => {
                    let key = key(&resource);
                    let new = Arc::clone(&resource);
                    (key.clone(), all.insert(key, resource).is_none_or(|old| old != new))
                }
                Change::Remove(kind, name) => {
                    let key = (kind, name);
                    let existed = all.remove(&key).is_some();
                    (key, existed)
                }
            };
            if differs {
                self.log.push_back(key);
                self.changes += 1;
            }
        }
        self.resources = all.into_values().collect();
    }

    /// Replaces all resources. Returns how many changes that took.
    pub fn replace_all(&mut self, resources: Vec<Arc<Resource>>) -> usize {
        let new: BTreeMap<_, _> = resources
            .into_iter()
            .map(|resource| ((resource.kind, Arc::clone(&resource.name)), resource))
            .collect();
        let removed = self
            .resources
            .iter()
            .filter(|old| !new.contains_key(&(old.kind, Arc::clone(&old.name))));
        let removals: Vec<Change> =
            removed.map(|old| Change::Remove(old.kind, Arc::clone(&old.name))).collect();
        self.apply(removals.into_iter().chain(new.into_values().map(Change::Set)).collect())
    }

    /// The position behind the last change.
    pub fn position(&self) -> LogPosition {
        LogPosition { log: Some(Arc::clone(&self.identity)), changes: self.changes }
    }

    /// The resources that have changed after a position, oldest change first, perhaps several times
    /// each.
    ///
    /// `None`: the log doesn't reach back so far, or the position is of another snapshot's log. Any
    /// resource may have changed.
    pub fn changes_since(
        &self,
        position: &LogPosition,
    ) -> Option<impl Iterator<Item = (ResourceType, &Arc<str>)> + use<'_>> {
        if !position.log.as_ref().is_some_and(|log| Arc::ptr_eq(log, &self.identity)) {
            return None;
        }
        let count = usize::try_from(self.changes.checked_sub(position.changes)?).ok()?;
        let skipped = self.log.len().checked_sub(count)?;
        Some(self.log.iter().skip(skipped).map(|(kind, name)| (*kind, name)))
    }

    fn find(&self, kind: ResourceType, name: &str) -> Result<usize, usize> {
        self.resources
            .binary_search_by(|resource| (resource.kind, &*resource.name).cmp(&(kind, name)))
    }

    /// All resources of a type, by name.
    pub fn of_type(&self, kind: ResourceType) -> &[Arc<Resource>] {
        let start = self.resources.partition_point(|resource| resource.kind < kind);
        let end = self.resources.partition_point(|resource| resource.kind <= kind);
        self.resources.get(start..end).unwrap_or_default()
    }

    /// One resource.
    pub fn get(&self, kind: ResourceType, name: &str) -> Option<&Arc<Resource>> {
        self.resources.get(self.find(kind, name).ok()?)
    }

    /// The name; as the snapshot's own `Arc`, which takes no more memory, if it has a resource of
    /// that name.
    pub(super) fn shared_name(&self, kind: ResourceType, name: &str) -> Arc<str> {
        let resource = self.get(kind, name);
        resource.map_or_else(|| name.into(), |resource| Arc::clone(&resource.name))
    }

    /// All resources, by type and name.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Resource>> {
        self.resources.iter()
    }

    /// How many resources there are.
    pub fn len(&self) -> usize {
        self.resources.len()
    }

    /// Whether there are no resources.
    pub fn is_empty(&self) -> bool {
        self.resources.is_empty()
    }
}

impl Default for Snapshot {
    fn default() -> Self {
        Self::new(Vec::new())
    }
}

/// The same resources with an empty log of its own.
impl Clone for Snapshot {
    fn clone(&self) -> Self {
        Self::new(self.resources.clone())
    }
}

/// Compares the resources, not the logs.
impl PartialEq for Snapshot {
    fn eq(&self, other: &Self) -> bool {
        self.resources == other.resources
    }
}

impl Eq for Snapshot {}

/// A snapshot with an empty log. The last of several resources of the same type and name wins.
impl FromIterator<Arc<Resource>> for Snapshot {
    fn from_iter<I: IntoIterator<Item = Arc<Resource>>>(resources: I) -> Self {
        let all: BTreeMap<_, _> = resources
            .into_iter()
            .map(|resource| ((resource.kind, Arc::clone(&resource.name)), resource))
            .collect();
        Self::new(all.into_values().collect())
    }
}

#[cfg(test)]
mod tests;

//! What a client has, as far as a session knows.

use std::sync::Arc;

use crate::xds::snapshot::{Resource, Version};

/// What a client has under one name.
#[derive(Clone, Debug)]
pub(super) enum Held {
    /// Exactly this: the session sent it, or the client came with this version of it. Mostly the snapshot's own, so it costs a pointer.
    Resource(Arc<Resource>),
    /// Something else.
    Other(Box<Other>),
}

/// What a client has, or may have, that isn't the snapshot's.
#[derive(Clone, Debug)]
pub(super) struct Other {
    name: Arc<str>,
    /// Which version; `None`: not one of Atlas's, or one of several that a refusal leaves open.
    version: Option<Version>,
    /// It came with the client, and the snapshot has never had the name since.
    pub brought: bool,
}

impl Held {
    /// What a client said that it has.
    pub fn other(name: Arc<str>, version: Option<Version>, brought: bool) -> Self {
        Self::Other(Box::new(Other { name, version, brought }))
    }

    /// It may have something, nobody knows which version.
    pub fn unknown(name: &Arc<str>) -> Self {
        Self::other(Arc::clone(name), None, false)
    }

    pub fn name(&self) -> &Arc<str> {
        match self {
            Self::Resource(resource) => &resource.name,
            Self::Other(other) => &other.name,
        }
    }

    pub fn version(&self) -> Option<Version> {
        match self {
            Self::Resource(resource) => Some(resource.version),
            Self::Other(other) => other.version,
        }
    }

    pub fn resource(&self) -> Option<&Arc<Resource>> {
        match self {
            Self::Resource(resource) => Some(resource),
            Self::Other(_) => None,
        }
    }

    pub fn is_brought(&self) -> bool {
        matches!(self, Self::Other(other) if other.brought)
    }
}

/// What a client has of one type, by name. A sorted list: an Envoy of a cluster has a handful, and a map would cost it some 700 bytes.
#[derive(Clone, Debug, Default)]
pub(super) struct Record(Vec<Held>);

/// So many at once are put in by sorting, fewer one by one.
const MANY: usize = 16;

impl Record {
    fn find(&self, name: &str) -> Result<usize, usize> {
        self.0.binary_search_by(|held| (**held.name()).cmp(name))
    }

    pub fn get(&self, name: &str) -> Option<&Held> {
        self.0.get(self.find(name).ok()?)
    }

    pub fn get_mut(&mut self, name: &str) -> Option<&mut Held> {
        let place = self.find(name).ok()?;
        self.0.get_mut(place)
    }

    pub fn put(&mut self, held: Held) {
        match self.find(held.name()) {
            Ok(place) => {
                if let Some(old) = self.0.get_mut(place) {
                    *old = held;
                }
            }
            Err(place) => self.0.insert(place, held),
        }
    }

    /// Of several of one name the last counts.
    pub fn put_all(&mut self, all: Vec<Held>) {
        if all.len() <= MANY {
            all.into_iter().for_each(|held| self.put(held));
            return;
        }
        self.0.extend(all);
        // Stable, so what is newer stands behind what it replaces; what is nearly sorted is sorted fast.
        self.0.sort_by(|one, other| one.name().cmp(other.name()));
        self.0.dedup_by(|newer, older| {
            let same = newer.name() == older.name();
            if same {
                std::mem::swap(newer, older);
            }
            same
        });
    }

    /// Removes names, which are in order.
    pub fn remove_all(&mut self, names: &[Arc<str>]) {
        if names.len() <= MANY {
            for name in names {
                if let Ok(place) = self.find(name) {
                    self.0.remove(place);
                }
            }
        } else {
            self.0.retain(|held| names.binary_search(held.name()).is_err());
            self.give_back();
        }
    }

    pub fn retain(&mut self, keep: impl Fn(&str) -> bool) {
        self.0.retain(|held| keep(held.name()));
        self.give_back();
    }

    /// A list that was long once keeps no memory for it.
    fn give_back(&mut self) {
        if self.0.len() < self.0.capacity() / 4 {
            self.0.shrink_to(2 * self.0.len());
        }
    }

    pub fn iter(&self) -> impl Iterator<Item = &Held> {
        self.0.iter()
    }

    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut Held> {
        self.0.iter_mut()
    }

    /// Bytes of the list itself.
    pub fn capacity_bytes(&self) -> usize {
        self.0.capacity() * size_of::<Held>()
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_at_once_are_as_one_after_the_other() {
        let held = |name: usize, brought| Held::other(format!("{name:03}").into(), None, brought);
        let (mut one, mut many) = (Record::default(), Record::default());
        for start in [0, 50, 10] {
            let all: Vec<Held> =
                (start..start + 40).rev().map(|name| held(name, start == 10)).collect();
            all.iter().cloned().for_each(|held| one.put(held));
            many.put_all(all);
        }
        let names: Vec<Arc<str>> = (20..60).map(|name| format!("{name:03}").into()).collect();
        names.iter().for_each(|name| one.remove_all(std::slice::from_ref(name)));
        many.remove_all(&names);
        let plain = |record: &Record| {
            record
                .iter()
                .map(|held| (held.name().to_string(), held.is_brought()))
                .collect::<Vec<_>>()
        };
        assert_eq!(plain(&one), plain(&many));
        assert_eq!(one.len(), 50);
    }
}

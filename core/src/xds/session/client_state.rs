//! What a client subscribes to and which resources it has, of one type and as far as a session
//! knows.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::xds::limits::memory;
use crate::xds::quarantine::Quarantine;
use crate::xds::resource::{Resource, ResourceType, Version};
use crate::xds::snapshot::{LogPosition, Snapshot};

/// The names that a client subscribes to.
#[derive(Clone, Debug, Default)]
pub(super) struct SubscribedNames {
    /// The client subscribes to all resources of the type.
    wildcard: bool,
    /// Beside the wildcard.
    names: BTreeSet<Arc<str>>,
    /// Of these, what the next response must mention even if nothing has changed.
    pending_response: BTreeSet<Arc<str>>,
    /// Bytes of `names`.
    name_bytes: usize,
}

impl SubscribedNames {
    /// Whether the client subscribes to a resource.
    pub fn contains(&self, name: &str) -> bool {
        self.wildcard || self.names.contains(name)
    }

    /// Whether the client subscribes to a resource by its name.
    pub fn contains_name(&self, name: &str) -> bool {
        self.names.contains(name)
    }

    pub fn has_wildcard(&self) -> bool {
        self.wildcard
    }

    pub fn subscribe_to_all(&mut self) {
        self.wildcard = true;
    }

    /// Adds a name or the wildcard. `needs_response`: the next response must mention the name.
    pub fn subscribe(&mut self, name: Arc<str>, needs_response: bool) {
        if &*name == "*" {
            self.wildcard = true;
            return;
        }
        if needs_response {
            self.pending_response.insert(Arc::clone(&name));
        }
        let bytes = name.len();
        if self.names.insert(name) {
            self.name_bytes += bytes;
        }
    }

    /// Removes a name or the wildcard.
    pub fn unsubscribe(&mut self, name: &str) {
        self.wildcard &= name != "*";
        self.pending_response.remove(name);
        if self.names.remove(name) {
            self.name_bytes -= name.len();
        }
    }

    /// Replaces all names; the next response must mention the new ones. Returns whether there was
    /// anything to change.
    pub fn replace(
        &mut self,
        names: &[String],
        implies_wildcard: bool,
        shared_name: impl Fn(&str) -> Arc<str>,
    ) -> bool {
        let names: BTreeSet<&str> = names.iter().map(String::as_str).collect();
        let wildcard = implies_wildcard || names.contains("*");
        let without_wildcard = || names.iter().copied().filter(|name| *name != "*");
        if wildcard == self.wildcard && without_wildcard().eq(self.names.iter().map(|name| &**name))
        {
            return false;
        }
        self.wildcard = wildcard;
        self.names.retain(|name| names.contains(&**name));
        self.pending_response.retain(|name| names.contains(&**name));
        self.name_bytes = self.names.iter().map(|name| name.len()).sum();
        for name in without_wildcard() {
            if !self.names.contains(name) {
                self.subscribe(shared_name(name), true);
            }
        }
        true
    }

    /// How many names there are beside the wildcard.
    pub fn len(&self) -> usize {
        self.names.len()
    }

    /// Bytes of the names.
    pub fn name_bytes(&self) -> usize {
        self.name_bytes
    }

    /// What the next response must mention even if nothing has changed.
    pub fn pending_response(&self) -> &BTreeSet<Arc<str>> {
        &self.pending_response
    }

    /// Makes the next response mention a name, if the client subscribes to it by its name.
    pub fn require_response(&mut self, name: Arc<str>) {
        if self.names.contains(&name) {
            self.pending_response.insert(name);
        }
    }

    /// The names to check for additions and changes since `checked`, each once.
    ///
    /// Mostly these are few: what has changed in the snapshot, what must have a response, and what
    /// another stream's NACK may have added a fallback for. After a first request and after a NACK
    /// they are all names, and whenever the snapshot's log doesn't reach back.
    pub fn to_check<'a>(
        &'a self,
        kind: ResourceType,
        snapshot: &'a Snapshot,
        quarantine: &'a Quarantine,
        checked: &Checkpoint,
    ) -> Box<dyn Iterator<Item = &'a Arc<str>> + 'a> {
        let is_released = checked.releases != quarantine.releases();
        let changes = snapshot.changes_since(&checked.position).filter(|_| !is_released);
        if let Some(changes) = changes {
            let changed = changes.filter(|(changed, _)| *changed == kind).map(|(_, name)| name);
            let rejected = quarantine.rejected_since(kind, checked.latest_nack);
            let subscribed = changed.chain(rejected).filter(|name| self.contains(name));
            let names: BTreeSet<_> = subscribed.chain(&self.pending_response).collect();
            return Box::new(names.into_iter());
        }
        let all = snapshot.of_type(kind);
        if !self.wildcard && self.names.len() <= all.len() {
            return Box::new(self.names.iter());
        }
        let existing = all.iter().map(|resource| &resource.name);
        let pending = self.pending_response.iter();
        let absent = pending.filter(move |name| snapshot.get(kind, name).is_none());
        Box::new(existing.filter(|name| self.contains(name)).chain(absent))
    }

    /// A response mentions this name.
    pub fn on_response(&mut self, name: &str) {
        self.pending_response.remove(name);
    }

    /// A response mentions all that must be mentioned and can be.
    pub fn on_complete_response(&mut self) {
        self.pending_response.clear();
    }

    /// About how many bytes of memory it takes.
    pub fn memory_bytes(&self) -> usize {
        let pending = self.pending_response.len() * memory::PENDING_NAME;
        self.names.len() * memory::NAME + self.name_bytes + pending
    }
}

/// How far snapshot and quarantine have been checked for additions and changes. The default is: not
/// at all.
#[derive(Clone, Debug, Default)]
pub(super) struct Checkpoint {
    position: LogPosition,
    /// [`Quarantine::releases`] at that time.
    releases: u64,
    /// [`Quarantine::latest_nack`] at that time.
    latest_nack: u64,
}

impl Checkpoint {
    pub fn new(snapshot: &Snapshot, quarantine: &Quarantine) -> Self {
        Self {
            position: snapshot.position(),
            releases: quarantine.releases(),
            latest_nack: quarantine.latest_nack(),
        }
    }
}

/// A resource that a client has, or may have.
#[derive(Clone, Debug)]
pub(super) enum ClientResource {
    /// The client has, or was sent, exactly this. It is usually the snapshot's own, so it takes a
    /// pointer.
    WithContent(Arc<Resource>),
    /// Only its name is known, and perhaps its version.
    WithoutContent(Box<NameAndVersion>),
}

/// A resource that a client may have, of which the content isn't known.
#[derive(Clone, Debug)]
pub(super) struct NameAndVersion {
    name: Arc<str>,
    /// `None`: it isn't a version that Atlas made, or a NACK leaves open which of several versions
    /// it is.
    version: Option<Version>,
    /// The client listed it in `initial_resource_versions`, and the snapshot has never had this
    /// name since.
    never_in_snapshot: bool,
}

impl ClientResource {
    /// A resource of `initial_resource_versions`, and the snapshot's resource of that name.
    pub fn initial(name: &str, version: &str, in_snapshot: Option<&Arc<Resource>>) -> Self {
        let version = version.parse().ok();
        match in_snapshot {
            Some(resource) if Some(resource.version) == version => {
                Self::WithContent(Arc::clone(resource))
            }
            Some(resource) => Self::without_content(Arc::clone(&resource.name), version, false),
            None => Self::without_content(name.into(), version, true),
        }
    }

    /// The client may have a resource of this name, in whatever version.
    pub fn of_unknown_version(name: &Arc<str>) -> Self {
        Self::without_content(Arc::clone(name), None, false)
    }

    fn without_content(name: Arc<str>, version: Option<Version>, never_in_snapshot: bool) -> Self {
        Self::WithoutContent(Box::new(NameAndVersion { name, version, never_in_snapshot }))
    }

    pub fn name(&self) -> &Arc<str> {
        match self {
            Self::WithContent(resource) => &resource.name,
            Self::WithoutContent(known) => &known.name,
        }
    }

    pub fn version(&self) -> Option<Version> {
        match self {
            Self::WithContent(resource) => Some(resource.version),
            Self::WithoutContent(known) => known.version,
        }
    }

    pub fn content(&self) -> Option<&Arc<Resource>> {
        match self {
            Self::WithContent(resource) => Some(resource),
            Self::WithoutContent(_) => None,
        }
    }

    /// Whether only the client knows of this name: perhaps another replica told it, and this one
    /// will learn of it.
    pub fn is_never_in_snapshot(&self) -> bool {
        matches!(self, Self::WithoutContent(known) if known.never_in_snapshot)
    }

    /// The snapshot has a resource of this name.
    pub fn on_snapshot_has(&mut self, resource: &Arc<Resource>) {
        if self.version() == Some(resource.version) {
            *self = Self::WithContent(Arc::clone(resource));
        } else if let Self::WithoutContent(known) = self {
            known.never_in_snapshot = false;
        }
    }

    /// About how many bytes of memory it takes beside its place in a list.
    fn memory_bytes(&self) -> usize {
        match self {
            Self::WithContent(_) => 0,
            Self::WithoutContent(known) => memory::CLIENT_RESOURCE + known.name.len(),
        }
    }
}

/// The resources that a client has of one type, by name.
///
/// It is a sorted list: an Envoy of a cluster has a handful, and a map would take some 700 bytes.
#[derive(Clone, Debug, Default)]
pub(super) struct ClientResources {
    list: Vec<ClientResource>,
    /// Bytes of all names.
    name_bytes: usize,
    /// Bytes of memory beside `list`.
    memory_bytes: usize,
}

/// More changes than this at once are made by sorting the whole list.
const SORT_ABOVE: usize = 16;

impl ClientResources {
    fn find(&self, name: &str) -> Result<usize, usize> {
        self.list.binary_search_by(|resource| (**resource.name()).cmp(name))
    }

    pub fn get(&self, name: &str) -> Option<&ClientResource> {
        self.list.get(self.find(name).ok()?)
    }

    pub fn insert(&mut self, resource: ClientResource) {
        self.name_bytes += resource.name().len();
        self.memory_bytes += resource.memory_bytes();
        match self.find(resource.name()) {
            Ok(index) => {
                if let Some(old) = self.list.get_mut(index) {
                    self.name_bytes -= old.name().len();
                    self.memory_bytes -= old.memory_bytes();
                    *old = resource;
                }
            }
            Err(index) => self.list.insert(index, resource),
        }
    }

    /// The last of several resources of one name wins.
    pub fn insert_all(&mut self, resources: Vec<ClientResource>) {
        if resources.len() <= SORT_ABOVE {
            for resource in resources {
                self.insert(resource);
            }
            return;
        }
        self.list.extend(resources);
        // The sort is stable: a newer resource comes after the one that it replaces.
        self.list.sort_by(|one, other| one.name().cmp(other.name()));
        self.list.dedup_by(|newer, older| {
            let same = newer.name() == older.name();
            if same {
                std::mem::swap(newer, older);
            }
            same
        });
        self.recount();
    }

    /// Removes names, which must be sorted.
    pub fn remove_all(&mut self, names: &[Arc<str>]) {
        if names.len() > SORT_ABOVE {
            self.list.retain(|resource| names.binary_search(resource.name()).is_err());
            self.shrink();
            return;
        }
        for name in names {
            if let Ok(index) = self.find(name) {
                let old = self.list.remove(index);
                self.name_bytes -= old.name().len();
                self.memory_bytes -= old.memory_bytes();
            }
        }
    }

    pub fn retain(&mut self, keep: impl Fn(&str) -> bool) {
        self.list.retain(|resource| keep(resource.name()));
        self.shrink();
    }

    /// Gives memory back that a longer list needed.
    fn shrink(&mut self) {
        if self.list.len() < self.list.capacity() / 4 {
            self.list.shrink_to(2 * self.list.len());
        }
        self.recount();
    }

    fn recount(&mut self) {
        self.name_bytes = self.list.iter().map(|resource| resource.name().len()).sum();
        self.memory_bytes = self.list.iter().map(ClientResource::memory_bytes).sum();
    }

    /// Notes which of the resources the snapshot has. `since`: as long as only names that changed
    /// after it need a look.
    pub fn update_from(&mut self, snapshot: &Snapshot, kind: ResourceType, since: &LogPosition) {
        let update = |client_has: &mut ClientResource| {
            if let Some(resource) = snapshot.get(kind, client_has.name()) {
                client_has.on_snapshot_has(resource);
            }
        };
        let Some(changes) = snapshot.changes_since(since) else {
            for client_has in &mut self.list {
                update(client_has);
            }
            self.recount();
            return;
        };
        for (_, name) in changes.filter(|(changed, _)| *changed == kind) {
            let index = self.find(name).ok();
            if let Some(client_has) = index.and_then(|index| self.list.get_mut(index)) {
                self.memory_bytes -= client_has.memory_bytes();
                update(client_has);
                self.memory_bytes += client_has.memory_bytes();
            }
        }
    }

    /// The names that the snapshot doesn't have, sorted; of those whose absence was noted before
    /// `since`, none.
    ///
    /// `keep_unknown`: leaves out names that the snapshot has never had.
    pub fn missing_in(
        &self,
        snapshot: &Snapshot,
        kind: ResourceType,
        since: &LogPosition,
        keep_unknown: bool,
    ) -> Vec<Arc<str>> {
        let is_missing = |name: &str| snapshot.get(kind, name).is_none();
        let Some(changes) = snapshot.changes_since(since) else {
            let missing = self.list.iter().filter(|client_has| {
                let is_kept = keep_unknown && client_has.is_never_in_snapshot();
                is_missing(client_has.name()) && !is_kept
            });
            return missing.map(|client_has| Arc::clone(client_has.name())).collect();
        };
        // A name in the log has been in the snapshot, so none of these is kept.
        let changed = changes.filter(|(changed, name)| *changed == kind && is_missing(name));
        let client_has = changed.filter_map(|(_, name)| self.get(name));
        let names: BTreeSet<_> = client_has.map(ClientResource::name).collect();
        names.into_iter().cloned().collect()
    }

    pub fn iter(&self) -> impl Iterator<Item = &ClientResource> {
        self.list.iter()
    }

    pub fn len(&self) -> usize {
        self.list.len()
    }

    /// Bytes of all names.
    pub fn name_bytes(&self) -> usize {
        self.name_bytes
    }

    /// About how many bytes of memory it takes, beside content and names that are the snapshot's.
    pub fn memory_bytes(&self) -> usize {
        self.list.capacity() * size_of::<ClientResource>() + self.memory_bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_insertions_at_once_equal_one_after_the_other() {
        let resource = |name: usize, never_in_snapshot| {
            let name = format!("{name:03}").into();
            ClientResource::without_content(name, None, never_in_snapshot)
        };
        let (mut one, mut many) = (ClientResources::default(), ClientResources::default());
        for start in [0, 50, 10] {
            let all: Vec<ClientResource> =
                (start..start + 40).rev().map(|name| resource(name, start == 10)).collect();
            for resource in all.iter().cloned() {
                one.insert(resource);
            }
            many.insert_all(all);
        }
        let names: Vec<Arc<str>> = (20..60).map(|name| format!("{name:03}").into()).collect();
        for name in &names {
            one.remove_all(std::slice::from_ref(name));
        }
        many.remove_all(&names);
        let plain = |resources: &ClientResources| {
            let plain = |one: &ClientResource| (one.name().to_string(), one.is_never_in_snapshot());
            resources.iter().map(plain).collect::<Vec<_>>()
        };
        assert_eq!(plain(&one), plain(&many));
        assert_eq!(one.len(), 50);
        for counted in [one, many] {
            let mut recounted = counted.clone();
            recounted.recount();
            assert_eq!(counted.name_bytes, recounted.name_bytes);
            assert_eq!(counted.memory_bytes, recounted.memory_bytes);
        }
    }
}

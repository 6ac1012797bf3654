//! A snapshot: everything one node should have, by type and name, each with the hash of its content as its version.
//!
//! It changes in place and remembers what changed lately, so that whoever follows it ([`super::session`]) looks at what changed
//! and not at everything: a hub has three resources for each of its clusters.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::ops::Range;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use envoy_types::pb::google::protobuf::Any;
use prost::encoding::{WireType, encode_key, encode_varint, encoded_len_varint, key_len, string};
use prost::{Message, Name};
use sha2::{Digest, Sha256};

/// The types of resources, in the order in which they must be sent: an Envoy cluster needs its secrets, a listener the
/// Envoy clusters, a route configuration its listener. What goes away goes in the same order once nothing else is under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ResourceType {
    /// SDS.
    Secret,
    /// CDS.
    Cluster,
    /// EDS.
    Endpoints,
    /// LDS.
    Listener,
    /// RDS.
    Route,
}

impl ResourceType {
    /// All, in sending order.
    pub const ALL: [Self; 5] =
        [Self::Secret, Self::Cluster, Self::Endpoints, Self::Listener, Self::Route];

    /// The type URL on the wire.
    pub const fn url(self) -> &'static str {
        match self {
            Self::Secret => "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret",
            Self::Cluster => "type.googleapis.com/envoy.config.cluster.v3.Cluster",
            Self::Endpoints => "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment",
            Self::Listener => "type.googleapis.com/envoy.config.listener.v3.Listener",
            Self::Route => "type.googleapis.com/envoy.config.route.v3.RouteConfiguration",
        }
    }

    /// The type of a URL; `None` for what Atlas doesn't serve.
    pub fn of_url(url: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.url() == url)
    }
}

impl fmt::Display for ResourceType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Secret => "SDS",
            Self::Cluster => "CDS",
            Self::Endpoints => "EDS",
            Self::Listener => "LDS",
            Self::Route => "RDS",
        })
    }
}

/// A resource's version: a hash of its content, 128 bits of SHA-256. On the wire 32 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version(u128);

impl Version {
    /// That of some content.
    pub fn of(content: &[u8]) -> Self {
        let digest = Sha256::digest(content);
        Self(digest.iter().take(16).fold(0, |number, byte| number << 8 | u128::from(*byte)))
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Debug for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A text that is no version of Atlas's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not 32 hexadecimal digits")]
pub struct NotAVersion;

impl FromStr for Version {
    type Err = NotAVersion;

    fn from_str(text: &str) -> Result<Self, NotAVersion> {
        let digits =
            text.len() == 32 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        let number = digits.then(|| u128::from_str_radix(text, 16).ok()).flatten();
        number.map(Self).ok_or(NotAVersion)
    }
}

/// One resource, encoded once, as both variants of the protocol send it.
#[derive(Clone)]
pub struct Resource {
    /// Its type.
    pub kind: ResourceType,
    /// Its name, unique within its type.
    pub name: Arc<str>,
    /// Hash of its content.
    pub version: Version,
    /// A whole `envoy.service.discovery.v3.Resource`.
    wire: Box<[u8]>,
    /// Where in it the `google.protobuf.Any` lies.
    any: Range<usize>,
}

/// Numbers of the fields of `envoy.service.discovery.v3.Resource`.
const VERSION: u32 = 1;
const BODY: u32 = 2;
const NAME: u32 = 3;

impl Resource {
    /// Packs a message.
    pub fn new<M: Message + Name>(
        kind: ResourceType,
        name: impl Into<Arc<str>>,
        message: &M,
    ) -> Arc<Self> {
        let body = crate::envoy::any(message);
        debug_assert_eq!(body.type_url, kind.url(), "BUG: a resource under another type's name");
        let version = Version::of(&body.value);
        Self::with_version(kind, name, version, &body)
    }

    /// Packs what another has made, under a version of one's own.
    pub fn with_version(
        kind: ResourceType,
        name: impl Into<Arc<str>>,
        version: Version,
        body: &Any,
    ) -> Arc<Self> {
        let name = name.into();
        let (version_text, name_text) = (version.to_string(), name.to_string());
        let length = body.encoded_len();
        let total = string::encoded_len(VERSION, &version_text)
            + key_len(BODY)
            + encoded_len_varint(length as u64)
            + length
            + string::encoded_len(NAME, &name_text);
        let mut wire = Vec::with_capacity(total);
        string::encode(VERSION, &version_text, &mut wire);
        encode_key(BODY, WireType::LengthDelimited, &mut wire);
        encode_varint(length as u64, &mut wire);
        let start = wire.len();
        body.encode_raw(&mut wire);
        let any = start..wire.len();
        string::encode(NAME, &name_text, &mut wire);
        Arc::new(Self { kind, name, version, wire: wire.into(), any })
    }

    /// The encoded `envoy.service.discovery.v3.Resource`, for the incremental variant.
    pub fn wire(&self) -> &[u8] {
        &self.wire
    }

    /// The encoded `google.protobuf.Any`, for the state of the world.
    pub fn any_wire(&self) -> &[u8] {
        self.wire.get(self.any.clone()).unwrap_or_default()
    }

    /// The message.
    pub fn body(&self) -> Any {
        Any::decode(self.any_wire()).unwrap_or_default()
    }
}

/// The version is a hash of the content.
impl PartialEq for Resource {
    fn eq(&self, other: &Self) -> bool {
        (self.kind, &self.name, self.version) == (other.kind, &other.name, other.version)
    }
}

impl Eq for Resource {}

/// Without the body, which may hold a key.
impl fmt::Debug for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} @{}", self.kind, self.name, self.version)
    }
}

/// One step of a [`Snapshot`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// This is there from now on.
    Set(Arc<Resource>),
    /// What is called so is gone.
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

/// A point in the life of one snapshot. Those of two snapshots are never confused.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Moment {
    /// The [identity](Snapshot::new) of the snapshot; 0 is no snapshot's.
    of: u64,
    /// How many changes it had seen.
    changes: u64,
}

/// Changes that a small snapshot remembers; a large one an eighth of its length, so that looking at everything, which is for those
/// who come too late, costs eight times as much as looking at them.
const REMEMBERED: usize = 64;

/// Everything one node should have.
#[derive(Debug)]
pub struct Snapshot {
    /// In order of type and name.
    resources: Vec<Arc<Resource>>,
    /// The moment after the last change.
    now: Moment,
    /// What changed last; the latest at the end, at `now`.
    log: VecDeque<(ResourceType, Arc<str>)>,
}

impl Snapshot {
    /// A new snapshot, with an identity of its own: one that follows another must not take its moments for this one's.
    fn new(resources: Vec<Arc<Resource>>) -> Self {
        static SNAPSHOTS: AtomicU64 = AtomicU64::new(1);
        let now = Moment { of: SNAPSHOTS.fetch_add(1, Ordering::Relaxed), changes: 0 };
        Self { resources, now, log: VecDeque::new() }
    }

    /// Takes changes; what is so already is none. Of several to one resource the last counts. Returns how many there were.
    pub fn apply(&mut self, changes: Vec<Change>) -> usize {
        let before = self.now.changes;
        if changes.len() > REMEMBERED.max(self.resources.len() / 8) {
            self.apply_many(changes);
        } else {
            changes.into_iter().for_each(|change| self.apply_one(change));
        }
        let keep = REMEMBERED.max(self.resources.len() / 8);
        self.log.drain(..self.log.len().saturating_sub(keep));
        usize::try_from(self.now.changes - before).unwrap_or(usize::MAX)
    }

    fn apply_one(&mut self, change: Change) {
        let (kind, name) = change.key();
        match (self.find(kind, name), change) {
            (Ok(place), Change::Set(resource)) => {
                if let Some(old) = self.resources.get_mut(place).filter(|old| ***old != *resource) {
                    self.log.push_back((resource.kind, Arc::clone(&resource.name)));
                    self.now.changes += 1;
                    *old = resource;
                }
            }
            (Err(place), Change::Set(resource)) => {
                self.log.push_back((resource.kind, Arc::clone(&resource.name)));
                self.now.changes += 1;
                self.resources.insert(place, resource);
            }
            (Ok(place), Change::Remove(kind, name)) => {
                self.log.push_back((kind, name));
                self.now.changes += 1;
                self.resources.remove(place);
            }
            (Err(_), Change::Remove(..)) => {}
        }
    }

    /// As [`Snapshot::apply_one`] for each, without moving the rest for each.
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
                    let was = all.remove(&key).is_some();
                    (key, was)
                }
            };
            if differs {
                self.log.push_back(key);
                self.now.changes += 1;
            }
        }
        self.resources = all.into_values().collect();
    }

    /// Becomes exactly these.
    pub fn become_these(&mut self, wanted: Vec<Arc<Resource>>) -> usize {
        let wanted: BTreeMap<_, _> = wanted
            .into_iter()
            .map(|resource| ((resource.kind, Arc::clone(&resource.name)), resource))
            .collect();
        let gone = self
            .resources
            .iter()
            .filter(|old| !wanted.contains_key(&(old.kind, Arc::clone(&old.name))));
        let gone: Vec<Change> =
            gone.map(|old| Change::Remove(old.kind, Arc::clone(&old.name))).collect();
        self.apply(gone.into_iter().chain(wanted.into_values().map(Change::Set)).collect())
    }

    /// The moment after the last change.
    pub fn now(&self) -> Moment {
        self.now
    }

    /// What has changed after a moment, oldest first, perhaps several times; `None` where that is longer ago than is remembered, or
    /// another snapshot's moment: look at everything then.
    pub fn since(&self, moment: Moment) -> Option<impl Iterator<Item = (ResourceType, &Arc<str>)>> {
        if moment.of != self.now.of {
            return None;
        }
        let count = usize::try_from(self.now.changes.checked_sub(moment.changes)?).ok()?;
        let skipped = self.log.len().checked_sub(count)?;
        Some(self.log.iter().skip(skipped).map(|(kind, name)| (*kind, name)))
    }

    fn find(&self, kind: ResourceType, name: &str) -> Result<usize, usize> {
        self.resources
            .binary_search_by(|resource| (resource.kind, &*resource.name).cmp(&(kind, name)))
    }

    /// All resources of a type, by name.
    pub fn of(&self, kind: ResourceType) -> &[Arc<Resource>] {
        let start = self.resources.partition_point(|resource| resource.kind < kind);
        let end = self.resources.partition_point(|resource| resource.kind <= kind);
        self.resources.get(start..end).unwrap_or_default()
    }

    /// One resource.
    pub fn get(&self, kind: ResourceType, name: &str) -> Option<&Arc<Resource>> {
        self.resources.get(self.find(kind, name).ok()?)
    }

    /// All resources, in sending order.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Resource>> {
        self.resources.iter()
    }

    /// How many resources there are.
    pub fn len(&self) -> usize {
        self.resources.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.resources.is_empty()
    }
}

impl Default for Snapshot {
    fn default() -> Self {
        Self::new(Vec::new())
    }
}

/// The same resources in a new snapshot, which remembers no changes.
impl Clone for Snapshot {
    fn clone(&self) -> Self {
        Self::new(self.resources.clone())
    }
}

/// Equal content, whatever there was before.
impl PartialEq for Snapshot {
    fn eq(&self, other: &Self) -> bool {
        self.resources == other.resources
    }
}

impl Eq for Snapshot {}

/// A new snapshot, which remembers no changes. Of several resources of one name the last counts.
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

//! A snapshot: everything one node should have, by type and name, each with the hash of its content as its version.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use envoy_types::pb::google::protobuf::Any;
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
    pub const ALL: [Self; 5] = [Self::Secret, Self::Cluster, Self::Endpoints, Self::Listener, Self::Route];

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

/// One resource, encoded once.
#[derive(Clone, PartialEq, Eq)]
pub struct Resource {
    /// Its type.
    pub kind: ResourceType,
    /// Its name, unique within its type.
    pub name: String,
    /// Hash of its content: 32 hexadecimal digits of SHA-256.
    pub version: String,
    /// The message.
    pub body: Any,
}

impl Resource {
    /// Packs a message.
    pub fn new<M: Message + Name>(kind: ResourceType, name: impl Into<String>, message: &M) -> Arc<Self> {
        let body = crate::envoy::any(message);
        debug_assert_eq!(body.type_url, kind.url(), "BUG: a resource under another type's name");
        let digest = Sha256::digest(&body.value);
        let version = digest.iter().take(16).map(|byte| format!("{byte:02x}")).collect();
        Arc::new(Self { kind, name: name.into(), version, body })
    }
}

/// Without the body, which may hold a key.
impl fmt::Debug for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} @{}", self.kind, self.name, self.version)
    }
}

/// Everything one node should have.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    types: BTreeMap<ResourceType, BTreeMap<String, Arc<Resource>>>,
}

impl Snapshot {
    /// Adds or replaces a resource.
    pub fn insert(&mut self, resource: Arc<Resource>) {
        self.types.entry(resource.kind).or_default().insert(resource.name.clone(), resource);
    }

    /// All resources of a type, by name.
    pub fn of(&self, kind: ResourceType) -> impl Iterator<Item = &Arc<Resource>> {
        self.types.get(&kind).into_iter().flat_map(BTreeMap::values)
    }

    /// One resource.
    pub fn get(&self, kind: ResourceType, name: &str) -> Option<&Arc<Resource>> {
        self.types.get(&kind)?.get(name)
    }

    /// All resources, in sending order.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Resource>> {
        self.types.values().flat_map(BTreeMap::values)
    }

    /// How many resources there are.
    pub fn len(&self) -> usize {
        self.types.values().map(BTreeMap::len).sum()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl FromIterator<Arc<Resource>> for Snapshot {
    fn from_iter<I: IntoIterator<Item = Arc<Resource>>>(resources: I) -> Self {
        let mut snapshot = Self::default();
        resources.into_iter().for_each(|resource| snapshot.insert(resource));
        snapshot
    }
}

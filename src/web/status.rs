//! What `atlas status` shows: made by the running Atlas as JSON, printed by the command.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use atlas_core::name::{ClusterName, NodeId};
use atlas_core::validate::{Finding, Severity};
use atlas_core::xds::session::ConfigStatus;
use serde::{Deserialize, Serialize};

use crate::process::lock::lock;
use crate::state::Nodes;
use crate::state::PublishedState;
use crate::xds;
use crate::xds::streams::{Stream, Streams};

/// Everything, at one moment.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Status {
    /// Atlas's version.
    pub version: String,
    /// When this was made, in seconds since 1970.
    pub now: i64,
    /// Whether a first complete plan exists.
    pub ready: bool,
    /// On Kubernetes: which process writes; empty: none does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub leader: Option<String>,
    /// The clusters in force.
    pub clusters: Vec<ClusterStatus>,
    /// The nodes: the hub first.
    pub nodes: Vec<NodeStatus>,
    /// Files that can't be read.
    pub errors: Vec<String>,
    /// What Atlas itself can't do: certificates it can't issue, files it can't write, a root that is about to end.
    #[serde(default)]
    pub troubles: Vec<String>,
    /// What is wrong or worth knowing about objects.
    pub findings: Vec<Finding>,
    /// When each authority ends, in seconds since 1970.
    pub authorities: BTreeMap<String, i64>,
}

/// One cluster.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ClusterStatus {
    /// Its name.
    pub name: String,
    /// Where its Envoy listens.
    pub addresses: Vec<String>,
    /// Its stores, by the names under which Thanos knows them.
    pub stores: Vec<StoreStatus>,
    /// How many of its Envoys are connected.
    pub connected: usize,
}

/// One store.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct StoreStatus {
    /// `<cluster>-thanos-sidecarN`.
    pub name: String,
    /// Where that cluster's Envoy reaches it.
    pub at: String,
    /// Whether `name` always means the same replica.
    pub exact: bool,
}

/// One node.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct NodeStatus {
    /// `hub` or a cluster's name.
    pub node: String,
    /// Its Envoys with an open stream.
    pub instances: Vec<Instance>,
    /// When its data-plane certificate ends.
    pub leaf_not_after: Option<i64>,
    /// When the credential that opens its stream ends.
    pub credential_not_after: Option<i64>,
    /// The revision of that credential.
    pub revision: Option<u64>,
    /// What its Envoys refused and should still have; it isn't sent again until it changes. Also while none is connected.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub quarantined: Vec<QuarantinedResource>,
}

/// A resource that an Envoy refused.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct QuarantinedResource {
    /// Its type: CDS, LDS, …
    pub kind: String,
    /// Its name.
    pub name: String,
    /// The version that was refused.
    pub version: String,
    /// The Envoy's words.
    pub message: String,
}

/// One Envoy process.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Instance {
    /// `node.id`, as it calls itself.
    pub id: String,
    /// Envoy's version.
    pub version: String,
    /// Where it connects from.
    pub address: String,
    /// The SPIFFE ID of its certificate: who it really is.
    pub spiffe_id: String,
    /// SHA-256 of that certificate.
    pub fingerprint: String,
    /// When that certificate ends, in seconds since 1970: the credential this Envoy really has, which may be an older one
    /// than Atlas would hand out now.
    pub credential_not_after: i64,
    /// Since when, in seconds since 1970.
    pub since: i64,
    /// How each type stands: SYNCED, STALE or NACK, with Envoy's words.
    pub types: BTreeMap<String, TypeStatus>,
}

/// How one type stands.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct TypeStatus {
    /// SYNCED, STALE or NACK.
    pub state: String,
    /// Envoy's words; empty unless NACK.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
}

/// Takes stock.
pub fn status(
    published: Option<&PublishedState>,
    nodes: &Nodes,
    streams: &Streams,
    now: i64,
) -> Status {
    let mut status = Status {
        version: env!("CARGO_PKG_VERSION").into(),
        now,
        ready: published.is_some(),
        leader: None,
        clusters: Vec::new(),
        nodes: Vec::new(),
        errors: Vec::new(),
        troubles: Vec::new(),
        findings: Vec::new(),
        authorities: BTreeMap::new(),
    };
    let Some(published) = published else { return status };
    let mut open: BTreeMap<NodeId, Vec<Arc<Stream>>> = BTreeMap::new();
    streams
        .open()
        .into_iter()
        .for_each(|stream| open.entry(stream.peer.node.clone()).or_default().push(stream));
    // Also those that wait for their manifest.
    let connected = open.keys().cloned();
    let all: BTreeSet<NodeId> = published
        .fleet
        .clusters
        .keys()
        .cloned()
        .map(NodeId::Cluster)
        .chain(connected)
        .chain([NodeId::Hub])
        .collect();
    let of = |node: &NodeId| open.get(node).map(Vec::as_slice).unwrap_or_default();
    status.nodes = all.iter().map(|node| node_status(published, nodes, of(node), node)).collect();
    status.clusters = clusters(published, |name| of(&NodeId::Cluster(name.clone())).len());
    status.errors = published.errors.iter().map(ToString::to_string).collect();
    status.troubles = published.last_error.iter().chain(&published.problems).cloned().collect();
    status.findings =
        published.findings.iter().cloned().chain(streams.not_tls.notes(now)).collect();
    status.authorities = published
        .authorities
        .iter()
        .map(|(authority, end)| (format!("{authority:?}").to_lowercase(), *end))
        .collect();
    status
}

fn clusters(
    published: &PublishedState,
    connected: impl Fn(&ClusterName) -> usize,
) -> Vec<ClusterStatus> {
    let of = |cluster: &atlas_core::model::Cluster| ClusterStatus {
        name: cluster.name.to_string(),
        addresses: cluster.addresses.iter().map(ToString::to_string).collect(),
        stores: cluster
            .stores
            .iter()
            .map(|store| StoreStatus {
                name: cluster.name.store(store.index),
                at: store.at.to_string(),
                exact: store.exact,
            })
            .collect(),
        connected: connected(&cluster.name),
    };
    published.fleet.clusters.values().map(|cluster| of(cluster)).collect()
}

fn node_status(
    published: &PublishedState,
    nodes: &Nodes,
    open: &[Arc<Stream>],
    node: &NodeId,
) -> NodeStatus {
    let ends = published.expiries.get(node).copied().unwrap_or_default();
    NodeStatus {
        node: node.to_string(),
        instances: open.iter().map(|stream| instance(nodes, stream)).collect(),
        leaf_not_after: ends.leaf,
        credential_not_after: ends.credential,
        revision: ends.revision,
        quarantined: xds::quarantined(nodes, node)
            .into_iter()
            .map(QuarantinedResource::from)
            .collect(),
    }
}

fn instance(nodes: &Nodes, stream: &Stream) -> Instance {
    let client = lock(&stream.client).clone();
    let standing = nodes.get(&stream.peer.node).map(|node| {
        let state = node.state();
        lock(&stream.session).status(&state.snapshot, &state.quarantine)
    });
    let types = standing.unwrap_or_default().into_iter().map(|(kind, standing)| {
        let (state, message) = match standing {
            ConfigStatus::Synced => ("SYNCED", String::new()),
            ConfigStatus::Stale => ("STALE", String::new()),
            ConfigStatus::Nack(message) => ("NACK", message),
        };
        (kind.to_string(), TypeStatus { state: state.into(), message })
    });
    Instance {
        spiffe_id: stream.peer.spiffe_id.clone(),
        fingerprint: stream.peer.fingerprint.clone(),
        credential_not_after: stream.peer.not_after,
        id: client.id,
        version: client.version,
        address: stream.peer.address.to_string(),
        since: stream.since,
        types: types.collect(),
    }
}

impl From<xds::Quarantined> for QuarantinedResource {
    fn from(of: xds::Quarantined) -> Self {
        Self { kind: of.kind.to_string(), name: of.name, version: of.version, message: of.message }
    }
}

impl Status {
    /// Whether something is rejected, or Atlas itself is in trouble.
    pub fn anything_rejected(&self) -> bool {
        !self.errors.is_empty()
            || !self.troubles.is_empty()
            || self.findings.iter().any(|finding| finding.severity == Severity::Rejected)
    }
}

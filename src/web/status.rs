//! The status of a running Atlas: served as JSON on `/api/v1/status`, read by `atlas status`.
//!
//! Times are in seconds since 1970.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use atlas_core::model::Cluster;
use atlas_core::name::{ClusterName, NodeId};
use atlas_core::validate::{Finding, Severity};
use atlas_core::xds::session::ConfigStatus;
use serde::{Deserialize, Serialize};

use crate::process::lock::lock;
use crate::state::{self, Nodes, PublishedState};
use crate::xds::open_streams::{Stream, Streams};

/// The status at one moment.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Status {
    /// Atlas's version.
    pub version: String,
    /// When this was made.
    pub now: i64,
    /// Whether there has been a complete reconcile.
    pub ready: bool,
    /// On Kubernetes: the name of the process that leads; empty while none does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub leader: Option<String>,
    /// The clusters in force.
    pub clusters: Vec<ClusterStatus>,
    /// The nodes, the hub first.
    pub nodes: Vec<NodeStatus>,
    /// Files that can't be read.
    pub errors: Vec<String>,
    /// What Atlas itself can't do, such as issue a certificate or write a file; and a root
    /// certificate that expires soon.
    #[serde(default, rename = "troubles")]
    pub problems: Vec<String>,
    /// What is wrong with objects, or worth knowing.
    pub findings: Vec<Finding>,
    /// When the certificate of each authority expires.
    pub authorities: BTreeMap<String, i64>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ClusterStatus {
    pub name: String,
    /// Where its Envoy listens.
    pub addresses: Vec<String>,
    /// Its stores, by the names under which Thanos knows them.
    pub stores: Vec<StoreStatus>,
    /// How many of its Envoys are connected.
    pub connected: usize,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct StoreStatus {
    /// `<cluster>-thanos-sidecarN`.
    pub name: String,
    /// Where that cluster's Envoy reaches it.
    pub at: String,
    /// Whether `name` always means the same replica.
    pub exact: bool,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct NodeStatus {
    /// `hub` or a cluster's name.
    pub node: String,
    /// Its Envoys with an open stream.
    pub instances: Vec<Instance>,
    /// When its data-plane certificate expires.
    pub leaf_not_after: Option<i64>,
    /// When the credential with which its Envoys open streams expires.
    pub credential_not_after: Option<i64>,
    /// The revision of that credential.
    pub revision: Option<u64>,
    /// Resources that its Envoys refused and should still have. They aren't sent again until they
    /// change. They are listed while no Envoy is connected, too.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub quarantined: Vec<QuarantineStatus>,
}

/// A resource that an Envoy refused.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct QuarantineStatus {
    /// Its type: CDS, LDS, …
    pub kind: String,
    pub name: String,
    /// The version that was refused.
    pub version: String,
    /// Envoy's error message.
    pub message: String,
}

/// One connected Envoy.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Instance {
    /// `node.id`, as the Envoy says itself.
    pub id: String,
    /// Envoy's version, as it says itself.
    pub version: String,
    /// The address that it connects from.
    pub address: String,
    /// The SPIFFE ID of its certificate, which decides what it gets.
    pub spiffe_id: String,
    /// The SHA-256 of that certificate.
    pub fingerprint: String,
    /// When that certificate expires. It may be an older credential than the node's current one.
    pub credential_not_after: i64,
    /// When its stream was opened.
    pub since: i64,
    /// The state of each type of resources.
    pub types: BTreeMap<String, TypeStatus>,
}

/// Whether an Envoy has accepted the current resources of a type.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct TypeStatus {
    /// SYNCED (it has), STALE (not yet) or NACK (it refused one).
    pub state: String,
    /// Envoy's error message; empty unless NACK.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
}

/// The current status, without the leader.
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
        problems: Vec::new(),
        findings: Vec::new(),
        authorities: BTreeMap::new(),
    };
    let Some(published) = published else { return status };
    let mut open: BTreeMap<NodeId, Vec<Arc<Stream>>> = BTreeMap::new();
    for stream in streams.open() {
        open.entry(stream.client.node.clone()).or_default().push(stream);
    }
    // A connected cluster may have no manifest.
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
    let streams_of = |node: &NodeId| open.get(node).map(Vec::as_slice).unwrap_or_default();
    status.nodes =
        all.iter().map(|node| node_status(published, nodes, streams_of(node), node)).collect();
    status.clusters =
        cluster_statuses(published, |name| streams_of(&NodeId::Cluster(name.clone())).len());
    status.errors = published.errors.iter().map(ToString::to_string).collect();
    status.problems = published.last_error.iter().chain(&published.problems).cloned().collect();
    status.findings =
        published.findings.iter().cloned().chain(streams.plaintext_clients.notes(now)).collect();
    status.authorities = published
        .authorities
        .iter()
        .map(|(authority, end)| (format!("{authority:?}").to_lowercase(), *end))
        .collect();
    status
}

fn cluster_statuses(
    published: &PublishedState,
    connected: impl Fn(&ClusterName) -> usize,
) -> Vec<ClusterStatus> {
    let status = |cluster: &Cluster| ClusterStatus {
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
    published.fleet.clusters.values().map(|cluster| status(cluster)).collect()
}

fn node_status(
    published: &PublishedState,
    nodes: &Nodes,
    open: &[Arc<Stream>],
    node: &NodeId,
) -> NodeStatus {
    let expiries = published.expiries.get(node).copied().unwrap_or_default();
    NodeStatus {
        node: node.to_string(),
        instances: open.iter().map(|stream| instance(nodes, stream)).collect(),
        leaf_not_after: expiries.leaf,
        credential_not_after: expiries.credential,
        revision: expiries.revision,
        quarantined: nodes.quarantined(node).into_iter().map(QuarantineStatus::from).collect(),
    }
}

fn instance(nodes: &Nodes, stream: &Stream) -> Instance {
    let description = lock(&stream.self_description).clone();
    let standing = nodes.get(&stream.client.node).map(|node| {
        let resources = node.resources();
        lock(&stream.session).status(&resources.snapshot, &resources.quarantine)
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
        spiffe_id: stream.client.spiffe_id.clone(),
        fingerprint: stream.client.fingerprint.clone(),
        credential_not_after: stream.client.not_after,
        id: description.id,
        version: description.version,
        address: stream.client.address.to_string(),
        since: stream.opened,
        types: types.collect(),
    }
}

impl From<state::QuarantinedResource> for QuarantineStatus {
    fn from(resource: state::QuarantinedResource) -> Self {
        let state::QuarantinedResource { kind, name, version, message } = resource;
        Self { kind: kind.to_string(), name, version, message }
    }
}

impl Status {
    /// Whether something is rejected, or Atlas itself has a problem.
    pub fn has_problems(&self) -> bool {
        !self.errors.is_empty()
            || !self.problems.is_empty()
            || self.findings.iter().any(|finding| finding.severity == Severity::Rejected)
    }
}

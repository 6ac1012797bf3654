//! The xDS snapshot of each node: changed by the engine, followed by the node's streams.
//!
//! Each node has its own lock and its own notification. So a change to one cluster wakes the
//! streams of that cluster and of the hub, and no others.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, RwLock};

use atlas_core::name::NodeId;
use atlas_core::plan::NodeChange;
use atlas_core::xds::quarantine::Quarantine;
use atlas_core::xds::resource::ResourceType;
use atlas_core::xds::snapshot::Snapshot;
use tokio::sync::watch;

use crate::process::lock::{lock, read, write};

/// All nodes that are served.
pub struct Nodes {
    nodes: RwLock<BTreeMap<NodeId, Arc<Node>>>,
    /// Notified when a node is added.
    added: watch::Sender<()>,
}

pub struct Node {
    resources: Mutex<NodeResources>,
    /// Notified when the snapshot changes. The value is true once the node has been removed; that
    /// is the last notification.
    changes: watch::Sender<bool>,
}

/// The resources that a node's Envoys should have, and those that one of them refused.
#[derive(Default)]
pub struct NodeResources {
    /// The resources that they should have.
    pub snapshot: Snapshot,
    /// The versions that were refused. They aren't sent again.
    pub quarantine: Quarantine,
}

/// A resource that an Envoy refused and should still have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QuarantinedResource {
    pub kind: ResourceType,
    pub name: String,
    /// The version that was refused.
    pub version: String,
    /// Envoy's error message.
    pub message: String,
}

impl Default for Nodes {
    fn default() -> Self {
        Self { nodes: RwLock::default(), added: watch::Sender::new(()) }
    }
}

impl Nodes {
    /// The IDs of all nodes.
    pub fn ids(&self) -> Vec<NodeId> {
        read(&self.nodes).keys().cloned().collect()
    }

    /// Finds a node.
    pub fn get(&self, id: &NodeId) -> Option<Arc<Node>> {
        read(&self.nodes).get(id).cloned()
    }

    /// Waits until a node is there.
    pub async fn wait_for(&self, id: &NodeId) -> Arc<Node> {
        let mut added = self.added.subscribe();
        loop {
            added.borrow_and_update();
            if let Some(node) = self.get(id) {
                return node;
            }
            // Can't fail: `self` owns the sender.
            let _ = added.changed().await;
        }
    }

    /// The quarantined resources of a node, whether or not one of its Envoys is connected.
    pub fn quarantined(&self, id: &NodeId) -> Vec<QuarantinedResource> {
        self.get(id).map(|node| node.quarantined()).unwrap_or_default()
    }

    /// Applies a plan's changes and notifies the streams of the nodes that differ; returns how
    /// many nodes that are.
    pub fn apply(&self, changes: Vec<(NodeId, NodeChange)>) -> usize {
        let mut changed = 0;
        for (id, change) in changes {
            if self.apply_one(id, change) {
                changed += 1;
            }
        }
        changed
    }

    /// Applies a change to one node; says whether the node differs.
    fn apply_one(&self, id: NodeId, change: NodeChange) -> bool {
        let (node, is_new) = match (self.get(&id), &change) {
            (Some(node), NodeChange::Remove) => {
                write(&self.nodes).remove(&id);
                node.changes.send_replace(true);
                return true;
            }
            // Changes to single resources say nothing of a node that isn't there.
            (None, NodeChange::Remove | NodeChange::Apply(_)) => return false,
            (Some(node), _) => (node, false),
            (None, _) => (Arc::new(Node::new()), true),
        };
        let differs = {
            let snapshot = &mut node.resources().snapshot;
            match change {
                NodeChange::Replace(resources) => snapshot.replace_all(resources),
                NodeChange::Apply(changes) => snapshot.apply(changes),
                NodeChange::Remove => 0,
            }
        };
        if is_new {
            write(&self.nodes).insert(id, node);
            self.added.send_replace(());
        } else if differs > 0 {
            node.changes.send_replace(false);
        }
        is_new || differs > 0
    }
}

impl Node {
    fn new() -> Self {
        Self { resources: Mutex::default(), changes: watch::Sender::new(false) }
    }

    /// Locks the node's resources. The lock must not be held across an `await`.
    pub fn resources(&self) -> MutexGuard<'_, NodeResources> {
        lock(&self.resources)
    }

    /// Is notified of every change to the snapshot. The value says whether the node has been
    /// removed.
    pub fn changes(&self) -> watch::Receiver<bool> {
        self.changes.subscribe()
    }

    fn quarantined(&self) -> Vec<QuarantinedResource> {
        let resources = self.resources();
        let mut quarantined = Vec::new();
        for (kind, name, refused) in resources.quarantine.entries() {
            // A resource that has changed since is no longer quarantined, although the quarantine
            // keeps the entry until a stream looks at it.
            let current = resources.snapshot.get(kind, name);
            if current.is_some_and(|resource| resource.version == refused.version) {
                quarantined.push(QuarantinedResource {
                    kind,
                    name: name.to_owned(),
                    version: refused.version.to_string(),
                    message: refused.message.to_string(),
                });
            }
        }
        quarantined
    }
}

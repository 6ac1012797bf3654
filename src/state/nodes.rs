//! What each node should have: changed by the controller, followed by the node's streams.
//!
//! Each node has a lock and a bell of its own: a change to one cluster wakes the streams of that cluster and of the hub, however many
//! others there are.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, RwLock};

use atlas_core::name::NodeId;
use atlas_core::plan::NodeChange;
use atlas_core::xds::quarantine::Quarantine;
use atlas_core::xds::snapshot::Snapshot;
use tokio::sync::watch;

use crate::process::lock::{lock, read, write};

/// All nodes that are served.
pub struct Nodes {
    nodes: RwLock<BTreeMap<NodeId, Arc<Node>>>,
    /// Rings when a node comes.
    arrivals: watch::Sender<()>,
}

/// One node.
pub struct Node {
    state: Mutex<NodeState>,
    /// Rings when its snapshot changes, and for the last time when the node goes.
    bell: watch::Sender<bool>,
}

/// What a node should have, and what of it its Envoys refused.
#[derive(Default)]
pub struct NodeState {
    /// What it should have.
    pub snapshot: Snapshot,
    /// What was refused.
    pub quarantine: Quarantine,
}

impl Default for Nodes {
    fn default() -> Self {
        Self { nodes: RwLock::default(), arrivals: watch::Sender::new(()) }
    }
}

impl Nodes {
    /// Those served now.
    pub fn all(&self) -> Vec<NodeId> {
        read(&self.nodes).keys().cloned().collect()
    }

    /// One of them.
    pub fn get(&self, id: &NodeId) -> Option<Arc<Node>> {
        read(&self.nodes).get(id).cloned()
    }

    /// One of them, as soon as it is there.
    pub async fn wait_for(&self, id: &NodeId) -> Arc<Node> {
        let mut arrivals = self.arrivals.subscribe();
        loop {
            arrivals.borrow_and_update();
            if let Some(node) = self.get(id) {
                return node;
            }
            // The sender is this object's own.
            let _ = arrivals.changed().await;
        }
    }

    /// Takes a plan's changes and rings for those who follow; returns how many nodes differ.
    pub fn apply(&self, changes: Vec<(NodeId, NodeChange)>) -> usize {
        changes
            .into_iter()
            .filter_map(|(id, change)| self.apply_one(id, change).then_some(()))
            .count()
    }

    fn apply_one(&self, id: NodeId, change: NodeChange) -> bool {
        let (node, is_new) = match (self.get(&id), &change) {
            (Some(node), NodeChange::Gone) => {
                write(&self.nodes).remove(&id);
                node.bell.send_replace(true);
                return true;
            }
            // A part of what nobody has is nothing.
            (None, NodeChange::Gone | NodeChange::Some(_)) => return false,
            (Some(node), _) => (node, false),
            (None, _) => {
                (Arc::new(Node { state: Mutex::default(), bell: watch::Sender::new(false) }), true)
            }
        };
        let differs = {
            let snapshot = &mut node.state().snapshot;
            match change {
                NodeChange::All(resources) => snapshot.replace_all(resources),
                NodeChange::Some(changes) => snapshot.apply(changes),
                NodeChange::Gone => 0,
            }
        };
        if is_new {
            write(&self.nodes).insert(id, node);
            self.arrivals.send_replace(());
        } else if differs > 0 {
            node.bell.send_replace(false);
        }
        is_new || differs > 0
    }
}

impl Node {
    /// What it should have, and the lock on it: not to be held while waiting.
    pub fn state(&self) -> MutexGuard<'_, NodeState> {
        lock(&self.state)
    }

    /// Rings at every change. The value says whether the node is gone.
    pub fn bell(&self) -> watch::Receiver<bool> {
        self.bell.subscribe()
    }
}

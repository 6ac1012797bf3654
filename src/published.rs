//! What is in force: the result of the last round of the controller, read by everyone else.

use std::sync::Arc;

use atlas_core::intake::Finding;
use atlas_core::manifest::ManifestError;
use atlas_core::model::Fleet;
use atlas_core::name::NodeId;
use atlas_core::pki::Inventory;
use atlas_core::plan::Plan;

use crate::ca::Credential;

/// One round's result. Never changed, only replaced.
#[derive(Clone, Debug)]
pub struct Published {
    /// What was understood.
    pub fleet: Fleet,
    /// What people should know about their objects.
    pub findings: Vec<Finding>,
    /// Files that can't be read.
    pub errors: Vec<ManifestError>,
    /// What every node and Thanos should have.
    pub plan: Plan,
    /// When each certificate ends.
    pub inventory: Inventory,
    /// The bootstrap credentials that count.
    pub credentials: Vec<Credential>,
    /// What went wrong for one node, certificate or file of the state directory while the others got theirs, and what
    /// people must know of the root and the clock.
    pub troubles: Vec<String>,
    /// Why the latest round failed; all the rest is of the last one that succeeded.
    pub last_error: Option<String>,
}

impl Published {
    /// What a node should have; `None` if there is no such node.
    pub fn snapshot(&self, node: &NodeId) -> Option<&Arc<atlas_core::xds::snapshot::Snapshot>> {
        self.plan.nodes.get(node)
    }

    /// How many things are wrong: files, and objects that are rejected.
    pub fn rejected(&self) -> usize {
        use atlas_core::intake::Severity;
        self.errors.len() + self.findings.iter().filter(|finding| finding.severity == Severity::Rejected).count()
    }
}

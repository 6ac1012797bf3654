//! The incremental plan: only what a change affects is planned again.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use super::{hub, plan_cluster};
use crate::model::Fleet;
use crate::name::{ClusterName, NodeId};
use crate::pki::Trust;
use crate::xds::resource::{Resource, ResourceType, Version};
use crate::xds::snapshot::Change;

/// What to plan again.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scope {
    /// Everything.
    pub all: bool,
    /// The resources of the hub that don't depend on clusters.
    pub hub: bool,
    /// What depends on the hub's Alertmanagers: resources of the hub, and the alert routes of each
    /// cluster.
    pub alertmanagers: bool,
    /// These clusters. Those that aren't in the fleet are removed.
    pub clusters: BTreeSet<ClusterName>,
}

impl Scope {
    /// The scope of a first plan.
    pub fn everything() -> Self {
        Self { all: true, ..Self::default() }
    }

    /// Whether there is nothing to plan.
    pub fn is_empty(&self) -> bool {
        !self.all && !self.hub && !self.alertmanagers && self.clusters.is_empty()
    }

    /// Adds another scope.
    pub fn extend(&mut self, other: Self) {
        self.all |= other.all;
        self.hub |= other.hub;
        self.alertmanagers |= other.alertmanagers;
        self.clusters.extend(other.clusters);
    }
}

/// How one node's resources change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NodeChange {
    /// It has exactly these resources.
    Replace(Vec<Arc<Resource>>),
    /// These resources change, the others stay.
    Apply(Vec<Change>),
    /// The node is removed, or has no certificate yet.
    Remove,
}

/// Plans, and keeps which resources of the hub belong to which cluster.
#[derive(Debug, Default)]
pub struct Planner {
    /// The resources of each cluster on the hub.
    on_hub: BTreeMap<ClusterName, Box<[Arc<Resource>]>>,
    /// The other resources of the hub; `None` until its certificate has been issued.
    of_hub: Option<Vec<Arc<Resource>>>,
    /// The clusters whose Envoys have resources.
    planned: BTreeSet<ClusterName>,
    pool: Pool,
}

impl Planner {
    /// Nothing is planned yet, so the first scope must be [`Scope::everything`].
    pub fn new() -> Self {
        Self::default()
    }

    /// Plans what is in scope, and returns how the resources of nodes change. Of `trust` it reads
    /// the hub's leaf, and the leaves and revisions of clusters in scope.
    pub fn update(
        &mut self,
        fleet: &Fleet,
        trust: &Trust,
        scope: &Scope,
    ) -> Vec<(NodeId, NodeChange)> {
        let mut changes = Vec::new();
        let mut hub_changes = Vec::new();
        let clusters: BTreeSet<&ClusterName> = match scope.all {
            true => fleet.clusters.keys().chain(self.on_hub.keys()).collect(),
            false => scope.clusters.iter().collect(),
        };
        for name in clusters.into_iter().cloned().collect::<Vec<_>>() {
            let planned =
                fleet.clusters.get(&name).map(|cluster| plan_cluster(fleet, cluster, trust));
            let (own, on_hub) =
                planned.map_or((None, Vec::new()), |planned| (planned.own, planned.on_hub));
            hub_changes.extend(self.replace_on_hub(&name, on_hub));
            match &own {
                Some(_) => self.planned.insert(name.clone()),
                None => self.planned.remove(&name),
            };
            let change =
                own.map_or(NodeChange::Remove, |own| NodeChange::Replace(self.pool.share_all(own)));
            changes.push((NodeId::Cluster(name), change));
        }
        if scope.alertmanagers && !scope.all {
            let alerts = super::cluster::alert_routes(fleet);
            let others = self.planned.iter().filter(|name| !scope.clusters.contains(*name));
            let change = || NodeChange::Apply(vec![Change::Set(Arc::clone(&alerts))]);
            changes.extend(others.map(|name| (NodeId::Cluster(name.clone()), change())));
        }
        let hub = self.update_hub(fleet, trust, scope, hub_changes);
        // The hub last, so that clusters are more likely to be ready when it sends requests.
        changes.extend(hub.map(|change| (NodeId::Hub, change)));
        self.pool.prune();
        changes
    }

    /// Replaces the resources of a cluster on the hub, and returns the differences.
    fn replace_on_hub(&mut self, name: &ClusterName, resources: Vec<Arc<Resource>>) -> Vec<Change> {
        let before = self.on_hub.remove(name).unwrap_or_default();
        let gone = before.iter().filter(|old| {
            resources.iter().all(|new| (new.kind, &new.name) != (old.kind, &old.name))
        });
        let gone = gone.map(|old| Change::Remove(old.kind, Arc::clone(&old.name)));
        let new = resources
            .iter()
            .filter(|new| !before.contains(new))
            .map(|new| Change::Set(Arc::clone(new)));
        let changes = gone.chain(new).collect();
        if !resources.is_empty() {
            self.on_hub.insert(name.clone(), resources.into());
        }
        changes
    }

    fn update_hub(
        &mut self,
        fleet: &Fleet,
        trust: &Trust,
        scope: &Scope,
        mut changes: Vec<Change>,
    ) -> Option<NodeChange> {
        if scope.all || scope.hub || scope.alertmanagers {
            let of_hub = hub::resources(fleet, trust);
            match (&self.of_hub, &of_hub) {
                (Some(before), Some(now)) if !scope.all => {
                    let gone = before.iter().filter(|old| {
                        now.iter().all(|new| (new.kind, &new.name) != (old.kind, &old.name))
                    });
                    changes.extend(gone.map(|old| Change::Remove(old.kind, Arc::clone(&old.name))));
                    changes.extend(now.iter().cloned().map(Change::Set));
                }
                (_, Some(now)) => {
                    let all = now.iter().chain(self.on_hub.values().flatten()).cloned().collect();
                    self.of_hub = of_hub;
                    return Some(NodeChange::Replace(all));
                }
                (_, None) => {
                    self.of_hub = None;
                    return Some(NodeChange::Remove);
                }
            }
            self.of_hub = of_hub;
        }
        (self.of_hub.is_some() && !changes.is_empty()).then_some(NodeChange::Apply(changes))
    }
}

/// Keeps equal resources of different clusters once. Half of a cluster's are the same everywhere.
#[derive(Debug, Default)]
struct Pool {
    resources: HashMap<(ResourceType, Arc<str>, Version), Arc<Resource>>,
    /// The number of resources after the last pruning.
    pruned: usize,
}

impl Pool {
    fn share_all(&mut self, resources: Vec<Arc<Resource>>) -> Vec<Arc<Resource>> {
        resources.into_iter().map(|resource| self.share(resource)).collect()
    }

    fn share(&mut self, resource: Arc<Resource>) -> Arc<Resource> {
        // No other node has the same leaf, and a private key is kept no longer than needed.
        if resource.kind == ResourceType::Secret && &*resource.name == crate::envoy::secret::LEAF {
            return resource;
        }
        let key = (resource.kind, Arc::clone(&resource.name), resource.version);
        Arc::clone(self.resources.entry(key).or_insert(resource))
    }

    /// Removes unused resources when their number has doubled, so that the cost for each change is
    /// small.
    fn prune(&mut self) {
        if self.resources.len() > 2 * self.pruned + 64 {
            self.resources.retain(|_, resource| Arc::strong_count(resource) > 1);
            self.resources.shrink_to_fit();
            self.pruned = self.resources.len();
        }
    }
}

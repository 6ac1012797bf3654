//! The plan, kept up to date: of a change only what it concerns is planned again.

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
    /// What the hub has whichever clusters there are.
    pub hub: bool,
    /// What depends on the hub's Alertmanagers: there, and of each cluster one resource, the same
    /// for all.
    pub alertmanagers: bool,
    /// These clusters; one that is not in the fleet goes.
    pub clusters: BTreeSet<ClusterName>,
}

impl Scope {
    /// Everything.
    pub fn everything() -> Self {
        Self { all: true, ..Self::default() }
    }

    /// Whether there is nothing to plan.
    pub fn is_empty(&self) -> bool {
        !self.all && !self.hub && !self.alertmanagers && self.clusters.is_empty()
    }

    /// Takes in another.
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
    /// It has exactly these.
    All(Vec<Arc<Resource>>),
    /// These change, and the others stay.
    Some(Vec<Change>),
    /// It has nothing to say to anyone any more, or not yet.
    Gone,
}

/// Plans, and remembers what of the hub's belongs to which cluster.
#[derive(Debug, Default)]
pub struct Planner {
    /// What each cluster adds to the hub.
    on_hub: BTreeMap<ClusterName, Box<[Arc<Resource>]>>,
    /// What the hub has whichever clusters there are; `None` until its certificate has been issued.
    constant: Option<Vec<Arc<Resource>>>,
    /// Clusters that have a plan of their own.
    planned: BTreeSet<ClusterName>,
    pool: Pool,
}

impl Planner {
    /// Nothing planned yet: the first scope is everything.
    pub fn new() -> Self {
        Self::default()
    }

    /// Plans what is in scope. Of `trust` it reads the hub's leaf, and the leaves and revisions of
    /// clusters in scope.
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
            hub_changes.extend(self.on_hub(&name, on_hub));
            match &own {
                Some(_) => self.planned.insert(name.clone()),
                None => self.planned.remove(&name),
            };
            let change =
                own.map_or(NodeChange::Gone, |own| NodeChange::All(self.pool.share_all(own)));
            changes.push((NodeId::Cluster(name), change));
        }
        if scope.alertmanagers && !scope.all {
            let alerts = super::cluster::alerts(fleet);
            let others = self.planned.iter().filter(|name| !scope.clusters.contains(*name));
            let change = || NodeChange::Some(vec![Change::Set(Arc::clone(&alerts))]);
            changes.extend(others.map(|name| (NodeId::Cluster(name.clone()), change())));
        }
        let hub = self.hub(fleet, trust, scope, hub_changes);
        // The clusters first: what is new there should be ready when the hub sends traffic.
        changes.extend(hub.map(|change| (NodeId::Hub, change)));
        self.pool.prune();
        changes
    }

    /// Takes what a cluster adds to the hub; returns how that differs.
    fn on_hub(&mut self, name: &ClusterName, resources: Vec<Arc<Resource>>) -> Vec<Change> {
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

    fn hub(
        &mut self,
        fleet: &Fleet,
        trust: &Trust,
        scope: &Scope,
        mut changes: Vec<Change>,
    ) -> Option<NodeChange> {
        if scope.all || scope.hub || scope.alertmanagers {
            let constant = hub::constant(fleet, trust);
            match (&self.constant, &constant) {
                (Some(before), Some(now)) if !scope.all => {
                    let gone = before.iter().filter(|old| {
                        now.iter().all(|new| (new.kind, &new.name) != (old.kind, &old.name))
                    });
                    changes.extend(gone.map(|old| Change::Remove(old.kind, Arc::clone(&old.name))));
                    changes.extend(now.iter().cloned().map(Change::Set));
                }
                (_, Some(now)) => {
                    let all = now.iter().chain(self.on_hub.values().flatten()).cloned().collect();
                    self.constant = constant;
                    return Some(NodeChange::All(all));
                }
                (_, None) => {
                    self.constant = None;
                    return Some(NodeChange::Gone);
                }
            }
            self.constant = constant;
        }
        (self.constant.is_some() && !changes.is_empty()).then_some(NodeChange::Some(changes))
    }
}

/// Equal resources of different clusters, kept once: half of a cluster's are the same everywhere.
#[derive(Debug, Default)]
struct Pool {
    resources: HashMap<(ResourceType, Arc<str>, Version), Arc<Resource>>,
    /// How many there were after the last pruning.
    pruned: usize,
}

impl Pool {
    fn share_all(&mut self, resources: Vec<Arc<Resource>>) -> Vec<Arc<Resource>> {
        resources.into_iter().map(|resource| self.share(resource)).collect()
    }

    fn share(&mut self, resource: Arc<Resource>) -> Arc<Resource> {
        // A node's own leaf is nobody else's; a key is kept no longer than needed.
        if resource.kind == ResourceType::Secret && &*resource.name == crate::envoy::secret::LEAF {
            return resource;
        }
        let key = (resource.kind, Arc::clone(&resource.name), resource.version);
        Arc::clone(self.resources.entry(key).or_insert(resource))
    }

    /// Lets go of what nobody uses any more, now and then: a walk for each doubling costs nothing
    /// per change.
    fn prune(&mut self) {
        if self.resources.len() > 2 * self.pruned + 64 {
            self.resources.retain(|_, resource| Arc::strong_count(resource) > 1);
            self.resources.shrink_to_fit();
            self.pruned = self.resources.len();
        }
    }
}

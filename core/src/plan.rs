//! `plan(&Fleet, &Trust) → Plan`: what each node should have, and what Thanos should know.
//!
//! ```text
//! Fleet ─┬─▶ per cluster: its own snapshot, its part of the hub's ─┬─▶ Plan { nodes }
//! Trust ─┘   constant:    the hub's listeners and routes           ┘
//! Fleet ───▶ [`stores`]: what Thanos Query and DNS should know of the stores
//! ```
//!
//! A running Atlas plans with a [`Planner`]: the same, for what has changed.
//!
//! Architecture invariant: no Envoy resource holds a list of all clusters, so a change to one
//! cluster concerns the resources of that cluster alone, on the hub as there.

mod cluster;
mod expected_san;
mod hub;
mod planner;

pub use planner::{NodeChange, Planner, Scope};

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::envoy::cluster::EnvoyCluster;
use crate::model::{Cluster, Fleet};
use crate::name::NodeId;
use crate::pki::Trust;
use crate::xds::resource::{Resource, ResourceType};
use crate::xds::snapshot::Snapshot;

/// What should be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// What each node gets. A node whose certificate hasn't been issued yet is missing: an Envoy
    /// cluster without its secret would hold up the whole Envoy.
    pub nodes: BTreeMap<NodeId, Arc<Snapshot>>,
}

/// What one cluster adds to the plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterPlan {
    /// Its own Envoy's resources; `None` until its certificate has been issued.
    pub own: Option<Vec<Arc<Resource>>>,
    /// Its resources on the hub's Envoy.
    pub on_hub: Vec<Arc<Resource>>,
}

/// Plans the whole fleet. Equal input gives equal output, to the byte.
pub fn plan(fleet: &Fleet, trust: &Trust) -> Plan {
    let mut nodes = BTreeMap::new();
    let mut hub = hub::constant(fleet, trust);
    for cluster in fleet.clusters.values() {
        let planned = plan_cluster(fleet, cluster, trust);
        if let Some(own) = planned.own {
            nodes
                .insert(NodeId::Cluster(cluster.name.clone()), Arc::new(own.into_iter().collect()));
        }
        if let Some(hub) = &mut hub {
            hub.extend(planned.on_hub);
        }
    }
    if let Some(hub) = hub {
        nodes.insert(NodeId::Hub, Arc::new(hub.into_iter().collect()));
    }
    Plan { nodes }
}

/// Plans one cluster. Of the fleet it reads the settings and the hub's Alertmanagers, never another
/// cluster.
pub fn plan_cluster(fleet: &Fleet, cluster: &Cluster, trust: &Trust) -> ClusterPlan {
    ClusterPlan {
        own: cluster::own(fleet, cluster, trust),
        on_hub: hub::of_cluster(cluster, trust),
    }
}

/// An Envoy cluster as a resource.
fn envoy_cluster(message: &EnvoyCluster) -> Arc<Resource> {
    Resource::new(ResourceType::Cluster, message.name.clone(), message)
}

#[cfg(test)]
mod tests;

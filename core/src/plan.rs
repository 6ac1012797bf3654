//! `plan(&Fleet, &Trust) → Plan`: the resources of every Envoy.
//!
//! ```text
//! Fleet ─┬─▶ of each cluster: its own Envoys' resources, its resources on the hub ─┬─▶ Plan { nodes }
//! Trust ─┘   of the hub: the resources that don't depend on clusters               ┘
//! ```
//!
//! A running Atlas uses a [`Planner`], which plans only what a change affects.
//!
//! Architecture invariant: no resource holds a list of all clusters, so a change of one cluster
//! changes only the resources of that cluster, on its own Envoys and on the hub's.

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

/// The resources of every node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// The snapshot of each node whose certificate has been issued. Without its secrets an Envoy
    /// would wait for them and use none of its resources.
    pub nodes: BTreeMap<NodeId, Arc<Snapshot>>,
}

/// The resources of one cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterPlan {
    /// On its own Envoys; `None` until its certificate has been issued.
    pub own: Option<Vec<Arc<Resource>>>,
    /// On the hub's Envoys.
    pub on_hub: Vec<Arc<Resource>>,
}

/// Plans the whole fleet. Equal input gives equal output, to the byte.
pub fn plan(fleet: &Fleet, trust: &Trust) -> Plan {
    let mut nodes = BTreeMap::new();
    let mut hub = hub::resources(fleet, trust);
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

/// Plans one cluster. Of the fleet it reads the settings and the hub's Alertmanagers, but no other
/// cluster.
pub fn plan_cluster(fleet: &Fleet, cluster: &Cluster, trust: &Trust) -> ClusterPlan {
    ClusterPlan {
        own: cluster::resources(fleet, cluster, trust),
        on_hub: hub::resources_of_cluster(cluster, trust),
    }
}

/// An Envoy cluster as a resource.
fn envoy_cluster(message: &EnvoyCluster) -> Arc<Resource> {
    Resource::new(ResourceType::Cluster, message.name.clone(), message)
}

#[cfg(test)]
mod tests;

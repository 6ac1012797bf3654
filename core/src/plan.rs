//! `plan(&Fleet, &Trust) → Plan`: what each node should have, and what Thanos should know.
//!
//! ```text
//! Fleet ─┬─▶ per cluster: its own snapshot, its part of the hub's ─┬─▶ Plan { nodes, endpoints, zone }
//! Trust ─┘   constant:    the hub's listeners and routes           ┘
//! ```
//!
//! Architecture invariant: no Envoy resource holds a list of all clusters, so a change to one cluster concerns the
//! resources of that cluster alone, on the hub as there.

pub mod carry;
mod cluster;
pub mod endpoints;
mod hub;
pub mod nodefiles;
pub mod objects;
pub mod values;
pub mod zone;

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::model::{Cluster, Fleet};
use crate::name::NodeId;
use crate::pki::Trust;
use crate::xds::snapshot::{Resource, Snapshot};

/// What should be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// What each node gets. A node whose certificate hasn't been issued yet is missing: an Envoy cluster without its
    /// secret would hold up the whole Envoy.
    pub nodes: BTreeMap<NodeId, Arc<Snapshot>>,
    /// What Thanos Query's endpoint SD file says.
    pub endpoints: String,
    /// What DNS says of the stores.
    pub zone: zone::Zone,
}

/// What one cluster adds to the plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterPlan {
    /// Its own Envoy's resources; `None` until its certificate has been issued.
    pub own: Option<Arc<Snapshot>>,
    /// Its resources on the hub's Envoy.
    pub on_hub: Vec<Arc<Resource>>,
}

/// Plans the whole fleet. Equal input gives equal output, to the byte.
pub fn plan(fleet: &Fleet, trust: &Trust) -> Plan {
    let mut nodes = BTreeMap::new();
    let mut hub: Option<Snapshot> = hub::constant(fleet, trust).map(|resources| resources.into_iter().collect());
    for cluster in fleet.clusters.values() {
        let planned = plan_cluster(fleet, cluster, trust);
        if let Some(own) = planned.own {
            nodes.insert(NodeId::Cluster(cluster.name.clone()), own);
        }
        if let Some(hub) = &mut hub {
            planned.on_hub.into_iter().for_each(|resource| hub.insert(resource));
        }
    }
    if let Some(hub) = hub {
        nodes.insert(NodeId::Hub, Arc::new(hub));
    }
    Plan { nodes, endpoints: endpoints::endpoints(fleet), zone: zone::zone(fleet) }
}

/// Plans one cluster. Of the fleet it reads the settings and the hub's Alertmanagers, never another cluster.
pub fn plan_cluster(fleet: &Fleet, cluster: &Cluster, trust: &Trust) -> ClusterPlan {
    ClusterPlan {
        own: cluster::own(fleet, cluster, trust).map(|resources| Arc::new(resources.into_iter().collect())),
        on_hub: hub::of_cluster(cluster, trust),
    }
}

#[cfg(test)]
mod tests;

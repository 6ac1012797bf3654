//! The Kubernetes objects of a plan, as [`Object`]s.
//!
//! ```text
//! per cluster    Service <cluster>-thanos-sidecarN   the hub's Envoys under the name of that store
//!                Secret  <cluster>-envoy-values      what its Envoy is installed with
//! for the hub    Secret  atlas-hub                   what its Envoys start from
//!                Secret  atlas-envoy-values          the same as Helm values, for an Envoy that is installed by hand
//!                ConfigMap atlas-coredns             the DNS zone
//!                ConfigMap atlas-thanos-endpoints    Thanos Query's endpoint SD file
//! ```

use std::collections::BTreeMap;

use super::nodefiles::{node_bootstrap, node_files};
use super::values;
use crate::keys::{self, port};
use crate::model::{Cluster, Fleet};
use crate::name::NodeId;
use crate::object::{Content, Object, Owner, Part};
use crate::pki::{Leaf, Trust};

/// The objects of one cluster. Of the fleet they depend on the settings alone. `opener` is what its Envoy opens its stream
/// with; without it there are no values yet.
pub fn of_cluster(fleet: &Fleet, cluster: &Cluster, trust: &Trust, opener: Option<&Leaf>) -> Vec<Object> {
    let mut objects: Vec<Object> = cluster.stores.iter().map(|store| service(fleet, cluster, store.index)).collect();
    let node = NodeId::Cluster(cluster.name.clone());
    // Without a bootstrap the values would install an Envoy that can't start: a finding says what is missing.
    if let (Some(opener), Ok(bootstrap)) = (opener, node_bootstrap(fleet, trust, &node, keys::ENVOY_DIR)) {
        let files = node_files(Some(&bootstrap), trust, opener, keys::ENVOY_DIR);
        let mut data = BTreeMap::from([
            (values::VALUES.to_owned(), values::envoy(&node.to_string(), cluster.envoy_replicas, cluster.envoy_memory, &files)),
            (values::PROMETHEUS_VALUES.to_owned(), values::prometheus(&fleet.settings, cluster)),
        ]);
        data.extend(files);
        objects.push(Object {
            name: values_secret(&node),
            part: Part::Values,
            owner: Owner::Cluster(cluster.name.clone()),
            labels: BTreeMap::new(),
            content: Content::Secret(data),
        });
    }
    objects
}

/// The objects of the hub. The texts are the plan's.
pub fn of_hub(fleet: &Fleet, trust: &Trust, opener: Option<&Leaf>, zone: String, endpoints: String) -> Vec<Object> {
    let config_map = |(name, key): (&str, &str), part, text| Object {
        name: name.to_owned(),
        part,
        owner: Owner::Atlas,
        labels: BTreeMap::new(),
        content: Content::ConfigMap([(key.to_owned(), text)].into()),
    };
    let mut objects =
        vec![config_map(keys::ZONE_CONFIG_MAP, Part::Dns, zone), config_map(keys::ENDPOINTS_CONFIG_MAP, Part::Endpoints, endpoints)];
    if let (Some(opener), Ok(bootstrap)) = (opener, node_bootstrap(fleet, trust, &NodeId::Hub, keys::ENVOY_DIR)) {
        let files = node_files(Some(&bootstrap), trust, opener, keys::ENVOY_DIR);
        let values = values::envoy(&NodeId::Hub.to_string(), keys::DEFAULT_ENVOY_REPLICAS, fleet.settings.hub_envoy_memory, &files);
        let secret = |name: &str, part, owner, data| Object {
            name: name.to_owned(),
            part,
            owner,
            labels: BTreeMap::new(),
            content: Content::Secret(data),
        };
        objects.push(secret(keys::HUB_VALUES, Part::Values, Owner::Atlas, [(values::VALUES.to_owned(), values)].into()));
        // It stays when Atlas is uninstalled, as every credential does.
        objects.push(secret(keys::HUB_SECRET, Part::Hub, Owner::Nobody, files));
    }
    objects
}

/// The Secret with a node's values.
pub fn values_secret(node: &NodeId) -> String {
    match node {
        NodeId::Hub => keys::HUB_VALUES.to_owned(),
        NodeId::Cluster(name) => format!("{name}{}", keys::VALUES_SUFFIX),
    }
}

fn service(fleet: &Fleet, cluster: &Cluster, index: u32) -> Object {
    let selector = if cluster.envoy_selectors.is_empty() { &fleet.settings.envoy_selectors } else { &cluster.envoy_selectors };
    Object {
        name: cluster.name.store(index),
        part: Part::Store,
        owner: Owner::Cluster(cluster.name.clone()),
        labels: [(keys::THANOS_SIDECAR.to_owned(), index.to_string())].into(),
        content: Content::Headless { selector: selector.clone(), port_name: cluster.store_port_name.clone(), port: port::HUB_STORES },
    }
}

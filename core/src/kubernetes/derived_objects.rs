//! The Kubernetes objects that Atlas makes of the fleet, as [`DerivedObject`]s.
//!
//! ```text
//! per cluster    Service <cluster>-thanos-sidecarN   the store's name: another name of atlas-hub-stores
//!                Secret  <cluster>-envoy-values      Helm values for the cluster's Envoy and Prometheus
//! for the hub    Service atlas-hub-stores            the hub's Envoys; one more per further `goatlas.io/envoy-selectors`
//!                Secret  atlas-hub                   the files that the hub's Envoys start from
//!                Secret  atlas-envoy-values          the same as Helm values, for an Envoy that is installed by hand
//!                ConfigMap atlas-coredns             the DNS zone
//!                ConfigMap atlas-thanos-endpoints    Thanos Query's endpoint SD file
//! ```
//!
//! Architecture invariant: only the hub's own Services select pods, so a change of the hub's Envoys
//! costs Kubernetes the same at any number of stores.

use std::collections::{BTreeMap, BTreeSet};

use sha2::{Digest, Sha256};

use crate::annotations;
use crate::install::bootstrap_files::{node_bootstrap, node_files};
use crate::install::helm_values;
use crate::kubernetes::object::{DerivedObject, ObjectContent, ObjectPart, Owner};
use crate::model::{Cluster, Fleet, Settings};
use crate::name::NodeId;
use crate::object_names;
use crate::pki::{Leaf, Trust};
use crate::ports;
use crate::thanos::endpoints::service_host;

/// Labels that select the hub's Envoys.
pub type EnvoySelector = BTreeMap<String, String>;

/// The objects of one cluster. Of the fleet they depend on the settings alone.
/// `bootstrap_credential` opens the xDS stream of the cluster's Envoy; without it there are no
/// values.
pub fn cluster_objects(
    fleet: &Fleet,
    cluster: &Cluster,
    trust: &Trust,
    bootstrap_credential: Option<&Leaf>,
) -> Vec<DerivedObject> {
    let mut objects: Vec<DerivedObject> =
        cluster.stores.iter().map(|store| store_service(fleet, cluster, store.index)).collect();
    let node = NodeId::Cluster(cluster.name.clone());
    // Without a bootstrap the values would install an Envoy that can't start. A finding says what
    // is missing.
    if let (Some(bootstrap_credential), Ok(bootstrap)) =
        (bootstrap_credential, node_bootstrap(fleet, trust, &node, object_names::ENVOY_DIR))
    {
        let files =
            node_files(Some(&bootstrap), trust, bootstrap_credential, object_names::ENVOY_DIR);
        let values = helm_values::envoy(
            &node.to_string(),
            cluster.envoy_replicas,
            cluster.envoy_memory,
            &files,
        );
        let mut data = BTreeMap::from([
            (helm_values::VALUES.to_owned(), values),
            (
                helm_values::PROMETHEUS_VALUES.to_owned(),
                helm_values::prometheus(&fleet.settings, cluster),
            ),
        ]);
        data.extend(files);
        objects.push(DerivedObject {
            name: values_secret_name(&node),
            part: ObjectPart::Values,
            owner: Owner::Cluster(cluster.name.clone()),
            labels: BTreeMap::new(),
            content: ObjectContent::Secret(data),
        });
    }
    objects
}

/// The objects of the hub. `selectors`: [`envoy_selector`] of each cluster. `zone` and `endpoints`
/// are the texts of the two ConfigMaps.
pub fn hub_objects<'a>(
    fleet: &'a Fleet,
    trust: &Trust,
    bootstrap_credential: Option<&Leaf>,
    selectors: impl IntoIterator<Item = &'a EnvoySelector>,
    zone: String,
    endpoints: String,
) -> Vec<DerivedObject> {
    let object = |name: &str, part, owner, content| DerivedObject {
        name: name.to_owned(),
        part,
        owner,
        labels: BTreeMap::new(),
        content,
    };
    let config_map = |(name, key): (&str, &str), part, text| {
        object(name, part, Owner::Atlas, ObjectContent::ConfigMap([(key.to_owned(), text)].into()))
    };
    let mut objects = hub_services(&fleet.settings, selectors);
    objects.extend([
        config_map(object_names::ZONE_CONFIG_MAP, ObjectPart::Dns, zone),
        config_map(object_names::ENDPOINTS_CONFIG_MAP, ObjectPart::Endpoints, endpoints),
    ]);
    if let (Some(bootstrap_credential), Ok(bootstrap)) =
        (bootstrap_credential, node_bootstrap(fleet, trust, &NodeId::Hub, object_names::ENVOY_DIR))
    {
        let files =
            node_files(Some(&bootstrap), trust, bootstrap_credential, object_names::ENVOY_DIR);
        let values = helm_values::envoy(
            &NodeId::Hub.to_string(),
            crate::model::DEFAULT_ENVOY_REPLICAS,
            fleet.settings.hub_envoy_memory,
            &files,
        );
        let values = ObjectContent::Secret([(helm_values::VALUES.to_owned(), values)].into());
        objects.push(object(object_names::HUB_VALUES, ObjectPart::Values, Owner::Atlas, values));
        // Credentials stay when Atlas is uninstalled.
        let files = ObjectContent::Secret(files);
        objects.push(object(object_names::HUB_SECRET, ObjectPart::Hub, Owner::Nobody, files));
    }
    objects
}

/// The name of the Secret with a node's Helm values.
pub fn values_secret_name(node: &NodeId) -> String {
    match node {
        NodeId::Hub => object_names::HUB_VALUES.to_owned(),
        NodeId::Cluster(name) => format!("{name}{}", object_names::VALUES_SUFFIX),
    }
}

/// Labels of the hub's Envoys that serve a cluster's stores.
pub fn envoy_selector<'a>(settings: &'a Settings, cluster: &'a Cluster) -> &'a EnvoySelector {
    if cluster.envoy_selectors.is_empty() {
        &settings.envoy_selectors
    } else {
        &cluster.envoy_selectors
    }
}

fn store_service(fleet: &Fleet, cluster: &Cluster, index: u32) -> DerivedObject {
    let service = hub_service_name(&fleet.settings, envoy_selector(&fleet.settings, cluster));
    DerivedObject {
        name: cluster.name.store(index),
        part: ObjectPart::Store,
        owner: Owner::Cluster(cluster.name.clone()),
        labels: [(annotations::THANOS_SIDECAR.to_owned(), index.to_string())].into(),
        content: ObjectContent::ExternalName(service_host(&service, &fleet.settings)),
    }
}

/// The Services of the hub's Envoys: one for the settings' labels, whether or not a cluster uses it
/// yet, and one for each other set of labels that clusters name.
fn hub_services<'a>(
    settings: &'a Settings,
    selectors: impl IntoIterator<Item = &'a EnvoySelector>,
) -> Vec<DerivedObject> {
    let service = |selector: &EnvoySelector| DerivedObject {
        name: hub_service_name(settings, selector),
        part: ObjectPart::HubStores,
        owner: Owner::Atlas,
        labels: BTreeMap::new(),
        content: ObjectContent::Headless {
            selector: selector.clone(),
            port_name: "stores".into(),
            port: ports::HUB_STORES,
        },
    };
    let selectors: BTreeSet<&EnvoySelector> =
        selectors.into_iter().chain([&settings.envoy_selectors]).collect();
    selectors.into_iter().map(service).collect()
}

/// The settings' own labels have the plain name, so that a change to them changes one Service.
/// Others have a hash behind it, since labels don't fit into a name.
fn hub_service_name(settings: &Settings, selector: &EnvoySelector) -> String {
    if *selector == settings.envoy_selectors {
        return object_names::HUB_STORES.to_owned();
    }
    let text: String = selector.iter().map(|(key, value)| format!("{key}={value}\n")).collect();
    let hash: String =
        Sha256::digest(text).iter().take(5).map(|byte| format!("{byte:02x}")).collect();
    format!("{}-{hash}", object_names::HUB_STORES)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::{Manifest, Service};
    use crate::validate::validate;

    /// A fleet in which each cluster has two stores, and its hub Envoys have these labels.
    fn fleet(selectors: &[&str]) -> Fleet {
        let service = |(number, selector): (usize, &&str)| {
            let mut service = Service::default();
            service.meta.name = format!("cluster-{number}");
            service.meta.labels = [(annotations::CLUSTER, "true"), (annotations::REPLICAS, "2")]
                .map(|(key, value)| (key.into(), value.into()))
                .into();
            service
                .meta
                .annotations
                .insert(annotations::ENVOY_SELECTORS.into(), (*selector).into());
            Manifest::Service(service)
        };
        validate(
            &Settings::default(),
            &selectors.iter().enumerate().map(service).collect::<Vec<_>>(),
            None,
        )
        .fleet
    }

    #[test]
    fn there_is_one_selecting_service_per_set_of_envoy_selectors() {
        let fleet = fleet(&[
            "",
            "app=edge,zone=a",
            "app=edge",
            "zone=a,app=edge",
            "release=atlas,app=envoy",
            "app=edge",
        ]);
        let domain = fleet.settings.trust_domain.clone();
        let trust = Trust {
            domain,
            roots: Vec::new(),
            leaves: BTreeMap::new(),
            revisions: BTreeMap::new(),
        };
        let clusters = fleet
            .clusters
            .values()
            .flat_map(|cluster| cluster_objects(&fleet, cluster, &trust, None));
        let (mut targets, mut stores) = (BTreeSet::new(), 0);
        for store in clusters {
            let ObjectContent::ExternalName(host) = store.content else { panic!("{store:?}") };
            targets.insert(host);
            stores += 1;
        }
        let selectors =
            fleet.clusters.values().map(|cluster| envoy_selector(&fleet.settings, cluster));
        let selecting = hub_objects(&fleet, &trust, None, selectors, String::new(), String::new())
            .into_iter()
            .filter_map(|object| match object.content {
                ObjectContent::Headless { selector, .. } => {
                    Some((service_host(&object.name, &fleet.settings), selector))
                }
                _ => None,
            });
        let selecting: BTreeMap<_, _> = selecting.collect();
        assert_eq!((stores, selecting.len()), (12, 3), "{selecting:#?}");
        assert_eq!(targets, selecting.keys().cloned().collect(), "each has names");
        assert_eq!(
            selecting["atlas-hub-stores.monitoring.svc.cluster.local"],
            fleet.settings.envoy_selectors
        );
    }
}

//! The Kubernetes objects of a plan, as [`Object`]s.
//!
//! ```text
//! per cluster    Service <cluster>-thanos-sidecarN   the name of that store: another one of atlas-hub-stores
//!                Secret  <cluster>-envoy-values      what its Envoy is installed with
//! for the hub    Service atlas-hub-stores            its Envoys; one more for each other `goatlas.io/envoy-selectors`
//!                Secret  atlas-hub                   what its Envoys start from
//!                Secret  atlas-envoy-values          the same as Helm values, for an Envoy that is installed by hand
//!                ConfigMap atlas-coredns             the DNS zone
//!                ConfigMap atlas-thanos-endpoints    Thanos Query's endpoint SD file
//! ```
//!
//! Architecture invariant: only the hub's own Services select pods, so a change of the hub's Envoys costs Kubernetes the same
//! at any number of stores.

use std::collections::{BTreeMap, BTreeSet};

use sha2::{Digest, Sha256};

use crate::annotations;
use crate::install::bootstrap_files::{node_bootstrap, node_files};
use crate::install::helm_values as values;
use crate::kubernetes::object::{Content, Object, Owner, Part};
use crate::model::{Cluster, Fleet, Settings};
use crate::name::NodeId;
use crate::pki::{Leaf, Trust};
use crate::ports;
use crate::thanos::endpoints::service_host;

/// The objects of one cluster. Of the fleet they depend on the settings alone. `bootstrap_credential` is what its Envoy opens its stream
/// with; without it there are no values yet.
pub fn of_cluster(
    fleet: &Fleet,
    cluster: &Cluster,
    trust: &Trust,
    bootstrap_credential: Option<&Leaf>,
) -> Vec<Object> {
    let mut objects: Vec<Object> =
        cluster.stores.iter().map(|store| service(fleet, cluster, store.index)).collect();
    let node = NodeId::Cluster(cluster.name.clone());
    // Without a bootstrap the values would install an Envoy that can't start: a finding says what is missing.
    if let (Some(bootstrap_credential), Ok(bootstrap)) =
        (bootstrap_credential, node_bootstrap(fleet, trust, &node, crate::object_names::ENVOY_DIR))
    {
        let files = node_files(
            Some(&bootstrap),
            trust,
            bootstrap_credential,
            crate::object_names::ENVOY_DIR,
        );
        let mut data = BTreeMap::from([
            (
                values::VALUES.to_owned(),
                values::envoy(
                    &node.to_string(),
                    cluster.envoy_replicas,
                    cluster.envoy_memory,
                    &files,
                ),
            ),
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
pub fn of_hub(
    fleet: &Fleet,
    trust: &Trust,
    bootstrap_credential: Option<&Leaf>,
    zone: String,
    endpoints: String,
) -> Vec<Object> {
    let config_map = |(name, key): (&str, &str), part, text| Object {
        name: name.to_owned(),
        part,
        owner: Owner::Atlas,
        labels: BTreeMap::new(),
        content: Content::ConfigMap([(key.to_owned(), text)].into()),
    };
    let mut objects = hub_stores(fleet);
    objects.extend([
        config_map(crate::object_names::ZONE_CONFIG_MAP, Part::Dns, zone),
        config_map(crate::object_names::ENDPOINTS_CONFIG_MAP, Part::Endpoints, endpoints),
    ]);
    if let (Some(bootstrap_credential), Ok(bootstrap)) = (
        bootstrap_credential,
        node_bootstrap(fleet, trust, &NodeId::Hub, crate::object_names::ENVOY_DIR),
    ) {
        let files = node_files(
            Some(&bootstrap),
            trust,
            bootstrap_credential,
            crate::object_names::ENVOY_DIR,
        );
        let values = values::envoy(
            &NodeId::Hub.to_string(),
            crate::model::DEFAULT_ENVOY_REPLICAS,
            fleet.settings.hub_envoy_memory,
            &files,
        );
        let secret = |name: &str, part, owner, data| Object {
            name: name.to_owned(),
            part,
            owner,
            labels: BTreeMap::new(),
            content: Content::Secret(data),
        };
        objects.push(secret(
            crate::object_names::HUB_VALUES,
            Part::Values,
            Owner::Atlas,
            [(values::VALUES.to_owned(), values)].into(),
        ));
        // It stays when Atlas is uninstalled, as every credential does.
        objects.push(secret(crate::object_names::HUB_SECRET, Part::Hub, Owner::Nobody, files));
    }
    objects
}

/// The Secret with a node's values.
pub fn values_secret(node: &NodeId) -> String {
    match node {
        NodeId::Hub => crate::object_names::HUB_VALUES.to_owned(),
        NodeId::Cluster(name) => format!("{name}{}", crate::object_names::VALUES_SUFFIX),
    }
}

fn service(fleet: &Fleet, cluster: &Cluster, index: u32) -> Object {
    let service = hub_stores_name(&fleet.settings, selector(&fleet.settings, cluster));
    Object {
        name: cluster.name.store(index),
        part: Part::Store,
        owner: Owner::Cluster(cluster.name.clone()),
        labels: [(annotations::THANOS_SIDECAR.to_owned(), index.to_string())].into(),
        content: Content::ExternalName(service_host(&service, &fleet.settings)),
    }
}

/// The Services of the hub's Envoys: that of the settings' labels, whether or not a cluster uses it yet, and one for all other
/// labels that clusters name.
fn hub_stores(fleet: &Fleet) -> Vec<Object> {
    let settings = &fleet.settings;
    let named = fleet.clusters.values().map(|cluster| selector(settings, cluster));
    let selectors: BTreeSet<&BTreeMap<String, String>> =
        named.chain([&settings.envoy_selectors]).collect();
    let service = |selector: &BTreeMap<String, String>| Object {
        name: hub_stores_name(settings, selector),
        part: Part::HubStores,
        owner: Owner::Atlas,
        labels: BTreeMap::new(),
        content: Content::Headless {
            selector: selector.clone(),
            port_name: "stores".into(),
            port: ports::HUB_STORES,
        },
    };
    selectors.into_iter().map(service).collect()
}

/// Labels of the hub's Envoys that serve a cluster's stores.
fn selector<'a>(settings: &'a Settings, cluster: &'a Cluster) -> &'a BTreeMap<String, String> {
    if cluster.envoy_selectors.is_empty() {
        &settings.envoy_selectors
    } else {
        &cluster.envoy_selectors
    }
}

/// A hash, since labels fit no name; of the settings' own there is none, so that a change to them changes one Service.
fn hub_stores_name(settings: &Settings, selector: &BTreeMap<String, String>) -> String {
    if *selector == settings.envoy_selectors {
        return crate::object_names::HUB_STORES.to_owned();
    }
    let text: String = selector.iter().map(|(key, value)| format!("{key}={value}\n")).collect();
    let hash: String =
        Sha256::digest(text).iter().take(5).map(|byte| format!("{byte:02x}")).collect();
    format!("{}-{hash}", crate::object_names::HUB_STORES)
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
    fn services_that_select_pods_are_as_many_as_there_are_kinds_of_hub_envoys() {
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
        let clusters =
            fleet.clusters.values().flat_map(|cluster| of_cluster(&fleet, cluster, &trust, None));
        let (mut led, mut stores) = (BTreeSet::new(), 0);
        for store in clusters {
            let Content::ExternalName(host) = store.content else { panic!("{store:?}") };
            led.insert(host);
            stores += 1;
        }
        let selecting = of_hub(&fleet, &trust, None, String::new(), String::new())
            .into_iter()
            .filter_map(|object| match object.content {
                Content::Headless { selector, .. } => {
                    Some((service_host(&object.name, &fleet.settings), selector))
                }
                _ => None,
            });
        let selecting: BTreeMap<_, _> = selecting.collect();
        assert_eq!((stores, selecting.len()), (12, 3), "{selecting:#?}");
        assert_eq!(led, selecting.keys().cloned().collect(), "each is led to, and nothing else is");
        assert_eq!(
            selecting["atlas-hub-stores.monitoring.svc.cluster.local"],
            fleet.settings.envoy_selectors
        );
    }
}

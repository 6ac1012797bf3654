//! The objects that the leader writes, and what each cluster's were made of: a change of one
//! cluster makes no other's again.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use atlas_core::kubernetes::apply::{Desired, DesiredObjects};
use atlas_core::kubernetes::derived_objects::{
    EnvoySelector, cluster_objects, envoy_selector, hub_objects, values_secret_name,
};
use atlas_core::kubernetes::object::{DerivedObject, ObjectKey, ObjectKind, Owner, OwnerReference};
use atlas_core::model::{Cluster, Fleet, Settings};
use atlas_core::name::{ClusterName, NodeId};
use atlas_core::object_names::HUB_SECRET;
use atlas_core::pki::{Leaf, Trust};

/// What objects are made of, besides the texts of ConfigMaps.
pub struct ObjectInputs<'a> {
    /// The fleet in force.
    pub fleet: &'a Fleet,
    /// Trust domain and roots.
    pub trust: &'a Trust,
    /// The credential that opens a node's xDS stream.
    pub bootstrap_credential: &'a dyn Fn(&NodeId) -> Option<Leaf>,
    /// `metadata.uid` of a cluster's Service, which owns the cluster's objects.
    pub service_uid: &'a dyn Fn(&ClusterName) -> Option<String>,
    /// The owner of the hub's objects.
    pub atlas: Option<&'a OwnerReference>,
}

/// What one cluster's objects were made of.
#[derive(PartialEq)]
struct ClusterInputs {
    cluster: Arc<Cluster>,
    settings: Arc<Settings>,
    bootstrap_credential: Option<String>,
    bundle: String,
    service_uid: Option<String>,
}

struct ClusterObjects {
    made_of: ClusterInputs,
    selector: EnvoySelector,
    desired: DesiredObjects,
}

/// Remembers the desired state of every object.
#[derive(Default)]
pub struct DesiredObjectBuilder {
    clusters: HashMap<ClusterName, ClusterObjects>,
    /// How many clusters name each set of labels.
    selectors: BTreeMap<EnvoySelector, usize>,
    hub: DesiredObjects,
    settings: Option<Arc<Settings>>,
    /// How many objects were made so far.
    made: usize,
}

impl DesiredObjectBuilder {
    /// Makes the objects of these clusters again, as far as what they are made of differs. Returns
    /// those that differ.
    pub fn update_clusters<'a>(
        &mut self,
        inputs: &ObjectInputs<'_>,
        clusters: impl IntoIterator<Item = &'a ClusterName>,
    ) -> DesiredObjects {
        let settings = self
            .settings
            .take()
            .filter(|known| **known == inputs.fleet.settings)
            .unwrap_or_else(|| Arc::new(inputs.fleet.settings.clone()));
        self.settings = Some(Arc::clone(&settings));
        let bundle = inputs.trust.bundle();
        let mut changes = DesiredObjects::new();
        for name in clusters {
            let Some(cluster) = inputs.fleet.clusters.get(name) else {
                if let Some(gone) = self.clusters.remove(name) {
                    self.forget_selector(&gone.selector);
                    changes.extend(gone.desired.into_keys().map(|key| (key, Desired::Absent)));
                }
                continue;
            };
            let credential = (inputs.bootstrap_credential)(&NodeId::Cluster(name.clone()));
            let made_of = ClusterInputs {
                cluster: Arc::clone(cluster),
                settings: Arc::clone(&settings),
                bootstrap_credential: credential.as_ref().map(|leaf| leaf.chain.clone()),
                bundle: bundle.clone(),
                service_uid: (inputs.service_uid)(name),
            };
            if self.clusters.get(name).is_none_or(|known| known.made_of != made_of) {
                self.make(inputs, made_of, credential.as_ref(), &mut changes);
            }
        }
        changes
    }

    fn make(
        &mut self,
        inputs: &ObjectInputs<'_>,
        made_of: ClusterInputs,
        credential: Option<&Leaf>,
        changes: &mut DesiredObjects,
    ) {
        let name = made_of.cluster.name.clone();
        let objects = cluster_objects(inputs.fleet, &made_of.cluster, inputs.trust, credential);
        self.made += objects.len();
        let mut desired = manifests(inputs, &objects);
        // Without a credential or a hub address its values can't be made. Those that are there
        // stay.
        desired
            .entry(secret(values_secret_name(&NodeId::Cluster(name.clone()))))
            .or_insert(Desired::Unchanged);
        let selector = envoy_selector(&inputs.fleet.settings, &made_of.cluster).clone();
        *self.selectors.entry(selector.clone()).or_default() += 1;
        let now = ClusterObjects { made_of, selector, desired };
        let before = self.clusters.remove(&name);
        if let Some(before) = &before {
            self.forget_selector(&before.selector);
        }
        let before = before.map(|before| before.desired).unwrap_or_default();
        changes.extend(differences(&before, &now.desired));
        self.clusters.insert(name, now);
    }

    fn forget_selector(&mut self, selector: &EnvoySelector) {
        if let Some(count) = self.selectors.get_mut(selector) {
            *count -= 1;
            if *count == 0 {
                self.selectors.remove(selector);
            }
        }
    }

    /// The sets of labels of the hub's Envoys that clusters name.
    pub fn selectors(&self) -> impl Iterator<Item = &EnvoySelector> {
        self.selectors.keys()
    }

    /// Makes the hub's objects again. Returns those that differ.
    pub fn update_hub(
        &mut self,
        inputs: &ObjectInputs<'_>,
        zone: String,
        endpoints: String,
    ) -> DesiredObjects {
        let credential = (inputs.bootstrap_credential)(&NodeId::Hub);
        let selectors = self.selectors.keys();
        let objects = hub_objects(
            inputs.fleet,
            inputs.trust,
            credential.as_ref(),
            selectors,
            zone,
            endpoints,
        );
        self.made += objects.len();
        let mut desired = manifests(inputs, &objects);
        // As for a cluster.
        for name in [values_secret_name(&NodeId::Hub), HUB_SECRET.to_owned()] {
            desired.entry(secret(name)).or_insert(Desired::Unchanged);
        }
        let changes = differences(&self.hub, &desired);
        self.hub = desired;
        changes
    }

    /// All objects.
    pub fn all(&self) -> DesiredObjects {
        let of_clusters = self.clusters.values().flat_map(|cluster| &cluster.desired);
        of_clusters.chain(&self.hub).map(|(key, desired)| (key.clone(), desired.clone())).collect()
    }

    /// How many objects were made so far.
    pub fn made(&self) -> usize {
        self.made
    }

    /// Every cluster that has objects.
    pub fn clusters(&self) -> impl Iterator<Item = &ClusterName> {
        self.clusters.keys()
    }
}

fn secret(name: String) -> ObjectKey {
    ObjectKey { kind: ObjectKind::Secret, name }
}

fn differences(before: &DesiredObjects, now: &DesiredObjects) -> DesiredObjects {
    let gone = before.keys().filter(|key| !now.contains_key(key));
    let gone = gone.map(|key| (key.clone(), Desired::Absent));
    let changed = now.iter().filter(|(key, desired)| before.get(*key) != Some(*desired));
    gone.chain(changed.map(|(key, desired)| (key.clone(), desired.clone()))).collect()
}

fn manifests(inputs: &ObjectInputs<'_>, objects: &[DerivedObject]) -> DesiredObjects {
    let manifest = |object: &DerivedObject| {
        let owner = match &object.owner {
            Owner::Cluster(name) => (inputs.service_uid)(name).map(|uid| OwnerReference {
                kind: "Service",
                name: name.to_string(),
                uid,
            }),
            Owner::Atlas => inputs.atlas.cloned(),
            Owner::Nobody => None,
        };
        let manifest = object.manifest(&inputs.fleet.settings.namespace, owner.as_ref());
        (object.key(), Desired::Object(Arc::new(manifest)))
    };
    objects.iter().map(manifest).collect()
}

#[cfg(test)]
mod tests {
    use atlas_core::annotations;
    use atlas_core::manifest::{Manifest, Service};
    use atlas_core::name::HostPort;
    use atlas_core::pki::PrivateKey;
    use atlas_core::validate::validate;

    use super::*;

    const CLUSTERS: usize = 1000;

    fn service(name: &str, replicas: &str, selector: &str) -> Manifest {
        let mut service = Service::default();
        service.meta.name = name.into();
        service.meta.labels = [(annotations::CLUSTER, "true"), (annotations::REPLICAS, replicas)]
            .map(|(key, value)| (key.into(), value.into()))
            .into();
        service.meta.annotations =
            [(annotations::ENVOY_SELECTORS.to_owned(), selector.to_owned())].into();
        Manifest::Service(service)
    }

    fn fleet(services: &[Manifest]) -> Fleet {
        let hub_xds = vec![HostPort::parse("hub.example.com", 10901).unwrap()];
        let settings = Settings { hub_xds, ..Settings::default() };
        validate(&settings, services, None).fleet
    }

    fn store(name: &str) -> ObjectKey {
        ObjectKey { kind: ObjectKind::Service, name: name.into() }
    }

    #[test]
    fn a_change_of_one_cluster_makes_no_object_of_another() {
        let mut services: Vec<Manifest> =
            (0..CLUSTERS).map(|n| service(&format!("c{n}"), "2", "")).collect();
        let first = fleet(&services);
        let trust = Trust {
            domain: first.settings.trust_domain.clone(),
            roots: Vec::new(),
            leaves: BTreeMap::new(),
            revisions: BTreeMap::new(),
        };
        let leaf =
            |_: &NodeId| Some(Leaf { chain: "chain".into(), key: PrivateKey::new(String::new()) });
        let uid = |name: &ClusterName| Some(format!("uid of {name}"));
        let inputs = |fleet| ObjectInputs {
            fleet,
            trust: &trust,
            bootstrap_credential: &leaf,
            service_uid: &uid,
            atlas: None,
        };
        let mut objects = DesiredObjectBuilder::default();
        let all = objects.update_clusters(&inputs(&first), first.clusters.keys());
        assert_eq!((all.len(), objects.made), (3 * CLUSTERS, 3 * CLUSTERS));
        let hub = objects.update_hub(&inputs(&first), "zone".into(), "endpoints".into());
        assert_eq!((hub.len(), objects.all().len()), (5, 3 * CLUSTERS + 5));

        services[7] = service("c7", "1", "app=edge");
        let second = fleet(&services);
        let made = objects.made;
        let changes = objects.update_clusters(&inputs(&second), [&"c7".parse().unwrap()]);
        assert_eq!(objects.made - made, 2);
        assert_eq!(
            changes.keys().cloned().collect::<Vec<_>>(),
            [store("c7-thanos-sidecar0"), store("c7-thanos-sidecar1")]
                .into_iter()
                .chain([secret("c7-envoy-values".into())])
                .collect::<Vec<_>>()
        );
        assert_eq!(changes[&store("c7-thanos-sidecar1")], Desired::Absent);
        let hub = objects.update_hub(&inputs(&second), "zone".into(), "endpoints".into());
        assert_eq!(hub.len(), 1, "the Service of the other Envoys: {hub:?}");

        services.remove(7);
        let third = fleet(&services);
        let changes = objects.update_clusters(&inputs(&third), [&"c7".parse().unwrap()]);
        assert!(changes.values().all(|desired| *desired == Desired::Absent) && changes.len() == 2);
        assert_eq!(objects.selectors().count(), 1);
        let everything = objects.update_clusters(&inputs(&third), third.clusters.keys());
        assert_eq!(everything, DesiredObjects::new(), "nothing differs");
    }

    #[test]
    fn values_without_a_credential_stay_as_they_are() {
        let fleet = fleet(&[service("tokyo", "1", "")]);
        let trust = Trust {
            domain: fleet.settings.trust_domain.clone(),
            roots: Vec::new(),
            leaves: BTreeMap::new(),
            revisions: BTreeMap::new(),
        };
        let inputs = ObjectInputs {
            fleet: &fleet,
            trust: &trust,
            bootstrap_credential: &|_| None,
            service_uid: &|_| None,
            atlas: None,
        };
        let mut objects = DesiredObjectBuilder::default();
        let changes = objects.update_clusters(&inputs, fleet.clusters.keys());
        assert_eq!(changes[&secret("tokyo-envoy-values".into())], Desired::Unchanged);
        let changes = objects.update_hub(&inputs, String::new(), String::new());
        assert_eq!(changes[&secret(HUB_SECRET.into())], Desired::Unchanged);
    }
}

//! The wanted objects of a round. What a cluster's depend on is remembered, so that a change to one costs nothing for the
//! others.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use atlas_core::kubernetes::derived_objects::{of_cluster, of_hub, values_secret};
use atlas_core::kubernetes::object::{Key, Kind, Object, Owner, OwnerRef};
use atlas_core::model::{Cluster, Fleet, Settings};
use atlas_core::name::{ClusterName, NodeId};
use atlas_core::object_names::HUB_SECRET;
use atlas_core::pki::{Leaf, Trust};
use serde_json::Value;

use super::writer::Wanted;

/// What a cluster's objects depend on.
#[derive(PartialEq)]
struct MadeOf {
    cluster: Arc<Cluster>,
    settings: Arc<Settings>,
    bootstrap_credential: Option<String>,
    bundle: String,
    uid: Option<String>,
}

type Manifests = Vec<(Key, Arc<Value>)>;

/// What Thanos Query and DNS servers read.
pub struct StoreFiles {
    /// The DNS zone.
    pub zone: String,
    /// Thanos Query's endpoints.
    pub endpoints: String,
}

/// Remembers the manifests of each cluster.
#[derive(Default)]
pub struct Objects {
    clusters: HashMap<ClusterName, (MadeOf, Manifests)>,
    hub: BTreeMap<Key, Arc<Value>>,
    settings: Option<Arc<Settings>>,
}

impl Objects {
    /// All that is wanted. `uids`: of the clusters' Services; `atlas`: the owner of what belongs to the installation.
    pub fn wanted(
        &mut self,
        fleet: &Fleet,
        trust: &Trust,
        files: StoreFiles,
        bootstrap_credential: impl Fn(&NodeId) -> Option<Leaf>,
        uids: &BTreeMap<String, String>,
        atlas: Option<&OwnerRef>,
    ) -> Arc<Wanted> {
        let settings = self
            .settings
            .take()
            .filter(|known| **known == fleet.settings)
            .unwrap_or_else(|| Arc::new(fleet.settings.clone()));
        self.settings = Some(Arc::clone(&settings));
        let bundle = trust.bundle();
        self.clusters.retain(|name, _| fleet.clusters.contains_key(name));
        let mut wanted = BTreeMap::new();
        let secret = |node: &NodeId| Key { kind: Kind::Secret, name: values_secret(node) };
        let mut kept: BTreeSet<Key> =
            fleet.clusters.keys().cloned().map(|name| secret(&NodeId::Cluster(name))).collect();
        kept.extend([secret(&NodeId::Hub), Key { kind: Kind::Secret, name: HUB_SECRET.into() }]);
        for cluster in fleet.clusters.values() {
            let bootstrap_credential = bootstrap_credential(&NodeId::Cluster(cluster.name.clone()));
            let made_of = MadeOf {
                cluster: Arc::clone(cluster),
                settings: Arc::clone(&settings),
                bootstrap_credential: bootstrap_credential.as_ref().map(|leaf| leaf.chain.clone()),
                bundle: bundle.clone(),
                uid: uids.get(cluster.name.as_str()).cloned(),
            };
            let known = self.clusters.get(&cluster.name).filter(|(before, _)| *before == made_of);
            if known.is_none() {
                let objects = of_cluster(fleet, cluster, trust, bootstrap_credential.as_ref());
                let manifests = objects
                    .iter()
                    .map(|object| manifest(object, &settings.namespace, uids, atlas))
                    .collect();
                self.clusters.insert(cluster.name.clone(), (made_of, manifests));
            }
            wanted.extend(
                self.clusters
                    .get(&cluster.name)
                    .into_iter()
                    .flat_map(|(_, manifests)| manifests.clone()),
            );
        }
        let hub = of_hub(
            fleet,
            trust,
            bootstrap_credential(&NodeId::Hub).as_ref(),
            files.zone,
            files.endpoints,
        );
        for (key, fresh) in
            hub.iter().map(|object| manifest(object, &settings.namespace, uids, atlas))
        {
            let same = self.hub.get(&key).filter(|known| **known == fresh).map(Arc::clone);
            let manifest = same.unwrap_or(fresh);
            self.hub.insert(key.clone(), Arc::clone(&manifest));
            wanted.insert(key, manifest);
        }
        // Without its credential, or without a word where the hub is, there is nothing to say, and what was said stays.
        kept.retain(|key| !wanted.contains_key(key));
        Arc::new(Wanted { objects: wanted, kept })
    }
}

fn manifest(
    object: &Object,
    namespace: &str,
    uids: &BTreeMap<String, String>,
    atlas: Option<&OwnerRef>,
) -> (Key, Arc<Value>) {
    let owner = match &object.owner {
        Owner::Cluster(name) => uids.get(name.as_str()).map(|uid| OwnerRef {
            kind: "Service",
            name: name.to_string(),
            uid: uid.clone(),
        }),
        Owner::Atlas => atlas.cloned(),
        Owner::Nobody => None,
    };
    (object.key(), Arc::new(object.manifest(namespace, owner.as_ref())))
}

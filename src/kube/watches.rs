//! What every replica watches: the manifests, the Secrets with the PKI, and the DNS zone as it is
//! written.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use atlas_core::annotations;
use atlas_core::manifest::{Manifest, ManifestKey};
use atlas_core::model::Settings;
use atlas_core::object_names::ZONE_CONFIG_MAP;
use atlas_core::thanos::zone::ZoneFileVersion;
use atlas_core::validate::{CLUSTER_SELECTOR, is_cluster};
use k8s_openapi::api::core::v1::{ConfigMap, Secret, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::runtime::watcher;
use kube::{Api, Client};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::convert;
use super::pki_secret::StoredSecret;
use super::pki_store::WATCHED;
use super::reflector::{Change, Reflector};
use crate::process::tasks::Tasks;

/// A cache for each kind of object. A clone is of the same caches.
#[derive(Clone)]
pub struct Watches {
    /// Notified when any of them changed.
    pub changed: Arc<Notify>,
    /// Services that are clusters.
    pub clusters: Reflector<Manifest>,
    /// The Services of the hub's Alertmanagers.
    pub alertmanagers: Reflector<Manifest>,
    /// The EndpointSlices of the hub's Alertmanagers.
    pub endpoint_slices: Reflector<Manifest>,
    /// The Secrets with the PKI, without those that hold the keys of authorities.
    pub secrets: Reflector<StoredSecret>,
    /// The ConfigMap with the DNS zone.
    pub zone: Reflector<ZoneFileVersion>,
}

/// Manifests that changed since they were last taken.
#[derive(Default)]
pub struct ManifestChanges {
    /// All of them; `None`: gone.
    pub manifests: Vec<(ManifestKey, Option<Arc<Manifest>>)>,
    /// Services that are or were clusters, by their name.
    pub services: BTreeMap<String, Option<Arc<Manifest>>>,
}

impl Default for Watches {
    fn default() -> Self {
        let changed = Arc::new(Notify::new());
        Self {
            clusters: Reflector::new(Arc::clone(&changed)),
            alertmanagers: Reflector::new(Arc::clone(&changed)),
            endpoint_slices: Reflector::new(Arc::clone(&changed)),
            secrets: Reflector::new(Arc::clone(&changed)),
            zone: Reflector::new(Arc::clone(&changed)),
            changed,
        }
    }
}

impl Watches {
    /// Starts to watch.
    pub fn spawn(
        &self,
        client: &Client,
        settings: &Settings,
        tasks: &mut Tasks,
        stop: &CancellationToken,
    ) {
        let labels = |selector: &str| watcher::Config::default().labels(selector);
        let own = settings.namespace.as_str();
        let theirs = settings.alertmanager_namespace.as_str();
        let read_service = |service: Service| Some(convert::service(service));

        let api: Api<Service> = Api::namespaced(client.clone(), own);
        let clusters = self.clusters.clone().run(
            "cluster Services",
            api,
            labels(CLUSTER_SELECTOR),
            read_service,
            stop.clone(),
        );
        tasks.spawn("the watch of clusters", clusters);

        let api: Api<Service> = Api::namespaced(client.clone(), theirs);
        let selector: Vec<String> = settings
            .alertmanager_selector
            .iter()
            .map(|(key, value)| format!("{key}={value}"))
            .collect();
        let alertmanagers = self.alertmanagers.clone().run(
            "the hub's Alertmanager Services",
            api,
            labels(&selector.join(",")),
            read_service,
            stop.clone(),
        );
        tasks.spawn("the watch of Alertmanagers", alertmanagers);

        let api: Api<EndpointSlice> = Api::namespaced(client.clone(), theirs);
        let selector = format!("{}={}", annotations::SERVICE_NAME, settings.alertmanager_endpoints);
        let endpoint_slices = self.endpoint_slices.clone().run(
            "the hub's Alertmanager EndpointSlices",
            api,
            labels(&selector),
            |slice| Some(convert::endpoint_slice(slice)),
            stop.clone(),
        );
        tasks.spawn("the watch of EndpointSlices", endpoint_slices);

        let api: Api<Secret> = Api::namespaced(client.clone(), own);
        let domain = settings.trust_domain.clone();
        let secrets = self.secrets.clone().run(
            "Atlas's own Secrets",
            api,
            labels(WATCHED),
            move |secret| Some(StoredSecret::read(secret, &domain)),
            stop.clone(),
        );
        tasks.spawn("the watch of Atlas's own Secrets", secrets);

        let api: Api<ConfigMap> = Api::namespaced(client.clone(), own);
        let (name, key) = ZONE_CONFIG_MAP;
        let zone = self.zone.clone().run(
            "the ConfigMap of the DNS zone",
            api,
            watcher::Config::default().fields(&format!("metadata.name={name}")),
            move |map| ZoneFileVersion::of(map.data?.get(key)?),
            stop.clone(),
        );
        tasks.spawn("the watch of the DNS zone", zone);
    }

    /// Whether a first complete list of each kind is known.
    pub fn are_synced(&self) -> bool {
        self.clusters.is_synced()
            && self.alertmanagers.is_synced()
            && self.endpoint_slices.is_synced()
            && self.secrets.is_synced()
            && self.zone.is_synced()
    }

    /// Whether all objects of a kind were gone at once, and nobody has accepted that.
    pub fn were_emptied(&self) -> bool {
        self.clusters.was_emptied()
            || self.alertmanagers.was_emptied()
            || self.endpoint_slices.was_emptied()
            || self.secrets.was_emptied()
            || self.zone.was_emptied()
    }

    /// Accepts that they are gone.
    pub fn accept_empty(&self) {
        self.clusters.accept_empty();
        self.alertmanagers.accept_empty();
        self.endpoint_slices.accept_empty();
        self.secrets.accept_empty();
        self.zone.accept_empty();
    }

    /// The DNS zone's file as it is written.
    pub fn zone(&self) -> Option<ZoneFileVersion> {
        self.zone.get(ZONE_CONFIG_MAP.0).map(|zone| *zone)
    }

    /// The `metadata.uid` of a cluster's Service.
    pub fn service_uid(&self, name: &str) -> Option<String> {
        self.clusters.get(name)?.meta().uid.clone()
    }

    /// Whether there is a Service of this name that is meant to be a cluster.
    pub fn is_cluster(&self, name: &str) -> bool {
        let service = self.clusters.get(name);
        service
            .is_some_and(|one| matches!(&*one, Manifest::Service(service) if is_cluster(service)))
    }

    /// Takes the manifests that changed since this was last called.
    pub fn take_manifests(&self) -> ManifestChanges {
        let clusters = self.clusters.take_changes();
        let alertmanagers = self.alertmanagers.take_changes();
        let mut changes = ManifestChanges::default();
        // A Service may be watched as a cluster and as an Alertmanager. It is gone when neither
        // watch shows it.
        let names: BTreeSet<&String> = clusters.keys().chain(alertmanagers.keys()).collect();
        for name in names {
            let of_clusters = clusters.get(name).and_then(key);
            let of_alertmanagers = alertmanagers.get(name).and_then(key);
            let keys: BTreeSet<ManifestKey> =
                of_clusters.into_iter().chain(of_alertmanagers).collect();
            for key in keys {
                let shown = [&self.clusters, &self.alertmanagers].map(|watch| watch.get(name));
                let has_key = |shown: &Arc<Manifest>| shown.key() == key;
                let now = shown.into_iter().flatten().find(has_key);
                changes.manifests.push((key, now));
            }
        }
        for (_, change) in self.endpoint_slices.take_changes() {
            changes.manifests.extend(key(&change).map(|key| (key, change.now)));
        }
        changes.services = clusters.into_iter().map(|(name, change)| (name, change.now)).collect();
        changes
    }
}

fn key(change: &Change<Manifest>) -> Option<ManifestKey> {
    change.now.as_ref().or(change.deleted.as_ref()).map(|manifest| manifest.key())
}

#[cfg(test)]
mod tests {
    use atlas_core::thanos::stores::Stores;

    use super::*;

    #[test]
    fn a_zone_that_is_gone_after_a_gap_is_accepted_and_followed_again() {
        let watches = Watches::default();
        let version = |serial: u32| {
            let stores = Stores::new();
            ZoneFileVersion::of(&stores.zone_file(&Settings::default(), serial)).unwrap()
        };
        let name = ZONE_CONFIG_MAP.0.to_owned();
        watches.zone.replace([(name.clone(), version(7))].into());
        watches.zone.replace(BTreeMap::new());
        assert!(watches.were_emptied());
        watches.accept_empty();
        assert_eq!(watches.zone().map(|zone| zone.serial), None);
        watches.zone.apply(name, Some(version(8)));
        assert_eq!(watches.zone().map(|zone| zone.serial), Some(8));
    }
}

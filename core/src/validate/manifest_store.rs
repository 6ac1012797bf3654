//! The manifests in force and the fleet that follows from them, kept up to date change by change.
//!
//! A cluster depends only on the Services of its name, and the hub's Alertmanagers only on their
//! Services and EndpointSlices, so a change reads only those again. The result is that of
//! [`super::validate`] on all manifests.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::{
    Finding, Severity, alertmanagers, as_cluster, finding_about, is_cluster, read_cluster,
    zone_without_addresses,
};
use crate::manifest::{Manifest, ManifestKey, Service};
use crate::model::{Cluster, Fleet, Settings};
use crate::name::ClusterName;

/// What differs after [`ManifestStore::apply`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ChangeSet {
    /// Clusters of the fleet that were added, changed or removed.
    pub clusters: BTreeSet<ClusterName>,
    /// Clusters of which a Service was added, changed or removed, whether it is valid or not.
    pub services: BTreeSet<ClusterName>,
    /// Whether the hub's Alertmanagers changed.
    pub alertmanagers: bool,
    /// Whether the findings changed.
    pub findings: bool,
}

/// All manifests, the fleet and the findings.
#[derive(Clone, Debug)]
pub struct ManifestStore {
    manifests: BTreeMap<ManifestKey, Arc<Manifest>>,
    /// The cluster Services of each name, in the order of their keys: the first valid one counts.
    cluster_services: BTreeMap<String, Vec<(ManifestKey, Arc<Manifest>)>>,
    /// The Services and EndpointSlices that may be about the hub's Alertmanagers.
    alertmanager_manifests: BTreeMap<ManifestKey, Arc<Manifest>>,
    /// The clusters' last valid configurations from before this process; empty after the first
    /// [`ManifestStore::apply`].
    last_good: BTreeMap<ClusterName, Arc<Cluster>>,
    fleet: Fleet,
    /// Findings about cluster Services, by the Services' name.
    cluster_findings: BTreeMap<String, Vec<Finding>>,
    alertmanager_findings: Vec<Finding>,
    /// How many clusters have an address.
    addressed: usize,
}

impl ManifestStore {
    /// A store without manifests. `last_good` is what a cluster stays while its Service is invalid
    /// from the first [`ManifestStore::apply`] on.
    pub fn new(settings: Settings, last_good: BTreeMap<ClusterName, Arc<Cluster>>) -> Self {
        let fleet = Fleet { settings, clusters: BTreeMap::new(), alertmanagers: BTreeMap::new() };
        Self {
            manifests: BTreeMap::new(),
            cluster_services: BTreeMap::new(),
            alertmanager_manifests: BTreeMap::new(),
            last_good,
            fleet,
            cluster_findings: BTreeMap::new(),
            alertmanager_findings: Vec::new(),
            addressed: 0,
        }
    }

    /// Replaces manifests by new ones; `None` removes one.
    pub fn apply(
        &mut self,
        changes: impl IntoIterator<Item = (ManifestKey, Option<Arc<Manifest>>)>,
    ) -> ChangeSet {
        let mut changed = ChangeSet::default();
        let (mut names, mut alertmanagers_differ) = (BTreeSet::new(), false);
        for (key, manifest) in changes {
            if self.manifests.get(&key) == manifest.as_ref() {
                continue;
            }
            alertmanagers_differ |= self.replace_alertmanager_manifest(&key, manifest.as_ref());
            if self.replace_cluster_service(&key, manifest.as_ref()) {
                names.insert(key.name.clone());
            }
            match manifest {
                Some(manifest) => _ = self.manifests.insert(key, manifest),
                None => _ = self.manifests.remove(&key),
            }
        }
        for name in names {
            self.update_cluster(&name, &mut changed);
            changed.services.extend(name.parse());
        }
        self.last_good.clear();
        if alertmanagers_differ {
            self.update_alertmanagers(&mut changed);
        }
        changed
    }

    /// Returns whether the new or the old manifest may be about the hub's Alertmanagers.
    fn replace_alertmanager_manifest(
        &mut self,
        key: &ManifestKey,
        manifest: Option<&Arc<Manifest>>,
    ) -> bool {
        let was_one = self.alertmanager_manifests.remove(key).is_some();
        match manifest {
            Some(manifest) if alertmanagers::may_be_about(&self.fleet.settings, manifest) => {
                self.alertmanager_manifests.insert(key.clone(), Arc::clone(manifest));
                true
            }
            _ => was_one,
        }
    }

    /// Returns whether the new or the old manifest is a cluster's Service.
    fn replace_cluster_service(
        &mut self,
        key: &ManifestKey,
        manifest: Option<&Arc<Manifest>>,
    ) -> bool {
        let mut differs = false;
        if let Some(services) = self.cluster_services.get_mut(&key.name) {
            let length = services.len();
            services.retain(|(other, _)| other != key);
            differs = services.len() < length;
        }
        if let Some(manifest) = manifest
            && let Manifest::Service(service) = &**manifest
            && is_cluster(service)
        {
            // Nearly every name has one Service, and a Vec of one takes a tenth of a map's memory.
            let services = self
                .cluster_services
                .entry(key.name.clone())
                .or_insert_with(|| Vec::with_capacity(1));
            services.push((key.clone(), Arc::clone(manifest)));
            services.sort_by(|(one, _), (other, _)| one.cmp(other));
            differs = true;
        }
        if self.cluster_services.get(&key.name).is_some_and(Vec::is_empty) {
            self.cluster_services.remove(&key.name);
        }
        differs
    }

    /// Reads the cluster called `name` again.
    fn update_cluster(&mut self, name: &str, changed: &mut ChangeSet) {
        let mut findings = Vec::new();
        let last = |name: &ClusterName| {
            self.fleet.clusters.get(name).or(self.last_good.get(name)).cloned()
        };
        let cluster =
            read_cluster(&self.fleet.settings, self.services_called(name), last, &mut findings);
        if findings.as_slice() != self.findings_of(name) {
            changed.findings = true;
            if findings.is_empty() {
                self.cluster_findings.remove(name);
            } else {
                findings.shrink_to_fit();
                self.cluster_findings.insert(name.to_owned(), findings);
            }
        }
        // A Service whose name is no cluster's name was rejected: there is no cluster.
        let Ok(name) = name.parse::<ClusterName>() else { return };
        let before = self.fleet.clusters.get(&name);
        if before == cluster.as_ref() {
            return;
        }
        let had_addresses = self.addressed > 0;
        let addressed = |cluster: Option<&Arc<Cluster>>| {
            usize::from(cluster.is_some_and(|cluster| !cluster.addresses.is_empty()))
        };
        self.addressed = self.addressed + addressed(cluster.as_ref()) - addressed(before);
        // On that depends the finding about a zone without addresses.
        changed.findings |= had_addresses != (self.addressed > 0);
        match cluster {
            Some(cluster) => _ = self.fleet.clusters.insert(name.clone(), cluster),
            None => _ = self.fleet.clusters.remove(&name),
        }
        changed.clusters.insert(name);
    }

    /// Reads the hub's Alertmanagers again.
    fn update_alertmanagers(&mut self, changed: &mut ChangeSet) {
        let mut findings = Vec::new();
        let alertmanagers = alertmanagers::read(
            &self.fleet.settings,
            self.alertmanager_manifests.values().map(|manifest| &**manifest),
            &mut findings,
        );
        changed.alertmanagers = alertmanagers != self.fleet.alertmanagers;
        changed.findings |= findings != self.alertmanager_findings;
        self.fleet.alertmanagers = alertmanagers;
        self.alertmanager_findings = findings;
    }

    /// The fleet in force.
    pub fn fleet(&self) -> &Fleet {
        &self.fleet
    }

    /// The manifest of an object.
    pub fn manifest(&self, key: &ManifestKey) -> Option<&Arc<Manifest>> {
        self.manifests.get(key)
    }

    /// The keys of all manifests.
    pub fn keys(&self) -> impl Iterator<Item = &ManifestKey> {
        self.manifests.keys()
    }

    /// The Services of a cluster, valid or not.
    pub fn services_of(&self, cluster: &ClusterName) -> impl Iterator<Item = &Service> {
        self.services_called(cluster.as_str())
    }

    fn services_called(&self, name: &str) -> impl Iterator<Item = &Service> {
        let services = self.cluster_services.get(name).into_iter().flatten();
        services.filter_map(|(_, manifest)| as_cluster(manifest))
    }

    /// The name of every cluster that has a Service, valid or not.
    pub fn cluster_names(&self) -> impl Iterator<Item = ClusterName> {
        self.cluster_services.keys().filter_map(|name| name.parse().ok())
    }

    /// The findings about the cluster Services of this name.
    pub fn findings_of(&self, name: &str) -> &[Finding] {
        self.cluster_findings.get(name).map(Vec::as_slice).unwrap_or_default()
    }

    /// Whether a finding rejects this manifest. Of several files that hold the same object, only
    /// findings about the manifest's own file count.
    pub fn is_rejected(&self, manifest: &Manifest) -> bool {
        let expected =
            finding_about(&self.fleet.settings, manifest.kind(), manifest.meta(), "", "");
        let file =
            |finding: &Finding| finding.place.rsplit_once(':').map(|(file, _line)| file.to_owned());
        self.findings_of(&manifest.meta().name).iter().chain(&self.alertmanager_findings).any(
            |finding| {
                finding.severity == Severity::Rejected
                    && finding.object == expected.object
                    && file(finding) == file(&expected)
            },
        )
    }

    /// All findings, in a stable order.
    pub fn findings(&self) -> Vec<Finding> {
        let of_zone = zone_without_addresses(&self.fleet.settings, self.addressed > 0);
        let mut findings: Vec<Finding> = self
            .cluster_findings
            .values()
            .flatten()
            .chain(&self.alertmanager_findings)
            .cloned()
            .chain(of_zone)
            .collect();
        findings.sort();
        findings.dedup();
        findings
    }
}

#[cfg(test)]
mod tests;

//! Manifests as they come and go, and the fleet that follows them: [`super::validate`] change by change.
//!
//! What a cluster is depends on the Services of its name alone, and the hub's Alertmanagers on theirs, so only what a change
//! concerns is read again.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::{
    Finding, Severity, about, alertmanagers, as_cluster, is_cluster, one_cluster,
    zone_without_addresses,
};
use crate::manifest;
use crate::manifest::{Manifest, Service};
use crate::model::{Cluster, Fleet, Settings};
use crate::name::ClusterName;

/// Which object a manifest is about: of one there is one manifest.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ManifestKey {
    /// `Service`, `EndpointSlice`.
    pub kind: &'static str,
    /// `metadata.namespace`, where it says one.
    pub namespace: Option<String>,
    /// `metadata.name`.
    pub name: String,
}

impl ManifestKey {
    /// That of a manifest.
    pub fn of(manifest: &Manifest) -> Self {
        let (kind, namespace, name) = manifest::identity(manifest);
        Self { kind, namespace: namespace.map(str::to_owned), name: name.to_owned() }
    }
}

/// What changes concerned.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ChangeSet {
    /// Clusters that are new, different or gone.
    pub clusters: BTreeSet<ClusterName>,
    /// Clusters some Service of which came or went, right or wrong.
    pub claimed: BTreeSet<ClusterName>,
    /// Whether the hub's Alertmanagers are others.
    pub alertmanagers: bool,
    /// Whether there is something else to know about objects.
    pub findings: bool,
}

/// All manifests, and what comes of them.
#[derive(Clone, Debug)]
pub struct ManifestStore {
    manifests: BTreeMap<ManifestKey, Arc<Manifest>>,
    /// The Services that claim to be the cluster of a name, in the order in which they count.
    claims: BTreeMap<String, Vec<(ManifestKey, Arc<Manifest>)>>,
    /// Those that the hub's Alertmanagers come from.
    alertmanagers: BTreeMap<ManifestKey, Arc<Manifest>>,
    /// What clusters were before there was any manifest; until the first manifests.
    before: BTreeMap<ClusterName, Arc<Cluster>>,
    fleet: Fleet,
    /// By the name of the Services.
    findings: BTreeMap<String, Vec<Finding>>,
    of_alertmanagers: Vec<Finding>,
    /// Clusters that have an address.
    addressed: usize,
}

impl ManifestStore {
    /// No manifests yet. `before`: what clusters were when they were last right, for those whose Service is wrong from the start.
    pub fn new(settings: Settings, before: BTreeMap<ClusterName, Arc<Cluster>>) -> Self {
        let fleet = Fleet { settings, clusters: BTreeMap::new(), alertmanagers: BTreeMap::new() };
        Self {
            manifests: BTreeMap::new(),
            claims: BTreeMap::new(),
            alertmanagers: BTreeMap::new(),
            before,
            fleet,
            findings: BTreeMap::new(),
            of_alertmanagers: Vec::new(),
            addressed: 0,
        }
    }

    /// Takes what manifests are now (`None`: gone).
    pub fn apply(
        &mut self,
        changes: impl IntoIterator<Item = (ManifestKey, Option<Arc<Manifest>>)>,
    ) -> ChangeSet {
        let mut touched = ChangeSet::default();
        let (mut names, mut of_alertmanagers) = (BTreeSet::new(), false);
        for (key, manifest) in changes {
            if self.manifests.get(&key) == manifest.as_ref() {
                continue;
            }
            of_alertmanagers |= self.note_alertmanager(&key, manifest.as_ref());
            names.extend(self.note_claim(&key, manifest.as_ref()));
            match manifest {
                Some(manifest) => _ = self.manifests.insert(key, manifest),
                None => _ = self.manifests.remove(&key),
            }
        }
        for name in names {
            self.read_cluster(&name, &mut touched);
            touched.claimed.extend(name.parse());
        }
        self.before.clear();
        if of_alertmanagers {
            let mut findings = Vec::new();
            let alertmanagers = alertmanagers::read(
                &self.fleet.settings,
                self.alertmanagers.values().map(|manifest| &**manifest),
                &mut findings,
            );
            touched.alertmanagers = alertmanagers != self.fleet.alertmanagers;
            touched.findings |= findings != self.of_alertmanagers;
            (self.fleet.alertmanagers, self.of_alertmanagers) = (alertmanagers, findings);
        }
        touched
    }

    /// Whether it is or was one of the manifests that the hub's Alertmanagers come from.
    fn note_alertmanager(&mut self, key: &ManifestKey, manifest: Option<&Arc<Manifest>>) -> bool {
        let was = self.alertmanagers.remove(key).is_some();
        let matters =
            manifest.filter(|manifest| alertmanagers::matters(&self.fleet.settings, manifest));
        let is = matters
            .map(|manifest| self.alertmanagers.insert(key.clone(), Arc::clone(manifest)))
            .is_some();
        was || is
    }

    /// The name of the cluster that it claims or claimed to be.
    fn note_claim(
        &mut self,
        key: &ManifestKey,
        manifest: Option<&Arc<Manifest>>,
    ) -> Option<String> {
        let claims = self.claims.get_mut(&key.name);
        let was = claims
            .is_some_and(|claims| claims.extract_if(.., |(claim, _)| claim == key).count() > 0);
        let claim = manifest.filter(
            |manifest| matches!(&***manifest, Manifest::Service(service) if is_cluster(service)),
        );
        if let Some(manifest) = claim {
            // Nearly always there is one: a map would take ten times the room.
            let claims =
                self.claims.entry(key.name.clone()).or_insert_with(|| Vec::with_capacity(1));
            claims.push((key.clone(), Arc::clone(manifest)));
            claims.sort_by(|(one, _), (other, _)| one.cmp(other));
        }
        if self.claims.get(&key.name).is_some_and(Vec::is_empty) {
            self.claims.remove(&key.name);
        }
        (was || claim.is_some()).then(|| key.name.clone())
    }

    fn read_cluster(&mut self, name: &str, touched: &mut ChangeSet) {
        let mut findings = Vec::new();
        let services = self
            .claims
            .get(name)
            .into_iter()
            .flatten()
            .filter_map(|(_, manifest)| as_cluster(manifest));
        let known =
            |name: &ClusterName| self.fleet.clusters.get(name).or(self.before.get(name)).cloned();
        let cluster = one_cluster(&self.fleet.settings, services, known, &mut findings);
        touched.findings |= self.findings.get(name).is_none_or(|before| *before != findings)
            && !findings.is_empty();
        touched.findings |= findings.is_empty() && self.findings.remove(name).is_some();
        if !findings.is_empty() {
            findings.shrink_to_fit();
            self.findings.insert(name.to_owned(), findings);
        }
        // A name that is none is rejected, and has no cluster.
        let Ok(name) = name.parse::<ClusterName>() else { return };
        let addressed = |cluster: Option<&Arc<Cluster>>| {
            usize::from(cluster.is_some_and(|cluster| !cluster.addresses.is_empty()))
        };
        let before = self.fleet.clusters.get(&name);
        if before == cluster.as_ref() {
            return;
        }
        self.addressed = self.addressed + addressed(cluster.as_ref()) - addressed(before);
        match cluster {
            Some(cluster) => _ = self.fleet.clusters.insert(name.clone(), cluster),
            None => _ = self.fleet.clusters.remove(&name),
        }
        touched.clusters.insert(name);
    }

    /// The fleet in force.
    pub fn fleet(&self) -> &Fleet {
        &self.fleet
    }

    /// The manifest about an object.
    pub fn manifest(&self, key: &ManifestKey) -> Option<&Arc<Manifest>> {
        self.manifests.get(key)
    }

    /// The objects there are manifests about.
    pub fn keys(&self) -> impl Iterator<Item = &ManifestKey> {
        self.manifests.keys()
    }

    /// The Services that claim to be this cluster, right or wrong.
    pub fn claims(&self, cluster: &ClusterName) -> impl Iterator<Item = &Service> {
        self.claims
            .get(cluster.as_str())
            .into_iter()
            .flatten()
            .filter_map(|(_, manifest)| as_cluster(manifest))
    }

    /// Every name that a Service claims, right or wrong.
    pub fn claimed(&self) -> impl Iterator<Item = ClusterName> {
        self.claims.keys().filter_map(|name| name.parse().ok())
    }

    /// What is wrong or worth knowing about the Services of one name.
    pub fn findings_of(&self, name: &str) -> &[Finding] {
        self.findings.get(name).map(Vec::as_slice).unwrap_or_default()
    }

    /// Whether a finding rejects what this manifest says, as it was read in its place.
    pub fn is_rejected(&self, manifest: &Manifest) -> bool {
        let about = about(&self.fleet.settings, manifest.kind(), manifest.meta(), "", "");
        let of_file = |place: &str| {
            place.rsplit_once(':').map(|(file, _)| file)
                == about.place.rsplit_once(':').map(|(file, _)| file)
        };
        let mut findings =
            self.findings_of(&manifest.meta().name).iter().chain(&self.of_alertmanagers);
        findings.any(|finding| {
            finding.severity == Severity::Rejected
                && finding.object == about.object
                && of_file(&finding.place)
        })
    }

    /// What people should know, in a stable order.
    pub fn findings(&self) -> Vec<Finding> {
        let of_zone = zone_without_addresses(&self.fleet.settings, self.addressed > 0);
        let mut all: Vec<Finding> = self
            .findings
            .values()
            .flatten()
            .chain(&self.of_alertmanagers)
            .cloned()
            .chain(of_zone)
            .collect();
        all.sort();
        all.dedup();
        all
    }
}

#[cfg(test)]
mod tests;

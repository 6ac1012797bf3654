//! What a replica knows from round to round: the fleet as it was understood, and what was planned of it. A round plans what differs.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use atlas_core::kubernetes::lease::ResourceVersion;
use atlas_core::manifest::Manifest;
use atlas_core::manifest::ManifestKey;
use atlas_core::model::{Fleet, Settings};
use atlas_core::name::ClusterName;
use atlas_core::plan::{Planner, Scope};
use atlas_core::thanos::stores::Stores;
use atlas_core::thanos::zone::ZoneFileVersion;
use atlas_core::validate::{ChangeSet, ManifestStore, validate};

use super::View;
use crate::engine::publisher::{Publication, Publisher};
use crate::kube::record::Record;
use crate::pki::{Pki, PkiStore};
use crate::state::ZoneVersion;

/// See the module.
#[derive(Default)]
pub struct Rounds {
    /// `None` before the first round.
    register: Option<ManifestStore>,
    planner: Planner,
    /// What Thanos Query and DNS should know.
    pub stores: Stores,
    /// The records as they were planned with.
    records: BTreeMap<String, ResourceVersion>,
    roots: Vec<String>,
    /// What is still to be planned.
    scope: Scope,
    /// Whether there is something else to know about objects.
    findings: bool,
    /// Whose objects the leader has to make again.
    pub unwritten: Scope,
    /// Whether Thanos Query and DNS servers should know something else.
    pub stores_differ: bool,
}

impl Rounds {
    /// The next round is about everything.
    pub fn start_over(&mut self) {
        self.scope = Scope::everything();
    }

    /// Takes in what has changed. `services`: what the clusters' Services said when they were last right.
    pub fn take(
        &mut self,
        view: &View,
        settings: &Settings,
        services: &BTreeMap<ClusterName, String>,
    ) {
        let register = self.register.get_or_insert_with(|| {
            self.scope = Scope::everything();
            let manifests: Vec<Manifest> =
                services.values().filter_map(|text| serde_json::from_str(text).ok()).collect();
            ManifestStore::new(
                settings.clone(),
                validate(settings, &manifests, None).fleet.clusters,
            )
        });
        let now: BTreeMap<ManifestKey, &Manifest> =
            view.manifests.iter().map(|manifest| (manifest.key(), manifest)).collect();
        let gone: Vec<_> = register
            .keys()
            .filter(|key| !now.contains_key(key))
            .map(|key| (key.clone(), None))
            .collect();
        let known = |key: &ManifestKey, manifest: &Manifest| {
            register.manifest(key).is_some_and(|known| **known == *manifest)
        };
        let new = now
            .into_iter()
            .filter(|(key, manifest)| !known(key, manifest))
            .map(|(key, manifest)| (key, Some(Arc::new(manifest.clone()))));
        let changes: Vec<_> = gone.into_iter().chain(new).collect();
        let ChangeSet { clusters, services, alertmanagers, findings } = register.apply(changes);
        self.unwritten.clusters.extend(services);
        self.findings |= findings || !clusters.is_empty();
        self.scope.extend(Scope { alertmanagers, clusters, ..Scope::default() });
        let records: BTreeMap<String, ResourceVersion> = view
            .records
            .iter()
            .map(|(name, stored)| (name.clone(), stored.version.clone()))
            .collect();
        let names: BTreeSet<&String> = records.keys().chain(self.records.keys()).collect();
        for name in names.into_iter().filter(|name| records.get(*name) != self.records.get(*name)) {
            match Record::of_secret(name) {
                Some(Record::Cluster(name)) => _ = self.scope.clusters.insert(name),
                _ => self.scope.hub = true,
            }
        }
        self.records = records;
    }

    /// Takes in what else is to be planned.
    pub fn extend(&mut self, scope: Scope) {
        self.scope.extend(scope);
    }

    /// What was understood.
    pub fn register(&self) -> Option<&ManifestStore> {
        self.register.as_ref()
    }

    /// The fleet in force; `None` before the first round.
    pub fn fleet(&self) -> Option<&Fleet> {
        self.register.as_ref().map(ManifestStore::fleet)
    }

    /// Plans what is to be planned, and lets it take effect.
    ///
    /// # Errors
    /// Atlas has no certificate of its own.
    pub fn publish<V: PkiStore>(
        &mut self,
        publisher: &Publisher,
        pki: &Pki<V>,
        problems: Vec<String>,
        zone: Option<ZoneFileVersion>,
    ) -> anyhow::Result<()> {
        let Some(register) = &self.register else { return Ok(()) };
        let fleet = register.fleet();
        publisher.install_credentials(pki, None)?;
        let roots = pki.trust_for([]).roots;
        self.scope.all |= roots != self.roots || !publisher.state_store.is_ready();
        self.roots = roots;
        let scope = std::mem::take(&mut self.scope);
        let all: BTreeSet<ClusterName> =
            if scope.all { fleet.clusters.keys().cloned().collect() } else { BTreeSet::new() };
        let planned = if scope.all { &all } else { &scope.clusters };
        let changed =
            publisher.nodes.apply(self.planner.update(fleet, &pki.trust_for(planned), &scope));
        let known: Vec<ClusterName> =
            if scope.all { self.stores.clusters().cloned().collect() } else { Vec::new() };
        self.stores_differ |= self.stores.update(fleet, planned.iter().chain(&known));
        self.unwritten.extend(scope.clone());
        let findings = std::mem::take(&mut self.findings) || scope.all;
        let round = Publication {
            fleet,
            about: (!scope.all).then_some(&scope.clusters),
            changed,
            findings: findings.then(|| register.findings()),
            errors: None,
            problems,
            // Every replica says the number that is written, so they agree.
            zone: ZoneVersion {
                records: self.stores.version(),
                serial: zone.map_or(0, |zone| zone.serial),
            },
        };
        publisher.publish(pki, round);
        Ok(())
    }
}

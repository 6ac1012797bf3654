//! First step: what has changed is validated and taken in.

use std::collections::BTreeMap;

use atlas_core::manifest::ManifestError;
use atlas_core::model::Settings;
use atlas_core::validate::{ChangeSet, ManifestStore};

use super::last_good::SourceState;
use super::last_good::{LastGood, LastGoodManifests};
use super::provider::Changes;

/// All manifests, as they are and as they were when they were last right.
pub struct Inputs {
    /// As they are, and what comes of them.
    pub manifests: ManifestStore,
    /// As they were when they were last right.
    pub last_good: LastGood,
    /// Files that can't be read.
    pub errors: Vec<ManifestError>,
}

impl Inputs {
    /// None yet. `sources` are those of the first changes; a cluster that is wrong in them is as it
    /// was in `kept`.
    pub fn new(
        settings: &Settings,
        kept: LastGoodManifests,
        sources: &BTreeMap<String, SourceState>,
    ) -> Self {
        let last_good = LastGood::new(kept, sources);
        let manifests = ManifestStore::new(settings.clone(), last_good.clusters(settings));
        Self { manifests, last_good, errors: Vec::new() }
    }

    /// Takes in what has changed; returns what it concerns.
    pub fn ingest(&mut self, changes: &mut Changes) -> ChangeSet {
        let concerned = self.manifests.apply(std::mem::take(&mut changes.manifests));
        self.last_good.ingest(std::mem::take(&mut changes.sources), &self.manifests);
        if let Some(errors) = changes.errors.take() {
            self.errors = errors;
        }
        concerned
    }
}

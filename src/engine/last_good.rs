//! What each source of manifests (a file, a Service) said when it was last right, kept across
//! restarts: something wrong changes nothing, also where Atlas is restarted while it is wrong.
//!
//! ```text
//! a source that is right     its objects, as they are
//! an object is rejected      that object, as it was; the source's others, as they are
//! a source can't be read     all as it was
//! a source is gone           nothing
//! ```
//!
//! So nothing comes back that was deleted, and nothing that is right is hidden by what it was
//! before.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use atlas_core::manifest::Manifest;
use atlas_core::model::{Cluster, Settings};
use atlas_core::name::ClusterName;
use atlas_core::validate::{ManifestStore, validate};

/// The manifests of each source, by its name.
pub type LastGoodManifests = BTreeMap<String, Arc<[Arc<Manifest>]>>;

/// What a source of manifests says now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SourceState {
    /// These manifests, read without a mistake. (What they say may still be wrong.)
    Manifests(Arc<[Arc<Manifest>]>),
    /// It is there, but can't be read.
    Unreadable,
    /// It isn't there.
    Gone,
}

/// The manifests of each source, as they were when they were last right.
#[derive(Debug, Default)]
pub struct LastGood(LastGoodManifests);

impl From<LastGoodManifests> for LastGood {
    fn from(kept: LastGoodManifests) -> Self {
        Self(kept)
    }
}

impl LastGood {
    /// Begins with what an earlier process kept, as far as its sources may still be there.
    pub fn new(mut kept: LastGoodManifests, sources: &BTreeMap<String, SourceState>) -> Self {
        kept.retain(|name, _| sources.get(name).is_some_and(|source| *source != SourceState::Gone));
        Self(kept)
    }

    /// The clusters that these manifests make.
    pub fn clusters(&self, settings: &Settings) -> BTreeMap<ClusterName, Arc<Cluster>> {
        let manifests: Vec<Manifest> =
            self.0.values().flat_map(|kept| kept.iter()).map(|one| (**one).clone()).collect();
        validate(settings, &manifests, None).fleet.clusters
    }

    /// Takes in what sources say now. `manifests` has validated it.
    pub fn ingest(&mut self, sources: BTreeMap<String, SourceState>, manifests: &ManifestStore) {
        for (name, source) in sources {
            let now = match source {
                SourceState::Unreadable => continue,
                SourceState::Gone => Arc::default(),
                SourceState::Manifests(now) => now,
            };
            let kept = self.without_rejected(&name, now, manifests);
            self.set(name, kept);
        }
    }

    /// These manifests of a source, those that are rejected as they were before.
    fn without_rejected(
        &self,
        source: &str,
        now: Arc<[Arc<Manifest>]>,
        manifests: &ManifestStore,
    ) -> Arc<[Arc<Manifest>]> {
        if !now.iter().any(|manifest| manifests.is_rejected(manifest)) {
            return now;
        }
        let before = self.get(source).unwrap_or_default();
        let mut kept = Vec::new();
        for manifest in now.iter() {
            if manifests.is_rejected(manifest) {
                let old = before.iter().find(|old| old.key() == manifest.key());
                kept.extend(old.cloned());
            } else {
                kept.push(Arc::clone(manifest));
            }
        }
        kept.into()
    }

    fn set(&mut self, source: String, kept: Arc<[Arc<Manifest>]>) {
        if kept.is_empty() {
            self.0.remove(&source);
        } else {
            self.0.insert(source, kept);
        }
    }

    /// What a source said when it was last right; `None`: nothing is kept of it.
    pub fn get(&self, source: &str) -> Option<&[Arc<Manifest>]> {
        self.0.get(source).map(|kept| &**kept)
    }

    /// What all sources said.
    pub fn manifests(&self) -> &LastGoodManifests {
        &self.0
    }

    /// Forgets a cluster that was removed; returns the sources that said something of it.
    pub fn forget(&mut self, cluster: &ClusterName) -> BTreeSet<String> {
        let is_it = |manifest: &Manifest| match manifest {
            Manifest::Service(service) => service.meta.name == cluster.as_str(),
            Manifest::EndpointSlice(_) => false,
        };
        let mut changed = BTreeSet::new();
        for (source, kept) in &self.0 {
            if kept.iter().any(|manifest| is_it(manifest)) {
                changed.insert(source.clone());
            }
        }
        for source in &changed {
            let others = self.get(source).unwrap_or_default().iter().filter(|one| !is_it(one));
            let others = others.cloned().collect();
            self.set(source.clone(), others);
        }
        changed
    }
}

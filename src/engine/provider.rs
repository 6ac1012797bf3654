//! What a mode (standalone, Kubernetes) gives the engine: changes, where certificates are kept, and
//! who writes what comes of them.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::sync::Arc;

use atlas_core::manifest::{Manifest, ManifestError, ManifestKey};
use atlas_core::name::{ClusterName, Identity};
use atlas_core::pki::Trust;
use atlas_core::plan::Scope;
use atlas_core::thanos::stores::Stores;
use atlas_core::validate::ManifestStore;

use super::last_good::{LastGood, LastGoodManifests, SourceState};
use crate::pki::{Pki, PkiStore};

/// One mode of running Atlas.
pub trait Provider: Send + 'static {
    /// Where certificates and keys are kept.
    type Store: PkiStore + Send;

    /// Completes when there may be something to take. Cancel-safe: a cancelled call loses no
    /// notification.
    fn changed(&mut self) -> impl Future<Output = ()> + Send;

    /// Takes what differs since the last call.
    ///
    /// Also brings what `pki` holds up to date with what others wrote to its store, and takes
    /// leadership over or gives it up. `full`: looks at everything, also at what no notification
    /// was about. `None`: nothing is known yet.
    ///
    /// # Errors
    /// The input can't be read or isn't accepted. Nothing changes, the error is shown, and it is
    /// tried again.
    fn take_changes(
        &mut self,
        pki: &mut Pki<Self::Store>,
        full: bool,
    ) -> impl Future<Output = anyhow::Result<Option<Changes>>> + Send;

    /// What sources said when they were last right, as an earlier process kept it. Asked once,
    /// after the first changes.
    fn last_good(&self) -> LastGoodManifests;

    /// Notes what is to be kept of these sources (`None`: of all): what `last_good` has of them, or
    /// nothing.
    ///
    /// Called before certificates are issued, so that it may be written together with them.
    fn note_last_good(
        &mut self,
        pki: &mut Pki<Self::Store>,
        last_good: &LastGood,
        sources: Option<&BTreeSet<String>>,
    );

    /// Writes what was noted and nothing has written yet. Returns what couldn't be written; it is
    /// tried again.
    fn write_last_good(&mut self, pki: &mut Pki<Self::Store>) -> Vec<String>;

    /// Writes what is derived: files or objects. Returns what couldn't be written; it is tried
    /// again.
    fn write_outputs(&mut self, outputs: &Outputs<'_, Self::Store>) -> Vec<String>;

    /// The serial number of the DNS zone as it was last written.
    fn zone_serial(&self) -> u32;
}

/// What differs since the last time.
#[derive(Debug, Default)]
pub struct Changes {
    /// Manifests that are new, different or (`None`) gone.
    pub manifests: Vec<(ManifestKey, Option<Arc<Manifest>>)>,
    /// Sources whose last good manifests may differ: files by their path, Services by their name.
    pub sources: BTreeMap<String, SourceState>,
    /// Files that can't be read; `None`: the same as before.
    pub errors: Option<Vec<ManifestError>>,
    /// Whose certificates or credentials somebody else has changed.
    pub credentials: Scope,
    /// Whether this process issues certificates and writes outputs.
    pub leads: bool,
    /// What people must know, and trying again doesn't change.
    pub problems: Vec<String>,
    /// What failed and is worth another try soon.
    pub failed: Vec<String>,
}

/// What a reconcile came to, for who writes it where others read it.
pub struct Outputs<'a, S> {
    /// The manifests, the fleet they make, and what is wrong with them.
    pub manifests: &'a ManifestStore,
    /// Certificates and credentials.
    pub pki: &'a Pki<S>,
    /// The trust domain and the roots; no leaf.
    pub trust: &'a Trust,
    /// Whether everything may differ.
    pub all: bool,
    /// The clusters of which something may differ: also a finding, the uid of the Service, or a
    /// credential.
    pub clusters: &'a BTreeSet<ClusterName>,
    /// Whether the hub's own may differ.
    pub hub: bool,
    /// Whether to look too if what was written is still there.
    pub full: bool,
    /// What Thanos Query and DNS read.
    pub stores: &'a Stores,
    pub stores_differ: bool,
    /// What was issued by this reconcile, and whether it replaces an earlier certificate.
    pub issued: &'a BTreeMap<Identity, bool>,
}

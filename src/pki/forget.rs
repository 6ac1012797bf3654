//! Credentials that are no longer accepted: of clusters that are removed, or were away for too
//! long.

use std::collections::BTreeSet;

use atlas_core::name::{ClusterName, Identity};
use atlas_core::pki::Time;

use super::ledger::{ClusterCredentials, Ledger};
use super::{Contents, Pki, PkiStore, Subjects};

impl<S: PkiStore> Pki<S> {
    /// Forgets every credential of a cluster and removes its keys, also what an interrupted call
    /// left. If the cluster comes back, it gets the next revision.
    ///
    /// # Errors
    /// The store can't be written. Where only the keys can't be removed, the credentials are
    /// forgotten all the same.
    pub fn forget(&mut self, cluster: &ClusterName) -> anyhow::Result<()> {
        let ledger = &self.contents.ledger;
        let current = ledger.revision(cluster);
        let mut identities = self.contents.identities.keys();
        let is_in_use = ledger.has_credentials(cluster)
            || identities.any(|identity| revision_of(identity, cluster) == Some(current));
        let removed = self.store.remove_keys(cluster);
        if is_in_use {
            self.update_ledger(&[cluster.clone()].into(), |ledger| ledger.forget(cluster))?;
        }
        if removed.is_ok() {
            self.contents.identities.retain(|identity, _| revision_of(identity, cluster).is_none());
        }
        removed
    }

    /// Removes keys that [`Pki::forget`] could not remove: they have an earlier revision than the
    /// ledger.
    pub(super) fn finish_forgetting(
        &mut self,
        subjects: &Subjects<'_>,
        changed: &mut BTreeSet<Identity>,
    ) -> anyhow::Result<()> {
        // Such keys are rare, so they are looked for only when everything is.
        if subjects.only.is_some() {
            return Ok(());
        }
        let Contents { identities, ledger, .. } = &mut self.contents;
        let (mut stale, mut names) = (BTreeSet::new(), BTreeSet::new());
        for identity in identities.keys() {
            if let Identity::Cluster(name, revision) | Identity::Bootstrap(name, revision) =
                identity
                && *revision < ledger.revision(name)
            {
                stale.insert(identity.clone());
                names.insert(name.clone());
            }
        }
        // From memory all of them and at once: a later try to remove their keys would remove those
        // of the next revision.
        identities.retain(|identity, _| !stale.contains(identity));
        changed.append(&mut stale);
        let results: Vec<_> = names.iter().map(|name| self.store.remove_keys(name)).collect();
        results.into_iter().collect()
    }

    /// Notes in the ledger which clusters have a manifest.
    pub(super) fn update_presence(
        &mut self,
        subjects: &Subjects<'_>,
        now: Time,
    ) -> anyhow::Result<()> {
        let clusters = match subjects.only {
            Some(only) => only.clone(),
            None => self.contents.ledger.clusters().cloned().collect(),
        };
        self.update_ledger(&clusters, |ledger| {
            for name in &clusters {
                let is_present =
                    subjects.clusters.contains(name) || subjects.present.contains(name);
                ledger.update_presence(name, is_present, now);
            }
        })
    }

    /// Changes the ledger for these clusters, and saves what differs. Where that fails, the ledger
    /// is as before.
    fn update_ledger(
        &mut self,
        clusters: &BTreeSet<ClusterName>,
        change: impl FnOnce(&mut Ledger),
    ) -> anyhow::Result<()> {
        let before: Vec<(&ClusterName, ClusterCredentials)> =
            clusters.iter().map(|name| (name, self.contents.ledger.entry(name))).collect();
        change(&mut self.contents.ledger);
        let mut changed = BTreeSet::new();
        for (name, entry) in &before {
            if self.contents.ledger.entry(name) != *entry {
                changed.insert((*name).clone());
            }
        }
        if changed.is_empty() {
            return Ok(());
        }
        let saved = self.store.save_ledger(&self.contents, &changed);
        if saved.is_err() {
            for (name, entry) in before {
                self.contents.ledger.set_entry(name, entry);
            }
        }
        saved
    }

    /// Drops bootstrap credentials that the ledger doesn't have, so that new ones are due: their
    /// cluster was away for too long and is back, or the ledger comes from a backup.
    pub(super) fn drop_unlisted(
        &mut self,
        subjects: &Subjects<'_>,
        changed: &mut BTreeSet<Identity>,
    ) -> anyhow::Result<()> {
        let Contents { identities, ledger, .. } = &mut self.contents;
        let candidates: Vec<Identity> = match subjects.only {
            None => identities.keys().cloned().collect(),
            Some(only) => only
                .iter()
                .map(|name| Identity::Bootstrap(name.clone(), ledger.revision(name)))
                .collect(),
        };
        let mut unlisted = Vec::new();
        for identity in candidates {
            if let Identity::Bootstrap(name, _) = &identity
                && let Some(certificate) = identities.get(&identity)
                && !ledger.contains(name, &certificate.fingerprint())
            {
                unlisted.push(name.clone());
                // Before any key is removed: one that can't be removed must not keep a cluster from
                // its new credential.
                identities.remove(&identity);
                changed.insert(identity);
            }
        }
        for name in &unlisted {
            self.store.remove_bootstrap(name)?;
        }
        Ok(())
    }
}

/// The revision of an identity, if it is this cluster's.
fn revision_of(identity: &Identity, cluster: &ClusterName) -> Option<u64> {
    match identity {
        Identity::Cluster(name, revision) | Identity::Bootstrap(name, revision)
            if name == cluster =>
        {
            Some(*revision)
        }
        _ => None,
    }
}

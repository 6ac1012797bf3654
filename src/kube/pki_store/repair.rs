//! Finds Secrets that others changed or deleted, and repairs them.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use atlas_core::kubernetes::lease::fence::KnownVersion;

use super::{EffectiveSecrets, LeaderStore, log_deleted};
use crate::kube::pki_secret::{PkiSecret, StoredSecret};
use crate::kube::reflector::Change;
use crate::pki::Contents;

/// How often the Secrets that aren't watched are read again.
const READ_UNWATCHED: Duration = Duration::from_secs(60);

/// Which Secrets were compared, and which others had changed.
#[derive(Debug, Default)]
pub struct RepairReport {
    /// How many Secrets were compared with the watch.
    pub compared: usize,
    /// Secrets that others had changed: they were read again.
    pub read: BTreeSet<PkiSecret>,
    /// What could not be done.
    pub failed: Vec<String>,
}

impl LeaderStore {
    /// Compares Secrets with the watch. One that somebody else changed is read again; one that was
    /// deleted is written again. `changes`: Secrets that differ in the watch; `full`: all Secrets
    /// are compared.
    pub fn repair(
        &mut self,
        contents: &mut Contents,
        changes: &BTreeMap<String, Change<StoredSecret>>,
        watched: &EffectiveSecrets,
        full: bool,
    ) -> RepairReport {
        let mut repaired = RepairReport::default();
        for (secret, is_foreign) in self.compare(changes, watched, full) {
            repaired.compared += 1;
            if !is_foreign {
                continue;
            }
            if self.candidate.leads().is_none() {
                repaired.failed.push("this Atlas no longer leads".into());
                self.suspects.insert(secret);
                continue;
            }
            if let Err(error) = self.repair_one(contents, &secret) {
                repaired.failed.push(format!("{error:#}"));
            }
            repaired.read.insert(secret);
        }
        repaired.failed.dedup();
        repaired
    }

    /// The Secrets that may have been changed, and whether somebody else did: what the watch shows
    /// isn't one of this process's own writes.
    fn compare(
        &mut self,
        changes: &BTreeMap<String, Change<StoredSecret>>,
        watched: &EffectiveSecrets,
        full: bool,
    ) -> Vec<(PkiSecret, bool)> {
        let mut suspects = std::mem::take(&mut self.suspects);
        for (name, change) in changes {
            let Some(secret) = PkiSecret::from_name(name) else { continue };
            if let (Some(deleted), Some(own_writes)) =
                (&change.deleted, self.own_writes.get_mut(&secret))
            {
                own_writes.observe_deleted(&deleted.version);
            }
            suspects.insert(secret);
        }
        if full {
            suspects.extend(self.versions.keys().cloned());
            suspects.extend(watched.shown());
        }
        let read_unwatched = self.unwatched_read.elapsed() >= READ_UNWATCHED;
        if read_unwatched {
            self.unwatched_read = Instant::now();
            suspects.extend([PkiSecret::Root, PkiSecret::Issuers]);
        }
        let is_foreign = |secret: PkiSecret| {
            let shown = watched.shown_version(&secret);
            let is_foreign = match (self.versions.get(&secret), &secret) {
                (Some(KnownVersion::Unread), _) => true,
                (Some(_), PkiSecret::Root | PkiSecret::Issuers) => read_unwatched,
                (Some(known), _) => {
                    let own_writes = self.own_writes.entry(secret.clone()).or_default();
                    own_writes.is_foreign(known, shown)
                }
                (None, _) => shown.is_some(),
            };
            (secret, is_foreign)
        };
        suspects.into_iter().map(is_foreign).collect()
    }

    fn repair_one(&mut self, contents: &mut Contents, secret: &PkiSecret) -> anyhow::Result<()> {
        let was_absent = self.versions.get(secret) == Some(&KnownVersion::Absent);
        let handle = self.handle.clone();
        if let Err(error) = handle.block_on(self.read_again(contents, secret)) {
            self.suspects.insert(secret.clone());
            return Err(error);
        }
        let vanished = !was_absent && self.versions.get(secret) == Some(&KnownVersion::Absent);
        if !vanished || !holds_anything(contents, secret) {
            return Ok(());
        }
        log_deleted(secret);
        self.put(contents, [secret.clone()].into()).remove(secret).unwrap_or(Ok(()))
    }
}

/// Whether a Secret would hold a certificate, or a revision that must not be forgotten.
fn holds_anything(contents: &Contents, secret: &PkiSecret) -> bool {
    let revision =
        if let PkiSecret::Cluster(name) = secret { contents.ledger.revision(name) } else { 1 };
    let has_certificate = |data: BTreeMap<&'static str, Option<String>>| {
        data.iter().any(|(key, text)| key.ends_with(".pem") && text.is_some())
    };
    revision > 1 || secret.data(contents, None).is_ok_and(has_certificate)
}

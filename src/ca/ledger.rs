//! The list of bootstrap credentials that count. It lies in the state directory, because a signature alone proves only
//! that Atlas once issued a credential, not that it still should open a stream.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, bail};
use atlas_core::name::ClusterName;
use atlas_core::pki::{Time, Validity};
use serde::{Deserialize, Serialize};

use crate::state_dir::StateDir;

const FILE: &str = "pki/issued.json";
/// How long a credential sleeps when its manifest is gone, in seconds: a GitOps tool may be recreating it.
const SLEEP: i64 = 7 * 86_400;

/// Credentials of one cluster that count at a time: re-issued at half a life, two are valid at most.
const MAX_PER_CLUSTER: usize = 8;

/// One bootstrap credential that counts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Credential {
    /// SHA-256 of the certificate, hexadecimal.
    pub fingerprint: String,
    /// Whose it is.
    pub cluster: String,
    /// Which revision.
    pub revision: u64,
    /// When it was issued.
    pub issued: Time,
    /// When it ends.
    pub not_after: Time,
    /// Since when there is no manifest for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub asleep_since: Option<Time>,
}

/// The list, and each cluster's revision. Revisions never go backwards, and outlive their cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ledger {
    credentials: Vec<Credential>,
    revisions: BTreeMap<String, u64>,
    #[serde(skip)]
    parsed: BTreeMap<ClusterName, u64>,
}

impl Ledger {
    /// Reads the list. A missing one is empty only where no credential was ever issued: otherwise every credential that
    /// was handed out would die in silence, and revisions would begin again.
    pub(super) fn load(state: &StateDir, something_was_issued: bool) -> anyhow::Result<Self> {
        let Some(text) = state.read(FILE)? else {
            if something_was_issued {
                bail!(
                    "{} is missing, although credentials were issued: restore it from a backup. To do without it, remove {} too; then \
                     every credential that was handed out opens nothing, and each cluster needs a new one (`atlas bootstrap`)",
                    state.path(FILE).display(),
                    state.path("pki/bootstrap.*.pem").display(),
                );
            }
            return Ok(Self::default());
        };
        let mut ledger: Self =
            serde_json::from_str(&text).with_context(|| format!("{} is broken: restore it from a backup", state.path(FILE).display()))?;
        ledger.reparse();
        Ok(ledger)
    }

    /// Sees to it that a cluster's revision is not less than one that was issued, should the list be older than that.
    pub(super) fn at_least(&mut self, cluster: &ClusterName, revision: u64) {
        if revision > self.revision(cluster) {
            self.revisions.insert(cluster.to_string(), revision);
            self.reparse();
        }
    }

    pub(super) fn save(&self, state: &StateDir) -> anyhow::Result<()> {
        state.write(FILE, &(serde_json::to_string_pretty(self)? + "\n")).map(drop)
    }

    /// Whether a credential opens streams.
    #[cfg(test)]
    pub fn counts(&self, fingerprint: &str) -> bool {
        self.credentials.iter().any(|credential| credential.fingerprint == fingerprint)
    }

    /// All that count.
    pub fn credentials(&self) -> impl Iterator<Item = &Credential> {
        self.credentials.iter()
    }

    /// Each cluster's revision, where it isn't the first.
    pub fn revisions(&self) -> &BTreeMap<ClusterName, u64> {
        &self.parsed
    }

    /// A cluster's revision.
    pub fn revision(&self, cluster: &ClusterName) -> u64 {
        self.parsed.get(cluster).copied().unwrap_or(1)
    }

    pub(super) fn issued(&mut self, cluster: &ClusterName, revision: u64, fingerprint: String, validity: Validity, now: Time) {
        self.bound(cluster);
        let not_after = validity.not_after;
        self.credentials.push(Credential {
            fingerprint,
            cluster: cluster.to_string(),
            revision,
            issued: now,
            not_after,
            asleep_since: None,
        });
    }

    /// Keeps the newest of a cluster's credentials. Not by their end, which the handshake checks: by a clock that is ahead
    /// for a minute all would have ended, and every cluster would need its files carried again.
    fn bound(&mut self, cluster: &ClusterName) {
        let count = self.credentials.iter().filter(|credential| credential.cluster == cluster.as_str()).count();
        let mut surplus = (count + 1).saturating_sub(MAX_PER_CLUSTER);
        self.credentials.retain(|credential| {
            let drop = surplus > 0 && credential.cluster == cluster.as_str();
            surplus -= usize::from(drop);
            !drop
        });
    }

    /// Takes back what [`Ledger::issued`] noted, of a credential that nobody can have.
    pub(super) fn not_issued(&mut self, fingerprint: &str) {
        self.credentials.retain(|credential| credential.fingerprint != fingerprint);
    }

    /// Whether any credential of a cluster counts.
    pub(super) fn has(&self, cluster: &ClusterName) -> bool {
        self.credentials.iter().any(|credential| credential.cluster == cluster.as_str())
    }

    pub(super) fn forget(&mut self, cluster: &ClusterName) {
        self.credentials.retain(|credential| credential.cluster != cluster.as_str());
        *self.revisions.entry(cluster.to_string()).or_insert(1) += 1;
        self.reparse();
    }

    /// Notes which clusters there are. Returns whether anything changed.
    pub(super) fn note_presence(&mut self, clusters: &BTreeSet<&ClusterName>, now: Time) -> bool {
        let before = self.credentials.clone();
        let names: BTreeSet<&str> = clusters.iter().map(|name| name.as_str()).collect();
        for credential in &mut self.credentials {
            if names.contains(credential.cluster.as_str()) {
                credential.asleep_since = None;
            } else {
                credential.asleep_since.get_or_insert(now);
            }
        }
        self.credentials.retain(|credential| credential.asleep_since.is_none_or(|since| now - since < SLEEP));
        self.credentials != before
    }

    fn reparse(&mut self) {
        self.parsed = self.revisions.iter().filter_map(|(name, revision)| Some((name.parse().ok()?, *revision))).collect();
    }
}

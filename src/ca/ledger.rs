//! The list of bootstrap credentials that count. It is kept, because a signature alone proves only that Atlas once issued a
//! credential, not that it still should open a stream.

use std::collections::{BTreeMap, BTreeSet};

use atlas_core::name::ClusterName;
use atlas_core::pki::{Time, Validity};
use serde::{Deserialize, Serialize};

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
    /// The list as [`Ledger::to_json`] wrote it.
    ///
    /// # Errors
    /// It is something else.
    pub fn from_json(text: &str) -> anyhow::Result<Self> {
        let mut ledger: Self = serde_json::from_str(text)?;
        ledger.reparse();
        Ok(ledger)
    }

    /// The list, for keeping.
    ///
    /// # Errors
    /// Never, as far as is known.
    pub fn to_json(&self) -> anyhow::Result<String> {
        Ok(serde_json::to_string_pretty(self)? + "\n")
    }

    /// What the list says of one cluster.
    pub fn only(&self, cluster: &ClusterName) -> Self {
        let credentials = self.credentials.iter().filter(|credential| credential.cluster == cluster.as_str()).cloned().collect();
        let revisions = self.revisions.get_key_value(cluster.as_str()).map(|(name, revision)| (name.clone(), *revision));
        let mut only = Self { credentials, revisions: revisions.into_iter().collect(), parsed: BTreeMap::new() };
        only.reparse();
        only
    }

    /// Replaces what the list says of one cluster.
    pub fn replace(&mut self, cluster: &ClusterName, by: Self) {
        self.credentials.retain(|credential| credential.cluster != cluster.as_str());
        self.credentials.extend(by.credentials.into_iter().filter(|credential| credential.cluster == cluster.as_str()));
        self.revisions.remove(cluster.as_str());
        self.revisions.extend(by.revisions.into_iter().filter(|(name, _)| name == cluster.as_str()));
        self.reparse();
    }

    /// The clusters of which the two say different things.
    pub(super) fn differing(&self, other: &Self) -> BTreeSet<ClusterName> {
        if self == other {
            return BTreeSet::new();
        }
        let grouped = |ledger: &Self| {
            let mut groups: BTreeMap<String, (Option<u64>, Vec<Credential>)> = BTreeMap::new();
            ledger.revisions.iter().for_each(|(name, revision)| groups.entry(name.clone()).or_default().0 = Some(*revision));
            ledger.credentials.iter().for_each(|one| groups.entry(one.cluster.clone()).or_default().1.push(one.clone()));
            groups
        };
        let (ours, theirs) = (grouped(self), grouped(other));
        let names = ours.keys().chain(theirs.keys()).filter(|name| ours.get(*name) != theirs.get(*name));
        names.filter_map(|name| name.parse().ok()).collect()
    }

    /// Sees to it that a cluster's revision is not less than one that was issued, should the list be older than that.
    pub fn at_least(&mut self, cluster: &ClusterName, revision: u64) {
        if revision > self.revision(cluster) {
            self.revisions.insert(cluster.to_string(), revision);
            self.reparse();
        }
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
    pub fn has(&self, cluster: &ClusterName) -> bool {
        self.credentials.iter().any(|credential| credential.cluster == cluster.as_str())
    }

    pub fn forget(&mut self, cluster: &ClusterName) {
        self.credentials.retain(|credential| credential.cluster != cluster.as_str());
        *self.revisions.entry(cluster.to_string()).or_insert(1) += 1;
        self.reparse();
    }

    /// Notes which clusters there are.
    pub(super) fn note_presence(&mut self, clusters: &BTreeSet<&ClusterName>, now: Time) {
        let names: BTreeSet<&str> = clusters.iter().map(|name| name.as_str()).collect();
        for credential in &mut self.credentials {
            if names.contains(credential.cluster.as_str()) {
                credential.asleep_since = None;
            } else {
                credential.asleep_since.get_or_insert(now);
            }
        }
        self.credentials.retain(|credential| credential.asleep_since.is_none_or(|since| now - since < SLEEP));
    }

    fn reparse(&mut self) {
        self.parsed = self.revisions.iter().filter_map(|(name, revision)| Some((name.parse().ok()?, *revision))).collect();
    }
}

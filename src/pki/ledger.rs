//! The list of bootstrap credentials that count. It is kept, because a signature alone proves only that Atlas once issued a
//! credential, not that it still should open a stream.

use std::collections::BTreeMap;

use atlas_core::name::{ClusterName, NameError};
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
#[serde(try_from = "LedgerFile", into = "LedgerFile")]
pub struct Ledger(BTreeMap<ClusterName, Entry>);

/// What the list says of one cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Entry {
    /// `None`: the first, and never written.
    revision: Option<u64>,
    /// Oldest first.
    credentials: Vec<Credential>,
}

/// As it is written.
#[derive(Default, Serialize, Deserialize)]
struct LedgerFile {
    credentials: Vec<Credential>,
    revisions: BTreeMap<String, u64>,
}

impl TryFrom<LedgerFile> for Ledger {
    type Error = NameError;

    fn try_from(written: LedgerFile) -> Result<Self, NameError> {
        let mut ledger = Self::default();
        for (name, revision) in written.revisions {
            ledger.0.entry(name.parse()?).or_default().revision = Some(revision);
        }
        for credential in written.credentials {
            ledger.0.entry(credential.cluster.parse()?).or_default().credentials.push(credential);
        }
        Ok(ledger)
    }
}

impl From<Ledger> for LedgerFile {
    fn from(ledger: Ledger) -> Self {
        let mut written = Self::default();
        for (name, entry) in ledger.0 {
            written.revisions.extend(entry.revision.map(|revision| (name.to_string(), revision)));
            written.credentials.extend(entry.credentials);
        }
        written
    }
}

impl Ledger {
    /// The list as [`Ledger::to_json`] wrote it.
    ///
    /// # Errors
    /// It is something else.
    pub fn from_json(text: &str) -> anyhow::Result<Self> {
        Ok(serde_json::from_str(text)?)
    }

    /// The list, for keeping.
    ///
    /// # Errors
    /// Never, as far as is known.
    pub fn to_json(&self) -> anyhow::Result<String> {
        Ok(serde_json::to_string_pretty(self)? + "\n")
    }

    /// What the list says of one cluster, as a list.
    pub fn of_cluster(&self, cluster: &ClusterName) -> Self {
        Self(
            self.0
                .get_key_value(cluster)
                .map(|(name, entry)| (name.clone(), entry.clone()))
                .into_iter()
                .collect(),
        )
    }

    /// Replaces what the list says of one cluster.
    pub fn replace(&mut self, cluster: &ClusterName, mut by: Self) {
        self.set(cluster, by.0.remove(cluster).unwrap_or_default());
    }

    /// Takes in what another list says of further clusters.
    pub fn extend(&mut self, other: Self) {
        self.0.extend(other.0);
    }

    /// What the list says of one cluster.
    pub fn entry(&self, cluster: &ClusterName) -> Entry {
        self.0.get(cluster).cloned().unwrap_or_default()
    }

    /// Says that of one cluster.
    pub fn set(&mut self, cluster: &ClusterName, entry: Entry) {
        if entry == Entry::default() {
            self.0.remove(cluster);
        } else {
            self.0.insert(cluster.clone(), entry);
        }
    }

    /// Sees to it that a cluster's revision is not less than one that was issued, should the list be older than that.
    pub fn raise_revision(&mut self, cluster: &ClusterName, revision: u64) {
        if revision > self.revision(cluster) {
            self.0.entry(cluster.clone()).or_default().revision = Some(revision);
        }
    }

    /// Whether a credential opens streams.
    #[cfg(test)]
    pub fn counts(&self, fingerprint: &str) -> bool {
        self.credentials().any(|credential| credential.fingerprint == fingerprint)
    }

    /// All that count.
    pub fn credentials(&self) -> impl Iterator<Item = &Credential> {
        self.0.values().flat_map(|entry| &entry.credentials)
    }

    /// Those of one cluster that count, oldest first.
    pub fn credentials_of(&self, cluster: &ClusterName) -> &[Credential] {
        self.0.get(cluster).map(|entry| entry.credentials.as_slice()).unwrap_or_default()
    }

    /// Every cluster that the list says something of.
    pub fn clusters(&self) -> impl Iterator<Item = &ClusterName> {
        self.0.keys()
    }

    /// A cluster's revision.
    pub fn revision(&self, cluster: &ClusterName) -> u64 {
        self.0.get(cluster).and_then(|entry| entry.revision).unwrap_or(1)
    }

    pub fn issued(
        &mut self,
        cluster: &ClusterName,
        revision: u64,
        fingerprint: String,
        validity: Validity,
        now: Time,
    ) {
        let credentials = &mut self.0.entry(cluster.clone()).or_default().credentials;
        // The newest are kept. Not by their end, which the handshake checks: by a clock that is ahead for a minute all would
        // have ended, and every cluster would need its files carried again.
        credentials.drain(..(credentials.len() + 1).saturating_sub(MAX_PER_CLUSTER));
        let not_after = validity.not_after;
        credentials.push(Credential {
            fingerprint,
            cluster: cluster.to_string(),
            revision,
            issued: now,
            not_after,
            asleep_since: None,
        });
    }

    /// Takes back what [`Ledger::issued`] noted, of a credential that nobody can have.
    pub fn not_issued(&mut self, cluster: &ClusterName, fingerprint: &str) {
        let mut entry = self.entry(cluster);
        entry.credentials.retain(|credential| credential.fingerprint != fingerprint);
        self.set(cluster, entry);
    }

    /// Whether any credential of a cluster counts.
    pub fn has_credentials(&self, cluster: &ClusterName) -> bool {
        !self.credentials_of(cluster).is_empty()
    }

    /// Whether one credential of a cluster counts.
    pub fn lists(&self, cluster: &ClusterName, fingerprint: &str) -> bool {
        self.credentials_of(cluster).iter().any(|credential| credential.fingerprint == fingerprint)
    }

    pub fn forget(&mut self, cluster: &ClusterName) {
        let next = self.revision(cluster) + 1;
        self.0.insert(cluster.clone(), Entry { revision: Some(next), credentials: Vec::new() });
    }

    /// Notes whether a cluster is there: where it isn't, its credentials fall asleep, and in the end no longer count.
    pub fn note_presence(&mut self, cluster: &ClusterName, is_there: bool, now: Time) {
        let Some(entry) = self.0.get_mut(cluster) else { return };
        for credential in &mut entry.credentials {
            if is_there {
                credential.asleep_since = None;
            } else {
                credential.asleep_since.get_or_insert(now);
            }
        }
        entry
            .credentials
            .retain(|credential| credential.asleep_since.is_none_or(|since| now - since < SLEEP));
        if *entry == Entry::default() {
            self.0.remove(cluster);
        }
    }
}

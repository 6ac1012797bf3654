//! The ledger: the bootstrap credentials that are accepted. It is needed since a signature proves
//! only that Atlas once issued a credential, not that the credential is still to open a stream.

use std::collections::BTreeMap;

use atlas_core::name::{ClusterName, NameError};
use atlas_core::pki::{Time, Validity};
use serde::{Deserialize, Serialize};

/// How long credentials are kept whose cluster has no manifest, in seconds: a GitOps tool may be
/// recreating the manifest.
const KEPT_WITHOUT_MANIFEST: i64 = 7 * 86_400;

/// Most credentials of one cluster. They are issued again at half their lifetime, so two at most
/// are valid at a time.
const MAX_PER_CLUSTER: usize = 8;

/// A bootstrap credential that is accepted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Credential {
    /// SHA-256 of the certificate, hexadecimal.
    pub fingerprint: String,
    /// The cluster that it was issued to.
    pub cluster: String,
    /// The revision in its SPIFFE ID.
    pub revision: u64,
    /// When it was issued.
    pub issued: Time,
    /// When it ends.
    pub not_after: Time,
    /// Since when its cluster has had no manifest; `None`: it has one.
    #[serde(rename = "asleep_since", default, skip_serializing_if = "Option::is_none")]
    pub without_manifest_since: Option<Time>,
}

/// Each cluster's accepted credentials and its revision. A revision never decreases, also when its
/// cluster is removed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "LedgerFile", into = "LedgerFile")]
pub struct Ledger(BTreeMap<ClusterName, ClusterCredentials>);

/// The ledger's entry of one cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClusterCredentials {
    /// `None`: 1, and not saved.
    revision: Option<u64>,
    /// Oldest first.
    credentials: Vec<Credential>,
}

/// The ledger as JSON.
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
    /// Reads what [`Ledger::to_json`] wrote.
    ///
    /// # Errors
    /// The text is not a ledger.
    pub fn from_json(text: &str) -> anyhow::Result<Self> {
        Ok(serde_json::from_str(text)?)
    }

    /// The ledger as JSON.
    ///
    /// # Errors
    /// serde_json fails; no input is known that makes it fail.
    pub fn to_json(&self) -> anyhow::Result<String> {
        Ok(serde_json::to_string_pretty(self)? + "\n")
    }

    /// A ledger with one cluster's entry only.
    pub fn of_cluster(&self, cluster: &ClusterName) -> Self {
        Self(
            self.0
                .get_key_value(cluster)
                .map(|(name, entry)| (name.clone(), entry.clone()))
                .into_iter()
                .collect(),
        )
    }

    /// Replaces the entry of one cluster by that of another ledger.
    pub fn replace(&mut self, cluster: &ClusterName, mut by: Self) {
        self.set_entry(cluster, by.0.remove(cluster).unwrap_or_default());
    }

    /// Adds the entries of another ledger.
    pub fn extend(&mut self, other: Self) {
        self.0.extend(other.0);
    }

    /// The entry of one cluster.
    pub fn entry(&self, cluster: &ClusterName) -> ClusterCredentials {
        self.0.get(cluster).cloned().unwrap_or_default()
    }

    /// Sets the entry of one cluster.
    pub fn set_entry(&mut self, cluster: &ClusterName, entry: ClusterCredentials) {
        if entry == ClusterCredentials::default() {
            self.0.remove(cluster);
        } else {
            self.0.insert(cluster.clone(), entry);
        }
    }

    /// Raises a cluster's revision to one that was issued: the ledger may come from an older
    /// backup.
    pub fn raise_revision(&mut self, cluster: &ClusterName, revision: u64) {
        if revision > self.revision(cluster) {
            self.0.entry(cluster.clone()).or_default().revision = Some(revision);
        }
    }

    /// Whether a credential is accepted.
    #[cfg(test)]
    pub fn accepts(&self, fingerprint: &str) -> bool {
        self.credentials().any(|credential| credential.fingerprint == fingerprint)
    }

    /// Every accepted credential.
    pub fn credentials(&self) -> impl Iterator<Item = &Credential> {
        self.0.values().flat_map(|entry| &entry.credentials)
    }

    /// The accepted credentials of one cluster, oldest first.
    pub fn credentials_of(&self, cluster: &ClusterName) -> &[Credential] {
        self.0.get(cluster).map(|entry| entry.credentials.as_slice()).unwrap_or_default()
    }

    /// The clusters that have an entry.
    pub fn clusters(&self) -> impl Iterator<Item = &ClusterName> {
        self.0.keys()
    }

    /// A cluster's revision, 1 unless it was raised.
    pub fn revision(&self, cluster: &ClusterName) -> u64 {
        self.0.get(cluster).and_then(|entry| entry.revision).unwrap_or(1)
    }

    /// Adds a credential that was issued.
    pub fn add(
        &mut self,
        cluster: &ClusterName,
        revision: u64,
        fingerprint: String,
        validity: Validity,
        now: Time,
    ) {
        let credentials = &mut self.0.entry(cluster.clone()).or_default().credentials;
        // The newest are kept, and ended ones are not dropped (the handshake checks the end): a
        // clock that is ahead for a minute would drop all, and every cluster would need new files.
        credentials.drain(..(credentials.len() + 1).saturating_sub(MAX_PER_CLUSTER));
        let not_after = validity.not_after;
        credentials.push(Credential {
            fingerprint,
            cluster: cluster.to_string(),
            revision,
            issued: now,
            not_after,
            without_manifest_since: None,
        });
    }

    /// Removes a credential that could not be saved, so that nobody has it.
    pub fn remove(&mut self, cluster: &ClusterName, fingerprint: &str) {
        let mut entry = self.entry(cluster);
        entry.credentials.retain(|credential| credential.fingerprint != fingerprint);
        self.set_entry(cluster, entry);
    }

    /// Whether a cluster has an accepted credential.
    pub fn has_credentials(&self, cluster: &ClusterName) -> bool {
        !self.credentials_of(cluster).is_empty()
    }

    /// Whether a cluster's credential is accepted.
    pub fn contains(&self, cluster: &ClusterName, fingerprint: &str) -> bool {
        self.credentials_of(cluster).iter().any(|credential| credential.fingerprint == fingerprint)
    }

    /// Drops a cluster's credentials and raises its revision.
    pub fn forget(&mut self, cluster: &ClusterName) {
        let next = self.revision(cluster) + 1;
        self.0.insert(
            cluster.clone(),
            ClusterCredentials { revision: Some(next), credentials: Vec::new() },
        );
    }

    /// Notes whether a cluster has a manifest. Credentials without one are dropped after
    /// [`KEPT_WITHOUT_MANIFEST`].
    pub fn update_presence(&mut self, cluster: &ClusterName, is_present: bool, now: Time) {
        let Some(entry) = self.0.get_mut(cluster) else { return };
        for credential in &mut entry.credentials {
            if is_present {
                credential.without_manifest_since = None;
            } else {
                credential.without_manifest_since.get_or_insert(now);
            }
        }
        entry.credentials.retain(|credential| {
            credential
                .without_manifest_since
                .is_none_or(|since| now - since < KEPT_WITHOUT_MANIFEST)
        });
        if *entry == ClusterCredentials::default() {
            self.0.remove(cluster);
        }
    }
}

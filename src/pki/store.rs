//! Where certificates, keys and the list of credentials are kept.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Context;
use atlas_core::name::{ClusterName, Identity, TrustDomain};
use atlas_core::pki::Authority;

use super::{CertificateAndKey, Ledger, pem};

/// What a pki_store holds.
#[derive(Clone, Debug, Default)]
pub struct Contents {
    /// Certificates that sign, with their keys.
    pub authorities: BTreeMap<Authority, CertificateAndKey>,
    /// Everyone's current certificate and key.
    pub identities: BTreeMap<Identity, CertificateAndKey>,
    /// The credentials that count.
    pub ledger: Ledger,
}

impl Contents {
    /// That the authorities go together: what one of another root signs, nobody believes.
    ///
    /// # Errors
    /// They don't.
    pub fn ensure_one_root(&self) -> anyhow::Result<()> {
        let Some(root) = self.authorities.get(&Authority::Root) else { return Ok(()) };
        for (authority, signed) in
            self.authorities.iter().filter(|(authority, _)| **authority != Authority::Root)
        {
            pem::ensure_below(signed, root).with_context(|| {
                format!(
                    "the authority {authority:?} and the root are not of one piece: restore all keys from one backup (docs/backup.md), or remove \
                     this authority, and it is made anew below the root"
                )
            })?;
        }
        Ok(())
    }

    /// Sees to it that no revision is less than one that was issued, should the list be older than that.
    pub fn raise_revisions(&mut self) {
        for identity in self.identities.keys() {
            if let Identity::Cluster(name, revision) | Identity::Bootstrap(name, revision) =
                identity
            {
                self.ledger.raise_revision(name, *revision);
            }
        }
    }
}

/// Keeps [`Contents`]. Each call gets all of them as they are to be, and what of them has changed; what a call could not save
/// is as before.
pub trait PkiStore {
    /// Reads everything there is.
    ///
    /// # Errors
    /// What is broken, by its place.
    fn load(&mut self, domain: &TrustDomain) -> anyhow::Result<Contents>;

    /// Saves one authority.
    ///
    /// # Errors
    /// It can't be saved.
    fn save_authority(&mut self, all: &Contents, authority: Authority) -> anyhow::Result<()>;

    /// Saves identities, and what the list says of their credentials, no later than these. A result for each, in their order.
    fn save_identities(&mut self, all: &Contents, which: &[&Identity]) -> Vec<anyhow::Result<()>>;

    /// Saves what the list says of some clusters.
    ///
    /// # Errors
    /// It can't be saved.
    fn save_ledger(&mut self, all: &Contents, of: &BTreeSet<ClusterName>) -> anyhow::Result<()>;

    /// Removes every key of a cluster.
    ///
    /// # Errors
    /// Something can't be removed.
    fn remove_keys(&mut self, cluster: &ClusterName) -> anyhow::Result<()>;

    /// Removes a cluster's bootstrap credential.
    ///
    /// # Errors
    /// It can't be removed.
    fn remove_bootstrap(&mut self, cluster: &ClusterName) -> anyhow::Result<()>;

    /// What was broken and is kept for people to look at; a sentence each.
    fn set_aside_notices(&self) -> Vec<String> {
        Vec::new()
    }
}

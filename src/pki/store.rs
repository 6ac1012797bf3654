//! Where certificates, keys and the ledger are saved.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Context;
use atlas_core::name::{ClusterName, Identity, TrustDomain};
use atlas_core::pki::Authority;

use super::{CertificateAndKey, Ledger, pem};

/// What a store holds.
#[derive(Clone, Debug, Default)]
pub struct Contents {
    pub authorities: BTreeMap<Authority, CertificateAndKey>,
    /// Current certificates.
    pub identities: BTreeMap<Identity, CertificateAndKey>,
    /// The bootstrap credentials that are accepted.
    pub ledger: Ledger,
}

impl Contents {
    /// Checks that the root signed the other authorities. No node trusts what an authority of
    /// another root signs.
    ///
    /// # Errors
    /// An authority is below another root.
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

    /// Raises the ledger's revisions to those of the certificates: the ledger may come from an
    /// older backup.
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

/// Saves [`Contents`]. Each call gets the contents as they are to be, and which of them have
/// changed. What a call can't save is as before.
pub trait PkiStore {
    /// Reads everything.
    ///
    /// # Errors
    /// Something is broken; the error names its file or key.
    fn load(&mut self, domain: &TrustDomain) -> anyhow::Result<Contents>;

    /// Saves one authority.
    ///
    /// # Errors
    /// It could not be saved.
    fn save_authority(&mut self, contents: &Contents, authority: Authority) -> anyhow::Result<()>;

    /// Saves certificates, and the ledger's entries of their clusters no later than these. Returns
    /// a result for each, in order.
    fn save_identities(
        &mut self,
        contents: &Contents,
        which: &[&Identity],
    ) -> Vec<anyhow::Result<()>>;

    /// Saves the ledger's entries of some clusters.
    ///
    /// # Errors
    /// It could not be saved.
    fn save_ledger(
        &mut self,
        contents: &Contents,
        of: &BTreeSet<ClusterName>,
    ) -> anyhow::Result<()>;

    /// Removes every key of a cluster.
    ///
    /// # Errors
    /// Something could not be removed.
    fn remove_keys(&mut self, cluster: &ClusterName) -> anyhow::Result<()>;

    /// Removes a cluster's bootstrap credential.
    ///
    /// # Errors
    /// It could not be removed.
    fn remove_bootstrap(&mut self, cluster: &ClusterName) -> anyhow::Result<()>;

    /// Whether what there is of a cluster can't be read, so that nothing may be issued for it.
    fn is_unreadable(&self, _cluster: &ClusterName) -> bool {
        false
    }

    /// A sentence about each file or key that was broken and is kept for people to look at.
    fn set_aside_notices(&self) -> Vec<String> {
        Vec::new()
    }
}

//! Atlas's PKI: signs what [`atlas_core::pki`] decides, and saves it in a [`PkiStore`], which is
//! the state directory or Secrets.
//!
//! A credential's fingerprint is saved before the credential itself, so that every credential that
//! somebody may hold is known. A crash in between leaves a fingerprint without a key, which does no
//! harm. Forgetting goes the other way, keys first, so that after a crash the ledger still shows
//! that there is something to forget.

mod forget;
mod issue;
mod ledger;
pub mod pem;
mod sign;
mod store;

use std::collections::{BTreeMap, BTreeSet};

use atlas_core::name::{ClusterName, Identity, NodeId, TrustDomain};
use atlas_core::pki::{Authority, IssuedCertificates, Leaf, Lifetimes, PrivateKey, Time, Trust};

pub use issue::{IssueReport, Subjects};
pub use ledger::Ledger;
pub use pem::{IssuerVerifier, from_pem, read_certificate, read_validity, to_pem};
pub use sign::{CertificateAndKey, fingerprint};
pub use store::{Contents, PkiStore};

/// When a node's certificates end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Expiries {
    /// Its data-plane certificate.
    pub leaf: Option<Time>,
    /// The credential that opens its stream.
    pub credential: Option<Time>,
    /// The revision of that credential.
    pub revision: Option<u64>,
}

/// The PKI of one Atlas, with its keys. Everything in it is in its store too.
pub struct Pki<S> {
    store: S,
    domain: TrustDomain,
    lifetimes: Lifetimes,
    contents: Contents,
}

impl<S: PkiStore> Pki<S> {
    /// Reads the store.
    ///
    /// # Errors
    /// Something in the store is broken. It is never replaced: a new root would lock every cluster
    /// out.
    pub fn load(mut store: S, domain: TrustDomain, lifetimes: Lifetimes) -> anyhow::Result<Self> {
        let contents = store.load(&domain)?;
        Ok(Self { store, domain, lifetimes, contents })
    }

    /// A PKI whose store has been read already.
    pub fn with(store: S, domain: TrustDomain, lifetimes: Lifetimes, contents: Contents) -> Self {
        Self { store, domain, lifetimes, contents }
    }

    /// Where it is kept.
    pub fn store(&self) -> &S {
        &self.store
    }

    /// What the PKI has, and where it is saved.
    pub fn contents_and_store(&mut self) -> (&mut Contents, &mut S) {
        (&mut self.contents, &mut self.store)
    }

    /// The roots, and the certificates and revisions of these clusters and of the hub.
    pub fn trust_for<'a>(&self, clusters: impl IntoIterator<Item = &'a ClusterName>) -> Trust {
        let root = self.contents.authorities.get(&Authority::Root);
        let mut trust = Trust {
            domain: self.domain.clone(),
            roots: root.map(|root| root.chain.clone()).into_iter().collect(),
            leaves: BTreeMap::new(),
            revisions: BTreeMap::new(),
        };
        if let Some(leaf) = self.leaf(&Identity::Hub) {
            trust.leaves.insert(NodeId::Hub, leaf);
        }
        for name in clusters {
            let revision = self.contents.ledger.revision(name);
            trust.revisions.insert(name.clone(), revision);
            if let Some(leaf) = self.leaf(&Identity::Cluster(name.clone(), revision)) {
                trust.leaves.insert(NodeId::Cluster(name.clone()), leaf);
            }
        }
        trust
    }

    /// The certificate and key of an identity.
    pub fn leaf(&self, identity: &Identity) -> Option<Leaf> {
        let issued = self.contents.identities.get(identity)?;
        let key = PrivateKey::new(issued.key.expose().to_owned());
        Some(Leaf { chain: issued.chain.clone(), key })
    }

    /// The credential with which a node's Envoy opens its stream: the hub's leaf, or a cluster's
    /// bootstrap credential.
    pub fn bootstrap_credential(&self, node: &NodeId) -> Option<Leaf> {
        match node {
            NodeId::Hub => self.leaf(&Identity::Hub),
            NodeId::Cluster(name) => {
                self.leaf(&Identity::Bootstrap(name.clone(), self.contents.ledger.revision(name)))
            }
        }
    }

    /// The bootstrap credentials that are accepted.
    pub fn ledger(&self) -> &Ledger {
        &self.contents.ledger
    }

    /// When a node's current certificates end.
    pub fn expiries(&self, node: &NodeId) -> Expiries {
        match node {
            NodeId::Hub => {
                let end = self.expiry(&Identity::Hub);
                Expiries { leaf: end, credential: end, revision: None }
            }
            NodeId::Cluster(name) => {
                let ledger = &self.contents.ledger;
                let last = ledger.credentials_of(name).last();
                Expiries {
                    leaf: self.expiry(&Identity::Cluster(name.clone(), ledger.revision(name))),
                    credential: last.map(|credential| credential.not_after),
                    revision: last.map(|credential| credential.revision),
                }
            }
        }
    }

    /// When each authority's certificate ends, and Atlas's own.
    pub fn own_expiries(&self) -> (BTreeMap<Authority, Time>, Option<Time>) {
        let mut authorities = BTreeMap::new();
        for (authority, issued) in &self.contents.authorities {
            authorities.insert(*authority, issued.validity.not_after);
        }
        (authorities, self.expiry(&Identity::Atlas))
    }

    fn expiry(&self, identity: &Identity) -> Option<Time> {
        Some(self.contents.identities.get(identity)?.validity.not_after)
    }

    fn issued_authorities(&self) -> IssuedCertificates {
        let authorities = self.contents.authorities.iter();
        IssuedCertificates {
            authorities: authorities
                .map(|(authority, issued)| (*authority, issued.validity))
                .collect(),
            identities: BTreeMap::new(),
        }
    }

    fn issued_certificates(&self, identities: &BTreeSet<Identity>) -> IssuedCertificates {
        let mut issued = self.issued_authorities();
        for identity in identities {
            if let Some(certificate) = self.contents.identities.get(identity) {
                issued.identities.insert(identity.clone(), certificate.validity);
            }
        }
        issued
    }
}

#[cfg(test)]
mod tests;

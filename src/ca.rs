//! Signs what [`atlas_core::pki`] decides, and keeps it in the state directory.
//!
//! Order of writing: a credential's fingerprint is persisted before the credential itself, so one that somebody may hold
//! is always known. A crash in between leaves a fingerprint without a key, which harms nobody.

mod ledger;
mod sign;
mod store;

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Context;
use atlas_core::name::{ClusterName, Identity, NodeId, TrustDomain};
use atlas_core::pki::{self, Authority, Inventory, Leaf, Lifetimes, Order, PrivateKey, Time, Trust};

pub use ledger::{Credential, Ledger};
use sign::Signed;
pub use sign::fingerprint;
pub use store::read as read_certificate;

use crate::state_dir::StateDir;

/// The PKI of one Atlas, with its keys. Everything it holds is on disk too.
pub struct Pki {
    state: StateDir,
    domain: TrustDomain,
    lifetimes: Lifetimes,
    authorities: BTreeMap<Authority, Signed>,
    identities: BTreeMap<Identity, Signed>,
    ledger: Ledger,
}

impl Pki {
    /// Reads what there is. What can't be read is an error, never silently made anew: a new root would lock every cluster out.
    ///
    /// # Errors
    /// A file that is broken, by its path.
    pub fn load(state: StateDir, domain: TrustDomain, lifetimes: Lifetimes) -> anyhow::Result<Self> {
        let authorities = store::authorities(&state)?;
        let identities = store::identities(&state, &domain)?;
        let ledger = Ledger::load(&state)?;
        Ok(Self { state, domain, lifetimes, authorities, identities, ledger })
    }

    /// Issues what is due for these clusters. Returns whether anything was issued.
    ///
    /// # Errors
    /// The state directory can't be written; what was issued before stays in force.
    pub fn ensure<'a>(&mut self, clusters: impl IntoIterator<Item = &'a ClusterName>, now: Time) -> anyhow::Result<bool> {
        let clusters: BTreeSet<&ClusterName> = clusters.into_iter().collect();
        let asleep_changed = self.ledger.note_presence(&clusters, now);
        if asleep_changed {
            self.ledger.save(&self.state)?;
        }
        let wanted = pki::wanted(clusters, self.ledger.revisions());
        let orders = pki::due(&self.inventory(), &wanted, &self.lifetimes, now);
        for order in &orders {
            self.carry_out(order, now)?;
        }
        Ok(!orders.is_empty() || asleep_changed)
    }

    /// When [`Pki::ensure`] will next have something to do.
    pub fn next_due<'a>(&self, clusters: impl IntoIterator<Item = &'a ClusterName>) -> Option<Time> {
        pki::next_due(&self.inventory(), &pki::wanted(clusters, self.ledger.revisions()))
    }

    /// What the plan needs to know.
    pub fn trust(&self) -> Trust {
        let leaf = |(identity, signed): (&Identity, &Signed)| {
            let node = match identity {
                Identity::Hub => NodeId::Hub,
                Identity::Cluster(name, revision) if *revision == self.ledger.revision(name) => NodeId::Cluster(name.clone()),
                _ => return None,
            };
            Some((node, self.as_leaf(signed)))
        };
        Trust {
            domain: self.domain.clone(),
            roots: self.authorities.get(&Authority::Root).map(|root| root.chain.clone()).into_iter().collect(),
            leaves: self.identities.iter().filter_map(leaf).collect(),
            revisions: self.ledger.revisions().clone(),
        }
    }

    /// The certificate and key of an identity.
    pub fn leaf(&self, identity: &Identity) -> Option<Leaf> {
        self.identities.get(identity).map(|signed| self.as_leaf(signed))
    }

    /// What a node's Envoy opens its stream with: the hub its leaf, a cluster its bootstrap credential.
    pub fn opener(&self, node: &NodeId) -> Option<Leaf> {
        match node {
            NodeId::Hub => self.leaf(&Identity::Hub),
            NodeId::Cluster(name) => self.leaf(&Identity::Bootstrap(name.clone(), self.ledger.revision(name))),
        }
    }

    /// Which bootstrap credentials count.
    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// When each current certificate ends.
    pub fn inventory(&self) -> Inventory {
        Inventory {
            authorities: self.authorities.iter().map(|(authority, signed)| (*authority, signed.validity)).collect(),
            identities: self.identities.iter().map(|(identity, signed)| (identity.clone(), signed.validity)).collect(),
        }
    }

    /// Forgets every credential of a cluster, and expects the next revision should it ever come back. Its leaf goes too.
    ///
    /// # Errors
    /// The state directory can't be written.
    pub fn forget(&mut self, cluster: &ClusterName) -> anyhow::Result<()> {
        self.ledger.forget(cluster);
        self.ledger.save(&self.state)?;
        let of_cluster =
            |identity: &Identity| matches!(identity, Identity::Cluster(name, _) | Identity::Bootstrap(name, _) if name == cluster);
        self.identities.retain(|identity, _| !of_cluster(identity));
        store::forget(&self.state, cluster)
    }

    fn as_leaf(&self, signed: &Signed) -> Leaf {
        Leaf { chain: signed.chain.clone(), key: PrivateKey::new(signed.key.expose().to_owned()) }
    }

    fn carry_out(&mut self, order: &Order, now: Time) -> anyhow::Result<()> {
        match order {
            Order::Authority(authority, validity) => {
                let signed = sign::authority(*authority, *validity, self.authorities.get(&Authority::Root))?;
                store::save_authority(&self.state, *authority, &signed)?;
                self.authorities.insert(*authority, signed);
                tracing::info!(?authority, not_after = validity.not_after, "made a certificate authority");
            }
            Order::Identity(identity, validity) => {
                let issuer = self.authorities.get(&Authority::of(identity)).context("BUG: an identity is due before its issuer")?;
                let id = identity.spiffe_id(&self.domain);
                let signed = sign::identity(identity, &id, *validity, issuer)?;
                if let Identity::Bootstrap(name, revision) = identity {
                    self.ledger.issued(name, *revision, signed.fingerprint(), *validity, now);
                    self.ledger.save(&self.state)?;
                }
                store::save_identity(&self.state, identity, &signed)?;
                self.identities.insert(identity.clone(), signed);
                tracing::info!(%id, not_after = validity.not_after, "issued a certificate");
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(names: &[&str]) -> Vec<ClusterName> {
        names.iter().map(|name| name.parse().unwrap()).collect()
    }

    fn pki(dir: &std::path::Path) -> (Pki, crate::state_dir::Lock) {
        let state = StateDir::at(dir).unwrap();
        let lock = state.lock().unwrap();
        (Pki::load(state, "atlas".parse().unwrap(), Lifetimes::default()).unwrap(), lock)
    }

    #[test]
    fn what_was_issued_survives_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let now = 1_800_000_000;
        let (mut first, lock) = pki(dir.path());
        assert!(first.ensure(&names(&["tokyo"]), now).unwrap());
        let trust = first.trust();
        drop((first, lock));
        let (mut second, _lock) = pki(dir.path());
        assert!(!second.ensure(&names(&["tokyo"]), now + 60).unwrap());
        assert_eq!(second.trust(), trust);
        assert_eq!(second.ledger().credentials().count(), 1);
    }

    #[test]
    fn a_forgotten_cluster_comes_back_under_the_next_revision() {
        let dir = tempfile::tempdir().unwrap();
        let (mut pki, _lock) = pki(dir.path());
        let tokyo = &names(&["tokyo"])[0];
        pki.ensure([tokyo], 1_800_000_000).unwrap();
        let old = pki.ledger().credentials().next().unwrap().fingerprint.clone();
        pki.forget(tokyo).unwrap();
        assert!(!pki.ledger().counts(&old));
        pki.ensure([tokyo], 1_800_000_001).unwrap();
        assert_eq!(pki.trust().revision(tokyo), 2);
        assert!(pki.trust().leaves.contains_key(&NodeId::Cluster(tokyo.clone())));
    }

    #[test]
    fn a_credential_sleeps_for_a_week_and_is_then_forgotten() {
        let dir = tempfile::tempdir().unwrap();
        let (mut pki, _lock) = pki(dir.path());
        let tokyo = &names(&["tokyo"])[0];
        let now = 1_800_000_000;
        pki.ensure([tokyo], now).unwrap();
        let fingerprint = pki.ledger().credentials().next().unwrap().fingerprint.clone();
        pki.ensure([], now + 10).unwrap();
        pki.ensure([], now + 6 * 86_400).unwrap();
        assert!(pki.ledger().counts(&fingerprint));
        pki.ensure([], now + 8 * 86_400).unwrap();
        assert!(!pki.ledger().counts(&fingerprint));
    }

    #[test]
    fn a_broken_root_is_an_error_and_not_a_new_root() {
        let dir = tempfile::tempdir().unwrap();
        let (mut first, lock) = pki(dir.path());
        first.ensure(&names(&[]), 1_800_000_000).unwrap();
        drop((first, lock));
        std::fs::write(dir.path().join("pki/root.pem"), "half").unwrap();
        let state = StateDir::at(dir.path()).unwrap();
        let error = Pki::load(state, "atlas".parse().unwrap(), Lifetimes::default()).err().unwrap();
        assert!(format!("{error:#}").contains("root.pem"), "{error:#}");
    }
}

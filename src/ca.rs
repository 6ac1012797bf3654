//! Signs what [`atlas_core::pki`] decides, and keeps it in the state directory.
//!
//! Order of writing: a credential's fingerprint is persisted before the credential itself, so one that somebody may hold
//! is always known. A crash in between leaves a fingerprint without a key, which harms nobody. Forgetting goes the other
//! way: files first, so that after a crash the list still says that there is something to forget.

mod ledger;
mod sign;
mod store;

use std::collections::{BTreeMap, BTreeSet, HashSet};

use anyhow::{Context, bail};
use atlas_core::name::{ClusterName, Identity, NodeId, TrustDomain};
use atlas_core::pki::{self, Authority, Inventory, Leaf, Lifetimes, Order, PrivateKey, Time, Trust, Validity};

pub use ledger::{Credential, Ledger};
use sign::Signed;
pub use sign::fingerprint;
pub use store::read as read_certificate;

use crate::state_dir::StateDir;

/// What [`Pki::ensure`] couldn't do, or soon can't.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Troubles {
    /// What only people can change: the clock, the root's end.
    pub standing: Vec<String>,
    /// What failed, and is worth another try.
    pub failed: Vec<String>,
}

impl Troubles {
    /// All of them.
    pub fn all(&self) -> Vec<&str> {
        self.standing.iter().chain(&self.failed).map(String::as_str).collect()
    }
}

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
        let mut ledger = Ledger::load(&state, !authorities.is_empty() && store::any_bootstrap(&state)?)?;
        for identity in identities.keys() {
            if let Identity::Cluster(name, revision) | Identity::Bootstrap(name, revision) = identity {
                ledger.at_least(name, *revision);
            }
        }
        Ok(Self { state, domain, lifetimes, authorities, identities, ledger })
    }

    /// Issues what is due for these clusters. `present` are further ones whose manifest is there but wrong: they get
    /// nothing new, and their credentials don't fall asleep.
    ///
    /// What fails for one identity is told, and the others get theirs.
    ///
    /// # Errors
    /// There is no root, and none can be made.
    pub fn ensure<'a>(
        &mut self,
        clusters: impl IntoIterator<Item = &'a ClusterName>,
        present: impl IntoIterator<Item = &'a ClusterName>,
        now: Time,
    ) -> anyhow::Result<Troubles> {
        let clusters: BTreeSet<&ClusterName> = clusters.into_iter().collect();
        let mut troubles = Troubles::default();
        let present = clusters.iter().copied().chain(present).collect();
        note(&mut troubles.failed, "cannot note which clusters there are", self.note_presence(&present, now));
        note(&mut troubles.failed, "cannot remove what was forgotten", self.finish_forgetting());
        note(&mut troubles.failed, "cannot remove a credential that no longer counts", self.drop_unlisted());
        let wanted = pki::wanted(clusters, self.ledger.revisions());
        let orders = pki::due(&self.inventory(), &wanted, &self.lifetimes, now);
        troubles.failed.append(&mut self.carry_out_all(&orders, now));
        let trouble = pki::trouble(&self.inventory(), now);
        if !self.authorities.contains_key(&Authority::Root) {
            bail!("{}", trouble.map_or_else(|| troubles.failed.join("; "), |trouble| trouble.to_string()));
        }
        troubles.standing.extend(trouble.map(|trouble| trouble.to_string()));
        Ok(troubles)
    }

    /// When [`Pki::ensure`] will next have something to do.
    pub fn next_due<'a>(&self, clusters: impl IntoIterator<Item = &'a ClusterName>) -> Option<Time> {
        pki::next_due(&self.inventory(), &pki::wanted(clusters, self.ledger.revisions()), &self.lifetimes)
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

    /// Forgets every credential of a cluster, and expects the next revision should it ever come back. Its files go too.
    /// What an earlier, interrupted time left over goes as well.
    ///
    /// # Errors
    /// The state directory can't be written. Where that concerns the files only, the credentials are forgotten all the same.
    pub fn forget(&mut self, cluster: &ClusterName) -> anyhow::Result<()> {
        let current = self.ledger.revision(cluster);
        let in_use = self.ledger.has(cluster) || self.identities.keys().any(|identity| of(identity, cluster) == Some(current));
        let removed = store::forget(&self.state, cluster);
        if in_use {
            let mut ledger = self.ledger.clone();
            ledger.forget(cluster);
            ledger.save(&self.state)?;
            self.ledger = ledger;
        }
        if removed.is_ok() {
            self.identities.retain(|identity, _| of(identity, cluster).is_none());
        }
        removed
    }

    /// Removes the files of clusters that were forgotten when that couldn't be done: they carry an earlier revision.
    fn finish_forgetting(&mut self) -> anyhow::Result<()> {
        let stale = |identity: &Identity| match identity {
            Identity::Cluster(name, revision) | Identity::Bootstrap(name, revision) if *revision < self.ledger.revision(name) => {
                Some(name.clone())
            }
            _ => None,
        };
        let names: BTreeSet<ClusterName> = self.identities.keys().filter_map(stale).collect();
        // From memory at once and all of them: tried again later, this would remove the files of the next revision.
        let ledger = &self.ledger;
        self.identities.retain(|identity, _| names.iter().all(|name| of(identity, name).is_none_or(|rev| rev >= ledger.revision(name))));
        let results: Vec<_> = names.iter().map(|name| store::forget(&self.state, name)).collect();
        results.into_iter().collect()
    }

    fn note_presence(&mut self, present: &BTreeSet<&ClusterName>, now: Time) -> anyhow::Result<()> {
        let mut ledger = self.ledger.clone();
        if ledger.note_presence(present, now) {
            ledger.save(&self.state)?;
            self.ledger = ledger;
        }
        Ok(())
    }

    /// Drops the credentials that the list doesn't hold, so that they are due: their cluster was away for too long and is
    /// back, or the list comes from a backup.
    fn drop_unlisted(&mut self) -> anyhow::Result<()> {
        let counting: HashSet<&str> = self.ledger.credentials().map(|credential| credential.fingerprint.as_str()).collect();
        let unlisted = |(identity, signed): (&Identity, &Signed)| match identity {
            Identity::Bootstrap(name, _) if !counting.contains(signed.fingerprint().as_str()) => Some((identity.clone(), name.clone())),
            _ => None,
        };
        let unlisted: Vec<(Identity, ClusterName)> = self.identities.iter().filter_map(unlisted).collect();
        // First all of them, then their files: one that can't be removed must not keep a cluster out.
        self.identities.retain(|identity, _| !unlisted.iter().any(|(dropped, _)| dropped == identity));
        unlisted.iter().try_for_each(|(_, name)| store::remove_bootstrap(&self.state, name))
    }

    fn as_leaf(&self, signed: &Signed) -> Leaf {
        Leaf { chain: signed.chain.clone(), key: PrivateKey::new(signed.key.expose().to_owned()) }
    }

    /// Carries out what can be; returns what failed. What an authority that failed would have signed waits for it: the
    /// validity that was ordered fits the new one only.
    fn carry_out_all(&mut self, orders: &[Order], now: Time) -> Vec<String> {
        let mut without = BTreeSet::new();
        let mut failed = Vec::new();
        for order in orders {
            let (what, issuer) = match order {
                Order::Authority(authority, _) => (format!("the certificate authority {authority:?}"), Authority::Root),
                Order::Identity(identity, _) => (identity.spiffe_id(&self.domain), Authority::of(identity)),
            };
            if without.contains(&issuer) {
                continue;
            }
            if let Err(error) = self.carry_out(order, now) {
                failed.push(format!("cannot issue {what}: {error:#}"));
                if let Order::Authority(authority, _) = order {
                    without.insert(*authority);
                }
                // All are below the root.
                if matches!(order, Order::Authority(Authority::Root, _)) {
                    break;
                }
            }
        }
        failed
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
                self.keep(identity, signed, *validity, now)?;
                tracing::info!(%id, not_after = validity.not_after, "issued a certificate");
            }
        }
        Ok(())
    }

    fn keep(&mut self, identity: &Identity, signed: Signed, validity: Validity, now: Time) -> anyhow::Result<()> {
        if let Identity::Bootstrap(name, revision) = identity {
            self.ledger.issued(name, *revision, signed.fingerprint(), validity, now);
        }
        let kept = self.store(identity, &signed);
        if kept.is_err() {
            // Tried every few seconds, the list would grow by one each time. It is written without it the next time.
            self.ledger.not_issued(&signed.fingerprint());
        }
        kept?;
        self.identities.insert(identity.clone(), signed);
        Ok(())
    }

    fn store(&self, identity: &Identity, signed: &Signed) -> anyhow::Result<()> {
        if let Identity::Bootstrap(..) = identity {
            self.ledger.save(&self.state)?;
        }
        store::save_identity(&self.state, identity, signed)
    }
}

/// The revision of an identity of this cluster.
fn of(identity: &Identity, cluster: &ClusterName) -> Option<u64> {
    match identity {
        Identity::Cluster(name, revision) | Identity::Bootstrap(name, revision) if name == cluster => Some(*revision),
        _ => None,
    }
}

fn note(failed: &mut Vec<String>, what: &str, result: anyhow::Result<()>) {
    if let Err(error) = result {
        failed.push(format!("{what}: {error:#}"));
    }
}

#[cfg(test)]
mod tests;

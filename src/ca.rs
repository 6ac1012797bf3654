//! Signs what [`atlas_core::pki`] decides, and keeps it in a [`Vault`]: the state directory, or Secrets.
//!
//! Order of writing: a credential's fingerprint is persisted before the credential itself, so one that somebody may hold
//! is always known. A crash in between leaves a fingerprint without a key, which harms nobody. Forgetting goes the other
//! way: keys first, so that after a crash the list still says that there is something to forget.

mod directory;
mod ledger;
mod pem;
mod sign;
mod vault;

use std::collections::{BTreeMap, BTreeSet, HashSet};

use anyhow::{Context, bail};
use atlas_core::name::{ClusterName, Identity, NodeId, TrustDomain};
use atlas_core::pki::{self, Authority, Inventory, Leaf, Lifetimes, Order, PrivateKey, Time, Trust, Validity};

pub use directory::Directory;
pub use ledger::{Credential, Ledger};
pub use pem::{parse, read as read_certificate, text, validity};
pub use sign::{Signed, fingerprint};
pub use vault::{Contents, Vault};

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

/// The PKI of one Atlas, with its keys. Everything it holds is in its vault too.
pub struct Pki<V> {
    vault: V,
    domain: TrustDomain,
    lifetimes: Lifetimes,
    contents: Contents,
}

impl<V: Vault> Pki<V> {
    /// Reads what there is. What can't be read is an error, never silently made anew: a new root would lock every cluster out.
    ///
    /// # Errors
    /// What is broken, by its place.
    pub fn load(mut vault: V, domain: TrustDomain, lifetimes: Lifetimes) -> anyhow::Result<Self> {
        let contents = vault.load(&domain)?;
        Ok(Self { vault, domain, lifetimes, contents })
    }

    /// Begins with what the vault has been read to hold already.
    pub fn with(vault: V, domain: TrustDomain, lifetimes: Lifetimes, contents: Contents) -> Self {
        Self { vault, domain, lifetimes, contents }
    }

    /// What there is, and where it is kept.
    pub fn parts(&mut self) -> (&mut Contents, &mut V) {
        (&mut self.contents, &mut self.vault)
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
        let wanted = pki::wanted(clusters, self.contents.ledger.revisions());
        let orders = pki::due(&self.inventory(), &wanted, &self.lifetimes, now);
        troubles.failed.append(&mut self.carry_out_all(&orders, now));
        let trouble = pki::trouble(&self.inventory(), now);
        if !self.contents.authorities.contains_key(&Authority::Root) {
            bail!("{}", trouble.map_or_else(|| troubles.failed.join("; "), |trouble| trouble.to_string()));
        }
        troubles.standing.extend(trouble.map(|trouble| trouble.to_string()));
        Ok(troubles)
    }

    /// When [`Pki::ensure`] will next have something to do.
    pub fn next_due<'a>(&self, clusters: impl IntoIterator<Item = &'a ClusterName>) -> Option<Time> {
        pki::next_due(&self.inventory(), &pki::wanted(clusters, self.contents.ledger.revisions()), &self.lifetimes)
    }

    /// What the plan needs to know.
    pub fn trust(&self) -> Trust {
        let leaf = |(identity, signed): (&Identity, &Signed)| {
            let node = match identity {
                Identity::Hub => NodeId::Hub,
                Identity::Cluster(name, revision) if *revision == self.contents.ledger.revision(name) => NodeId::Cluster(name.clone()),
                _ => return None,
            };
            Some((node, self.as_leaf(signed)))
        };
        Trust {
            domain: self.domain.clone(),
            roots: self.contents.authorities.get(&Authority::Root).map(|root| root.chain.clone()).into_iter().collect(),
            leaves: self.contents.identities.iter().filter_map(leaf).collect(),
            revisions: self.contents.ledger.revisions().clone(),
        }
    }

    /// The certificate and key of an identity.
    pub fn leaf(&self, identity: &Identity) -> Option<Leaf> {
        self.contents.identities.get(identity).map(|signed| self.as_leaf(signed))
    }

    /// What a node's Envoy opens its stream with: the hub its leaf, a cluster its bootstrap credential.
    pub fn opener(&self, node: &NodeId) -> Option<Leaf> {
        match node {
            NodeId::Hub => self.leaf(&Identity::Hub),
            NodeId::Cluster(name) => self.leaf(&Identity::Bootstrap(name.clone(), self.contents.ledger.revision(name))),
        }
    }

    /// Which bootstrap credentials count.
    pub fn ledger(&self) -> &Ledger {
        &self.contents.ledger
    }

    /// When each current certificate ends.
    pub fn inventory(&self) -> Inventory {
        Inventory {
            authorities: self.contents.authorities.iter().map(|(authority, signed)| (*authority, signed.validity)).collect(),
            identities: self.contents.identities.iter().map(|(identity, signed)| (identity.clone(), signed.validity)).collect(),
        }
    }

    /// Forgets every credential of a cluster, and expects the next revision should it ever come back. Its files go too.
    /// What an earlier, interrupted time left over goes as well.
    ///
    /// # Errors
    /// The state directory can't be written. Where that concerns the files only, the credentials are forgotten all the same.
    pub fn forget(&mut self, cluster: &ClusterName) -> anyhow::Result<()> {
        let ledger = &self.contents.ledger;
        let current = ledger.revision(cluster);
        let in_use = ledger.has(cluster) || self.contents.identities.keys().any(|identity| of(identity, cluster) == Some(current));
        let removed = self.vault.remove_keys(cluster);
        if in_use {
            self.change_list(|ledger| ledger.forget(cluster))?;
        }
        if removed.is_ok() {
            self.contents.identities.retain(|identity, _| of(identity, cluster).is_none());
        }
        removed
    }

    /// Removes the keys of clusters that were forgotten when that couldn't be done: they carry an earlier revision.
    fn finish_forgetting(&mut self) -> anyhow::Result<()> {
        let Contents { identities, ledger, .. } = &mut self.contents;
        let stale = |identity: &Identity| match identity {
            Identity::Cluster(name, revision) | Identity::Bootstrap(name, revision) if *revision < ledger.revision(name) => {
                Some(name.clone())
            }
            _ => None,
        };
        let names: BTreeSet<ClusterName> = identities.keys().filter_map(stale).collect();
        // From memory at once and all of them: tried again later, this would remove the keys of the next revision.
        identities.retain(|identity, _| names.iter().all(|name| of(identity, name).is_none_or(|rev| rev >= ledger.revision(name))));
        let results: Vec<_> = names.iter().map(|name| self.vault.remove_keys(name)).collect();
        results.into_iter().collect()
    }

    fn note_presence(&mut self, present: &BTreeSet<&ClusterName>, now: Time) -> anyhow::Result<()> {
        self.change_list(|ledger| ledger.note_presence(present, now))
    }

    /// Changes the list of credentials, in the vault first. Where that fails, nothing has changed.
    fn change_list(&mut self, change: impl FnOnce(&mut Ledger)) -> anyhow::Result<()> {
        let before = self.contents.ledger.clone();
        change(&mut self.contents.ledger);
        let changed = self.contents.ledger.differing(&before);
        if changed.is_empty() {
            return Ok(());
        }
        let saved = self.vault.save_list(&self.contents, &changed);
        if saved.is_err() {
            self.contents.ledger = before;
        }
        saved
    }

    /// Drops the credentials that the list doesn't hold, so that they are due: their cluster was away for too long and is
    /// back, or the list comes from a backup.
    fn drop_unlisted(&mut self) -> anyhow::Result<()> {
        let Contents { identities, ledger, .. } = &mut self.contents;
        let counting: HashSet<&str> = ledger.credentials().map(|credential| credential.fingerprint.as_str()).collect();
        let unlisted = |(identity, signed): (&Identity, &Signed)| match identity {
            Identity::Bootstrap(name, _) if !counting.contains(signed.fingerprint().as_str()) => Some((identity.clone(), name.clone())),
            _ => None,
        };
        let unlisted: Vec<(Identity, ClusterName)> = identities.iter().filter_map(unlisted).collect();
        // First all of them, then their keys: one that can't be removed must not keep a cluster out.
        identities.retain(|identity, _| !unlisted.iter().any(|(dropped, _)| dropped == identity));
        unlisted.iter().try_for_each(|(_, name)| self.vault.remove_bootstrap(name))
    }

    fn as_leaf(&self, signed: &Signed) -> Leaf {
        Leaf { chain: signed.chain.clone(), key: PrivateKey::new(signed.key.expose().to_owned()) }
    }

    /// Carries out what can be; returns what failed. What an authority that failed would have signed waits for it: the
    /// validity that was ordered fits the new one only.
    fn carry_out_all(&mut self, orders: &[Order], now: Time) -> Vec<String> {
        let mut failed = Vec::new();
        let mut without = BTreeSet::new();
        let mut fresh = Vec::new();
        for order in orders {
            match order {
                // All are below the root.
                Order::Authority(..) if without.contains(&Authority::Root) => {}
                Order::Authority(authority, validity) => {
                    if let Err(error) = self.make_authority(*authority, *validity) {
                        failed.push(format!("cannot issue the certificate authority {authority:?}: {error:#}"));
                        without.insert(*authority);
                    }
                }
                Order::Identity(identity, _) if without.contains(&Authority::Root) || without.contains(&Authority::of(identity)) => {}
                Order::Identity(identity, validity) => match self.sign(identity, *validity) {
                    Ok(signed) => fresh.push((identity.clone(), signed)),
                    Err(error) => failed.push(self.not_issued(identity, &error)),
                },
            }
        }
        failed.append(&mut self.keep_all(fresh, now));
        failed
    }

    fn make_authority(&mut self, authority: Authority, validity: Validity) -> anyhow::Result<()> {
        let signed = sign::authority(authority, validity, self.contents.authorities.get(&Authority::Root))?;
        let before = self.contents.authorities.insert(authority, signed);
        let saved = self.vault.save_authority(&self.contents, authority);
        if saved.is_ok() {
            tracing::info!(?authority, not_after = validity.not_after, "made a certificate authority");
        } else {
            restore(&mut self.contents.authorities, authority, before);
        }
        saved
    }

    fn sign(&self, identity: &Identity, validity: Validity) -> anyhow::Result<Signed> {
        let issuer = self.contents.authorities.get(&Authority::of(identity)).context("BUG: an identity is due before its issuer")?;
        sign::identity(identity, &identity.spiffe_id(&self.domain), validity, issuer)
    }

    /// Keeps what was signed, all together; returns what couldn't be kept.
    fn keep_all(&mut self, fresh: Vec<(Identity, Signed)>, now: Time) -> Vec<String> {
        let mut before = Vec::new();
        for (identity, signed) in fresh {
            if let Identity::Bootstrap(name, revision) = &identity {
                self.contents.ledger.issued(name, *revision, signed.fingerprint(), signed.validity, now);
            }
            let old = self.contents.identities.insert(identity.clone(), signed);
            before.push((identity, old));
        }
        let which: Vec<&Identity> = before.iter().map(|(identity, _)| identity).collect();
        let results = self.vault.save_identities(&self.contents, &which);
        let mut failed = Vec::new();
        for ((identity, old), result) in before.into_iter().zip(results) {
            match result {
                Ok(()) => {
                    let not_after = self.contents.identities.get(&identity).map(|signed| signed.validity.not_after);
                    tracing::info!(id = identity.spiffe_id(&self.domain), not_after, "issued a certificate");
                }
                Err(error) => {
                    failed.push(self.not_issued(&identity, &error));
                    self.take_back(identity, old);
                }
            }
        }
        failed
    }

    fn take_back(&mut self, identity: Identity, old: Option<Signed>) {
        if let (Identity::Bootstrap(..), Some(signed)) = (&identity, self.contents.identities.get(&identity)) {
            // Tried every few seconds, the list would grow by one each time. It is written without it the next time.
            self.contents.ledger.not_issued(&signed.fingerprint());
        }
        restore(&mut self.contents.identities, identity, old);
    }

    fn not_issued(&self, identity: &Identity, error: &anyhow::Error) -> String {
        format!("cannot issue {}: {error:#}", identity.spiffe_id(&self.domain))
    }
}

fn restore<K: Ord, V>(map: &mut BTreeMap<K, V>, key: K, before: Option<V>) {
    match before {
        Some(value) => map.insert(key, value),
        None => map.remove(&key),
    };
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

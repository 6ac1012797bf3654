//! Signs what [`atlas_core::pki`] decides, and keeps it in a [`PkiStore`]: the state directory, or Secrets.
//!
//! IssueRequest of writing: a credential's fingerprint is persisted before the credential itself, so one that somebody may hold
//! is always known. A crash in between leaves a fingerprint without a key, which harms nobody. Forgetting goes the other
//! way: keys first, so that after a crash the list still says that there is something to forget.

mod ledger;
pub mod pem;
mod sign;
mod store;

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, bail};
use atlas_core::name::{ClusterName, Identity, NodeId, TrustDomain};
use atlas_core::pki::{
    self, Authority, IssueRequest, IssuedCertificates, Leaf, Lifetimes, PrivateKey, Time, Trust,
    Validity,
};
use atlas_core::plan::Scope;

pub use ledger::Ledger;
pub use pem::{IssuerVerifier, from_pem, read_certificate, read_validity, to_pem};
pub use sign::{CertificateAndKey, fingerprint};
pub use store::{Contents, PkiStore};

/// What [`Pki::issue_due`] did, and what it couldn't do or soon can't.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct IssueReport {
    /// What only people can change: the clock, the root's end.
    pub needs_operator: Vec<String>,
    /// What failed, and is worth another try.
    pub failed: Vec<String>,
    /// Who has another certificate or credential than before, or one less.
    pub changed: BTreeSet<Identity>,
    /// Whether an authority was made.
    pub authorities: bool,
}

impl IssueReport {
    /// What is to be planned again: whoever has another certificate has another secret, or others expect something else of it.
    pub fn scope(&self) -> Scope {
        let mut scope = Scope { all: self.authorities, ..Scope::default() };
        for identity in &self.changed {
            match identity {
                Identity::Hub => scope.hub = true,
                Identity::Cluster(name, _) | Identity::Bootstrap(name, _) => {
                    _ = scope.clusters.insert(name.clone())
                }
                Identity::Atlas => {}
            }
        }
        scope
    }

    /// All problems.
    pub fn problems(&self) -> Vec<&str> {
        self.needs_operator.iter().chain(&self.failed).map(String::as_str).collect()
    }
}

/// For whom to issue.
#[derive(Clone, Copy, Debug)]
pub struct Subjects<'a> {
    /// The clusters in force: they get what is due.
    pub clusters: &'a BTreeSet<ClusterName>,
    /// Further ones whose manifest is there but wrong: they get nothing new, and their credentials don't fall asleep.
    pub present: &'a BTreeSet<ClusterName>,
    /// Of clusters, look at these alone: `clusters` and `present` say nothing of others. `None`: at all.
    pub only: Option<&'a BTreeSet<ClusterName>>,
}

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

/// The PKI of one Atlas, with its keys. Everything it holds is in its pki_store too.
pub struct Pki<V> {
    pki_store: V,
    domain: TrustDomain,
    lifetimes: Lifetimes,
    contents: Contents,
}

impl<V: PkiStore> Pki<V> {
    /// Reads what there is. What can't be read is an error, never silently made anew: a new root would lock every cluster out.
    ///
    /// # Errors
    /// What is broken, by its place.
    pub fn load(
        mut pki_store: V,
        domain: TrustDomain,
        lifetimes: Lifetimes,
    ) -> anyhow::Result<Self> {
        let contents = pki_store.load(&domain)?;
        Ok(Self { pki_store, domain, lifetimes, contents })
    }

    /// Begins with what the pki_store has been read to hold already.
    pub fn with(
        pki_store: V,
        domain: TrustDomain,
        lifetimes: Lifetimes,
        contents: Contents,
    ) -> Self {
        Self { pki_store, domain, lifetimes, contents }
    }

    /// What there is, and where it is kept.
    pub fn contents_and_store(&mut self) -> (&mut Contents, &mut V) {
        (&mut self.contents, &mut self.pki_store)
    }

    /// Issues what is due. What fails for one identity is told, and the others get theirs.
    ///
    /// # Errors
    /// There is no root, and none can be made.
    pub fn issue_due(&mut self, wanted: &Subjects<'_>, now: Time) -> anyhow::Result<IssueReport> {
        let mut done = IssueReport::default();
        note(
            &mut done.failed,
            "cannot note which clusters there are",
            self.note_presence(wanted, now),
        );
        let (forgotten, dropped) = (
            self.finish_forgetting(wanted, &mut done.changed),
            self.drop_unlisted(wanted, &mut done.changed),
        );
        note(&mut done.failed, "cannot remove what was forgotten", forgotten);
        note(&mut done.failed, "cannot remove a credential that no longer counts", dropped);
        let orders = {
            let identities = pki::required_identities(wanted.clusters, |name| {
                self.contents.ledger.revision(name)
            });
            pki::requests_due(&self.inventory_of(&identities), &identities, &self.lifetimes, now)
        };
        self.carry_out_all(&orders, now, &mut done);
        let problem = pki::root_problem(&self.authorities(), now);
        if !self.contents.authorities.contains_key(&Authority::Root) {
            bail!(
                "{}",
                problem.map_or_else(|| done.failed.join("; "), |problem| problem.to_string())
            );
        }
        done.needs_operator.extend(problem.map(|problem| problem.to_string()));
        done.needs_operator.extend(self.pki_store.set_aside_notices());
        Ok(done)
    }

    /// When [`Pki::issue_due`] will next have something to do for these.
    pub fn next_due<'a>(
        &self,
        clusters: impl IntoIterator<Item = &'a ClusterName>,
    ) -> Option<Time> {
        let identities =
            pki::required_identities(clusters, |name| self.contents.ledger.revision(name));
        pki::next_due(&self.inventory_of(&identities), &identities, &self.lifetimes)
    }

    /// What the plan needs to know of these clusters and of the hub.
    pub fn trust_for<'a>(&self, clusters: impl IntoIterator<Item = &'a ClusterName>) -> Trust {
        let contents = &self.contents;
        let mut trust = Trust {
            domain: self.domain.clone(),
            roots: contents
                .authorities
                .get(&Authority::Root)
                .map(|root| root.chain.clone())
                .into_iter()
                .collect(),
            leaves: self.leaf(&Identity::Hub).map(|leaf| (NodeId::Hub, leaf)).into_iter().collect(),
            revisions: BTreeMap::new(),
        };
        for name in clusters {
            let revision = contents.ledger.revision(name);
            trust.revisions.insert(name.clone(), revision);
            let leaf = self.leaf(&Identity::Cluster(name.clone(), revision));
            trust.leaves.extend(leaf.map(|leaf| (NodeId::Cluster(name.clone()), leaf)));
        }
        trust
    }

    /// The certificate and key of an identity.
    pub fn leaf(&self, identity: &Identity) -> Option<Leaf> {
        self.contents.identities.get(identity).map(|signed| self.as_leaf(signed))
    }

    /// What a node's Envoy opens its stream with: the hub its leaf, a cluster its bootstrap credential.
    pub fn bootstrap_credential(&self, node: &NodeId) -> Option<Leaf> {
        match node {
            NodeId::Hub => self.leaf(&Identity::Hub),
            NodeId::Cluster(name) => {
                self.leaf(&Identity::Bootstrap(name.clone(), self.contents.ledger.revision(name)))
            }
        }
    }

    /// Which bootstrap credentials count.
    pub fn ledger(&self) -> &Ledger {
        &self.contents.ledger
    }

    /// When a node's current certificates end.
    pub fn expiries(&self, node: &NodeId) -> Expiries {
        let end = |identity: Identity| {
            self.contents.identities.get(&identity).map(|signed| signed.validity.not_after)
        };
        match node {
            NodeId::Hub => Expiries {
                leaf: end(Identity::Hub),
                credential: end(Identity::Hub),
                revision: None,
            },
            NodeId::Cluster(name) => {
                let last = self.contents.ledger.credentials_of(name).last();
                Expiries {
                    leaf: end(Identity::Cluster(name.clone(), self.contents.ledger.revision(name))),
                    credential: last.map(|credential| credential.not_after),
                    revision: last.map(|credential| credential.revision),
                }
            }
        }
    }

    /// When each authority ends, and Atlas's own leaf.
    pub fn own_expiries(&self) -> (BTreeMap<Authority, Time>, Option<Time>) {
        let ends = self
            .contents
            .authorities
            .iter()
            .map(|(authority, signed)| (*authority, signed.validity.not_after))
            .collect();
        (
            ends,
            self.contents.identities.get(&Identity::Atlas).map(|signed| signed.validity.not_after),
        )
    }

    /// The end of each cluster's current bootstrap credential, by the cluster's name.
    pub fn bootstrap_expiries(&self) -> BTreeMap<String, Time> {
        let of = |(identity, signed): (&Identity, &CertificateAndKey)| match identity {
            Identity::Bootstrap(name, _) => Some((name.to_string(), signed.validity.not_after)),
            _ => None,
        };
        self.contents.identities.iter().filter_map(of).collect()
    }

    fn authorities(&self) -> IssuedCertificates {
        let validity =
            |(authority, signed): (&Authority, &CertificateAndKey)| (*authority, signed.validity);
        IssuedCertificates {
            authorities: self.contents.authorities.iter().map(validity).collect(),
            identities: BTreeMap::new(),
        }
    }

    fn inventory_of(&self, identities: &BTreeSet<Identity>) -> IssuedCertificates {
        let known = identities
            .iter()
            .filter_map(|one| Some((one.clone(), self.contents.identities.get(one)?.validity)));
        IssuedCertificates { identities: known.collect(), ..self.authorities() }
    }

    /// Forgets every credential of a cluster, and expects the next revision should it ever come back. Its files go too.
    /// What an earlier, interrupted time left over goes as well.
    ///
    /// # Errors
    /// The state directory can't be written. Where that concerns the files only, the credentials are forgotten all the same.
    pub fn forget(&mut self, cluster: &ClusterName) -> anyhow::Result<()> {
        let ledger = &self.contents.ledger;
        let current = ledger.revision(cluster);
        let in_use = ledger.has_credentials(cluster)
            || self
                .contents
                .identities
                .keys()
                .any(|identity| of(identity, cluster) == Some(current));
        let removed = self.pki_store.remove_keys(cluster);
        if in_use {
            self.change_list(&[cluster.clone()].into(), |ledger| ledger.forget(cluster))?;
        }
        if removed.is_ok() {
            self.contents.identities.retain(|identity, _| of(identity, cluster).is_none());
        }
        removed
    }

    /// Removes the keys of clusters that were forgotten when that couldn't be done: they carry an earlier revision.
    fn finish_forgetting(
        &mut self,
        wanted: &Subjects<'_>,
        changed: &mut BTreeSet<Identity>,
    ) -> anyhow::Result<()> {
        // Such a time is rare: it is looked for where everything is.
        if wanted.only.is_some() {
            return Ok(());
        }
        let Contents { identities, ledger, .. } = &mut self.contents;
        let stale = |identity: &Identity| match identity {
            Identity::Cluster(name, revision) | Identity::Bootstrap(name, revision)
                if *revision < ledger.revision(name) =>
            {
                Some(name.clone())
            }
            _ => None,
        };
        let names: BTreeSet<ClusterName> = identities.keys().filter_map(stale).collect();
        // From memory at once and all of them: tried again later, this would remove the keys of the next revision.
        identities.retain(|identity, _| {
            let stays = names.iter().all(|name| {
                of(identity, name).is_none_or(|revision| revision >= ledger.revision(name))
            });
            if !stays {
                changed.insert(identity.clone());
            }
            stays
        });
        let results: Vec<_> = names.iter().map(|name| self.pki_store.remove_keys(name)).collect();
        results.into_iter().collect()
    }

    fn note_presence(&mut self, wanted: &Subjects<'_>, now: Time) -> anyhow::Result<()> {
        let known = match wanted.only {
            Some(only) => only.clone(),
            None => self.contents.ledger.clusters().cloned().collect(),
        };
        let is_there =
            |name: &ClusterName| wanted.clusters.contains(name) || wanted.present.contains(name);
        self.change_list(&known, |ledger| {
            known.iter().for_each(|name| ledger.note_presence(name, is_there(name), now))
        })
    }

    /// Changes what the list says of these clusters, in the pki_store first. Where that fails, nothing has changed.
    fn change_list(
        &mut self,
        of: &BTreeSet<ClusterName>,
        change: impl FnOnce(&mut Ledger),
    ) -> anyhow::Result<()> {
        let before: Vec<_> =
            of.iter().map(|name| (name, self.contents.ledger.entry(name))).collect();
        change(&mut self.contents.ledger);
        let differs = |(name, entry): &&(&ClusterName, ledger::Entry)| {
            self.contents.ledger.entry(name) != *entry
        };
        let changed: BTreeSet<ClusterName> =
            before.iter().filter(differs).map(|(name, _)| (*name).clone()).collect();
        if changed.is_empty() {
            return Ok(());
        }
        let saved = self.pki_store.save_ledger(&self.contents, &changed);
        if saved.is_err() {
            before.into_iter().for_each(|(name, entry)| self.contents.ledger.set(name, entry));
        }
        saved
    }

    /// Drops the credentials that the list doesn't hold, so that they are due: their cluster was away for too long and is
    /// back, or the list comes from a backup.
    fn drop_unlisted(
        &mut self,
        wanted: &Subjects<'_>,
        changed: &mut BTreeSet<Identity>,
    ) -> anyhow::Result<()> {
        let Contents { identities, ledger, .. } = &mut self.contents;
        let unlisted = |(identity, signed): (&Identity, &CertificateAndKey)| match identity {
            Identity::Bootstrap(name, _) if !ledger.lists(name, &signed.fingerprint()) => {
                Some((identity.clone(), name.clone()))
            }
            _ => None,
        };
        let unlisted: Vec<(Identity, ClusterName)> = match wanted.only {
            None => identities.iter().filter_map(unlisted).collect(),
            Some(only) => {
                let of =
                    |name: &ClusterName| Identity::Bootstrap(name.clone(), ledger.revision(name));
                only.iter()
                    .filter_map(|name| identities.get_key_value(&of(name)).and_then(unlisted))
                    .collect()
            }
        };
        // First all of them, then their keys: one that can't be removed must not keep a cluster out.
        unlisted.iter().for_each(|(identity, _)| drop(identities.remove(identity)));
        changed.extend(unlisted.iter().map(|(identity, _)| identity.clone()));
        unlisted.iter().try_for_each(|(_, name)| self.pki_store.remove_bootstrap(name))
    }

    fn as_leaf(&self, signed: &CertificateAndKey) -> Leaf {
        Leaf { chain: signed.chain.clone(), key: PrivateKey::new(signed.key.expose().to_owned()) }
    }

    /// Carries out what can be. What an authority that failed would have signed waits for it: the validity that was ordered
    /// fits the new one only.
    fn carry_out_all(&mut self, orders: &[IssueRequest], now: Time, done: &mut IssueReport) {
        let mut without = BTreeSet::new();
        let mut fresh = Vec::new();
        for order in orders {
            match order {
                // All are below the root.
                IssueRequest::Authority(..) if without.contains(&Authority::Root) => {}
                IssueRequest::Authority(authority, validity) => {
                    match self.make_authority(*authority, *validity) {
                        Ok(()) => done.authorities = true,
                        Err(error) => {
                            done.failed.push(format!(
                                "cannot issue the certificate authority {authority:?}: {error:#}"
                            ));
                            without.insert(*authority);
                        }
                    }
                }
                IssueRequest::Identity(identity, _)
                    if without.contains(&Authority::Root)
                        || without.contains(&Authority::of(identity)) => {}
                IssueRequest::Identity(identity, validity) => {
                    match self.sign(identity, *validity) {
                        Ok(signed) => fresh.push((identity.clone(), signed)),
                        Err(error) => done.failed.push(self.not_issued(identity, &error)),
                    }
                }
            }
        }
        done.changed.extend(fresh.iter().map(|(identity, _)| identity.clone()));
        done.failed.append(&mut self.keep_all(fresh, now));
    }

    fn make_authority(&mut self, authority: Authority, validity: Validity) -> anyhow::Result<()> {
        let signed =
            sign::authority(authority, validity, self.contents.authorities.get(&Authority::Root))?;
        let before = self.contents.authorities.insert(authority, signed);
        let saved = self.pki_store.save_authority(&self.contents, authority);
        if saved.is_ok() {
            tracing::info!(
                ?authority,
                not_after = validity.not_after,
                "made a certificate authority"
            );
        } else {
            restore(&mut self.contents.authorities, authority, before);
        }
        saved
    }

    fn sign(&self, identity: &Identity, validity: Validity) -> anyhow::Result<CertificateAndKey> {
        let issuer = self
            .contents
            .authorities
            .get(&Authority::of(identity))
            .context("BUG: an identity is due before its issuer")?;
        sign::identity(identity, &identity.spiffe_id(&self.domain), validity, issuer)
    }

    /// Keeps what was signed, all together; returns what couldn't be kept.
    fn keep_all(&mut self, fresh: Vec<(Identity, CertificateAndKey)>, now: Time) -> Vec<String> {
        let mut before = Vec::new();
        for (identity, signed) in fresh {
            if let Identity::Bootstrap(name, revision) = &identity {
                self.contents.ledger.issued(
                    name,
                    *revision,
                    signed.fingerprint(),
                    signed.validity,
                    now,
                );
            }
            let old = self.contents.identities.insert(identity.clone(), signed);
            before.push((identity, old));
        }
        let which: Vec<&Identity> = before.iter().map(|(identity, _)| identity).collect();
        let results = self.pki_store.save_identities(&self.contents, &which);
        let mut failed = Vec::new();
        for ((identity, old), result) in before.into_iter().zip(results) {
            match result {
                Ok(()) => {
                    let not_after = self
                        .contents
                        .identities
                        .get(&identity)
                        .map(|signed| signed.validity.not_after);
                    tracing::info!(
                        id = identity.spiffe_id(&self.domain),
                        not_after,
                        "issued a certificate"
                    );
                }
                Err(error) => {
                    failed.push(self.not_issued(&identity, &error));
                    self.take_back(identity, old);
                }
            }
        }
        failed
    }

    fn take_back(&mut self, identity: Identity, old: Option<CertificateAndKey>) {
        if let (Identity::Bootstrap(name, _), Some(signed)) =
            (&identity, self.contents.identities.get(&identity))
        {
            // Tried every few seconds, the list would grow by one each time. It is written without it the next time.
            self.contents.ledger.not_issued(name, &signed.fingerprint());
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
        Identity::Cluster(name, revision) | Identity::Bootstrap(name, revision)
            if name == cluster =>
        {
            Some(*revision)
        }
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

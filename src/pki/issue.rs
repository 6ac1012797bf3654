//! Issues what is due, and saves it.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, bail};
use atlas_core::name::{ClusterName, Identity};
use atlas_core::pki::{self, Authority, IssueRequest, Time, Validity};
use atlas_core::plan::Scope;

use super::{CertificateAndKey, Pki, PkiStore, sign};

/// What [`Pki::issue_due`] did, and what it could not do.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct IssueReport {
    /// Problems that only people can solve: the clock, the root's end.
    pub needs_operator: Vec<String>,
    /// What failed and is worth another try.
    pub failed: Vec<String>,
    /// Identities that have another certificate than before, or none any more.
    pub changed: BTreeSet<Identity>,
    /// What was issued and saved, and whether it replaces an earlier certificate.
    pub issued: BTreeMap<Identity, bool>,
    /// Whether an authority was made.
    pub authorities: bool,
}

impl IssueReport {
    /// Whose Envoy resources differ by it: those of whoever has another certificate, and of those
    /// who expect it.
    pub fn scope(&self) -> Scope {
        let mut scope = Scope { all: self.authorities, ..Scope::default() };
        for identity in &self.changed {
            match identity {
                Identity::Hub => scope.hub = true,
                Identity::Cluster(name, _) | Identity::Bootstrap(name, _) => {
                    scope.clusters.insert(name.clone());
                }
                Identity::Atlas => {}
            }
        }
        scope
    }

    /// Everything that went wrong.
    pub fn problems(&self) -> Vec<&str> {
        self.needs_operator.iter().chain(&self.failed).map(String::as_str).collect()
    }

    fn note_failure(&mut self, what: &str, result: anyhow::Result<()>) {
        if let Err(error) = result {
            self.failed.push(format!("{what}: {error:#}"));
        }
    }
}

/// The clusters to issue for.
#[derive(Clone, Copy, Debug)]
pub struct Subjects<'a> {
    /// The clusters in force. They get what is due.
    pub clusters: &'a BTreeSet<ClusterName>,
    /// Clusters whose manifest is there and wrong. They get nothing new, but count as present
    /// ([`super::Ledger`]).
    pub present: &'a BTreeSet<ClusterName>,
    /// The only clusters to look at; `clusters` and `present` need not have others. `None`: all.
    pub only: Option<&'a BTreeSet<ClusterName>>,
}

impl<S: PkiStore> Pki<S> {
    /// Issues what is due. Where it fails for one identity, the others still get theirs.
    ///
    /// # Errors
    /// There is no root, and none can be made.
    pub fn issue_due(&mut self, subjects: &Subjects<'_>, now: Time) -> anyhow::Result<IssueReport> {
        let mut report = IssueReport::default();
        let noted = self.update_presence(subjects, now);
        report.note_failure("cannot note which clusters there are", noted);
        let forgotten = self.finish_forgetting(subjects, &mut report.changed);
        let dropped = self.drop_unlisted(subjects, &mut report.changed);
        report.note_failure("cannot remove what was forgotten", forgotten);
        report.note_failure("cannot remove a credential that no longer counts", dropped);
        let identities = self.required_identities(subjects.clusters);
        let issued = self.issued_certificates(&identities);
        let requests = pki::requests_due(&issued, &identities, &self.lifetimes, now);
        self.issue_all(&requests, now, &mut report);
        let problem = pki::root_problem(&self.issued_authorities(), now);
        if !self.contents.authorities.contains_key(&Authority::Root) {
            bail!(
                "{}",
                problem.map_or_else(|| report.failed.join("; "), |problem| problem.to_string())
            );
        }
        report.needs_operator.extend(problem.map(|problem| problem.to_string()));
        report.needs_operator.extend(self.store.set_aside_notices());
        Ok(report)
    }

    /// When the next certificate is due for these clusters; `None`: never.
    pub fn next_due<'a>(
        &self,
        clusters: impl IntoIterator<Item = &'a ClusterName>,
    ) -> Option<Time> {
        let identities = self.required_identities(clusters);
        pki::next_due(&self.issued_certificates(&identities), &identities, &self.lifetimes)
    }

    fn required_identities<'a>(
        &self,
        clusters: impl IntoIterator<Item = &'a ClusterName>,
    ) -> BTreeSet<Identity> {
        pki::required_identities(clusters, |name| self.contents.ledger.revision(name))
    }

    /// Issues what can be issued. Where an authority fails, what it would have signed waits: its
    /// validity was chosen for the new authority.
    fn issue_all(&mut self, requests: &[IssueRequest], now: Time, report: &mut IssueReport) {
        let mut missing = BTreeSet::new();
        let mut fresh = Vec::new();
        for request in requests {
            if missing.contains(&Authority::Root) {
                break;
            }
            match request {
                IssueRequest::Authority(authority, validity) => {
                    match self.make_authority(*authority, *validity) {
                        Ok(()) => report.authorities = true,
                        Err(error) => {
                            report.failed.push(format!(
                                "cannot issue the certificate authority {authority:?}: {error:#}"
                            ));
                            missing.insert(*authority);
                        }
                    }
                }
                IssueRequest::Identity(identity, _)
                    if missing.contains(&Authority::of(identity)) => {}
                IssueRequest::Identity(identity, validity) => {
                    match self.sign(identity, *validity) {
                        Ok(certificate) => fresh.push((identity.clone(), certificate)),
                        Err(error) => report.failed.push(self.not_issued(identity, &error)),
                    }
                }
            }
        }
        report.changed.extend(fresh.iter().map(|(identity, _)| identity.clone()));
        self.save_all(fresh, now, report);
    }

    fn make_authority(&mut self, authority: Authority, validity: Validity) -> anyhow::Result<()> {
        let root = self.contents.authorities.get(&Authority::Root);
        let certificate = sign::authority(authority, validity, root)?;
        let before = self.contents.authorities.insert(authority, certificate);
        let saved = self.store.save_authority(&self.contents, authority);
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

    /// Saves what was signed in one call, since each call to the API server takes a while. What
    /// can't be saved is as before.
    fn save_all(
        &mut self,
        fresh: Vec<(Identity, CertificateAndKey)>,
        now: Time,
        report: &mut IssueReport,
    ) {
        let mut before = Vec::new();
        for (identity, certificate) in fresh {
            if let Identity::Bootstrap(name, revision) = &identity {
                self.contents.ledger.add(
                    name,
                    *revision,
                    certificate.fingerprint(),
                    certificate.validity,
                    now,
                );
            }
            let old = self.contents.identities.insert(identity.clone(), certificate);
            before.push((identity, old));
        }
        let which: Vec<&Identity> = before.iter().map(|(identity, _)| identity).collect();
        let results = self.store.save_identities(&self.contents, &which);
        for ((identity, old), result) in before.into_iter().zip(results) {
            match result {
                Ok(()) => {
                    tracing::info!(
                        id = identity.spiffe_id(&self.domain),
                        not_after = self.expiry(&identity),
                        "issued a certificate"
                    );
                    report.issued.insert(identity, old.is_some());
                }
                Err(error) => {
                    report.failed.push(self.not_issued(&identity, &error));
                    self.roll_back(identity, old);
                }
            }
        }
    }

    fn roll_back(&mut self, identity: Identity, old: Option<CertificateAndKey>) {
        if let (Identity::Bootstrap(name, _), Some(certificate)) =
            (&identity, self.contents.identities.get(&identity))
        {
            // Otherwise each try, every few seconds, would add an entry. The ledger's next save is
            // without it.
            self.contents.ledger.remove(name, &certificate.fingerprint());
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

//! What to issue and when. Decides at a given time; never signs, never draws a key: that is the edge's.
//!
//! ```text
//! root (10 years) ─┬─▶ issuing CA (90 days) ───▶ leaves: /atlas, /hub, /cluster/<name>/<revision> (7 days)
//!                  └─▶ bootstrap CA (3 years) ─▶ /bootstrap/<name>/<revision> (1 year)
//! ```
//!
//! Invariant: no certificate outlives its issuer. A CA is replaced at half its life, long before its certificates would
//! be cut short by it.
//!
//! Nor is there a request that an issuer could not fulfil, or one that would be due again at once: near the root's end
//! certificates end with it, and after it nothing is issued. [`root_problem`] says so, a year ahead.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use sha2::{Digest, Sha256};

use crate::name::{ClusterName, Identity, NodeId, TrustDomain};

/// Certificates are backdated against clocks that are behind, in seconds.
pub const BACKDATE: i64 = 3600;

/// Seconds since 1970.
pub type Time = i64;

/// A private key, PEM. It never shows itself in a log.
#[derive(Clone, PartialEq, Eq)]
pub struct PrivateKey(String);

impl PrivateKey {
    /// Wraps a PEM text.
    pub fn new(pem: String) -> Self {
        Self(pem)
    }

    /// The PEM text, for those who must have it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

/// A certificate with its key, as a node gets it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leaf {
    /// PEM: the leaf, then its issuers up to but without the root.
    pub chain: String,
    /// Its key.
    pub key: PrivateKey,
}

/// What the plan needs to know of the PKI.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trust {
    /// First part of every SPIFFE ID.
    pub domain: TrustDomain,
    /// The roots that every node trusts, PEM. Several while roots are rotated.
    pub roots: Vec<String>,
    /// Each node's own certificate.
    pub leaves: BTreeMap<NodeId, Leaf>,
    /// The credential revision of each cluster; 1 where none is noted.
    pub revisions: BTreeMap<ClusterName, u64>,
}

impl Trust {
    /// The roots as one PEM text.
    pub fn bundle(&self) -> String {
        self.roots.concat()
    }

    /// The revision that the hub expects of a cluster.
    pub fn revision(&self, cluster: &ClusterName) -> u64 {
        self.revisions.get(cluster).copied().unwrap_or(1)
    }
}

/// From when to when a certificate is valid.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Validity {
    /// First second.
    pub not_before: Time,
    /// Last second.
    pub not_after: Time,
}

impl Validity {
    /// From [`BACKDATE`] before `now` for `lifetime` seconds, but not beyond the issuer.
    fn at(now: Time, lifetime: i64, issuer: Option<Validity>) -> Self {
        let wanted = now.saturating_add(lifetime);
        Self {
            not_before: now - BACKDATE,
            not_after: issuer.map_or(wanted, |issuer| wanted.min(issuer.not_after)),
        }
    }

    /// When half its life is over, a little earlier for some than for others (`spread` from 0 to 1).
    fn renew_at(&self, spread: f64) -> Time {
        let issued = self.not_before + BACKDATE;
        let half = (self.not_after - issued) / 2;
        // Up to a tenth of the half: a fleet that was set up in one minute isn't renewed in one.
        issued + half - (half as f64 * 0.1 * spread) as i64
    }

    /// From when a new certificate of `lifetime` is to replace it; `None` where a new one would not end later, since
    /// `issuer` ends no later than this one: renewing it would be due again at once, for ever.
    fn due_at(&self, lifetime: i64, issuer: Validity, spread: f64) -> Option<Time> {
        let gains = self.not_after.saturating_sub(lifetime).saturating_add(1);
        (issuer.not_after > self.not_after).then(|| self.renew_at(spread).max(gains))
    }

    /// Whether it is to be replaced now. One that begins in the future was issued while the clock was ahead: nobody else
    /// accepts it, so it is replaced even though the new one may end earlier.
    fn is_due(&self, lifetime: i64, issuer: Validity, spread: f64, now: Time) -> bool {
        self.not_before > now || self.due_at(lifetime, issuer, spread).is_some_and(|due| due <= now)
    }

    /// Whether `now` lies within it.
    fn holds(&self, now: Time) -> bool {
        (self.not_before..self.not_after).contains(&now)
    }
}

/// How long each kind of certificate lives, in seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lifetimes {
    /// The root.
    pub root: i64,
    /// The issuing CA.
    pub issuing: i64,
    /// The bootstrap CA.
    pub bootstrap_ca: i64,
    /// Leaves.
    pub leaf: i64,
    /// Bootstrap credentials.
    pub bootstrap: i64,
}

const DAY: i64 = 86_400;

impl Default for Lifetimes {
    fn default() -> Self {
        Self {
            root: 3650 * DAY,
            issuing: 90 * DAY,
            bootstrap_ca: 3 * 365 * DAY,
            leaf: 7 * DAY,
            bootstrap: 365 * DAY,
        }
    }
}

/// A certificate that signs others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Authority {
    /// Signs the other two.
    Root,
    /// Signs leaves.
    Issuing,
    /// Signs bootstrap credentials.
    Bootstrap,
}

impl Lifetimes {
    fn of(&self, identity: &Identity) -> i64 {
        if matches!(identity, Identity::Bootstrap(..)) { self.bootstrap } else { self.leaf }
    }

    fn below_root(&self) -> [(Authority, i64); 2] {
        [(Authority::Issuing, self.issuing), (Authority::Bootstrap, self.bootstrap_ca)]
    }
}

impl Authority {
    /// Who signs an identity's certificate.
    pub fn of(identity: &Identity) -> Self {
        match identity {
            Identity::Bootstrap(..) => Authority::Bootstrap,
            Identity::Atlas | Identity::Hub | Identity::Cluster(..) => Authority::Issuing,
        }
    }
}

/// What there is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IssuedCertificates {
    /// The current certificate of each authority.
    pub authorities: BTreeMap<Authority, Validity>,
    /// The current certificate of each identity.
    pub identities: BTreeMap<Identity, Validity>,
}

/// A certificate to issue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum IssueRequest {
    /// An authority, signed by the root (the root by itself).
    Authority(Authority, Validity),
    /// An identity, signed by [`Authority::of`] it.
    Identity(Identity, Validity),
}

/// Who should have a certificate: Atlas, the hub, and each cluster a leaf and a bootstrap credential.
pub fn required_identities<'a>(
    clusters: impl IntoIterator<Item = &'a ClusterName>,
    revision: impl Fn(&ClusterName) -> u64,
) -> BTreeSet<Identity> {
    let mut wanted: BTreeSet<Identity> = [Identity::Atlas, Identity::Hub].into();
    for name in clusters {
        let revision = revision(name);
        wanted.insert(Identity::Cluster(name.clone(), revision));
        wanted.insert(Identity::Bootstrap(name.clone(), revision));
    }
    wanted
}

/// What keeps certificates from being issued, or will.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// A root made now would begin in the past, and be refused as ended once the clock is right.
    #[error(
        "the clock says that it is before 2025, so it has not been set: no root certificate is made until it is"
    )]
    ClockNotSet,
    /// The root begins later than now.
    #[error(
        "the root certificate begins in {0}: set the clock, which is behind now or was ahead when the root was made; nothing is \
         issued until then"
    )]
    RootNotYet(Ahead),
    /// The root has ended.
    #[error(
        "the root certificate has ended, and with it every certificate: start anew with an empty --state, and carry new credentials to every cluster"
    )]
    RootEnded,
    /// The root ends soon.
    #[error(
        "the root certificate ends in {0}, and with it every certificate: plan to start anew with an empty --state"
    )]
    RootEnds(Ahead),
}

/// How far ahead something lies, in seconds; in words, by its largest unit, so that the words change seldom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ahead(pub i64);

impl fmt::Display for Ahead {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            seconds if seconds >= DAY => write!(f, "{} days", seconds / DAY),
            seconds if seconds >= 3600 => write!(f, "{} hours", seconds / 3600),
            _ => f.write_str("less than an hour"),
        }
    }
}

/// 2025-01-01: Atlas is younger, so a clock that says less has not been set.
const CLOCK_IS_SET: Time = 1_735_689_600;

/// What people must know about the root, which only they can replace.
pub fn root_problem(issued: &IssuedCertificates, now: Time) -> Option<Problem> {
    let Some(root) = issued.authorities.get(&Authority::Root) else {
        return (now < CLOCK_IS_SET).then_some(Problem::ClockNotSet);
    };
    // A year of the usual ten; a short-lived one, as in a trial, is not in trouble from its first day.
    let notice = (365 * DAY).min((root.not_after - root.not_before) / 10);
    match (root.not_before.saturating_sub(now), root.not_after.saturating_sub(now)) {
        (begins, _) if begins > 0 => Some(Problem::RootNotYet(Ahead(begins))),
        (_, ends) if ends <= 0 => Some(Problem::RootEnded),
        (_, ends) if ends <= notice => Some(Problem::RootEnds(Ahead(ends))),
        _ => None,
    }
}

/// The root there is; where there is none, the one to make. `None` where no root can sign now.
fn root(issued: &IssuedCertificates, lifetimes: &Lifetimes, now: Time) -> Option<Validity> {
    match issued.authorities.get(&Authority::Root) {
        Some(root) => root.holds(now).then_some(*root),
        None => (now >= CLOCK_IS_SET).then(|| Validity::at(now, lifetimes.root, None)),
    }
}

/// What to issue now, issuers first. Nothing, where the root can't sign: [`root_problem`] says why.
pub fn requests_due(
    issued: &IssuedCertificates,
    wanted: &BTreeSet<Identity>,
    lifetimes: &Lifetimes,
    now: Time,
) -> Vec<IssueRequest> {
    let Some(root) = root(issued, lifetimes, now) else { return Vec::new() };
    let mut authorities = issued.authorities.clone();
    let mut requests = Vec::new();
    // The root is made once; replacing it is a rotation, which people start.
    if authorities.insert(Authority::Root, root).is_none() {
        requests.push(IssueRequest::Authority(Authority::Root, root));
    }
    for (authority, lifetime) in lifetimes.below_root() {
        if authorities
            .get(&authority)
            .is_none_or(|validity| validity.is_due(lifetime, root, 0.0, now))
        {
            let validity = Validity::at(now, lifetime, Some(root));
            requests.push(IssueRequest::Authority(authority, validity));
            authorities.insert(authority, validity);
        }
    }
    for identity in wanted {
        let Some(issuer) = authorities.get(&Authority::of(identity)).copied() else { continue };
        let lifetime = lifetimes.of(identity);
        if issued
            .identities
            .get(identity)
            .is_none_or(|validity| validity.is_due(lifetime, issuer, spread(identity), now))
        {
            requests.push(IssueRequest::Identity(
                identity.clone(),
                Validity::at(now, lifetime, Some(issuer)),
            ));
        }
    }
    requests
}

/// When [`requests_due`] will next have something to say, if nothing else changes and the clock is right. `None` where it never
/// will: not after the root's end.
pub fn next_due(
    issued: &IssuedCertificates,
    wanted: &BTreeSet<Identity>,
    lifetimes: &Lifetimes,
) -> Option<Time> {
    let root = *issued.authorities.get(&Authority::Root)?;
    let authorities = lifetimes.below_root().into_iter().filter_map(|(authority, lifetime)| {
        issued.authorities.get(&authority)?.due_at(lifetime, root, 0.0)
    });
    let identities = issued.identities.iter().filter(|(identity, _)| wanted.contains(identity));
    let identities = identities.filter_map(|(identity, validity)| {
        let issuer = *issued.authorities.get(&Authority::of(identity))?;
        validity.due_at(lifetimes.of(identity), issuer, spread(identity))
    });
    authorities.chain(identities).min().filter(|due| *due < root.not_after)
}

/// A number from 0 to 1 that is an identity's own: jitter without randomness.
fn spread(identity: &Identity) -> f64 {
    let digest = Sha256::digest(format!("{identity:?}"));
    f64::from(digest[0]) / 255.0
}

#[cfg(test)]
mod tests;

//! Decides which certificates to issue, and when. It makes no key and signs nothing.
//!
//! ```text
//! root (10 years) ─┬─▶ issuing CA (90 days) ───▶ leaves: /atlas, /hub, /cluster/<name>/<revision> (7 days)
//!                  └─▶ bootstrap CA (3 years) ─▶ /bootstrap/<name>/<revision> (1 year)
//! ```
//!
//! Invariant: no certificate ends later than its issuer. A CA is replaced at half of its lifetime,
//! so its end shortens no certificate's lifetime.
//!
//! Nothing is requested that its issuer can't sign, or that would be due again at once. Near the
//! root's end, certificates end with it; after it, none is issued. [`root_problem`] warns a year
//! ahead.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use sha2::{Digest, Sha256};

use crate::name::{ClusterName, Identity, NodeId, TrustDomain};

/// By how many seconds certificates are backdated, for machines whose clock is behind.
pub const BACKDATE: i64 = 3600;

/// Seconds since 1970.
pub type Time = i64;

/// A private key, PEM. `Debug` doesn't show it.
#[derive(Clone, PartialEq, Eq)]
pub struct PrivateKey(String);

impl PrivateKey {
    /// Wraps a PEM text.
    pub fn new(pem: String) -> Self {
        Self(pem)
    }

    /// The PEM text.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

/// A certificate with its key, as a node receives it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leaf {
    /// PEM: the leaf, then its issuers up to but without the root.
    pub chain: String,
    pub key: PrivateKey,
}

/// The certificates and revisions from which the plan is made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trust {
    /// First part of every SPIFFE ID.
    pub domain: TrustDomain,
    /// The root certificates that every node trusts, PEM. Several while the root is rotated.
    pub roots: Vec<String>,
    /// Each node's own certificate.
    pub leaves: BTreeMap<NodeId, Leaf>,
    /// The revision of each cluster's credential; 1 for a cluster that isn't here.
    pub revisions: BTreeMap<ClusterName, u64>,
}

impl Trust {
    /// The roots as one PEM text.
    pub fn bundle(&self) -> String {
        self.roots.concat()
    }

    /// The revision that the hub's Envoy requires in a cluster's SPIFFE ID.
    pub fn revision(&self, cluster: &ClusterName) -> u64 {
        self.revisions.get(cluster).copied().unwrap_or(1)
    }
}

/// When a certificate is valid.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Validity {
    /// First second.
    pub not_before: Time,
    /// Last second.
    pub not_after: Time,
}

impl Validity {
    /// From [`BACKDATE`] before `now` until `lifetime` seconds after it, or until the issuer's end
    /// if that is earlier.
    fn at(now: Time, lifetime: i64, issuer: Option<Validity>) -> Self {
        let wanted = now.saturating_add(lifetime);
        Self {
            not_before: now - BACKDATE,
            not_after: issuer.map_or(wanted, |issuer| wanted.min(issuer.not_after)),
        }
    }

    /// At half of its lifetime, and up to a tenth of the half earlier by `spread` (from 0 to 1).
    fn renew_at(&self, spread: f64) -> Time {
        let issued = self.not_before + BACKDATE;
        let half = (self.not_after - issued) / 2;
        // A fleet that was set up in one minute isn't renewed within one minute.
        issued + half - (half as f64 * 0.1 * spread) as i64
    }

    /// From when a new certificate of `lifetime` replaces it. `None` if a new one would not end
    /// later, because `issuer` ends no later than this one: it would be due again at once, for
    /// ever.
    fn due_at(&self, lifetime: i64, issuer: Validity, spread: f64) -> Option<Time> {
        let gains = self.not_after.saturating_sub(lifetime).saturating_add(1);
        (issuer.not_after > self.not_after).then(|| self.renew_at(spread).max(gains))
    }

    /// Whether to replace it now. One that begins in the future was issued while the clock was
    /// ahead. No other machine accepts it, so it is replaced even if the new one ends earlier.
    fn is_due(&self, lifetime: i64, issuer: Validity, spread: f64, now: Time) -> bool {
        self.not_before > now || self.due_at(lifetime, issuer, spread).is_some_and(|due| due <= now)
    }

    /// Whether it includes `now`.
    fn contains(&self, now: Time) -> bool {
        (self.not_before..self.not_after).contains(&now)
    }
}

/// The lifetime of each kind of certificate, in seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lifetimes {
    pub root: i64,
    /// The issuing CA.
    pub issuing: i64,
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
    /// The root: signs the other two.
    Root,
    /// The issuing CA: signs leaves.
    Issuing,
    /// The bootstrap CA: signs bootstrap credentials.
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
    /// The authority that signs an identity's certificate.
    pub fn of(identity: &Identity) -> Self {
        match identity {
            Identity::Bootstrap(..) => Authority::Bootstrap,
            Identity::Atlas | Identity::Hub | Identity::Cluster(..) => Authority::Issuing,
        }
    }
}

/// The certificates that have been issued.
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

/// The identities that need a certificate: Atlas, the hub, and for each cluster a leaf and a
/// bootstrap credential.
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

/// Why certificates can't be issued, now or soon.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// A root made now would have ended already once the clock is right.
    #[error(
        "the clock says that it is before 2025, so it has not been set: no root certificate is made until it is"
    )]
    ClockNotSet,
    /// The root begins later than now.
    #[error(
        "the root certificate begins in {0}: set the clock, which is behind now or was ahead when the root was made; nothing is \
         issued until then"
    )]
    RootNotYet(TimeUntil),
    /// The root has ended.
    #[error(
        "the root certificate has ended, and with it every certificate: start anew with an empty --state, and carry new credentials to every cluster"
    )]
    RootEnded,
    /// The root ends soon.
    #[error(
        "the root certificate ends in {0}, and with it every certificate: plan to start anew with an empty --state"
    )]
    RootEnds(TimeUntil),
}

/// Seconds until something happens. As text it has its largest unit only, so that the text of a
/// problem seldom changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimeUntil(pub i64);

impl fmt::Display for TimeUntil {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            seconds if seconds >= DAY => write!(f, "{} days", seconds / DAY),
            seconds if seconds >= 3600 => write!(f, "{} hours", seconds / 3600),
            _ => f.write_str("less than an hour"),
        }
    }
}

/// 2025-01-01. Atlas is newer, so a clock that shows an earlier time has not been set.
const CLOCK_IS_SET: Time = 1_735_689_600;

/// The problem with the root, if there is one. Only the operator can replace the root.
pub fn root_problem(issued: &IssuedCertificates, now: Time) -> Option<Problem> {
    let Some(root) = issued.authorities.get(&Authority::Root) else {
        return (now < CLOCK_IS_SET).then_some(Problem::ClockNotSet);
    };
    // A year for the usual ten. For a root of a shorter lifetime, a tenth of it.
    let notice = (365 * DAY).min((root.not_after - root.not_before) / 10);
    match (root.not_before.saturating_sub(now), root.not_after.saturating_sub(now)) {
        (begins, _) if begins > 0 => Some(Problem::RootNotYet(TimeUntil(begins))),
        (_, ends) if ends <= 0 => Some(Problem::RootEnded),
        (_, ends) if ends <= notice => Some(Problem::RootEnds(TimeUntil(ends))),
        _ => None,
    }
}

/// The root that exists, or else the one to make. `None` if no root can sign now.
fn root(issued: &IssuedCertificates, lifetimes: &Lifetimes, now: Time) -> Option<Validity> {
    match issued.authorities.get(&Authority::Root) {
        Some(root) => root.contains(now).then_some(*root),
        None => (now >= CLOCK_IS_SET).then(|| Validity::at(now, lifetimes.root, None)),
    }
}

/// What to issue now, issuers first. Nothing if the root can't sign, see [`root_problem`].
pub fn requests_due(
    issued: &IssuedCertificates,
    wanted: &BTreeSet<Identity>,
    lifetimes: &Lifetimes,
    now: Time,
) -> Vec<IssueRequest> {
    let Some(root) = root(issued, lifetimes, now) else { return Vec::new() };
    let mut authorities = issued.authorities.clone();
    let mut requests = Vec::new();
    // The root is made once. Only the operator replaces it.
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

/// When [`requests_due`] next returns a request, if nothing else changes and the clock is right.
/// `None` if it never does, since the root ends before.
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

/// A number from 0 to 1 from a hash of the identity: jitter without randomness.
fn spread(identity: &Identity) -> f64 {
    let digest = Sha256::digest(format!("{identity:?}"));
    f64::from(digest[0]) / 255.0
}

#[cfg(test)]
mod tests;

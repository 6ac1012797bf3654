//! What to issue and when. Decides at a given time; never signs, never draws a key: that is the edge's.
//!
//! ```text
//! root (10 years) ─┬─▶ issuing CA (90 days) ───▶ leaves: /atlas, /hub, /cluster/<name>/<revision> (7 days)
//!                  └─▶ bootstrap CA (3 years) ─▶ /bootstrap/<name>/<revision> (1 year)
//! ```
//!
//! Invariant: no certificate outlives its issuer. A CA is replaced at half its life, long before its certificates would
//! be cut short by it.

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
        Self { not_before: now - BACKDATE, not_after: issuer.map_or(wanted, |issuer| wanted.min(issuer.not_after)) }
    }

    /// When it is to be replaced: at half its life, a little earlier for some than for others (`spread` from 0 to 1).
    fn renew_at(&self, spread: f64) -> Time {
        let issued = self.not_before + BACKDATE;
        let half = (self.not_after - issued) / 2;
        // Up to a tenth of the half: a fleet that was set up in one minute isn't renewed in one.
        issued + half - (half as f64 * 0.1 * spread) as i64
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
        Self { root: 3650 * DAY, issuing: 90 * DAY, bootstrap_ca: 3 * 365 * DAY, leaf: 7 * DAY, bootstrap: 365 * DAY }
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
pub struct Inventory {
    /// The current certificate of each authority.
    pub authorities: BTreeMap<Authority, Validity>,
    /// The current certificate of each identity.
    pub identities: BTreeMap<Identity, Validity>,
}

/// A certificate to issue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Order {
    /// An authority, signed by the root (the root by itself).
    Authority(Authority, Validity),
    /// An identity, signed by [`Authority::of`] it.
    Identity(Identity, Validity),
}

/// Who should have a certificate: Atlas, the hub, and each cluster a leaf and a bootstrap credential.
pub fn wanted<'a>(clusters: impl IntoIterator<Item = &'a ClusterName>, revisions: &BTreeMap<ClusterName, u64>) -> BTreeSet<Identity> {
    let mut wanted: BTreeSet<Identity> = [Identity::Atlas, Identity::Hub].into();
    for name in clusters {
        let revision = revisions.get(name).copied().unwrap_or(1);
        wanted.insert(Identity::Cluster(name.clone(), revision));
        wanted.insert(Identity::Bootstrap(name.clone(), revision));
    }
    wanted
}

/// What to issue now, issuers first.
pub fn due(inventory: &Inventory, wanted: &BTreeSet<Identity>, lifetimes: &Lifetimes, now: Time) -> Vec<Order> {
    let mut authorities = inventory.authorities.clone();
    let mut orders = Vec::new();
    // The root is made once; replacing it is a rotation, which people start.
    let root = *authorities.entry(Authority::Root).or_insert_with(|| {
        let validity = Validity::at(now, lifetimes.root, None);
        orders.push(Order::Authority(Authority::Root, validity));
        validity
    });
    for (authority, lifetime) in [(Authority::Issuing, lifetimes.issuing), (Authority::Bootstrap, lifetimes.bootstrap_ca)] {
        if authorities.get(&authority).is_none_or(|validity| validity.renew_at(0.0) <= now) {
            let validity = Validity::at(now, lifetime, Some(root));
            orders.push(Order::Authority(authority, validity));
            authorities.insert(authority, validity);
        }
    }
    for identity in wanted {
        let issuer = authorities.get(&Authority::of(identity)).copied();
        if inventory.identities.get(identity).is_none_or(|validity| validity.renew_at(spread(identity)) <= now) {
            let lifetime = if matches!(identity, Identity::Bootstrap(..)) { lifetimes.bootstrap } else { lifetimes.leaf };
            orders.push(Order::Identity(identity.clone(), Validity::at(now, lifetime, issuer)));
        }
    }
    orders
}

/// When [`due`] will next have something to say, if nothing else changes.
pub fn next_due(inventory: &Inventory, wanted: &BTreeSet<Identity>) -> Option<Time> {
    let authorities = inventory.authorities.iter().filter(|(authority, _)| **authority != Authority::Root);
    let identities = inventory.identities.iter().filter(|(identity, _)| wanted.contains(identity));
    let authorities = authorities.map(|(_, validity)| validity.renew_at(0.0));
    authorities.chain(identities.map(|(identity, validity)| validity.renew_at(spread(identity)))).min()
}

/// A number from 0 to 1 that is an identity's own: jitter without randomness.
fn spread(identity: &Identity) -> f64 {
    let digest = Sha256::digest(format!("{identity:?}"));
    f64::from(digest[0]) / 255.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn apply(inventory: &mut Inventory, orders: &[Order]) -> Result<(), TestCaseError> {
        for order in orders {
            match order {
                Order::Authority(authority, validity) => {
                    if let Some(root) = inventory.authorities.get(&Authority::Root) {
                        prop_assert!(validity.not_after <= root.not_after);
                    }
                    inventory.authorities.insert(*authority, *validity);
                }
                Order::Identity(identity, validity) => {
                    let issuer = inventory.authorities[&Authority::of(identity)];
                    prop_assert!(validity.not_after <= issuer.not_after, "{identity:?} outlives its issuer");
                    inventory.identities.insert(identity.clone(), *validity);
                }
            }
        }
        Ok(())
    }

    proptest! {
        #[test]
        fn no_certificate_outlives_its_issuer(
            lifetimes in (1000..1_000_000i64, 1000..1_000_000i64, 1000..1_000_000i64, 10..1_000_000i64, 10..1_000_000i64),
            steps in prop::collection::vec(0..400_000i64, 1..60),
        ) {
            let (root, issuing, bootstrap_ca, leaf, bootstrap) = lifetimes;
            let lifetimes = Lifetimes { root, issuing, bootstrap_ca, leaf, bootstrap };
            let names: Vec<ClusterName> = ["tokyo", "paris"].map(|name| name.parse().unwrap()).into();
            let wanted = wanted(&names, &BTreeMap::new());
            let mut inventory = Inventory::default();
            let mut now = 1_800_000_000;
            for step in steps {
                let orders = due(&inventory, &wanted, &lifetimes, now);
                apply(&mut inventory, &orders)?;
                now += step;
            }
        }

        #[test]
        fn what_was_just_issued_is_not_due(now in 1_700_000_000..2_000_000_000i64) {
            let wanted = wanted(&["tokyo".parse().unwrap()], &BTreeMap::new());
            let mut inventory = Inventory::default();
            let orders = due(&inventory, &wanted, &Lifetimes::default(), now);
            prop_assert_eq!(orders.len(), 3 + 4);
            apply(&mut inventory, &orders)?;
            prop_assert!(due(&inventory, &wanted, &Lifetimes::default(), now + 1).is_empty());
            let next = next_due(&inventory, &wanted).unwrap();
            prop_assert!(due(&inventory, &wanted, &Lifetimes::default(), next - 1).is_empty());
            prop_assert!(!due(&inventory, &wanted, &Lifetimes::default(), next).is_empty());
        }
    }

    #[test]
    fn leaves_are_renewed_about_half_way() {
        let wanted = wanted(&[], &BTreeMap::new());
        let mut inventory = Inventory::default();
        let orders = due(&inventory, &wanted, &Lifetimes::default(), 0);
        apply(&mut inventory, &orders).unwrap();
        assert!(due(&inventory, &wanted, &Lifetimes::default(), 3 * DAY).is_empty());
        assert_eq!(due(&inventory, &wanted, &Lifetimes::default(), 7 * DAY / 2).len(), 2);
    }

    #[test]
    fn a_cluster_s_new_revision_is_issued_beside_the_old() {
        let name: ClusterName = "tokyo".parse().unwrap();
        let revisions = [(name.clone(), 2)].into();
        assert!(wanted(std::slice::from_ref(&name), &revisions).contains(&Identity::Cluster(name, 2)));
    }

    #[test]
    fn a_key_does_not_show_itself() {
        let leaf = Leaf { chain: "chain".into(), key: PrivateKey::new("SECRET".into()) };
        assert!(!format!("{leaf:?}").contains("SECRET"));
    }
}

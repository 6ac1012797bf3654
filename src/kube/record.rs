//! Atlas's PKI as Secrets, one record each.
//!
//! | Secret | Part | What it holds | Who reads it |
//! | --- | --- | --- | --- |
//! | `atlas-root-ca` | `root` | `root.pem` | the leader, by its name |
//! | `atlas-issuers` | `issuers` | `issuing.pem`, `bootstrap-ca.pem` | the leader, by its name |
//! | `atlas-leaves` | `pki` | `atlas.pem`, `hub.pem`, `roots.pem` (no key) | every replica, by a watch |
//! | `<cluster>.atlas-cluster` | `pki` | `leaf.pem`, `bootstrap.pem`, `issued.json`, `service.json` | every replica, by a watch |
//!
//! A certificate that is broken is issued again, and what stood there is kept under a key that ends in `.broken`. Authorities, the list and
//! the root's certificate can't be made again: a Secret in which one of these is broken is broken as a whole.
//!
//! A cluster's name has no dot, so no two Secrets can have the same name. `service.json` is what its Service said when that was
//! last right. Certificates and key are one text, as in the state directory, so both are always of a piece.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Context;
use atlas_core::kubernetes::lease::fence::KnownVersion;
use atlas_core::kubernetes::lease::{ResourceVersion, Term};
use atlas_core::name::{ClusterName, Identity, TrustDomain};
use atlas_core::pki::{Authority, PrivateKey};
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use serde_json::{Value, json};

use crate::pki::{self, CertificateAndKey, Contents, Ledger};

/// Annotation: in which term a record was written.
pub const TERM: &str = "goatlas.io/term";
/// The end of the name of a cluster's record.
const CLUSTER: &str = ".atlas-cluster";
const LEAF: &str = "leaf.pem";
const BOOTSTRAP: &str = "bootstrap.pem";
const LIST: &str = "issued.json";
const SERVICE: &str = "service.json";

/// Which record.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Record {
    /// The root and its key.
    Root,
    /// The authorities below it.
    Issuers,
    /// Atlas's own leaf and the hub's, and the root without its key.
    Leaves,
    /// What there is of one cluster.
    Cluster(ClusterName),
}

impl Record {
    /// The Secret's name.
    pub fn secret(&self) -> String {
        match self {
            Record::Root => "atlas-root-ca".into(),
            Record::Issuers => "atlas-issuers".into(),
            Record::Leaves => "atlas-leaves".into(),
            Record::Cluster(name) => format!("{name}{CLUSTER}"),
        }
    }

    /// The record of a watched Secret.
    pub fn of_secret(name: &str) -> Option<Self> {
        match name.strip_suffix(CLUSTER) {
            Some(cluster) => Some(Record::Cluster(cluster.parse().ok()?)),
            None => (name == Record::Leaves.secret()).then_some(Record::Leaves),
        }
    }

    fn part(&self) -> &'static str {
        match self {
            Record::Root => "root",
            Record::Issuers => "issuers",
            Record::Leaves | Record::Cluster(_) => "pki",
        }
    }

    /// Of an authority.
    pub fn of_authority(authority: Authority) -> Self {
        if authority == Authority::Root { Record::Root } else { Record::Issuers }
    }

    /// Of an identity.
    pub fn of_identity(identity: &Identity) -> Self {
        match identity {
            Identity::Atlas | Identity::Hub => Record::Leaves,
            Identity::Cluster(name, _) | Identity::Bootstrap(name, _) => {
                Record::Cluster(name.clone())
            }
        }
    }

    /// Whose certificate it has under this key.
    pub fn identity(&self, key: &str, ledger: &Ledger) -> Option<Identity> {
        match (self, key) {
            (Record::Leaves, "atlas.pem") => Some(Identity::Atlas),
            (Record::Leaves, "hub.pem") => Some(Identity::Hub),
            (Record::Cluster(name), LEAF) => {
                Some(Identity::Cluster(name.clone(), ledger.revision(name)))
            }
            (Record::Cluster(name), BOOTSTRAP) => {
                Some(Identity::Bootstrap(name.clone(), ledger.revision(name)))
            }
            _ => None,
        }
    }

    /// Whether it has an identity's certificate under this key, of whatever revision.
    fn may_hold(&self, key: &str, identity: &Identity) -> bool {
        let fits = matches!(
            (key, identity),
            ("atlas.pem", Identity::Atlas)
                | ("hub.pem", Identity::Hub)
                | (LEAF, Identity::Cluster(..))
                | (BOOTSTRAP, Identity::Bootstrap(..))
        );
        fits && Record::of_identity(identity) == *self
    }

    /// Under which key it has an identity's certificate.
    pub fn key(&self, identity: &Identity, ledger: &Ledger) -> Option<&'static str> {
        IDENTITIES
            .iter()
            .map(|(key, _)| *key)
            .find(|key| self.identity(key, ledger).as_ref() == Some(identity))
    }

    /// What it is to hold; `None`: nothing under that key. `service`: what is kept of the cluster's Service.
    pub fn data(
        &self,
        all: &Contents,
        service: Option<&String>,
    ) -> anyhow::Result<BTreeMap<&'static str, Option<String>>> {
        let authority = |authority| all.authorities.get(&authority).map(pki::to_pem);
        let identity = |identity| all.identities.get(&identity).map(pki::to_pem);
        Ok(match self {
            Record::Root => [("root.pem", authority(Authority::Root))].into(),
            Record::Issuers => [
                ("issuing.pem", authority(Authority::Issuing)),
                ("bootstrap-ca.pem", authority(Authority::Bootstrap)),
            ]
            .into(),
            Record::Leaves => [
                ("atlas.pem", identity(Identity::Atlas)),
                ("hub.pem", identity(Identity::Hub)),
                ("roots.pem", all.authorities.get(&Authority::Root).map(|root| root.chain.clone())),
            ]
            .into(),
            Record::Cluster(name) => {
                let revision = all.ledger.revision(name);
                let list = all.ledger.of_cluster(name);
                let bootstrap = all.identities.get(&Identity::Bootstrap(name.clone(), revision));
                // Of a cluster that is gone no key stays, whole or broken.
                let gone = !list.has_credentials(name)
                    && !all.identities.contains_key(&Identity::Cluster(name.clone(), revision));
                let aside = [LEAF, BOOTSTRAP]
                    .into_iter()
                    .filter_map(aside)
                    .map(|key| (key, None))
                    .filter(|_| gone);
                let counts = |signed: &&CertificateAndKey| {
                    list.credentials().any(|one| one.fingerprint == signed.fingerprint())
                };
                [
                    (LEAF, identity(Identity::Cluster(name.clone(), revision))),
                    (BOOTSTRAP, bootstrap.filter(counts).map(pki::to_pem)),
                    (LIST, Some(list.to_json()?)),
                    (SERVICE, service.cloned()),
                ]
                .into_iter()
                .chain(aside)
                .collect()
            }
        })
    }

    /// The object to create, or the merge patch of what is there.
    pub fn manifest(
        &self,
        data: &BTreeMap<&'static str, Option<String>>,
        term: &Term,
        expected: Option<&ResourceVersion>,
    ) -> Value {
        let encoded = |text: &Option<String>| {
            text.as_ref().map(|text| json!(ByteString(text.clone().into_bytes())))
        };
        let mut fields = serde_json::Map::new();
        for (key, text) in data {
            match encoded(text) {
                Some(text) => _ = fields.insert((*key).to_owned(), text),
                // A merge patch removes what is null.
                None if expected.is_some() => _ = fields.insert((*key).to_owned(), Value::Null),
                None => {}
            }
        }
        let mut metadata = json!({
            "name": self.secret(),
            "labels": {atlas_core::object_names::MANAGED_BY.0: atlas_core::object_names::MANAGED_BY.1, atlas_core::object_names::PART: self.part()},
            "annotations": {TERM: term.to_string()},
        });
        if let Some(version) = expected {
            metadata["resourceVersion"] = version.0.clone().into();
        }
        json!({"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "type": "Opaque", "data": fields})
    }
}

/// A record as it was read.
#[derive(Clone, Debug)]
pub struct Stored {
    /// Its `resourceVersion`.
    pub version: ResourceVersion,
    /// Its term; `None` where nobody of ours wrote it.
    pub term: Option<Term>,
    /// What it says, or why that can't be read.
    pub parsed: Result<Parsed, String>,
}

impl PartialEq for Stored {
    fn eq(&self, other: &Self) -> bool {
        self.version == other.version
    }
}

/// What a record says.
#[derive(Clone, Debug, Default)]
pub struct Parsed {
    /// Authorities with their keys; the root without one where it comes from `roots.pem`.
    pub authorities: BTreeMap<Authority, CertificateAndKey>,
    /// Identities.
    pub identities: BTreeMap<Identity, CertificateAndKey>,
    /// What the list says of the cluster.
    pub ledger: Option<Ledger>,
    /// What is kept of the cluster's Service.
    pub service: Option<String>,
    /// Certificates that are broken, by key: what stands there, and why it is none. They can be issued again.
    pub broken: BTreeMap<&'static str, Broken>,
    /// Keys under which an earlier one is kept.
    pub aside: BTreeSet<&'static str>,
}

impl Parsed {
    /// Certificates that were issued below another root, which nobody here trusts, are broken.
    pub fn doubt_foreign(&mut self, record: &Record, root: Option<&CertificateAndKey>) {
        let mut trusted = pki::IssuerVerifier::new(root);
        for (identity, signed) in std::mem::take(&mut self.identities) {
            let key =
                IDENTITIES.iter().map(|(key, _)| *key).find(|key| record.may_hold(key, &identity));
            match (trusted.verify(&signed), key) {
                (Err(why), Some(key)) => {
                    self.broken.insert(
                        key,
                        Broken { text: pki::to_pem(&signed), why: format!("{why:#}") },
                    );
                }
                _ => _ = self.identities.insert(identity, signed),
            }
        }
    }
}

/// What stands where a certificate should.
#[derive(Clone, Debug)]
pub struct Broken {
    /// As text, as far as it is any.
    pub text: String,
    /// What is wrong with it.
    pub why: String,
}

/// The keys of certificates with their private keys, each with the one under which it is kept when it was broken.
const IDENTITIES: [(&str, &str); 4] = [
    ("atlas.pem", "atlas.pem.broken"),
    ("hub.pem", "hub.pem.broken"),
    (LEAF, "leaf.pem.broken"),
    (BOOTSTRAP, "bootstrap.pem.broken"),
];

/// Under which key a broken one is kept.
pub fn aside(key: &str) -> Option<&'static str> {
    IDENTITIES.iter().find(|(identity, _)| *identity == key).map(|(_, aside)| *aside)
}

impl Stored {
    /// Reads a Secret.
    pub fn read(secret: Secret, domain: &TrustDomain) -> Self {
        let annotation = secret.metadata.annotations.as_ref().and_then(|all| all.get(TERM));
        let term = annotation.and_then(|text| text.parse().ok());
        let name = secret.metadata.name.clone().unwrap_or_default();
        let version = ResourceVersion(secret.metadata.resource_version.clone().unwrap_or_default());
        let parsed = parse(secret, domain).map_err(|error| {
            format!(
                "the Secret {name} is broken: {error:#}: restore it from a backup (docs/backup.md)"
            )
        });
        Self { version, term, parsed }
    }

    /// What the fence wants to know.
    pub fn known(&self) -> KnownVersion {
        KnownVersion::Present { version: self.version.clone(), term: self.term.clone() }
    }
}

fn parse(secret: Secret, domain: &TrustDomain) -> anyhow::Result<Parsed> {
    let mut parsed = Parsed::default();
    let record = secret.metadata.name.as_deref().and_then(Record::of_secret);
    for (key, ByteString(bytes)) in secret.data.unwrap_or_default() {
        if let Some((key, _)) = IDENTITIES.iter().find(|(identity, _)| *identity == key) {
            let text = String::from_utf8_lossy(&bytes).into_owned();
            match pki::from_pem(&text) {
                // Of another trust domain it counts for nothing.
                Ok((signed, uri)) => match uri.and_then(|uri| Identity::parse(&uri, domain)) {
                    Some(identity)
                        if record
                            .as_ref()
                            .is_some_and(|record| !record.may_hold(key, &identity)) =>
                    {
                        let why =
                            format!("it holds the certificate of {}", identity.spiffe_id(domain));
                        parsed.broken.insert(key, Broken { text, why });
                    }
                    identity => {
                        parsed.identities.extend(identity.map(|identity| (identity, signed)))
                    }
                },
                Err(error) => {
                    _ = parsed.broken.insert(key, Broken { text, why: format!("{error:#}") })
                }
            }
            continue;
        }
        if let Some((_, aside)) = IDENTITIES.iter().find(|(_, aside)| *aside == key) {
            parsed.aside.insert(aside);
            continue;
        }
        let text = String::from_utf8(bytes).ok().with_context(|| format!("{key} is not text"))?;
        let authority = match key.as_str() {
            "root.pem" => Some(Authority::Root),
            "issuing.pem" => Some(Authority::Issuing),
            "bootstrap-ca.pem" => Some(Authority::Bootstrap),
            _ => None,
        };
        match (key.as_str(), authority) {
            (_, Some(authority)) => {
                let (signed, _) = pki::from_pem(&text).with_context(|| key.clone())?;
                parsed.authorities.insert(authority, signed);
            }
            ("roots.pem", _) => {
                let validity = pki::read_validity(&text).with_context(|| key.clone())?;
                let root = CertificateAndKey {
                    chain: text,
                    key: PrivateKey::new(String::new()),
                    validity,
                };
                parsed.authorities.insert(Authority::Root, root);
            }
            (LIST, _) => {
                parsed.ledger = Some(Ledger::from_json(&text).with_context(|| key.clone())?)
            }
            (SERVICE, _) => parsed.service = Some(text),
            _ => {}
        }
    }
    Ok(parsed)
}

/// Puts what a record says in the place of what is known of it.
pub fn adopt(contents: &mut Contents, record: &Record, parsed: Parsed) {
    match record {
        Record::Root | Record::Issuers => contents.authorities.extend(parsed.authorities),
        Record::Leaves => {
            // The root with its key is worth more.
            for (authority, signed) in parsed.authorities {
                let keyed = contents
                    .authorities
                    .get(&authority)
                    .is_some_and(|known| !known.key.expose().is_empty());
                if !keyed {
                    contents.authorities.insert(authority, signed);
                }
            }
            contents.identities.extend(parsed.identities);
        }
        Record::Cluster(name) => {
            contents.identities.retain(|identity, _| Record::of_identity(identity) != *record);
            contents.identities.extend(
                parsed
                    .identities
                    .into_iter()
                    .filter(|(identity, _)| Record::of_identity(identity) == *record),
            );
            contents.ledger.replace(name, parsed.ledger.unwrap_or_default());
            contents.raise_revisions();
        }
    }
}

#[cfg(test)]
mod tests;

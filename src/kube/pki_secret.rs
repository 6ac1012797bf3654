//! The PKI as Secrets: which Secrets there are, what each holds, and how it is read.
//!
//! | Secret | `goatlas.io/part` | Keys | Read by |
//! | --- | --- | --- | --- |
//! | `atlas-root-ca` | `root` | `root.pem` | the leader, by its name |
//! | `atlas-issuers` | `issuers` | `issuing.pem`, `bootstrap-ca.pem` | the leader, by its name |
//! | `atlas-leaves` | `pki` | `atlas.pem`, `hub.pem`, `roots.pem` (no key) | every replica, by a watch |
//! | `<cluster>.atlas-cluster` | `pki` | `leaf.pem`, `bootstrap.pem`, `issued.json`, `service.json` | every replica, by a watch |
//!
//! A broken certificate is set aside under a key that ends in `.broken`, and issued again.
//! Authorities, the list of credentials (`issued.json`) and `roots.pem` can't be made again: a
//! Secret in which one of these is broken is unreadable as a whole.
//!
//! A cluster's name has no dot, so no two Secrets can have the same name. `service.json` is the
//! cluster's Service as it was when it was last valid. A certificate and its key are one text, as
//! in the state directory, so that no write can separate them.

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

/// Annotation: the term in which a Secret was written.
pub const TERM: &str = "goatlas.io/term";
/// The end of the name of a cluster's Secret.
const CLUSTER_SUFFIX: &str = ".atlas-cluster";
const LEAF: &str = "leaf.pem";
const BOOTSTRAP: &str = "bootstrap.pem";
const LIST: &str = "issued.json";
const SERVICE: &str = "service.json";

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum PkiSecret {
    /// The root and its key.
    Root,
    /// The authorities below it.
    Issuers,
    /// Atlas's own leaf and the hub's, and the root without its key.
    Leaves,
    /// One cluster's certificates and accepted credentials.
    Cluster(ClusterName),
}

impl PkiSecret {
    /// `metadata.name`.
    pub fn name(&self) -> String {
        match self {
            PkiSecret::Root => "atlas-root-ca".into(),
            PkiSecret::Issuers => "atlas-issuers".into(),
            PkiSecret::Leaves => "atlas-leaves".into(),
            PkiSecret::Cluster(name) => format!("{name}{CLUSTER_SUFFIX}"),
        }
    }

    /// The one of this name, if it is one of those that are watched.
    pub fn from_name(name: &str) -> Option<Self> {
        match name.strip_suffix(CLUSTER_SUFFIX) {
            Some(cluster) => Some(PkiSecret::Cluster(cluster.parse().ok()?)),
            None => (name == PkiSecret::Leaves.name()).then_some(PkiSecret::Leaves),
        }
    }

    fn part(&self) -> &'static str {
        match self {
            PkiSecret::Root => "root",
            PkiSecret::Issuers => "issuers",
            PkiSecret::Leaves | PkiSecret::Cluster(_) => "pki",
        }
    }

    /// The one with an authority.
    pub fn of_authority(authority: Authority) -> Self {
        if authority == Authority::Root { PkiSecret::Root } else { PkiSecret::Issuers }
    }

    /// The one with an identity's certificate.
    pub fn of_identity(identity: &Identity) -> Self {
        match identity {
            Identity::Atlas | Identity::Hub => PkiSecret::Leaves,
            Identity::Cluster(name, _) | Identity::Bootstrap(name, _) => {
                PkiSecret::Cluster(name.clone())
            }
        }
    }

    /// Whose certificate belongs under a key.
    pub fn identity(&self, key: &str, ledger: &Ledger) -> Option<Identity> {
        match (self, key) {
            (PkiSecret::Leaves, "atlas.pem") => Some(Identity::Atlas),
            (PkiSecret::Leaves, "hub.pem") => Some(Identity::Hub),
            (PkiSecret::Cluster(name), LEAF) => {
                Some(Identity::Cluster(name.clone(), ledger.revision(name)))
            }
            (PkiSecret::Cluster(name), BOOTSTRAP) => {
                Some(Identity::Bootstrap(name.clone(), ledger.revision(name)))
            }
            _ => None,
        }
    }

    /// Whether an identity's certificate belongs under a key, whatever the identity's revision.
    fn may_hold(&self, key: &str, identity: &Identity) -> bool {
        let fits = matches!(
            (key, identity),
            ("atlas.pem", Identity::Atlas)
                | ("hub.pem", Identity::Hub)
                | (LEAF, Identity::Cluster(..))
                | (BOOTSTRAP, Identity::Bootstrap(..))
        );
        fits && PkiSecret::of_identity(identity) == *self
    }

    /// The key under which an identity's certificate belongs.
    pub fn key(&self, identity: &Identity, ledger: &Ledger) -> Option<&'static str> {
        IDENTITIES
            .iter()
            .map(|(key, _)| *key)
            .find(|key| self.identity(key, ledger).as_ref() == Some(identity))
    }

    /// The data to write, by key; `None`: the key is removed. `service`: the cluster's Service when
    /// it was last valid.
    pub fn data(
        &self,
        all: &Contents,
        service: Option<&String>,
    ) -> anyhow::Result<BTreeMap<&'static str, Option<String>>> {
        let authority = |authority| all.authorities.get(&authority).map(pki::to_pem);
        let identity = |identity| all.identities.get(&identity).map(pki::to_pem);
        Ok(match self {
            PkiSecret::Root => [("root.pem", authority(Authority::Root))].into(),
            PkiSecret::Issuers => [
                ("issuing.pem", authority(Authority::Issuing)),
                ("bootstrap-ca.pem", authority(Authority::Bootstrap)),
            ]
            .into(),
            PkiSecret::Leaves => [
                ("atlas.pem", identity(Identity::Atlas)),
                ("hub.pem", identity(Identity::Hub)),
                ("roots.pem", all.authorities.get(&Authority::Root).map(|root| root.chain.clone())),
            ]
            .into(),
            PkiSecret::Cluster(name) => {
                let revision = all.ledger.revision(name);
                let list = all.ledger.of_cluster(name);
                let bootstrap = all.identities.get(&Identity::Bootstrap(name.clone(), revision));
                // Of a cluster without credentials no private key stays, not even a broken one.
                let gone = !list.has_credentials(name)
                    && !all.identities.contains_key(&Identity::Cluster(name.clone(), revision));
                let set_aside = [LEAF, BOOTSTRAP]
                    .into_iter()
                    .filter_map(set_aside_key)
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
                .chain(set_aside)
                .collect()
            }
        })
    }

    /// The Secret to create, or (`expected`: its version) the merge patch of the Secret that is
    /// there.
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
                // A merge patch removes keys that are null.
                None if expected.is_some() => _ = fields.insert((*key).to_owned(), Value::Null),
                None => {}
            }
        }
        let mut metadata = json!({
            "name": self.name(),
            "labels": {atlas_core::object_names::MANAGED_BY.0: atlas_core::object_names::MANAGED_BY.1, atlas_core::object_names::PART: self.part()},
            "annotations": {TERM: term.to_string()},
        });
        if let Some(version) = expected {
            metadata["resourceVersion"] = version.0.clone().into();
        }
        json!({"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "type": "Opaque", "data": fields})
    }
}

/// A Secret as it was read. Equal `resourceVersion`s mean equal Secrets.
#[derive(Clone, Debug)]
pub struct StoredSecret {
    /// `metadata.resourceVersion`.
    pub version: ResourceVersion,
    /// The annotation [`TERM`]; `None`: no Atlas wrote it.
    pub term: Option<Term>,
    /// Its data, or why they can't be read.
    pub data: Result<SecretData, String>,
}

impl PartialEq for StoredSecret {
    fn eq(&self, other: &Self) -> bool {
        self.version == other.version
    }
}

#[derive(Clone, Debug, Default)]
pub struct SecretData {
    /// Authorities with their keys; the root of `roots.pem` has none.
    pub authorities: BTreeMap<Authority, CertificateAndKey>,
    /// Certificates of identities with their keys.
    pub identities: BTreeMap<Identity, CertificateAndKey>,
    /// The cluster's accepted credentials.
    pub ledger: Option<Ledger>,
    /// The cluster's Service when it was last valid, as JSON.
    pub service: Option<String>,
    /// Broken certificates by key. They can be issued again.
    pub broken: BTreeMap<&'static str, BrokenCertificate>,
    /// Keys under which broken certificates were set aside.
    pub set_aside: BTreeSet<&'static str>,
}

impl SecretData {
    /// Moves certificates that were issued below another root to the broken ones: nothing here
    /// trusts them.
    pub fn reject_other_roots(&mut self, secret: &PkiSecret, root: Option<&CertificateAndKey>) {
        let mut trusted = pki::IssuerVerifier::new(root);
        for (identity, signed) in std::mem::take(&mut self.identities) {
            let key =
                IDENTITIES.iter().map(|(key, _)| *key).find(|key| secret.may_hold(key, &identity));
            match (trusted.verify(&signed), key) {
                (Err(reason), Some(key)) => {
                    self.broken.insert(
                        key,
                        BrokenCertificate {
                            text: pki::to_pem(&signed),
                            reason: format!("{reason:#}"),
                        },
                    );
                }
                _ => _ = self.identities.insert(identity, signed),
            }
        }
    }
}

/// A text where a certificate should be.
#[derive(Clone, Debug)]
pub struct BrokenCertificate {
    /// The text; bytes that aren't UTF-8 are replaced.
    pub text: String,
    /// What is wrong with it.
    pub reason: String,
}

/// The keys of certificates with their private keys; each with the key under which a broken one is
/// set aside.
const IDENTITIES: [(&str, &str); 4] = [
    ("atlas.pem", "atlas.pem.broken"),
    ("hub.pem", "hub.pem.broken"),
    (LEAF, "leaf.pem.broken"),
    (BOOTSTRAP, "bootstrap.pem.broken"),
];

/// The key under which a broken certificate is set aside.
pub fn set_aside_key(key: &str) -> Option<&'static str> {
    IDENTITIES.iter().find(|(identity, _)| *identity == key).map(|(_, aside)| *aside)
}

impl StoredSecret {
    /// Reads a Secret.
    pub fn read(secret: Secret, domain: &TrustDomain) -> Self {
        let annotation = secret.metadata.annotations.as_ref().and_then(|all| all.get(TERM));
        let term = annotation.and_then(|text| text.parse().ok());
        let name = secret.metadata.name.clone().unwrap_or_default();
        let version = ResourceVersion(secret.metadata.resource_version.clone().unwrap_or_default());
        let data = parse(secret, domain).map_err(|error| {
            format!(
                "the Secret {name} is broken: {error:#}: restore it from a backup (docs/backup.md)"
            )
        });
        Self { version, term, data }
    }

    /// The version for the fence.
    pub fn known_version(&self) -> KnownVersion {
        KnownVersion::Present { version: self.version.clone(), term: self.term.clone() }
    }
}

fn parse(object: Secret, domain: &TrustDomain) -> anyhow::Result<SecretData> {
    let mut data = SecretData::default();
    let secret = object.metadata.name.as_deref().and_then(PkiSecret::from_name);
    for (key, ByteString(bytes)) in object.data.unwrap_or_default() {
        if let Some((key, _)) = IDENTITIES.iter().find(|(identity, _)| *identity == key) {
            parse_identity(&mut data, secret.as_ref(), key, &bytes, domain);
            continue;
        }
        if let Some((_, set_aside)) = IDENTITIES.iter().find(|(_, set_aside)| *set_aside == key) {
            data.set_aside.insert(set_aside);
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
                let (certificate, _) = pki::from_pem(&text).with_context(|| key.clone())?;
                data.authorities.insert(authority, certificate);
            }
            ("roots.pem", _) => {
                let validity = pki::read_validity(&text).with_context(|| key.clone())?;
                let no_key = PrivateKey::new(String::new());
                let root = CertificateAndKey { chain: text, key: no_key, validity };
                data.authorities.insert(Authority::Root, root);
            }
            (LIST, _) => {
                data.ledger = Some(Ledger::from_json(&text).with_context(|| key.clone())?);
            }
            (SERVICE, _) => data.service = Some(text),
            _ => {}
        }
    }
    Ok(data)
}

fn parse_identity(
    data: &mut SecretData,
    secret: Option<&PkiSecret>,
    key: &'static str,
    bytes: &[u8],
    domain: &TrustDomain,
) {
    let text = String::from_utf8_lossy(bytes).into_owned();
    let (certificate, uri) = match pki::from_pem(&text) {
        Ok(parsed) => parsed,
        Err(error) => {
            let reason = format!("{error:#}");
            data.broken.insert(key, BrokenCertificate { text, reason });
            return;
        }
    };
    // A certificate of another trust domain is ignored.
    let Some(identity) = uri.and_then(|uri| Identity::parse(&uri, domain)) else { return };
    if secret.is_some_and(|secret| !secret.may_hold(key, &identity)) {
        let reason = format!("it holds the certificate of {}", identity.spiffe_id(domain));
        data.broken.insert(key, BrokenCertificate { text, reason });
        return;
    }
    data.identities.insert(identity, certificate);
}

/// Replaces what `contents` has of a Secret by its data.
pub fn adopt(contents: &mut Contents, secret: &PkiSecret, data: SecretData) {
    match secret {
        PkiSecret::Root | PkiSecret::Issuers => contents.authorities.extend(data.authorities),
        PkiSecret::Leaves => {
            for (authority, certificate) in data.authorities {
                // `roots.pem` doesn't replace the root that has its key.
                let has_key = contents
                    .authorities
                    .get(&authority)
                    .is_some_and(|known| !known.key.expose().is_empty());
                if !has_key {
                    contents.authorities.insert(authority, certificate);
                }
            }
            contents.identities.extend(data.identities);
        }
        PkiSecret::Cluster(name) => {
            forget_identities(contents, name);
            contents.ledger.replace(name, data.ledger.unwrap_or_default());
            for (identity, certificate) in data.identities {
                if PkiSecret::of_identity(&identity) != *secret {
                    continue;
                }
                // The list of credentials may come from an older backup than the certificate.
                if let Identity::Cluster(_, revision) | Identity::Bootstrap(_, revision) = identity
                {
                    contents.ledger.raise_revision(name, revision);
                }
                contents.identities.insert(identity, certificate);
            }
        }
    }
}

/// Removes the certificates of one cluster, of all revisions.
fn forget_identities(contents: &mut Contents, cluster: &ClusterName) {
    for identity in [Identity::Cluster, Identity::Bootstrap] {
        let all = identity(cluster.clone(), 0)..=identity(cluster.clone(), u64::MAX);
        let known: Vec<Identity> =
            contents.identities.range(all).map(|(identity, _)| identity.clone()).collect();
        for identity in known {
            contents.identities.remove(&identity);
        }
    }
}

#[cfg(test)]
mod tests;

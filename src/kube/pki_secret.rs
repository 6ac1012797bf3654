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

use std::collections::BTreeMap;

use atlas_core::kubernetes::lease::{ResourceVersion, Term};
use atlas_core::name::{ClusterName, Identity};
use atlas_core::pki::Authority;
use k8s_openapi::ByteString;
use serde_json::{Value, json};

use crate::pki::{self, CertificateAndKey, Contents, Ledger};

mod stored_secret;

pub use stored_secret::{SecretData, StoredSecret};

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
                // A cluster without credentials keeps no private key, not even a broken one.
                let gone = !list.has_credentials(name)
                    && !all.identities.contains_key(&Identity::Cluster(name.clone(), revision));
                let set_aside = [LEAF, BOOTSTRAP]
                    .into_iter()
                    .filter_map(set_aside_key)
                    .map(|key| (key, None))
                    .filter(|_| gone);
                let is_accepted = |signed: &&CertificateAndKey| {
                    list.credentials().any(|one| one.fingerprint == signed.fingerprint())
                };
                [
                    (LEAF, identity(Identity::Cluster(name.clone(), revision))),
                    (BOOTSTRAP, bootstrap.filter(is_accepted).map(pki::to_pem)),
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

/// Replaces what `contents` has of a Secret by its data.
pub fn adopt(contents: &mut Contents, secret: &PkiSecret, data: SecretData) {
    match secret {
        PkiSecret::Root | PkiSecret::Issuers => contents.authorities.extend(data.authorities),
        PkiSecret::Leaves => {
            contents.identities.remove(&Identity::Atlas);
            contents.identities.remove(&Identity::Hub);
            contents.identities.extend(data.identities);
            // The root with its key is in another Secret, which only a leader reads.
            let root = contents.authorities.get(&Authority::Root);
            if root.is_none_or(|root| root.key.expose().is_empty()) {
                contents.authorities.remove(&Authority::Root);
                contents.authorities.extend(data.authorities);
            }
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

//! A Secret as the API server has it, read.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Context;
use atlas_core::kubernetes::lease::fence::KnownVersion;
use atlas_core::kubernetes::lease::{ResourceVersion, Term};
use atlas_core::name::{Identity, TrustDomain};
use atlas_core::pki::{Authority, PrivateKey};
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;

use super::{IDENTITIES, LIST, PkiSecret, SERVICE, TERM};
use crate::pki::{self, CertificateAndKey, Ledger};

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

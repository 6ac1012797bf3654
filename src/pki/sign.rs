//! Makes keys (P-256, one for each certificate) and signs certificates.

use anyhow::Context;
use atlas_core::name::Identity;
use atlas_core::pki::{Authority, PrivateKey, Validity};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use sha2::{Digest, Sha256};
use time::OffsetDateTime;

/// A certificate with its key.
#[derive(Clone, Debug)]
pub struct CertificateAndKey {
    /// PEM: the certificate, then its issuers up to but without the root (the root alone stands for
    /// itself).
    pub chain: String,
    pub key: PrivateKey,
    /// When it is valid.
    pub validity: Validity,
}

impl CertificateAndKey {
    /// SHA-256 of the certificate, hexadecimal.
    pub fn fingerprint(&self) -> String {
        CertificateDer::from_pem_slice(self.chain.as_bytes())
            .map(|der| fingerprint(&der))
            .unwrap_or_default()
    }
}

/// SHA-256 of a certificate, hexadecimal.
pub fn fingerprint(certificate: &CertificateDer<'_>) -> String {
    Sha256::digest(certificate).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Makes an authority. The root signs itself and the others.
pub(super) fn authority(
    authority: Authority,
    validity: Validity,
    root: Option<&CertificateAndKey>,
) -> anyhow::Result<CertificateAndKey> {
    let name = match authority {
        Authority::Root => "Atlas root CA",
        Authority::Issuing => "Atlas issuing CA",
        Authority::Bootstrap => "Atlas bootstrap CA",
    };
    let mut params = params(name, validity)?;
    // The path length: the root signs CAs, and these sign leaves only.
    params.is_ca =
        IsCa::Ca(BasicConstraints::Constrained(if authority == Authority::Root { 1 } else { 0 }));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let key = KeyPair::generate()?;
    let certificate = match authority {
        Authority::Root => params.self_signed(&key)?,
        _ => params
            .signed_by(&key, &issuer(root.context("BUG: an authority is due before the root")?)?)?,
    };
    Ok(CertificateAndKey {
        chain: certificate.pem(),
        key: PrivateKey::new(key.serialize_pem()),
        validity,
    })
}

/// Makes the certificate of an identity.
pub(super) fn identity(
    identity: &Identity,
    spiffe_id: &str,
    validity: Validity,
    by: &CertificateAndKey,
) -> anyhow::Result<CertificateAndKey> {
    let mut params = params(&common_name(identity), validity)?;
    params.subject_alt_names = vec![SanType::URI(spiffe_id.try_into()?)];
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = match identity {
        // A bootstrap credential only opens xDS streams.
        Identity::Bootstrap(..) => vec![ExtendedKeyUsagePurpose::ClientAuth],
        _ => vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth],
    };
    let key = KeyPair::generate()?;
    let certificate = params.signed_by(&key, &issuer(by)?)?;
    Ok(CertificateAndKey {
        chain: certificate.pem() + &by.chain,
        key: PrivateKey::new(key.serialize_pem()),
        validity,
    })
}

/// For people; the identity is the URI SAN. At most 64 characters (X.520).
fn common_name(identity: &Identity) -> String {
    match identity {
        Identity::Atlas => "atlas".into(),
        Identity::Hub => "hub".into(),
        Identity::Cluster(name, revision) => format!("{name} {revision}"),
        Identity::Bootstrap(name, revision) => format!("{name} {revision} boot"),
    }
}

fn params(name: &str, validity: Validity) -> anyhow::Result<CertificateParams> {
    let mut params = CertificateParams::new(Vec::new())?;
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.not_before = OffsetDateTime::from_unix_timestamp(validity.not_before)?;
    params.not_after = OffsetDateTime::from_unix_timestamp(validity.not_after)?;
    params.use_authority_key_identifier_extension = true;
    Ok(params)
}

fn issuer(signed: &CertificateAndKey) -> anyhow::Result<Issuer<'static, KeyPair>> {
    let key = KeyPair::from_pem(signed.key.expose()).context("cannot read an authority's key")?;
    Issuer::from_ca_cert_pem(&signed.chain, key).context("cannot read an authority's certificate")
}

//! A certificate and its key in one PEM text, certificates first, so that the two are always
//! written together.

use std::collections::HashMap;

use anyhow::{Context, bail, ensure};
use atlas_core::pki::{PrivateKey, Validity};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use x509_parser::prelude::{FromDer, GeneralName, ParsedExtension, X509Certificate};

use super::sign::CertificateAndKey;

/// The text that [`from_pem`] reads.
pub fn to_pem(signed: &CertificateAndKey) -> String {
    format!("{}{}", signed.chain, signed.key.expose())
}

/// Reads certificates and key from a text. Also returns the first URI SAN of the first certificate.
///
/// # Errors
/// The certificate or the key can't be read, or they don't belong together.
pub fn from_pem(text: &str) -> anyhow::Result<(CertificateAndKey, Option<String>)> {
    let start =
        text.find("-----BEGIN PRIVATE KEY-----").context("there is no private key in it")?;
    let (chain, key) = text.split_at(start);
    let key_der = PrivateKeyDer::from_pem_slice(key.as_bytes())
        .map_err(|error| anyhow::anyhow!("its private key can't be read: {error}"))?;
    let der = CertificateDer::from_pem_slice(chain.as_bytes())
        .map_err(|error| anyhow::anyhow!("its certificate can't be read: {error}"))?;
    let (validity, uris) = read_certificate(&der)?;
    ensure_pair(&der, &key_der)?;
    let signed = CertificateAndKey {
        chain: chain.to_owned(),
        key: PrivateKey::new(key.to_owned()),
        validity,
    };
    Ok((signed, uris.into_iter().next()))
}

/// Checks that a key belongs to a certificate. A private key as Atlas writes it has its public key
/// in it (PKCS #8 around RFC 5915's `publicKey`), so it is searched for; to compute it would take
/// seconds for thousands of certificates.
fn ensure_pair(certificate: &CertificateDer<'_>, key: &PrivateKeyDer<'_>) -> anyhow::Result<()> {
    let (_, certificate) = X509Certificate::from_der(certificate)
        .map_err(|error| anyhow::anyhow!("not a certificate: {error}"))?;
    let public: &[u8] = &certificate.public_key().subject_public_key.data;
    ensure!(
        !public.is_empty() && key.secret_der().windows(public.len()).any(|part| part == public),
        "its private key belongs to another certificate"
    );
    Ok(())
}

/// Checks that certificates were issued below a root. Each issuer's signature is verified once.
pub struct IssuerVerifier<'a> {
    root: Option<&'a CertificateAndKey>,
    issuers: HashMap<Vec<u8>, Result<(), String>>,
}

impl<'a> IssuerVerifier<'a> {
    /// Checks against this root. `None`: no root is known, and every certificate passes.
    pub fn new(root: Option<&'a CertificateAndKey>) -> Self {
        Self { root, issuers: HashMap::new() }
    }

    /// Checks that a certificate was issued by an authority below the root, the only one that nodes
    /// trust.
    ///
    /// # Errors
    /// It was issued below another root, or its chain is incomplete.
    pub fn verify(&mut self, signed: &CertificateAndKey) -> anyhow::Result<()> {
        let Some(root) = self.root else { return Ok(()) };
        let chain: Result<Vec<_>, _> =
            CertificateDer::pem_slice_iter(signed.chain.as_bytes()).collect();
        let chain =
            chain.map_err(|error| anyhow::anyhow!("its certificates can't be read: {error}"))?;
        let [leaf, issuer, ..] = chain.as_slice() else {
            bail!("its issuer's certificate is missing")
        };
        // By the key identifiers: to verify each leaf's signature would double the time of a start.
        let ids = (key_ids(leaf)?.issuer, key_ids(issuer)?.own);
        ensure!(
            !matches!(ids, (Some(of), Some(own)) if of != own),
            "it wasn't issued by the authority whose certificate comes with it"
        );
        let below = self
            .issuers
            .entry(issuer.to_vec())
            .or_insert_with(|| is_below(issuer, root).map_err(|error| format!("{error:#}")));
        below.clone().map_err(|error| anyhow::anyhow!(error))
    }
}

/// Checks that a root signed an authority.
///
/// # Errors
/// It was signed by another one.
pub(super) fn ensure_below(
    authority: &CertificateAndKey,
    root: &CertificateAndKey,
) -> anyhow::Result<()> {
    let der = CertificateDer::from_pem_slice(authority.chain.as_bytes());
    is_below(&der.map_err(|error| anyhow::anyhow!("its certificate can't be read: {error}"))?, root)
}

fn is_below(issuer: &CertificateDer<'_>, root: &CertificateAndKey) -> anyhow::Result<()> {
    let root = CertificateDer::from_pem_slice(root.chain.as_bytes())
        .map_err(|error| anyhow::anyhow!("the root can't be read: {error}"))?;
    let (_, issuer) = X509Certificate::from_der(issuer)
        .map_err(|error| anyhow::anyhow!("its issuer is no certificate: {error}"))?;
    let (_, root) = X509Certificate::from_der(&root)
        .map_err(|error| anyhow::anyhow!("the root is no certificate: {error}"))?;
    issuer
        .verify_signature(Some(root.public_key()))
        .map_err(|_| anyhow::anyhow!("it was issued below another root"))
}

/// The subject and authority key identifiers of a certificate.
#[derive(Default)]
struct KeyIds {
    own: Option<Vec<u8>>,
    issuer: Option<Vec<u8>>,
}

fn key_ids(der: &CertificateDer<'_>) -> anyhow::Result<KeyIds> {
    let (_, certificate) = X509Certificate::from_der(der)
        .map_err(|error| anyhow::anyhow!("not a certificate: {error}"))?;
    let mut ids = KeyIds::default();
    for extension in certificate.iter_extensions().map(|extension| extension.parsed_extension()) {
        match extension {
            ParsedExtension::SubjectKeyIdentifier(id) => ids.own = Some(id.0.to_vec()),
            ParsedExtension::AuthorityKeyIdentifier(id) => {
                ids.issuer = id.key_identifier.as_ref().map(|id| id.0.to_vec())
            }
            _ => {}
        }
    }
    Ok(ids)
}

/// The validity of the first certificate in a text.
///
/// # Errors
/// There is no certificate, or it is broken.
pub fn read_validity(text: &str) -> anyhow::Result<Validity> {
    let der = CertificateDer::from_pem_slice(text.as_bytes())
        .map_err(|error| anyhow::anyhow!("its certificate can't be read: {error}"))?;
    Ok(read_certificate(&der)?.0)
}

/// The validity and URI SANs of a certificate.
///
/// # Errors
/// The bytes are no certificate.
pub fn read_certificate(der: &CertificateDer<'_>) -> anyhow::Result<(Validity, Vec<String>)> {
    let (_, certificate) = X509Certificate::from_der(der)
        .map_err(|error| anyhow::anyhow!("not a certificate: {error}"))?;
    let validity = Validity {
        not_before: certificate.validity().not_before.timestamp(),
        not_after: certificate.validity().not_after.timestamp(),
    };
    let names = certificate
        .subject_alternative_name()
        .map_err(|error| anyhow::anyhow!("its names can't be read: {error}"))?;
    let names = names.map(|names| names.value.general_names.as_slice()).unwrap_or_default();
    let uri = |name: &GeneralName<'_>| {
        if let GeneralName::URI(uri) = name { Some((*uri).to_owned()) } else { None }
    };
    Ok((validity, names.iter().filter_map(uri).collect()))
}

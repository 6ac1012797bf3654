//! A certificate and its key as one text: certificates first, then the key, so both are always of a piece.

use anyhow::Context;
use atlas_core::pki::{PrivateKey, Validity};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use super::sign::Signed;

/// What [`parse`] reads.
pub fn text(signed: &Signed) -> String {
    format!("{}{}", signed.chain, signed.key.expose())
}

/// Splits a text into certificates and key; the URI in the first certificate comes with it.
///
/// # Errors
/// What of it can't be read.
pub fn parse(text: &str) -> anyhow::Result<(Signed, Option<String>)> {
    let start = text.find("-----BEGIN PRIVATE KEY-----").context("there is no private key in it")?;
    let (chain, key) = text.split_at(start);
    rustls_pki_types::PrivateKeyDer::from_pem_slice(key.as_bytes())
        .map_err(|error| anyhow::anyhow!("its private key can't be read: {error}"))?;
    let der =
        CertificateDer::from_pem_slice(chain.as_bytes()).map_err(|error| anyhow::anyhow!("its certificate can't be read: {error}"))?;
    let (validity, uris) = read(&der)?;
    let signed = Signed { chain: chain.to_owned(), key: PrivateKey::new(key.to_owned()), validity };
    Ok((signed, uris.into_iter().next()))
}

/// Validity of the first certificate in a text.
///
/// # Errors
/// There is none, or it is broken.
pub fn validity(text: &str) -> anyhow::Result<Validity> {
    let der = CertificateDer::from_pem_slice(text.as_bytes()).map_err(|error| anyhow::anyhow!("its certificate can't be read: {error}"))?;
    Ok(read(&der)?.0)
}

/// Validity and URI SANs of a certificate.
///
/// # Errors
/// It is none.
pub fn read(der: &CertificateDer<'_>) -> anyhow::Result<(Validity, Vec<String>)> {
    let (_, certificate) = X509Certificate::from_der(der).map_err(|error| anyhow::anyhow!("not a certificate: {error}"))?;
    let validity =
        Validity { not_before: certificate.validity().not_before.timestamp(), not_after: certificate.validity().not_after.timestamp() };
    let names = certificate.subject_alternative_name().map_err(|error| anyhow::anyhow!("its names can't be read: {error}"))?;
    let names = names.map(|names| names.value.general_names.as_slice()).unwrap_or_default();
    let uri = |name: &GeneralName<'_>| if let GeneralName::URI(uri) = name { Some((*uri).to_owned()) } else { None };
    Ok((validity, names.iter().filter_map(uri).collect()))
}

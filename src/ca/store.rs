//! Certificates and keys as files: one PEM file each, certificates first, then the key, so both are always of a piece.

use std::collections::BTreeMap;

use anyhow::{Context, bail};
use atlas_core::name::{ClusterName, Identity, TrustDomain};
use atlas_core::pki::{Authority, PrivateKey, Validity};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use super::sign::Signed;
use crate::state_dir::StateDir;

fn authority_file(authority: Authority) -> &'static str {
    match authority {
        Authority::Root => "pki/root.pem",
        Authority::Issuing => "pki/issuing.pem",
        Authority::Bootstrap => "pki/bootstrap-ca.pem",
    }
}

/// One file per node and purpose; a new revision takes the old one's place.
fn identity_file(identity: &Identity) -> String {
    match identity {
        Identity::Atlas => "pki/atlas.pem".into(),
        Identity::Hub => "pki/hub.pem".into(),
        Identity::Cluster(name, _) => format!("pki/cluster.{name}.pem"),
        Identity::Bootstrap(name, _) => format!("pki/bootstrap.{name}.pem"),
    }
}

pub(super) fn save_authority(state: &StateDir, authority: Authority, signed: &Signed) -> anyhow::Result<()> {
    save(state, authority_file(authority), signed)
}

pub(super) fn save_identity(state: &StateDir, identity: &Identity, signed: &Signed) -> anyhow::Result<()> {
    save(state, &identity_file(identity), signed)
}

/// Removes every file of a cluster. Its node directory goes first: as long as that can't be removed, the others tell that
/// there is something left to do.
pub(super) fn forget(state: &StateDir, cluster: &ClusterName) -> anyhow::Result<()> {
    state.remove(&format!("nodes/{cluster}"))?;
    state.remove(&identity_file(&Identity::Cluster(cluster.clone(), 0)))?;
    remove_bootstrap(state, cluster)
}

pub(super) fn remove_bootstrap(state: &StateDir, cluster: &ClusterName) -> anyhow::Result<()> {
    state.remove(&identity_file(&Identity::Bootstrap(cluster.clone(), 0)))
}

/// Whether any bootstrap credential was ever issued here, for whichever trust domain.
pub(super) fn any_bootstrap(state: &StateDir) -> anyhow::Result<bool> {
    Ok(state.list("pki")?.iter().any(|file| file.starts_with("bootstrap.") && file.ends_with(".pem")))
}

fn save(state: &StateDir, file: &str, signed: &Signed) -> anyhow::Result<()> {
    state.write(file, &format!("{}{}", signed.chain, signed.key.expose())).map(drop)
}

pub(super) fn authorities(state: &StateDir) -> anyhow::Result<BTreeMap<Authority, Signed>> {
    let mut authorities = BTreeMap::new();
    for authority in [Authority::Root, Authority::Issuing, Authority::Bootstrap] {
        let file = authority_file(authority);
        if let Some(text) = state.read(file)? {
            let (signed, _) = parse(&text).with_context(|| broken(state, file))?;
            authorities.insert(authority, signed);
        }
    }
    if !authorities.is_empty() && !authorities.contains_key(&Authority::Root) {
        bail!(
            "{} is missing, although certificates signed by it are there: restore it from a backup, or start with an empty --state",
            state.path("pki/root.pem").display()
        );
    }
    Ok(authorities)
}

/// Identities of another trust domain are left where they are and count for nothing.
pub(super) fn identities(state: &StateDir, domain: &TrustDomain) -> anyhow::Result<BTreeMap<Identity, Signed>> {
    let mut identities = BTreeMap::new();
    let authorities = ["root.pem", "issuing.pem", "bootstrap-ca.pem"];
    for file in state.list("pki")?.iter().filter(|file| file.ends_with(".pem") && !authorities.contains(&file.as_str())) {
        let file = format!("pki/{file}");
        let Some(text) = state.read(&file)? else { continue };
        let (signed, uri) = parse(&text).with_context(|| broken(state, &file))?;
        if let Some(identity) = uri.and_then(|uri| Identity::parse(&uri, domain)) {
            identities.insert(identity, signed);
        }
    }
    Ok(identities)
}

fn broken(state: &StateDir, file: &str) -> String {
    format!("{} is broken: restore it from a backup", state.path(file).display())
}

/// Splits a file into certificates and key; the URI in the first certificate comes with it.
fn parse(text: &str) -> anyhow::Result<(Signed, Option<String>)> {
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

/// Validity and URI SANs of a certificate.
pub fn read(der: &CertificateDer<'_>) -> anyhow::Result<(Validity, Vec<String>)> {
    let (_, certificate) = X509Certificate::from_der(der).map_err(|error| anyhow::anyhow!("not a certificate: {error}"))?;
    let validity =
        Validity { not_before: certificate.validity().not_before.timestamp(), not_after: certificate.validity().not_after.timestamp() };
    let names = certificate.subject_alternative_name().map_err(|error| anyhow::anyhow!("its names can't be read: {error}"))?;
    let names = names.map(|names| names.value.general_names.as_slice()).unwrap_or_default();
    let uri = |name: &GeneralName<'_>| if let GeneralName::URI(uri) = name { Some((*uri).to_owned()) } else { None };
    Ok((validity, names.iter().filter_map(uri).collect()))
}

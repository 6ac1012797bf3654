//! Which clients may open streams. Decided within the TLS handshake, so a client that may not hears
//! a TLS alert and nothing else of Atlas; and decided again for each stream.

use std::collections::HashMap;
use std::fmt;
use std::net::SocketAddr;
use std::sync::{Arc, RwLock};

use anyhow::Context as _;
use atlas_core::name::{ClusterName, Identity, NodeId, TrustDomain};
use atlas_core::pki::{Leaf, Time};
use rustls::client::danger::HandshakeSignatureValid;
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, RootCertStore, ServerConfig,
    SignatureScheme,
};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use tokio::sync::watch;

use super::client::AuthenticatedClient;
use crate::pki;
use crate::process::lock::{read, write};

/// Holds the server certificate and the accepted client fingerprints. Both change while it runs.
pub struct ClientAuthorizer {
    rules: Rules,
    tls: RwLock<Option<InstalledCertificate>>,
    /// Notified when a fingerprint is no longer accepted.
    revoked: watch::Sender<()>,
}

/// What a client certificate is checked against, beside its chain.
#[derive(Clone)]
struct Rules {
    trust_domain: TrustDomain,
    allowed: Arc<RwLock<AllowedFingerprints>>,
}

/// The fingerprints of the accepted bootstrap credentials, by cluster.
type AllowedFingerprints = HashMap<ClusterName, Vec<String>>;

struct InstalledCertificate {
    /// The PEM of Atlas's chain and of the roots: tells whether others are to be installed.
    pem: String,
    config: Arc<ServerConfig>,
}

impl ClientAuthorizer {
    /// Refuses every client until [`ClientAuthorizer::install_certificate`].
    pub fn new(trust_domain: TrustDomain) -> Self {
        Self {
            rules: Rules { trust_domain, allowed: Arc::default() },
            tls: RwLock::default(),
            revoked: watch::Sender::new(()),
        }
    }

    /// Installs the server certificate, and the roots that client certificates must chain to.
    ///
    /// # Errors
    /// The certificate, its key or a root can't be read, or certificate and key don't match.
    pub fn install_certificate(&self, own: &Leaf, roots: &[String]) -> anyhow::Result<()> {
        let pem = format!("{}\n{}", own.chain, roots.concat());
        if read(&self.tls).as_ref().is_some_and(|installed| installed.pem == pem) {
            return Ok(());
        }
        let config = Arc::new(server_config(own, roots, self.rules.clone())?);
        *write(&self.tls) = Some(InstalledCertificate { pem, config });
        Ok(())
    }

    /// Replaces the accepted fingerprints of one cluster. Connections of those that are no longer
    /// accepted are closed.
    pub fn allow(&self, cluster: &ClusterName, fingerprints: Vec<String>) {
        let mut allowed = write(&self.rules.allowed);
        let is_lost = |fingerprint: &String| !fingerprints.contains(fingerprint);
        let revokes = allowed.get(cluster).is_some_and(|before| before.iter().any(is_lost));
        if fingerprints.is_empty() {
            allowed.remove(cluster);
        } else if allowed.get(cluster) != Some(&fingerprints) {
            allowed.insert(cluster.clone(), fingerprints);
        }
        drop(allowed);
        if revokes {
            self.revoked.send_replace(());
        }
    }

    /// Replaces the accepted fingerprints of all clusters. Connections of those that are no longer
    /// accepted are closed.
    pub fn replace_allowed(&self, allowed: AllowedFingerprints) {
        let revokes = read(&self.rules.allowed).iter().any(|(cluster, before)| {
            before.iter().any(|fingerprint| !contains(&allowed, cluster, fingerprint))
        });
        *write(&self.rules.allowed) = allowed;
        if revokes {
            self.revoked.send_replace(());
        }
    }

    /// Is notified when a fingerprint is no longer accepted.
    pub fn revocations(&self) -> watch::Receiver<()> {
        self.revoked.subscribe()
    }

    /// Whether a client that has been authorized still is. Asked for each stream, since a
    /// connection may outlive the credential that it was opened with.
    pub fn still_allows(&self, client: &AuthenticatedClient, now: Time) -> bool {
        let is_allowed = match &client.node {
            NodeId::Hub => true,
            NodeId::Cluster(name) => {
                contains(&read(&self.rules.allowed), name, &client.fingerprint)
            }
        };
        client.not_after > now && is_allowed
    }

    /// The TLS configuration; `None` before [`ClientAuthorizer::install_certificate`].
    pub fn tls_config(&self) -> Option<Arc<ServerConfig>> {
        read(&self.tls).as_ref().map(|installed| Arc::clone(&installed.config))
    }

    /// Reads from a certificate, whose chain has been verified, who the client is.
    ///
    /// # Errors
    /// The certificate may not open streams. The text says why.
    pub fn authorize(
        &self,
        certificate: &CertificateDer<'_>,
        address: SocketAddr,
    ) -> Result<AuthenticatedClient, String> {
        let (node, spiffe_id, not_after) = self.rules.authorize(certificate)?;
        let fingerprint = pki::fingerprint(certificate);
        Ok(AuthenticatedClient { node, spiffe_id, fingerprint, not_after, address })
    }
}

fn contains(allowed: &AllowedFingerprints, cluster: &ClusterName, fingerprint: &str) -> bool {
    allowed
        .get(cluster)
        .is_some_and(|fingerprints| fingerprints.iter().any(|other| other == fingerprint))
}

impl Rules {
    /// The node, SPIFFE ID and expiry of a certificate; or why it may not open streams.
    fn authorize(
        &self,
        certificate: &CertificateDer<'_>,
    ) -> Result<(NodeId, String, Time), String> {
        let (validity, uris) =
            pki::read_certificate(certificate).map_err(|error| error.to_string())?;
        let [uri] = uris.as_slice() else {
            return Err(format!("{} URI SANs, expected one", uris.len()));
        };
        let identity = Identity::parse(uri, &self.trust_domain).ok_or_else(|| {
            format!("{uri} is no identity of the trust domain {}", self.trust_domain)
        })?;
        let node = match identity {
            Identity::Hub => NodeId::Hub,
            Identity::Bootstrap(name, _) => {
                let fingerprint = pki::fingerprint(certificate);
                if !contains(&read(&self.allowed), &name, &fingerprint) {
                    return Err(format!(
                        "{uri} with the fingerprint {fingerprint} is not in the list of issued \
                         credentials (replaced or removed)"
                    ));
                }
                NodeId::Cluster(name)
            }
            Identity::Atlas | Identity::Cluster(..) => {
                return Err(format!("{uri} opens no xDS streams"));
            }
        };
        Ok((node, uri.clone(), validity.not_after))
    }
}

fn server_config(own: &Leaf, roots: &[String], rules: Rules) -> anyhow::Result<ServerConfig> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut store = RootCertStore::empty();
    for root in roots {
        for certificate in CertificateDer::pem_slice_iter(root.as_bytes()) {
            let certificate =
                certificate.map_err(|error| anyhow::anyhow!("a root can't be read: {error}"))?;
            store.add(certificate)?;
        }
    }
    let chain_verifier =
        WebPkiClientVerifier::builder_with_provider(Arc::new(store), Arc::clone(&provider))
            .build()
            .context("cannot trust the roots")?;
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(own.chain.as_bytes()).collect();
    let chain =
        chain.map_err(|error| anyhow::anyhow!("Atlas's own certificate can't be read: {error}"))?;
    let key = PrivateKeyDer::from_pem_slice(own.key.expose().as_bytes())
        .map_err(|error| anyhow::anyhow!("Atlas's own key can't be read: {error}"))?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_client_cert_verifier(Arc::new(AuthorizingVerifier { chain_verifier, rules }))
        .with_single_cert(chain, key)
        .context("Atlas's own certificate and key don't go together")?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    // Without tickets no session can be resumed: a resumed one would skip the client's certificate.
    config.send_tls13_tickets = 0;
    Ok(config)
}

/// Verifies the chain as rustls does, then applies the [`Rules`].
struct AuthorizingVerifier {
    chain_verifier: Arc<dyn ClientCertVerifier>,
    rules: Rules,
}

impl fmt::Debug for AuthorizingVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AuthorizingVerifier")
    }
}

impl ClientCertVerifier for AuthorizingVerifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.chain_verifier.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        let verified = self.chain_verifier.verify_client_cert(certificate, intermediates, now)?;
        match self.rules.authorize(certificate) {
            Ok(_) => Ok(verified),
            Err(reason) => {
                tracing::warn!(%reason, "refused a client certificate");
                Err(rustls::Error::InvalidCertificate(
                    CertificateError::ApplicationVerificationFailure,
                ))
            }
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.chain_verifier.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.chain_verifier.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chain_verifier.supported_verify_schemes()
    }
}

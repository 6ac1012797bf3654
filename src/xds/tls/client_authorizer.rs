//! Who is let in: decided within the handshake, and again for each stream.

use std::collections::HashMap;
use std::fmt;
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

use super::Peer;
use crate::pki;
use crate::process::lock::{read, write};

/// Which credentials open streams, and with which certificate Atlas answers. Changed while running.
pub struct ClientAuthorizer {
    domain: TrustDomain,
    counting: Arc<RwLock<Counting>>,
    /// With what it was made of: Atlas's own chain, and the roots.
    config: RwLock<Option<(String, Arc<ServerConfig>)>>,
    /// Rings when a credential counts no more.
    revoked: watch::Sender<()>,
}

/// The fingerprints of the bootstrap credentials that count, by cluster.
type Counting = HashMap<ClusterName, Vec<String>>;

impl ClientAuthorizer {
    /// A client_authorizer that lets nobody in until [`ClientAuthorizer::serve_as`].
    pub fn new(domain: TrustDomain) -> Self {
        Self {
            domain,
            counting: Arc::default(),
            config: RwLock::default(),
            revoked: watch::Sender::new(()),
        }
    }

    /// Serves with this certificate, and trusts these roots.
    ///
    /// # Errors
    /// The certificate or a root can't be used.
    pub fn serve_as(&self, own: &Leaf, roots: &[String]) -> anyhow::Result<()> {
        let made_of = format!("{}\n{}", own.chain, roots.concat());
        if read(&self.config).as_ref().is_some_and(|(before, _)| *before == made_of) {
            return Ok(());
        }
        let config = server_config(own, roots, Arc::clone(&self.counting), self.domain.clone())?;
        *write(&self.config) = Some((made_of, Arc::new(config)));
        Ok(())
    }

    /// From now on these bootstrap credentials of a cluster open streams, and none other of it. What others have opened ends.
    pub fn allow(&self, cluster: &ClusterName, fingerprints: Vec<String>) {
        let mut counting = write(&self.counting);
        let lost = |before: &Vec<String>| before.iter().any(|one| !fingerprints.contains(one));
        let revoked = counting.get(cluster).is_some_and(lost);
        if fingerprints.is_empty() {
            counting.remove(cluster);
        } else if counting.get(cluster) != Some(&fingerprints) {
            counting.insert(cluster.clone(), fingerprints);
        }
        drop(counting);
        if revoked {
            self.revoked.send_replace(());
        }
    }

    /// From now on only these open streams, and what others have opened ends.
    pub fn replace_allowed(&self, counting: Counting) {
        let lost = |(cluster, before): (&ClusterName, &Vec<String>)| {
            before.iter().any(|one| !counts(&counting, cluster, one))
        };
        let revoked = read(&self.counting).iter().any(lost);
        *write(&self.counting) = counting;
        if revoked {
            self.revoked.send_replace(());
        }
    }

    /// Rings when a credential counts no more.
    pub fn revocations(&self) -> watch::Receiver<()> {
        self.revoked.subscribe()
    }

    /// Whether somebody who once was let in would still be. To be asked at every stream, since a connection may outlive
    /// what it was let in for.
    pub fn still_admits(&self, peer: &Peer, now: Time) -> bool {
        let counts = match &peer.node {
            NodeId::Hub => true,
            NodeId::Cluster(name) => counts(&read(&self.counting), name, &peer.fingerprint),
        };
        peer.not_after > now && counts
    }

    /// How Atlas answers now; `None` before [`ClientAuthorizer::serve_as`].
    pub fn config(&self) -> Option<Arc<ServerConfig>> {
        read(&self.config).as_ref().map(|(_, config)| Arc::clone(config))
    }

    /// Whom a certificate lets in: its node, its SPIFFE ID, and until when.
    ///
    /// # Errors
    /// Nobody; says why.
    pub fn admit(
        &self,
        certificate: &CertificateDer<'_>,
    ) -> Result<(NodeId, String, Time), String> {
        admit(certificate, &self.domain, &self.counting)
    }
}

fn counts(counting: &Counting, cluster: &ClusterName, fingerprint: &str) -> bool {
    counting
        .get(cluster)
        .is_some_and(|fingerprints| fingerprints.iter().any(|one| one == fingerprint))
}

fn server_config(
    own: &Leaf,
    roots: &[String],
    counting: Arc<RwLock<Counting>>,
    domain: TrustDomain,
) -> anyhow::Result<ServerConfig> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut store = RootCertStore::empty();
    for root in roots {
        for certificate in CertificateDer::pem_slice_iter(root.as_bytes()) {
            store.add(
                certificate.map_err(|error| anyhow::anyhow!("a root can't be read: {error}"))?,
            )?;
        }
    }
    let inner = WebPkiClientVerifier::builder_with_provider(Arc::new(store), Arc::clone(&provider))
        .build()
        .context("cannot trust the roots")?;
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(own.chain.as_bytes()).collect();
    let chain =
        chain.map_err(|error| anyhow::anyhow!("Atlas's own certificate can't be read: {error}"))?;
    let key = PrivateKeyDer::from_pem_slice(own.key.expose().as_bytes())
        .map_err(|error| anyhow::anyhow!("Atlas's own key can't be read: {error}"))?;
    let verifier = Arc::new(Authorise { inner, counting, domain });
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, key)
        .context("Atlas's own certificate and key don't go together")?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    // A resumed session would skip the check of its certificate.
    config.send_tls13_tickets = 0;
    Ok(config)
}

/// The usual check of the chain, then: does this identity open streams?
struct Authorise {
    inner: Arc<dyn ClientCertVerifier>,
    counting: Arc<RwLock<Counting>>,
    domain: TrustDomain,
}

impl fmt::Debug for Authorise {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Authorise")
    }
}

/// Whom a certificate lets in, or why it doesn't.
fn admit(
    certificate: &CertificateDer<'_>,
    domain: &TrustDomain,
    counting: &RwLock<Counting>,
) -> Result<(NodeId, String, Time), String> {
    let (validity, uris) = pki::read_certificate(certificate).map_err(|error| error.to_string())?;
    let [uri] = uris.as_slice() else {
        return Err(format!("{} URI SANs, expected one", uris.len()));
    };
    let identity = Identity::parse(uri, domain)
        .ok_or_else(|| format!("{uri} is no identity of the trust domain {domain}"))?;
    let node = match identity {
        Identity::Hub => NodeId::Hub,
        Identity::Bootstrap(name, _) => {
            let fingerprint = pki::fingerprint(certificate);
            if !counts(&read(counting), &name, &fingerprint) {
                return Err(format!(
                    "{uri} with the fingerprint {fingerprint} is not in the list of issued credentials (replaced or removed)"
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

impl ClientCertVerifier for Authorise {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.inner.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end: &CertificateDer<'_>,
        chain: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        let verified = self.inner.verify_client_cert(end, chain, now)?;
        match admit(end, &self.domain, &self.counting) {
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
        m: &[u8],
        c: &CertificateDer<'_>,
        d: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls12_signature(m, c, d)
    }

    fn verify_tls13_signature(
        &self,
        m: &[u8],
        c: &CertificateDer<'_>,
        d: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls13_signature(m, c, d)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}

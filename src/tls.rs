//! The TLS acceptor of the xDS port: version 1.3 only, client certificate required, configuration swapped per accept.
//!
//! tonic's own TLS server neither reloads nor fixes the version. Whether a certificate may open a stream is decided
//! within the handshake, so a stranger hears a TLS alert and nothing else of Atlas.

use std::collections::HashMap;
use std::fmt;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, RwLock};
use std::task::{Context, Poll};
use std::time::Duration;

use anyhow::Context as _;
use atlas_core::name::{ClusterName, Identity, NodeId, TrustDomain};
use atlas_core::pki::{Leaf, Time};
use rustls::client::danger::HandshakeSignatureValid;
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, RootCertStore, ServerConfig, SignatureScheme};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::transport::server::Connected;

use crate::ca;
use crate::lock::{read, write};
use crate::metrics::Metrics;

/// A handshake that isn't finished by then is ended. It takes two round trips.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// How many connections there may be at a time.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Of those whose other end is known. Each costs some 40 KB.
    connections: usize,
    /// Of those whose other end isn't: strangers get as far as this.
    handshakes: usize,
}

impl Limits {
    /// What a process may take that can open this many files, and needs some for everything else.
    pub fn for_files(files: u64) -> Self {
        let files = usize::try_from(files).unwrap_or(usize::MAX);
        Self { connections: files.saturating_sub(256).clamp(64, 20_000), handshakes: (files / 8).clamp(16, 256) }
    }
}

/// Who is at the other end, as the verified certificate says.
#[derive(Clone, Debug)]
pub struct Peer {
    /// Whose configuration it gets.
    pub node: NodeId,
    /// The certificate's SPIFFE ID.
    pub spiffe_id: String,
    /// SHA-256 of the certificate.
    pub fingerprint: String,
    /// When the certificate ends.
    pub not_after: Time,
    /// Where it connected from.
    pub address: SocketAddr,
    /// Ends the connection: a stream that is ended alone comes back on it without a handshake.
    pub connection: CancellationToken,
}

/// Which credentials open streams, and with which certificate Atlas answers. Changed while running.
pub struct Gate {
    domain: TrustDomain,
    counting: Arc<RwLock<Counting>>,
    /// With what it was made of: Atlas's own chain, and the roots.
    config: RwLock<Option<(String, Arc<ServerConfig>)>>,
}

/// The fingerprints of the bootstrap credentials that count, by cluster.
type Counting = HashMap<ClusterName, Vec<String>>;

impl Gate {
    /// A gate that lets nobody in until [`Gate::open`].
    pub fn new(domain: TrustDomain) -> Self {
        Self { domain, counting: Arc::default(), config: RwLock::default() }
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

    /// From now on these bootstrap credentials of a cluster open streams, and none other of it.
    pub fn count(&self, cluster: &ClusterName, fingerprints: Vec<String>) {
        let mut counting = write(&self.counting);
        if fingerprints.is_empty() {
            counting.remove(cluster);
        } else if counting.get(cluster) != Some(&fingerprints) {
            counting.insert(cluster.clone(), fingerprints);
        }
    }

    /// From now on only these open streams. Returns the clusters that had any.
    pub fn count_only(&self, counting: Counting) -> Vec<ClusterName> {
        std::mem::replace(&mut *write(&self.counting), counting).into_keys().collect()
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

    fn config(&self) -> Option<Arc<ServerConfig>> {
        read(&self.config).as_ref().map(|(_, config)| Arc::clone(config))
    }
}

fn counts(counting: &Counting, cluster: &ClusterName, fingerprint: &str) -> bool {
    counting.get(cluster).is_some_and(|fingerprints| fingerprints.iter().any(|one| one == fingerprint))
}

fn server_config(own: &Leaf, roots: &[String], counting: Arc<RwLock<Counting>>, domain: TrustDomain) -> anyhow::Result<ServerConfig> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut store = RootCertStore::empty();
    for root in roots {
        for certificate in CertificateDer::pem_slice_iter(root.as_bytes()) {
            store.add(certificate.map_err(|error| anyhow::anyhow!("a root can't be read: {error}"))?)?;
        }
    }
    let inner =
        WebPkiClientVerifier::builder_with_provider(Arc::new(store), Arc::clone(&provider)).build().context("cannot trust the roots")?;
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(own.chain.as_bytes()).collect();
    let chain = chain.map_err(|error| anyhow::anyhow!("Atlas's own certificate can't be read: {error}"))?;
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
fn admit(certificate: &CertificateDer<'_>, domain: &TrustDomain, counting: &RwLock<Counting>) -> Result<(NodeId, String, Time), String> {
    let (validity, uris) = ca::read_certificate(certificate).map_err(|error| error.to_string())?;
    let [uri] = uris.as_slice() else { return Err(format!("{} URI SANs, expected one", uris.len())) };
    let identity = Identity::parse(uri, domain).ok_or_else(|| format!("{uri} is no identity of the trust domain {domain}"))?;
    let node = match identity {
        Identity::Hub => NodeId::Hub,
        Identity::Bootstrap(name, _) => {
            let fingerprint = ca::fingerprint(certificate);
            if !counts(&read(counting), &name, &fingerprint) {
                return Err(format!(
                    "{uri} with the fingerprint {fingerprint} is not in the list of issued credentials (replaced or removed)"
                ));
            }
            NodeId::Cluster(name)
        }
        Identity::Atlas | Identity::Cluster(..) => return Err(format!("{uri} opens no xDS streams")),
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
                Err(rustls::Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure))
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

/// A connection whose other end is known.
pub struct Connection {
    stream: TlsStream<TcpStream>,
    peer: Peer,
    /// Resolves when the connection is to end.
    ended: Pin<Box<WaitForCancellationFutureOwned>>,
    /// Its place among [`Limits::connections`].
    _place: OwnedSemaphorePermit,
}

impl Connected for Connection {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer.clone()
    }
}

impl AsyncRead for Connection {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<std::io::Result<()>> {
        if self.ended.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Err(std::io::ErrorKind::ConnectionAborted.into()));
        }
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// Accepts until cancelled. Handshakes run beside each other, so a slow one holds up nobody, and have room of their own,
/// so strangers can't take the room of those who are known.
pub async fn accept(
    listener: TcpListener,
    gate: Arc<Gate>,
    metrics: Arc<Metrics>,
    limits: Limits,
    out: mpsc::Sender<std::io::Result<Connection>>,
    cancel: CancellationToken,
) {
    let (known, strangers) = (Arc::new(Semaphore::new(limits.connections)), Arc::new(Semaphore::new(limits.handshakes)));
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = cancel.cancelled() => return,
        };
        let (tcp, address) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of file descriptors, most likely: waiting is all that helps.
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let Some(config) = gate.config() else { continue };
        let (Ok(place), Ok(waiting)) = (Arc::clone(&known).try_acquire_owned(), Arc::clone(&strangers).try_acquire_owned()) else {
            metrics.connections_dropped.inc();
            tracing::debug!(%address, "no room for another connection");
            continue;
        };
        let (gate, out, metrics) = (Arc::clone(&gate), out.clone(), Arc::clone(&metrics));
        tokio::spawn(async move {
            match tokio::time::timeout(HANDSHAKE_TIMEOUT, handshake(tcp, address, config, &gate, place)).await {
                Ok(Ok(connection)) => {
                    drop(waiting);
                    drop(out.send(Ok(connection)).await);
                }
                Ok(Err(error)) => {
                    metrics.handshakes_refused.inc();
                    tracing::info!(%address, error = format!("{error:#}"), "TLS handshake failed");
                }
                Err(_) => {
                    metrics.handshakes_refused.inc();
                    tracing::info!(%address, "TLS handshake took too long");
                }
            }
        });
    }
}

async fn handshake(
    tcp: TcpStream,
    address: SocketAddr,
    config: Arc<ServerConfig>,
    gate: &Gate,
    place: OwnedSemaphorePermit,
) -> anyhow::Result<Connection> {
    tcp.set_nodelay(true)?;
    let stream = TlsAcceptor::from(config).accept(tcp).await?;
    let certificate = stream.get_ref().1.peer_certificates().and_then(<[_]>::first).context("no client certificate")?;
    let (node, spiffe_id, not_after) = admit(certificate, &gate.domain, &gate.counting).map_err(|reason| anyhow::anyhow!(reason))?;
    let connection = CancellationToken::new();
    let ended = Box::pin(connection.clone().cancelled_owned());
    let peer = Peer { node, spiffe_id, fingerprint: ca::fingerprint(certificate), not_after, address, connection };
    Ok(Connection { stream, peer, ended, _place: place })
}

//! The same through TLS on loopback: who is let in, what happens when that changes, and strangers in numbers.

use std::net::SocketAddr;

use atlas_core::pki::{Leaf, PrivateKey};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, SanType};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::*;
use crate::xds::tls::accept;

type Authority = CertifiedIssuer<'static, KeyPair>;

/// Who the server is doesn't matter here.
#[derive(Debug)]
struct AnyServer;

impl ServerCertVerifier for AnyServer {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ECDSA_NISTP256_SHA256]
    }
}

/// A certificate and its key, PEM.
fn leaf(authority: &Authority, uri: &str) -> (String, String) {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.subject_alt_names = vec![SanType::URI(uri.try_into().unwrap())];
    (params.signed_by(&key, authority).unwrap().pem(), key.serialize_pem())
}

/// A listening server, and what its clients need.
struct Listening {
    world: World,
    at: SocketAddr,
    authority: Authority,
}

/// A client's credential.
struct Credential {
    certificate: CertificateDer<'static>,
    key: String,
}

impl Credential {
    fn fingerprint(&self) -> String {
        crate::pki::fingerprint(&self.certificate)
    }
}

async fn listening(limits: LimitOptions) -> Listening {
    let world = world(Options { limits, ..Options::default() });
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let (chain, key) = leaf(&authority, "spiffe://atlas/atlas");
    let own = Leaf { chain, key: PrivateKey::new(key) };
    world.xds.client_authorizer.serve_as(&own, &[authority.pem()]).unwrap();
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let at = listener.local_addr().unwrap();
    tokio::spawn(accept(listener, Arc::clone(&world.xds)));
    Listening { world, at, authority }
}

impl Listening {
    fn credential(&self, uri: &str) -> Credential {
        let (certificate, key) = leaf(&self.authority, uri);
        Credential {
            certificate: CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap(),
            key,
        }
    }

    /// From now on these count, of the clusters that they are for, and none other.
    fn counting(&self, credentials: &[(&str, &Credential)]) {
        let mut counting: HashMap<ClusterName, Vec<String>> = HashMap::new();
        for (cluster, credential) in credentials {
            counting.entry(cluster.parse().unwrap()).or_default().push(credential.fingerprint());
        }
        self.world.xds.client_authorizer.replace_allowed(counting);
    }

    async fn connect(&self, credential: &Credential) -> std::io::Result<TlsStream<TcpStream>> {
        let mut config =
            ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
                .with_protocol_versions(&[&rustls::version::TLS13])
                .unwrap()
                .dangerous()
                .with_custom_certificate_verifier(Arc::new(AnyServer))
                .with_client_auth_cert(
                    vec![credential.certificate.clone()],
                    PrivateKeyDer::from_pem_slice(credential.key.as_bytes()).unwrap(),
                )
                .unwrap();
        config.alpn_protocols = vec![b"h2".to_vec()];
        let tcp = TcpStream::connect(self.at).await?;
        TlsConnector::from(Arc::new(config)).connect(ServerName::from(self.at.ip()), tcp).await
    }

    async fn delta(&self, credential: &Credential) -> Result<Delta, Status> {
        Delta::open(channel(self.connect(credential).await?).await).await
    }
}

#[tokio::test]
async fn a_stream_through_tls_gets_what_its_certificate_says() {
    let server = listening(LimitOptions::default()).await;
    server.world.has("tokyo", &[(CDS, "t", "1")]);
    server.world.has("hub", &[(CDS, "h", "1")]);
    let (tokyo, hub) = (
        server.credential("spiffe://atlas/bootstrap/tokyo/1"),
        server.credential("spiffe://atlas/hub"),
    );
    server.counting(&[("tokyo", &tokyo)]);
    for (credential, expected) in [(&tokyo, "t"), (&hub, "h")] {
        let mut stream = server.delta(credential).await.unwrap();
        stream.subscribe(CDS, &["*"]).await;
        assert_eq!(stream.hears().await, pairs(&[(expected, "1")]));
    }
}

#[tokio::test]
async fn a_revoked_credential_loses_its_streams_and_its_idle_connections() {
    let server = listening(LimitOptions::default()).await;
    server.world.has("tokyo", &[(CDS, "t", "1")]);
    let (old, new) = (
        server.credential("spiffe://atlas/bootstrap/tokyo/1"),
        server.credential("spiffe://atlas/bootstrap/tokyo/2"),
    );
    server.counting(&[("tokyo", &old), ("tokyo", &new)]);
    let (mut idle, mut of_old, mut of_new) = (
        server.connect(&old).await.unwrap(),
        server.delta(&old).await.unwrap(),
        server.delta(&new).await.unwrap(),
    );
    until("all are there", || server.world.xds.streams.connections() == 3).await;
    server.world.xds.client_authorizer.allow(&"tokyo".parse().unwrap(), vec![new.fingerprint()]);
    assert_eq!(of_old.ends().await.code(), tonic::Code::PermissionDenied);
    // What comes before the end is the server's settings and its goodbye.
    tokio::time::timeout(SOON, idle.read_to_end(&mut Vec::new()))
        .await
        .expect("the connection ends")
        .ok();
    until("both are gone", || server.world.xds.streams.connections() == 1).await;
    assert_eq!(server.world.metric("atlas_connections_ended_total{reason=\"credential\"}"), 2);
    of_new.subscribe(CDS, &["*"]).await;
    assert_eq!(of_new.hears().await, pairs(&[("t", "1")]));
    assert!(server.delta(&old).await.is_err(), "nor is it let in again");
    until("that is counted", || server.world.metric("atlas_tls_handshakes_refused_total") == 1)
        .await;
}

#[tokio::test]
async fn a_proxy_header_in_front_of_tls_is_called_so() {
    let server = listening(LimitOptions::default()).await;
    for header in [
        b"PROXY TCP4 192.0.2.1 192.0.2.2 4711 10900\r\n".as_slice(),
        b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0",
    ] {
        let mut balancer = TcpStream::connect(server.at).await.unwrap();
        balancer.write_all(header).await.unwrap();
        tokio::time::timeout(SOON, balancer.read_to_end(&mut Vec::new()))
            .await
            .expect("the connection ends")
            .ok();
    }
    until("that is counted", || server.world.metric("atlas_tls_handshakes_refused_total") == 2)
        .await;
    let notes = server.world.xds.streams.not_tls.notes(crate::process::clock::now());
    assert!(
        notes.len() == 1
            && notes[0]
                .problem
                .starts_with("connections that began with a PROXY protocol header, not TLS: 2,"),
        "{notes:?}"
    );
}

#[tokio::test]
async fn a_flood_of_strangers_keeps_nobody_out() {
    let server = listening(LimitOptions {
        handshakes: Some(8),
        handshake_patience: Duration::from_millis(20),
        ..LimitOptions::default()
    })
    .await;
    server.world.has("tokyo", &[(CDS, "t", "1")]);
    let tokyo = server.credential("spiffe://atlas/bootstrap/tokyo/1");
    server.counting(&[("tokyo", &tokyo)]);
    let mut strangers = Vec::new();
    for _ in 0..100 {
        strangers.push(TcpStream::connect(server.at).await.unwrap());
    }
    let mut stream = server.delta(&tokyo).await.unwrap();
    stream.subscribe(CDS, &["*"]).await;
    assert_eq!(
        stream.hears().await,
        pairs(&[("t", "1")]),
        "all places were taken by strangers who say nothing"
    );
    let dropped = || server.world.metric("atlas_connections_dropped_total{limit=\"handshakes\"}");
    until("the oldest of them were ended", || dropped() >= 92).await;
    let read = strangers[0].read(&mut [0]).await;
    assert!(matches!(read, Ok(0) | Err(_)), "{read:?}");
    // What strangers say is no matter.
    for stranger in strangers.iter_mut().skip(93) {
        let _ = stranger.write_all(b"GET / HTTP/1.1\r\n\r\n").await;
    }
    until("they are refused", || server.world.metric("atlas_tls_handshakes_refused_total") >= 5)
        .await;
    assert_eq!(server.world.xds.streams.connections(), 1);
}

#[tokio::test]
async fn a_thousand_connections_with_one_credential_are_few() {
    let limits = LimitOptions {
        connections_per_node: Some(5),
        connections: Some(8),
        ..LimitOptions::default()
    };
    let server = listening(limits).await;
    server.world.has("tokyo", &[(CDS, "t", "1")]);
    server.world.has("paris", &[(CDS, "p", "1")]);
    let (tokyo, paris) = (
        server.credential("spiffe://atlas/bootstrap/tokyo/1"),
        server.credential("spiffe://atlas/bootstrap/paris/1"),
    );
    server.counting(&[("tokyo", &tokyo), ("paris", &paris)]);
    let mut taken = Vec::new();
    for _ in 0..40 {
        taken.extend(server.connect(&tokyo).await);
    }
    let dropped = |limit: &str| {
        server.world.metric(&format!("atlas_connections_dropped_total{{limit=\"{limit}\"}}"))
    };
    until("most have made room", || dropped("connections_per_node") == 35).await;
    assert_eq!(server.world.xds.streams.connections(), 5);
    let mut stream = server.delta(&paris).await.unwrap();
    stream.subscribe(CDS, &["*"]).await;
    assert_eq!(stream.hears().await, pairs(&[("p", "1")]));
    let mut more = Vec::new();
    for _ in 0..4 {
        more.extend(server.connect(&paris).await);
    }
    until("nor are there more in all", || dropped("connections") == 2).await;
    assert_eq!(server.world.xds.streams.connections(), 8);
    // It was tokyo that had too many for its Envoys.
    server.world.has("paris", &[(CDS, "p", "2")]);
    assert_eq!(stream.hears().await, pairs(&[("p", "2")]));
    assert_eq!(dropped("connections_per_node"), 35);
}

/// Handshakes are what a connection costs most: others get theirs in turn.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_connects_without_end_keeps_nobody_waiting() {
    let server = Arc::new(listening(LimitOptions::default()).await);
    server.world.has("tokyo", &[(CDS, "t", "1")]);
    server.world.has("paris", &[(CDS, "p", "0")]);
    let (tokyo, paris) = (
        server.credential("spiffe://atlas/bootstrap/tokyo/1"),
        server.credential("spiffe://atlas/bootstrap/paris/1"),
    );
    server.counting(&[("tokyo", &tokyo), ("paris", &paris)]);
    let mut stream = server.delta(&paris).await.unwrap();
    stream.subscribe(CDS, &["*"]).await;
    assert_eq!(stream.hears().await, pairs(&[("p", "0")]));
    let (tokyo, stop) = (Arc::new(tokyo), CancellationToken::new());
    for _ in 0..32 {
        let (server, tokyo, stop) = (Arc::clone(&server), Arc::clone(&tokyo), stop.clone());
        tokio::spawn(stop.run_until_cancelled_owned(async move {
            // Each keeps what it has until it has more.
            let mut kept = std::collections::VecDeque::new();
            loop {
                kept.extend(server.connect(&tokyo).await);
                if kept.len() > 4 {
                    kept.pop_front();
                }
            }
        }));
    }
    let dropped =
        || server.world.metric("atlas_connections_dropped_total{limit=\"connections_per_node\"}");
    until("the node has all that it may have", || {
        server.world.xds.streams.connections() > 16 || dropped() > 0
    })
    .await;
    for n in 1..10 {
        server.world.sets("paris", resource(CDS, "p", n.to_string().as_bytes()));
        assert_eq!(
            stream.hears().await,
            pairs(&[("p", &n.to_string())]),
            "a change during the flood"
        );
        let mut again = server.delta(&paris).await.unwrap();
        again.subscribe(CDS, &["*"]).await;
        assert_eq!(
            again.hears().await,
            pairs(&[("p", &n.to_string())]),
            "a new connection during the flood"
        );
        assert!(server.world.xds.streams.connections() <= 16 + 16);
    }
    stop.cancel();
}

//! Over TLS on loopback: which clients are accepted, what happens when that changes, and floods of
//! clients that aren't.

use std::net::SocketAddr;

use atlas_core::pki::{Leaf, PrivateKey};
use atlas_lab::tls::trusting_client;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, SanType};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::*;
use crate::xds::accept;

type Authority = CertifiedIssuer<'static, KeyPair>;

/// A certificate and its key, PEM.
fn leaf(authority: &Authority, uri: &str) -> (String, String) {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.subject_alt_names = vec![SanType::URI(uri.try_into().unwrap())];
    (params.signed_by(&key, authority).unwrap().pem(), key.serialize_pem())
}

/// A listening server, and the authority of its clients' certificates.
struct Listening {
    world: World,
    address: SocketAddr,
    authority: Authority,
}

/// A client's credential, in PEM.
struct Credential {
    certificate: String,
    key: String,
}

impl Credential {
    fn fingerprint(&self) -> String {
        let certificate = CertificateDer::from_pem_slice(self.certificate.as_bytes());
        crate::pki::fingerprint(&certificate.unwrap())
    }
}

async fn listen(limits: LimitOptions) -> Listening {
    let world = world(Options { limits, ..Options::default() });
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let (chain, key) = leaf(&authority, "spiffe://atlas/atlas");
    let own = Leaf { chain, key: PrivateKey::new(key) };
    world.server.client_authorizer.install_certificate(&own, &[authority.pem()]).unwrap();
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(accept(listener, Arc::clone(&world.server)));
    Listening { world, address, authority }
}

impl Listening {
    fn credential(&self, uri: &str) -> Credential {
        let (certificate, key) = leaf(&self.authority, uri);
        Credential { certificate, key }
    }

    /// Replaces the accepted credentials: cluster and credential.
    fn allow_only(&self, credentials: &[(&str, &Credential)]) {
        let mut allowed: HashMap<ClusterName, Vec<String>> = HashMap::new();
        for (cluster, credential) in credentials {
            allowed.entry(cluster.parse().unwrap()).or_default().push(credential.fingerprint());
        }
        self.world.server.client_authorizer.replace_allowed(allowed);
    }

    async fn connect(&self, credential: &Credential) -> std::io::Result<TlsStream<TcpStream>> {
        let pem = format!("{}{}", credential.certificate, credential.key);
        let config = trusting_client(Some(&pem), &rustls::version::TLS13, &[b"h2"]).unwrap();
        let tcp = TcpStream::connect(self.address).await?;
        TlsConnector::from(Arc::new(config)).connect(ServerName::from(self.address.ip()), tcp).await
    }

    async fn delta(&self, credential: &Credential) -> Result<Delta, Status> {
        Delta::open(channel(self.connect(credential).await?).await).await
    }
}

#[tokio::test]
async fn the_certificate_decides_which_resources_a_stream_gets() {
    let server = listen(LimitOptions::default()).await;
    server.world.set_resources("tokyo", &[(CDS, "t", "1")]);
    server.world.set_resources("hub", &[(CDS, "h", "1")]);
    let (tokyo, hub) = (
        server.credential("spiffe://atlas/bootstrap/tokyo/1"),
        server.credential("spiffe://atlas/hub"),
    );
    server.allow_only(&[("tokyo", &tokyo)]);
    for (credential, expected) in [(&tokyo, "t"), (&hub, "h")] {
        let mut stream = server.delta(credential).await.unwrap();
        stream.subscribe(CDS, &["*"]).await;
        assert_eq!(stream.receive().await, pairs(&[(expected, "1")]));
    }
}

#[tokio::test]
async fn revocation_closes_streams_and_idle_connections() {
    let server = listen(LimitOptions::default()).await;
    server.world.set_resources("tokyo", &[(CDS, "t", "1")]);
    let (old, new) = (
        server.credential("spiffe://atlas/bootstrap/tokyo/1"),
        server.credential("spiffe://atlas/bootstrap/tokyo/2"),
    );
    server.allow_only(&[("tokyo", &old), ("tokyo", &new)]);
    let (mut idle, mut of_old, mut of_new) = (
        server.connect(&old).await.unwrap(),
        server.delta(&old).await.unwrap(),
        server.delta(&new).await.unwrap(),
    );
    until("all are connected", || server.world.server.streams.connections() == 3).await;
    server.world.server.client_authorizer.allow(&"tokyo".parse().unwrap(), vec![new.fingerprint()]);
    assert_eq!(of_old.end().await.code(), tonic::Code::PermissionDenied);
    // Before the end come the server's SETTINGS and GOAWAY.
    tokio::time::timeout(SOON, idle.read_to_end(&mut Vec::new()))
        .await
        .expect("the connection ends")
        .ok();
    until("both are closed", || server.world.server.streams.connections() == 1).await;
    assert_eq!(server.world.metric("atlas_connections_ended_total{reason=\"credential\"}"), 2);
    of_new.subscribe(CDS, &["*"]).await;
    assert_eq!(of_new.receive().await, pairs(&[("t", "1")]));
    assert!(server.delta(&old).await.is_err(), "it isn't accepted again");
    until("the metric increases", || {
        server.world.metric("atlas_tls_handshakes_refused_total") == 1
    })
    .await;
}

#[tokio::test]
async fn a_proxy_protocol_header_is_reported_by_its_name() {
    let server = listen(LimitOptions::default()).await;
    for header in [
        b"PROXY TCP4 192.0.2.1 192.0.2.2 4711 10900\r\n".as_slice(),
        b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0",
    ] {
        let mut balancer = TcpStream::connect(server.address).await.unwrap();
        balancer.write_all(header).await.unwrap();
        tokio::time::timeout(SOON, balancer.read_to_end(&mut Vec::new()))
            .await
            .expect("the connection ends")
            .ok();
    }
    until("the metric increases", || {
        server.world.metric("atlas_tls_handshakes_refused_total") == 2
    })
    .await;
    let notes = server.world.server.streams.plaintext_clients.notes(crate::process::clock::now());
    assert!(
        notes.len() == 1
            && notes[0]
                .problem
                .starts_with("connections that began with a PROXY protocol header, not TLS: 2,"),
        "{notes:?}"
    );
}

#[tokio::test]
async fn unauthenticated_clients_cannot_lock_others_out() {
    let server = listen(LimitOptions {
        handshakes: Some(8),
        handshake_grace: Duration::from_millis(20),
        ..LimitOptions::default()
    })
    .await;
    server.world.set_resources("tokyo", &[(CDS, "t", "1")]);
    let tokyo = server.credential("spiffe://atlas/bootstrap/tokyo/1");
    server.allow_only(&[("tokyo", &tokyo)]);
    let mut unauthenticated = Vec::new();
    for _ in 0..100 {
        unauthenticated.push(TcpStream::connect(server.address).await.unwrap());
    }
    let mut stream = server.delta(&tokyo).await.unwrap();
    stream.subscribe(CDS, &["*"]).await;
    assert_eq!(
        stream.receive().await,
        pairs(&[("t", "1")]),
        "unauthenticated clients had taken every handshake"
    );
    let dropped = || server.world.metric("atlas_connections_dropped_total{limit=\"handshakes\"}");
    until("the oldest of them were ended", || dropped() >= 92).await;
    let read = unauthenticated[0].read(&mut [0]).await;
    assert!(matches!(read, Ok(0) | Err(_)), "{read:?}");
    // Plaintext is refused, and harms nobody.
    for client in unauthenticated.iter_mut().skip(93) {
        let _ = client.write_all(b"GET / HTTP/1.1\r\n\r\n").await;
    }
    until("they are refused", || server.world.metric("atlas_tls_handshakes_refused_total") >= 5)
        .await;
    assert_eq!(server.world.server.streams.connections(), 1);
}

#[tokio::test]
async fn one_credential_has_a_limited_number_of_connections() {
    let limits = LimitOptions {
        connections_per_node: Some(5),
        connections: Some(8),
        ..LimitOptions::default()
    };
    let server = listen(limits).await;
    server.world.set_resources("tokyo", &[(CDS, "t", "1")]);
    server.world.set_resources("paris", &[(CDS, "p", "1")]);
    let (tokyo, paris) = (
        server.credential("spiffe://atlas/bootstrap/tokyo/1"),
        server.credential("spiffe://atlas/bootstrap/paris/1"),
    );
    server.allow_only(&[("tokyo", &tokyo), ("paris", &paris)]);
    let mut taken = Vec::new();
    for _ in 0..40 {
        taken.extend(server.connect(&tokyo).await);
    }
    let dropped = |limit: &str| {
        server.world.metric(&format!("atlas_connections_dropped_total{{limit=\"{limit}\"}}"))
    };
    until("most have been replaced", || dropped("connections_per_node") == 35).await;
    assert_eq!(server.world.server.streams.connections(), 5);
    let mut stream = server.delta(&paris).await.unwrap();
    stream.subscribe(CDS, &["*"]).await;
    assert_eq!(stream.receive().await, pairs(&[("p", "1")]));
    let mut more = Vec::new();
    for _ in 0..4 {
        more.extend(server.connect(&paris).await);
    }
    until("the limit of all connections is kept", || dropped("connections") == 2).await;
    assert_eq!(server.world.server.streams.connections(), 8);
    // Tokyo's were replaced, since it had more connections than Envoys.
    server.world.set_resources("paris", &[(CDS, "p", "2")]);
    assert_eq!(stream.receive().await, pairs(&[("p", "2")]));
    assert_eq!(dropped("connections_per_node"), 35);
}

/// Handshakes cost more than anything else of a connection; every client gets its turn.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_connects_in_a_loop_delays_nobody() {
    let server = Arc::new(listen(LimitOptions::default()).await);
    server.world.set_resources("tokyo", &[(CDS, "t", "1")]);
    server.world.set_resources("paris", &[(CDS, "p", "0")]);
    let (tokyo, paris) = (
        server.credential("spiffe://atlas/bootstrap/tokyo/1"),
        server.credential("spiffe://atlas/bootstrap/paris/1"),
    );
    server.allow_only(&[("tokyo", &tokyo), ("paris", &paris)]);
    let mut stream = server.delta(&paris).await.unwrap();
    stream.subscribe(CDS, &["*"]).await;
    assert_eq!(stream.receive().await, pairs(&[("p", "0")]));
    let (tokyo, stop) = (Arc::new(tokyo), CancellationToken::new());
    for _ in 0..32 {
        let (server, tokyo, stop) = (Arc::clone(&server), Arc::clone(&tokyo), stop.clone());
        tokio::spawn(stop.run_until_cancelled_owned(async move {
            // Keeps its latest four connections open.
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
    until("the node has reached its limit", || {
        server.world.server.streams.connections() > 16 || dropped() > 0
    })
    .await;
    for n in 1..10 {
        server.world.set_resource("paris", resource(CDS, "p", n.to_string().as_bytes()));
        assert_eq!(
            stream.receive().await,
            pairs(&[("p", &n.to_string())]),
            "a change during the flood"
        );
        let mut again = server.delta(&paris).await.unwrap();
        again.subscribe(CDS, &["*"]).await;
        assert_eq!(
            again.receive().await,
            pairs(&[("p", &n.to_string())]),
            "a new connection during the flood"
        );
        assert!(server.world.server.streams.connections() <= 16 + 16);
    }
    stop.cancel();
}

//! Who may connect where: strangers, other clusters, and credentials in the wrong place.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use atlas_core::text::is_plain;
use atlas_lab::parts::Part;
use atlas_lab::scene::Scene;
use atlas_lab::world::Host;
use atlas_lab::world_test;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme, SupportedProtocolVersion};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};

use crate::atlas;

/// Accepts any server: here the server judges the client.
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
        rustls::crypto::ring::default_provider()
            .signature_verification_algorithms
            .supported_schemes()
    }
}

/// A PEM file of certificates and a key, as Atlas keeps them.
fn credential(pem: &str) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)> {
    let chain = CertificateDer::pem_slice_iter(pem.as_bytes())
        .collect::<Result<_, _>>()
        .map_err(|e| anyhow::anyhow!("{e}"))?;
    Ok((chain, PrivateKeyDer::from_pem_slice(pem.as_bytes()).map_err(|e| anyhow::anyhow!("{e}"))?))
}

type Tls = rustls::StreamOwned<rustls::ClientConnection, TcpStream>;

/// A connection whose handshake happens with the first byte.
fn dial(
    at: SocketAddr,
    pem: Option<&str>,
    version: &'static SupportedProtocolVersion,
    alpn: &[&[u8]],
) -> Result<Tls> {
    let builder =
        ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_protocol_versions(&[version])?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(AnyServer));
    let mut config = match pem {
        None => builder.with_no_client_auth(),
        Some(pem) => {
            let (chain, key) = credential(pem)?;
            builder.with_client_auth_cert(chain, key)?
        }
    };
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
    let tcp = TcpStream::connect_timeout(&at, Duration::from_secs(3)).context("connect")?;
    tcp.set_read_timeout(Some(Duration::from_secs(5)))?;
    Ok(Tls::new(rustls::ClientConnection::new(Arc::new(config), ServerName::from(at.ip()))?, tcp))
}

/// Connects, shakes hands, and speaks HTTP/2 until the server answers. With TLS 1.3 a refusal comes after the handshake.
fn connect(
    at: SocketAddr,
    pem: Option<&str>,
    version: &'static SupportedProtocolVersion,
) -> Result<()> {
    let mut tls = dial(at, pem, version, &[b"h2"])?;
    tls.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").context("handshake")?;
    tls.flush()?;
    let mut frame = [0; 9];
    tls.read_exact(&mut frame).context("first frame")?;
    if frame[3] == 4 { Ok(()) } else { bail!("not HTTP/2 settings: {frame:?}") }
}

/// One HTTP/1.1 request over mutual TLS; returns the status.
fn request(at: SocketAddr, pem: &str, method: &str, path: &str, body: &str) -> Result<u16> {
    let mut tls = dial(at, Some(pem), &rustls::version::TLS13, &[])?;
    let length = body.len();
    write!(
        tls,
        "{method} {path} HTTP/1.1\r\nHost: hub\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
    )?;
    let mut head = [0; 12];
    tls.read_exact(&mut head).context("the status line")?;
    String::from_utf8_lossy(&head[9..]).parse().context("a status")
}

/// A certificate for a name of Atlas's trust domain, signed by somebody else.
fn stranger(uri: &str) -> Result<String> {
    use rcgen::{CertificateParams, IsCa, Issuer, KeyPair, SanType};
    let ca_key = KeyPair::generate()?;
    let mut ca = CertificateParams::new(Vec::new())?;
    ca.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let ca_pem = ca.self_signed(&ca_key)?.pem();
    let key = KeyPair::generate()?;
    let mut leaf = CertificateParams::new(Vec::new())?;
    leaf.subject_alt_names = vec![SanType::URI(uri.try_into()?)];
    let leaf = leaf.signed_by(&key, &Issuer::new(ca, ca_key))?;
    Ok(leaf.pem() + &ca_pem + &key.serialize_pem())
}

struct Door {
    what: &'static str,
    at: SocketAddr,
}

/// Tries from the hub's host, which reaches every port.
fn attempt(from: &Host, door: &Door, pem: Option<&str>) -> Result<()> {
    from.within(|| connect(door.at, pem, &rustls::version::TLS13))
}

fn refused(from: &Host, door: &Door, who: &str, pem: Option<&str>) -> Result<()> {
    match attempt(from, door, pem) {
        Ok(()) => bail!("{} let in {who}", door.what),
        Err(error) => {
            println!("{} refuses {who}: {error:#}", door.what);
            Ok(())
        }
    }
}

fn kept(state: &Path, file: &str) -> Result<String> {
    let path = state.join("pki").join(file);
    std::fs::read_to_string(&path).with_context(|| path.display().to_string())
}

world_test! {
    needs [Envoy, Thanos, Prometheus, Alertmanager, CoreDns],
    fn every_mutual_tls_port_lets_in_whom_it_should_and_nobody_else(world) {
        let scene = Scene::start(world, atlas(), Part::Prometheus)?;
        let hub = &scene.hub.place.host;
        let state = scene.hub.atlas.options.state.clone();
        let door = |what, ip: IpAddr, port| Door { what, at: SocketAddr::new(ip, port) };
        let (hub_ip, tokyo_ip) = (scene.hub.place.envoy, scene.clusters[0].place.envoy);
        let xds = door("the xDS port behind the hub's 10900", hub_ip, 10900);
        let own_xds = door("Atlas's own xDS port 6305", scene.hub.atlas.options.listen, 6305);
        let alerts = door("the hub's alert port 10903", hub_ip, 10903);
        let inbound = door("tokyo's port 11901", tokyo_ip, 11901);

        let hub_leaf = kept(&state, "hub.pem")?;
        let (tokyo, paris) = (kept(&state, "cluster.tokyo.pem")?, kept(&state, "cluster.paris.pem")?);
        let tokyo_boot = kept(&state, "bootstrap.tokyo.pem")?;
        let atlas_leaf = kept(&state, "atlas.pem")?;

        // Those who belong there.
        for (door, pem) in [(&xds, &tokyo_boot), (&own_xds, &tokyo_boot), (&own_xds, &hub_leaf), (&alerts, &tokyo), (&alerts, &paris), (&inbound, &hub_leaf)] {
            attempt(hub, door, Some(pem)).with_context(|| format!("{} refused who belongs there", door.what))?;
        }
        // Nobody, strangers, and TLS 1.2.
        for door in [&xds, &own_xds, &alerts, &inbound] {
            refused(hub, door, "a client without a certificate", None)?;
            for uri in ["spiffe://atlas/hub", "spiffe://atlas/cluster/tokyo/1", "spiffe://atlas/bootstrap/tokyo/1"] {
                refused(hub, door, &format!("a stranger who calls itself {uri}"), Some(&stranger(uri)?))?;
            }
            let old = hub.within(|| connect(door.at, Some(&hub_leaf), &rustls::version::TLS12));
            assert!(old.is_err(), "{} speaks TLS 1.2", door.what);
        }
        // Known ones in the wrong place.
        refused(hub, &inbound, "another cluster's leaf", Some(&paris))?;
        refused(hub, &inbound, "its own leaf", Some(&tokyo))?;
        refused(hub, &inbound, "a bootstrap credential", Some(&tokyo_boot))?;
        refused(hub, &inbound, "Atlas's leaf", Some(&atlas_leaf))?;
        refused(hub, &alerts, "a bootstrap credential", Some(&tokyo_boot))?;
        refused(hub, &alerts, "the hub's leaf", Some(&hub_leaf))?;
        for door in [&xds, &own_xds] {
            refused(hub, door, "a cluster's leaf", Some(&tokyo))?;
            refused(hub, door, "Atlas's own leaf", Some(&atlas_leaf))?;
        }
        // On the alert port even those who belong there can post alerts and nothing else.
        let ask = |method: &'static str, path: &'static str| hub.within(|| request(alerts.at, &tokyo, method, path, "[]"));
        assert_eq!(ask("POST", "/alertmanager/0/api/v2/alerts")?, 200);
        for (method, path) in [
            ("GET", "/alertmanager/0/api/v2/alerts"),
            ("DELETE", "/alertmanager/0/api/v2/alerts"),
            ("POST", "/alertmanager/0/api/v2/silences"),
            ("POST", "/alertmanager/0/-/reload"),
            ("GET", "/"),
            ("POST", "/alertmanager/0/api/v2/alerts/../silences"),
            ("POST", "/alertmanager/0/api/v2/alerts/%2e%2e/silences"),
            ("POST", "/alertmanager/x/api/v2/alerts"),
        ] {
            let status = ask(method, path)?;
            println!("10903: {method} {path}: {status}");
            assert_eq!(status, 403, "{method} {path}");
        }
        assert_eq!(ask("POST", "/alertmanager/9/api/v2/alerts")?, 404, "no such replica");
        // The keys are where they should be, and nowhere else.
        for host in [hub, &scene.clusters[0].place.host] {
            for entry in std::fs::read_dir(host.dir())?.flatten().filter(|entry| entry.path().extension().is_some_and(|e| e == "log")) {
                let log = std::fs::read_to_string(entry.path())?;
                assert!(!log.contains("PRIVATE KEY"), "{}", entry.path().display());
            }
        }
    }
}

world_test! {
    needs [Envoy, Thanos, Prometheus, Alertmanager, CoreDns],
    fn an_envoy_that_calls_itself_somebody_else_gets_its_own_configuration(world) {
        let mut scene = Scene::start(world, atlas(), Part::Prometheus)?;
        // Paris's Envoy starts again as "tokyo", and what nobody sees behind it, with paris's credential.
        let hidden = r#""tokyo\u202E\u2066\u200B\u2028""#;
        let path = scene.clusters[1].place.host.dir().join("envoy-paris/envoy.yaml");
        let text = std::fs::read_to_string(&path)?;
        std::fs::write(&path, text.replace("id: paris", &format!("id: {hidden}")).replace("cluster: paris", &format!("cluster: {hidden}")))?;
        scene.clusters[1].envoy.process.kill()?;
        scene.clusters[1].envoy.process.restart()?;
        scene.clusters[1].envoy.wait_live()?;
        let dump = scene.clusters[1].envoy.admin_get("/config_dump")?.text();
        assert!(dump.contains("store/paris-thanos-sidecar0") && !dump.contains("tokyo-thanos-sidecar"), "paris's configuration");
        let shown = "tokyo\\u{202e}\\u{2066}\\u{200b}\\u{2028}";
        let log = scene.hub.atlas.process.log();
        assert!(log.contains("calls itself somebody else") && log.contains(shown) && log.lines().all(is_plain), "{log}");
        let status = scene.hub.atlas.command(&["status"])?;
        assert!(status.contains(shown) && status.lines().all(is_plain), "{status}");
        scene.wait_connected()?;
    }
}

world_test! {
    needs [Envoy, Thanos, Prometheus, Alertmanager, CoreDns],
    fn a_removed_cluster_is_forgotten_at_once(world) {
        let mut scene = Scene::start(world, atlas(), Part::Prometheus)?;
        let state = scene.hub.atlas.options.state.clone();
        let boot = kept(&state, "bootstrap.paris.pem")?;
        let own_xds = Door { what: "Atlas's xDS port", at: SocketAddr::new(scene.hub.atlas.options.listen, 6305) };
        attempt(&scene.hub.place.host, &own_xds, Some(&boot))?;
        let from = scene.hub.atlas.options.from.clone();
        scene.hub.atlas.command(&["cluster-remove", "paris", "--from", from.to_str().context("UTF-8")?])?;
        refused(&scene.hub.place.host, &own_xds, "a removed cluster's credential", Some(&boot))?;
        assert!(!from.join("paris.yaml").exists());
        let status = scene.hub.atlas.status()?;
        assert!(!status["nodes"].to_string().contains("paris"), "its streams are closed: {status:#}");
        assert_eq!(scene.hub.web("/prom/paris/")?.status, 404);
        assert_eq!(scene.hub.web("/prom/tokyo/-/healthy")?.status, 200);
        // Its Envoy, whose connection was open all the time, is not let in again, nor when a cluster of that name returns.
        let manifest = "apiVersion: v1\nkind: Service\nmetadata: {name: paris, labels: {goatlas.io/cluster: \"true\"}}\nspec: {externalIPs: [10.91.250.1]}\n";
        scene.hub.atlas.write_manifest("paris.yaml", manifest)?;
        std::thread::sleep(Duration::from_secs(8));
        let status = scene.hub.atlas.status()?;
        let nodes = status["nodes"].as_array().cloned().unwrap_or_default();
        let paris = nodes.iter().find(|node| node["node"] == "paris").context("paris is back")?;
        assert_eq!(paris["instances"], serde_json::json!([]), "the old Envoy has the new cluster's configuration");
        assert_eq!(paris["revision"], 2);
        scene.hub.atlas.remove_manifest("paris.yaml")?;
        scene.clusters.retain(|cluster| cluster.name == "tokyo");
        scene.wait_connected()?;
    }
}

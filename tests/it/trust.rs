//! Which clients each mutual-TLS port accepts: untrusted clients, other clusters, and credentials
//! that belong to another port.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use atlas_core::text::is_plain;
use atlas_lab::parts::Part;
use atlas_lab::scene::Scene;
use atlas_lab::tls::trusting_client;
use atlas_lab::world::Host;
use atlas_lab::world_test;
use rustls::SupportedProtocolVersion;
use rustls_pki_types::ServerName;

use crate::atlas;

type Tls = rustls::StreamOwned<rustls::ClientConnection, TcpStream>;

/// A connection whose handshake happens with the first byte.
fn dial(
    at: SocketAddr,
    pem: Option<&str>,
    version: &'static SupportedProtocolVersion,
    alpn: &[&[u8]],
) -> Result<Tls> {
    let config = trusting_client(pem, version, alpn)?;
    let tcp = TcpStream::connect_timeout(&at, Duration::from_secs(3)).context("connect")?;
    tcp.set_read_timeout(Some(Duration::from_secs(5)))?;
    Ok(Tls::new(rustls::ClientConnection::new(Arc::new(config), ServerName::from(at.ip()))?, tcp))
}

/// Connects, shakes hands, and speaks HTTP/2 until the server answers. With TLS 1.3 a refusal comes
/// after the handshake.
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

/// A certificate for a SPIFFE ID of Atlas's trust domain, signed by another authority.
fn untrusted(uri: &str) -> Result<String> {
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

/// A port under test, and its name for messages.
struct Port {
    name: &'static str,
    address: SocketAddr,
}

/// Connects from a host. The hub's host reaches every port.
fn attempt(from: &Host, port: &Port, pem: Option<&str>) -> Result<()> {
    from.within(|| connect(port.address, pem, &rustls::version::TLS13))
}

fn expect_refused(from: &Host, port: &Port, client: &str, pem: Option<&str>) -> Result<()> {
    match attempt(from, port, pem) {
        Ok(()) => bail!("{} accepts {client}", port.name),
        Err(error) => {
            println!("{} refuses {client}: {error:#}", port.name);
            Ok(())
        }
    }
}

/// A PEM file of the state directory.
fn read_pem(state: &Path, file: &str) -> Result<String> {
    let path = state.join("pki").join(file);
    std::fs::read_to_string(&path).with_context(|| path.display().to_string())
}

world_test! {
    needs [Envoy, Thanos, Prometheus, Alertmanager, CoreDns],
    fn every_mutual_tls_port_accepts_its_own_clients_only(world) {
        let scene = Scene::start(world, atlas(), Part::Prometheus)?;
        let hub = &scene.hub.place.host;
        let state = scene.hub.atlas.options.state.clone();
        let port = |name, ip: IpAddr, port| Port { name, address: SocketAddr::new(ip, port) };
        let (hub_ip, tokyo_ip) = (scene.hub.place.envoy, scene.clusters[0].place.envoy);
        let xds = port("the xDS port behind the hub's 10900", hub_ip, 10900);
        let own_xds = port("Atlas's own xDS port 6305", scene.hub.atlas.options.listen, 6305);
        let alerts = port("the hub's alert port 10903", hub_ip, 10903);
        let inbound = port("tokyo's port 11901", tokyo_ip, 11901);

        let hub_leaf = read_pem(&state, "hub.pem")?;
        let (tokyo, paris) = (read_pem(&state, "cluster.tokyo.pem")?, read_pem(&state, "cluster.paris.pem")?);
        let tokyo_boot = read_pem(&state, "bootstrap.tokyo.pem")?;
        let atlas_leaf = read_pem(&state, "atlas.pem")?;

        // Clients that belong there.
        for (port, pem) in [(&xds, &tokyo_boot), (&own_xds, &tokyo_boot), (&own_xds, &hub_leaf), (&alerts, &tokyo), (&alerts, &paris), (&inbound, &hub_leaf)] {
            attempt(hub, port, Some(pem)).with_context(|| format!("{} refuses a client that belongs there", port.name))?;
        }
        // No certificate, untrusted certificates, and TLS 1.2.
        for port in [&xds, &own_xds, &alerts, &inbound] {
            expect_refused(hub, port, "a client without a certificate", None)?;
            for uri in ["spiffe://atlas/hub", "spiffe://atlas/cluster/tokyo/1", "spiffe://atlas/bootstrap/tokyo/1"] {
                expect_refused(hub, port, &format!("an untrusted client that claims to be {uri}"), Some(&untrusted(uri)?))?;
            }
            let old = hub.within(|| connect(port.address, Some(&hub_leaf), &rustls::version::TLS12));
            assert!(old.is_err(), "{} speaks TLS 1.2", port.name);
        }
        // Trusted clients on a port that isn't theirs.
        expect_refused(hub, &inbound, "another cluster's leaf", Some(&paris))?;
        expect_refused(hub, &inbound, "its own leaf", Some(&tokyo))?;
        expect_refused(hub, &inbound, "a bootstrap credential", Some(&tokyo_boot))?;
        expect_refused(hub, &inbound, "Atlas's leaf", Some(&atlas_leaf))?;
        expect_refused(hub, &alerts, "a bootstrap credential", Some(&tokyo_boot))?;
        expect_refused(hub, &alerts, "the hub's leaf", Some(&hub_leaf))?;
        for port in [&xds, &own_xds] {
            expect_refused(hub, port, "a cluster's leaf", Some(&tokyo))?;
            expect_refused(hub, port, "Atlas's own leaf", Some(&atlas_leaf))?;
        }
        // On the alert port a client can post alerts and nothing else.
        let ask = |method: &'static str, path: &'static str| hub.within(|| request(alerts.address, &tokyo, method, path, "[]"));
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
        // No private key is in a log.
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
    fn an_envoy_with_a_foreign_node_id_gets_its_own_configuration(world) {
        let mut scene = Scene::start(world, atlas(), Part::Prometheus)?;
        // Paris's Envoy starts again as "tokyo", and what nobody sees behind it, with paris's
        // credential.
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
        let boot = read_pem(&state, "bootstrap.paris.pem")?;
        let own_xds = Port { name: "Atlas's xDS port", address: SocketAddr::new(scene.hub.atlas.options.listen, 6305) };
        attempt(&scene.hub.place.host, &own_xds, Some(&boot))?;
        let from = scene.hub.atlas.options.from.clone();
        scene.hub.atlas.command(&["cluster-remove", "paris", "--from", from.to_str().context("UTF-8")?])?;
        expect_refused(&scene.hub.place.host, &own_xds, "a removed cluster's credential", Some(&boot))?;
        assert!(!from.join("paris.yaml").exists());
        let status = scene.hub.atlas.status()?;
        assert!(!status["nodes"].to_string().contains("paris"), "its streams are closed: {status:#}");
        assert_eq!(scene.hub.web("/prom/paris/")?.status, 404);
        assert_eq!(scene.hub.web("/prom/tokyo/-/healthy")?.status, 200);
        // Its Envoy, whose connection was open all the time, is not let in again, nor when a
        // cluster of that name returns.
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

//! What Thanos Query says where it, or a sidecar, is set up in a way that can't work.

use std::io::Read;
use std::net::{SocketAddr, TcpListener};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use atlas_lab::parts::{self, Part};
use atlas_lab::process::wait_until;
use atlas_lab::run::{CoreDns, Endpoints, Query, QueryOptions, Sidecar, SidecarOptions};
use atlas_lab::scene::{Cluster, ClusterOptions, Hub, HubOptions, Place};
use atlas_lab::world_test;

use crate::atlas;

const SRV: &str = "_thanos._tcp.sidecars.thanos.atlas";
const LONG: Duration = Duration::from_secs(60);

/// Another Query on the hub, on ports of its own.
fn query(hub: &Hub, number: u16, endpoint: &str, env: &[(&str, String)]) -> Result<Query> {
    let ip = hub.place.programs[4];
    let at = |base| SocketAddr::new(ip, base + number);
    let options = QueryOptions {
        env: env.iter().map(|(key, value)| ((*key).to_owned(), value.clone())).collect(),
        ..QueryOptions::new(at(20_000), at(21_000), [Endpoints::Address(endpoint.into())])
    };
    let mut query = Query::start(
        &hub.place.host,
        &format!("query-{number}"),
        &parts::get(Part::Thanos)?,
        &options,
    )?;
    query.wait_ready()?;
    Ok(query)
}

/// Waits until its log says something.
fn wait_says(query: &Query, words: &[&str]) -> Result<()> {
    wait_until("Thanos Query says why", LONG, || {
        let log = query.process.log();
        let line = log.lines().find(|line| words.iter().all(|word| line.contains(word)));
        ensure!(line.is_some(), "no line with {words:?} in:\n{log}");
        println!("{}", line.unwrap_or_default());
        Ok(Some(()))
    })
}

/// An HTTP proxy that hangs up on everybody, and tells what it was asked for.
fn proxy(listener: TcpListener) -> mpsc::Receiver<String> {
    let (asked, of_proxy) = mpsc::channel();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut head = [0; 256];
            let length = stream.and_then(|mut stream| stream.read(&mut head)).unwrap_or(0);
            if asked.send(String::from_utf8_lossy(&head[..length]).into_owned()).is_err() {
                break;
            }
        }
    });
    of_proxy
}

/// A certificate for anybody, and its key, as files.
fn certificate(place: &Place) -> Result<[String; 2]> {
    let made = rcgen::generate_simple_self_signed(["sidecar".to_owned()])?;
    let cert = place.host.write("sidecar.crt", made.cert.pem())?;
    let key = place.host.write("sidecar.key", made.signing_key.serialize_pem())?;
    Ok([cert.display().to_string(), key.display().to_string()])
}

world_test! {
    needs [Envoy, Thanos, Prometheus, Alertmanager, CoreDns],
    fn a_query_that_is_set_up_wrongly_says_why_it_has_no_stores(world) {
        let mut hub = Hub::start(Place::in_world(world, "hub")?, HubOptions::new(atlas()))?;
        let place = Place::in_world(world, "tokyo")?;
        let stores = [place.programs[0], place.programs[3]].map(|ip| ip.to_string()).join(",");
        let annotations = vec![("goatlas.io/shards".into(), "2".into()), ("goatlas.io/thanos-replica-hosts".into(), stores)];
        let tokyo = Cluster::start(place, &mut hub, ClusterOptions { annotations, replicas: 1, ..ClusterOptions::new("tokyo") })?;
        // The second store's gRPC has TLS.
        let [cert, key] = certificate(&tokyo.place)?;
        let ip = tokyo.place.programs[3];
        let with_tls = SidecarOptions {
            extra: vec![format!("--grpc-server-tls-cert={cert}"), format!("--grpc-server-tls-key={key}")],
            ..SidecarOptions::new(SocketAddr::new(ip, 10901), SocketAddr::new(ip, 10902), tokyo.prometheus[0].url())
        };
        let mut with_tls = Sidecar::start(&tokyo.place.host, "tokyo-sidecar-tls", &parts::get(Part::Thanos)?, &with_tls)?;
        with_tls.wait_ready()?;
        hub.wait_synced(["tokyo"])?;
        hub.query.wait_stores(1, LONG)?;
        wait_says(&hub.query, &["tokyo-thanos-sidecar1", "--grpc-server-tls-cert"])?;

        // From here on the hub knows no store's address but by DNS.
        hub.place.host.write_hosts([])?;
        let ip = hub.place.programs[3];
        let corefile = format!("atlas:53 {{\n  bind {ip}\n  forward . 127.0.0.1:5353\n  errors\n}}\n");
        let mut dns = CoreDns::start(&hub.place.host, "coredns", &parts::get(Part::CoreDns)?, SocketAddr::new(ip, 53), &corefile)?;
        dns.wait_ready()?;
        hub.place.host.write_resolv_conf(&format!("nameserver {ip}\n"))?;
        // By an address as the authority.
        for (number, endpoint) in [(1, format!("dnssrv+{SRV}")), (2, "dns+tokyo-thanos-sidecar0.sidecars.thanos.atlas:10901".into())] {
            let query = query(&hub, number, &endpoint, &[])?;
            wait_says(&query, &["Unavailable", "Atlas knows no such store", "dnssrvnoa+"])?;
        }
        // Through a proxy.
        let at = SocketAddr::new(hub.place.programs[4], 3128);
        let asked = proxy(hub.place.host.within(|| Ok(TcpListener::bind(at)?))?);
        let variable = ("HTTPS_PROXY", format!("http://{at}"));
        let endpoint = format!("dnssrvnoa+{SRV}");
        let by_proxy = query(&hub, 3, &endpoint, std::slice::from_ref(&variable))?;
        let first = asked.recv_timeout(LONG).context("nobody asked the proxy")?;
        assert!(first.starts_with("CONNECT tokyo-thanos-sidecar"), "{first}");
        wait_says(&by_proxy, &["DeadlineExceeded", "Error while dialing"])?;
        // By the names of the zone, and by those that Services have.
        let service = "tokyo-thanos-sidecar0.monitoring.svc.cluster.local";
        hub.place.host.write_hosts([(hub.place.envoy, service)])?;
        for (number, endpoint, exception) in [(4, endpoint.as_str(), ".thanos.atlas"), (5, &format!("{service}:10901"), ".svc.cluster.local")] {
            let mut past_it = query(&hub, number, endpoint, &[variable.clone(), ("NO_PROXY", exception.into())])?;
            past_it.wait_stores(1, LONG)?;
        }
    }
}

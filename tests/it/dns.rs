//! Thanos Query finds the stores by DNS: through Atlas's own server, and through CoreDNS with the
//! file that Atlas writes. BIND loads that file too, and its secondaries follow.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use atlas_core::thanos::zone::is_later;
use atlas_lab::parts::{self, Part};
use atlas_lab::process::wait_until;
use atlas_lab::run::bind::{Role, check_zone};
use atlas_lab::run::{CoreDns, Endpoints, Named, Query, QueryOptions, StoreInfo};
use atlas_lab::scene::{Atlas, AtlasOptions, Hub, Scene};
use atlas_lab::world::Host;
use atlas_lab::{http, world_test};
use hickory_proto::op::Message;
use hickory_proto::rr::{Name, RData, RecordType};
use rustix::process::Signal;
use serde_json::json;

use crate::atlas;

const STORES: &str = "dnssrvnoa+_thanos._tcp.sidecars.thanos.atlas";
/// Everything here asks again every second, but Go reads a new resolv.conf only after 5 s.
const SOON: Duration = Duration::from_secs(30);

world_test! {
    needs [Envoy, Thanos, Prometheus, Alertmanager, CoreDns],
    fn thanos_query_finds_the_stores_by_dns(world) {
        let scene = Scene::start(world, atlas(), Part::Prometheus)?;
        // From here on the hub knows no store's address but by DNS.
        scene.hub.place.host.write_hosts([])?;
        let hub = &scene.hub;
        let [forwarding, serving] = [hub.place.programs[3], hub.place.programs[4]];

        // A cluster's DNS with Atlas's own server behind it.
        let forward = format!("atlas:53 {{\n  bind {forwarding}\n  forward . 127.0.0.1:5353\n  errors\n}}\n");
        let (_stub, mut by_server) = query_through(hub, "by-server", forwarding, &forward)?;
        wait_four(&mut by_server)?;
        let asked = metric(hub, "atlas_dns_queries_total")?;
        ensure!(asked > 0.0, "Atlas has not been asked");
        println!("through Atlas's DNS server, asked {asked} times: 4 stores, each with its labels");

        // A cluster's DNS with the zone's file.
        let zone = hub.atlas.options.state.join("atlas.zone");
        let file = format!("atlas:53 {{\n  bind {serving}\n  file {} atlas {{\n    reload 1s\n  }}\n  errors\n}}\n", zone.display());
        let (_file, mut by_file) = query_through(hub, "by-file", serving, &file)?;
        wait_four(&mut by_file)?;
        println!("through CoreDNS with atlas.zone: 4 stores, each with its labels");

        // Changes. (Go keeps no answers, and CoreDNS only with its plugin `cache`.)
        hub.place.host.write_resolv_conf(&format!("nameserver {forwarding}\n"))?;
        let paris = std::fs::read_to_string(hub.atlas.options.from.join("paris.yaml"))?;
        hub.atlas.remove_manifest("paris.yaml")?;
        by_server.wait_stores(2, SOON)?;
        // So many more that an answer over UDP is cut off and everyone must come back over TCP.
        hub.atlas.write_manifest("paris.yaml", &paris)?;
        hub.atlas.write_manifest("many.json", &many(20))?;
        wait_found(hub, &by_server, 44)?;
        println!("a cluster removed, and twenty added: 2 and 44 stores through Atlas's DNS server");
        hub.place.host.write_resolv_conf(&format!("nameserver {serving}\n"))?;
        wait_found(hub, &by_file, 44)?;
        hub.atlas.remove_manifest("many.json")?;
        wait_four(&mut by_file)?;
        println!("the same through CoreDNS with atlas.zone: 44 stores, and 4 again");
    }
}

world_test! {
    needs [Bind],
    fn bind_loads_the_zone_and_a_secondary_follows_every_change(world) {
        let host = world.host("hub")?;
        let [hub, primary, secondary] = [host.ip(), host.add_ip()?, host.add_ip()?].map(IpAddr::from);
        let (named, state, from) = (parts::get(Part::Bind)?, host.dir().join("state"), host.dir().join("clusters"));
        std::fs::create_dir_all(&from)?;
        let extra = vec![format!("--hub-address={hub}")];
        let options = AtlasOptions { program: atlas().to_owned(), from, state, listen: Ipv4Addr::LOCALHOST.into(), extra };
        let mut atlas = Atlas::start(&host, "atlas", options)?;
        let file = atlas.options.state.join("atlas.zone");
        let mut servers = None;
        let mut last: Option<u32> = None;
        // There and back again, with and without clusters, with and without a restart of Atlas.
        for (step, count) in [1, 2, 1, 0, 1, 1, 2].into_iter().enumerate() {
            let before = std::fs::read_to_string(&file).unwrap_or_default();
            atlas.write_manifest("some.json", &many(count))?;
            if step == 4 {
                atlas.kill_and_restart()?;
            }
            if step == 5 {
                atlas.kill_and_restart()?;
                ensure!(std::fs::read_to_string(&file)? == before, "a restart has changed the file");
                continue;
            }
            let stores = |text: &str| text.matches("_thanos._tcp").count();
            wait_until("the file", SOON, || {
                let text = std::fs::read_to_string(&file)?;
                ensure!(stores(&text) == 2 * count && text != before, "{text}");
                Ok(Some(()))
            })?;
            let said = check_zone(&named, "atlas", &file)?;
            // It hears of a change when the file has been written.
            let serial = wait_until("Atlas's own server says the same", SOON, || {
                let serial = soa(&host, SocketAddr::new(atlas.options.listen, 5353))?;
                ensure!(said.contains(&format!("loaded serial {serial}\n")), "it says {serial}, and the file {said}");
                Ok(Some(serial))
            })?;
            ensure!(last.is_none_or(|last| is_later(serial, last)), "{serial} after {last:?}");
            last = Some(serial);
            let (first, _second) = match &mut servers {
                Some(servers) => servers,
                None => servers.insert((
                    Named::start(&host, "primary", &named, primary, "atlas", &Role::Primary(&file, secondary))?,
                    Named::start(&host, "secondary", &named, secondary, "atlas", &Role::SecondaryOf(primary))?,
                )),
            };
            // The first time it may not have installed its handler yet.
            wait_until("the primary server has the file", SOON, || {
                if soa(&host, SocketAddr::new(primary, 53))? == serial {
                    return Ok(Some(()));
                }
                first.process.signal(Signal::HUP)?;
                Ok(None)
            })?;
            wait_until("the secondary server follows", SOON, || Ok((soa(&host, SocketAddr::new(secondary, 53))? == serial).then_some(())))?;
            println!("{count} clusters, serial number {serial}: loaded by BIND, and followed by a secondary server");
        }
    }
}

/// The serial number of the zone `atlas` that a server says.
pub(crate) fn soa(host: &Host, server: SocketAddr) -> Result<u32> {
    let mut query = Message::query();
    query.add_query(hickory_proto::op::Query::query(Name::from_ascii("atlas.")?, RecordType::SOA));
    let bytes = query.to_vec()?;
    let answer = host.within(|| {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
        socket.set_read_timeout(Some(Duration::from_secs(2)))?;
        socket.connect(server)?;
        socket.send(&bytes)?;
        let mut answer = [0; 1500];
        let length = socket.recv(&mut answer)?;
        Ok(answer[..length].to_vec())
    })?;
    let serial = Message::from_vec(&answer)?.answers.iter().find_map(|record| match &record.data {
        RData::SOA(soa) => Some(soa.serial),
        _ => None,
    });
    serial.with_context(|| format!("{server} has no SOA record"))
}

/// CoreDNS with a Corefile on an address of the hub, and a Query on the same address that resolves
/// by it.
fn query_through(hub: &Hub, name: &str, ip: IpAddr, corefile: &str) -> Result<(CoreDns, Query)> {
    let host = &hub.place.host;
    let mut dns = CoreDns::start(
        host,
        &format!("coredns-{name}"),
        &parts::get(Part::CoreDns)?,
        SocketAddr::new(ip, 53),
        corefile,
    )?;
    dns.wait_ready()?;
    host.write_resolv_conf(&format!("nameserver {ip}\n"))?;
    let options = QueryOptions::new(
        SocketAddr::new(ip, 10911),
        SocketAddr::new(ip, 10902),
        [Endpoints::Address(STORES.into())],
    );
    let mut query =
        Query::start(host, &format!("query-{name}"), &parts::get(Part::Thanos)?, &options)?;
    query.wait_ready()?;
    Ok((dns, query))
}

/// Two stores of each of the two clusters, each with the labels of exactly that replica.
fn wait_four(query: &mut Query) -> Result<()> {
    for store in query.wait_stores(4, SOON)? {
        let StoreInfo { name, labels, .. } = &store;
        let labels = labels.first().cloned().unwrap_or_default();
        let (cluster, replica) =
            (&labels["cluster"], labels["prometheus_replica"].replace("prometheus-", ""));
        ensure!(
            name.starts_with(&format!("{cluster}-thanos-sidecar{replica}.sidecars.thanos.atlas")),
            "{store:?}"
        );
    }
    Ok(())
}

/// So many stores are found, whether they answer or not: Query shows on its pages only what has
/// answered once.
fn wait_found(hub: &Hub, query: &Query, count: usize) -> Result<()> {
    let url = format!("http://{}/metrics", query.http);
    wait_until(&format!("{count} stores found"), SOON, || {
        let text = hub.place.host.within(|| http::get(&url))?.text();
        let found = text
            .lines()
            .find(|line| line.contains("dns_provider_results{") && line.contains(STORES));
        ensure!(found.is_some_and(|line| line.ends_with(&format!(" {count}"))), "{found:?}");
        Ok(Some(()))
    })
}

/// Clusters of two stores each, at addresses where nothing listens.
fn many(count: usize) -> String {
    let cluster = |n: usize| {
        json!({
            "apiVersion": "v1", "kind": "Service",
            "metadata": {
                "name": format!("far{n}"), "namespace": "monitoring",
                "labels": {"goatlas.io/cluster": "true", "goatlas.io/replicas": "2"},
                "annotations": {"goatlas.io/addresses": format!("10.91.250.{}", n + 1)},
            },
        })
    };
    json!({"apiVersion": "v1", "kind": "List", "items": (0..count).map(cluster).collect::<Vec<_>>()}).to_string()
}

fn metric(hub: &Hub, name: &str) -> Result<f64> {
    let text = hub.atlas.get(6309, "/metrics")?.text();
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok());
    value.ok_or_else(|| anyhow::anyhow!("there is no {name} in:\n{text}"))
}

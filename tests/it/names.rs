//! Host names whose addresses change while everything runs: what DNS says now counts, and where it
//! says nothing, what works goes on.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Result, ensure};
use atlas_lab::http;
use atlas_lab::parts::{self, Part};
use atlas_lab::process::wait_until;
use atlas_lab::run::{CoreDns, Envoy};
use atlas_lab::scene::{Cluster, ClusterOptions, Hub, HubOptions, Place, Scene};
use atlas_lab::world::Host;
use atlas_lab::world_test;

use crate::atlas;
use crate::web::replica;

/// An answer without addresses has no TTL, so Envoy asks again after 15 s; checks and Thanos take a
/// few seconds more.
const SOON: Duration = Duration::from_secs(60);
/// The flags of whichever Prometheus answers.
const FLAGS: &str = "/prom/tokyo/api/v1/status/flags";

/// What a zone of a host's own DNS server says.
enum Says<'a> {
    /// These addresses of these names, and that there are no others.
    Names(&'a [(&'a str, &'a [IpAddr])]),
    /// That these names are there, without an address.
    Nothing(&'a [&'a str]),
    /// SERVFAIL.
    Failure,
}

/// The DNS server of a host, for the zone `corp.example`.
struct Dns {
    host: Host,
    server: Option<CoreDns>,
    serial: u32,
}

impl Dns {
    fn start(host: &Host, says: &Says<'_>) -> Result<Self> {
        let mut dns = Self { host: host.clone(), server: None, serial: 0 };
        dns.say(says)?;
        host.write_resolv_conf("nameserver 127.0.0.1\noptions timeout:1 attempts:1\n")?;
        Ok(dns)
    }

    /// Another server says this from now on, and logs what it is asked.
    fn say(&mut self, says: &Says<'_>) -> Result<()> {
        self.stop()?;
        self.serial += 1;
        let mut zone = format!(
            "$TTL 1\n@ IN SOA ns.corp.example. a.corp.example. {} 60 60 60 1\n@ IN NS ns.corp.example.\n",
            self.serial
        );
        zone.push_str("ns IN A 127.0.0.1\n");
        let plugin = match says {
            Says::Names(names) => {
                let records = names.iter().flat_map(|(name, ips)| {
                    ips.iter().map(move |ip| format!("{name} IN A {ip}\n"))
                });
                zone.extend(records);
                "file zone"
            }
            Says::Nothing(names) => {
                zone.extend(names.iter().map(|name| format!("{name} IN TXT here\n")));
                "file zone"
            }
            Says::Failure => "template ANY ANY {\n    rcode SERVFAIL\n  }",
        };
        let name = format!("dns-{}", self.serial);
        self.host.write(&format!("{name}/zone"), zone)?;
        let corefile =
            format!("corp.example:53 {{\n  bind 127.0.0.1\n  log\n  errors\n  {plugin}\n}}\n");
        let listen = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 53);
        let mut server =
            CoreDns::start(&self.host, &name, &parts::get(Part::CoreDns)?, listen, &corefile)?;
        server.wait_ready()?;
        self.server = Some(server);
        Ok(())
    }

    fn stop(&mut self) -> Result<()> {
        self.server.take().map_or(Ok(()), |mut server| server.process.kill())
    }

    /// Waits until it has been asked for this name, and has given this answer.
    fn wait_asked(&mut self, name: &str, code: &str) -> Result<()> {
        let server = self.server.as_mut().expect("a server");
        let asked = |line: &str| {
            line.contains(&format!("A IN {name}.corp.example.")) && line.contains(code)
        };
        wait_until(&format!("{name} is asked for, {code}"), SOON, || {
            Ok(server.process.log().lines().any(asked).then_some(()))
        })
    }
}

/// The addresses that an Envoy cluster has, by what DNS says now.
fn addresses(envoy: &Envoy, cluster: &str) -> Result<BTreeSet<String>> {
    let text = envoy.admin_get("/clusters")?.ok()?.text();
    let of = [format!("{cluster}::"), format!("dns/{cluster}::")];
    let hosts = text
        .lines()
        .filter_map(|line| of.iter().find_map(|of| line.strip_prefix(of.as_str())))
        .filter_map(|rest| rest.split("::").next());
    Ok(hosts.filter(|host| host.contains(':')).map(str::to_owned).collect())
}

fn wait_addresses(envoy: &Envoy, cluster: &str, ips: &[IpAddr], port: u16) -> Result<()> {
    let wanted: BTreeSet<String> =
        ips.iter().map(|ip| SocketAddr::new(*ip, port).to_string()).collect();
    wait_until(&format!("{cluster} is at {wanted:?}"), SOON, || {
        let now = addresses(envoy, cluster)?;
        ensure!(now == wanted, "it is at {now:?}");
        Ok(Some(()))
    })
}

/// Requests to tokyo's Prometheus, all of which this replica answers, and a post of no alerts to
/// the hub's Alertmanager.
fn ask(hub: &Hub, tokyo: &Cluster, at: IpAddr, what: &str) -> Result<()> {
    for n in 0..20 {
        let answer = hub.web(FLAGS)?;
        ensure!(answer.status == 200, "{what}: request {n}: {} {}", answer.status, answer.text());
        let by = replica(&answer)?;
        ensure!(
            by == SocketAddr::new(at, 9090).to_string(),
            "{what}: request {n} came to {by}, not to {at}"
        );
    }
    // The way back: alerts, by the hub's name.
    let url = format!(
        "http://{}/alertmanager/0/api/v2/alerts",
        SocketAddr::new(tokyo.place.envoy, 11903)
    );
    let posted = tokyo.place.host.within(|| http::post_json(&url, &serde_json::json!([])))?;
    ensure!(posted.status == 200, "{what}: a post of alerts: {} {}", posted.status, posted.text());
    println!("{what}: 20 of 20 requests answered by {at}");
    Ok(())
}

/// Waits until both stores are there, each with the labels of these replicas.
fn wait_stores(hub: &mut Hub, replicas: [usize; 2]) -> Result<()> {
    let query = &hub.query;
    wait_until(&format!("stores 0 and 1 are replicas {replicas:?}"), SOON, || {
        let stores = query.stores()?;
        let is = |n: usize| {
            let store = stores
                .iter()
                .find(|store| store.name.starts_with(&format!("tokyo-thanos-sidecar{n}.")));
            let label =
                store.and_then(|store| store.labels.first()?.get("prometheus_replica").cloned());
            label == Some(format!("prometheus-{}", replicas[n]))
        };
        ensure!(is(0) && is(1), "{stores:?}");
        Ok(Some(()))
    })
}

fn names_move(world: &atlas_lab::world::World, envoy: Part) -> Result<()> {
    let (at_hub, at_tokyo) = (Place::in_world(world, "hub")?, Place::in_world(world, "tokyo")?);
    let [p0, p1, alertmanager, other, _] = at_tokyo.programs[..] else { panic!("five addresses") };
    let first = at_tokyo.envoy;
    // Nobody has it.
    let dead: IpAddr = Ipv4Addr::new(10, 91, 250, 1).into();
    let hub_envoy = at_hub.envoy;
    let inside = |p0: IpAddr, p1: IpAddr| {
        [
            ("store-0", vec![p0]),
            ("store-1", vec![p1]),
            ("prometheus", vec![p0]),
            ("am", vec![alertmanager]),
            ("hub", vec![hub_envoy]),
        ]
    };
    fn says<'a>(names: &'a [(&'a str, Vec<IpAddr>)]) -> Vec<(&'a str, &'a [IpAddr])> {
        names.iter().map(|(name, ips)| (*name, ips.as_slice())).collect()
    }
    let mut hub_dns = Dns::start(&at_hub.host, &Says::Names(&[("tokyo", &[first])]))?;
    let mut dns = Dns::start(&at_tokyo.host, &Says::Names(&says(&inside(p0, p1))))?;
    let mut hub = Hub::start(at_hub, HubOptions { envoy, ..HubOptions::new(atlas()) })?;
    let annotations = [
        ("addresses", "tokyo.corp.example"),
        ("thanos-replica-hosts", "store-0.corp.example,store-1.corp.example"),
        ("prometheus-service", "prometheus.corp.example"),
        ("alertmanager-service", "am.corp.example"),
        ("hub-addresses", "hub.corp.example"),
    ];
    let annotations =
        annotations.map(|(key, value)| (format!("goatlas.io/{key}"), value.to_owned())).into();
    let options =
        ClusterOptions { envoy, annotations, own_dns: false, ..ClusterOptions::new("tokyo") };
    let cluster = Cluster::start(at_tokyo, &mut hub, options)?;
    let mut scene = Scene { hub, clusters: vec![cluster] };
    scene.wait_connected()?;
    let Scene { hub, clusters } = &mut scene;
    let cluster = &clusters[0];
    let tokyo = &cluster.envoy;
    wait_stores(hub, [0, 1])?;
    ask(hub, cluster, p0, "at first")?;

    // Everything moves, and all that was there before goes on answering.
    hub_dns.say(&Says::Names(&[("tokyo", &[other])]))?;
    dns.say(&Says::Names(&says(&inside(p1, p0))))?;
    wait_addresses(&hub.envoy, "cluster/tokyo", &[other], 11901)?;
    for (name, ip, port) in [
        ("store/tokyo-thanos-sidecar0", p1, 10901),
        ("store/tokyo-thanos-sidecar1", p0, 10901),
        ("backend/prometheus", p1, 9090),
    ] {
        wait_addresses(tokyo, name, &[ip], port)?;
    }
    ask(hub, cluster, p1, "moved")?;
    wait_stores(hub, [1, 0])?;

    // Answers without an address, and no answers: everything stays where it was last.
    hub_dns.say(&Says::Names(&[]))?;
    dns.say(&Says::Names(&[]))?;
    wait_addresses(&hub.envoy, "cluster/tokyo", &[], 11901)?;
    wait_addresses(tokyo, "backend/prometheus", &[], 9090)?;
    wait_addresses(tokyo, "hub/alerts", &[], 10903)?;
    wait_addresses(tokyo, "store/tokyo-thanos-sidecar0", &[], 10901)?;
    ask(hub, cluster, p1, "NXDOMAIN")?;
    wait_stores(hub, [1, 0])?;
    hub_dns.say(&Says::Nothing(&["tokyo"]))?;
    dns.say(&Says::Nothing(&["store-0", "store-1", "prometheus", "am", "hub"]))?;
    hub_dns.wait_asked("tokyo", "NOERROR")?;
    dns.wait_asked("prometheus", "NOERROR")?;
    dns.wait_asked("store-0", "NOERROR")?;
    ask(hub, cluster, p1, "NOERROR, no address")?;
    hub_dns.say(&Says::Failure)?;
    dns.say(&Says::Failure)?;
    hub_dns.wait_asked("tokyo", "SERVFAIL")?;
    dns.wait_asked("prometheus", "SERVFAIL")?;
    ask(hub, cluster, p1, "SERVFAIL")?;
    let failed = || tokyo.stat("cluster.backend/prometheus.update_failure");
    let before = failed()?;
    hub_dns.stop()?;
    dns.stop()?;
    wait_until("an answer that doesn't come", SOON, || Ok((failed()? > before).then_some(())))?;
    ask(hub, cluster, p1, "no DNS server")?;
    wait_stores(hub, [1, 0])?;

    // It is back, and one of two addresses is dead: the other one does.
    hub_dns.say(&Says::Names(&[("tokyo", &[dead, first])]))?;
    dns.say(&Says::Names(&says(&inside(p0, p1))))?;
    wait_addresses(&hub.envoy, "cluster/tokyo", &[dead, first], 11901)?;
    wait_addresses(tokyo, "backend/prometheus", &[p0], 9090)?;
    wait_until("the first address is checked", SOON, || {
        let text = hub.envoy.admin_get("/clusters")?.text();
        let healthy = |ip: IpAddr| {
            text.lines().any(|line| line.contains(&format!("{ip}:11901::health_flags::healthy")))
        };
        Ok((healthy(first) && !healthy(dead)).then_some(()))
    })?;
    ask(hub, cluster, p0, "one of two addresses is dead")?;
    wait_stores(hub, [0, 1])
}

world_test! {
    needs [Envoy, Thanos, Prometheus, Alertmanager, CoreDns],
    fn what_dns_says_now_counts_and_nothing_goes_where_it_says_nothing(world) {
        names_move(world, Part::Envoy)?;
    }
}

world_test! {
    needs [EnvoyOldest, Thanos, Prometheus, Alertmanager, CoreDns],
    fn names_are_followed_alike_by_the_oldest_envoy(world) {
        names_move(world, Part::EnvoyOldest)?;
    }
}

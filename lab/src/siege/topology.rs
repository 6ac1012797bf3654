//! The system under attack: a hub, two honest clusters, a hostile one, and credentials of others.
//!
//! ```text
//! hub         Atlas, Envoy, two Alertmanagers, Thanos Query
//! tokyo       two Envoys on two hosts; Prometheus 2.42, which sends alerts to its own Alertmanager
//!             too; a sidecar
//! paris       an Envoy, Prometheus 3, a sidecar, an Alertmanager
//! osaka       an Envoy and the hostile store (`hostile_store`); the attackers have its leaf and
//!             its bootstrap credential
//! attacker00… clusters without Envoys, whose bootstrap credentials the attackers have
//! kyoto       the same, but honest
//! attackers   a host that the attackers connect from
//! ```

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_json::json;

use super::dial::Endpoint;
use super::{grpc, hostile_store};
use crate::parts::{self, Part};
use crate::process::wait_until;
use crate::run::{Alertmanager, CoreDns, Envoy, EnvoyOptions, START};
use crate::scene::{Cluster, ClusterOptions, Hub, HubOptions, Place};
use crate::world::{Host, World};

/// The programs that a siege needs.
pub const PARTS: &[Part] = &[
    Part::Envoy,
    Part::Thanos,
    Part::Prometheus,
    Part::PrometheusClassic,
    Part::Alertmanager,
    Part::CoreDns,
];

/// Clusters without an Envoy whose bootstrap credentials the attackers have.
pub(super) const ATTACKER_CLUSTERS: usize = 24;

/// Path of the hub's first Alertmanager at 10903.
pub(super) const ALERTS_PATH: &str = "/alertmanager/0/api/v2/alerts";

/// An HTTP/2 endpoint, and a request that it accepts.
#[derive(Clone)]
pub(super) struct Http2Target {
    pub(super) endpoint: Endpoint,
    pub(super) authority: &'static str,
    pub(super) path: &'static str,
}

/// The running programs.
pub struct SiegeTopology {
    pub(super) hub: Hub,
    pub(super) tokyo: Cluster,
    pub(super) paris: Cluster,
    /// `tokyo`'s second Envoy, on a host of its own.
    pub(super) tokyo_b: (Host, Envoy),
    pub(super) osaka: Envoy,
    /// The DNS servers of `tokyo-b` and `osaka`.
    _dns: [CoreDns; 2],
    pub(super) attacker_host: Host,
    /// The hub's second Alertmanager, which an attack stalls.
    pub(super) second_alertmanager: Mutex<Alertmanager>,
    /// While an attack silences the hub's alerting: when this must have been noticed.
    pub(super) failover_deadline: Mutex<Option<Instant>>,
}

impl SiegeTopology {
    /// Starts all programs and waits until every Envoy is in sync.
    ///
    /// # Errors
    /// A program doesn't start, or an Envoy isn't in sync in time.
    pub fn start(world: &World, atlas: &Path) -> Result<Self> {
        let limit = getrlimit(Resource::Nofile);
        setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum })
            .context("cannot raise the limit of open files")?;
        let mut hub = Hub::start(Place::in_world(world, "hub")?, HubOptions::new(atlas))?;
        for name in (0..ATTACKER_CLUSTERS).map(attacker_cluster).chain(["kyoto".to_owned()]) {
            hub.atlas.write_manifest(&format!("{name}.yaml"), &service(&name, &[]))?;
        }
        let second_host = world.host("tokyo-b")?;
        let place = Place::in_world(world, "tokyo")?;
        let addresses = format!("{},{}", place.envoy, second_host.ip());
        let tokyo = ClusterOptions {
            prometheus: Part::PrometheusClassic,
            replicas: 1,
            local_alerts: true,
            annotations: vec![("goatlas.io/addresses".into(), addresses)],
            ..ClusterOptions::new("tokyo")
        };
        let tokyo = Cluster::start(place, &mut hub, tokyo)?;
        let (second, second_dns) = start_second_envoy(&hub, &tokyo, &second_host)?;
        let paris = ClusterOptions { replicas: 1, ..ClusterOptions::new("paris") };
        let paris = Cluster::start(Place::in_world(world, "paris")?, &mut hub, paris)?;
        let (osaka, osaka_dns) = start_hostile_cluster(&hub, Place::in_world(world, "osaka")?)?;
        hub.resolve_stores()?;
        let second_alertmanager =
            hub.alertmanagers.pop().context("BUG: a hub with two Alertmanagers")?;
        let topology = Self {
            hub,
            tokyo,
            paris,
            tokyo_b: (second_host, second),
            osaka,
            _dns: [second_dns, osaka_dns],
            attacker_host: world.host("attackers")?,
            second_alertmanager: Mutex::new(second_alertmanager),
            failover_deadline: Mutex::new(None),
        };
        topology.hub.wait_synced(["tokyo", "paris", "osaka"])?;
        Ok(topology)
    }

    /// The address of a port of the hub's Envoy.
    pub(super) fn hub_port(&self, port: u16) -> SocketAddr {
        SocketAddr::new(self.hub.place.envoy, port)
    }

    /// The PEM file of a credential in Atlas's state directory: `cluster.osaka` is a leaf,
    /// `bootstrap.osaka` a bootstrap credential.
    pub(super) fn credential(&self, name: &str) -> Result<String> {
        let path = self.hub.atlas.options.state.join("pki").join(format!("{name}.pem"));
        std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
    }

    /// The HTTP/2 endpoints that accept the attackers' credentials: stores, alerts, xDS.
    pub(super) fn http2_targets(&self) -> Result<Vec<Http2Target>> {
        let alerts = Endpoint::tls(self.hub_port(10903), Some(&self.credential("cluster.osaka")?))?;
        let xds = Endpoint::tls(self.hub_port(10900), Some(&self.credential("bootstrap.osaka")?))?;
        Ok(vec![
            Http2Target {
                endpoint: Endpoint::plain(self.hub_port(10901)),
                authority: "osaka-thanos-sidecar0",
                path: hostile_store::LARGE_ANSWER,
            },
            Http2Target { endpoint: alerts, authority: "hub", path: ALERTS_PATH },
            Http2Target { endpoint: xds, authority: "atlas", path: grpc::DELTA_PATH },
        ])
    }

    /// The ports that are reachable without a certificate: four of the hub, one of a cluster.
    pub(super) fn ports(&self) -> Vec<SocketAddr> {
        let hub = [10900, 10901, 10903, 10904].map(|port| self.hub_port(port));
        hub.into_iter().chain([SocketAddr::new(self.tokyo.place.envoy, 11901)]).collect()
    }

    /// `wanted` connections, or as many as the limit of open files allows.
    pub(super) fn limited_by_open_files(&self, wanted: usize) -> usize {
        let files = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
        // The hub's Envoy has the same limit, and two sockets for each connection at 10900.
        wanted.min(usize::try_from(files.saturating_sub(2_000) / 2).unwrap_or(usize::MAX))
    }

    /// Restarts Atlas and all Envoys, so that no state or memory of an attack is left.
    ///
    /// # Errors
    /// A program doesn't start, or an Envoy isn't in sync in time.
    pub fn restart_all(&mut self) -> Result<()> {
        self.hub.atlas.kill_and_restart()?;
        for envoy in [
            &mut self.hub.envoy,
            &mut self.tokyo.envoy,
            &mut self.tokyo_b.1,
            &mut self.paris.envoy,
            &mut self.osaka,
        ] {
            envoy.process.kill()?;
            envoy.process.restart()?;
            envoy.wait_live()?;
        }
        self.hub.wait_synced(["tokyo", "paris", "osaka"])
    }

    /// Resets the peak memory of Atlas and of all Envoys.
    pub(super) fn reset_memory_peaks(&self) -> Result<()> {
        let envoys =
            self.cluster_envoys().into_iter().chain([&self.hub.envoy]).map(|envoy| &envoy.process);
        envoys.chain([&self.hub.atlas.process]).try_for_each(|process| process.forget_peak())
    }

    pub(super) fn cluster_envoys(&self) -> [&Envoy; 4] {
        [&self.tokyo.envoy, &self.tokyo_b.1, &self.paris.envoy, &self.osaka]
    }
}

/// The name of a cluster whose credential the attackers have.
pub(super) fn attacker_cluster(number: usize) -> String {
    format!("attacker{number:02}")
}

/// A cluster's Service as JSON. `annotations`: keys without `goatlas.io/`.
pub(super) fn service(name: &str, annotations: &[(&str, String)]) -> String {
    let annotations: serde_json::Map<String, serde_json::Value> = annotations
        .iter()
        .map(|(key, value)| (format!("goatlas.io/{key}"), json!(value)))
        .collect();
    let labels = json!({"goatlas.io/cluster": "true", "goatlas.io/replicas": "1"});
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {
            "name": name, "namespace": "monitoring",
            "labels": labels, "annotations": annotations,
        },
        "spec": {"clusterIP": "None"},
    })
    .to_string()
}

/// Starts `tokyo`'s second Envoy, which reaches `tokyo`'s programs over the network.
fn start_second_envoy(hub: &Hub, tokyo: &Cluster, host: &Host) -> Result<(Envoy, CoreDns)> {
    let programs = &tokyo.place.programs;
    let operated = "prometheus-operated.monitoring.svc.cluster.local";
    let alertmanager = "alertmanager-operated.monitoring.svc.cluster.local";
    let dns = start_dns(host, [(programs[0], operated), (programs[2], alertmanager)])?;
    Ok((start_envoy(hub, "tokyo", host)?, dns))
}

/// Starts a DNS server with these names on a host, and makes it the host's resolver.
fn start_dns<'a>(
    host: &Host,
    names: impl IntoIterator<Item = (IpAddr, &'a str)>,
) -> Result<CoreDns> {
    let listen = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 53);
    let mut dns = CoreDns::start(
        host,
        "coredns",
        &parts::get(Part::CoreDns)?,
        listen,
        &CoreDns::corefile(listen, names),
    )?;
    dns.wait_ready()?;
    host.write_resolv_conf("nameserver 127.0.0.1\n")?;
    Ok(dns)
}

fn start_hostile_cluster(hub: &Hub, place: Place) -> Result<(Envoy, CoreDns)> {
    let backend = place.programs[0];
    let dns = start_dns(&place.host, [(backend, "backend.osaka.example")])?;
    hostile_store::start(&place.host, SocketAddr::new(backend, 10901))?;
    let name = "backend.osaka.example".to_owned();
    let annotations = [
        ("addresses", place.envoy.to_string()),
        ("thanos-service", name.clone()),
        ("prometheus-service", name.clone()),
        ("alertmanager-service", name),
    ];
    hub.atlas.write_manifest("osaka.yaml", &service("osaka", &annotations))?;
    Ok((start_envoy(hub, "osaka", &place.host)?, dns))
}

/// Writes a cluster's bootstrap files on a host and starts an Envoy with them.
fn start_envoy(hub: &Hub, cluster: &str, host: &Host) -> Result<Envoy> {
    let out = host.dir().join(format!("envoy-{cluster}"));
    let out = out.to_str().context("a directory's name is UTF-8")?;
    // Atlas may not have read the manifest yet.
    let path = wait_until("the bootstrap files", START, || {
        hub.atlas.command(&["bootstrap", cluster, "--out", out]).map(Some)
    })?;
    let options = EnvoyOptions::new(path.trim(), "127.0.0.1:9000".parse()?);
    let mut envoy =
        Envoy::start(host, &format!("{cluster}-envoy"), &parts::get(Part::Envoy)?, &options)?;
    envoy.wait_live()?;
    Ok(envoy)
}

/// How long the system may take to serve every client again after an attack.
pub(super) const RECOVERY: Duration = Duration::from_secs(45);

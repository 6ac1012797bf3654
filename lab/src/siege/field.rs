//! What is besieged: a hub, two clusters of honest people, a hostile one, and many that are only
//! credentials.
//!
//! ```text
//! hub      Atlas, Envoy, two Alertmanagers, Thanos Query
//! tokyo    two Envoys, on hosts of their own; Prometheus 2.42, a sidecar, an Alertmanager that it sends alerts to as well
//! paris    an Envoy, Prometheus 3, a sidecar, an Alertmanager
//! osaka    an Envoy, and what the attackers put behind it (`backend`); they have its leaf and its bootstrap credential
//! camp00…  clusters without Envoys, whose bootstrap credentials the attackers have
//! kyoto    the same, but an honest one
//! stranger a host of the attackers
//! ```

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_json::json;

use super::dial::Door;
use super::{backend, grpc};
use crate::parts::{self, Part};
use crate::process::wait_until;
use crate::run::{Alertmanager, CoreDns, Envoy, EnvoyOptions, START};
use crate::scene::{Cluster, ClusterOptions, Hub, HubOptions, Place};
use crate::world::{Host, World};

/// The parts that a siege needs.
pub const PARTS: &[Part] = &[
    Part::Envoy,
    Part::Thanos,
    Part::Prometheus,
    Part::PrometheusClassic,
    Part::Alertmanager,
    Part::CoreDns,
];

/// Clusters that are only credentials.
pub(super) const CAMPS: usize = 24;

/// Where an alert goes to the hub's first Alertmanager.
pub(super) const ALERTS: &str = "/alertmanager/0/api/v2/alerts";

/// A door where HTTP/2 is spoken, and a request that is let through there.
#[derive(Clone)]
pub(super) struct Target {
    pub(super) door: Door,
    pub(super) authority: &'static str,
    pub(super) path: &'static str,
}

/// Everything that runs.
pub struct Field {
    pub(super) hub: Hub,
    pub(super) tokyo: Cluster,
    pub(super) paris: Cluster,
    /// Tokyo's second Envoy, on a host of its own.
    pub(super) tokyo_b: (Host, Envoy),
    pub(super) osaka: Envoy,
    /// Of the hosts that have no cluster of the lab's.
    _dns: [CoreDns; 2],
    pub(super) stranger: Host,
    /// The hub's second Alertmanager, which an attack stalls.
    pub(super) second: Mutex<Alertmanager>,
    /// While nobody answers alerts: since when it has to be known.
    pub(super) known: Mutex<Option<Instant>>,
}

impl Field {
    /// Starts everything and waits until it works.
    ///
    /// # Errors
    /// What didn't start.
    pub fn start(world: &World, atlas: &Path) -> Result<Self> {
        let limit = getrlimit(Resource::Nofile);
        setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum })
            .context("cannot raise the limit of open files")?;
        let mut hub = Hub::start(Place::in_world(world, "hub")?, HubOptions::new(atlas))?;
        for name in (0..CAMPS).map(camp).chain(["kyoto".to_owned()]) {
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
        let (second, second_dns) = second_envoy(&hub, &tokyo, &second_host)?;
        let paris = ClusterOptions { replicas: 1, ..ClusterOptions::new("paris") };
        let paris = Cluster::start(Place::in_world(world, "paris")?, &mut hub, paris)?;
        let (osaka, osaka_dns) = hostile(&hub, Place::in_world(world, "osaka")?)?;
        hub.resolve_stores()?;
        let second_alertmanager =
            hub.alertmanagers.pop().context("BUG: a hub with two Alertmanagers")?;
        let field = Self {
            hub,
            tokyo,
            paris,
            tokyo_b: (second_host, second),
            osaka,
            _dns: [second_dns, osaka_dns],
            stranger: world.host("stranger")?,
            second: Mutex::new(second_alertmanager),
            known: Mutex::new(None),
        };
        field.hub.wait_synced(["tokyo", "paris", "osaka"])?;
        Ok(field)
    }

    /// The hub's Envoy.
    pub(super) fn hub_port(&self, port: u16) -> SocketAddr {
        SocketAddr::new(self.hub.place.envoy, port)
    }

    /// What Atlas keeps of a node: `cluster.osaka` is its leaf, `bootstrap.osaka` what it connects
    /// with.
    pub(super) fn credential(&self, name: &str) -> Result<String> {
        let path = self.hub.atlas.options.state.join("pki").join(format!("{name}.pem"));
        std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
    }

    /// Where HTTP/2 is spoken with those who have what the attackers have: stores, alerts, xDS.
    pub(super) fn http2_targets(&self) -> Result<Vec<Target>> {
        let alerts = Door::secure(self.hub_port(10903), Some(&self.credential("cluster.osaka")?))?;
        let xds = Door::secure(self.hub_port(10900), Some(&self.credential("bootstrap.osaka")?))?;
        Ok(vec![
            Target {
                door: Door::plain(self.hub_port(10901)),
                authority: "osaka-thanos-sidecar0",
                path: backend::STREAMS,
            },
            Target { door: alerts, authority: "hub", path: ALERTS },
            Target { door: xds, authority: "atlas", path: grpc::DELTA },
        ])
    }

    /// Every port that a stranger may reach: those of the hub, and the one of a cluster.
    pub(super) fn ports(&self) -> Vec<SocketAddr> {
        let hub = [10900, 10901, 10903, 10904].map(|port| self.hub_port(port));
        hub.into_iter().chain([SocketAddr::new(self.tokyo.place.envoy, 11901)]).collect()
    }

    /// So many of `wanted`, or fewer where a process may not open as many files.
    pub(super) fn sized(&self, wanted: usize) -> usize {
        let files = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
        // The attackers' files and the other ends of the same in the hub's Envoy, which has two for
        // each at 10900.
        wanted.min(usize::try_from(files.saturating_sub(2_000) / 2).unwrap_or(usize::MAX))
    }

    /// Starts Atlas and all Envoys again, where an attack left something that doesn't recover, so
    /// that the next one begins as this one did.
    ///
    /// # Errors
    /// What doesn't start, or is not in sync in time.
    pub fn start_again(&mut self) -> Result<()> {
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

    /// Resets the peaks of all processes that are watched.
    pub(super) fn forget_peaks(&self) -> Result<()> {
        let envoys =
            self.cluster_envoys().into_iter().chain([&self.hub.envoy]).map(|envoy| &envoy.process);
        envoys.chain([&self.hub.atlas.process]).try_for_each(|process| process.forget_peak())
    }

    /// Every Envoy of a cluster.
    pub(super) fn cluster_envoys(&self) -> [&Envoy; 4] {
        [&self.tokyo.envoy, &self.tokyo_b.1, &self.paris.envoy, &self.osaka]
    }
}

/// The name of a cluster that is only a credential.
pub(super) fn camp(number: usize) -> String {
    format!("camp{number:02}")
}

/// A cluster's Service.
pub(super) fn service(name: &str, annotations: &[(&str, String)]) -> String {
    let annotations: serde_json::Map<String, serde_json::Value> = annotations
        .iter()
        .map(|(key, value)| (format!("goatlas.io/{key}"), json!(value)))
        .collect();
    let labels = json!({"goatlas.io/cluster": "true", "goatlas.io/replicas": "1"});
    let metadata = json!({"name": name, "namespace": "monitoring", "labels": labels, "annotations": annotations});
    json!({"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": {"clusterIP": "None"}}).to_string()
}

/// Another Envoy of tokyo, which reaches tokyo's programs over the network.
fn second_envoy(hub: &Hub, tokyo: &Cluster, host: &Host) -> Result<(Envoy, CoreDns)> {
    let programs = &tokyo.place.programs;
    let operated = "prometheus-operated.monitoring.svc.cluster.local";
    let alertmanager = "alertmanager-operated.monitoring.svc.cluster.local";
    let dns = dns(host, [(programs[0], operated), (programs[2], alertmanager)])?;
    Ok((start_envoy(hub, "tokyo", host)?, dns))
}

/// A host's DNS, which knows these names.
fn dns<'a>(host: &Host, names: impl IntoIterator<Item = (IpAddr, &'a str)>) -> Result<CoreDns> {
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

/// The hostile cluster.
fn hostile(hub: &Hub, place: Place) -> Result<(Envoy, CoreDns)> {
    let backend = place.programs[0];
    let dns = dns(&place.host, [(backend, "backend.osaka.example")])?;
    backend::start(&place.host, SocketAddr::new(backend, 10901))?;
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

/// Carries a cluster's bootstrap files to a host and starts its Envoy there.
fn start_envoy(hub: &Hub, cluster: &str, host: &Host) -> Result<Envoy> {
    let out = host.dir().join(format!("envoy-{cluster}"));
    let out = out.to_str().context("a directory's name is UTF-8")?;
    // The manifest may not have been read yet.
    let path = wait_until("the bootstrap files", START, || {
        hub.atlas.command(&["bootstrap", cluster, "--out", out]).map(Some)
    })?;
    let options = EnvoyOptions::new(path.trim(), "127.0.0.1:9000".parse()?);
    let mut envoy =
        Envoy::start(host, &format!("{cluster}-envoy"), &parts::get(Part::Envoy)?, &options)?;
    envoy.wait_live()?;
    Ok(envoy)
}

/// How long the field may take to be as before, once an attack is over.
pub(super) const RECOVERY: Duration = Duration::from_secs(45);

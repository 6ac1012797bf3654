//! The hub: Atlas, its Envoy, two Alertmanagers, Thanos Query.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use anyhow::Result;
use serde_json::{Value, json};

use super::{Atlas, AtlasOptions, Place, program, wait_status};
use crate::http::{self, Response};
use crate::parts::Part;
use crate::run::{
    Alertmanager, AlertmanagerOptions, Endpoints, Envoy, EnvoyOptions, Query, QueryOptions,
};

/// Options of a hub.
#[derive(Clone, Debug)]
pub struct HubOptions {
    /// Atlas's binary.
    pub atlas: PathBuf,
    /// More arguments of `atlas run`.
    pub atlas_extra: Vec<String>,
    pub envoy: Part,
    /// Whether to write the host's `/etc/hosts`; the demo writes its own.
    pub write_hosts: bool,
}

impl HubOptions {
    /// The newest Envoy, no further arguments.
    pub fn new(atlas: &Path) -> Self {
        Self {
            atlas: atlas.to_owned(),
            atlas_extra: Vec::new(),
            envoy: Part::Envoy,
            write_hosts: true,
        }
    }
}

/// A running hub.
#[derive(Debug)]
pub struct Hub {
    pub place: Place,
    /// The control plane.
    pub atlas: Atlas,
    /// The hub Envoy.
    pub envoy: Envoy,
    /// The hub's Alertmanagers, by index.
    pub alertmanagers: Vec<Alertmanager>,
    /// Thanos Query.
    pub query: Query,
    write_hosts: bool,
}

/// The EndpointSlice of the Alertmanager replicas.
pub fn alertmanager_slice(addresses: &[IpAddr]) -> String {
    let endpoint = |(n, address): (usize, &IpAddr)| json!({"addresses": [address], "hostname": format!("alertmanager-main-{n}")});
    let endpoints: Vec<Value> = addresses.iter().enumerate().map(endpoint).collect();
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"name": "alertmanager-operated", "labels": {"kubernetes.io/service-name": "alertmanager-operated"}},
        "endpoints": endpoints,
        "ports": [{"name": "http-web", "port": 9093}],
    })
    .to_string()
}

impl Hub {
    /// Starts the hub's programs, without clusters.
    ///
    /// # Errors
    /// A program doesn't start.
    pub fn start(place: Place, options: HubOptions) -> Result<Self> {
        let host = &place.host;
        let from = host.dir().join("clusters");
        std::fs::create_dir_all(&from)?;
        let mut alertmanagers = Vec::new();
        for (n, ip) in place.programs[1..3].iter().enumerate() {
            let listen = SocketAddr::new(*ip, 9093);
            alertmanagers.push(Alertmanager::start(
                host,
                &format!("alertmanager-{n}"),
                &program(Part::Alertmanager)?,
                &AlertmanagerOptions::new(listen),
            )?);
        }
        std::fs::write(from.join("alertmanagers.json"), alertmanager_slice(&place.programs[1..3]))?;
        let mut extra = vec![
            format!("--hub-address={}", place.envoy),
            format!("--hub-store-address={}", place.envoy),
        ];
        if let Some(bind) = place.bind {
            extra.push(format!("--bind-address={bind}"));
        }
        extra.extend(options.atlas_extra);
        let listen = place.bind.unwrap_or(Ipv4Addr::LOCALHOST.into());
        if place.bind.is_some() {
            extra.push(format!("--atlas-address={listen}"));
        }
        let state = host.dir().join("state");
        let atlas = Atlas::start(
            host,
            "atlas",
            AtlasOptions { program: options.atlas, from, state, listen, extra },
        )?;
        let envoy = EnvoyOptions::new(atlas.bootstrap("hub"), admin(&place));
        let mut envoy = Envoy::start(host, "hub-envoy", &program(options.envoy)?, &envoy)?;
        envoy.wait_live()?;
        let (grpc, web) =
            (SocketAddr::new(place.programs[0], 10911), SocketAddr::new(place.programs[0], 10902));
        let endpoints = [Endpoints::File(atlas.options.state.join("endpoints.yaml"))];
        let query = QueryOptions {
            replica_labels: vec!["prometheus_replica".into()],
            ..QueryOptions::new(grpc, web, endpoints)
        };
        let mut query = Query::start(host, "thanos-query", &program(Part::Thanos)?, &query)?;
        query.wait_ready()?;
        for alertmanager in &mut alertmanagers {
            alertmanager.wait_ready()?;
        }
        Ok(Self { place, atlas, envoy, alertmanagers, query, write_hosts: options.write_hosts })
    }

    /// Writes the names of the stores that Atlas lists at present into the host's hosts file.
    ///
    /// # Errors
    /// The hosts file can't be written.
    pub fn resolve_stores(&self) -> Result<()> {
        if !self.write_hosts {
            return Ok(());
        }
        let text = std::fs::read_to_string(self.atlas.options.state.join("endpoints.yaml"))?;
        let names =
            text.lines().filter_map(|line| line.strip_prefix("- address: ")?.split(':').next());
        self.place.host.write_hosts(names.map(|name| (self.place.envoy, name)))
    }

    /// Waits until these clusters' Envoys and the hub's are connected and in sync.
    ///
    /// # Errors
    /// It takes too long; the status is in the error.
    pub fn wait_synced<'a>(&self, clusters: impl IntoIterator<Item = &'a str>) -> Result<()> {
        let nodes: Vec<&str> = clusters.into_iter().chain(["hub"]).collect();
        wait_status(&self.atlas, "every Envoy in sync", |status| {
            nodes.iter().all(|node| synced([status], node))
        })
    }

    /// `GET` on the hub's web port, as a browser would.
    ///
    /// # Errors
    /// No answer.
    pub fn web(&self, path: &str) -> Result<Response> {
        let url = self.web_url(path);
        self.place.host.within(|| http::get(&url))
    }

    /// The address of a path on the hub's web port.
    pub fn web_url(&self, path: &str) -> String {
        format!("http://{}{path}", SocketAddr::new(self.place.envoy, 10904))
    }
}

/// The Envoy's admin address, on loopback.
pub(super) fn admin(place: &Place) -> SocketAddr {
    SocketAddr::new(place.bind.unwrap_or(Ipv4Addr::LOCALHOST.into()), 9000)
}

/// Whether a node has an Envoy, and all its Envoys have subscribed to all five types and are in
/// sync. `statuses`: that of each Atlas replica.
pub(super) fn synced<'a>(statuses: impl IntoIterator<Item = &'a Value>, node: &str) -> bool {
    let nodes = statuses.into_iter().filter_map(|status| status["nodes"].as_array()).flatten();
    let instances = nodes
        .filter(|entry| entry["node"] == node)
        .filter_map(|entry| entry["instances"].as_array())
        .flatten();
    let mut instances = instances.peekable();
    let in_sync = |instance: &Value| {
        let types = instance["types"].as_object();
        types.is_some_and(|types| {
            types.contains_key("RDS") && types.values().all(|of_type| of_type["state"] == "SYNCED")
        })
    };
    instances.peek().is_some() && instances.all(in_sync)
}

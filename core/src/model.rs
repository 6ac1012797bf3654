//! The fleet, as plain data: what Atlas knows once [`crate::validate`] has checked everything.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use crate::name::{ClusterName, CookieName, HeaderPattern, Host, HostPort, TrustDomain, WebUrl};
use crate::ports;
use crate::quantity::Memory;

/// What the operator configures once, by flags; nothing of it is a literal elsewhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// First part of every SPIFFE ID.
    pub trust_domain: TrustDomain,
    /// Atlas's own namespace, where cluster Services are read.
    pub namespace: String,
    /// Where the hub's Alertmanagers are.
    pub alertmanager_namespace: String,
    /// Labels of the Services that are Alertmanagers of the hub.
    pub alertmanager_selector: BTreeMap<String, String>,
    /// Service whose EndpointSlices list the hub's Alertmanager replicas.
    pub alertmanager_endpoints: String,
    /// `--web.route-prefix` of the hub's Alertmanagers: empty, or `/` and no slash at the end.
    pub alertmanager_path_prefix: String,
    /// Namespace of the default services inside a downstream cluster.
    pub downstream_namespace: String,
    /// DNS domain of Kubernetes clusters.
    pub cluster_domain: String,
    /// DNS zone for Thanos, without dots at its ends.
    pub dns_zone: String,
    /// How Thanos Query finds the address of a store.
    pub store_names: StoreNames,
    /// Where people reach the hub's web UIs; `None`: nobody has said.
    pub web_url: Option<WebUrl>,
    /// Headers that pass between people and web UIs beside those that always do.
    pub web_pass_headers: BTreeSet<HeaderPattern>,
    /// Cookies that web UIs see, beside their own.
    pub web_pass_cookies: BTreeSet<CookieName>,
    /// How clusters reach the hub Envoy's xDS entry.
    pub hub_xds: Vec<HostPort>,
    /// How clusters reach the hub Envoy's alert entry.
    pub hub_alerts: Vec<HostPort>,
    /// Where Thanos Query reaches the hub Envoy's stores: the address records of the zone.
    pub hub_stores: Vec<IpAddr>,
    /// Where the hub Envoy binds.
    pub hub_bind: IpAddr,
    /// How the hub Envoy reaches Atlas's xDS server.
    pub atlas_xds: HostPort,
    /// How the hub Envoy reaches Atlas's web page.
    pub atlas_web: HostPort,
    /// How much memory one Envoy of the hub may take.
    pub hub_envoy_memory: Memory,
    /// Longest time one request to a store or a web UI may take, in seconds, at most
    /// [`Settings::LONGEST_REQUEST_SECONDS`]. Envoy can't end a request in flight otherwise, so this also bounds how long a
    /// revoked or removed cluster's requests go on.
    pub max_request_seconds: u32,
    /// Proxies in front of 10904 whose `x-forwarded-for` is trusted.
    pub trusted_hops: u32,
    /// Whether clusters may be at loopback, link-local and metadata addresses.
    pub allow_local_addresses: bool,
    /// The labels by which the hub Envoy's pods are selected where a cluster says nothing.
    pub envoy_selectors: BTreeMap<String, String>,
}

impl Settings {
    /// Most that [`Settings::max_request_seconds`] can be: as long as a WebSocket may be open.
    pub const LONGEST_REQUEST_SECONDS: u32 = 3600;

    /// The path of [`Settings::web_url`]: empty, or `/` and no slash at the end.
    pub fn web_path(&self) -> &str {
        self.web_url.as_ref().map_or("", WebUrl::path)
    }
}

impl Default for Settings {
    /// kube-prometheus-stack's names, no hub address.
    fn default() -> Self {
        let label = |key: &str, value: &str| (key.to_owned(), value.to_owned());
        let loopback = |port| HostPort::new(Host::Ip(Ipv4Addr::LOCALHOST.into()), port);
        Self {
            trust_domain: "atlas".parse().expect("BUG: the default trust domain is valid"),
            namespace: "monitoring".into(),
            alertmanager_namespace: "monitoring".into(),
            alertmanager_selector: [label("app", "kube-prometheus-stack-alertmanager")].into(),
            alertmanager_endpoints: "alertmanager-operated".into(),
            alertmanager_path_prefix: String::new(),
            downstream_namespace: "monitoring".into(),
            cluster_domain: "cluster.local".into(),
            dns_zone: "atlas".into(),
            store_names: StoreNames::Zone,
            web_url: None,
            web_pass_headers: BTreeSet::new(),
            web_pass_cookies: BTreeSet::new(),
            hub_xds: Vec::new(),
            hub_alerts: Vec::new(),
            hub_stores: Vec::new(),
            hub_bind: Ipv6Addr::UNSPECIFIED.into(),
            atlas_xds: loopback(ports::XDS),
            atlas_web: loopback(ports::WEB),
            // The chart says the same. 10,000 clusters fit.
            hub_envoy_memory: Memory::mebibytes(6144),
            // Thanos' own query timeout is 120 s.
            max_request_seconds: 150,
            trusted_hops: 0,
            allow_local_addresses: false,
            envoy_selectors: [label("app", "envoy"), label("release", "atlas")].into(),
        }
    }
}

/// Least memory of an Envoy: with less it sheds load at once.
pub const LEAST_ENVOY_MEMORY: Memory = Memory::mebibytes(128);

/// By which names Thanos Query knows the stores.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreNames {
    /// `<store>.sidecars.thanos.<zone>`, with address records in the zone.
    Zone,
    /// `<store>.<namespace>.svc.<cluster domain>`: Services that Atlas writes, which lead to the hub Envoy's pods.
    Services,
}

/// Everything that the plan is made from, but for the keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fleet {
    /// What the operator configured.
    pub settings: Settings,
    /// The downstream clusters.
    pub clusters: BTreeMap<ClusterName, Arc<Cluster>>,
    /// The hub's Alertmanager replicas by index.
    pub alertmanagers: BTreeMap<u32, Alertmanager>,
}

/// Most stores of one cluster: the numbers in their names have at most two digits.
pub const MAX_STORES: u32 = 100;
/// The Prometheus resource's name where a cluster gives none: kube-prometheus-stack's, in a release
/// of the same name.
pub const DEFAULT_PROMETHEUS_NAME: &str = "kube-prometheus-stack-prometheus";
/// A store port's name where the cluster's Service gives none: that of Atlas 0.3's examples.
pub const DEFAULT_STORE_PORT_NAME: &str = "grpc";
/// Envoy replicas where a cluster gives no number.
pub const DEFAULT_ENVOY_REPLICAS: u32 = 2;
/// Memory of a cluster's Envoy where the cluster gives none; the Envoy's chart has the same default.
pub const DEFAULT_ENVOY_MEMORY: Memory = Memory::mebibytes(256);
/// Path prefixes that web UIs refuse unless a cluster allows them, relative to the UI's own root:
/// they stop, reload or change a server, take in data or show its memory.
pub const REFUSED_PATHS: &[&str] =
    &["/-/quit", "/-/reload", "/api/v1/admin", "/api/v1/write", "/api/v1/otlp", "/debug"];

/// A downstream cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cluster {
    /// The name of its Service.
    pub name: ClusterName,
    /// Where its Envoy listens. Empty: the cluster awaits its address; its credential exists already.
    pub addresses: Vec<HostPort>,
    /// Its Thanos sidecars, in order of their numbers.
    pub stores: Vec<Store>,
    /// Prometheus shards, each with the same number of replicas.
    pub shards: u32,
    /// The service's name in SRV records besides `thanos`: what its Service calls port 10901.
    pub store_port_name: String,
    /// Its Prometheus web UI.
    pub prometheus: Backend,
    /// Its Alertmanager web UI.
    pub alertmanager: Backend,
    /// How it reaches the hub's xDS entry and the hub's alerts, where that differs from [`Settings`].
    pub hub: Option<HubAddresses>,
    /// Where its Envoy binds.
    pub bind: IpAddr,
    /// Path prefixes of its web UIs that are let through although refused by default.
    pub allow_paths: Vec<String>,
    /// Selector of the hub Envoy's pods.
    pub envoy_selectors: BTreeMap<String, String>,
    /// Wanted credential; `None`: the persisted one.
    pub credential_revision: Option<u64>,
    /// Every credential below is refused.
    pub revoke_below: Option<u64>,
    /// Envoy replicas there.
    pub envoy_replicas: u32,
    /// How much memory one Envoy there may take.
    pub envoy_memory: Memory,
}

/// How a cluster reaches the hub.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HubAddresses {
    /// The xDS entry.
    pub xds: Vec<HostPort>,
    /// The alert entry.
    pub alerts: Vec<HostPort>,
}

/// One Thanos sidecar.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Store {
    /// N of `<cluster>-thanos-sidecarN`: shard × replicas + replica.
    pub index: u32,
    /// Where the cluster's Envoy reaches it.
    pub at: HostPort,
    /// Where it turns, in this order, while nothing before has a healthy address.
    pub fallbacks: Vec<HostPort>,
    /// Whether all of these can only mean the same replica. Otherwise any replica may answer.
    pub exact: bool,
}

/// How a backend is spoken to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// Plain HTTP/1.1.
    Http,
}

/// A web UI inside a downstream cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backend {
    /// How it is spoken to. HTTPS, its CA and its credential will join here.
    pub scheme: Scheme,
    /// Where it listens.
    pub at: HostPort,
    /// Its `routePrefix`: empty, or `/` and no slash at the end.
    pub path_prefix: String,
    /// The `Host` that it sees.
    pub host: HostHeader,
}

/// By which `Host` a web UI's backend is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HostHeader {
    /// Its own host and port.
    Own,
    /// What the person's browser asked for: the hub's.
    Hub,
    /// This one, `HOST[:PORT]`.
    Named(String),
}

/// A replica of the hub's Alertmanager.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Alertmanager {
    /// The pod's or Service's name, for people.
    pub name: String,
    /// Its addresses: the same replica by several ways.
    pub addresses: Vec<HostPort>,
}

//! The fleet as plain data. [`crate::validate`] makes it, so everything in it has been checked.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use crate::name::{ClusterName, CookieName, HeaderPattern, Host, HostPort, TrustDomain, WebUrl};
use crate::ports;
use crate::quantity::Memory;

/// What the operator configures by flags. Each default stands in [`Settings::default`] and nowhere
/// else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// First part of every SPIFFE ID.
    pub trust_domain: TrustDomain,
    /// Atlas's own namespace. Only Services in it are clusters.
    pub namespace: String,
    /// Namespace of the hub's Alertmanagers.
    pub alertmanager_namespace: String,
    /// Labels of the Services that are Alertmanagers of the hub.
    pub alertmanager_selector: BTreeMap<String, String>,
    /// The Service whose EndpointSlices list the hub's Alertmanager replicas.
    pub alertmanager_endpoints: String,
    /// `--web.route-prefix` of the hub's Alertmanagers: empty, or `/` and no slash at the end.
    pub alertmanager_path_prefix: String,
    /// Namespace inside a downstream cluster for Services that a cluster doesn't name.
    pub downstream_namespace: String,
    /// DNS domain of Kubernetes clusters.
    pub cluster_domain: String,
    /// DNS zone for Thanos, without dots at its ends.
    pub dns_zone: String,
    /// By which names Thanos Query finds the stores.
    pub store_names: StoreNames,
    /// The URL at which people reach the hub's web UIs, if it is configured.
    pub web_url: Option<WebUrl>,
    /// Headers that pass between people and web UIs besides those that always do.
    pub web_pass_headers: BTreeSet<HeaderPattern>,
    /// Cookies that web UIs receive besides their own.
    pub web_pass_cookies: BTreeSet<CookieName>,
    /// Addresses at which clusters' Envoys reach the hub Envoy's xDS port.
    pub hub_xds: Vec<HostPort>,
    /// Addresses at which clusters' Envoys reach the hub Envoy's port for alerts.
    pub hub_alerts: Vec<HostPort>,
    /// IP addresses at which Thanos Query reaches the hub Envoy: the zone's address records.
    pub hub_stores: Vec<IpAddr>,
    /// IP address on which the hub Envoy listens.
    pub hub_bind: IpAddr,
    /// Address of Atlas's xDS server, as the hub Envoy reaches it.
    pub atlas_xds: HostPort,
    /// Address of Atlas's web server, as the hub Envoy reaches it.
    pub atlas_web: HostPort,
    /// Memory limit of one Envoy of the hub.
    pub hub_envoy_memory: Memory,
    /// Longest time one request to a store or a web UI may take, in seconds, at most
    /// [`Settings::LONGEST_REQUEST_SECONDS`]. Envoy can't end a request in flight otherwise, so
    /// this also bounds how long requests of a revoked or removed cluster go on.
    pub max_request_seconds: u32,
    /// How many proxies in front of port 10904 are trusted to set `x-forwarded-for`.
    pub trusted_hops: u32,
    /// Whether loopback, link-local and metadata addresses are accepted.
    pub allow_local_addresses: bool,
    /// Labels of the hub Envoy's pods, for clusters that name none.
    pub envoy_selectors: BTreeMap<String, String>,
}

impl Settings {
    /// The largest [`Settings::max_request_seconds`], for which a WebSocket may be open too.
    pub const LONGEST_REQUEST_SECONDS: u32 = 3600;

    /// The path of [`Settings::web_url`]: empty, or `/` and no slash at the end.
    pub fn web_path(&self) -> &str {
        self.web_url.as_ref().map_or("", WebUrl::path)
    }
}

impl Default for Settings {
    /// The names are kube-prometheus-stack's. There is no address of the hub.
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
            // Enough for 10,000 clusters. The hub Envoy's chart has the same default.
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

/// The names by which Thanos Query finds the stores.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreNames {
    /// `<store>.sidecars.thanos.<zone>`, with address records in the zone.
    Zone,
    /// `<store>.<namespace>.svc.<cluster domain>`: Services that Atlas writes, which lead to the
    /// hub Envoy's pods.
    Services,
}

/// Everything from which the plan is made, apart from certificates and keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fleet {
    /// The operator's configuration.
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
/// Memory of a cluster's Envoy where the cluster gives none; the Envoy's chart has the same
/// default.
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
    /// Addresses of its Envoy. Without any, the cluster awaits its address: its credential is
    /// issued, but nothing is sent to it.
    pub addresses: Vec<HostPort>,
    /// Its Thanos sidecars, by [`Store::index`].
    pub stores: Vec<Store>,
    /// How many shards its Prometheus has, each with the same number of replicas.
    pub shards: u32,
    /// The service name of its SRV records besides `thanos`: its Service's name for port 10901.
    pub store_port_name: String,
    /// Its Prometheus web UI.
    pub prometheus: Backend,
    /// Its Alertmanager web UI.
    pub alertmanager: Backend,
    /// Addresses at which it reaches the hub, if they differ from those of [`Settings`].
    pub hub: Option<HubAddresses>,
    /// IP address on which its Envoy listens.
    pub bind: IpAddr,
    /// Path prefixes that its web UIs allow although [`REFUSED_PATHS`] has them.
    pub allow_paths: Vec<String>,
    /// Labels of the hub Envoy's pods that serve its stores.
    pub envoy_selectors: BTreeMap<String, String>,
    /// Revision of the credential to issue; `None` keeps the present one. Not yet effective.
    pub credential_revision: Option<u64>,
    /// Credentials of lower revisions are to be refused. Not yet effective.
    pub revoke_below: Option<u64>,
    /// How many replicas its Envoy has.
    pub envoy_replicas: u32,
    /// Memory limit of one of its Envoys.
    pub envoy_memory: Memory,
}

/// Addresses at which a cluster's Envoy reaches the hub's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HubAddresses {
    /// For xDS.
    pub xds: Vec<HostPort>,
    /// For alerts.
    pub alerts: Vec<HostPort>,
}

/// One Thanos sidecar.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Store {
    /// N of `<cluster>-thanos-sidecarN`: shard × replicas + replica.
    pub index: u32,
    /// Its address, as the cluster's Envoy reaches it.
    pub at: HostPort,
    /// Addresses that Envoy uses, in this order, while none before them has a healthy host.
    pub fallbacks: Vec<HostPort>,
    /// Whether all of these addresses mean the same replica. Otherwise any replica may answer.
    pub exact: bool,
}

/// The protocol of a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// Plain HTTP/1.1.
    Http,
}

/// A web UI inside a downstream cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backend {
    /// Its protocol.
    pub scheme: Scheme,
    /// Its address, as the cluster's Envoy reaches it.
    pub at: HostPort,
    /// Its `routePrefix`: empty, or `/` and no slash at the end.
    pub path_prefix: String,
    /// The `Host` header that it receives.
    pub host: HostHeader,
}

/// The `Host` header that a web UI's backend receives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HostHeader {
    /// The backend's own host and port.
    Own,
    /// The one that the browser sent: the hub's.
    Hub,
    /// This one, `HOST[:PORT]`.
    Named(String),
}

/// A replica of the hub's Alertmanager.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Alertmanager {
    /// Name of its pod or Service, for messages.
    pub name: String,
    /// Its addresses, all of the same replica.
    pub addresses: Vec<HostPort>,
}

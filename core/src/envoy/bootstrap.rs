//! An Envoy's own file: whom to ask, with which credential, and where people and probes may look.

use std::net::{IpAddr, Ipv4Addr};

use envoy_types::pb::envoy::config::bootstrap::v3 as bootstrap;
use envoy_types::pb::envoy::config::core::v3 as core;
use envoy_types::pb::envoy::config::metrics::v3 as metrics;
use envoy_types::pb::envoy::config::overload::v3 as overload;
use envoy_types::pb::envoy::extensions::resource_monitors::downstream_connections::v3::DownstreamConnectionsConfig;
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3 as tls;
use envoy_types::pb::envoy::r#type::matcher::v3::{ListStringMatcher, StringMatcher, string_matcher::MatchPattern};

use super::tls::Source;
use super::{LEAF, TRUST, ads, any, cluster, flag, listener, matcher, route};
use crate::keys::port;
use crate::name::{Host, HostPort};

pub use bootstrap::Bootstrap;

/// The static Envoy cluster behind the ADS stream.
const XDS: &str = "atlas-xds";
/// The static Envoy cluster of the admin page.
const ADMIN: &str = "envoy-admin";

/// What an Envoy needs to know before it can ask.
pub struct Node<'a> {
    /// For display only: whose configuration it gets says its certificate.
    pub name: &'a str,
    /// Where Atlas's xDS server is reached.
    pub xds: &'a [HostPort],
    /// Atlas's SPIFFE ID.
    pub atlas: &'a str,
    /// Where this Envoy binds.
    pub bind: IpAddr,
    /// Directory of `leaf.yaml` and `trust.yaml`, which name the credential's files.
    pub credential_dir: &'a str,
}

impl Node<'_> {
    /// Where the admin page listens: loopback always, and on the Envoy's own loopback address where it has one, so that
    /// several can share a machine.
    pub fn admin(&self) -> HostPort {
        let ip = if self.bind.is_loopback() { self.bind } else { Ipv4Addr::LOCALHOST.into() };
        HostPort::new(Host::Ip(ip), port::ENVOY_ADMIN)
    }
}

/// The file itself.
pub fn bootstrap(node: &Node<'_>) -> Bootstrap {
    let admin = node.admin();
    Bootstrap {
        node: Some(core::Node { id: node.name.to_owned(), cluster: node.name.to_owned(), ..Default::default() }),
        admin: Some(bootstrap::Admin { address: super::address(admin.host.to_string(), admin.port), ..Default::default() }),
        dynamic_resources: Some(bootstrap::bootstrap::DynamicResources {
            ads_config: Some(ads_stream()),
            cds_config: Some(ads()),
            lds_config: Some(ads()),
            ..Default::default()
        }),
        static_resources: Some(bootstrap::bootstrap::StaticResources {
            clusters: vec![cluster::xds(XDS, node.xds, node.atlas, &by_files(node.credential_dir)), cluster::admin(ADMIN, &admin)],
            listeners: vec![listener::status("status", node.bind, route::status("status", ADMIN))],
            ..Default::default()
        }),
        stats_config: Some(stats()),
        overload_manager: Some(overload_manager()),
        ..Default::default()
    }
}

fn ads_stream() -> core::ApiConfigSource {
    let envoy_grpc = core::grpc_service::EnvoyGrpc { cluster_name: XDS.into(), ..Default::default() };
    core::ApiConfigSource {
        api_type: core::api_config_source::ApiType::DeltaGrpc.into(),
        transport_api_version: core::ApiVersion::V3.into(),
        set_node_on_first_message_only: true,
        grpc_services: vec![core::GrpcService {
            target_specifier: Some(core::grpc_service::TargetSpecifier::EnvoyGrpc(envoy_grpc)),
            ..Default::default()
        }],
        ..Default::default()
    }
}

/// By files, watched: `leaf.yaml` and `trust.yaml` in a directory.
fn by_files(dir: &str) -> Source {
    let dir = dir.to_owned();
    Box::new(move |name| tls::SdsSecretConfig {
        name: name.to_owned(),
        sds_config: Some(core::ConfigSource {
            resource_api_version: core::ApiVersion::V3.into(),
            config_source_specifier: Some(core::config_source::ConfigSourceSpecifier::PathConfigSource(core::PathConfigSource {
                path: format!("{dir}/{name}.yaml"),
                watched_directory: Some(core::WatchedDirectory { path: dir.clone(), ..Default::default() }),
                ..Default::default()
            })),
            ..Default::default()
        }),
    })
}

/// The secrets whose files lie in `dir`: what `leaf.yaml` and `trust.yaml` hold. `keys` is the directory of the PEM
/// files as the Envoy sees it.
pub fn file_secrets(keys: &str) -> [(String, tls::Secret); 2] {
    let file = |name: &str| {
        Some(core::DataSource { specifier: Some(core::data_source::Specifier::Filename(format!("{keys}/{name}"))), ..Default::default() })
    };
    let watched = || Some(core::WatchedDirectory { path: keys.to_owned(), ..Default::default() });
    let leaf = tls::TlsCertificate {
        certificate_chain: file("tls.crt"),
        private_key: file("tls.key"),
        watched_directory: watched(),
        ..Default::default()
    };
    let trust = tls::CertificateValidationContext { trusted_ca: file("ca.crt"), watched_directory: watched(), ..Default::default() };
    [
        (format!("{LEAF}.yaml"), tls::Secret { name: LEAF.into(), r#type: Some(tls::secret::Type::TlsCertificate(leaf)) }),
        (format!("{TRUST}.yaml"), tls::Secret { name: TRUST.into(), r#type: Some(tls::secret::Type::ValidationContext(trust)) }),
    ]
}

/// Connections beyond this are refused rather than let the Envoy run out of files. A hub of 10,000 clusters with two Envoys
/// each has 20,000 xDS streams and as many connections for alerts.
const MAX_CONNECTIONS: i64 = 50_000;

fn overload_manager() -> overload::OverloadManager {
    let limit = DownstreamConnectionsConfig { max_active_downstream_connections: MAX_CONNECTIONS };
    overload::OverloadManager {
        resource_monitors: vec![overload::ResourceMonitor {
            name: "envoy.resource_monitors.global_downstream_max_connections".into(),
            config_type: Some(overload::resource_monitor::ConfigType::TypedConfig(any(&limit))),
        }],
        ..Default::default()
    }
}

/// Keeps the statistics that someone looks at: with all of them, a hub of a thousand clusters needs 70 MB more.
fn stats() -> metrics::StatsConfig {
    let prefix = |text: &str| StringMatcher { match_pattern: Some(MatchPattern::Prefix(text.into())), ..Default::default() };
    let regex =
        |text: &str| StringMatcher { match_pattern: Some(MatchPattern::SafeRegex(matcher::safe_regex(text))), ..Default::default() };
    let patterns = vec![
        prefix("server."),
        prefix("cluster_manager."),
        prefix("listener_manager."),
        prefix("control_plane."),
        prefix("http."),
        prefix("listener."),
        prefix("sds."),
        prefix("tcp."),
        prefix("runtime."),
        regex(
            "cluster\\..*\\.(upstream_rq.*|upstream_cx_(total|active|connect_fail|connect_timeout|destroy.*|rx_bytes_total|tx_bytes_total)|membership_.*|health_check\\..*|outlier_detection\\.ejections_active|ssl\\.(handshake|fail_.*|connection_error)|lb_zone.*|update_.*)",
        ),
    ];
    metrics::StatsConfig {
        stats_matcher: Some(metrics::StatsMatcher {
            stats_matcher: Some(metrics::stats_matcher::StatsMatcher::InclusionList(ListStringMatcher { patterns })),
        }),
        use_all_default_tags: flag(true),
        ..Default::default()
    }
}

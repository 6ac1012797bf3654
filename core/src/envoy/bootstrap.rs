//! The bootstrap configuration of an Envoy: how it reaches Atlas, with which credential, and where
//! its status and its admin interface are.

use std::net::{IpAddr, Ipv4Addr};

use envoy_types::pb::envoy::config::bootstrap::v3 as bootstrap;
use envoy_types::pb::envoy::config::core::v3 as core;
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3 as tls;
use envoy_types::pb::google::protobuf::{Struct, Value, value};

use super::secret::{LEAF, TRUST};
use super::tls::SecretSource;
use super::{ads, cluster, dns, listener, overload, route, stats};
use crate::name::{Host, HostPort};
use crate::ports;

pub use bootstrap::Bootstrap;

/// The static Envoy cluster of the ADS stream.
const XDS: &str = "atlas-xds";
/// The static Envoy cluster of the admin interface.
const ADMIN: &str = "envoy-admin";

/// What differs between the bootstraps of nodes.
pub struct BootstrapNode<'a> {
    /// `node.id`, for display only: Atlas identifies an Envoy by its certificate.
    pub name: &'a str,
    /// Where Atlas's xDS server is reached.
    pub xds: &'a [HostPort],
    /// The SPIFFE ID that the xDS server's certificate must have.
    pub xds_san: &'a str,
    /// The address on which this Envoy listens.
    pub bind: IpAddr,
    /// The memory limit of its container, in bytes.
    pub memory: u64,
    /// The directory of `leaf.yaml` and `trust.yaml` ([`file_secrets`]).
    pub credential_dir: &'a str,
}

impl BootstrapNode<'_> {
    /// The address of the admin interface, always a loopback address: that of `bind` if it is one,
    /// so that several Envoys can share a machine.
    pub fn admin(&self) -> HostPort {
        let ip = if self.bind.is_loopback() { self.bind } else { Ipv4Addr::LOCALHOST.into() };
        HostPort::new(Host::Ip(ip), ports::ENVOY_ADMIN)
    }
}

/// The bootstrap of a node.
pub fn bootstrap(node: &BootstrapNode<'_>) -> Bootstrap {
    let admin = node.admin();
    Bootstrap {
        node: Some(core::Node {
            id: node.name.to_owned(),
            cluster: node.name.to_owned(),
            ..Default::default()
        }),
        admin: Some(bootstrap::Admin {
            address: super::socket_address(admin.host.to_string(), admin.port),
            ..Default::default()
        }),
        dynamic_resources: Some(bootstrap::bootstrap::DynamicResources {
            ads_config: Some(ads_stream()),
            cds_config: Some(ads()),
            lds_config: Some(ads()),
            ..Default::default()
        }),
        static_resources: Some(bootstrap::bootstrap::StaticResources {
            clusters: [
                cluster::xds(XDS, node.xds, node.xds_san, &secrets_by_files(node.credential_dir)),
                cluster::admin(ADMIN, &admin),
            ]
            .concat(),
            listeners: vec![listener::status(node.bind, route::status("status", ADMIN))],
            ..Default::default()
        }),
        stats_config: Some(stats::config()),
        layered_runtime: Some(runtime()),
        overload_manager: Some(overload::manager(node.memory)),
        ..Default::default()
    }
}

fn runtime() -> bootstrap::LayeredRuntime {
    let on = Value { kind: Some(value::Kind::BoolValue(true)) };
    let flags = Struct { fields: [(dns::RUNTIME_FLAG.to_owned(), on)].into() };
    let layer = bootstrap::runtime_layer::LayerSpecifier::StaticLayer(flags);
    bootstrap::LayeredRuntime {
        layers: vec![bootstrap::RuntimeLayer {
            name: "atlas".into(),
            layer_specifier: Some(layer),
        }],
    }
}

fn ads_stream() -> core::ApiConfigSource {
    let envoy_grpc =
        core::grpc_service::EnvoyGrpc { cluster_name: XDS.into(), ..Default::default() };
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

/// Secrets come from the files `leaf.yaml` and `trust.yaml` of a directory that Envoy watches.
fn secrets_by_files(dir: &str) -> SecretSource {
    let dir = dir.to_owned();
    Box::new(move |name| tls::SdsSecretConfig {
        name: name.to_owned(),
        sds_config: Some(core::ConfigSource {
            resource_api_version: core::ApiVersion::V3.into(),
            config_source_specifier: Some(
                core::config_source::ConfigSourceSpecifier::PathConfigSource(
                    core::PathConfigSource {
                        path: format!("{dir}/{name}.yaml"),
                        watched_directory: Some(core::WatchedDirectory {
                            path: dir.clone(),
                            ..Default::default()
                        }),
                        ..Default::default()
                    },
                ),
            ),
            ..Default::default()
        }),
    })
}

/// The names and contents of `leaf.yaml` and `trust.yaml`. `pem_dir` is the directory of the PEM
/// files as Envoy sees it.
pub fn file_secrets(pem_dir: &str) -> [(String, tls::Secret); 2] {
    let file = |name: &str| {
        Some(core::DataSource {
            specifier: Some(core::data_source::Specifier::Filename(format!("{pem_dir}/{name}"))),
            ..Default::default()
        })
    };
    let watched =
        || Some(core::WatchedDirectory { path: pem_dir.to_owned(), ..Default::default() });
    let leaf = tls::TlsCertificate {
        certificate_chain: file("tls.crt"),
        private_key: file("tls.key"),
        watched_directory: watched(),
        ..Default::default()
    };
    let trust = tls::CertificateValidationContext {
        trusted_ca: file("ca.crt"),
        watched_directory: watched(),
        ..Default::default()
    };
    [
        (
            format!("{LEAF}.yaml"),
            tls::Secret {
                name: LEAF.into(),
                r#type: Some(tls::secret::Type::TlsCertificate(leaf)),
            },
        ),
        (
            format!("{TRUST}.yaml"),
            tls::Secret {
                name: TRUST.into(),
                r#type: Some(tls::secret::Type::ValidationContext(trust)),
            },
        ),
    ]
}

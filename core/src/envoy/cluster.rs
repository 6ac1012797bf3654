//! Envoy clusters: where requests go. What has host names among its addresses is several ([`super::dns`]).

use std::collections::HashMap;

use envoy_types::pb::envoy::config::cluster::v3 as cluster;
use envoy_types::pb::envoy::config::core::v3 as core;
use envoy_types::pb::envoy::config::endpoint::v3 as endpoint;
use envoy_types::pb::envoy::extensions::upstreams::http::v3 as http;
use envoy_types::pb::envoy::r#type::v3::Percent;

use super::dns::followed;
use super::limits::{self, LINK_STREAM_WINDOW, LOCAL_STREAM_WINDOW, UpstreamLimits};
use super::socket;
use super::timing::{ALERTS, BETWEEN_CLUSTERS, Timing, XDS};
use super::tls::{self, Peer};
use super::{address, any, millis, number, seconds};
use crate::name::{Host, HostPort};

/// The message itself, under a name that doesn't clash with our own `Cluster`.
pub type EnvoyCluster = cluster::Cluster;

/// TCP and TLS handshake together, within a cluster.
const CONNECT_MS: i64 = 2000;

/// On the hub, Envoy clusters of downstream clusters are called so, with the cluster's name behind it.
pub const CLUSTER_PREFIX: &str = "cluster/";

/// On the hub: one downstream cluster, by its Envoy: its stores by authority and its web UIs by path, as 11901 routes them. One
/// link, so one set of addresses, the same TLS connections, and one verdict on whether it is alive.
pub fn downstream_cluster(name: &str, at: &[HostPort], peer: &str) -> Vec<EnvoyCluster> {
    followed(EnvoyCluster {
        circuit_breakers: Some(UpstreamLimits::circuit_breakers_by_priority(
            &limits::LINK_WEB,
            &limits::LINK_STORES,
        )),
        ..link(format!("{CLUSTER_PREFIX}{name}"), at, peer, &limits::LINK_STORES, &BETWEEN_CLUSTERS)
    })
}

/// In a cluster: the hub's alert entry.
pub fn hub_alerts(at: &[HostPort], peer: &str) -> Vec<EnvoyCluster> {
    followed(link("hub/alerts".into(), at, peer, &limits::TO_HUB_ALERTS, &ALERTS))
}

/// A link between two Envoys of different clusters. Health checks alone decide whether an address counts: what backends behind the
/// other Envoy answer, or that they break off, says nothing about it.
fn link(
    name: String,
    at: &[HostPort],
    peer: &str,
    limits: &UpstreamLimits,
    timing: &Timing,
) -> EnvoyCluster {
    let check = core::health_check::HttpHealthCheck {
        host: super::route::WEB_AUTHORITY.into(),
        path: super::route::HEALTH_PATH.into(),
        codec_client_type: envoy_types::pb::envoy::r#type::v3::CodecClientType::Http2.into(),
        ..Default::default()
    };
    let check = core::health_check::HealthChecker::HttpHealthCheck(check);
    EnvoyCluster {
        transport_socket: tls::client(&Peer::Exactly(peer), &tls::by_ads()),
        typed_extension_protocol_options: http2(LINK_STREAM_WINDOW, pings(timing)),
        health_checks: vec![core::HealthCheck {
            timeout: millis(timing.check_timeout_ms),
            interval: millis(timing.check_interval_ms),
            no_traffic_interval: millis(timing.check_interval_ms),
            // The check's own connection ends on a black link as soon as all others; a second check would only make requests wait
            // that come in between.
            unhealthy_threshold: number(1),
            ..health_check(check)
        }],
        // An address whose check fails has its connections closed, and the requests on them end.
        close_connections_on_host_health_failure: true,
        ..across_the_distance(name, at, limits, timing)
    }
}

/// On the hub: one replica of the hub's Alertmanager. `path_prefix` is its `--web.route-prefix`.
pub fn alertmanager_on_hub(index: u32, at: &[HostPort], path_prefix: &str) -> Vec<EnvoyCluster> {
    let check = core::health_check::HttpHealthCheck {
        host: "alertmanager".into(),
        path: format!("{path_prefix}/-/healthy"),
        ..Default::default()
    };
    followed(EnvoyCluster {
        // One that accepts connections and answers nothing would hold every cluster's posts.
        health_checks: vec![health_check(core::health_check::HealthChecker::HttpHealthCheck(
            check,
        ))],
        ..base(format!("alertmanager/{index}"), &[at], &limits::ALERTMANAGER)
    })
}

/// On the hub: Atlas's xDS server, through which clusters pass as plain TCP.
pub fn atlas_xds_entry(at: &HostPort) -> Vec<EnvoyCluster> {
    followed(base("atlas/xds".into(), &[std::slice::from_ref(at)], &limits::ATLAS_XDS))
}

/// On the hub: Atlas's web page.
pub fn atlas_web(at: &HostPort) -> Vec<EnvoyCluster> {
    followed(base("atlas/web".into(), &[std::slice::from_ref(at)], &limits::ATLAS_WEB))
}

/// In a cluster: one Thanos sidecar. Each of `otherwise` counts only while nothing before it has a healthy address.
pub fn store_in_cluster(label: &str, at: &HostPort, otherwise: &[HostPort]) -> Vec<EnvoyCluster> {
    // By default it would be the Envoy cluster's name, which is no authority: servers that check it reset the stream.
    let authority =
        core::health_check::GrpcHealthCheck { authority: label.into(), ..Default::default() };
    let check = core::health_check::HealthChecker::GrpcHealthCheck(authority);
    let tiers: Vec<&[HostPort]> =
        [at].into_iter().chain(otherwise).map(std::slice::from_ref).collect();
    followed(EnvoyCluster {
        typed_extension_protocol_options: http2(LOCAL_STREAM_WINDOW, keepalive(30_000, 10_000)),
        health_checks: vec![health_check(check)],
        ..base(format!("store/{label}"), &tiers, &limits::STORE)
    })
}

/// In a cluster: the backend of a web UI (`prometheus`, `alertmanager`).
pub fn backend(kind: &str, at: &HostPort) -> Vec<EnvoyCluster> {
    // Whether it can be reached, and no more: a Prometheus that is starting shows its own page.
    let check = core::health_check::HealthChecker::TcpHealthCheck(
        core::health_check::TcpHealthCheck::default(),
    );
    followed(EnvoyCluster {
        health_checks: vec![health_check(check)],
        // One replica for one client: see `by_replica_cookie` in `super::route`.
        lb_policy: cluster::cluster::LbPolicy::RingHash.into(),
        ..base(format!("backend/{kind}"), &[std::slice::from_ref(at)], &limits::BACKEND)
    })
}

/// In an Envoy's own files: Atlas's xDS server, spoken to with the credential beside it.
pub(super) fn xds(
    name: &str,
    at: &[HostPort],
    peer: &str,
    source: &tls::Source,
) -> Vec<EnvoyCluster> {
    followed(EnvoyCluster {
        transport_socket: tls::client(&Peer::Exactly(peer), source),
        typed_extension_protocol_options: http2(LINK_STREAM_WINDOW, pings(&XDS)),
        ..across_the_distance(name.into(), at, &limits::XDS_STREAM, &XDS)
    })
}

/// In an Envoy's own files: its admin page.
pub(super) fn admin(name: &str, at: &HostPort) -> Vec<EnvoyCluster> {
    followed(EnvoyCluster {
        // Probes have high priority, so that who reads statistics slowly takes nothing from them.
        circuit_breakers: Some(UpstreamLimits::circuit_breakers_by_priority(
            &limits::ADMIN,
            &limits::ADMIN,
        )),
        ..base(name.into(), &[std::slice::from_ref(at)], &limits::ADMIN)
    })
}

/// What those have in common whose connections cross the distance between clusters.
fn across_the_distance(
    name: String,
    at: &[HostPort],
    limits: &UpstreamLimits,
    timing: &Timing,
) -> EnvoyCluster {
    EnvoyCluster {
        connect_timeout: millis(timing.connect_ms),
        upstream_bind_config: Some(socket::across_the_distance(timing)),
        upstream_connection_options: Some(tcp_keepalive(
            timing.probe_interval_ms / 1000,
            timing.probe_interval_ms.div_ceil(3000),
        )),
        ..base(name, &[at], limits)
    }
}

fn tcp_keepalive(after_seconds: u32, interval_seconds: u32) -> cluster::UpstreamConnectionOptions {
    cluster::UpstreamConnectionOptions {
        tcp_keepalive: Some(core::TcpKeepalive {
            keepalive_probes: number(3),
            keepalive_time: number(after_seconds),
            keepalive_interval: number(interval_seconds),
        }),
        ..Default::default()
    }
}

/// What all have in common. There is no passive health: Envoy counts every answer that breaks off as a failure of the address, so a few
/// of one client's would take it away from everybody. `tiers` are groups of addresses in order of preference.
fn base(name: String, tiers: &[&[HostPort]], limits: &UpstreamLimits) -> EnvoyCluster {
    EnvoyCluster {
        load_assignment: Some(endpoints(&name, tiers)),
        connect_timeout: millis(CONNECT_MS),
        circuit_breakers: Some(limits.circuit_breakers()),
        per_connection_buffer_limit_bytes: number(limits::CONNECTION_BUFFER),
        common_lb_config: Some(cluster::cluster::CommonLbConfig {
            // Rather an error at once than a request sent to a host that is known to be dead.
            healthy_panic_threshold: Some(Percent { value: 0.0 }),
            ..Default::default()
        }),
        upstream_connection_options: Some(tcp_keepalive(30, 10)),
        name,
        ..Default::default()
    }
}

fn endpoints(name: &str, tiers: &[&[HostPort]]) -> endpoint::ClusterLoadAssignment {
    let group = |(priority, tier): (u32, &&[HostPort])| endpoint::LocalityLbEndpoints {
        priority,
        lb_endpoints: tier.iter().map(lb_endpoint).collect(),
        ..Default::default()
    };
    endpoint::ClusterLoadAssignment {
        cluster_name: name.to_owned(),
        endpoints: (0..)
            .zip(tiers)
            .map(group)
            .filter(|group| !group.lb_endpoints.is_empty())
            .collect(),
        ..Default::default()
    }
}

fn lb_endpoint(at: &HostPort) -> endpoint::LbEndpoint {
    let host = match &at.host {
        Host::Ip(ip) => ip.to_string(),
        Host::Name(name) => absolute(name),
    };
    endpoint::LbEndpoint {
        host_identifier: Some(endpoint::lb_endpoint::HostIdentifier::Endpoint(
            endpoint::Endpoint { address: address(host, at.port), ..Default::default() },
        )),
        ..Default::default()
    }
}

/// A name with a dot at its end: c-ares would try the search list first, and a name that is meant as it stands could
/// be answered by something else. A single label has only its search list to go by.
fn absolute(name: &str) -> String {
    if name.contains('.') { format!("{name}.") } else { name.to_owned() }
}

fn health_check(checker: core::health_check::HealthChecker) -> core::HealthCheck {
    core::HealthCheck {
        timeout: seconds(2),
        interval: seconds(3),
        unhealthy_interval: seconds(2),
        // Without it a cluster that fails its first check is looked at again only after a minute.
        no_traffic_interval: seconds(3),
        unhealthy_threshold: number(2),
        healthy_threshold: number(1),
        // A fleet's checks should not all fall into one moment.
        interval_jitter_percent: 10,
        health_checker: Some(checker),
        ..Default::default()
    }
}

fn pings(timing: &Timing) -> core::KeepaliveSettings {
    keepalive(timing.ping_interval_ms, timing.ping_timeout_ms)
}

fn keepalive(interval_ms: i64, timeout_ms: i64) -> core::KeepaliveSettings {
    core::KeepaliveSettings {
        interval: millis(interval_ms),
        timeout: millis(timeout_ms),
        ..Default::default()
    }
}

fn http2(
    stream_window: u32,
    keepalive: core::KeepaliveSettings,
) -> HashMap<String, envoy_types::pb::google::protobuf::Any> {
    let http2 = limits::http2_client(stream_window, keepalive);
    let explicit = http::http_protocol_options::ExplicitHttpConfig {
        protocol_config: Some(
            http::http_protocol_options::explicit_http_config::ProtocolConfig::Http2ProtocolOptions(
                http2,
            ),
        ),
    };
    let options = http::HttpProtocolOptions {
        upstream_protocol_options: Some(
            http::http_protocol_options::UpstreamProtocolOptions::ExplicitHttpConfig(explicit),
        ),
        ..Default::default()
    };
    [("envoy.extensions.upstreams.http.v3.HttpProtocolOptions".to_owned(), any(&options))].into()
}

//! Envoy clusters: the upstreams of routes.
//!
//! An Envoy cluster with host names among its addresses becomes several (`dns.rs`), so each
//! constructor returns a list.

use std::collections::HashMap;

use envoy_types::pb::envoy::config::cluster::v3 as cluster;
use envoy_types::pb::envoy::config::core::v3 as core;
use envoy_types::pb::envoy::config::core::v3::health_check::{
    GrpcHealthCheck, HealthChecker, HttpHealthCheck, TcpHealthCheck,
};
use envoy_types::pb::envoy::config::endpoint::v3 as endpoint;
use envoy_types::pb::envoy::extensions::upstreams::http::v3 as http;
use envoy_types::pb::envoy::r#type::v3::{CodecClientType, Percent};
use envoy_types::pb::google::protobuf::Any;

use super::dns::follow_dns;
use super::limits::{self, LINK_STREAM_WINDOW, LOCAL_STREAM_WINDOW, UpstreamLimits};
use super::route::{HEALTH_PATH, WEB_AUTHORITY};
use super::socket;
use super::timing::{ALERTS, BETWEEN_CLUSTERS, Timing, XDS};
use super::tls::{self, ExpectedSan, SecretSource};
use super::{any, milliseconds, seconds, socket_address, uint32};
use crate::name::{Host, HostPort};

/// Envoy's `Cluster`, which isn't Atlas's.
pub type EnvoyCluster = cluster::Cluster;

/// TCP and TLS handshake together, within a cluster.
const CONNECT_TIMEOUT_MS: i64 = 2000;

/// On the hub: what stands before a downstream cluster's name in the name of its Envoy cluster.
pub const CLUSTER_PREFIX: &str = "cluster/";

/// On the hub: the Envoy of one downstream cluster, for its stores and its web UIs. They share the
/// addresses, the TLS connections and the health checks; 11901 tells them apart by authority and
/// path.
pub fn downstream_cluster(
    name: &str,
    addresses: &[HostPort],
    expected_san: &str,
) -> Vec<EnvoyCluster> {
    let name = format!("{CLUSTER_PREFIX}{name}");
    let limits = &limits::LINK_STORES;
    follow_dns(EnvoyCluster {
        circuit_breakers: Some(UpstreamLimits::circuit_breakers_by_priority(
            &limits::LINK_WEB,
            &limits::LINK_STORES,
        )),
        ..checked_between_clusters(name, addresses, expected_san, limits, &BETWEEN_CLUSTERS)
    })
}

/// In a cluster: 10903 of the hub's Envoys.
pub fn hub_alerts(addresses: &[HostPort], expected_san: &str) -> Vec<EnvoyCluster> {
    let (name, limits) = ("hub/alerts".to_owned(), &limits::TO_HUB_ALERTS);
    follow_dns(checked_between_clusters(name, addresses, expected_san, limits, &ALERTS))
}

/// On the hub: one replica of the hub's Alertmanager. `path_prefix` is its `--web.route-prefix`.
pub fn alertmanager_on_hub(
    index: u32,
    addresses: &[HostPort],
    path_prefix: &str,
) -> Vec<EnvoyCluster> {
    // Without the check, a replica that accepts connections and doesn't answer would delay the
    // posts of every cluster.
    let check = HttpHealthCheck {
        host: "alertmanager".into(),
        path: format!("{path_prefix}/-/healthy"),
        ..Default::default()
    };
    follow_dns(EnvoyCluster {
        health_checks: vec![health_check(HealthChecker::HttpHealthCheck(check))],
        ..base(format!("alertmanager/{index}"), &[addresses], &limits::ALERTMANAGER)
    })
}

/// On the hub: Atlas's xDS server, to which 10900 passes TCP.
pub fn atlas_xds_entry(address: &HostPort) -> Vec<EnvoyCluster> {
    follow_dns(base("atlas/xds".into(), &[std::slice::from_ref(address)], &limits::ATLAS_XDS))
}

/// On the hub: Atlas's web page.
pub fn atlas_web(address: &HostPort) -> Vec<EnvoyCluster> {
    follow_dns(base("atlas/web".into(), &[std::slice::from_ref(address)], &limits::ATLAS_WEB))
}

/// In a cluster: one Thanos sidecar. Each of `fallbacks` is used only while no address before it is
/// healthy.
pub fn store_in_cluster(
    label: &str,
    address: &HostPort,
    fallbacks: &[HostPort],
) -> Vec<EnvoyCluster> {
    // By default it would be the Envoy cluster's name, which contains a slash: servers that check
    // the authority reset the stream.
    let check = GrpcHealthCheck { authority: label.into(), ..Default::default() };
    let priorities: Vec<&[HostPort]> =
        [address].into_iter().chain(fallbacks).map(std::slice::from_ref).collect();
    follow_dns(EnvoyCluster {
        typed_extension_protocol_options: http2(LOCAL_STREAM_WINDOW, keepalive(30_000, 10_000)),
        health_checks: vec![health_check(HealthChecker::GrpcHealthCheck(check))],
        ..base(format!("store/{label}"), &priorities, &limits::STORE)
    })
}

/// In a cluster: the backend of a web UI. `kind` is `prometheus` or `alertmanager`.
pub fn backend(kind: &str, address: &HostPort) -> Vec<EnvoyCluster> {
    // A check by HTTP would hide the page that a starting Prometheus shows.
    let check = HealthChecker::TcpHealthCheck(TcpHealthCheck::default());
    follow_dns(EnvoyCluster {
        health_checks: vec![health_check(check)],
        // Keeps a client on one replica, by the hash policy of the route.
        lb_policy: cluster::cluster::LbPolicy::RingHash.into(),
        ..base(format!("backend/{kind}"), &[std::slice::from_ref(address)], &limits::BACKEND)
    })
}

/// In the bootstrap: Atlas's xDS server.
pub(super) fn xds(
    name: &str,
    addresses: &[HostPort],
    expected_san: &str,
    secrets: &SecretSource,
) -> Vec<EnvoyCluster> {
    follow_dns(EnvoyCluster {
        transport_socket: Some(tls::upstream(&ExpectedSan::Exact(expected_san), secrets)),
        typed_extension_protocol_options: http2(LINK_STREAM_WINDOW, pings(&XDS)),
        ..between_clusters(name.into(), addresses, &limits::XDS_STREAM, &XDS)
    })
}

/// In the bootstrap: this Envoy's admin interface.
pub(super) fn admin(name: &str, address: &HostPort) -> Vec<EnvoyCluster> {
    follow_dns(EnvoyCluster {
        // Probes have high priority, so that slow readers of statistics take nothing from them.
        circuit_breakers: Some(UpstreamLimits::circuit_breakers_by_priority(
            &limits::ADMIN,
            &limits::ADMIN,
        )),
        ..base(name.into(), &[std::slice::from_ref(address)], &limits::ADMIN)
    })
}

/// Another cluster's Envoy, over mutual TLS. Health checks alone decide whether an address is used:
/// responses of backends behind that Envoy say nothing about it, even if they break off.
fn checked_between_clusters(
    name: String,
    addresses: &[HostPort],
    expected_san: &str,
    limits: &UpstreamLimits,
    timing: &Timing,
) -> EnvoyCluster {
    let check = HttpHealthCheck {
        host: WEB_AUTHORITY.into(),
        path: HEALTH_PATH.into(),
        codec_client_type: CodecClientType::Http2.into(),
        ..Default::default()
    };
    let san = ExpectedSan::Exact(expected_san);
    EnvoyCluster {
        transport_socket: Some(tls::upstream(&san, &tls::secrets_by_ads())),
        typed_extension_protocol_options: http2(LINK_STREAM_WINDOW, pings(timing)),
        health_checks: vec![core::HealthCheck {
            timeout: milliseconds(timing.check_timeout_ms),
            interval: milliseconds(timing.check_interval_ms),
            no_traffic_interval: milliseconds(timing.check_interval_ms),
            // On a link that drops all packets the check's own connection ends as soon as the
            // others. A second check would only delay the requests that arrive meanwhile.
            unhealthy_threshold: uint32(1),
            ..health_check(HealthChecker::HttpHealthCheck(check))
        }],
        // Otherwise requests in flight would wait for an Envoy that hangs.
        close_connections_on_host_health_failure: true,
        ..between_clusters(name, addresses, limits, timing)
    }
}

/// An upstream in another cluster.
fn between_clusters(
    name: String,
    addresses: &[HostPort],
    limits: &UpstreamLimits,
    timing: &Timing,
) -> EnvoyCluster {
    EnvoyCluster {
        connect_timeout: milliseconds(timing.connect_ms),
        upstream_bind_config: Some(socket::upstream_bind_config(timing)),
        upstream_connection_options: Some(tcp_keepalive(
            timing.probe_interval_ms / 1000,
            timing.probe_interval_ms.div_ceil(3000),
        )),
        ..base(name, &[addresses], limits)
    }
}

fn tcp_keepalive(time_seconds: u32, interval_seconds: u32) -> cluster::UpstreamConnectionOptions {
    cluster::UpstreamConnectionOptions {
        tcp_keepalive: Some(core::TcpKeepalive {
            keepalive_probes: uint32(3),
            keepalive_time: uint32(time_seconds),
            keepalive_interval: uint32(interval_seconds),
        }),
        ..Default::default()
    }
}

/// What all Envoy clusters have in common. `priorities` are groups of addresses, best first.
///
/// There is no outlier detection: it counts every response that breaks off as a failure of the
/// address, so a few requests of one client would eject it for everybody.
fn base(name: String, priorities: &[&[HostPort]], limits: &UpstreamLimits) -> EnvoyCluster {
    EnvoyCluster {
        load_assignment: Some(load_assignment(&name, priorities)),
        connect_timeout: milliseconds(CONNECT_TIMEOUT_MS),
        circuit_breakers: Some(limits.circuit_breakers()),
        per_connection_buffer_limit_bytes: uint32(limits::CONNECTION_BUFFER),
        common_lb_config: Some(cluster::cluster::CommonLbConfig {
            // An error at once is better than a request to an address that is known to be dead.
            healthy_panic_threshold: Some(Percent { value: 0.0 }),
            ..Default::default()
        }),
        upstream_connection_options: Some(tcp_keepalive(30, 10)),
        name,
        ..Default::default()
    }
}

fn load_assignment(name: &str, priorities: &[&[HostPort]]) -> endpoint::ClusterLoadAssignment {
    let mut endpoints = Vec::new();
    for (priority, addresses) in (0..).zip(priorities) {
        if !addresses.is_empty() {
            endpoints.push(endpoint::LocalityLbEndpoints {
                priority,
                lb_endpoints: addresses.iter().map(lb_endpoint).collect(),
                ..Default::default()
            });
        }
    }
    endpoint::ClusterLoadAssignment {
        cluster_name: name.to_owned(),
        endpoints,
        ..Default::default()
    }
}

fn lb_endpoint(address: &HostPort) -> endpoint::LbEndpoint {
    let host = match &address.host {
        Host::Ip(ip) => ip.to_string(),
        Host::Name(name) => fully_qualified(name),
    };
    let endpoint =
        endpoint::Endpoint { address: socket_address(host, address.port), ..Default::default() };
    endpoint::LbEndpoint {
        host_identifier: Some(endpoint::lb_endpoint::HostIdentifier::Endpoint(endpoint)),
        ..Default::default()
    }
}

/// A host name with a dot at its end. Without it c-ares would try the search list first, and
/// another name could answer. A single label stays as it is: only the search list can complete it.
fn fully_qualified(name: &str) -> String {
    if name.contains('.') { format!("{name}.") } else { name.to_owned() }
}

fn health_check(checker: HealthChecker) -> core::HealthCheck {
    core::HealthCheck {
        timeout: seconds(2),
        interval: seconds(3),
        unhealthy_interval: seconds(2),
        // By default, an Envoy cluster that fails its first check is checked again after a minute.
        no_traffic_interval: seconds(3),
        unhealthy_threshold: uint32(2),
        healthy_threshold: uint32(1),
        // Spreads the checks of many clusters over time.
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
        interval: milliseconds(interval_ms),
        timeout: milliseconds(timeout_ms),
        ..Default::default()
    }
}

fn http2(stream_window: u32, keepalive: core::KeepaliveSettings) -> HashMap<String, Any> {
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

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> HostPort {
        let (host, port) = text.rsplit_once(':').unwrap();
        HostPort::new(host.parse().unwrap(), port.parse().unwrap())
    }

    fn names(clusters: &[EnvoyCluster]) -> Vec<&str> {
        clusters.iter().map(|cluster| cluster.name.as_str()).collect()
    }

    #[test]
    fn ip_addresses_need_no_dns() {
        assert_eq!(names(&atlas_web(&address("10.0.0.1:6310"))), ["atlas/web"]);
        assert_eq!(names(&downstream_cluster("tokyo", &[], "spiffe://a/b")), ["cluster/tokyo"]);
    }

    #[test]
    fn each_host_name_has_an_envoy_cluster_that_keeps_its_last_address() {
        let addresses = ["a.example:1", "10.0.0.1:1", "b.example:1"].map(address);
        let clusters = downstream_cluster("tokyo", &addresses, "spiffe://a/b");
        assert_eq!(
            names(&clusters),
            [
                "dns/cluster/tokyo",
                "dns-last/cluster/tokyo/0",
                "dns-last/cluster/tokyo/1",
                "cluster/tokyo"
            ]
        );
        let endpoints = |cluster: &EnvoyCluster| {
            format!("{:?}", cluster.load_assignment).matches("PortValue").count()
        };
        assert_eq!(clusters.iter().map(endpoints).collect::<Vec<_>>(), [3, 1, 1, 0]);
        assert!(clusters[0].ignore_health_on_host_removal);
        assert_eq!(clusters[0].alt_stat_name, "cluster/tokyo");
    }

    #[test]
    fn host_names_among_the_fallbacks_are_resolved_too() {
        let clusters = store_in_cluster("x", &address("pod-0.svc:1"), &[address("svc.ns:1")]);
        assert_eq!(
            names(&clusters),
            ["dns/store/x", "dns-last/store/x/0", "dns-last/store/x/1", "store/x"]
        );
    }
}

//! How Envoy clusters follow the host names among their addresses.
//!
//! ```text
//! store/x (aggregate) ─┬─▶ dns/store/x          the addresses that DNS returns now
//!                      └─▶ dns-last/store/x/0   if none of those is healthy: the last one
//! ```
//!
//! `dns/…` removes an address as soon as DNS no longer returns it, healthy or not. But if DNS
//! returns no address for a moment, it removes the last one too. A DNS cluster with
//! `all_addresses_in_single_endpoint` keeps its addresses then, but it can have only one host name
//! and no health per address. So both kinds are used, behind an aggregate that routes name
//! (`docs/decisions/0027-names-that-move.md`).

use std::net::IpAddr;

use envoy_types::pb::envoy::config::cluster::v3 as cluster;
use envoy_types::pb::envoy::config::cluster::v3::Cluster as EnvoyCluster;
use envoy_types::pb::envoy::config::core::v3::address::Address::SocketAddress;
use envoy_types::pb::envoy::config::endpoint::v3 as endpoint;
use envoy_types::pb::envoy::extensions::clusters::aggregate::v3::ClusterConfig;
use envoy_types::pb::envoy::extensions::clusters::common::dns::v3::DnsLookupFamily;
use envoy_types::pb::envoy::extensions::clusters::dns::v3::DnsCluster;
use prost::{Message, Name};

use super::{any, seconds};

/// Envoy 1.36 to 1.38 need this for `all_addresses_in_single_endpoint` as described above; for
/// later versions it is the default. Without it, connections to an earlier address stay open, that
/// of its health check too.
pub(super) const RUNTIME_FLAG: &str = "envoy.reloadable_features.enable_new_dns_implementation";

/// Completes an Envoy cluster that has its addresses in `load_assignment`: as a static one if they
/// are all IP addresses, else as an aggregate with the Envoy clusters that it leads to.
pub(super) fn follow_dns(cluster: EnvoyCluster) -> Vec<EnvoyCluster> {
    let groups = cluster.load_assignment.iter().flat_map(|assignment| &assignment.endpoints);
    let endpoints = groups.flat_map(|group| &group.lb_endpoints);
    let named: Vec<endpoint::LbEndpoint> =
        endpoints.filter(|endpoint| has_host_name(endpoint)).cloned().collect();
    if named.is_empty() {
        let static_type = cluster::cluster::ClusterDiscoveryType::Type(
            cluster::cluster::DiscoveryType::Static.into(),
        );
        return vec![EnvoyCluster { cluster_discovery_type: Some(static_type), ..cluster }];
    }
    let mut resolved = vec![EnvoyCluster {
        // So that a downstream cluster's statistics have one name, with host names or without.
        alt_stat_name: cluster.name.clone(),
        ..dns_cluster(&cluster, format!("dns/{}", cluster.name), false)
    }];
    for (index, endpoint) in named.into_iter().enumerate() {
        let name = format!("dns-last/{}/{index}", cluster.name);
        let group =
            endpoint::LocalityLbEndpoints { lb_endpoints: vec![endpoint], ..Default::default() };
        let assignment = endpoint::ClusterLoadAssignment {
            cluster_name: name.clone(),
            endpoints: vec![group],
            ..Default::default()
        };
        resolved.push(EnvoyCluster {
            load_assignment: Some(assignment),
            ..dns_cluster(&cluster, name, true)
        });
    }
    let clusters = resolved.iter().map(|resolved| resolved.name.clone()).collect();
    let aggregate = EnvoyCluster {
        name: cluster.name,
        cluster_discovery_type: Some(custom_type(
            "envoy.clusters.aggregate",
            &ClusterConfig { clusters },
        )),
        lb_policy: cluster::cluster::LbPolicy::ClusterProvided.into(),
        connect_timeout: cluster.connect_timeout,
        circuit_breakers: cluster.circuit_breakers,
        per_connection_buffer_limit_bytes: cluster.per_connection_buffer_limit_bytes,
        common_lb_config: cluster.common_lb_config,
        ..Default::default()
    };
    resolved.push(aggregate);
    resolved
}

fn has_host_name(endpoint: &endpoint::LbEndpoint) -> bool {
    let Some(endpoint::lb_endpoint::HostIdentifier::Endpoint(endpoint)) = &endpoint.host_identifier
    else {
        return false;
    };
    match endpoint.address.as_ref().and_then(|address| address.address.as_ref()) {
        Some(SocketAddress(address)) => address.address.parse::<IpAddr>().is_err(),
        _ => false,
    }
}

/// `cluster` under another name, with its host names resolved by DNS.
fn dns_cluster(
    cluster: &EnvoyCluster,
    name: String,
    all_addresses_in_single_endpoint: bool,
) -> EnvoyCluster {
    let dns = DnsCluster {
        dns_refresh_rate: seconds(15),
        respect_dns_ttl: true,
        dns_lookup_family: DnsLookupFamily::V4Preferred.into(),
        all_addresses_in_single_endpoint,
        ..Default::default()
    };
    let assignment = cluster.load_assignment.clone();
    EnvoyCluster {
        cluster_discovery_type: Some(custom_type("envoy.clusters.dns", &dns)),
        load_assignment: assignment.map(|assignment| endpoint::ClusterLoadAssignment {
            cluster_name: name.clone(),
            ..assignment
        }),
        // Otherwise an address that DNS no longer returns would be used for as long as it is
        // healthy.
        ignore_health_on_host_removal: true,
        name,
        ..cluster.clone()
    }
}

fn custom_type<M: Message + Name>(
    name: &str,
    config: &M,
) -> cluster::cluster::ClusterDiscoveryType {
    cluster::cluster::ClusterDiscoveryType::ClusterType(cluster::cluster::CustomClusterType {
        name: name.into(),
        typed_config: Some(any(config)),
    })
}

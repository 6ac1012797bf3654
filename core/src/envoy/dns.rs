//! How an Envoy cluster follows the host names among its addresses.
//!
//! ```text
//! store/x (aggregate) ─┬─▶ dns/store/x          every address that DNS names now, and no other
//!                      └─▶ dns-last/store/x/0   while none of those is healthy: the one that the name had last
//! ```
//!
//! What DNS says counts at once (`dns/…`): an address that it no longer names is gone, whether it answers or not. But Envoy takes an
//! answer without addresses for an answer, so a name that is missing for a moment would take the last address away. Only a DNS
//! cluster of a single endpoint keeps its address then (`dns-last/…`), and that knows neither several names nor the health of each
//! address. So there are both, with one name for routes (`docs/decisions/0027-names-that-move.md`).

use envoy_types::pb::envoy::config::cluster::v3 as cluster;
use envoy_types::pb::envoy::config::core::v3::address::Address::SocketAddress;
use envoy_types::pb::envoy::config::endpoint::v3 as endpoint;
use envoy_types::pb::envoy::extensions::clusters::aggregate::v3::ClusterConfig;
use envoy_types::pb::envoy::extensions::clusters::common::dns::v3::DnsLookupFamily;
use envoy_types::pb::envoy::extensions::clusters::dns::v3::DnsCluster;
use prost::{Message, Name};

use super::cluster::EnvoyCluster;
use super::{any, seconds};

/// Envoy 1.36 to 1.38 do what is said above of a single endpoint only with this; later ones do it by themselves. (Without it, connections
/// to an earlier address stay, its health check's too.)
pub(super) const RUNTIME_FLAG: &str = "envoy.reloadable_features.enable_new_dns_implementation";

/// What `whole` comes to, whose `load_assignment` says its addresses: itself where all are IP addresses, else itself as an aggregate, with
/// the Envoy clusters that it leads to.
pub(super) fn followed(whole: EnvoyCluster) -> Vec<EnvoyCluster> {
    let groups = whole.load_assignment.iter().flat_map(|assignment| &assignment.endpoints);
    let endpoints = groups.flat_map(|group| &group.lb_endpoints);
    let named: Vec<endpoint::LbEndpoint> =
        endpoints.filter(|endpoint| has_name(endpoint)).cloned().collect();
    if named.is_empty() {
        let static_type = cluster::cluster::ClusterDiscoveryType::Type(
            cluster::cluster::DiscoveryType::Static.into(),
        );
        return vec![EnvoyCluster { cluster_discovery_type: Some(static_type), ..whole }];
    }
    let now = EnvoyCluster {
        // Statistics of what a route names, and of its addresses, are found under one name.
        alt_stat_name: whole.name.clone(),
        ..resolving(&whole, format!("dns/{}", whole.name), false)
    };
    let last = (0..).zip(named).map(|(place, endpoint): (u32, _)| {
        let name = format!("dns-last/{}/{place}", whole.name);
        let group =
            endpoint::LocalityLbEndpoints { lb_endpoints: vec![endpoint], ..Default::default() };
        let assignment = endpoint::ClusterLoadAssignment {
            cluster_name: name.clone(),
            endpoints: vec![group],
            ..Default::default()
        };
        EnvoyCluster { load_assignment: Some(assignment), ..resolving(&whole, name, true) }
    });
    let parts: Vec<EnvoyCluster> = std::iter::once(now).chain(last).collect();
    let clusters = parts.iter().map(|part| part.name.clone()).collect();
    let aggregate = EnvoyCluster {
        name: whole.name,
        cluster_discovery_type: Some(custom(
            "envoy.clusters.aggregate",
            &ClusterConfig { clusters },
        )),
        lb_policy: cluster::cluster::LbPolicy::ClusterProvided.into(),
        connect_timeout: whole.connect_timeout,
        circuit_breakers: whole.circuit_breakers,
        per_connection_buffer_limit_bytes: whole.per_connection_buffer_limit_bytes,
        common_lb_config: whole.common_lb_config,
        ..Default::default()
    };
    // What it leads to first, though Envoy takes them in any order.
    parts.into_iter().chain([aggregate]).collect()
}

fn has_name(endpoint: &endpoint::LbEndpoint) -> bool {
    let Some(endpoint::lb_endpoint::HostIdentifier::Endpoint(endpoint)) = &endpoint.host_identifier
    else {
        return false;
    };
    match endpoint.address.as_ref().and_then(|address| address.address.as_ref()) {
        Some(SocketAddress(at)) => at.address.parse::<std::net::IpAddr>().is_err(),
        _ => false,
    }
}

/// `whole` under another name, by DNS.
fn resolving(
    whole: &EnvoyCluster,
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
    let assignment = whole.load_assignment.clone();
    EnvoyCluster {
        cluster_discovery_type: Some(custom("envoy.clusters.dns", &dns)),
        load_assignment: assignment.map(|assignment| endpoint::ClusterLoadAssignment {
            cluster_name: name.clone(),
            ..assignment
        }),
        // Otherwise an address that DNS no longer names would stay for as long as it answers.
        ignore_health_on_host_removal: true,
        name,
        ..whole.clone()
    }
}

fn custom<M: Message + Name>(name: &str, config: &M) -> cluster::cluster::ClusterDiscoveryType {
    cluster::cluster::ClusterDiscoveryType::ClusterType(cluster::cluster::CustomClusterType {
        name: name.into(),
        typed_config: Some(any(config)),
    })
}

#[cfg(test)]
mod tests {
    use super::super::cluster::{atlas_web, downstream_cluster, store_in_cluster};
    use crate::name::HostPort;

    fn at(text: &str) -> HostPort {
        let (host, port) = text.rsplit_once(':').unwrap();
        HostPort::new(host.parse().unwrap(), port.parse().unwrap())
    }

    fn names(clusters: &[super::EnvoyCluster]) -> Vec<&str> {
        clusters.iter().map(|cluster| cluster.name.as_str()).collect()
    }

    #[test]
    fn ip_addresses_need_no_dns() {
        assert_eq!(names(&atlas_web(&at("10.0.0.1:6310"))), ["atlas/web"]);
        assert_eq!(names(&downstream_cluster("tokyo", &[], "spiffe://a/b")), ["cluster/tokyo"]);
    }

    #[test]
    fn each_name_has_the_address_that_it_had_last() {
        let three = ["a.example:1", "10.0.0.1:1", "b.example:1"].map(at);
        let of = downstream_cluster("tokyo", &three, "spiffe://a/b");
        assert_eq!(
            names(&of),
            [
                "dns/cluster/tokyo",
                "dns-last/cluster/tokyo/0",
                "dns-last/cluster/tokyo/1",
                "cluster/tokyo"
            ]
        );
        let hosts = |of: &super::EnvoyCluster| {
            format!("{:?}", of.load_assignment).matches("PortValue").count()
        };
        assert_eq!(of.iter().map(hosts).collect::<Vec<_>>(), [3, 1, 1, 0]);
        assert!(of[0].ignore_health_on_host_removal && of[0].alt_stat_name == "cluster/tokyo");
    }

    #[test]
    fn an_address_that_counts_only_otherwise_is_followed_too() {
        let of = store_in_cluster("x", &at("pod-0.svc:1"), &[at("svc.ns:1")]);
        assert_eq!(
            names(&of),
            ["dns/store/x", "dns-last/store/x/0", "dns-last/store/x/1", "store/x"]
        );
    }
}

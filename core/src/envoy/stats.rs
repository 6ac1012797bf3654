//! The statistics that an Envoy keeps, which 9001 shows: those that alerts, dashboards or `atlas`
//! use. Each costs memory for every Envoy cluster.

use envoy_types::pb::envoy::config::metrics::v3 as metrics;
use envoy_types::pb::envoy::r#type::matcher::v3::{
    ListStringMatcher, StringMatcher, string_matcher::MatchPattern,
};

use super::bool_value;
use super::matcher::safe_regex;

/// Prefixes of the statistics of the Envoy itself and its listeners: a fixed number.
const OF_THE_ENVOY: &[&str] = &[
    "server.",
    "cluster_manager.",
    "listener_manager.",
    "control_plane.",
    "http.",
    "listener.",
    "connection_limit.",
    "overload.",
    "sds.",
    "tcp.",
    "runtime.",
];

/// Of each downstream cluster, on the hub. A test counts on a real Envoy that these are at most 15
/// series.
const OF_A_DOWNSTREAM_CLUSTER: &[&str] = &[
    "membership_healthy",
    "membership_total",
    "health_check\\.failure",
    "ssl\\.connection_error",
    "upstream_cx_active",
    "upstream_cx_connect_fail",
    "upstream_cx_overflow",
    "upstream_cx_rx_bytes_total",
    "upstream_rq_5xx",
    "upstream_rq_active",
    "upstream_rq_max_duration_reached",
    "upstream_rq_pending_overflow",
    "upstream_rq_retry_overflow",
    "upstream_rq_total",
];

/// Of other Envoy clusters, of which there are few.
const OF_OTHERS: &[&str] = &[
    "upstream_rq_.*",
    "upstream_cx_(total|active|connect_fail|connect_timeout|destroy.*|overflow|pool_overflow|rx_bytes_total|tx_bytes_total)",
    "membership_.*",
    "health_check\\..*",
    "outlier_detection\\.ejections_active",
    "circuit_breakers\\.default\\..*_open",
    "ssl\\.(handshake|fail_.*|connection_error)",
    "update_.*",
];

/// The names of the Envoy clusters that are downstream clusters.
const DOWNSTREAM_CLUSTERS: &str = "cluster/[^.]*";
/// The names of all others, because RE2 has no negative look-ahead.
const OTHER_CLUSTERS: &str = "(store|backend|hub|alertmanager|atlas)/[^.]*|atlas-xds|envoy-admin";

/// Envoy matches the names before it extracts tags from them, so the name of an Envoy cluster is
/// part of them. No such name contains a dot.
pub(super) fn config() -> metrics::StatsConfig {
    let mut patterns = Vec::new();
    for prefix in OF_THE_ENVOY {
        patterns.push(string_matcher(MatchPattern::Prefix((*prefix).to_owned())));
    }
    for (clusters, statistics) in
        [(DOWNSTREAM_CLUSTERS, OF_A_DOWNSTREAM_CLUSTER), (OTHER_CLUSTERS, OF_OTHERS)]
    {
        let regex = format!("cluster\\.({clusters})\\.({})", statistics.join("|"));
        patterns.push(string_matcher(MatchPattern::SafeRegex(safe_regex(&regex))));
    }
    metrics::StatsConfig {
        stats_matcher: Some(metrics::StatsMatcher {
            stats_matcher: Some(metrics::stats_matcher::StatsMatcher::InclusionList(
                ListStringMatcher { patterns },
            )),
        }),
        use_all_default_tags: bool_value(true),
        ..Default::default()
    }
}

fn string_matcher(pattern: MatchPattern) -> StringMatcher {
    StringMatcher { match_pattern: Some(pattern), ..Default::default() }
}

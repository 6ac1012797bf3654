//! Which statistics an Envoy keeps: those that someone looks at, on 9001. Each costs memory for every Envoy cluster.

use envoy_types::pb::envoy::config::metrics::v3 as metrics;
use envoy_types::pb::envoy::r#type::matcher::v3::{
    ListStringMatcher, StringMatcher, string_matcher::MatchPattern,
};

use super::flag;
use super::matcher::safe_regex;

/// Of the Envoy itself, its listeners and what it takes in: a fixed number.
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

/// Of each downstream cluster, on the hub. At most 15 series, which a test counts on a real Envoy.
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

/// Of every other Envoy cluster, of which there are few.
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

/// The list. Names of statistics have no tags yet, and Envoy clusters no dots in theirs.
pub(super) fn config() -> metrics::StatsConfig {
    let mut patterns: Vec<StringMatcher> = OF_THE_ENVOY
        .iter()
        .map(|prefix| matching(MatchPattern::Prefix((*prefix).to_owned())))
        .collect();
    for (names, wanted) in
        [(DOWNSTREAM_CLUSTERS, OF_A_DOWNSTREAM_CLUSTER), (OTHER_CLUSTERS, OF_OTHERS)]
    {
        patterns.push(matching(MatchPattern::SafeRegex(safe_regex(&format!(
            "cluster\\.({names})\\.({})",
            wanted.join("|")
        )))));
    }
    metrics::StatsConfig {
        stats_matcher: Some(metrics::StatsMatcher {
            stats_matcher: Some(metrics::stats_matcher::StatsMatcher::InclusionList(
                ListStringMatcher { patterns },
            )),
        }),
        use_all_default_tags: flag(true),
        ..Default::default()
    }
}

/// Names of the Envoy clusters that are downstream clusters.
const DOWNSTREAM_CLUSTERS: &str = "cluster/[^.]*";
/// Names of all others (RE2 has no negative look-ahead).
const OTHER_CLUSTERS: &str = "(store|backend|hub|alertmanager|atlas)/[^.]*|atlas-xds|envoy-admin";

fn matching(pattern: MatchPattern) -> StringMatcher {
    StringMatcher { match_pattern: Some(pattern), ..Default::default() }
}

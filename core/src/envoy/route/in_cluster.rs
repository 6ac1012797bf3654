//! The routes of a cluster's Envoys.

use envoy_types::pb::envoy::config::route::v3 as route;
use route::RouteAction;
use route::route_action::{HashPolicy, HostRewriteSpecifier, hash_policy};

use super::{
    NOTIFICATIONS_PATH, RETRY_STORES, RETRY_UNSENT, Route, RouteConfiguration, VirtualHost,
    WEB_AUTHORITY, cluster, configuration, direct_response, forward_to, forward_within, health,
    retry_policy, route_to, virtual_host, with_script,
};
use crate::envoy::limits::{ALERT_POST_FROM_CLUSTER_SECONDS, CLUSTER_EXTRA_SECONDS};
use crate::envoy::long_lived::{self, StreamLimits};
use crate::envoy::matcher::{
    exact_path, grpc, method_and_path, path_prefix, path_regex, path_separated_prefix,
};
use crate::envoy::web::WebUi;
use crate::envoy::{http_filter, lua};
use crate::model::REFUSED_PATHS;

/// Unreserved characters (RFC 3986 §2.3) in percent-encoding, anywhere in a path.
const ENCODED_UNRESERVED: &str =
    "[^?]*%(2[dDeE]|3[0-9]|4[1-9a-fA-F]|5[0-9aAfF]|6[1-9a-fA-F]|7[0-9aAeE])[^?]*";

/// 11901: the stores and the web UIs. A store that isn't among `hosts` gets an error that says so.
pub fn inbound(name: &str, mut hosts: Vec<VirtualHost>) -> RouteConfiguration {
    let unknown = "Atlas: this cluster has no such store; goatlas.io/replicas and goatlas.io/shards say how many it has.";
    hosts.push(virtual_host(
        "unknown-store",
        &["*".to_owned()],
        vec![direct_response(grpc(), 503, unknown)],
    ));
    configuration(name, hosts)
}

/// 11901: one store, by the authority. `max_request_seconds` is how long a request may take at the
/// hub.
pub fn store_host(label: &str, max_request_seconds: u32) -> VirtualHost {
    let longest = i64::from(max_request_seconds) + CLUSTER_EXTRA_SECONDS;
    let action = RouteAction {
        retry_policy: Some(retry_policy(RETRY_STORES)),
        ..forward_to(cluster(&format!("store/{label}")), longest)
    };
    let domains = [label.to_owned(), format!("{label}.*")];
    virtual_host(label, &domains, vec![route_to(grpc(), action)])
}

/// 11901: the web UIs. `allowed` are path prefixes below [`REFUSED_PATHS`] that this cluster
/// allows, `max_request_seconds` is how long a request may take at the hub.
pub fn web_host(uis: &[WebUi<'_>], allowed: &[String], max_request_seconds: u32) -> VirtualHost {
    let mut routes = vec![
        health(),
        // A server would decode `%71uit` to `quit` after Envoy has matched the path. Browsers don't
        // encode these characters.
        direct_response(
            path_regex(ENCODED_UNRESERVED),
            400,
            "Letters, digits and -._~ must not be percent-encoded in a path.\n",
        ),
    ];
    let refusal = "Atlas refuses this path on web UIs; the cluster's annotation goatlas.io/allow-paths can allow it.\n";
    for ui in uis {
        for path in allowed {
            let matches = path_separated_prefix(&format!("{}{path}", ui.base));
            routes.extend(to_backend(ui, &matches, path, max_request_seconds));
        }
        for path in REFUSED_PATHS {
            let matches = path_separated_prefix(&format!("{}{path}", ui.base));
            routes.push(direct_response(matches, 403, refusal));
        }
        if ui.kind == "prometheus" {
            let matches = exact_path(&format!("{}{NOTIFICATIONS_PATH}", ui.base));
            routes.push(long_lived::event_stream_in_cluster(matches, |limits| {
                backend_action(ui, NOTIFICATIONS_PATH, limits)
            }));
        }
        let root = path_prefix(&format!("{}/", ui.base));
        routes.extend(to_backend(ui, &root, "/", max_request_seconds));
    }
    VirtualHost {
        retry_policy: Some(route::RetryPolicy {
            // A retry has another hash, which may lead to the same replica again.
            host_selection_retry_max_attempts: 10,
            ..retry_policy(RETRY_UNSENT)
        }),
        typed_per_filter_config: http_filter::script_of_route(lua::web_in_cluster(uis)),
        ..virtual_host("web", &[WEB_AUTHORITY.to_owned()], routes)
    }
}

/// The routes to a backend. `matches` matches `path`, which is relative to the UI's root.
fn to_backend(
    ui: &WebUi<'_>,
    matches: &route::RouteMatch,
    path: &str,
    max_request_seconds: u32,
) -> Vec<Route> {
    long_lived::routes_in_cluster(matches, max_request_seconds.into(), |limits| {
        backend_action(ui, path, limits)
    })
}

fn backend_action(ui: &WebUi<'_>, path: &str, limits: StreamLimits) -> RouteAction {
    RouteAction {
        prefix_rewrite: format!("{}{path}", ui.backend_prefix),
        host_rewrite_specifier: ui.authority().map(HostRewriteSpecifier::HostRewriteLiteral),
        hash_policy: vec![hash_of_replica_cookie()],
        ..forward_within(limits, cluster(&format!("backend/{}", ui.kind)))
    }
}

/// Keeps a client on one replica by the cookie of `lua/replica_cookie.lua`, so that graphs don't
/// change between two replicas. (Envoy's stateful session filter does nothing in front of an
/// aggregate cluster.)
fn hash_of_replica_cookie() -> HashPolicy {
    let cookie = hash_policy::Cookie { name: lua::REPLICA_COOKIE.into(), ..Default::default() };
    let specifier = hash_policy::PolicySpecifier::Cookie(cookie);
    HashPolicy { policy_specifier: Some(specifier), ..Default::default() }
}

/// 11903: alerts for each of the hub's Alertmanager replicas, and the list of these for
/// Prometheus's HTTP service discovery.
pub fn alerts_in_cluster(name: &str, indices: &[u32]) -> RouteConfiguration {
    let mut routes = vec![list_alertmanagers(indices)];
    let mut hosts_of_03 = Vec::new();
    for index in indices {
        routes.push(alerts_route(&format!("/alertmanager/{index}/api/v2/alerts"), *index));
        // Atlas 0.3 gave each Alertmanager its own name, `alertmanagerN`, and no path.
        hosts_of_03.push(virtual_host(
            &format!("alertmanager{index}"),
            &[format!("alertmanager{index}"), format!("alertmanager{index}.*")],
            vec![alerts_route("/api/v2/alerts", *index)],
        ));
    }
    let mut hosts = vec![virtual_host("alerts", &["*".to_owned()], routes)];
    hosts.extend(hosts_of_03);
    RouteConfiguration { ignore_port_in_host_matching: true, ..configuration(name, hosts) }
}

fn alerts_route(path: &str, index: u32) -> Route {
    let action = RouteAction {
        prefix_rewrite: format!("/alertmanager/{index}/api/v2/alerts"),
        retry_policy: Some(retry_policy(RETRY_UNSENT)),
        ..forward_to(cluster("hub/alerts"), ALERT_POST_FROM_CLUSTER_SECONDS)
    };
    route_to(method_and_path("POST", path), action)
}

/// The Alertmanagers as targets of HTTP service discovery. A script makes the response, because a
/// direct response of Envoy 1.36 ignores `body_format` and so can't contain the request's
/// authority. The status 404 is sent only if the script fails.
fn list_alertmanagers(indices: &[u32]) -> Route {
    let target = |index: &u32| {
        format!(
            r#"{{"targets": ["AUTHORITY"], "labels": {{"atlas_alertmanager": "{index}", "atlas_alerts_path": "/alertmanager/{index}/api/v2/alerts"}}}}"#
        )
    };
    let targets: Vec<String> = indices.iter().map(target).collect();
    with_script(
        lua::list_alertmanagers(&format!("[{}]\n", targets.join(", "))),
        direct_response(exact_path("/alertmanagers"), 404, ""),
    )
}

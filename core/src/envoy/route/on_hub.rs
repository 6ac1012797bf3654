//! The routes of the hub's Envoys.

use std::collections::BTreeSet;

use envoy_types::pb::envoy::config::core::v3::RoutingPriority;
use envoy_types::pb::envoy::config::rbac::v3 as rbac_rules;
use envoy_types::pb::envoy::config::route::v3 as route;
use envoy_types::pb::envoy::extensions::filters::http::rbac::v3::Rbac;
use route::RouteAction;
use route::route_action::ClusterNotFoundResponseCode;

use super::{
    NOTIFICATIONS_PATH, RETRY_STORES, RETRY_UNSENT, Route, RouteConfiguration, VirtualHost,
    WEB_AUTHORITY, cluster, cluster_by_script, configuration, direct_response, forward_to,
    forward_within, health, host_rewrite, retry_policy, route_to, virtual_host, with_script,
};
use crate::envoy::limits::{ALERT_POST_SECONDS, HUB_ALERTS};
use crate::envoy::long_lived::{self, StreamLimits};
use crate::envoy::matcher::{
    escape_regex, exact_path, grpc, method_and_path, path_prefix, path_regex, regex_rewrite,
};
use crate::envoy::web::WebEntry;
use crate::envoy::{ATLAS_AUTHORITY, http_filter, lua, seconds};

/// 10901: the downstream cluster of a store, by the first label of the authority. The cluster's
/// Envoy gets the same authority, and selects the store by it.
pub fn stores_on_hub(name: &str, max_request_seconds: u32) -> RouteConfiguration {
    let action = RouteAction {
        // gRPC clients see UNAVAILABLE, whose text Thanos logs. They would see NOT_FOUND as
        // UNIMPLEMENTED, whose text Thanos doesn't log.
        cluster_not_found_response_code: ClusterNotFoundResponseCode::ServiceUnavailable.into(),
        // Own circuit breakers and connections, so that web UIs take nothing from stores.
        priority: RoutingPriority::High.into(),
        retry_policy: Some(retry_policy(RETRY_STORES)),
        ..forward_to(cluster_by_script(lua::cluster_of_store()), max_request_seconds.into())
    };
    let routes = vec![route_to(grpc(), action)];
    configuration(name, vec![virtual_host("stores", &["*".to_owned()], routes)])
}

/// 10904: the web UI of a cluster, by the path; all other paths are those of Atlas's own page. The
/// path of `--web-url` may stand before each path, because a proxy in front of the hub may remove
/// it or not.
pub fn web_on_hub(
    name: &str,
    entry: &WebEntry<'_>,
    max_request_seconds: u32,
) -> RouteConfiguration {
    let no_api = "There is no API here: that of a cluster's Alertmanager is at /alertmanager/CLUSTER/api/v2/.\n";
    let mut routes = vec![
        // For load balancers too. It needs neither Atlas nor a cluster.
        health(),
        with_script(
            lua::redirect_alertmanager_api(),
            direct_response(path_prefix("/api/v2/"), 404, no_api),
        ),
        // Browsers ask for it if a page names no icon.
        direct_response(exact_path("/favicon.ico"), 204, ""),
    ];
    let prefixes: BTreeSet<&str> = ["", entry.path].into();
    // The longer one first, because `/` matches every path.
    for prefix in prefixes.into_iter().rev() {
        routes.extend(web_below(prefix, entry, max_request_seconds));
    }
    let host = VirtualHost {
        // By this header the cluster's Envoy recognises the second attempt of a WebSocket.
        include_request_attempt_count: true,
        typed_per_filter_config: http_filter::script_of_route(lua::web_on_hub(entry)),
        request_headers_to_remove: entry.removed_from_requests(),
        response_headers_to_remove: entry.removed_from_responses(),
        ..virtual_host("web", &["*".to_owned()], routes)
    };
    configuration(name, vec![host])
}

/// The routes below `prefix`, which is removed from the path.
fn web_below(prefix: &str, entry: &WebEntry<'_>, max_request_seconds: u32) -> Vec<Route> {
    let regex = escape_regex(prefix);
    let without_prefix = (!prefix.is_empty()).then(|| regex_rewrite(&format!("^{regex}/?"), "/"));
    let to_web_ui = |limits: StreamLimits| RouteAction {
        regex_rewrite: without_prefix.clone(),
        host_rewrite_specifier: host_rewrite(WEB_AUTHORITY),
        // The backend still gets the host that the browser asked for.
        append_x_forwarded_host: true,
        retry_policy: Some(retry_policy(RETRY_UNSENT)),
        ..forward_within(limits, cluster_by_script(lua::cluster_of_web_ui(entry.path)))
    };
    let to_atlas = RouteAction {
        regex_rewrite: without_prefix.clone(),
        host_rewrite_specifier: host_rewrite(ATLAS_AUTHORITY),
        retry_policy: Some(retry_policy(RETRY_UNSENT)),
        ..forward_to(cluster("atlas/web"), 30)
    };
    let longest = max_request_seconds.into();
    let notifications = path_regex(&format!("{regex}/prom/[^/]+{NOTIFICATIONS_PATH}"));
    let prometheus = path_prefix(&format!("{prefix}/prom/"));
    let alertmanager = path_prefix(&format!("{prefix}/alertmanager/"));
    let mut routes = vec![long_lived::event_stream_on_hub(notifications, to_web_ui)];
    routes.extend(long_lived::routes_on_hub(&prometheus, longest, to_web_ui));
    routes.extend(long_lived::routes_on_hub(&alertmanager, longest, to_web_ui));
    if !prefix.is_empty() {
        routes.push(route_to(exact_path(prefix), to_atlas.clone()));
    }
    routes.push(route_to(path_prefix(&format!("{prefix}/")), to_atlas));
    routes
}

/// 10903: alerts for each of the hub's Alertmanager replicas, by its index. `path_prefix` is the
/// `--web.route-prefix` of the replicas.
pub fn alerts_on_hub(
    name: &str,
    indices: impl Iterator<Item = u32>,
    path_prefix: &str,
) -> RouteConfiguration {
    let mut routes = vec![health()];
    for index in indices {
        let action = RouteAction {
            prefix_rewrite: format!("{path_prefix}/api/v2/alerts"),
            retry_policy: Some(retry_policy(RETRY_UNSENT)),
            // Envoy counts it from the end of the request, which takes long on a slow link.
            timeout: seconds(ALERT_POST_SECONDS),
            ..forward_to(
                cluster(&format!("alertmanager/{index}")),
                HUB_ALERTS.request + ALERT_POST_SECONDS,
            )
        };
        let matches = method_and_path("POST", &format!("/alertmanager/{index}/api/v2/alerts"));
        routes.push(route_to(matches, action));
    }
    let host = VirtualHost {
        // On the virtual host, because that of a listener wouldn't change for open connections.
        typed_per_filter_config: http_filter::deny_list_of_route(deny_list()),
        ..virtual_host("alerts", &["*".to_owned()], routes)
    };
    configuration(name, vec![host])
}

/// The SPIFFE IDs that may not post alerts: none, until there is revocation.
fn deny_list() -> Rbac {
    let rules =
        rbac_rules::Rbac { action: rbac_rules::rbac::Action::Deny.into(), ..Default::default() };
    Rbac { rules: Some(rules), ..Default::default() }
}

//! Route configurations: which request goes to which Envoy cluster.
//!
//! The hub's routes don't depend on which clusters there are: a script makes the Envoy cluster's
//! name from the request (`cluster_by_script`).

mod in_cluster;
mod on_hub;

pub use in_cluster::{alerts_in_cluster, inbound, store_host, web_host};
pub use on_hub::{alerts_on_hub, stores_on_hub, web_on_hub};

use envoy_types::pb::envoy::config::core::v3::RoutingPriority;
use envoy_types::pb::envoy::config::route::v3 as route;
use envoy_types::pb::envoy::extensions::retry::host::previous_hosts::v3::PreviousHostsPredicate;
use envoy_types::pb::envoy::extensions::router::cluster_specifiers::lua::v3::LuaConfig;
use route::retry_policy::retry_host_predicate::ConfigType;
use route::route_action::{ClusterNotFoundResponseCode, ClusterSpecifier, HostRewriteSpecifier};
use route::{RouteAction, RouteMatch};

use super::long_lived::StreamLimits;
use super::matcher::{exact_path, method_and_path};
use super::{any, http_filter, inline_string, milliseconds, seconds, typed_extension, uint32};

pub use route::{Route, RouteConfiguration, VirtualHost};

/// The authority by which the hub's Envoy asks for web UIs.
pub const WEB_AUTHORITY: &str = "web";
/// The path at which an Envoy answers the health checks of Envoys of other clusters.
pub const HEALTH_PATH: &str = "/.atlas/health";
/// Prometheus 3's stream of notifications to its own pages, relative to its root.
const NOTIFICATIONS_PATH: &str = "/api/v1/notifications/live";
/// An Envoy cluster that never exists. Scripts return it for requests that name no cluster, so that
/// these get the response for unknown clusters.
const NOWHERE: &str = "nowhere";
/// When requests to stores are retried: if no store has begun to respond.
const RETRY_STORES: &str = "unavailable,connect-failure,refused-stream,reset-before-request";
/// When other requests are retried: if no server has received them.
const RETRY_UNSENT: &str = "connect-failure,refused-stream,reset-before-request";

/// 9001 of every Envoy: what of the admin interface the kubelet and Prometheus may use.
pub(super) fn status(name: &str, admin: &str) -> RouteConfiguration {
    let to_admin = |path: &str, priority: RoutingPriority| {
        let action = RouteAction { priority: priority.into(), ..forward_to(cluster(admin), 15) };
        route_to(method_and_path("GET", path), action)
    };
    let routes = vec![
        to_admin("/ready", RoutingPriority::High),
        to_admin("/stats/prometheus", RoutingPriority::Default),
    ];
    configuration(name, vec![virtual_host("status", &["*".to_owned()], routes)])
}

fn configuration(name: &str, virtual_hosts: Vec<VirtualHost>) -> RouteConfiguration {
    RouteConfiguration { name: name.to_owned(), virtual_hosts, ..Default::default() }
}

fn virtual_host(name: &str, domains: &[String], routes: Vec<Route>) -> VirtualHost {
    VirtualHost { name: name.to_owned(), domains: domains.to_vec(), routes, ..Default::default() }
}

fn route_to(matches: RouteMatch, action: RouteAction) -> Route {
    Route {
        r#match: Some(matches),
        action: Some(route::route::Action::Route(action)),
        ..Default::default()
    }
}

fn direct_response(matches: RouteMatch, status: u32, text: &str) -> Route {
    Route {
        r#match: Some(matches),
        action: Some(route::route::Action::DirectResponse(route::DirectResponseAction {
            status,
            body: inline_string(text),
            ..Default::default()
        })),
        ..Default::default()
    }
}

/// The response to health checks.
fn health() -> Route {
    direct_response(exact_path(HEALTH_PATH), 200, "ok\n")
}

/// A route with its own script.
fn with_script(script: String, route: Route) -> Route {
    Route { typed_per_filter_config: http_filter::script_of_route(script), ..route }
}

fn cluster(name: &str) -> ClusterSpecifier {
    ClusterSpecifier::Cluster(name.to_owned())
}

/// The Envoy cluster that a script names.
fn cluster_by_script(script: String) -> ClusterSpecifier {
    let config = LuaConfig { source_code: inline_string(script), default_cluster: NOWHERE.into() };
    ClusterSpecifier::InlineClusterSpecifierPlugin(route::ClusterSpecifierPlugin {
        extension: Some(typed_extension("envoy.router.cluster_specifier_plugin.lua", &config)),
        ..Default::default()
    })
}

fn host_rewrite(authority: &str) -> Option<HostRewriteSpecifier> {
    Some(HostRewriteSpecifier::HostRewriteLiteral(authority.to_owned()))
}

/// Forwards to an Envoy cluster. The whole request and response have a limit. There is no timeout
/// (Envoy's default is 15 s), because it would cut streams.
fn forward_to(cluster: ClusterSpecifier, max_duration_seconds: i64) -> RouteAction {
    RouteAction {
        cluster_specifier: Some(cluster),
        cluster_not_found_response_code: ClusterNotFoundResponseCode::NotFound.into(),
        timeout: seconds(0),
        // A client's `grpc-timeout` is left to the client, so that the text of a response at this
        // limit is true.
        max_stream_duration: Some(route::route_action::MaxStreamDuration {
            max_stream_duration: seconds(max_duration_seconds),
            ..Default::default()
        }),
        ..Default::default()
    }
}

/// The same with an idle timeout of its own.
fn forward_within(limits: StreamLimits, cluster: ClusterSpecifier) -> RouteAction {
    RouteAction {
        idle_timeout: limits.idle_timeout.and_then(seconds),
        ..forward_to(cluster, limits.max_duration)
    }
}

/// Retries at another address.
fn retry_policy(on: &str) -> route::RetryPolicy {
    route::RetryPolicy {
        retry_on: on.to_owned(),
        num_retries: uint32(2),
        // Envoy's default waits for up to 250 ms, but the other address is ready at once.
        retry_back_off: Some(route::retry_policy::RetryBackOff {
            base_interval: milliseconds(5),
            max_interval: milliseconds(50),
        }),
        retry_host_predicate: vec![route::retry_policy::RetryHostPredicate {
            name: "envoy.retry_host_predicates.previous_hosts".into(),
            config_type: Some(ConfigType::TypedConfig(any(&PreviousHostsPredicate {}))),
        }],
        host_selection_retry_max_attempts: 3,
        ..Default::default()
    }
}

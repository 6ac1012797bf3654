//! Routes: which request goes to which Envoy cluster.
//!
//! The hub's routes are constant: a Lua cluster specifier makes the Envoy cluster's name from the request, and nothing
//! else can be named, since a name that is not in its alphabet becomes `nowhere`.

use std::collections::{BTreeSet, HashMap};

use envoy_types::pb::envoy::config::core::v3::RoutingPriority;
use envoy_types::pb::envoy::config::rbac::v3 as rbac_rules;
use envoy_types::pb::envoy::config::route::v3 as route;
use envoy_types::pb::envoy::extensions::filters::http::lua::v3::{LuaPerRoute, lua_per_route};
use envoy_types::pb::envoy::extensions::filters::http::rbac::v3 as rbac;
use envoy_types::pb::envoy::extensions::router::cluster_specifiers::lua::v3::LuaConfig;
use envoy_types::pb::google::protobuf::Any;

use super::limits::{ALERT_POST_FROM_CLUSTER_SECONDS, ALERT_POST_SECONDS, HUB_ALERTS};
use super::long_lived::{self, Limit};
use super::matcher::{
    exact_path, grpc, literally, method, path_prefix, path_regex, path_segments, posted, rewrite,
};
use super::web::{WebEntry, WebUi};
use super::{
    ATLAS_AUTHORITY, CLUSTER_WAITS_LONGER_SECONDS, DENY_LIST, LUA, any, extension, inline, lua,
    millis, number, seconds,
};
use crate::model::REFUSED_PATHS;
use crate::name::is_within_path;

pub use route::{Route, RouteConfiguration, VirtualHost};

/// The authority that the hub gives to requests for web UIs.
pub const WEB_AUTHORITY: &str = "web";
/// Where an Envoy answers the health checks of the Envoys at the other end of a link.
pub const HEALTH_PATH: &str = "/.atlas/health";
/// Prometheus 3's stream of notifications to its own pages, relative to its root.
const LIVE_PATH: &str = "/api/v1/notifications/live";
/// The Envoy cluster that never exists: requests that name nothing get the 404 page.
const NOWHERE: &str = "nowhere";
/// When requests to stores are tried again: where no store has begun to answer.
const RETRY_STORES: &str = "unavailable,connect-failure,refused-stream,reset-before-request";
/// When other requests are tried again: where nobody has seen them.
const RETRY_UNSENT: &str = "connect-failure,refused-stream,reset-before-request";

/// 10901 on the hub: a store's cluster by the authority's first label, whatever its domain. The authority goes on to that
/// cluster's Envoy, which picks the store by it. `longest` is how long a request may take, in seconds.
pub fn stores_on_hub(name: &str, longest: u32) -> RouteConfiguration {
    let to_store = Route {
        r#match: grpc(),
        action: Some(route::route::Action::Route(route::RouteAction {
            // UNAVAILABLE, whose text Thanos logs; it swallows that of UNIMPLEMENTED, which NOT_FOUND would become.
            cluster_not_found_response_code:
                route::route_action::ClusterNotFoundResponseCode::ServiceUnavailable.into(),
            // Circuit breakers and connections of their own, so that web UIs of the same cluster take nothing from stores.
            priority: RoutingPriority::High.into(),
            retry_policy: Some(retries(RETRY_STORES)),
            ..to(specified_by(&lua::cluster_of_store()), longest.into())
        })),
        ..Default::default()
    };
    configuration(name, vec![virtual_host("stores", &["*".to_owned()], vec![to_store])])
}

/// 10904 on the hub: the web UIs of a cluster by the path's second segment; everything else is Atlas's own page. The path of
/// `--web-url` may stand before each of these paths: something in front of the hub takes it away, or doesn't. `longest` is how long a
/// request to a web UI may take, in seconds.
pub fn web_on_hub(name: &str, entry: &WebEntry<'_>, longest: u32) -> RouteConfiguration {
    // For load balancers: nothing but this Envoy answers here, so it holds while Atlas or a cluster is away.
    let mut routes = vec![answer(exact_path(HEALTH_PATH), 200, "ok\n")];
    let no_api = "There is no API here: that of a cluster's Alertmanager is at /alertmanager/CLUSTER/api/v2/.\n";
    routes.push(scripted(
        lua::redirect_alertmanager_api(),
        answer(path_prefix("/api/v2/"), 404, no_api),
    ));
    // Browsers ask every site whose pages name no icon.
    routes.push(answer(exact_path("/favicon.ico"), 204, ""));
    let before: BTreeSet<&str> = ["", entry.path].into();
    // The longer one first, since `/` matches everything.
    routes.extend(
        before.into_iter().rev().flat_map(|before| web_on_hub_below(before, entry, longest)),
    );
    let host = VirtualHost {
        // By it a cluster's Envoy knows a WebSocket's second attempt.
        include_request_attempt_count: true,
        typed_per_filter_config: with_script(lua::web_on_hub(entry)),
        request_headers_to_remove: entry.removed_from_requests(),
        response_headers_to_remove: entry.removed_from_responses(),
        ..virtual_host("web", &["*".to_owned()], routes)
    };
    configuration(name, vec![host])
}

/// What is below a path that is taken away here.
fn web_on_hub_below(before: &str, entry: &WebEntry<'_>, longest: u32) -> Vec<Route> {
    let literal = literally(before);
    let without = (!before.is_empty()).then(|| rewrite(&format!("^{literal}/?"), "/"));
    let mut routes = Vec::new();
    for prefix in ["/prom/", "/alertmanager/"] {
        let action = |limit: Limit| route::RouteAction {
            regex_rewrite: without.clone(),
            host_rewrite_specifier: Some(
                route::route_action::HostRewriteSpecifier::HostRewriteLiteral(WEB_AUTHORITY.into()),
            ),
            // The backend behind should still know what the person's browser asked for.
            append_x_forwarded_host: true,
            retry_policy: Some(retries(RETRY_UNSENT)),
            ..within(limit, specified_by(&lua::cluster_of_web_ui(entry.path)))
        };
        if prefix == "/prom/" {
            routes.push(long_lived::events(
                path_regex(&format!("{literal}/prom/[^/]+{LIVE_PATH}")),
                0,
                action,
            ));
        }
        routes.extend(long_lived::on_hub(
            path_prefix(&format!("{before}{prefix}")),
            longest.into(),
            action,
        ));
    }
    let paths = match before {
        "" => vec![path_prefix("/")],
        before => vec![exact_path(before), path_prefix(&format!("{before}/"))],
    };
    for path in paths {
        let atlas = Route {
            r#match: path,
            action: Some(route::route::Action::Route(route::RouteAction {
                regex_rewrite: without.clone(),
                host_rewrite_specifier: Some(
                    route::route_action::HostRewriteSpecifier::HostRewriteLiteral(
                        ATLAS_AUTHORITY.into(),
                    ),
                ),
                retry_policy: Some(retries(RETRY_UNSENT)),
                ..to(cluster("atlas/web"), 30)
            })),
            ..Default::default()
        };
        routes.push(atlas);
    }
    routes
}

/// 10903 on the hub: alerts to each Alertmanager replica by its index. `path_prefix` is the Alertmanagers' own.
pub fn alerts_on_hub(
    name: &str,
    indices: impl Iterator<Item = u32>,
    alertmanager_prefix: &str,
) -> RouteConfiguration {
    let to_replica = |index: u32| Route {
        r#match: posted(&format!("/alertmanager/{index}/api/v2/alerts")),
        action: Some(route::route::Action::Route(route::RouteAction {
            prefix_rewrite: format!("{alertmanager_prefix}/api/v2/alerts"),
            retry_policy: Some(retries(RETRY_UNSENT)),
            // Counted from the end of the post, which a slow link takes long to bring.
            timeout: seconds(ALERT_POST_SECONDS),
            ..to(cluster(&format!("alertmanager/{index}")), HUB_ALERTS.request + ALERT_POST_SECONDS)
        })),
        ..Default::default()
    };
    let health = answer(exact_path(HEALTH_PATH), 200, "ok\n");
    let mut host = virtual_host(
        "alerts",
        &["*".to_owned()],
        [health].into_iter().chain(indices.map(to_replica)).collect(),
    );
    // Denials must stand here and not in the listener: there they would not bite on live connections while they drain.
    host.typed_per_filter_config = [(DENY_LIST.to_owned(), any(&deny_list()))].into();
    configuration(name, vec![host])
}

/// Who may not post alerts any more, by exact SPIFFE ID: nobody, until there is revocation.
fn deny_list() -> rbac::RbacPerRoute {
    let rules =
        rbac_rules::Rbac { action: rbac_rules::rbac::Action::Deny.into(), ..Default::default() };
    rbac::RbacPerRoute { rbac: Some(rbac::Rbac { rules: Some(rules), ..Default::default() }) }
}

/// 11903 in a cluster: alerts to each of the hub's Alertmanager replicas, and the list of these as HTTP service discovery.
pub fn alerts_in_cluster(name: &str, indices: &[u32]) -> RouteConfiguration {
    let forward = |path: String, index: u32| Route {
        r#match: posted(&path),
        action: Some(route::route::Action::Route(route::RouteAction {
            prefix_rewrite: format!("/alertmanager/{index}/api/v2/alerts"),
            retry_policy: Some(retries(RETRY_UNSENT)),
            ..to(cluster("hub/alerts"), ALERT_POST_FROM_CLUSTER_SECONDS)
        })),
        ..Default::default()
    };
    let mut routes = vec![targets(indices)];
    routes.extend(
        indices.iter().map(|index| forward(format!("/alertmanager/{index}/api/v2/alerts"), *index)),
    );
    let mut hosts = vec![virtual_host("alerts", &["*".to_owned()], routes)];
    // Atlas 0.3 gave each Alertmanager a name of its own, `alertmanagerN`, and no path.
    for index in indices {
        let domains = [format!("alertmanager{index}"), format!("alertmanager{index}.*")];
        let routes = vec![forward("/api/v2/alerts".into(), *index)];
        hosts.push(virtual_host(&format!("alertmanager{index}"), &domains, routes));
    }
    RouteConfiguration { ignore_port_in_host_matching: true, ..configuration(name, hosts) }
}

/// The targets as Prometheus HTTP service discovery; each is the authority by which this Envoy was asked. A script makes
/// the answer, since a direct response of Envoy 1.36 knows nothing of the request (it ignores `body_format`); the status
/// 404 is only seen where the script fails.
fn targets(indices: &[u32]) -> Route {
    let target = |index: &u32| {
        format!(
            r#"{{"targets": ["AUTHORITY"], "labels": {{"atlas_alertmanager": "{index}", "atlas_alerts_path": "/alertmanager/{index}/api/v2/alerts"}}}}"#
        )
    };
    let list: Vec<String> = indices.iter().map(target).collect();
    scripted(
        lua::list_alertmanagers(&format!("[{}]\n", list.join(", "))),
        answer(exact_path("/alertmanagers"), 404, ""),
    )
}

/// A route with a script of its own.
fn scripted(script: String, route: Route) -> Route {
    Route { typed_per_filter_config: with_script(script), ..route }
}

/// A script for requests that come here. It stands here and not in the listener, so that it counts for live connections at once.
fn with_script(script: String) -> HashMap<String, Any> {
    let source = lua_per_route::Override::SourceCode(inline(script).unwrap_or_default());
    let per_route = LuaPerRoute { r#override: Some(source), ..Default::default() };
    [(LUA.to_owned(), any(&per_route))].into()
}

/// 11901 in a cluster: one store, by its authority. `longest` is how long a request may take at the hub, in seconds.
pub fn store_host(label: &str, longest: u32) -> VirtualHost {
    let to_store = Route {
        r#match: grpc(),
        action: Some(route::route::Action::Route(route::RouteAction {
            retry_policy: Some(retries(RETRY_STORES)),
            ..to(
                cluster(&format!("store/{label}")),
                i64::from(longest) + CLUSTER_WAITS_LONGER_SECONDS,
            )
        })),
        ..Default::default()
    };
    virtual_host(label, &[label.to_owned(), format!("{label}.*")], vec![to_store])
}

/// 11901 in a cluster: its web UIs. `allowed` are path prefixes relative to a UI's root, `longest` is how long a request may take at the
/// hub, in seconds.
pub fn web_host(uis: &[WebUi<'_>], allowed: &[String], longest: u32) -> VirtualHost {
    let mut routes = vec![
        answer(exact_path(HEALTH_PATH), 200, "ok\n"),
        // A server decodes `%71uit` to `quit` after Envoy has matched the path. No browser encodes these characters.
        answer(
            path_regex(ENCODED_NEEDLESSLY),
            400,
            "Letters, digits and -._~ must not be percent-encoded in a path.\n",
        ),
    ];
    for ui in uis {
        for path in allowed
            .iter()
            .filter(|path| REFUSED_PATHS.iter().any(|refused| is_within_path(path, refused)))
        {
            routes.extend(to_backend(
                ui,
                path_segments(&format!("{}{path}", ui.base)),
                path,
                longest,
            ));
        }
        let refusal = "Atlas refuses this path on web UIs; the cluster's annotation goatlas.io/allow-paths can allow it.\n";
        routes.extend(
            REFUSED_PATHS
                .iter()
                .map(|path| answer(path_segments(&format!("{}{path}", ui.base)), 403, refusal)),
        );
        routes.extend(to_backend(ui, path_prefix(&format!("{}/", ui.base)), "/", longest));
    }
    VirtualHost {
        // Once for all routes: every cluster has its own. A second attempt has another hash, which may lead to the same replica.
        retry_policy: Some(route::RetryPolicy {
            host_selection_retry_max_attempts: 10,
            ..retries(RETRY_UNSENT)
        }),
        typed_per_filter_config: with_script(lua::web_in_cluster(uis)),
        ..virtual_host("web", &[WEB_AUTHORITY.to_owned()], routes)
    }
}

/// Unreserved characters (RFC 3986 §2.3) in percent-encoding, anywhere in a path.
const ENCODED_NEEDLESSLY: &str =
    "[^?]*%(2[dDeE]|3[0-9]|4[1-9a-fA-F]|5[0-9aAfF]|6[1-9a-fA-F]|7[0-9aAeE])[^?]*";

/// `path` is what `matches` matched of the path, relative to the UI's root.
fn to_backend(
    ui: &WebUi<'_>,
    matches: Option<route::RouteMatch>,
    path: &str,
    longest: u32,
) -> Vec<Route> {
    let host = ui.authority().map(route::route_action::HostRewriteSpecifier::HostRewriteLiteral);
    let to_path = |path: &str, limit: Limit| route::RouteAction {
        prefix_rewrite: format!("{}{path}", ui.backend_prefix),
        host_rewrite_specifier: host.clone(),
        hash_policy: by_replica_cookie(),
        ..within(limit, cluster(&format!("backend/{}", ui.kind)))
    };
    let mut routes =
        long_lived::in_cluster(matches, CLUSTER_WAITS_LONGER_SECONDS, longest.into(), |limit| {
            to_path(path, limit)
        });
    if (ui.kind, path) == ("prometheus", "/") {
        let live = exact_path(&format!("{}{LIVE_PATH}", ui.base));
        routes.insert(
            0,
            long_lived::events(live, CLUSTER_WAITS_LONGER_SECONDS, |limit| {
                to_path(LIVE_PATH, limit)
            }),
        );
    }
    routes
}

/// Keeps a person on one replica, so that graphs don't flicker between two: by a cookie that a script sees to (`lua/replica_cookie.lua`), and that
/// says nothing of the replica. (Envoy's own filter for sticky sessions does nothing in front of an aggregate.)
fn by_replica_cookie() -> Vec<route::route_action::HashPolicy> {
    let cookie = route::route_action::hash_policy::Cookie {
        name: lua::REPLICA_COOKIE.into(),
        ..Default::default()
    };
    let policy = route::route_action::hash_policy::PolicySpecifier::Cookie(cookie);
    vec![route::route_action::HashPolicy { policy_specifier: Some(policy), ..Default::default() }]
}

/// 11901 in a cluster: all of it. A store that isn't among `hosts` hears so.
pub fn inbound(name: &str, mut hosts: Vec<VirtualHost>) -> RouteConfiguration {
    let unknown = "Atlas: this cluster has no such store; goatlas.io/replicas and goatlas.io/shards say how many it has.";
    hosts.push(virtual_host(
        "unknown-store",
        &["*".to_owned()],
        vec![answer(grpc(), 503, unknown)],
    ));
    configuration(name, hosts)
}

/// 9001: what the kubelet and Prometheus may see of the admin page.
pub(super) fn status(name: &str, admin: &str) -> RouteConfiguration {
    let to_admin = |path: &str, priority: RoutingPriority| Route {
        r#match: Some(route::RouteMatch {
            headers: vec![method("GET")],
            ..exact_path(path).unwrap_or_default()
        }),
        action: Some(route::route::Action::Route(route::RouteAction {
            priority: priority.into(),
            ..to(cluster(admin), 15)
        })),
        ..Default::default()
    };
    let routes = vec![
        to_admin("/ready", RoutingPriority::High),
        to_admin("/stats/prometheus", RoutingPriority::Default),
    ];
    configuration(name, vec![virtual_host("status", &["*".to_owned()], routes)])
}

fn configuration(name: &str, hosts: Vec<VirtualHost>) -> RouteConfiguration {
    RouteConfiguration { name: name.to_owned(), virtual_hosts: hosts, ..Default::default() }
}

fn virtual_host(name: &str, domains: &[String], routes: Vec<Route>) -> VirtualHost {
    VirtualHost { name: name.to_owned(), domains: domains.to_vec(), routes, ..Default::default() }
}

fn cluster(name: &str) -> route::route_action::ClusterSpecifier {
    route::route_action::ClusterSpecifier::Cluster(name.to_owned())
}

fn specified_by(lua: &str) -> route::route_action::ClusterSpecifier {
    let config = LuaConfig { source_code: inline(lua), default_cluster: NOWHERE.into() };
    route::route_action::ClusterSpecifier::InlineClusterSpecifierPlugin(
        route::ClusterSpecifierPlugin {
            extension: Some(extension("envoy.router.cluster_specifier_plugin.lua", &config)),
            ..Default::default()
        },
    )
}

/// Sends to an Envoy cluster. No timeout, since one would cut streams (Envoy's default: 15 s); the whole has a limit instead.
fn to(specifier: route::route_action::ClusterSpecifier, limit_seconds: i64) -> route::RouteAction {
    route::RouteAction {
        cluster_specifier: Some(specifier),
        cluster_not_found_response_code: route::route_action::ClusterNotFoundResponseCode::NotFound
            .into(),
        timeout: seconds(0),
        max_stream_duration: Some(route::route_action::MaxStreamDuration {
            // A client's own limit (`grpc-timeout`) is left to the client, so that what is said at this one is true.
            max_stream_duration: seconds(limit_seconds),
            ..Default::default()
        }),
        ..Default::default()
    }
}

/// The same for web UIs, with a time of its own without a byte.
fn within(limit: Limit, specifier: route::route_action::ClusterSpecifier) -> route::RouteAction {
    route::RouteAction {
        idle_timeout: limit.idle.and_then(seconds),
        ..to(specifier, limit.longest)
    }
}

fn retries(on: &str) -> route::RetryPolicy {
    route::RetryPolicy {
        retry_on: on.to_owned(),
        num_retries: number(2),
        // The other address is ready at once; waiting for it (Envoy's default: up to 250 ms) helps nobody.
        retry_back_off: Some(route::retry_policy::RetryBackOff { base_interval: millis(5), max_interval: millis(50) }),
        retry_host_predicate: vec![route::retry_policy::RetryHostPredicate {
            name: "envoy.retry_host_predicates.previous_hosts".into(),
            config_type: Some(route::retry_policy::retry_host_predicate::ConfigType::TypedConfig(any(
                &envoy_types::pb::envoy::extensions::retry::host::previous_hosts::v3::PreviousHostsPredicate {},
            ))),
        }],
        host_selection_retry_max_attempts: 3,
        ..Default::default()
    }
}

fn answer(matches: Option<route::RouteMatch>, status: u32, text: &str) -> Route {
    Route {
        r#match: matches,
        action: Some(route::route::Action::DirectResponse(route::DirectResponseAction {
            status,
            body: inline(text),
            ..Default::default()
        })),
        ..Default::default()
    }
}

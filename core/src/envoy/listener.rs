//! Listeners: where requests come in, and what is done with them before they are routed.

use std::net::IpAddr;

use envoy_types::pb::envoy::config::core::v3 as core;
use envoy_types::pb::envoy::config::listener::v3 as listener;
use envoy_types::pb::envoy::config::rbac::v3 as rbac_rules;
use envoy_types::pb::envoy::extensions::filters::http::buffer::v3::Buffer;
use envoy_types::pb::envoy::extensions::filters::http::lua::v3::Lua;
use envoy_types::pb::envoy::extensions::filters::http::rbac::v3::Rbac;
use envoy_types::pb::envoy::extensions::filters::http::router::v3::Router;
use envoy_types::pb::envoy::extensions::filters::listener::http_inspector::v3::HttpInspector;
use envoy_types::pb::envoy::extensions::filters::network::connection_limit::v3::ConnectionLimit;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3 as hcm;
use envoy_types::pb::envoy::extensions::filters::network::tcp_proxy::v3 as tcp;
use envoy_types::pb::envoy::r#type::matcher::v3::{
    PathMatcher, StringMatcher, path_matcher, string_matcher::MatchPattern,
};
use envoy_types::pb::google::protobuf::{Any, UInt64Value};
use prost::{Message, Name};

use super::limits::{self, ListenerLimits};
use super::local_reply::{self, page, plain};
use super::long_lived;
use super::matcher::{all_but, header_regex, literally, method, safe_regex};
use super::route::HEALTH_PATH;
use super::tls::{self, Peer};
use super::web::WebEntry;
use super::{
    DEFAULT_HOST_FOR_HTTP_10, DENY_LIST, LUA, ads, any, bind_address, flag, inline, lua, number,
    seconds,
};
use crate::ports;

pub use listener::Listener;

/// The HTTP filter that reads requests whole.
const BUFFER: &str = "envoy.filters.http.buffer";

/// 10901 on the hub: Thanos Query speaks plain HTTP/2 here. `longest` is how long a request may take, in seconds.
pub fn stores_on_hub(bind: IpAddr, longest: u32) -> Listener {
    let limits = &limits::HUB_STORES.for_requests_of(longest);
    let unknown = plain(
        "Atlas knows no such store. Thanos Query must ask by the names in endpoints.yaml (or dnssrvnoa+), which reach the hub's Envoy as the \
         authority; dns+ and dnssrv+ send an address instead.",
    );
    let dead =
        plain("Atlas: the hub's Envoy has no connection to the Envoy of this store's cluster.");
    let manager = hcm::HttpConnectionManager {
        codec_type: hcm::http_connection_manager::CodecType::Http2.into(),
        local_reply_config: Some(local_reply::stores(unknown, dead, longest)),
        ..manager(limits, vec![router()])
    };
    Listener { ignore_global_conn_limit: true, ..http(limits, bind, manager) }
}

/// 10903 on the hub: clusters post alerts here, and can do nothing else but ask whether this Envoy is there.
pub fn alerts_on_hub(bind: IpAddr, peers: &str) -> Listener {
    let limits = &limits::HUB_ALERTS;
    let filters = vec![
        filter("envoy.filters.http.rbac", &only_posting_alerts()),
        filter(DENY_LIST, &Rbac::default()),
        lua_filter(lua::limit_alert_posts()),
        whole_request(limits::ALERT_POST_BYTES),
        router(),
    ];
    let mut listener = http(limits, bind, manager(limits, filters));
    listener.filter_chains[0].transport_socket = tls::server(&Peer::Prefix(peers));
    listener
}

/// Reads a request to its end before it is passed on, so that one that never ends takes nothing from whom it is for.
fn whole_request(bytes: u32) -> hcm::HttpFilter {
    filter(BUFFER, &Buffer { max_request_bytes: number(bytes) })
}

fn only_posting_alerts() -> Rbac {
    use rbac_rules::{permission::Rule, principal::Identifier};
    let permission = |rule| rbac_rules::Permission { rule: Some(rule) };
    let path = |matches| {
        let path = StringMatcher { match_pattern: Some(matches), ..Default::default() };
        permission(Rule::UrlPath(PathMatcher { rule: Some(path_matcher::Rule::Path(path)) }))
    };
    let both = |name: &str, path| {
        permission(Rule::AndRules(rbac_rules::permission::Set {
            rules: vec![permission(Rule::Header(method(name))), path],
        }))
    };
    let policy = rbac_rules::Policy {
        permissions: vec![
            both(
                "POST",
                path(MatchPattern::SafeRegex(safe_regex("/alertmanager/[0-9]+/api/v2/alerts"))),
            ),
            both("GET", path(MatchPattern::Exact(HEALTH_PATH.into()))),
        ],
        principals: vec![rbac_rules::Principal { identifier: Some(Identifier::Any(true)) }],
        ..Default::default()
    };
    let rules = rbac_rules::Rbac {
        policies: [("post-alerts".to_owned(), policy)].into(),
        ..Default::default()
    };
    Rbac { rules: Some(rules), ..Default::default() }
}

/// 10904 on the hub: people's browsers, perhaps behind an ingress. `longest` is how long a request to a web UI may take, in seconds.
pub fn web_on_hub(entry: &WebEntry<'_>, longest: u32) -> Listener {
    let limits = &limits::HUB_WEB.for_requests_of(longest);
    let home = format!("{}/", entry.path);
    let unknown = page(
        "404 Not Found",
        "There is no such cluster",
        &format!(
            "Atlas knows no downstream cluster of this name. <a href=\"{home}\">These are the clusters.</a>"
        ),
    );
    let dead = page(
        "503 Service Unavailable",
        "This cluster can't be reached",
        &format!(
            "The hub's Envoy has no connection to the Envoy of this cluster. <code>atlas status</code> says more. <a href=\"{home}\">All clusters.</a>"
        ),
    );
    let atlas = page(
        "503 Service Unavailable",
        "Atlas doesn't answer",
        "This is Atlas's own page, and the hub's Envoy gets no answer from Atlas. The clusters' web UIs, queries and alerts go on without it: \
         <code>/prom/&lt;cluster&gt;/</code> and <code>/alertmanager/&lt;cluster&gt;/</code> work as before.",
    );
    let of_cluster =
        header_regex(":path", &format!("({})?/(prom|alertmanager)/.*", literally(entry.path)));
    let filters = vec![
        lua_filter(lua::responses_without_route(entry.path)),
        whole_request(limits::WEB_REQUEST_BYTES),
        router(),
    ];
    let manager = hcm::HttpConnectionManager {
        xff_num_trusted_hops: entry.trusted_hops,
        // A backend that is told the host that people asked for (x-forwarded-host) needs its port too.
        strip_port_mode: None,
        local_reply_config: Some(local_reply::pages(
            unknown, dead, of_cluster, atlas, longest, &home,
        )),
        http_protocol_options: Some(http1(Some("websocket"))),
        ..web(manager(limits, filters), lua::websocket_responses_on_hub())
    };
    http(limits, entry.bind, manager)
}

/// 10900 on the hub: TLS passes through to Atlas, which sees each cluster's own certificate.
pub fn xds_on_hub(name: &str, bind: IpAddr) -> Listener {
    let proxy = tcp::TcpProxy {
        stat_prefix: name.to_owned(),
        cluster_specifier: Some(tcp::tcp_proxy::ClusterSpecifier::Cluster("atlas/xds".into())),
        idle_timeout: seconds(limits::HUB_XDS_IDLE),
        ..Default::default()
    };
    let proxy = network_filter("envoy.filters.network.tcp_proxy", &proxy);
    listener(name, bind, ports::HUB_XDS, limits::HUB_XDS_CONNECTIONS, proxy)
}

/// 11901 in a cluster: everything that comes from the hub. `trusted_hops` are those before the hub's 10904; `longest` is how long a request
/// may take there, in seconds.
pub fn inbound(bind: IpAddr, peer: &str, trusted_hops: u32, longest: u32) -> Listener {
    let limits = &limits::CLUSTER_INBOUND.for_requests_of(longest);
    // The web UIs' routes bring their script, since connections that are open keep a listener's until they drain.
    let replica = script_filter("atlas.replica", lua::replica_cookie());
    let filters = vec![lua_filter(String::new()), replica, router()];
    let no_store = plain(
        "Atlas: the cluster's Envoy has no connection to the Thanos sidecar of this store, it isn't serving, or its gRPC has TLS \
         (--grpc-server-tls-cert), which no Envoy of Atlas speaks to it.",
    );
    let no_server = page(
        "503 Service Unavailable",
        "This server can't be reached",
        "The cluster's Envoy has no connection to the server behind this page.",
    );
    let manager = hcm::HttpConnectionManager {
        codec_type: hcm::http_connection_manager::CodecType::Http2.into(),
        // The hub's Envoy is the only client, and has said who is behind it: where proxies in front of it are trusted, the last of these,
        // before which stands the person.
        xff_num_trusted_hops: 1 + trusted_hops,
        local_reply_config: Some(local_reply::stores_and_pages(no_store, no_server, longest)),
        ..web(manager(limits, filters), lua::websocket_responses_in_cluster())
    };
    let mut listener = http(limits, bind, manager);
    listener.filter_chains[0].transport_socket = tls::server(&Peer::Exactly(peer));
    listener.socket_options = super::socket::answering_across_the_distance();
    listener
}

/// 11903 in a cluster: its Prometheus posts alerts here, and asks for the targets.
pub fn alerts_in_cluster(bind: IpAddr) -> Listener {
    let limits = &limits::CLUSTER_ALERTS;
    let filters =
        vec![lua_filter(String::new()), whole_request(limits::ALERT_POST_BYTES), router()];
    // The authority keeps its port, since the list of targets repeats it.
    let manager = hcm::HttpConnectionManager {
        strip_port_mode: None,
        http_protocol_options: Some(http1(None)),
        ..manager(limits, filters)
    };
    http(limits, bind, manager)
}

/// 9001: `/ready` and `/stats/prometheus`. Its routes are inline, so that it works before Atlas has said anything, and neither
/// other listeners' connections nor an Envoy that is short of memory close it: probes would restart the Envoy.
pub(super) fn status(bind: IpAddr, routes: super::route::RouteConfiguration) -> Listener {
    let limits = &limits::STATUS;
    let manager = hcm::HttpConnectionManager {
        route_specifier: Some(hcm::http_connection_manager::RouteSpecifier::RouteConfig(routes)),
        http_protocol_options: Some(http1(None)),
        ..manager(limits, vec![router()])
    };
    Listener {
        ignore_global_conn_limit: true,
        bypass_overload_manager: true,
        ..http(limits, bind, manager)
    }
}

/// What every HTTP listener has in common; routes come by RDS under the listener's name.
fn manager(
    limits: &ListenerLimits,
    http_filters: Vec<hcm::HttpFilter>,
) -> hcm::HttpConnectionManager {
    hcm::HttpConnectionManager {
        stat_prefix: limits.name.to_owned(),
        route_specifier: Some(hcm::http_connection_manager::RouteSpecifier::Rds(hcm::Rds {
            config_source: Some(ads()),
            route_config_name: limits.name.to_owned(),
        })),
        http_filters,
        strip_port_mode: Some(hcm::http_connection_manager::StripPortMode::StripAnyHostPort(true)),
        normalize_path: flag(true),
        merge_slashes: true,
        path_with_escaped_slashes_action:
            hcm::http_connection_manager::PathWithEscapedSlashesAction::RejectRequest.into(),
        // Strips x-envoy-* headers that come from outside.
        use_remote_address: flag(true),
        stream_idle_timeout: seconds(limits.stream_idle),
        request_headers_timeout: seconds(limits.headers),
        request_timeout: seconds(limits.request),
        max_request_headers_kb: number(60),
        http2_protocol_options: Some(core::Http2ProtocolOptions {
            allow_connect: true,
            ..limits::http2_server(limits)
        }),
        common_http_protocol_options: Some(core::HttpProtocolOptions {
            // Behind a proxy that writes them (`OIDC_CLAIM_email`) a refusal would lock everybody out. They go no further, since some
            // servers take `a_b` for `a-b`.
            headers_with_underscores_action:
                core::http_protocol_options::HeadersWithUnderscoresAction::DropHeader.into(),
            idle_timeout: seconds(limits.idle),
            max_headers_count: number(100),
            ..Default::default()
        }),
        ..Default::default()
    }
}

/// HTTP/1.1 for all kinds of clients, and HTTP/1.0, which nginx speaks to what is behind it unless told otherwise. An offer of another
/// protocol may be ignored (RFC 9110 §7.8), and is, but for the `known` one; Envoy would answer 403.
fn http1(known: Option<&str>) -> core::Http1ProtocolOptions {
    let ignored = known.map_or_else(|| vec![".*".to_owned()], all_but);
    let matcher = |regex: &String| StringMatcher {
        match_pattern: Some(MatchPattern::SafeRegex(safe_regex(regex))),
        ..Default::default()
    };
    core::Http1ProtocolOptions {
        accept_http_10: true,
        default_host_for_http_10: DEFAULT_HOST_FOR_HTTP_10.into(),
        ignore_http_11_upgrade: ignored.iter().map(matcher).collect(),
        ..Default::default()
    }
}

/// What listeners for web UIs have beside. `answers` is a script for what comes under an offer of a WebSocket.
fn web(manager: hcm::HttpConnectionManager, answers: String) -> hcm::HttpConnectionManager {
    let answers = script_filter("atlas.websocket_answers", answers);
    // A WebSocket has no end to wait for.
    let mut filters: Vec<_> =
        manager.http_filters.iter().filter(|filter| filter.name != BUFFER).cloned().collect();
    // First with an answer, whose headers from the other Envoy no other script lets pass; the router is the last.
    let offers = script_filter(long_lived::OFFER_REMOVED, lua::remove_websocket_offer());
    let router = filters.len().saturating_sub(1);
    filters.splice(router..router, [answers, offers]);
    hcm::HttpConnectionManager {
        path_with_escaped_slashes_action:
            hcm::http_connection_manager::PathWithEscapedSlashesAction::UnescapeAndRedirect.into(),
        upgrade_configs: vec![hcm::http_connection_manager::UpgradeConfig {
            upgrade_type: "websocket".into(),
            filters,
            ..Default::default()
        }],
        ..manager
    }
}

fn http(limits: &ListenerLimits, bind: IpAddr, manager: hcm::HttpConnectionManager) -> Listener {
    let manager = network_filter("envoy.filters.network.http_connection_manager", &manager);
    let mut listener = listener(limits.name, bind, limits.port, limits.connections, manager);
    match limits.handshake {
        Some(handshake) => {
            listener.filter_chains[0].transport_socket_connect_timeout = seconds(handshake)
        }
        // Plain HTTP has no handshake: what waits for the first byte is a filter that looks at it.
        None => {
            let look =
                listener::listener_filter::ConfigType::TypedConfig(any(&HttpInspector::default()));
            listener.listener_filters = vec![listener::ListenerFilter {
                name: "envoy.filters.listener.http_inspector".into(),
                config_type: Some(look),
                ..Default::default()
            }];
            listener.listener_filters_timeout = seconds(limits.headers);
        }
    }
    listener
}

fn listener(
    name: &str,
    bind: IpAddr,
    port: u16,
    connections: u64,
    filter: listener::Filter,
) -> Listener {
    let limit = ConnectionLimit {
        stat_prefix: name.to_owned(),
        max_connections: Some(UInt64Value { value: connections }),
        ..Default::default()
    };
    Listener {
        name: name.to_owned(),
        address: bind_address(bind, port),
        filter_chains: vec![listener::FilterChain {
            filters: vec![network_filter("envoy.filters.network.connection_limit", &limit), filter],
            ..Default::default()
        }],
        per_connection_buffer_limit_bytes: number(limits::CONNECTION_BUFFER),
        ..Default::default()
    }
}

fn network_filter<M: Message + Name>(name: &str, config: &M) -> listener::Filter {
    listener::Filter {
        name: name.to_owned(),
        config_type: Some(listener::filter::ConfigType::TypedConfig(any(config))),
    }
}

fn filter<M: Message + Name>(name: &str, config: &M) -> hcm::HttpFilter {
    typed_filter(name, any(config))
}

fn typed_filter(name: &str, config: Any) -> hcm::HttpFilter {
    hcm::HttpFilter {
        name: name.to_owned(),
        config_type: Some(hcm::http_filter::ConfigType::TypedConfig(config)),
        ..Default::default()
    }
}

/// The filter that runs scripts; `script` where a route doesn't bring its own. None of them changes where a request goes, whatever it
/// does to its headers.
fn lua_filter(script: String) -> hcm::HttpFilter {
    script_filter(LUA, script)
}

/// The same by another name, beside it.
fn script_filter(name: &str, script: String) -> hcm::HttpFilter {
    let source = if script.is_empty() { None } else { inline(script) };
    filter(
        name,
        &Lua { default_source_code: source, clear_route_cache: flag(false), ..Default::default() },
    )
}

fn router() -> hcm::HttpFilter {
    filter("envoy.filters.http.router", &Router::default())
}

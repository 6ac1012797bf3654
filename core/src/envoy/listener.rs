//! Listeners, with their HTTP connection managers.

mod in_cluster;
mod on_hub;

pub use in_cluster::{alerts_in_cluster, inbound};
pub use on_hub::{alerts_on_hub, stores_on_hub, web_on_hub, xds_on_hub};

use std::net::IpAddr;

use envoy_types::pb::envoy::config::core::v3 as core;
use envoy_types::pb::envoy::config::listener::v3 as listener;
use envoy_types::pb::envoy::extensions::filters::listener::http_inspector::v3::HttpInspector;
use envoy_types::pb::envoy::extensions::filters::network::connection_limit::v3::ConnectionLimit;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3 as hcm;
use envoy_types::pb::envoy::r#type::matcher::v3::{StringMatcher, string_matcher::MatchPattern};
use envoy_types::pb::google::protobuf::UInt64Value;
use prost::{Message, Name};

use super::limits::{self, ListenerLimits};
use super::matcher::{regexes_of_all_but, safe_regex};
use super::route::RouteConfiguration;
use super::{
    DEFAULT_HOST_FOR_HTTP_10, ads, any, bind_address, bool_value, http_filter, lua, seconds, uint32,
};

pub use listener::Listener;

/// 9001 of every Envoy: `/ready` and `/stats/prometheus`. Its routes are inline, so that it works
/// before Atlas has sent anything. Neither connections of other listeners nor the overload manager
/// close its connections, because failed probes would restart the Envoy.
pub(super) fn status(bind: IpAddr, routes: RouteConfiguration) -> Listener {
    let limits = &limits::STATUS;
    let manager = hcm::HttpConnectionManager {
        route_specifier: Some(hcm::http_connection_manager::RouteSpecifier::RouteConfig(routes)),
        http_protocol_options: Some(http1(None)),
        ..http_connection_manager(limits, vec![http_filter::router()])
    };
    Listener {
        ignore_global_conn_limit: true,
        bypass_overload_manager: true,
        ..http_listener(limits, bind, manager)
    }
}

/// What every HTTP listener has in common. The routes come by RDS under the listener's name.
fn http_connection_manager(
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
        normalize_path: bool_value(true),
        merge_slashes: true,
        path_with_escaped_slashes_action:
            hcm::http_connection_manager::PathWithEscapedSlashesAction::RejectRequest.into(),
        // Removes x-envoy-* headers of clients.
        use_remote_address: bool_value(true),
        stream_idle_timeout: seconds(limits.stream_idle),
        request_headers_timeout: seconds(limits.headers),
        request_timeout: seconds(limits.request),
        max_request_headers_kb: uint32(60),
        http2_protocol_options: Some(core::Http2ProtocolOptions {
            allow_connect: true,
            ..limits::http2_server(limits)
        }),
        common_http_protocol_options: Some(core::HttpProtocolOptions {
            // Some servers take `a_b` for `a-b`. Rejecting the request would lock out everybody
            // behind a proxy that adds such headers (`OIDC_CLAIM_email`).
            headers_with_underscores_action:
                core::http_protocol_options::HeadersWithUnderscoresAction::DropHeader.into(),
            idle_timeout: seconds(limits.idle),
            max_headers_count: uint32(100),
            ..Default::default()
        }),
        ..Default::default()
    }
}

/// HTTP/1.1, and HTTP/1.0, which nginx speaks to its upstreams by default. An upgrade to another
/// protocol than `known` is ignored, as RFC 9110 §7.8 allows; Envoy's default is to answer 403.
fn http1(known: Option<&str>) -> core::Http1ProtocolOptions {
    let ignored = known.map_or_else(|| vec![".*".to_owned()], regexes_of_all_but);
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

/// Adds what listeners for web UIs have in common: WebSockets, and paths with escaped slashes.
/// `responses` is the script for responses to WebSocket handshakes.
fn with_web_uis(
    manager: hcm::HttpConnectionManager,
    responses: String,
) -> hcm::HttpConnectionManager {
    // The filters of requests that offer a WebSocket. The buffer filter would wait for their end.
    let mut filters: Vec<_> = manager
        .http_filters
        .iter()
        .filter(|filter| !http_filter::is_buffer(filter))
        .cloned()
        .collect();
    // Just before the router, so that they see a response first: the scripts of other filters
    // remove the headers that the cluster's Envoy sends to the hub's.
    let router = filters.len().saturating_sub(1);
    filters.splice(
        router..router,
        [
            http_filter::named_lua("atlas.websocket_answers", responses),
            http_filter::remove_websocket_offer(lua::remove_websocket_offer()),
        ],
    );
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

fn http_listener(
    limits: &ListenerLimits,
    bind: IpAddr,
    manager: hcm::HttpConnectionManager,
) -> Listener {
    let manager = network_filter("envoy.filters.network.http_connection_manager", &manager);
    let mut listener = listener(limits.name, bind, limits.port, limits.connections, manager);
    match limits.handshake {
        Some(handshake) => {
            listener.filter_chains[0].transport_socket_connect_timeout = seconds(handshake);
        }
        // Without TLS nothing limits the time until the first byte, except a listener filter that
        // waits for it.
        None => {
            let inspector =
                listener::listener_filter::ConfigType::TypedConfig(any(&HttpInspector::default()));
            listener.listener_filters = vec![listener::ListenerFilter {
                name: "envoy.filters.listener.http_inspector".into(),
                config_type: Some(inspector),
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
    max_connections: u64,
    filter: listener::Filter,
) -> Listener {
    let limit = ConnectionLimit {
        stat_prefix: name.to_owned(),
        max_connections: Some(UInt64Value { value: max_connections }),
        ..Default::default()
    };
    Listener {
        name: name.to_owned(),
        address: bind_address(bind, port),
        filter_chains: vec![listener::FilterChain {
            filters: vec![network_filter("envoy.filters.network.connection_limit", &limit), filter],
            ..Default::default()
        }],
        per_connection_buffer_limit_bytes: uint32(limits::CONNECTION_BUFFER),
        ..Default::default()
    }
}

fn network_filter<M: Message + Name>(name: &str, config: &M) -> listener::Filter {
    listener::Filter {
        name: name.to_owned(),
        config_type: Some(listener::filter::ConfigType::TypedConfig(any(config))),
    }
}

//! Listeners: where requests come in, and what is done with them before they are routed.

use std::net::IpAddr;

use envoy_types::pb::envoy::config::accesslog::v3 as accesslog;
use envoy_types::pb::envoy::config::core::v3 as core;
use envoy_types::pb::envoy::config::listener::v3 as listener;
use envoy_types::pb::envoy::config::rbac::v3 as rbac_rules;
use envoy_types::pb::envoy::extensions::filters::http::lua::v3::Lua;
use envoy_types::pb::envoy::extensions::filters::http::rbac::v3::Rbac;
use envoy_types::pb::envoy::extensions::filters::http::router::v3::Router;
use envoy_types::pb::envoy::extensions::filters::http::stateful_session::v3::StatefulSession;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3 as hcm;
use envoy_types::pb::envoy::extensions::filters::network::tcp_proxy::v3 as tcp;
use envoy_types::pb::envoy::r#type::matcher::v3::{PathMatcher, StringMatcher, path_matcher, string_matcher::MatchPattern};
use envoy_types::pb::google::protobuf::Any;
use prost::{Message, Name};

use super::matcher::{method, safe_regex};
use super::route::WebUi;
use super::tls::{self, Peer};
use super::{DENY_LIST, LUA, STATEFUL_SESSION, ads, any, bind_address, flag, inline, seconds};
use crate::keys::port;

pub use listener::Listener;

/// 10901 on the hub: Thanos Query speaks plain HTTP/2 here.
pub fn stores_on_hub(name: &str, bind: IpAddr) -> Listener {
    let manager =
        hcm::HttpConnectionManager { codec_type: hcm::http_connection_manager::CodecType::Http2.into(), ..manager(name, vec![router()]) };
    http(name, bind, port::HUB_STORES, manager)
}

/// 10903 on the hub: clusters post alerts here, and can do nothing else.
pub fn alerts_on_hub(name: &str, bind: IpAddr, peers: &str) -> Listener {
    let filters = vec![filter("envoy.filters.http.rbac", &only_posting_alerts()), filter(DENY_LIST, &Rbac::default()), router()];
    let mut listener = http(name, bind, port::HUB_ALERTS, manager(name, filters));
    listener.filter_chains[0].transport_socket = tls::server(&Peer::Prefix(peers));
    listener
}

fn only_posting_alerts() -> Rbac {
    use rbac_rules::{permission::Rule, principal::Identifier};
    let path = PathMatcher {
        rule: Some(path_matcher::Rule::Path(StringMatcher {
            match_pattern: Some(MatchPattern::SafeRegex(safe_regex("/alertmanager/[0-9]+/api/v2/alerts"))),
            ..Default::default()
        })),
    };
    let permission = |rule| rbac_rules::Permission { rule: Some(rule) };
    let both = rbac_rules::permission::Set { rules: vec![permission(Rule::Header(method("POST"))), permission(Rule::UrlPath(path))] };
    let policy = rbac_rules::Policy {
        permissions: vec![permission(Rule::AndRules(both))],
        principals: vec![rbac_rules::Principal { identifier: Some(Identifier::Any(true)) }],
        ..Default::default()
    };
    let rules = rbac_rules::Rbac { policies: [("post-alerts".to_owned(), policy)].into(), ..Default::default() };
    Rbac { rules: Some(rules), ..Default::default() }
}

/// 10904 on the hub: people's browsers, perhaps behind an ingress.
pub fn web_on_hub(name: &str, bind: IpAddr, trusted_hops: u32) -> Listener {
    let unknown = page(
        "404 Not Found",
        "There is no such cluster",
        "Atlas knows no downstream cluster of this name. <a href=\"/\">These are the clusters.</a>",
    );
    let dead = page(
        "503 Service Unavailable",
        "This cluster can't be reached",
        "The hub's Envoy has no connection to the Envoy of this cluster. <code>atlas status</code> says more. <a href=\"/\">All clusters.</a>",
    );
    let manager = hcm::HttpConnectionManager {
        xff_num_trusted_hops: trusted_hops,
        // Redirects repeat the authority, with the port that the browser used.
        strip_port_mode: None,
        local_reply_config: Some(hcm::LocalReplyConfig {
            mappers: vec![on_flags(&["NC"], unknown), on_flags(&["UH", "UF", "UC", "URX", "UT", "UR", "LR", "UO"], dead)],
            ..Default::default()
        }),
        ..web(manager(name, vec![router()]))
    };
    http(name, bind, port::HUB_WEB, manager)
}

/// 10900 on the hub: TLS passes through to Atlas, which sees each cluster's own certificate.
pub fn xds_on_hub(name: &str, bind: IpAddr) -> Listener {
    let proxy = tcp::TcpProxy {
        stat_prefix: name.to_owned(),
        cluster_specifier: Some(tcp::tcp_proxy::ClusterSpecifier::Cluster("atlas/xds".into())),
        // Streams are quiet between changes; their own keepalive ends dead ones.
        idle_timeout: seconds(3600),
        ..Default::default()
    };
    listener(name, bind, port::HUB_XDS, network_filter("envoy.filters.network.tcp_proxy", &proxy))
}

/// 11901 in a cluster: everything that comes from the hub.
pub fn inbound(name: &str, bind: IpAddr, peer: &str, uis: &[WebUi<'_>]) -> Listener {
    let lua = Lua { default_source_code: inline(correct_redirects(uis)), ..Default::default() };
    let filters = vec![filter(LUA, &lua), filter(STATEFUL_SESSION, &StatefulSession::default()), router()];
    let dead = page(
        "503 Service Unavailable",
        "This server can't be reached",
        "The cluster's Envoy has no connection to the server behind this page.",
    );
    let manager = hcm::HttpConnectionManager {
        codec_type: hcm::http_connection_manager::CodecType::Http2.into(),
        http2_protocol_options: Some(core::Http2ProtocolOptions { allow_connect: true, ..Default::default() }),
        // The hub's Envoy is the only client, and has said who is behind it.
        xff_num_trusted_hops: 1,
        local_reply_config: Some(hcm::LocalReplyConfig {
            mappers: vec![on_flags(&["UH", "UF", "UC", "URX", "UT"], dead)],
            ..Default::default()
        }),
        ..web(manager(name, filters))
    };
    let mut listener = http(name, bind, port::CLUSTER_INBOUND, manager);
    listener.filter_chains[0].transport_socket = tls::server(&Peer::Exactly(peer));
    listener
}

/// A `Location` with one leading slash that lacks the UI's base gets it, in place of the backend's own prefix.
fn correct_redirects(uis: &[WebUi<'_>]) -> String {
    let bases: Vec<String> = uis.iter().map(|ui| format!(r#"["{}"] = "{}""#, ui.base, ui.backend_prefix)).collect();
    let table = bases.join(", ");
    format!("local bases = {{ {table} }}\n{}", CORRECT_REDIRECTS.trim_start())
}

const CORRECT_REDIRECTS: &str = r#"
local function under(path, base)
  return path == base or string.sub(path, 1, #base + 1) == base .. "/" or string.sub(path, 1, #base + 1) == base .. "?"
end
function envoy_on_request(handle)
  local base = string.match(handle:headers():get(":path") or "", "^/[^/?]+/[^/?]+")
  if base and bases[base] then
    handle:streamInfo():dynamicMetadata():set("atlas", "base", base)
  end
end
function envoy_on_response(handle)
  local location = handle:headers():get("location")
  if not location or string.sub(location, 1, 1) ~= "/" or string.sub(location, 1, 2) == "//" then
    return
  end
  local stored = handle:streamInfo():dynamicMetadata():get("atlas")
  if not stored or not stored["base"] or under(location, stored["base"]) then
    return
  end
  local own = bases[stored["base"]]
  if own ~= "" and under(location, own) then
    location = string.sub(location, #own + 1)
  end
  handle:headers():replace("location", stored["base"] .. location)
end
"#;

/// 11903 in a cluster: its Prometheus posts alerts here, and asks for the targets.
pub fn alerts_in_cluster(name: &str, bind: IpAddr) -> Listener {
    // The authority keeps its port, since the list of targets repeats it.
    let manager = hcm::HttpConnectionManager { strip_port_mode: None, ..manager(name, vec![filter(LUA, &Lua::default()), router()]) };
    http(name, bind, port::CLUSTER_ALERTS, manager)
}

/// 9001: `/ready` and `/stats/prometheus`. Its routes are inline, so that it works before Atlas has said anything.
pub(super) fn status(name: &str, bind: IpAddr, routes: super::route::RouteConfiguration) -> Listener {
    let manager = hcm::HttpConnectionManager {
        route_specifier: Some(hcm::http_connection_manager::RouteSpecifier::RouteConfig(routes)),
        ..manager(name, vec![router()])
    };
    http(name, bind, port::ENVOY_STATUS, manager)
}

/// What every HTTP listener has in common; routes come by RDS under the listener's name.
fn manager(name: &str, http_filters: Vec<hcm::HttpFilter>) -> hcm::HttpConnectionManager {
    hcm::HttpConnectionManager {
        stat_prefix: name.to_owned(),
        route_specifier: Some(hcm::http_connection_manager::RouteSpecifier::Rds(hcm::Rds {
            config_source: Some(ads()),
            route_config_name: name.to_owned(),
        })),
        http_filters,
        strip_port_mode: Some(hcm::http_connection_manager::StripPortMode::StripAnyHostPort(true)),
        normalize_path: flag(true),
        merge_slashes: true,
        path_with_escaped_slashes_action: hcm::http_connection_manager::PathWithEscapedSlashesAction::RejectRequest.into(),
        // Strips x-envoy-* headers that come from outside.
        use_remote_address: flag(true),
        stream_idle_timeout: seconds(300),
        request_headers_timeout: seconds(10),
        common_http_protocol_options: Some(core::HttpProtocolOptions {
            headers_with_underscores_action: core::http_protocol_options::HeadersWithUnderscoresAction::RejectRequest.into(),
            ..Default::default()
        }),
        ..Default::default()
    }
}

/// What listeners for web UIs have beside.
fn web(manager: hcm::HttpConnectionManager) -> hcm::HttpConnectionManager {
    hcm::HttpConnectionManager {
        path_with_escaped_slashes_action: hcm::http_connection_manager::PathWithEscapedSlashesAction::UnescapeAndRedirect.into(),
        upgrade_configs: vec![hcm::http_connection_manager::UpgradeConfig { upgrade_type: "websocket".into(), ..Default::default() }],
        ..manager
    }
}

/// An answer of Envoy's own for people. Nothing of the request may appear in it: it would be script on the hub's own origin.
fn page(status: &str, title: &str, text: &str) -> core::SubstitutionFormatString {
    let html = format!(
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>{status}</title>\
         <body style=\"font:1rem/1.5 system-ui,sans-serif;max-width:40rem;margin:4rem auto;padding:0 1rem\">\
         <h1>{title}</h1><p>{text}</p><p><small>{status} · Atlas</small></p></body></html>\n"
    );
    core::SubstitutionFormatString {
        content_type: "text/html; charset=utf-8".into(),
        format: Some(core::substitution_format_string::Format::TextFormatSource(inline(html).unwrap_or_default())),
        ..Default::default()
    }
}

/// Answers of Envoy's own whose cause is one of these flags look like `page`.
fn on_flags(flags: &[&str], page: core::SubstitutionFormatString) -> hcm::ResponseMapper {
    let flags = accesslog::ResponseFlagFilter { flags: flags.iter().map(|flag| (*flag).to_owned()).collect() };
    hcm::ResponseMapper {
        filter: Some(accesslog::AccessLogFilter {
            filter_specifier: Some(accesslog::access_log_filter::FilterSpecifier::ResponseFlagFilter(flags)),
        }),
        body_format_override: Some(page),
        ..Default::default()
    }
}

fn http(name: &str, bind: IpAddr, port: u16, manager: hcm::HttpConnectionManager) -> Listener {
    listener(name, bind, port, network_filter("envoy.filters.network.http_connection_manager", &manager))
}

fn listener(name: &str, bind: IpAddr, port: u16, filter: listener::Filter) -> Listener {
    Listener {
        name: name.to_owned(),
        address: bind_address(bind, port),
        filter_chains: vec![listener::FilterChain { filters: vec![filter], ..Default::default() }],
        ..Default::default()
    }
}

fn network_filter<M: Message + Name>(name: &str, config: &M) -> listener::Filter {
    listener::Filter { name: name.to_owned(), config_type: Some(listener::filter::ConfigType::TypedConfig(any(config))) }
}

fn filter<M: Message + Name>(name: &str, config: &M) -> hcm::HttpFilter {
    typed_filter(name, any(config))
}

fn typed_filter(name: &str, config: Any) -> hcm::HttpFilter {
    hcm::HttpFilter { name: name.to_owned(), config_type: Some(hcm::http_filter::ConfigType::TypedConfig(config)), ..Default::default() }
}

fn router() -> hcm::HttpFilter {
    filter("envoy.filters.http.router", &Router::default())
}

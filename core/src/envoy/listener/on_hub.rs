//! The listeners of the hub's Envoys.

use std::net::IpAddr;

use envoy_types::pb::envoy::config::rbac::v3 as rbac_rules;
use envoy_types::pb::envoy::extensions::filters::http::rbac::v3::Rbac;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3 as hcm;
use envoy_types::pb::envoy::extensions::filters::network::tcp_proxy::v3 as tcp;
use envoy_types::pb::envoy::r#type::matcher::v3::{
    PathMatcher, StringMatcher, path_matcher, string_matcher::MatchPattern,
};

use super::{
    Listener, http_connection_manager, http_listener, http1, listener, network_filter, with_web_uis,
};
use crate::envoy::limits;
use crate::envoy::local_reply::{self, page, plain};
use crate::envoy::matcher::{escape_regex, header_regex, method, safe_regex};
use crate::envoy::route::HEALTH_PATH;
use crate::envoy::tls::{self, ExpectedSan};
use crate::envoy::web::WebEntry;
use crate::envoy::{http_filter, lua, seconds};
use crate::ports;

/// 10900: TLS passes through to Atlas, which checks each client's certificate itself.
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

/// 10901: Thanos Query, by plain HTTP/2.
pub fn stores_on_hub(bind: IpAddr, max_request_seconds: u32) -> Listener {
    let limits = &limits::HUB_STORES.for_requests_of(max_request_seconds);
    let unknown = plain(
        "Atlas knows no such store. Thanos Query must ask by the names in endpoints.yaml (or dnssrvnoa+), which reach the hub's Envoy as the \
         authority; dns+ and dnssrv+ send an address instead.",
    );
    let unreachable =
        plain("Atlas: the hub's Envoy has no connection to the Envoy of this store's cluster.");
    let manager = hcm::HttpConnectionManager {
        codec_type: hcm::http_connection_manager::CodecType::Http2.into(),
        local_reply_config: Some(local_reply::stores(unknown, unreachable, max_request_seconds)),
        ..http_connection_manager(limits, vec![http_filter::router()])
    };
    Listener { ignore_global_conn_limit: true, ..http_listener(limits, bind, manager) }
}

/// 10903: alerts of the clusters, which can do nothing else here except check this Envoy's health.
/// `san_prefix` is how the SPIFFE IDs of all clusters begin.
pub fn alerts_on_hub(bind: IpAddr, san_prefix: &str) -> Listener {
    let limits = &limits::HUB_ALERTS;
    let filters = vec![
        http_filter::rbac(&only_alert_posts()),
        http_filter::deny_list(),
        http_filter::lua(lua::limit_alert_posts()),
        http_filter::buffer(limits::ALERT_POST_BYTES),
        http_filter::router(),
    ];
    let mut listener = http_listener(limits, bind, http_connection_manager(limits, filters));
    listener.filter_chains[0].transport_socket =
        Some(tls::downstream(&ExpectedSan::Prefix(san_prefix)));
    listener
}

fn only_alert_posts() -> Rbac {
    use rbac_rules::{permission::Rule, principal::Identifier};
    let permission = |rule| rbac_rules::Permission { rule: Some(rule) };
    let path = |pattern| {
        let path = StringMatcher { match_pattern: Some(pattern), ..Default::default() };
        permission(Rule::UrlPath(PathMatcher { rule: Some(path_matcher::Rule::Path(path)) }))
    };
    let method_and_path = |name: &str, path| {
        permission(Rule::AndRules(rbac_rules::permission::Set {
            rules: vec![permission(Rule::Header(method(name))), path],
        }))
    };
    let alerts = safe_regex("/alertmanager/[0-9]+/api/v2/alerts");
    let policy = rbac_rules::Policy {
        permissions: vec![
            method_and_path("POST", path(MatchPattern::SafeRegex(alerts))),
            method_and_path("GET", path(MatchPattern::Exact(HEALTH_PATH.into()))),
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

/// 10904: people's browsers, perhaps through an ingress.
pub fn web_on_hub(entry: &WebEntry<'_>, max_request_seconds: u32) -> Listener {
    let limits = &limits::HUB_WEB.for_requests_of(max_request_seconds);
    let home = format!("{}/", entry.path);
    let unknown = page(
        "404 Not Found",
        "There is no such cluster",
        &format!(
            "Atlas knows no downstream cluster of this name. <a href=\"{home}\">These are the clusters.</a>"
        ),
    );
    let unreachable = page(
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
    let is_web_ui =
        header_regex(":path", &format!("({})?/(prom|alertmanager)/.*", escape_regex(entry.path)));
    let filters = vec![
        http_filter::lua(lua::responses_without_route(entry.path)),
        http_filter::buffer(limits::WEB_REQUEST_BYTES),
        http_filter::router(),
    ];
    let manager = hcm::HttpConnectionManager {
        xff_num_trusted_hops: entry.trusted_hops,
        // The port of the browser's host goes on in x-forwarded-host.
        strip_port_mode: None,
        local_reply_config: Some(local_reply::pages(
            unknown,
            unreachable,
            is_web_ui,
            atlas,
            max_request_seconds,
            &home,
        )),
        http_protocol_options: Some(http1(Some("websocket"))),
        ..with_web_uis(http_connection_manager(limits, filters), lua::websocket_responses_on_hub())
    };
    http_listener(limits, entry.bind, manager)
}

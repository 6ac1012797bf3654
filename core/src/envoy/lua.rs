//! The Lua scripts that Envoys run: the files in `lua/`.
//!
//! A script is its file, without comments, behind lines that declare the variables it uses; some
//! scripts stand behind libraries (`paths.lua`, `urls.lua`, `below_web_path.lua`). Each has its
//! constructor here.
//!
//! The tests of `lua/NAME.lua` are in `lua/tests/NAME.rs`: tables of what goes in and what comes
//! out. They run in LuaJIT, as in Envoy; `lua/test_helpers/handle.lua` stands for Envoy's stream
//! handle.

mod value;

use std::collections::BTreeSet;

use value::{LuaValue, declaration};

use super::web::{WebEntry, WebUi};
use super::{DEFAULT_HOST_FOR_HTTP_10, limits};
use crate::name::CookieName;

#[cfg(test)]
mod tests;

/// The cookie that keeps a client on one replica of a web UI.
pub(super) const REPLICA_COOKIE: &str = "atlas-replica";

/// 10901 on the hub: the Envoy cluster of a store.
pub(super) fn cluster_of_store() -> String {
    code(include_str!("lua/cluster_of_store.lua"))
}

/// 10904 on the hub: the Envoy cluster of a web UI. `web_path` is the path of `--web-url`.
pub(super) fn cluster_of_web_ui(web_path: &str) -> String {
    [paths(web_path), code(include_str!("lua/cluster_of_web_ui.lua"))].concat()
}

/// 10903 on the hub: limits the alert posts of each downstream cluster.
pub(super) fn limit_alert_posts() -> String {
    let longest_seconds = limits::HUB_ALERTS.request + limits::ALERT_POST_SECONDS;
    let variables = declaration(&[
        ("most_posts", LuaValue::Number(limits::ALERT_POSTS_OF_A_CLUSTER.into())),
        ("most_bytes", LuaValue::Number(limits::ALERT_POST_BYTES_OF_A_CLUSTER.into())),
        ("longest_post_bytes", LuaValue::Number(limits::ALERT_POST_BYTES.into())),
        ("longest_ms", LuaValue::Number(1000 * longest_seconds)),
    ]);
    [variables, code(include_str!("lua/limit_alert_posts.lua"))].concat()
}

/// 11903 in a cluster: the list of the hub's Alertmanagers. `json` has `AUTHORITY` where the
/// request's authority goes.
pub(super) fn list_alertmanagers(json: &str) -> String {
    let variables = declaration(&[
        ("no_host", LuaValue::text(DEFAULT_HOST_FOR_HTTP_10)),
        ("targets", LuaValue::text(json)),
    ]);
    [variables, code(include_str!("lua/list_alertmanagers.lua"))].concat()
}

/// 10904 on the hub: filters requests that have a route, and their responses.
pub(super) fn web_on_hub(entry: &WebEntry<'_>) -> String {
    let cookies = LuaValue::set(entry.pass_cookies.iter().map(CookieName::as_str));
    [
        below_web_path(entry.path),
        replica_cookie_name(),
        declaration(&[("request_headers", header_patterns(&entry.passed_request_headers()))]),
        declaration(&[("response_headers", header_patterns(&entry.passed_response_headers()))]),
        declaration(&[("cookies", cookies)]),
        code(include_str!("lua/web_on_hub.lua")),
    ]
    .concat()
}

/// 10904 on the hub: responses that have no route; empty where there is nothing to change.
pub(super) fn responses_without_route(web_path: &str) -> String {
    if web_path.is_empty() {
        return String::new();
    }
    [below_web_path(web_path), code(include_str!("lua/responses_without_route.lua"))].concat()
}

/// 10904 on the hub: what an Alertmanager's page asks for below `/api/v2/`.
pub(super) fn redirect_alertmanager_api() -> String {
    code(include_str!("lua/redirect_alertmanager_api.lua"))
}

/// 10904 on the hub and 11901 in a cluster: makes a WebSocket handshake an ordinary request.
pub(super) fn remove_websocket_offer() -> String {
    code(include_str!("lua/remove_websocket_offer.lua"))
}

/// 10904 on the hub: responses to WebSocket handshakes.
pub(super) fn websocket_responses_on_hub() -> String {
    code(include_str!("lua/websocket_responses_on_hub.lua"))
}

/// 11901 in a cluster: responses to WebSocket handshakes.
pub(super) fn websocket_responses_in_cluster() -> String {
    code(include_str!("lua/websocket_responses_in_cluster.lua"))
}

/// 11901 in a cluster: keeps a client on one replica of a web UI.
pub(super) fn replica_cookie() -> String {
    [replica_cookie_name(), code(include_str!("lua/replica_cookie.lua"))].concat()
}

/// 11901 in a cluster: the `Host` of requests to web UIs, and the URLs in their responses.
pub(super) fn web_in_cluster(uis: &[WebUi<'_>]) -> String {
    let entry = |ui: &WebUi<'_>| {
        let fields = vec![
            ("prefix", LuaValue::text(ui.backend_prefix)),
            ("names", LuaValue::Set(ui.names().into_iter().collect())),
            ("asked_as_hub", LuaValue::Boolean(ui.authority().is_none())),
            ("has_pages", LuaValue::Boolean(ui.kind == "prometheus")),
        ];
        (ui.base.to_owned(), LuaValue::Record(fields))
    };
    [
        // The hub's Envoy has removed the path of --web-url.
        urls(""),
        declaration(&[("uis", LuaValue::Lines(uis.iter().map(entry).collect()))]),
        code(include_str!("lua/web_in_cluster.lua")),
    ]
    .concat()
}

/// The library `paths.lua`.
fn paths(web_path: &str) -> String {
    let variables = declaration(&[("web_path", LuaValue::text(web_path))]);
    [variables, code(include_str!("lua/paths.lua"))].concat()
}

/// The libraries `paths.lua` and `urls.lua`.
fn urls(web_path: &str) -> String {
    [paths(web_path), code(include_str!("lua/urls.lua"))].concat()
}

/// The libraries `paths.lua`, `urls.lua` and `below_web_path.lua`.
fn below_web_path(web_path: &str) -> String {
    [urls(web_path), code(include_str!("lua/below_web_path.lua"))].concat()
}

fn replica_cookie_name() -> String {
    declaration(&[("replica_cookie", LuaValue::text(REPLICA_COOKIE))])
}

/// Names of headers; a `*` at the end of one stands for any end.
fn header_patterns(patterns: &BTreeSet<&str>) -> LuaValue {
    let names = patterns.iter().copied().filter(|pattern| !pattern.ends_with('*'));
    let prefixes = patterns.iter().filter_map(|pattern| pattern.strip_suffix('*'));
    LuaValue::Record(vec![("names", LuaValue::set(names)), ("prefixes", LuaValue::list(prefixes))])
}

/// A script without its comments and empty lines.
fn code(script: &str) -> String {
    let mut code = String::new();
    for line in script.lines() {
        if !line.trim_start().starts_with("--") && !line.is_empty() {
            code.push_str(line);
            code.push('\n');
        }
    }
    code
}

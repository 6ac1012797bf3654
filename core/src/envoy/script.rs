//! Scripts that Envoys run: the files in `lua/`, each behind lines that set what it depends on.
//!
//! Each has its constructor here, and nowhere else is one included. What they do is tried in [`tests`], in LuaJIT as in Envoy, against `lua/tests/handle.lua` in Envoy's place.

use std::collections::BTreeSet;
use std::fmt::Write;

use super::web::WebUi;
use super::{NO_HOST, limits};

#[cfg(test)]
mod tests;

/// The cookie that keeps a person on one replica of a web UI.
pub(super) const REPLICA_COOKIE: &str = "atlas-replica";

/// 10901 on the hub: the Envoy cluster of a store.
pub(super) fn cluster_of_store() -> String {
    code(include_str!("lua/cluster_of_store.lua"))
}

/// 10904 on the hub: the Envoy cluster of a web UI.
pub(super) fn cluster_of_web_ui(web_path: &str) -> String {
    [paths(web_path), code(include_str!("lua/cluster_of_web_ui.lua"))].concat()
}

/// 10903 on the hub: each cluster's share.
pub(super) fn alert_share() -> String {
    format!(
        "local most_posts, most_bytes, longest_post_bytes, longest_ms = {}, {}, {}, {}\n{}",
        limits::ALERT_POSTS_OF_A_CLUSTER,
        limits::ALERT_POST_BYTES_OF_A_CLUSTER,
        limits::ALERT_POST_BYTES,
        1000 * (limits::HUB_ALERTS.request + limits::ALERT_POST_SECONDS),
        code(include_str!("lua/alert_share.lua")),
    )
}

/// 11903 in a cluster: the list of targets, a JSON text with AUTHORITY in the authority's place.
pub(super) fn alert_targets(json: &str) -> String {
    format!(
        "local no_host, targets = {}, {}\n{}",
        string(NO_HOST),
        string(json),
        code(include_str!("lua/alert_targets.lua"))
    )
}

/// 10904 on the hub: every request that has a route, and its answer. The path of `--web-url`, the headers of requests and of answers that
/// pass (`*` is any end), the cookies.
pub(super) fn web_on_hub<'a>(
    web_path: &str,
    requests: &BTreeSet<&str>,
    answers: &BTreeSet<&str>,
    cookies: impl IntoIterator<Item = &'a str>,
) -> String {
    format!(
        "{}{}local request_headers = {}\nlocal response_headers = {}\nlocal cookies = {}\n{}",
        below_web_path(web_path),
        replica_cookie(),
        patterns(requests),
        patterns(answers),
        set(cookies),
        code(include_str!("lua/web_on_hub.lua")),
    )
}

/// 10904 on the hub: answers that have no route.
pub(super) fn answers_without_a_route(web_path: &str) -> String {
    [below_web_path(web_path), code(include_str!("lua/answers_without_a_route.lua"))].concat()
}

/// 10904 on the hub: what a page of an Alertmanager asks for at the root.
pub(super) fn api_beneath_page() -> String {
    code(include_str!("lua/api_beneath_page.lua"))
}

/// 10904 on the hub and 11901 in a cluster: requests under an offer of a WebSocket that goes no further.
pub(super) fn offer_removed() -> String {
    code(include_str!("lua/offer_removed.lua"))
}

/// 10904 on the hub: answers under an offer of a WebSocket.
pub(super) fn websocket_answers_on_hub() -> String {
    code(include_str!("lua/websocket_answers_on_hub.lua"))
}

/// 11901 in a cluster: the same there.
pub(super) fn websocket_answers_in_cluster() -> String {
    code(include_str!("lua/websocket_answers_in_cluster.lua"))
}

/// 11901 in a cluster: keeps a person on one replica of a web UI.
pub(super) fn replica() -> String {
    [replica_cookie(), code(include_str!("lua/replica.lua"))].concat()
}

fn replica_cookie() -> String {
    format!("local replica_cookie = {}\n", string(REPLICA_COOKIE))
}

/// 11901 in a cluster: how its web UIs are asked, and where they send people.
pub(super) fn web_in_cluster(uis: &[WebUi<'_>]) -> String {
    let entry = |ui: &WebUi<'_>| {
        format!(
            "  [{}] = {{prefix = {}, names = {}, asked_as_hub = {}, has_pages = {}}},\n",
            string(ui.base),
            string(ui.backend_prefix),
            set(ui.names().iter().map(String::as_str)),
            ui.authority().is_none(),
            ui.kind == "prometheus",
        )
    };
    let table: String = uis.iter().map(entry).collect();
    // Whatever path stands before the hub's own, the hub's Envoy has taken it away.
    format!(
        "{}local uis = {{\n{table}}}\n{}",
        paths_and_urls(""),
        code(include_str!("lua/web_in_cluster.lua"))
    )
}

/// What scripts for web UIs know of paths. `web_path` is the path of `--web-url`.
fn paths(web_path: &str) -> String {
    format!("local web_path = {}\n{}", string(web_path), code(include_str!("lua/paths.lua")))
}

/// What scripts that look at answers know besides.
fn paths_and_urls(web_path: &str) -> String {
    [paths(web_path), code(include_str!("lua/urls.lua"))].concat()
}

/// What the hub's scripts for answers know besides.
fn below_web_path(web_path: &str) -> String {
    [paths_and_urls(web_path), code(include_str!("lua/below_web_path.lua"))].concat()
}

/// A script without its comments, which no Envoy needs.
fn code(script: &str) -> String {
    script
        .lines()
        .filter(|line| !line.trim_start().starts_with("--") && !line.is_empty())
        .flat_map(|line| [line, "\n"])
        .collect()
}

/// A text as Lua writes it.
fn string(text: &str) -> String {
    let mut literal = String::from("\"");
    for byte in text.bytes() {
        match byte {
            b'"' | b'\\' => literal.extend(['\\', char::from(byte)]),
            0x20..0x7f => literal.push(char::from(byte)),
            _ => write!(literal, "\\{byte:03}").expect("BUG: a String takes everything"),
        }
    }
    literal + "\""
}

/// A table in which each of these is `true`.
fn set<'a>(texts: impl IntoIterator<Item = &'a str>) -> String {
    let entries: Vec<String> =
        texts.into_iter().map(|text| format!("[{}] = true", string(text))).collect();
    format!("{{{}}}", entries.join(", "))
}

/// A table of these, in order.
fn list<'a>(texts: impl IntoIterator<Item = &'a str>) -> String {
    let entries: Vec<String> = texts.into_iter().map(string).collect();
    format!("{{{}}}", entries.join(", "))
}

/// Names of headers, of which a `*` stands for any end.
fn patterns(patterns: &BTreeSet<&str>) -> String {
    let names = patterns.iter().copied().filter(|pattern| !pattern.ends_with('*'));
    let prefixes = patterns.iter().filter_map(|pattern| pattern.strip_suffix('*'));
    format!("{{names = {}, prefixes = {}}}", set(names), list(prefixes))
}

//! Scripts that Envoys run: the files in `lua/`, each behind lines that set what it depends on.
//!
//! What they do is tried in [`tests`], in LuaJIT as in Envoy, against `lua/tests/handle.lua` in Envoy's place.

use std::fmt::Write;

use super::{NO_HOST, limits};

#[cfg(test)]
mod tests;

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
    format!("local no_host, targets = {}, {}\n{}", string(NO_HOST), string(json), code(include_str!("lua/alert_targets.lua")))
}

/// What scripts for web UIs know of paths. `web_path` is the path of `--web-url`.
fn paths(web_path: &str) -> String {
    format!("local web_path = {}\n{}", string(web_path), code(include_str!("lua/paths.lua")))
}

/// What scripts that look at answers know besides.
pub(super) fn paths_and_urls(web_path: &str) -> String {
    [paths(web_path), code(include_str!("lua/urls.lua"))].concat()
}

/// A script without its comments, which no Envoy needs.
pub(super) fn code(script: &str) -> String {
    script.lines().filter(|line| !line.trim_start().starts_with("--") && !line.is_empty()).flat_map(|line| [line, "\n"]).collect()
}

/// A text as Lua writes it.
pub(super) fn string(text: &str) -> String {
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
pub(super) fn set<'a>(texts: impl IntoIterator<Item = &'a str>) -> String {
    let entries: Vec<String> = texts.into_iter().map(|text| format!("[{}] = true", string(text))).collect();
    format!("{{{}}}", entries.join(", "))
}

/// A table of these, in order.
pub(super) fn list<'a>(texts: impl IntoIterator<Item = &'a str>) -> String {
    let entries: Vec<String> = texts.into_iter().map(string).collect();
    format!("{{{}}}", entries.join(", "))
}

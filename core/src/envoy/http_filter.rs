//! HTTP filters, and what a route configures for them.

use std::collections::HashMap;

use envoy_types::pb::envoy::extensions::filters::http::buffer::v3::Buffer;
use envoy_types::pb::envoy::extensions::filters::http::lua::v3::{
    Lua, LuaPerRoute, lua_per_route::Override,
};
use envoy_types::pb::envoy::extensions::filters::http::rbac::v3::{Rbac, RbacPerRoute};
use envoy_types::pb::envoy::extensions::filters::http::router::v3::Router;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3 as hcm;
use envoy_types::pb::google::protobuf::Any;
use prost::{Message, Name};

use super::{any, bool_value, inline_string, uint32};

/// The filter whose script a route can replace.
const LUA: &str = "envoy.filters.http.lua";
/// The filter that reads requests whole.
const BUFFER: &str = "envoy.filters.http.buffer";
/// The RBAC filter that denies; routes have its list.
const DENY_LIST: &str = "atlas.deny_list";
/// The filter that runs `lua/remove_websocket_offer.lua`; routes can disable it.
const REMOVE_WEBSOCKET_OFFER: &str = "atlas.offer_removed";

/// What routes configure for a filter, by its name.
type PerFilterConfig = HashMap<String, Any>;

pub(super) fn router() -> hcm::HttpFilter {
    filter("envoy.filters.http.router", &Router::default())
}

/// Reads a request whole before it is passed on, so that one that never ends doesn't occupy the
/// upstream.
pub(super) fn buffer(max_request_bytes: u32) -> hcm::HttpFilter {
    filter(BUFFER, &Buffer { max_request_bytes: uint32(max_request_bytes) })
}

pub(super) fn is_buffer(filter: &hcm::HttpFilter) -> bool {
    filter.name == BUFFER
}

/// Runs `script`, which may be empty, on routes that don't have their own ([`script_of_route`]).
pub(super) fn lua(script: String) -> hcm::HttpFilter {
    named_lua(LUA, script)
}

/// A Lua filter that stands beside [`lua`] under another name.
pub(super) fn named_lua(name: &str, script: String) -> hcm::HttpFilter {
    let config = Lua {
        default_source_code: if script.is_empty() { None } else { inline_string(script) },
        // No script changes where a request goes.
        clear_route_cache: bool_value(false),
        ..Default::default()
    };
    filter(name, &config)
}

/// The script of the filter [`lua`] on a route. Scripts of routes change for open connections too;
/// those of a listener stay as they are until the connections are drained.
pub(super) fn script_of_route(script: String) -> PerFilterConfig {
    let source = Override::SourceCode(inline_string(script).unwrap_or_default());
    [(LUA.to_owned(), any(&LuaPerRoute { r#override: Some(source), ..Default::default() }))].into()
}

/// Removes offers of a WebSocket, except on routes that keep them ([`keep_websocket_offer`]).
pub(super) fn remove_websocket_offer(script: String) -> hcm::HttpFilter {
    named_lua(REMOVE_WEBSOCKET_OFFER, script)
}

/// Disables the filter [`remove_websocket_offer`] on a route.
pub(super) fn keep_websocket_offer() -> PerFilterConfig {
    let disabled = LuaPerRoute { r#override: Some(Override::Disabled(true)), ..Default::default() };
    [(REMOVE_WEBSOCKET_OFFER.to_owned(), any(&disabled))].into()
}

/// Allows only what `rules` allow.
pub(super) fn rbac(rules: &Rbac) -> hcm::HttpFilter {
    filter("envoy.filters.http.rbac", rules)
}

/// Denies what the list of the route denies ([`deny_list_of_route`]).
pub(super) fn deny_list() -> hcm::HttpFilter {
    filter(DENY_LIST, &Rbac::default())
}

/// The rules of the filter [`deny_list`] on a route.
pub(super) fn deny_list_of_route(rules: Rbac) -> PerFilterConfig {
    [(DENY_LIST.to_owned(), any(&RbacPerRoute { rbac: Some(rules) }))].into()
}

fn filter<M: Message + Name>(name: &str, config: &M) -> hcm::HttpFilter {
    hcm::HttpFilter {
        name: name.to_owned(),
        config_type: Some(hcm::http_filter::ConfigType::TypedConfig(any(config))),
        ..Default::default()
    }
}

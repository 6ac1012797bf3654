//! Constructors of Envoy's resources, named after what they make. Nothing here decides *whether* a resource exists: that
//! is [`crate::plan`]'s.
//!
//! Names have one scheme: Envoy clusters are `kind/name` (`cluster/tokyo` on the hub, `store/tokyo-thanos-sidecar0` in tokyo),
//! (and `dns/…`, `dns-last/…` behind those with host names), secrets are [`LEAF`] and [`TRUST`], a listener and its route configuration share one name.
//!
//! Architecture invariant: no message holds a map of more than one entry, because protobuf maps have no order and a
//! resource's version is the hash of its bytes.

pub mod bootstrap;
pub mod cluster;
mod dns;
pub mod limits;
pub mod listener;
mod local_reply;
mod long_lived;
mod lua;
mod matcher;
mod overload;
pub mod route;
pub mod secret;
mod socket;
mod stats;
pub mod timing;
mod tls;
pub mod web;

use std::net::IpAddr;

use envoy_types::pb::envoy::config::core::v3 as core;
use envoy_types::pb::google::protobuf::{Any, BoolValue, Duration, UInt32Value};
use prost::{Message, Name};

/// Secret: the node's own certificate and key.
pub const LEAF: &str = "leaf";
/// Secret: the roots that the node trusts.
pub const TRUST: &str = "trust";

/// The authority by which the hub's Envoy asks for Atlas's own page, whatever the browser's was.
pub const ATLAS_AUTHORITY: &str = "atlas";

/// The authority of an HTTP/1.0 request without `Host`. Nothing can have this name (RFC 6761).
const DEFAULT_HOST_FOR_HTTP_10: &str = "no-host.invalid";

/// The HTTP filter that runs scripts; routes may bring their own.
const LUA: &str = "envoy.filters.http.lua";
/// The HTTP filter that refuses what was revoked; routes carry its list.
const DENY_LIST: &str = "atlas.deny_list";

/// Longest life of a WebSocket or an event stream, and how long it may be silent.
pub const MAX_WEBSOCKET_SECONDS: i64 = 3600;
/// How much longer a cluster's Envoy waits than the hub's, which therefore is the one that ends a request and says why.
const CLUSTER_WAITS_LONGER_SECONDS: i64 = 10;

/// Packs a message.
pub fn any<M: Message + Name>(message: &M) -> Any {
    Any { type_url: M::type_url(), value: message.encode_to_vec() }
}

fn millis(ms: i64) -> Option<Duration> {
    Some(Duration { seconds: ms / 1000, nanos: i32::try_from(ms % 1000 * 1_000_000).unwrap_or(0) })
}

fn seconds(seconds: i64) -> Option<Duration> {
    millis(seconds * 1000)
}

fn number(value: u32) -> Option<UInt32Value> {
    Some(UInt32Value { value })
}

fn flag(value: bool) -> Option<BoolValue> {
    Some(BoolValue { value })
}

/// "Ask for this over the ADS stream."
fn ads() -> core::ConfigSource {
    core::ConfigSource {
        resource_api_version: core::ApiVersion::V3.into(),
        config_source_specifier: Some(core::config_source::ConfigSourceSpecifier::Ads(
            core::AggregatedConfigSource {},
        )),
        ..Default::default()
    }
}

/// A TCP address. `host` is an IP address, or a name where Envoy resolves it.
fn address(host: String, port: u16) -> Option<core::Address> {
    Some(core::Address {
        address: Some(core::address::Address::SocketAddress(core::SocketAddress {
            address: host,
            port_specifier: Some(core::socket_address::PortSpecifier::PortValue(port.into())),
            ..Default::default()
        })),
    })
}

/// An address to listen on; `::` takes IPv4 too.
fn bind_address(ip: IpAddr, port: u16) -> Option<core::Address> {
    Some(core::Address {
        address: Some(core::address::Address::SocketAddress(core::SocketAddress {
            address: ip.to_string(),
            ipv4_compat: ip.is_ipv6() && ip.is_unspecified(),
            port_specifier: Some(core::socket_address::PortSpecifier::PortValue(port.into())),
            ..Default::default()
        })),
    })
}

fn inline(text: impl Into<String>) -> Option<core::DataSource> {
    Some(core::DataSource {
        specifier: Some(core::data_source::Specifier::InlineString(text.into())),
        ..Default::default()
    })
}

fn extension<M: Message + Name>(name: &str, config: &M) -> core::TypedExtensionConfig {
    core::TypedExtensionConfig { name: name.to_owned(), typed_config: Some(any(config)) }
}

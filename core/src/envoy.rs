//! Constructors of Envoy's resources, named after what they make. Which resources exist is decided
//! in [`crate::plan`].
//!
//! Names of resources:
//!
//! - Envoy clusters are called `kind/name`: `cluster/tokyo` on the hub,
//!   `store/tokyo-thanos-sidecar0` in tokyo. One with host names leads to others called `dns/…` and
//!   `dns-last/…` (`envoy/dns.rs`).
//! - Secrets are called [`secret::LEAF`] and [`secret::TRUST`].
//! - A listener and its route configuration have the same name.
//!
//! Architecture invariant: no message holds a map of more than one entry, because protobuf maps
//! have no order and a resource's version is the hash of its bytes.

pub mod bootstrap;
pub mod cluster;
mod dns;
mod http_filter;
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

/// The authority by which the hub's Envoy asks for Atlas's web page, whatever the client's was.
pub const ATLAS_AUTHORITY: &str = "atlas";
/// The authority of an HTTP/1.0 request without `Host`. Nothing can have this name (RFC 6761).
const DEFAULT_HOST_FOR_HTTP_10: &str = "no-host.invalid";

/// Packs a message.
pub fn any<M: Message + Name>(message: &M) -> Any {
    Any { type_url: M::type_url(), value: message.encode_to_vec() }
}

fn milliseconds(ms: i64) -> Option<Duration> {
    Some(Duration { seconds: ms / 1000, nanos: i32::try_from(ms % 1000 * 1_000_000).unwrap_or(0) })
}

fn seconds(seconds: i64) -> Option<Duration> {
    milliseconds(seconds * 1000)
}

fn uint32(value: u32) -> Option<UInt32Value> {
    Some(UInt32Value { value })
}

fn bool_value(value: bool) -> Option<BoolValue> {
    Some(BoolValue { value })
}

/// The config source of resources that come over the ADS stream.
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
fn socket_address(host: String, port: u16) -> Option<core::Address> {
    Some(core::Address {
        address: Some(core::address::Address::SocketAddress(core::SocketAddress {
            address: host,
            port_specifier: Some(core::socket_address::PortSpecifier::PortValue(port.into())),
            ..Default::default()
        })),
    })
}

/// A TCP address to listen on. `::` accepts IPv4 too.
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

fn inline_string(text: impl Into<String>) -> Option<core::DataSource> {
    Some(core::DataSource {
        specifier: Some(core::data_source::Specifier::InlineString(text.into())),
        ..Default::default()
    })
}

fn typed_extension<M: Message + Name>(name: &str, config: &M) -> core::TypedExtensionConfig {
    core::TypedExtensionConfig { name: name.to_owned(), typed_config: Some(any(config)) }
}

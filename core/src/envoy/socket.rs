//! TCP socket options of connections between clusters, by the numbers of Linux (`linux/tcp.h`).

use envoy_types::pb::envoy::config::core::v3 as core;

use super::limits::CONNECTION_BUFFER;
use super::timing::Timing;

/// `IPPROTO_TCP`.
const TCP: i64 = 6;
/// `TCP_MAXSEG`: the largest segment that either side sends, in bytes.
const TCP_MAXSEG: i64 = 2;
/// `TCP_USER_TIMEOUT`: how long sent data, or the probe of a keepalive, may stay unacknowledged
/// before the connection is closed, in milliseconds. It holds for the first SYN too.
const TCP_USER_TIMEOUT: i64 = 18;
/// `TCP_NOTSENT_LOWAT`: how many bytes the kernel queues that it hasn't sent yet. What is queued
/// there is sent before anything with a higher priority.
const TCP_NOTSENT_LOWAT: i64 = 25;

/// The largest segment, in bytes. It fits into packets of 1,280 bytes, which every path carries
/// that carries IPv6 (RFC 8200). Where a path carries less than the networks at its ends, and a
/// firewall drops the ICMP messages that say so, connections would be made and then hang at the
/// first certificate.
const LARGEST_SEGMENT: i64 = 1220;

/// The socket options of the side that connects.
pub(super) fn upstream_bind_config(timing: &Timing) -> core::BindConfig {
    core::BindConfig {
        socket_options: vec![
            option(TCP_USER_TIMEOUT, timing.unacknowledged_ms),
            option(TCP_MAXSEG, LARGEST_SEGMENT),
        ],
        ..Default::default()
    }
}

/// The socket options of a listener. Accepted connections inherit them.
pub(super) fn listener_options() -> Vec<core::SocketOption> {
    vec![option(TCP_NOTSENT_LOWAT, CONNECTION_BUFFER.into())]
}

fn option(name: i64, value: i64) -> core::SocketOption {
    core::SocketOption {
        level: TCP,
        name,
        state: core::socket_option::SocketState::StatePrebind.into(),
        value: Some(core::socket_option::Value::IntValue(value)),
        ..Default::default()
    }
}

//! Options of TCP sockets for connections that cross the distance between clusters. They are Linux's, by number
//! (`linux/tcp.h`), as Envoy asks for them. The side that dials sets them; the other side need not know.

use envoy_types::pb::envoy::config::core::v3 as core;

use super::timing::Timing;

/// `IPPROTO_TCP`.
const TCP: i64 = 6;
/// `TCP_MAXSEG`: neither side sends larger segments.
const TCP_MAXSEG: i64 = 2;
/// `TCP_USER_TIMEOUT`: for so many milliseconds what was sent, or a keepalive's probe, may stay without an answer of the other side's
/// kernel, before the connection ends. It holds for the first SYN too.
const TCP_USER_TIMEOUT: i64 = 18;

/// `TCP_NOTSENT_LOWAT`: so many bytes may wait in the kernel before it takes more; what waits there can't be overtaken.
const TCP_NOTSENT_LOWAT: i64 = 25;

/// The largest segment, in bytes: fits into packets of 1,280, which every path carries that carries IPv6 (RFC 8200). Where a path
/// carries less than its ends, somebody must say so by ICMP, and where a firewall drops that, connections are made and then
/// hang at the first certificate.
pub const LARGEST_SEGMENT: i64 = 1220;

/// What a connection over the distance is made with.
pub(super) fn across_the_distance(timing: &Timing) -> core::BindConfig {
    core::BindConfig {
        socket_options: vec![
            option(TCP_USER_TIMEOUT, timing.unanswered_ms),
            option(TCP_MAXSEG, LARGEST_SEGMENT),
        ],
        ..Default::default()
    }
}

/// How a listener answers over the distance; connections inherit it.
pub(super) fn answering_across_the_distance() -> Vec<core::SocketOption> {
    vec![option(TCP_NOTSENT_LOWAT, super::limits::CONNECTION_BUFFER.into())]
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

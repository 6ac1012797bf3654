//! Options of TCP sockets for connections that cross the distance between clusters. They are Linux's, by number
//! (`linux/tcp.h`), as Envoy asks for them. The side that dials sets them; the other side need not know.

use envoy_types::pb::envoy::config::core::v3 as core;

/// `IPPROTO_TCP`.
const TCP: i64 = 6;
/// `TCP_MAXSEG`: neither side sends larger segments.
const TCP_MAXSEG: i64 = 2;
/// `TCP_SYNCNT`: so often an unanswered SYN is sent again.
const TCP_SYNCNT: i64 = 7;

/// The largest segment, in bytes: fits into packets of 1,280, which every path carries that carries IPv6 (RFC 8200). Where a path
/// carries less than its ends, somebody must say so by ICMP, and where a firewall drops that, connections are made and then
/// hang at the first certificate.
pub const LARGEST_SEGMENT: i64 = 1220;
/// A host that is gone is given up after 3 s, however long the handshake as a whole may take: the time for one SYN that is sent again
/// after 1 s and waited for twice as long. (From 6.5 on Linux sends three within that time.)
const SYNS_SENT_AGAIN: i64 = 1;

/// What a connection over the distance is made with.
pub(super) fn across_the_distance() -> core::BindConfig {
    core::BindConfig {
        socket_options: vec![option(TCP_SYNCNT, SYNS_SENT_AGAIN), option(TCP_MAXSEG, LARGEST_SEGMENT)],
        ..Default::default()
    }
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

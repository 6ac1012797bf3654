//! The timeouts of connections between clusters.
//!
//! They follow from the longest round trip that must work, and from when Linux retransmits a lost
//! packet: the first packet of a connection after 1 s (RFC 6298), those of the handshake after
//! three round trips, later ones after two (the tail loss probe of RFC 8985). Each timeout has room
//! for one lost packet. A link that silently drops all packets is found just as soon where the
//! clusters are near to each other, because the timeouts don't depend on the actual distance.

/// The longest round trip that works, in milliseconds: twice that of a geostationary satellite.
pub const LONGEST_ROUND_TRIP_MS: i64 = 1000;
/// A query in flight ends within this time if its link begins to drop all packets.
pub const QUERY_IN_FLIGHT_MS: i64 = 5000;
/// The shortest time after which Linux retransmits.
const SHORTEST_RETRANSMISSION_MS: i64 = 200;
/// What a busy machine may add to each step of a handshake.
const SLACK_MS: i64 = 500;

/// The timeouts of one kind of connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// TCP and TLS handshake together (`connect_timeout`).
    pub connect_ms: i64,
    /// How long sent data may stay unacknowledged (`TCP_USER_TIMEOUT`), counted from its first
    /// retransmission. This finds a link that drops all packets: the other side's kernel
    /// acknowledges at once, whatever else the connection carries.
    pub unacknowledged_ms: i64,
    /// The idle time after which TCP's keepalive sends a probe. Further probes follow three times
    /// as often, but at most once a second.
    pub probe_interval_ms: u32,
    /// From the answer to an HTTP/2 ping to the next ping.
    pub ping_interval_ms: i64,
    /// How long no frame may arrive after a ping. On a slow link the answer waits behind other
    /// data, and a frame takes seconds if its packets are lost twice. So this is long, and finds
    /// only what TCP can't: an Envoy that hangs, or a proxy in between.
    pub ping_timeout_ms: i64,
    /// Between two health checks.
    pub check_interval_ms: i64,
    /// A health check, with the connection that it may need.
    pub check_timeout_ms: i64,
}

impl Timing {
    /// For round trips of at most this time.
    pub const fn for_round_trip(round_trip_ms: i64) -> Self {
        // Two round trips, and three for a lost packet of the TLS handshake.
        let connect_ms = 5 * round_trip_ms + 4 * SLACK_MS;
        Self {
            connect_ms,
            // One round trip, and two for another lost packet.
            unacknowledged_ms: 3 * round_trip_ms + SHORTEST_RETRANSMISSION_MS,
            probe_interval_ms: 1000,
            ping_interval_ms: 750,
            ping_timeout_ms: 10 * round_trip_ms,
            check_interval_ms: 3000,
            check_timeout_ms: connect_ms + round_trip_ms,
        }
    }

    /// How long a request stays in flight on a link of a short round trip that begins to drop all
    /// packets: until the next ping, which Envoy may delay by 15 % of the interval, is
    /// retransmitted and stays unacknowledged.
    pub const fn detects_dead_link_ms(&self) -> i64 {
        self.ping_interval_ms * 115 / 100 + SHORTEST_RETRANSMISSION_MS + self.unacknowledged_ms
    }
}

/// Between the hub's Envoy and those of the clusters, whichever side connects.
pub const BETWEEN_CLUSTERS: Timing = Timing::for_round_trip(LONGEST_ROUND_TRIP_MS);
/// From a cluster's Envoy to the hub's alert entry. Sent data may stay unacknowledged for longer
/// than in [`BETWEEN_CLUSTERS`], because the bodies of posts go in the same direction as the pings.
/// The health check has less time, because until it fails Prometheus waits for the hub, and its
/// other Alertmanagers wait too: it is enough for one round trip with a lost packet on the check's
/// open connection, or for a new connection without a lost packet.
pub const ALERTS: Timing = Timing {
    unacknowledged_ms: 10_000,
    probe_interval_ms: 5000,
    ping_interval_ms: 5000,
    check_timeout_ms: 4000,
    ..BETWEEN_CLUSTERS
};
/// From an Envoy to Atlas. No request waits for this connection.
pub const XDS: Timing = Timing {
    unacknowledged_ms: 10_000,
    probe_interval_ms: 30_000,
    ping_interval_ms: 30_000,
    ping_timeout_ms: 10_000,
    ..BETWEEN_CLUSTERS
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_in_flight_on_a_dead_link_ends_in_time() {
        assert!(
            BETWEEN_CLUSTERS.detects_dead_link_ms() < QUERY_IN_FLIGHT_MS,
            "{BETWEEN_CLUSTERS:?}"
        );
    }

    #[test]
    fn a_lost_packet_is_retransmitted_before_a_timeout() {
        for round_trip in [1, 50, 300, 700, LONGEST_ROUND_TRIP_MS] {
            let timing = Timing::for_round_trip(round_trip);
            // Two round trips, and the longer delay of a lost SYN and a lost ClientHello.
            assert!(timing.connect_ms >= 2 * round_trip + (3 * round_trip).max(1000), "{timing:?}");
            // One round trip, and the probe after two more, or after 200 ms.
            assert!(
                timing.unacknowledged_ms >= round_trip + (2 * round_trip).max(200),
                "{timing:?}"
            );
            assert!(timing.check_timeout_ms >= timing.connect_ms + round_trip, "{timing:?}");
        }
    }
}

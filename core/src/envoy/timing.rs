//! How long Atlas's Envoys wait for the other side of a link that crosses the distance between clusters.
//!
//! All times follow from one number, the longest round trip that they must work with, and from how Linux sends a lost packet
//! again: the first packet of a connection after 1 s (RFC 6298), the next ones after three round trips, later ones after two
//! (RFC 8985, the tail loss probe). Each time has room for one lost packet. A near link is found dead just as soon, since what
//! the times add up to is bounded by what a query in flight may wait, not by the distance.

/// The longest round trip that works, in milliseconds: twice that of a geostationary satellite's link.
pub const LONGEST_ROUND_TRIP_MS: i64 = 1000;
/// A query in flight over a link that goes black ends within this.
pub const QUERY_IN_FLIGHT_MS: i64 = 5000;
/// Linux sends nothing again sooner.
const SHORTEST_RETRANSMISSION_MS: i64 = 200;
/// What a busy machine may add to anything.
const SLACK_MS: i64 = 500;

/// The times of one link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// TCP and TLS handshake together.
    pub connect_ms: i64,
    /// How long what was sent may stay without an answer of the other side's kernel (`TCP_USER_TIMEOUT`), counted from when it
    /// is sent again; the first SYN's, a ping's, and a probe's of TCP's keepalive. Kernels answer at once, so it doesn't matter
    /// what else is under way. This is what finds a black link.
    pub unanswered_ms: i64,
    /// After so much silence TCP's keepalive asks the other side's kernel, and then three times as often, each second at most.
    pub probe_interval_ms: u32,
    /// Between an answer to an HTTP/2 ping and the next ping.
    pub ping_interval_ms: i64,
    /// For how long no frame may arrive on a connection after a ping. On a slow link the answer waits behind what is under way, and
    /// a frame takes seconds where packets are lost twice, so this finds only what TCP can't: an Envoy that hangs, or a proxy
    /// between.
    pub ping_timeout_ms: i64,
    /// Between two health checks.
    pub check_interval_ms: i64,
    /// A health check with the connection that it may need.
    pub check_timeout_ms: i64,
}

impl Timing {
    /// For links whose round trip takes up to so long.
    pub const fn for_round_trip(round_trip_ms: i64) -> Self {
        // Two round trips; a lost packet of the TLS handshake costs three more.
        let connect_ms = 5 * round_trip_ms + 4 * SLACK_MS;
        Self {
            connect_ms,
            // One round trip; another lost packet costs two more.
            unanswered_ms: 3 * round_trip_ms + SHORTEST_RETRANSMISSION_MS,
            probe_interval_ms: 1000,
            ping_interval_ms: 750,
            ping_timeout_ms: 10 * round_trip_ms,
            check_interval_ms: 3000,
            check_timeout_ms: connect_ms + round_trip_ms,
        }
    }

    /// How long a link near by may be black before a request in flight on it ends. The next ping, of which Envoy may put off the
    /// interval by 15 %, is sent again after 200 ms, and then counts as unanswered.
    pub const fn black_for_ms(&self) -> i64 {
        self.ping_interval_ms * 115 / 100 + SHORTEST_RETRANSMISSION_MS + self.unanswered_ms
    }
}

/// Between the hub's Envoy and those of the clusters, whichever side dials.
pub const BETWEEN_CLUSTERS: Timing = Timing::for_round_trip(LONGEST_ROUND_TRIP_MS);
/// From a cluster's Envoy to the hub's alert entry: as above, but what is sent may take longer, since here the bodies go the way of
/// the pings. Until a hub that is silent is known to be away, Prometheus waits for it and its other Alertmanagers wait too, so the
/// check has less time: one round trip with a lost packet on its own connection, or a new connection without one.
pub const ALERTS: Timing = Timing {
    unanswered_ms: 10_000,
    probe_interval_ms: 5000,
    ping_interval_ms: 5000,
    check_timeout_ms: 4000,
    ..BETWEEN_CLUSTERS
};
/// From an Envoy to Atlas: nobody waits for what comes on it.
pub const XDS: Timing = Timing {
    unanswered_ms: 10_000,
    probe_interval_ms: 30_000,
    ping_interval_ms: 30_000,
    ping_timeout_ms: 10_000,
    ..BETWEEN_CLUSTERS
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_in_flight_ends_in_time_however_far_links_may_be() {
        assert!(BETWEEN_CLUSTERS.black_for_ms() < QUERY_IN_FLIGHT_MS, "{BETWEEN_CLUSTERS:?}");
    }

    #[test]
    fn a_lost_packet_is_sent_again_before_anything_ends() {
        for round_trip in [1, 50, 300, 700, LONGEST_ROUND_TRIP_MS] {
            let timing = Timing::for_round_trip(round_trip);
            // Two round trips, and the longer of what a lost SYN and a lost ClientHello cost.
            assert!(timing.connect_ms >= 2 * round_trip + (3 * round_trip).max(1000), "{timing:?}");
            // One round trip, and the probe after two; with a timer of at least 200 ms.
            assert!(timing.unanswered_ms >= round_trip + (2 * round_trip).max(200), "{timing:?}");
            assert!(timing.check_timeout_ms >= timing.connect_ms + round_trip, "{timing:?}");
        }
    }
}

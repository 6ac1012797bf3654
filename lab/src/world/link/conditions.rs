//! Decides for each packet of a link whether and when it arrives, without a clock or a device of
//! its own.

use std::time::{Duration, Instant};

/// Bytes of an Ethernet frame's header.
const ETHERNET_HEADER: usize = 14;
/// EtherTypes.
const ARP: [u8; 2] = [0x08, 0x06];
const IPV6: [u8; 2] = [0x86, 0xdd];
/// The next header of ICMPv6, and its types from router solicitation to redirect (RFC 4861).
const ICMPV6: u8 = 58;
const NEIGHBOUR_DISCOVERY: std::ops::RangeInclusive<u8> = 133..=137;

/// The conditions of one direction of a link.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Conditions {
    /// One-way delay of a packet.
    pub delay: Duration,
    /// The part of all packets that is lost, 0 to 1.
    pub loss: f64,
    /// The rate in bytes of packets per second; `None`: unlimited.
    pub bytes_per_second: Option<u64>,
    /// How many bytes may be queued if the rate is limited. Further packets are lost.
    pub queue_bytes: usize,
    /// The largest packet that passes, in bytes with its IP header. Larger ones are lost without an
    /// ICMP message, as behind a firewall that drops ICMP.
    pub largest_packet: Option<usize>,
    /// Whether all packets are lost.
    pub black: bool,
}

impl Default for Conditions {
    fn default() -> Self {
        Self {
            delay: Duration::ZERO,
            loss: 0.0,
            bytes_per_second: None,
            queue_bytes: 1 << 20,
            largest_packet: None,
            black: false,
        }
    }
}

/// The packet counts of one direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Packets that passed.
    pub passed: u64,
    /// Bytes of the packets that passed.
    pub passed_bytes: u64,
    /// Lost at random.
    pub lost: u64,
    /// Lost because all packets are lost.
    pub blackened: u64,
    /// Lost because they were larger than the largest packet.
    pub too_large: u64,
    /// Lost because the queue was full.
    pub overflowed: u64,
}

/// The state of one direction.
#[derive(Debug)]
pub(super) struct Lane {
    random: fastrand::Rng,
    /// When the link has sent the last accepted packet.
    free: Option<Instant>,
    /// When the last accepted packet arrives.
    last_out: Option<Instant>,
    pub(super) counts: Counts,
}

impl Lane {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            random: fastrand::Rng::with_seed(seed),
            free: None,
            last_out: None,
            counts: Counts::default(),
        }
    }

    /// When a frame that is sent `now` arrives at the other end; `None`: it is lost. Frames never
    /// overtake each other.
    pub(super) fn admit(
        &mut self,
        now: Instant,
        conditions: &Conditions,
        frame: &[u8],
    ) -> Option<Instant> {
        let size = frame.len().saturating_sub(ETHERNET_HEADER);
        // Drawn for every frame, so that a seed always loses the same frames, independent of other
        // conditions.
        let drawn = self.random.f64();
        let lost = if conditions.black {
            Some(&mut self.counts.blackened)
        } else if conditions.largest_packet.is_some_and(|largest| size > largest) {
            Some(&mut self.counts.too_large)
        } else if drawn < conditions.loss {
            Some(&mut self.counts.lost)
        } else {
            None
        };
        if let Some(count) = lost {
            *count += 1;
            return None;
        }
        let start = self.free.map_or(now, |free| free.max(now));
        let gone = match conditions.bytes_per_second {
            Some(rate) => {
                let waiting = (start - now).as_secs_f64() * as_f64(rate);
                if waiting > as_f64(conditions.queue_bytes as u64) {
                    self.counts.overflowed += 1;
                    return None;
                }
                start + Duration::from_secs_f64(as_f64(size as u64) / as_f64(rate.max(1)))
            }
            None => now,
        };
        self.free = Some(gone);
        let out = (gone + conditions.delay).max(self.last_out.unwrap_or(now));
        self.last_out = Some(out);
        self.counts.passed += 1;
        self.counts.passed_bytes += size as u64;
        Some(out)
    }
}

#[expect(clippy::cast_precision_loss, reason = "bytes per second and in queues, far below 2^52")]
fn as_f64(number: u64) -> f64 {
    number as f64
}

/// Whether a frame is ARP or neighbour discovery. In a real network these pass between a machine
/// and its router only.
pub(super) fn is_between_neighbours(frame: &[u8]) -> bool {
    let Some(ether_type) = frame.get(12..14) else { return false };
    let of_icmpv6 = || {
        frame.get(20) == Some(&ICMPV6)
            && frame.get(54).is_some_and(|kind| NEIGHBOUR_DISCOVERY.contains(kind))
    };
    ether_type == ARP || (ether_type == IPV6 && of_icmpv6())
}

#[cfg(test)]
mod tests {
    use super::*;

    const FRAME: [u8; 1014] = [0; 1014];

    #[test]
    fn a_seed_always_loses_the_same_packets_and_about_as_many_as_it_should() {
        let conditions = Conditions { loss: 0.01, ..Conditions::default() };
        let now = Instant::now();
        let lost = |seed| {
            let mut lane = Lane::new(seed);
            (0..100_000).filter(|_| lane.admit(now, &conditions, &FRAME).is_none()).count()
        };
        assert_eq!(lost(7), lost(7));
        assert!((800..1200).contains(&lost(7)), "{}", lost(7));
        assert_ne!(lost(7), lost(8));
    }

    #[test]
    fn a_rate_makes_packets_wait_and_the_queue_is_bounded() {
        let conditions = Conditions {
            delay: Duration::from_millis(100),
            bytes_per_second: Some(10_000),
            queue_bytes: 5_000,
            ..Conditions::default()
        };
        let (mut lane, now) = (Lane::new(1), Instant::now());
        let outs: Vec<_> = (0..20)
            .filter_map(|_| lane.admit(now, &conditions, &FRAME))
            .map(|out| (out - now).as_millis())
            .collect();
        // 1,000 bytes take 100 ms; 5,000 bytes are queued beside the packet that is being sent.
        assert_eq!(outs, [200, 300, 400, 500, 600, 700]);
        assert_eq!(
            lane.counts,
            Counts { passed: 6, passed_bytes: 6000, overflowed: 14, ..Counts::default() }
        );
    }

    #[test]
    fn a_shorter_delay_lets_nobody_overtake() {
        let (mut lane, now) = (Lane::new(1), Instant::now());
        let far = Conditions { delay: Duration::from_secs(1), ..Conditions::default() };
        let first = lane.admit(now, &far, &FRAME).unwrap();
        assert_eq!(lane.admit(now, &Conditions::default(), &FRAME), Some(first));
    }

    #[test]
    fn oversized_and_blacked_out_packets_are_counted_apart() {
        let (mut lane, now) = (Lane::new(1), Instant::now());
        let narrow =
            |largest| Conditions { largest_packet: Some(largest), ..Conditions::default() };
        assert!(lane.admit(now, &narrow(999), &FRAME).is_none());
        assert!(lane.admit(now, &narrow(1000), &FRAME).is_some());
        assert!(lane.admit(now, &Conditions { black: true, ..narrow(1) }, &FRAME).is_none());
        assert_eq!(
            lane.counts,
            Counts {
                passed: 1,
                passed_bytes: 1000,
                too_large: 1,
                blackened: 1,
                ..Counts::default()
            }
        );
    }

    #[test]
    fn neighbours_are_asked_for_in_two_ways() {
        let mut frame = [0; 60];
        assert!(!is_between_neighbours(&frame));
        frame[12..14].copy_from_slice(&ARP);
        assert!(is_between_neighbours(&frame));
        frame[12..14].copy_from_slice(&IPV6);
        assert!(!is_between_neighbours(&frame));
        (frame[20], frame[54]) = (ICMPV6, 135);
        assert!(is_between_neighbours(&frame));
        frame[54] = 128;
        assert!(!is_between_neighbours(&frame), "an echo request");
    }
}

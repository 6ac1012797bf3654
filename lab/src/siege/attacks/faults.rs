//! Faults without an attacker: a dead address, a silent hub, an Alertmanager that hangs.

use std::net::SocketAddr;
use std::sync::PoisonError;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use super::super::attackers::AttackCounts;
use super::super::clients::HonestClient;
use super::super::topology::SiegeTopology;
use super::super::{Attack, all_clients, without_hub_alerts, without_second_alertmanager};
use crate::http::Request;

/// When a silent hub must have been noticed: a health check is made every 3 s and times out after
/// 4 s, and a busy machine takes longer for both.
const HUB_FAILOVER: Duration = Duration::from_secs(12);
/// When a stalled replica must have been noticed: a post times out after 5 s.
const REPLICA_FAILOVER: Duration = Duration::from_secs(8);
/// How long local alerting is watched after that. Longer than it may take, so that a wait for the
/// hub can't end by itself in this time.
const MIN_WATCH_TIME: Duration = Duration::from_secs(12);
/// How long a failing post may take after that: three times the second that Atlas promises.
const MAX_FAILURE_TIME: Duration = Duration::from_secs(3);
/// Clients of the store whose address dies.
const CONCURRENT_REQUESTS: usize = 20;

pub(super) const ATTACKS: &[Attack] = &[
    Attack {
        name: "dead-address",
        does: "one of tokyo's two Envoys is cut off and comes back, while its store is asked 20 times at once",
        bound: "20 requests at a time",
        min_duration: Duration::from_secs(6),
        clients: all_clients_and_twenty,
        run_attack: dead_address,
    },
    Attack {
        name: "silent-hub",
        does: "10903 drops every packet, while tokyo's Prometheus sends 320 alerts there and to its own Alertmanager",
        bound: "10903 of one hub Envoy",
        min_duration: HUB_FAILOVER.saturating_add(MIN_WATCH_TIME),
        clients: without_hub_alerts,
        run_attack: silent_hub,
    },
    Attack {
        name: "stalled-alertmanager",
        does: "one of the hub's two Alertmanagers hangs (SIGSTOP)",
        bound: "one process",
        min_duration: REPLICA_FAILOVER.saturating_add(MIN_WATCH_TIME),
        clients: without_second_alertmanager,
        run_attack: stalled_alertmanager,
    },
];

/// All clients, and 20 more of the store whose address dies.
fn all_clients_and_twenty() -> Vec<HonestClient> {
    all_clients().into_iter().chain([HonestClient::Store("tokyo"); CONCURRENT_REQUESTS]).collect()
}

fn dead_address(topology: &SiegeTopology, until: Instant) -> Result<AttackCounts> {
    let (host, _) = &topology.tokyo_b;
    let third = until.saturating_duration_since(Instant::now()) / 3;
    std::thread::sleep(third);
    host.link_down()?;
    std::thread::sleep(third);
    host.link_up()?;
    std::thread::sleep(third);
    Ok(AttackCounts { opened: 1, ..AttackCounts::default() })
}

fn silent_hub(topology: &SiegeTopology, until: Instant) -> Result<AttackCounts> {
    let hub = &topology.hub.place.host;
    hub.drop_port(10903)?;
    let posted = post_to_silent(topology, 0, HUB_FAILOVER, until);
    hub.pass_port(10903)?;
    posted
}

fn stalled_alertmanager(topology: &SiegeTopology, until: Instant) -> Result<AttackCounts> {
    let mut second = topology.second_alertmanager.lock().unwrap_or_else(PoisonError::into_inner);
    second.process.pause()?;
    let posted = post_to_silent(topology, 1, REPLICA_FAILOVER, until);
    second.process.resume()?;
    posted
}

/// Posts `paris`'s alerts to an Alertmanager that doesn't answer. From `failover_after` on, each
/// post must fail within [`MAX_FAILURE_TIME`].
fn post_to_silent(
    topology: &SiegeTopology,
    index: usize,
    failover_after: Duration,
    until: Instant,
) -> Result<AttackCounts> {
    let deadline = Instant::now() + failover_after;
    let set_deadline =
        |value| *topology.failover_deadline.lock().unwrap_or_else(PoisonError::into_inner) = value;
    set_deadline(Some(deadline));
    let place = &topology.paris.place;
    let url = format!(
        "http://{}/alertmanager/{index}/api/v2/alerts",
        SocketAddr::new(place.envoy, 11903)
    );
    let mut counts = AttackCounts::default();
    while Instant::now() < until {
        let sent = Instant::now();
        let request = || {
            Request::new("POST", url.as_str())?
                .header("content-type", "application/json")
                .body("[]")
                .send()
        };
        let answer = place.host.within(request);
        counts.opened += 1;
        counts.refused += u64::from(answer.is_ok_and(|answer| answer.status >= 500));
        counts.late += u64::from(sent > deadline && sent.elapsed() > MAX_FAILURE_TIME);
        std::thread::sleep(Duration::from_millis(200));
    }
    set_deadline(None);
    ensure!(counts.opened > 0, "no alert was posted");
    Ok(counts)
}

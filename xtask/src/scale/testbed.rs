//! A server with all its clients connected, on which cases are measured.

mod change;
mod verify;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use atlas_lab::world::World;
use tokio::sync::mpsc;

use super::case::Case;
use super::client::{Acknowledgement, Client, Identity, ReceivedResources, Shared, StreamCounts};
use super::fleet::{self, Fleet};
use super::hub::HubEnvoy;
use super::recording::{NodeChange, RecordedChanges, Recording, difference, write_resources};
use super::server::{Atlas, Peer, Process};
use super::table::{Row, ms, percentile};
use super::{ATLAS, BEHIND_HUB, PEER, Variant, tls};

/// How long no message must come before the servers are regarded as idle.
const QUIET: Duration = Duration::from_millis(400);
/// Time limit of every wait.
const LIMIT: Duration = Duration::from_secs(120);
/// How many clients connect at the same time at the start.
const MAX_CONNECTING: usize = 200;

enum Server {
    Atlas(Box<Atlas>, Fleet),
    Peer {
        peer: Box<Peer>,
        recorded: std::vec::IntoIter<(Case, usize, Vec<NodeChange>)>,
        dir: PathBuf,
        loaded: usize,
    },
}

/// A server and its connected clients.
pub struct Testbed {
    server: Server,
    /// The hub Envoy that the clusters' streams pass, if there is one.
    hub: Option<HubEnvoy>,
    state: PathBuf,
    clusters: usize,
    variant: Variant,
    /// The hub's client first, then the clusters'.
    clients: Vec<Client>,
    shared: Arc<Shared>,
    acknowledgements: mpsc::UnboundedReceiver<Acknowledgement>,
    /// Each client's resources at the start.
    before: Vec<(String, ReceivedResources)>,
    recorded: RecordedChanges,
    /// The address of each cluster that the hub must have, and of no other.
    expected: BTreeMap<String, String>,
    /// Clusters added so far.
    added: usize,
    /// Edits made so far.
    edits: usize,
    /// Alertmanagers of the hub at present.
    alertmanagers: usize,
}

impl Testbed {
    /// Starts Atlas on a new fleet, with the state that `dir` has. With a world, behind a hub
    /// Envoy.
    pub async fn atlas(
        program: &Path,
        dir: &Path,
        clusters: usize,
        variant: Variant,
        world: Option<&World>,
    ) -> Result<Self> {
        let from = dir.join("clusters");
        // Manifests of an earlier run.
        let _ = std::fs::remove_dir_all(&from);
        let fleet = Fleet::write(&from, clusters)?;
        eprintln!("  starting atlas");
        let atlas = tokio::task::block_in_place(|| Atlas::start(program, dir, clusters))?;
        let (own, state) = (atlas.address(), atlas.state.clone());
        let start = |world| {
            HubEnvoy::start(world, &state, &format!("hub-envoy-{clusters}-{}", variant.name()))
        };
        let hub = tokio::task::block_in_place(|| world.map(start).transpose())?;
        let address = hub.as_ref().map_or(own, HubEnvoy::address);
        Self::connect(Server::Atlas(Box::new(atlas), fleet), hub, address, state, clusters, variant)
            .await
    }

    /// Starts the peer with the resources that Atlas made.
    pub async fn peer(
        program: &Path,
        changes: Recording,
        state: &Path,
        dir: &Path,
        clusters: usize,
        variant: Variant,
    ) -> Result<Self> {
        let _ = std::fs::remove_dir_all(dir);
        std::fs::create_dir_all(dir)?;
        for (node, has) in &changes.before {
            write_resources(&dir.join(format!("{node}.set")), has, &[])?;
        }
        eprintln!("  starting {PEER}");
        let peer = tokio::task::block_in_place(|| Peer::start(program, dir, state))?;
        let address = peer.address();
        let server = Server::Peer {
            peer: Box::new(peer),
            recorded: changes.recorded.into_iter(),
            dir: dir.to_owned(),
            loaded: 0,
        };
        Self::connect(server, None, address, state.to_owned(), clusters, variant).await
    }

    async fn connect(
        server: Server,
        hub: Option<HubEnvoy>,
        address: SocketAddr,
        state: PathBuf,
        clusters: usize,
        variant: Variant,
    ) -> Result<Self> {
        let (sender, acknowledgements) = mpsc::unbounded_channel();
        let shared = Arc::new(Shared {
            counts: StreamCounts::default(),
            start: Instant::now(),
            acknowledgements: sender,
        });
        let mut clients = Vec::with_capacity(clusters + 1);
        for node in ["hub".to_owned()].into_iter().chain((0..clusters).map(fleet::name)) {
            let routes: &[&str] =
                if node == "hub" { &["stores", "alerts", "web"] } else { &["inbound", "alerts"] };
            let identity = Identity {
                secrets: vec!["leaf".into(), "trust".into()],
                routes: routes.iter().map(|&route| route.to_owned()).collect(),
                server: address,
                tls: Some(tls::connector(&state.join("nodes").join(&node))?),
                variant,
                node,
            };
            let number = clients.len();
            clients.push(Client::start(number, identity, Arc::clone(&shared)));
            if clients.len() % MAX_CONNECTING == 0 {
                wait(&format!("the first {} clients", clients.len()), || {
                    clients.iter().all(Client::is_answered)
                })
                .await?;
                eprintln!("  {} of {} clients are connected", clients.len(), clusters + 1);
            }
        }
        let mut testbed = Self {
            server,
            hub,
            state,
            clusters,
            variant,
            clients,
            shared,
            acknowledgements,
            before: Vec::new(),
            recorded: Vec::new(),
            expected: (0..clusters).map(|n| (fleet::name(n), fleet::address(n))).collect(),
            added: 0,
            edits: 0,
            alertmanagers: 2,
        };
        wait("all clients", || testbed.clients.iter().all(Client::is_answered)).await?;
        testbed.wait_quiet().await?;
        testbed.verify("at first")?;
        testbed.before = testbed
            .clients
            .iter()
            .map(|client| (client.identity.node.clone(), client.lock().clone()))
            .collect();
        eprintln!(
            "  everyone has everything: {:.1} MiB",
            testbed.process().resident() as f64 / 1_048_576.0
        );
        if let Some(hub) = &testbed.hub {
            eprintln!("  the hub's Envoy has {:.1} MiB", hub.resident() as f64 / 1_048_576.0);
        }
        Ok(testbed)
    }

    fn process(&mut self) -> &mut Process {
        match &mut self.server {
            Server::Atlas(atlas, _) => &mut atlas.process,
            Server::Peer { peer, .. } => &mut peer.process,
        }
    }

    /// Stops the clients and the server; returns the recording for the peer, and the state
    /// directory.
    pub async fn end(mut self) -> Result<(Recording, PathBuf)> {
        self.clients.clear();
        tokio::task::block_in_place(|| self.process().stop())?;
        Ok((Recording { before: self.before, recorded: self.recorded }, self.state))
    }

    /// Waits until no message has come for [`QUIET`], and drops the acknowledgements.
    async fn wait_quiet(&mut self) -> Result<()> {
        let deadline = Instant::now() + LIMIT;
        loop {
            let last = self.shared.start
                + Duration::from_nanos(self.shared.counts.last.load(Ordering::Relaxed));
            if last.elapsed() > QUIET {
                while self.acknowledgements.try_recv().is_ok() {}
                return Ok(());
            }
            ensure!(Instant::now() < deadline, "there are messages without end");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Measures one case; returns its row of the table.
    pub async fn run(&mut self, case: Case, repeats: u32) -> Result<Row> {
        let tenth = repeats.div_ceil(10);
        let repeats =
            if matches!(case, Case::Add | Case::Edit | Case::Remove) { repeats } else { tenth };
        eprintln!("  {}: {repeats} times", case.name());
        let counts = |shared: &Shared| {
            (
                shared.counts.messages.load(Ordering::Relaxed),
                shared.counts.bytes.load(Ordering::Relaxed),
            )
        };
        let (mut times, mut cpu, mut messages, mut bytes) = (Vec::new(), Duration::ZERO, 0, 0);
        for n in 0..repeats {
            self.wait_quiet().await?;
            let (cpu_before, before) = (self.process().cpu(), counts(&self.shared));
            let resource: Vec<(String, ReceivedResources)> = self.resources_before(case);
            match case {
                Case::Reconnect | Case::Restart => times.extend(self.reconnect_all(case).await?),
                _ => times.extend(self.make_change(case, n as usize).await?),
            }
            self.wait_quiet().await?;
            let cpu_after = self.process().cpu();
            // A restarted process's CPU time starts at 0.
            cpu += if case == Case::Restart {
                cpu_after
            } else {
                cpu_after.saturating_sub(cpu_before)
            };
            let after = counts(&self.shared);
            (messages, bytes) = (messages + after.0 - before.0, bytes + after.1 - before.1);
            self.record(case, n as usize, resource);
        }
        times.sort();
        let rss_bytes = self.process().resident();
        let each = f64::from(repeats);
        Ok(Row {
            server: match (&self.server, &self.hub) {
                (Server::Atlas(..), Some(_)) => BEHIND_HUB.into(),
                (Server::Atlas(..), None) => ATLAS.into(),
                (Server::Peer { .. }, _) => PEER.into(),
            },
            variant: self.variant.name().into(),
            clusters: self.clusters,
            case: case.name().into(),
            messages: messages as f64 / each,
            bytes: (bytes as f64 / each).round(),
            p50_ms: ms(percentile(&times, 0.5)),
            p99_ms: ms(percentile(&times, 0.99)),
            max_ms: ms(percentile(&times, 1.0)),
            cpu_ms: ms(cpu.div_f64(each)),
            rss_bytes,
        })
    }

    /// The present resources of the clients that a change will affect, for the recording.
    fn resources_before(&self, case: Case) -> Vec<(String, ReceivedResources)> {
        let affected = match case {
            _ if matches!(self.server, Server::Peer { .. }) => 0,
            Case::Reconnect | Case::Restart => 0,
            Case::Alertmanager => self.clients.len(),
            _ => 1,
        };
        self.clients
            .iter()
            .take(affected)
            .map(|client| (client.identity.node.clone(), client.lock().clone()))
            .collect()
    }

    fn record(&mut self, case: Case, n: usize, before: Vec<(String, ReceivedResources)>) {
        if !before.is_empty() {
            let differences =
                self.clients.iter().zip(before).filter_map(|(client, (node, before))| {
                    difference(node, &before, &client.lock())
                });
            self.recorded.push((case, n, differences.collect()));
        }
    }
}

async fn wait(what: &str, is_so: impl Fn() -> bool) -> Result<()> {
    let deadline = Instant::now() + LIMIT;
    while !is_so() {
        ensure!(Instant::now() < deadline, "{what} were not answered within {LIMIT:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    Ok(())
}

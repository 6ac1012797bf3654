//! The cases, each against one server.

use std::collections::{BTreeMap, HashSet};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use atlas_lab::world::World;
use clap::ValueEnum;
use tokio::sync::mpsc;

use super::client::{
    CLUSTER, Client, Counts, Has, Heard, Identity, LISTENER, ROUTE, SECRET, Shared, TYPES,
};
use super::fleet::{self, Fleet};
use super::hub::Hub;
use super::recording::{Changes, NodeChange, Recorded, difference, write_resources};
use super::server::{Atlas, Peer, Process};
use super::table::{Row, ms, percentile};
use super::{ATLAS, BEHIND_HUB, PEER, Variant, tls};

/// Without a message for so long, everything is quiet.
const QUIET: Duration = Duration::from_millis(400);
/// Nothing takes so long.
const LIMIT: Duration = Duration::from_secs(120);
/// So many connect at a time at first.
const AT_ONCE: usize = 200;

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Case {
    /// A new cluster: until the hub has acknowledged its resources.
    Add,
    /// Another address of a cluster: until the hub has acknowledged it.
    Edit,
    /// A cluster goes: until the hub has acknowledged that.
    Remove,
    /// One Alertmanager more or less on the hub: until everyone has acknowledged it.
    Alertmanager,
    /// All connections break at once: until everyone is in sync again.
    Reconnect,
    /// The server restarts: until everyone is in sync again.
    Restart,
}

impl Case {
    fn name(self) -> &'static str {
        match self {
            Case::Add => "add",
            Case::Edit => "edit",
            Case::Remove => "remove",
            Case::Alertmanager => "alertmanager",
            Case::Reconnect => "reconnect",
            Case::Restart => "restart",
        }
    }
}

enum Server {
    Atlas(Box<Atlas>, Fleet),
    Peer {
        peer: Box<Peer>,
        recorded: std::vec::IntoIter<(Case, usize, Vec<NodeChange>)>,
        dir: PathBuf,
        loaded: usize,
    },
}

/// A server with everybody connected.
pub struct Bench {
    server: Server,
    /// What the clusters' streams go through.
    hub: Option<Hub>,
    state: PathBuf,
    clusters: usize,
    variant: Variant,
    /// The hub first.
    clients: Vec<Client>,
    shared: Arc<Shared>,
    heard: mpsc::UnboundedReceiver<Heard>,
    before: Vec<(String, Has)>,
    recorded: Recorded,
    /// Where each cluster is: what the hub must know, and nothing else.
    expected: BTreeMap<String, String>,
    /// How many clusters have been added, edits made, Alertmanagers there are.
    added: usize,
    edits: usize,
    alertmanagers: usize,
}

impl Bench {
    /// Atlas, on a new fleet or the one that is there; with a world, behind a hub Envoy.
    pub async fn atlas(
        program: &Path,
        dir: &Path,
        clusters: usize,
        variant: Variant,
        world: Option<&World>,
    ) -> Result<Self> {
        let from = dir.join("clusters");
        // Of an earlier run.
        let _ = std::fs::remove_dir_all(&from);
        let fleet = Fleet::write(&from, clusters)?;
        eprintln!("  starting atlas");
        let atlas = tokio::task::block_in_place(|| Atlas::start(program, dir, clusters))?;
        let (own, state) = (atlas.address(), atlas.state.clone());
        let start =
            |world| Hub::start(world, &state, &format!("hub-envoy-{clusters}-{}", variant.name()));
        let hub = tokio::task::block_in_place(|| world.map(start).transpose())?;
        let address = hub.as_ref().map_or(own, Hub::address);
        Self::connect(Server::Atlas(Box::new(atlas), fleet), hub, address, state, clusters, variant)
            .await
    }

    /// The other server, with the resources that Atlas made.
    pub async fn peer(
        program: &Path,
        changes: Changes,
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
        hub: Option<Hub>,
        address: SocketAddr,
        state: PathBuf,
        clusters: usize,
        variant: Variant,
    ) -> Result<Self> {
        let (ring, heard) = mpsc::unbounded_channel();
        let shared =
            Arc::new(Shared { counts: Counts::default(), start: Instant::now(), heard: ring });
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
            if clients.len() % AT_ONCE == 0 {
                wait(&format!("the first {} clients", clients.len()), || {
                    clients.iter().all(Client::is_answered)
                })
                .await?;
                eprintln!("  {} of {} clients are connected", clients.len(), clusters + 1);
            }
        }
        let mut bench = Self {
            server,
            hub,
            state,
            clusters,
            variant,
            clients,
            shared,
            heard,
            before: Vec::new(),
            recorded: Vec::new(),
            expected: (0..clusters).map(|n| (fleet::name(n), fleet::address(n))).collect(),
            added: 0,
            edits: 0,
            alertmanagers: 2,
        };
        wait("all clients", || bench.clients.iter().all(Client::is_answered)).await?;
        bench.quiet().await?;
        bench.verify("at first")?;
        bench.before = bench
            .clients
            .iter()
            .map(|client| (client.identity.node.clone(), client.lock().clone()))
            .collect();
        eprintln!(
            "  everyone has everything: {:.1} MiB",
            bench.process().resident() as f64 / 1_048_576.0
        );
        if let Some(hub) = &bench.hub {
            eprintln!("  the hub's Envoy has {:.1} MiB", hub.resident() as f64 / 1_048_576.0);
        }
        Ok(bench)
    }

    fn process(&mut self) -> &mut Process {
        match &mut self.server {
            Server::Atlas(atlas, _) => &mut atlas.process,
            Server::Peer { peer, .. } => &mut peer.process,
        }
    }

    /// Ends everything; returns what another server needs.
    pub async fn end(mut self) -> Result<(Changes, PathBuf)> {
        self.clients.clear();
        tokio::task::block_in_place(|| self.process().stop())?;
        Ok((Changes { before: self.before, recorded: self.recorded }, self.state))
    }

    /// Waits until there has been no message for a while, and forgets what was heard.
    async fn quiet(&mut self) -> Result<()> {
        let deadline = Instant::now() + LIMIT;
        loop {
            let last = self.shared.start
                + Duration::from_nanos(self.shared.counts.last.load(Ordering::Relaxed));
            if last.elapsed() > QUIET {
                while self.heard.try_recv().is_ok() {}
                return Ok(());
            }
            ensure!(Instant::now() < deadline, "there are messages without end");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Measures one case.
    pub async fn run(&mut self, case: Case, repeats: u32) -> Result<Row> {
        let few = repeats.div_ceil(10);
        let repeats =
            if matches!(case, Case::Add | Case::Edit | Case::Remove) { repeats } else { few };
        eprintln!("  {}: {repeats} times", case.name());
        let counts = |shared: &Shared| {
            (
                shared.counts.messages.load(Ordering::Relaxed),
                shared.counts.bytes.load(Ordering::Relaxed),
            )
        };
        let (mut times, mut cpu, mut messages, mut bytes) = (Vec::new(), Duration::ZERO, 0, 0);
        for n in 0..repeats {
            self.quiet().await?;
            let (cpu_before, before) = (self.process().cpu(), counts(&self.shared));
            let held: Vec<(String, Has)> = self.held_before(case);
            match case {
                Case::Reconnect | Case::Restart => times.extend(self.come_back(case).await?),
                _ => times.extend(self.change(case, n as usize).await?),
            }
            self.quiet().await?;
            let cpu_after = self.process().cpu();
            // A restarted process begins at nothing.
            cpu += if case == Case::Restart {
                cpu_after
            } else {
                cpu_after.saturating_sub(cpu_before)
            };
            let after = counts(&self.shared);
            (messages, bytes) = (messages + after.0 - before.0, bytes + after.1 - before.1);
            self.record(case, n as usize, held);
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

    /// Makes one change; returns how long each client took that had to hear of it.
    async fn change(&mut self, case: Case, n: usize) -> Result<Vec<Duration>> {
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
                fleet::edited(self.edits)
            } else {
                fleet::address(self.clusters + n)
            },
            self.alertmanagers,
        );
        let concerned = if case == Case::Alertmanager { self.clients.len() } else { 1 };
        let versions: Vec<Has> = if concerned > 1 {
            self.clients.iter().map(|client| routes_of(&client.lock())).collect()
        } else {
            Vec::new()
        };
        let began = self.order(case, n, &name, &address, alertmanagers)?;
        let done = |client: &Client, number: usize| {
            let has = client.lock();
            let on_hub = has[CLUSTER].get(&Fleet::on_hub(&name));
            match case {
                Case::Add => on_hub.is_some(),
                Case::Remove => on_hub.is_none(),
                Case::Edit => on_hub.is_some_and(|held| contains(&held.body.value, &address)),
                _ => versions
                    .get(number)
                    .is_some_and(|before| before[ROUTE].get("alerts") != has[ROUTE].get("alerts")),
            }
        };
        let mut times = Vec::with_capacity(concerned);
        let mut finished = HashSet::new();
        while times.len() < concerned {
            let heard = tokio::time::timeout(LIMIT, self.heard.recv()).await;
            let Ok(Some(heard)) = heard else {
                bail!(
                    "{}: {} of {concerned} clients have heard of {name} within {LIMIT:?}",
                    case.name(),
                    times.len()
                );
            };
            let client =
                self.clients.get(heard.client).context("BUG: a client that isn't there")?;
            if heard.client < concerned
                && !finished.contains(&heard.client)
                && done(client, heard.client)
            {
                finished.insert(heard.client);
                times.push(heard.at.saturating_duration_since(began));
            }
        }
        if let Server::Peer { peer, .. } = &mut self.server {
            tokio::task::block_in_place(|| peer.answer())?;
        }
        self.quiet().await?;
        match case {
            Case::Add | Case::Edit => _ = self.expected.insert(name, address),
            Case::Remove => _ = self.expected.remove(&name),
            _ => {}
        }
        self.verify(case.name())?;
        Ok(times)
    }

    /// Tells the server of a change; returns when.
    fn order(
        &mut self,
        case: Case,
        n: usize,
        name: &str,
        address: &str,
        alertmanagers: usize,
    ) -> Result<Instant> {
        match &mut self.server {
            Server::Atlas(_, fleet) => {
                // The rename is the last thing that writing a manifest does; what comes before is
                // microseconds.
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
                    peer.answer()?;
                    commands.push(format!("apply {loaded}"));
                }
                let began = Instant::now();
                commands.iter().try_for_each(|command| peer.send(command))?;
                // The last answer is waited for when everyone has heard; the others are in between.
                commands.iter().skip(1).try_for_each(|_| peer.answer())?;
                Ok(began)
            }
        }
    }

    /// Lets all connections break, or the server restart; returns how long each took to be in sync
    /// again.
    async fn come_back(&mut self, case: Case) -> Result<Vec<Duration>> {
        let began = Instant::now();
        match (&mut self.server, case) {
            (_, Case::Reconnect) => {
                self.clients.iter().for_each(|client| client.again.send_modify(|times| *times += 1))
            }
            (Server::Atlas(atlas, _), _) => tokio::task::block_in_place(|| atlas.restart())?,
            (Server::Peer { peer, .. }, _) => {
                // It knows what it was given first.
                self.expected =
                    (0..self.clusters).map(|n| (fleet::name(n), fleet::address(n))).collect();
                tokio::task::block_in_place(|| peer.restart())?;
            }
        }
        let (mut last, everyone) = (vec![began; self.clients.len()], self.clients.len() as u64);
        let deadline = Instant::now() + LIMIT;
        let is_peer = matches!(self.server, Server::Peer { .. });
        // Who has what it needs is answered with nothing by one server, and not at all by the
        // other.
        let back = |bench: &Self| {
            let connected = bench.shared.counts.connected.load(Ordering::Relaxed) == everyone;
            connected && (is_peer || bench.clients.iter().all(Client::is_answered))
        };
        tokio::time::sleep(Duration::from_millis(50)).await;
        loop {
            while let Ok(heard) = self.heard.try_recv() {
                if let Some(last) = last.get_mut(heard.client) {
                    *last = heard.at;
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

    /// Checks that everyone has what is right, and the hub nothing else.
    fn verify(&self, when: &str) -> Result<()> {
        let hub = self.clients.first().context("BUG: no hub")?.lock();
        let (mut known, mut alerts) = (0, None);
        for (name, address) in &self.expected {
            let resource = Fleet::on_hub(name);
            let held = hub[CLUSTER]
                .get(&resource)
                .with_context(|| format!("{when}: the hub lacks {resource}"))?;
            ensure!(
                contains(&held.body.value, address),
                "{when}: the hub has an old {resource}, not the one at {address}"
            );
            known += 1;
        }
        let of_clusters = hub[CLUSTER].keys().filter(|name| name.starts_with("cluster/")).count();
        ensure!(
            of_clusters == known,
            "{when}: the hub has {of_clusters} Envoy clusters for clusters, not {known}"
        );
        drop(hub);
        for client in self.clients.iter().skip(1) {
            let has = client.lock();
            let (node, has) = (&client.identity.node, &*has);
            let store = format!("store/{node}-thanos-sidecar0");
            let wanted = [
                (SECRET, "leaf"),
                (SECRET, "trust"),
                (CLUSTER, store.as_str()),
                (CLUSTER, "hub/alerts"),
                (LISTENER, "inbound"),
                (LISTENER, "alerts"),
                (ROUTE, "inbound"),
                (ROUTE, "alerts"),
            ];
            for (kind, name) in wanted {
                ensure!(
                    has[kind].contains_key(name),
                    "{when}: {node} lacks {name} ({})",
                    TYPES[kind]
                );
            }
            // The same for everyone.
            let own = has[ROUTE].get("alerts").map(|held| held.body.clone());
            let other = alerts.get_or_insert_with(|| own.clone());
            ensure!(
                *other == own,
                "{when}: {node} knows other Alertmanagers than the clusters before it"
            );
        }
        Ok(())
    }

    /// What those had whom a change will concern, so that it can be told to another server.
    fn held_before(&self, case: Case) -> Vec<(String, Has)> {
        let concerned = match case {
            _ if matches!(self.server, Server::Peer { .. }) => 0,
            Case::Reconnect | Case::Restart => 0,
            Case::Alertmanager => self.clients.len(),
            _ => 1,
        };
        self.clients
            .iter()
            .take(concerned)
            .map(|client| (client.identity.node.clone(), client.lock().clone()))
            .collect()
    }

    fn record(&mut self, case: Case, n: usize, before: Vec<(String, Has)>) {
        if !before.is_empty() {
            let differences =
                self.clients.iter().zip(before).filter_map(|(client, (node, before))| {
                    difference(node, &before, &client.lock())
                });
            self.recorded.push((case, n, differences.collect()));
        }
    }
}

/// Only what tells whether an Alertmanager came or went.
fn routes_of(has: &Has) -> Has {
    let mut routes = Has::default();
    routes[ROUTE].clone_from(&has[ROUTE]);
    routes
}

/// Whether a message has this text as a field: its length stands before it, so 10.0.0.1 is not in
/// 10.0.0.12.
fn contains(bytes: &[u8], text: &str) -> bool {
    let Ok(length) = u8::try_from(text.len()) else { return false };
    bytes
        .windows(text.len() + 1)
        .any(|window| window[0] == length && &window[1..] == text.as_bytes())
}

async fn wait(what: &str, is_so: impl Fn() -> bool) -> Result<()> {
    let deadline = Instant::now() + LIMIT;
    while !is_so() {
        ensure!(Instant::now() < deadline, "{what} were not answered within {LIMIT:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    Ok(())
}

//! `cargo xtask scale`: what a change costs by the size of the fleet, with simulated Envoys against
//! the real Atlas, and the same against go-control-plane.

mod case;
mod client;
mod external;
mod fleet;
mod hub;
mod recording;
mod server;
mod table;
mod testbed;
mod tls;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use atlas_lab::parts::{self, Part};
use atlas_lab::world::World;
use clap::{Args, ValueEnum};

use crate::bench::world;
use crate::build::{self, Profile};
use case::Case;
use table::Row;
use testbed::Testbed;

/// Measure what a change costs with many clusters, and compare with go-control-plane
///
/// Makes a fleet of manifests, starts Atlas (a release build) on it, and connects a simulated Envoy
/// for the hub and one for each cluster, by mutual TLS. They acknowledge everything and keep what
/// they get; after each case it is checked that everyone has what is right. For each case: messages
/// and bytes to all of them, the time from the file in its place to the acknowledgement (p50, p99,
/// max), CPU time of the server until it is quiet, and its resident memory afterwards. Messages,
/// bytes and CPU are of one change, on average.
///
/// Times depend on the machine: compare the rows of one run. 5,000 clusters take 10 minutes, most
/// of them to issue their certificates.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    cargo xtask scale                                            1,000 clusters, Atlas alone\n  \
    cargo xtask scale --clusters 100,1000,5000 --json -          as JSON\n  \
    cargo xtask scale --clusters 100,1000 --through-hub          through a real hub Envoy\n  \
    cargo xtask scale --clusters 1000 --peer go-control-plane    the same on go-control-plane, and the ratios\n  \
    cargo xtask scale --addr 127.0.0.1:18000 --plaintext --variant sotw --node-prefix envoy- --clusters 400\n                                                               any other server, for a minute")]
pub struct Scale {
    /// Sizes of the fleet.
    #[arg(long, value_delimiter = ',', default_value = "1000", value_name = "N,…")]
    clusters: Vec<usize>,
    /// Variants of the protocol.
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "delta",
        value_enum,
        value_name = "VARIANT,…"
    )]
    variant: Vec<Variant>,
    /// What to measure; `remove` removes what `add` added.
    #[arg(
        long,
        value_delimiter = ',',
        value_enum,
        value_name = "CASE,…",
        default_value = "add,edit,remove,alertmanager,reconnect,restart"
    )]
    cases: Vec<Case>,
    /// How often each change is made; `alertmanager`, `reconnect` and `restart` a tenth as often.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=1000))]
    repeats: u32,
    /// Write the rows as a JSON list to a file (`-`: to standard output, instead of the table).
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Measure another server too, with the same clients and the same resources.
    #[arg(long, value_enum)]
    peer: Option<PeerKind>,
    /// The program to measure [default: `cargo build --release` of this checkout].
    #[arg(long, value_name = "FILE")]
    atlas: Option<PathBuf>,
    /// The clusters' streams go through a real hub Envoy's 10900, as they do where Atlas is used,
    /// in a private world.
    #[arg(long, conflicts_with_all = ["peer", "addr"])]
    through_hub: bool,
    /// Keep the fleet and Atlas's state here, and use what is there: issuing certificates takes the
    /// longest. One directory for each size.
    #[arg(long, value_name = "DIR")]
    keep: Option<PathBuf>,
    /// Aim at another xDS server instead: connect, and count what comes.
    #[arg(long, value_name = "HOST:PORT", conflicts_with_all = ["peer", "atlas", "keep"])]
    addr: Option<SocketAddr>,
    /// With --addr: without TLS.
    #[arg(long, requires = "addr")]
    plaintext: bool,
    /// With --addr: connect as <prefix>0, <prefix>1, …
    #[arg(long, default_value = "node-", requires = "addr")]
    node_prefix: String,
    /// With --addr and TLS: directory with tls.crt, tls.key and ca.crt for all of them.
    #[arg(long, value_name = "DIR", requires = "addr")]
    credential: Option<PathBuf>,
    /// With --addr: how long to count.
    #[arg(long, default_value_t = 60, requires = "addr")]
    seconds: u64,
}

/// A variant of the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Variant {
    /// Incremental.
    Delta,
    /// State of the world.
    Sotw,
}

impl Variant {
    fn name(self) -> &'static str {
        match self {
            Variant::Delta => "delta",
            Variant::Sotw => "sotw",
        }
    }
}

/// A server to compare with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum PeerKind {
    /// go-control-plane's snapshot cache, see peers/go-control-plane/README.md.
    GoControlPlane,
}

/// Names of the servers in the table.
const ATLAS: &str = "atlas";
const BEHIND_HUB: &str = "atlas behind a hub Envoy";
const PEER: &str = "go-control-plane";
/// Time limit of a whole run: more than 20,000 clusters need.
const LIMIT: Duration = Duration::from_secs(4 * 3600);

impl Scale {
    pub fn run(self) -> Result<()> {
        let most = self.clusters.iter().max().copied().unwrap_or_default();
        ensure!(
            (1..=20_000).contains(&most) && self.clusters.iter().all(|n| *n > 0),
            "--clusters: from 1 to 20000"
        );
        // The hub's Envoy has two connections for each stream, and tries to reach each cluster.
        raise_file_limit(if self.through_hub { 3 * most } else { most })?;
        if cfg!(debug_assertions) && std::env::var_os(OPTIMISED).is_none() {
            return run_optimised();
        }
        if let Some(server) = self.addr {
            return runtime()?.block_on(self.measure_external(server));
        }
        if self.through_hub {
            return world::run_with(
                self.atlas.as_deref(),
                &[Part::Envoy],
                LIMIT,
                |world, atlas| self.compare(atlas, None, Some(world)),
            );
        }
        let peer = self
            .peer
            .map(|PeerKind::GoControlPlane| parts::get(Part::GoControlPlane))
            .transpose()?;
        let atlas = match &self.atlas {
            Some(program) => program.clone(),
            None => build::program("atlas", Profile::Release)?,
        };
        self.compare(&atlas, peer.as_deref(), None)
    }

    /// Measures each size, prints the table and writes the JSON file. `world`: where a hub Envoy is
    /// started.
    fn compare(&self, atlas: &Path, peer: Option<&Path>, world: Option<&World>) -> Result<()> {
        let runtime = runtime()?;
        let mut rows = Vec::new();
        for clusters in &self.clusters {
            rows.extend(runtime.block_on(self.measure(atlas, peer, world, *clusters))?);
        }
        let json = serde_json::to_string_pretty(&rows)? + "\n";
        match &self.json {
            Some(file) if file == Path::new("-") => print!("{json}"),
            file => {
                if let Some(file) = file {
                    std::fs::write(file, json)
                        .with_context(|| format!("cannot write {}", file.display()))?;
                }
                println!("{}", table::table(&rows));
                if peer.is_some() {
                    println!("{}", table::ratios(&rows, ATLAS, PEER));
                }
            }
        }
        Ok(())
    }

    async fn measure(
        &self,
        atlas: &Path,
        peer: Option<&Path>,
        world: Option<&World>,
        clusters: usize,
    ) -> Result<Vec<Row>> {
        let mut rows = Vec::new();
        let temporary = tempfile::tempdir()?;
        let dir = self
            .keep
            .as_ref()
            .map_or(temporary.path().to_owned(), |keep| keep.join(clusters.to_string()));
        for variant in &self.variant {
            eprintln!(
                "{clusters} clusters, {}: {}",
                variant.name(),
                if world.is_some() { BEHIND_HUB } else { ATLAS }
            );
            let mut testbed = Testbed::atlas(atlas, &dir, clusters, *variant, world).await?;
            for case in &self.cases {
                rows.push(testbed.run(*case, self.repeats).await?);
            }
            let (changes, state) = testbed.end().await?;
            if let Some(peer) = peer {
                eprintln!("{clusters} clusters, {}: {PEER}", variant.name());
                let mut testbed =
                    Testbed::peer(peer, changes, &state, &dir.join("peer"), clusters, *variant)
                        .await?;
                for case in &self.cases {
                    rows.push(testbed.run(*case, self.repeats).await?);
                }
                testbed.end().await?;
            }
        }
        Ok(rows)
    }

    async fn measure_external(&self, server: SocketAddr) -> Result<()> {
        let tls = match (&self.credential, self.plaintext) {
            (_, true) => None,
            (Some(dir), false) => Some(tls::connector(dir)?),
            (None, false) => bail!(
                "--addr: say --plaintext, or --credential DIR with tls.crt, tls.key and ca.crt"
            ),
        };
        for variant in &self.variant {
            for clusters in &self.clusters {
                external::count_messages(
                    server,
                    tls.clone(),
                    *variant,
                    &self.node_prefix,
                    *clusters,
                    Duration::from_secs(self.seconds),
                )
                .await?;
            }
        }
        Ok(())
    }
}

fn runtime() -> Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("cannot make a runtime")
}

/// Raises the limit of open files: one for each connection, and 512 for everything else.
fn raise_file_limit(clusters: usize) -> Result<()> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let needed = clusters as u64 + 512;
    let most = limit.maximum.unwrap_or(u64::MAX);
    ensure!(
        most >= needed,
        "{clusters} connections need {needed} open files, and this user may have {most} (ulimit -Hn)"
    );
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum })
        .context("cannot raise the limit of open files")
}

/// Environment variable of the optimised process, so that it doesn't start another.
const OPTIMISED: &str = "ATLAS_SCALE_OPTIMISED";

/// Runs an optimised build of this program, since thousands of clients share the processors with
/// the server.
fn run_optimised() -> Result<()> {
    let program = build::program("xtask", Profile::Release)?;
    let status =
        Command::new(program).args(std::env::args_os().skip(1)).env(OPTIMISED, "1").status()?;
    ensure!(status.success(), "measuring ended with {status}");
    Ok(())
}

//! `cargo xtask bench`: what the data plane costs, measured on the real programs.
//!
//! ```text
//! bench envoy   a real Atlas, N manifests, and the hub's Envoy ─▶ memory, time to ready, time and CPU per push
//! bench query   a scene: Query ─▶ hub Envoy ─▶ cluster Envoy ─▶ sidecar,  against  Query ─mutual TLS─▶ sidecar
//! bench link    hub Envoy ═ a far, lossy link ═▶ cluster Envoy ─▶ goodput and latency, by connections, windows and buffers
//! ```
//!
//! All run in a private world, so that nothing reaches this machine's network, nobody else's ports
//! are in the way, and all ends with the command. Progress goes to standard error, the table to
//! standard output, the figures to `--json`.

mod cost;
mod envoy;
mod link;
mod query;
pub(crate) mod report;
pub(crate) mod world;

use anyhow::Result;
use clap::{Args, Subcommand};

/// Measure what the data plane costs.
#[derive(Debug, Args)]
pub struct Bench {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// The hub's Envoy: its memory, its time to ready, and time, bytes and CPU of a push, by the
    /// number of clusters
    Envoy(envoy::EnvoyBench),
    /// Thanos Query through both Envoys against a direct mutual-TLS connection: latency and
    /// throughput of large answers
    Query(query::QueryBench),
    /// A far link: answers that share a connection or have one each, HTTP/2 windows, and a small
    /// answer beside a large one
    Link(link::LinkBench),
}

impl Bench {
    /// Runs it.
    ///
    /// # Errors
    /// What didn't start, or took longer than its limit.
    pub fn run(self) -> Result<()> {
        match self.what {
            What::Envoy(bench) => bench.run(),
            What::Query(bench) => bench.run(),
            What::Link(bench) => bench.run(),
        }
    }
}

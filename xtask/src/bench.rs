//! `cargo xtask bench`: what the data plane costs, measured on the real programs.
//!
//! ```text
//! bench envoy   Atlas, N manifests, the hub's Envoy ─▶ memory, time to ready, costs of a push
//! bench query   Query ─▶ hub Envoy ─▶ cluster Envoy ─▶ sidecar, against Query ─mTLS─▶ sidecar
//! bench link    hub Envoy ═ a far, lossy link ═▶ cluster Envoy: goodput and latency
//! ```
//!
//! All run in a private world, without this machine's network and ports, and end with the command.
//! Progress goes to standard error, the table to standard output, the figures to `--json`.

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
    ///
    /// # Errors
    /// A program doesn't start, or the measurement takes longer than its limit.
    pub fn run(self) -> Result<()> {
        match self.what {
            What::Envoy(bench) => bench.run(),
            What::Query(bench) => bench.run(),
            What::Link(bench) => bench.run(),
        }
    }
}

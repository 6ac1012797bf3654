//! `cargo xtask bench envoy`: what the hub's Envoy itself costs, by the number of clusters.
//!
//! A real Atlas has the manifests of N clusters and is idle; then a real Envoy starts as the hub's.
//! These of its costs are measured:
//!
//! - **ready**: from its start until it is live and has every Envoy cluster that it should have;
//! - **memory**: resident when it has been quiet, and the CPU time that it takes while nothing
//!   changes;
//! - **push**: from a manifest renamed into place (or deleted) until the Envoy *routes* by it: the
//!   page of a cluster that it doesn't know answers 404, of one that it knows anything else. That
//!   question costs the Envoy some 50 µs, where its admin page would walk through all statistics or
//!   clusters. Atlas's own share (it waits 100 ms for quiet) is in it;
//! - **bytes and CPU of a push**: over as many changes again with nobody asking, less what it takes
//!   when quiet.

mod hub;
mod peers;
mod probe;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Result, ensure};
use atlas_lab::parts::Part;
use clap::Args;
use serde_json::{Value, json};

use super::cost::{machine, milliseconds};
use super::{report, world};
use hub::{Change, Changes, Hub, Ready};

/// The hub's Envoy.
#[derive(Debug, Args)]
pub(super) struct EnvoyBench {
    /// Numbers of clusters.
    #[arg(long, value_delimiter = ',', default_value = "100,1000,5000", value_parser = clap::value_parser!(u32).range(1..=20_000))]
    clusters: Vec<u32>,
    /// Stores of each cluster; the hub has one Envoy cluster for all of them.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=100))]
    stores: u32,
    /// How often each change is made.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pushes: u32,
    /// Clusters without addresses: the Envoy has nothing to connect to and makes no health checks,
    /// so that what remains is what its configuration costs. Otherwise each cluster has an address
    /// that answers.
    #[arg(long)]
    no_addresses: bool,
    /// Write the figures to this file too, as a list of rows.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Seconds after which everything is ended.
    #[arg(long, default_value_t = 3600, value_name = "SECONDS")]
    limit: u64,
}

impl EnvoyBench {
    /// Measures, prints the table, and writes the JSON file.
    ///
    /// # Errors
    /// A program doesn't start, or the Envoy doesn't apply a change in time.
    pub(super) fn run(self) -> Result<()> {
        world::run(&[Part::Envoy], Duration::from_secs(self.limit), |world, atlas| {
            self.check_limit()?;
            let (mut sizes, mut changes, mut rows) = (Vec::new(), Vec::new(), Vec::new());
            let mut empty_bytes = 0;
            // First without clusters: the costs of an Envoy by itself.
            for clusters in std::iter::once(0).chain(self.clusters.iter().copied()) {
                let mut hub = Hub::start(world, atlas, clusters, self.stores, !self.no_addresses)?;
                let ready = hub.start_envoy()?;
                if clusters == 0 {
                    empty_bytes = ready.resident_bytes;
                }
                sizes.push(size_row(clusters, &ready, empty_bytes));
                rows.push(size_json(clusters, &ready));
                self.keep(&rows)?;
                for change in [Change::Add, Change::Remove] {
                    let measured = hub.changes(change, self.pushes)?;
                    changes.push(change_row(clusters, &measured));
                    rows.push(change_json(clusters, &measured));
                    self.keep(&rows)?;
                }
            }
            let peers = if self.no_addresses { "no addresses" } else { "all of which answer" };
            println!(
                "Envoy {} as the hub's, clusters of {} stores, {peers}; {}\n",
                Part::Envoy.version(),
                self.stores,
                machine()
            );
            let header = [
                "clusters",
                "Envoy clusters",
                "ready ms",
                "RSS MiB",
                "KiB/cluster",
                "CPU to ready ms",
                "quiet CPU ms/s",
            ];
            println!("{}", report::table(&header, &sizes));
            let header = [
                "clusters",
                "change",
                "times",
                "p50 ms",
                "p99 ms",
                "bytes",
                "Envoy CPU ms",
                "Envoy apply ms",
                "Atlas CPU ms",
            ];
            println!("{}", report::table(&header, &changes));
            println!(
                "p50, p99: manifest in place → the Envoy routes by it, looked at every {} ms.",
                probe::INTERVAL.as_millis()
            );
            Ok(())
        })
    }

    /// Prints the newest figures, and writes all so far, so that a late failure loses none.
    fn keep(&self, rows: &[Value]) -> Result<()> {
        if let Some(row) = rows.last() {
            eprintln!("{row}");
        }
        self.json.as_deref().map_or(Ok(()), |file| report::write_json(file, rows))
    }
}

impl EnvoyBench {
    /// Checks that the limit of open files allows a connection for each Envoy cluster.
    fn check_limit(&self) -> Result<()> {
        let most = self.clusters.iter().max().copied().unwrap_or_default();
        // For each cluster, also for those that will be added, a connection of each of two worker
        // threads and one of the health check. 200 for listeners, epoll and logs.
        let needed = (u64::from(most) + 2 * u64::from(self.pushes)) * 3 + 200;
        let allowed = world::open_files();
        ensure!(
            self.no_addresses || allowed.is_none_or(|allowed| allowed >= needed),
            "{most} clusters need {needed} open files, this machine allows {}: raise the hard limit (ulimit -Hn), or give \
             --no-addresses or fewer --clusters",
            allowed.unwrap_or_default()
        );
        Ok(())
    }
}

#[expect(clippy::cast_precision_loss, reason = "bytes of memory, shown as MiB")]
fn mebibytes(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

fn size_row(clusters: u32, ready: &Ready, empty_bytes: u64) -> Vec<String> {
    vec![
        clusters.to_string(),
        ready.envoy_clusters.to_string(),
        format!("{:.0}", milliseconds(ready.after)),
        format!("{:.0}", mebibytes(ready.resident_bytes)),
        format!(
            "{:.0}",
            mebibytes(ready.resident_bytes.saturating_sub(empty_bytes)) * 1024.0
                / f64::from(clusters.max(1))
        ),
        format!("{:.0}", milliseconds(ready.cpu)),
        format!("{:.1}", ready.quiet_per_second * 1e3),
    ]
}

fn size_json(clusters: u32, ready: &Ready) -> Value {
    json!({
        "server": "envoy", "clusters": clusters, "case": "ready", "envoy_clusters": ready.envoy_clusters,
        "ready_ms": milliseconds(ready.after), "rss_bytes": ready.resident_bytes,
        "cpu_ms": milliseconds(ready.cpu), "quiet_cpu_ms_per_s": ready.quiet_per_second * 1e3,
    })
}

fn change_row(clusters: u32, changes: &Changes) -> Vec<String> {
    vec![
        clusters.to_string(),
        changes.change.name().to_owned(),
        changes.times.count().to_string(),
        format!("{:.0}", milliseconds(changes.times.percentile(50))),
        format!("{:.0}", milliseconds(changes.times.percentile(99))),
        format!("{:.0}", changes.bytes),
        format!("{:.1}", changes.envoy_cpu_ms),
        format!("{:.1}", changes.apply_ms),
        format!("{:.0}", changes.atlas_cpu_ms),
    ]
}

fn change_json(clusters: u32, changes: &Changes) -> Value {
    json!({
        "server": "envoy", "clusters": clusters, "case": changes.change.name(), "times": changes.times.count(),
        "p50_ms": milliseconds(changes.times.percentile(50)), "p99_ms": milliseconds(changes.times.percentile(99)),
        "resolution_ms": milliseconds(probe::INTERVAL), "bytes": changes.bytes, "cpu_ms": changes.envoy_cpu_ms,
        "apply_ms": changes.apply_ms, "atlas_cpu_ms": changes.atlas_cpu_ms,
    })
}

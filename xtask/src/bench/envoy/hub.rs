//! The measured hub: a real Atlas with many manifests, and one Envoy.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use atlas_lab::http;
use atlas_lab::parts::{self, Part};
use atlas_lab::run::{Envoy, EnvoyOptions};
use atlas_lab::scene::{Atlas, AtlasOptions, Place};
use atlas_lab::world::World;
use serde_json::json;

use super::super::cost::{Times, cpu_of_process, cpu_of_threads, milliseconds};
use super::peers::{self, Peers};
use super::probe::Probe;

/// How long Atlas may take until it has all manifests, and the Envoy until it is ready.
const START: Duration = Duration::from_secs(600);
/// How long one change may take.
const PUSH: Duration = Duration::from_secs(120);
/// How long the idle Envoy is measured.
const QUIET: Duration = Duration::from_secs(10);
/// Between two changes: longer than Atlas's debounce, so that each change is a push.
const BETWEEN: Duration = Duration::from_millis(500);
/// Longer than Envoy's interval of flushing histograms (5 s).
const FLUSH: Duration = Duration::from_secs(6);
/// The statistics that are read, as a regular expression.
const STATISTICS: &str = "atlas-xds.upstream_cx_rx_bytes_total|cds.update_duration";
/// Time limit of an answer with statistics.
const STATISTICS_ANSWER: Duration = Duration::from_secs(120);
/// The Envoy's admin address, on its host's loopback.
const ADMIN: &str = "127.0.0.1:9000";
/// Between two requests to a starting Envoy.
const POLL: Duration = Duration::from_millis(10);
/// Atlas is idle in a second in which it uses at most this CPU time.
const IDLE: Duration = Duration::from_millis(150);

/// A hub, whose Envoy is started later.
pub(super) struct Hub {
    place: Place,
    atlas: Atlas,
    envoy: Option<Envoy>,
    clusters: u32,
    stores: u32,
    /// The number of the next new cluster.
    next: u32,
    peers: Option<Peers>,
}

/// The name of a cluster, by its number.
fn name(number: u32) -> String {
    format!("c{number}")
}

/// The costs of the Envoy's start.
pub(super) struct Ready {
    /// Number of its Envoy clusters, with those of its bootstrap.
    pub envoy_clusters: u64,
    /// From its start until it was live with all clusters.
    pub after: Duration,
    /// CPU time until then.
    pub cpu: Duration,
    /// Resident memory when idle.
    pub resident_bytes: u64,
    /// CPU seconds per second when idle.
    pub quiet_per_second: f64,
}

/// A change of the fleet.
#[derive(Clone, Copy)]
pub(super) enum Change {
    /// A manifest is added.
    Add,
    /// A manifest is removed.
    Remove,
}

impl Change {
    /// For tables and JSON.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Add => "add",
            Self::Remove => "remove",
        }
    }
}

/// The costs of a kind of change.
pub(super) struct Changes {
    pub change: Change,
    /// From the manifest's rename until the Envoy routes accordingly.
    pub times: Times,
    /// Bytes that the Envoy received for each.
    pub bytes: f64,
    /// The Envoy's CPU time for each, without what it uses when idle.
    pub envoy_cpu_ms: f64,
    /// From receiving an update to having applied it, by the Envoy's own histogram.
    pub apply_ms: f64,
    /// Atlas's CPU time for each.
    pub atlas_cpu_ms: f64,
}

impl Hub {
    /// Starts Atlas and writes the manifests.
    ///
    /// # Errors
    /// Atlas doesn't start, or takes too long.
    pub(super) fn start(
        world: &World,
        program: &Path,
        clusters: u32,
        stores: u32,
        answering: bool,
    ) -> Result<Self> {
        let place = Place::in_world(world, &format!("hub-{clusters}"))?;
        let from = place.host.dir().join("clusters");
        std::fs::create_dir_all(&from)
            .with_context(|| format!("cannot make {}", from.display()))?;
        let options = AtlasOptions {
            program: program.to_owned(),
            from,
            state: place.host.dir().join("state"),
            listen: std::net::Ipv4Addr::LOCALHOST.into(),
            extra: vec![format!("--hub-address={}", place.envoy), "--log-level=warn".into()],
        };
        let atlas = Atlas::start(&place.host, "atlas", options)?;
        let state = &atlas.options.state;
        let peers = answering
            .then(|| Peers::start(world, &place.host, &format!("peers-{clusters}"), state, name))
            .transpose()?;
        let mut hub = Self { place, atlas, envoy: None, clusters, stores, next: clusters, peers };
        for number in 0..clusters {
            hub.write(number)?;
        }
        hub.wait_atlas()?;
        Ok(hub)
    }

    /// Writes a cluster's manifest.
    fn write(&self, number: u32) -> Result<()> {
        let name = name(number);
        // A cluster without an address has its Envoy clusters too, but no connections and no health
        // checks.
        let annotations = if self.peers.is_some() {
            json!({"goatlas.io/addresses": peers::address(number)})
        } else {
            json!({})
        };
        let text = json!({
            "apiVersion": "v1", "kind": "Service",
            "metadata": {
                "name": name,
                "labels": {"goatlas.io/cluster": "true", "goatlas.io/replicas": self.stores.to_string()},
                "annotations": annotations,
            },
        });
        self.atlas.write_manifest(&format!("{name}.yaml"), &text.to_string())
    }

    /// Waits until Atlas has all clusters and has been idle for three seconds.
    fn wait_atlas(&mut self) -> Result<()> {
        let began = Instant::now();
        let (mut known, mut idle) = (0, 0);
        // The status of thousands of clusters costs CPU time, so it is requested only until Atlas
        // has them.
        while known < self.clusters as usize || idle < 3 {
            let before = cpu_of_process(self.atlas.process.pid())?;
            std::thread::sleep(Duration::from_secs(1));
            idle = if cpu_of_process(self.atlas.process.pid())?.saturating_sub(before) < IDLE {
                idle + 1
            } else {
                0
            };
            if known < self.clusters as usize {
                known = self.atlas.status()?["clusters"].as_array().map_or(0, Vec::len);
            }
            if began.elapsed().as_secs().is_multiple_of(5) {
                eprintln!(
                    "{} clusters: Atlas has {known} after {:.0} s",
                    self.clusters,
                    began.elapsed().as_secs_f64()
                );
            }
            ensure!(
                self.atlas.process.is_running(),
                "Atlas has ended: {}",
                self.atlas.process.log_tail(20)
            );
            ensure!(
                began.elapsed() < START,
                "Atlas has {known} of {} clusters and no rest after {START:?}",
                self.clusters
            );
        }
        eprintln!(
            "{} clusters: Atlas has them and is quiet after {:.0} s",
            self.clusters,
            began.elapsed().as_secs_f64()
        );
        Ok(())
    }

    /// Starts the Envoy and measures its start.
    ///
    /// # Errors
    /// The Envoy ends, or takes too long.
    pub(super) fn start_envoy(&mut self) -> Result<Ready> {
        let options = EnvoyOptions::new(
            self.atlas.bootstrap("hub"),
            ADMIN.parse().context("BUG: no address")?,
        );
        let program = parts::get(Part::Envoy)?;
        let began = Instant::now();
        let mut envoy = Envoy::start(&self.place.host, "hub-envoy", &program, &options)?;
        let wanted = u64::from(self.clusters);
        // First the cheap readiness check. The number of clusters needs all its statistics, which
        // are expensive to read.
        let mut last = anyhow!("its admin page did not answer");
        let (after, cpu, envoy_clusters) = loop {
            ensure!(envoy.process.is_running(), "Envoy has ended: {}", envoy.process.log_tail(20));
            if began.elapsed() > START {
                return Err(last.context(format!(
                    "Envoy is not ready after {START:?}: {}",
                    envoy.process.log_tail(20)
                )));
            }
            if envoy.admin_get("/ready").is_ok_and(|answer| answer.status == 200) {
                let (after, cpu) = (began.elapsed(), cpu_of_threads(envoy.process.pid())?);
                // A busy Envoy may answer too late; then the next request succeeds.
                match self.counts() {
                    Ok([active, 0]) if active >= wanted => break (after, cpu, active),
                    Ok([active, warming]) => {
                        last = anyhow!(
                            "it has {active} Envoy clusters of {wanted}, and {warming} that wait"
                        )
                    }
                    Err(error) => last = error,
                }
            }
            std::thread::sleep(POLL);
        };
        eprintln!(
            "{} clusters: the Envoy is ready after {:.1} s; looking at it while it is quiet",
            self.clusters,
            after.as_secs_f64()
        );
        std::thread::sleep(QUIET);
        let (start, before) = (Instant::now(), cpu_of_threads(envoy.process.pid())?);
        std::thread::sleep(QUIET);
        let quiet = cpu_of_threads(envoy.process.pid())?.saturating_sub(before);
        let quiet_per_second = quiet.as_secs_f64() / start.elapsed().as_secs_f64();
        let resident_bytes = envoy.process.resident_bytes();
        self.envoy = Some(envoy);
        Ok(Ready { envoy_clusters, after, cpu, resident_bytes, quiet_per_second })
    }

    /// Makes the same change `times` times with the probe, and as often without it.
    ///
    /// # Errors
    /// The Envoy doesn't apply a change in time.
    pub(super) fn changes(&mut self, change: Change, times: u32) -> Result<Changes> {
        eprintln!(
            "{} clusters: {} {times} times, looked at every millisecond",
            self.clusters,
            change.name()
        );
        // The clusters that were added last are removed.
        let first = match change {
            Change::Add => self.next,
            Change::Remove => self.next - 2 * times,
        };
        self.next = if matches!(change, Change::Add) { first + 2 * times } else { first };
        let (seen, unseen) = (first..first + times, first + times..first + 2 * times);
        let known = matches!(change, Change::Add);
        let host = self.place.host.clone();
        let mut latencies = Times::default();
        host.within(|| {
            let mut probe = Probe::connect(self.place.envoy)?;
            for number in seen {
                std::thread::sleep(BETWEEN);
                let began = Instant::now();
                self.apply(change, number)?;
                probe.wait(&name(number), known, began + PUSH)?;
                latencies.push(began.elapsed());
            }
            Ok(())
        })?;
        let slowest = latencies.percentile(100);
        eprintln!(
            "{} clusters: {} {times} times, with nobody looking",
            self.clusters,
            change.name()
        );
        // Both measurements start and end with flushed histograms.
        let quiet = self.counters_over(|| {
            std::thread::sleep(QUIET);
            Ok(())
        })?;
        let all = self.counters_over(|| {
            for number in unseen.clone() {
                self.apply(change, number)?;
                std::thread::sleep(BETWEEN + slowest);
            }
            host.within(|| {
                let mut probe = Probe::connect(self.place.envoy)?;
                unseen
                    .clone()
                    .try_for_each(|number| probe.wait(&name(number), known, Instant::now() + PUSH))
            })
        })?;
        let each = |of: fn(&Counters) -> f64| {
            let idle = of(&quiet) / quiet.seconds * all.seconds;
            // Negative if the idle time used more. A zero would hide that the figure is noise.
            (of(&all) - idle) / f64::from(times)
        };
        ensure!(
            all.updates > 0.0,
            "{times} changes, and the hub's Envoy counted none of them as an update"
        );
        Ok(Changes {
            change,
            times: latencies,
            bytes: each(|counters| counters.bytes).round(),
            envoy_cpu_ms: each(|counters| counters.envoy_cpu_ms),
            apply_ms: all.apply_ms / all.updates,
            atlas_cpu_ms: each(|counters| counters.atlas_cpu_ms),
        })
    }

    fn apply(&self, change: Change, number: u32) -> Result<()> {
        match change {
            Change::Add => self.write(number),
            Change::Remove => self.atlas.remove_manifest(&format!("{}.yaml", name(number))),
        }
    }

    /// The increase of the counters while `body` runs.
    fn counters_over(&self, body: impl FnOnce() -> Result<()>) -> Result<Counters> {
        // Reading the statistics uses CPU time, so it is outside the measured time.
        let before = self.statistics()?;
        let (began, cpu) = (Instant::now(), self.cpu_ms()?);
        body()?;
        std::thread::sleep(FLUSH);
        let (seconds, cpu_after) = (began.elapsed().as_secs_f64(), self.cpu_ms()?);
        let after = self.statistics()?;
        Ok(Counters {
            seconds,
            bytes: after[0] - before[0],
            updates: after[1] - before[1],
            apply_ms: after[2] - before[2],
            envoy_cpu_ms: cpu_after[0] - cpu[0],
            atlas_cpu_ms: cpu_after[1] - cpu[1],
        })
    }

    /// CPU time of Envoy and Atlas.
    fn cpu_ms(&self) -> Result<[f64; 2]> {
        Ok([
            milliseconds(cpu_of_threads(self.envoy()?.process.pid())?),
            milliseconds(cpu_of_process(self.atlas.process.pid())?),
        ])
    }

    /// Bytes received from Atlas, number of CDS updates applied, and milliseconds that applying
    /// them took.
    fn statistics(&self) -> Result<[f64; 3]> {
        let text = self.admin(&format!("/stats/prometheus?filter={STATISTICS}"))?;
        let value = |name: &str| -> Result<f64> {
            let line = text.lines().find_map(|line| line.strip_prefix(name)?.rsplit_once(' '));
            line.and_then(|(_, value)| value.parse().ok())
                .with_context(|| format!("the hub's Envoy has no statistic {name}"))
        };
        Ok([
            value("envoy_cluster_upstream_cx_rx_bytes_total{envoy_cluster_name=\"atlas-xds\"}")?,
            value("envoy_cluster_manager_cds_update_duration_count")?,
            value("envoy_cluster_manager_cds_update_duration_sum")?,
        ])
    }

    /// Number of active Envoy clusters, and of those that wait for their first health check or
    /// secret.
    fn counts(&self) -> Result<[u64; 2]> {
        let text = self.admin("/stats?filter=^cluster_manager%5C.(active|warming)_clusters$")?;
        let value = |name: &str| -> Result<u64> {
            let value = text
                .lines()
                .find_map(|line| line.strip_prefix(name)?.strip_prefix(": ")?.trim().parse().ok());
            value.with_context(|| format!("the hub's Envoy has no statistic {name}"))
        };
        Ok([value("cluster_manager.active_clusters")?, value("cluster_manager.warming_clusters")?])
    }

    /// `GET` on the Envoy's admin interface, which iterates over all statistics: millions with
    /// thousands of clusters.
    fn admin(&self, path: &str) -> Result<String> {
        let url = format!("http://{ADMIN}{path}");
        self.place
            .host
            .within(|| http::get_within(STATISTICS_ANSWER, &url))
            .and_then(|answer| Ok(answer.ok()?.text()))
    }

    fn envoy(&self) -> Result<&Envoy> {
        self.envoy.as_ref().context("BUG: asked about the Envoy before it was started")
    }
}

/// The increase of the counters.
struct Counters {
    seconds: f64,
    /// Bytes received from Atlas.
    bytes: f64,
    envoy_cpu_ms: f64,
    /// CDS updates applied.
    updates: f64,
    /// Milliseconds for applying them, by the Envoy's histogram.
    apply_ms: f64,
    atlas_cpu_ms: f64,
}

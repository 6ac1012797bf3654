//! The hub that is measured: a real Atlas with so many manifests, and one Envoy.

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
/// What counts as quiet, and how long the quiet Envoy is looked at.
const QUIET: Duration = Duration::from_secs(10);
/// Between two changes: longer than Atlas waits for a burst's end, so that each is a push of its
/// own.
const BETWEEN: Duration = Duration::from_millis(500);
/// Envoy writes its histograms out every 5 s.
const FLUSH: Duration = Duration::from_secs(6);
/// The statistics that are asked for, as a regular expression.
const STATISTICS: &str = "atlas-xds.upstream_cx_rx_bytes_total|cds.update_duration";
/// How long the Envoy may take to write them.
const STATISTICS_ANSWER: Duration = Duration::from_secs(120);
/// The Envoy's admin page, on the loopback of its own host.
const ADMIN: &str = "127.0.0.1:9000";
/// Between two looks at an Envoy that starts.
const POLL: Duration = Duration::from_millis(10);
/// A second in which Atlas takes no more CPU time than that has no work in it.
const IDLE: Duration = Duration::from_millis(150);

/// A hub without its Envoy at first.
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

/// What the Envoy's start cost.
pub(super) struct Ready {
    /// Envoy clusters that it has, with its own few.
    pub envoy_clusters: u64,
    /// From its start until it was live with all of them.
    pub after: Duration,
    /// CPU time of that.
    pub cpu: Duration,
    /// Resident when quiet.
    pub resident_bytes: u64,
    /// CPU seconds a second when quiet.
    pub quiet_per_second: f64,
}

/// What is done to the fleet.
#[derive(Clone, Copy)]
pub(super) enum Change {
    /// A new manifest.
    Add,
    /// A manifest less.
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

/// What a change cost.
pub(super) struct Changes {
    /// Which.
    pub change: Change,
    /// From the manifest in place until the Envoy routes by it.
    pub times: Times,
    /// Bytes that the Envoy received for each.
    pub bytes: f64,
    /// The Envoy's CPU time for each, less what it takes when quiet.
    pub envoy_cpu_ms: f64,
    /// From the message received to the message applied, by the Envoy's own histogram.
    pub apply_ms: f64,
    /// Atlas's CPU time for each.
    pub atlas_cpu_ms: f64,
}

impl Hub {
    /// Starts Atlas and gives it the manifests.
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

    /// A manifest, as a person would write it.
    fn write(&self, number: u32) -> Result<()> {
        let name = name(number);
        // Without an address a cluster has its Envoy clusters too, but nothing to connect to and no
        // health checks.
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

    /// Waits until Atlas has all clusters and has done all that follows: until it takes next to no
    /// CPU time any more.
    fn wait_atlas(&mut self) -> Result<()> {
        let began = Instant::now();
        let (mut known, mut idle) = (0, 0);
        // A status of thousands of clusters costs Atlas something too, so it is asked for only
        // until it has them.
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

    /// Starts the Envoy, and measures that.
    ///
    /// # Errors
    /// It ends, or takes too long.
    pub(super) fn start_envoy(&mut self) -> Result<Ready> {
        let options = EnvoyOptions::new(
            self.atlas.bootstrap("hub"),
            ADMIN.parse().context("BUG: no address")?,
        );
        let program = parts::get(Part::Envoy)?;
        let began = Instant::now();
        let mut envoy = Envoy::start(&self.place.host, "hub-envoy", &program, &options)?;
        let wanted = u64::from(self.clusters);
        // Cheap questions until it is live. Then it has all that came with its first answers, which
        // only a walk through its statistics shows.
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
                // A busy Envoy may take long to answer, and then has more to say.
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

    /// Makes the same change `times` times with the probe looking, and as often without it.
    ///
    /// # Errors
    /// The Envoy doesn't show a change.
    pub(super) fn changes(&mut self, change: Change, times: u32) -> Result<Changes> {
        eprintln!(
            "{} clusters: {} {times} times, looked at every millisecond",
            self.clusters,
            change.name()
        );
        // What is removed is what was added last.
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
        // Both begin and end with Envoy's histograms written out.
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
            // Below zero where the quiet time was busier: then the change is lost in it, which a
            // zero would hide.
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

    /// How far the counters go up while `body` runs.
    fn counters_over(&self, body: impl FnOnce() -> Result<()>) -> Result<Counters> {
        // The questions cost the Envoy something too, so they stay outside.
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

    /// Bytes received from Atlas, messages of Envoy clusters applied, and milliseconds that
    /// applying them took.
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

    /// Envoy clusters in use, and those that wait for their first health check or secret.
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

    /// `GET` on the Envoy's admin page, which walks through all its statistics: millions, with
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

/// How far the counters went up.
struct Counters {
    seconds: f64,
    /// Received from Atlas.
    bytes: f64,
    envoy_cpu_ms: f64,
    /// Messages of Envoy clusters applied.
    updates: f64,
    /// How long that took, by the Envoy's own clock.
    apply_ms: f64,
    atlas_cpu_ms: f64,
}

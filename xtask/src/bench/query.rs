//! `cargo xtask bench query`: what Thanos Query through both Envoys costs against a direct
//! mutual-TLS connection.
//!
//! ```text
//! envoys  Query ─plain─▶ hub Envoy ─mutual TLS─▶ cluster Envoy ─plain─▶ sidecar ┐
//!                                                                               ├▶ Prometheus
//! direct  Query ──────────────mutual TLS──────────────────────────────▶ sidecar ┘
//! ```
//!
//! The scene is the lab's, with a real Atlas. Each path has its own Query and sidecar, with equal
//! flags but those of TLS, so that neither warms caches of the other. Both get the same queries in
//! turn, and every answer is checked to be complete. Nothing caches answers: there is no query
//! frontend and no store gateway, and Prometheus reads its blocks each time.

mod data;
mod paths;
mod run;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;
use atlas_lab::parts::Part;
use clap::Args;
use serde_json::{Value, json};

use super::cost::{machine, milliseconds};
use super::{report, world};
use data::Data;
use paths::Paths;
use run::{Measured, Question};

const PARTS: &[Part] = &[
    Part::Envoy,
    Part::Thanos,
    Part::Prometheus,
    Part::PrometheusClassic,
    Part::Alertmanager,
    Part::CoreDns,
];
/// Number of concurrent queries in the second round.
const PARALLEL: usize = 4;

/// Thanos Query.
#[derive(Debug, Args)]
pub(super) struct QueryBench {
    /// Time series.
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=200_000))]
    series: u32,
    /// Samples of each, within two hours.
    #[arg(long, default_value_t = 240, value_parser = clap::value_parser!(u32).range(1..=7_000))]
    samples: u32,
    /// Questions of each kind on each path.
    #[arg(long, default_value_t = 40, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    queries: u32,
    /// Write the figures to this file too, as a list of rows.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Seconds after which everything is ended.
    #[arg(long, default_value_t = 1800, value_name = "SECONDS")]
    limit: u64,
}

impl QueryBench {
    /// Measures, prints the table, and writes the JSON file.
    ///
    /// # Errors
    /// A program doesn't start, or an answer isn't complete.
    pub(super) fn run(self) -> Result<()> {
        world::run(PARTS, Duration::from_secs(self.limit), |world, atlas| {
            let data = Data::new(self.series, self.samples)?;
            let paths = Paths::start(world, atlas, &data)?;
            let mut measured = Vec::new();
            for (question, parallel) in
                [(Question::Samples, 1), (Question::Samples, PARALLEL), (Question::Series, 1)]
            {
                eprintln!(
                    "asking for {}, {parallel} at a time, {} times on each path",
                    question.name(),
                    self.queries
                );
                measured.extend(run::alternate(&paths, &data, question, self.queries, parallel)?);
            }
            println!(
                "Envoy {}, Thanos {}, Prometheus {}; {} series of {} samples; {}\n",
                Part::Envoy.version(),
                Part::Thanos.version(),
                Part::Prometheus.version(),
                self.series,
                self.samples,
                machine()
            );
            let header = [
                "asked for",
                "at a time",
                "path",
                "times",
                "MiB each",
                "p50 ms",
                "p99 ms",
                "MiB/s",
                "Envoys CPU ms",
                "Thanos CPU ms",
                "p50 ×",
                "MiB/s ×",
            ];
            // The rows of both paths follow each other, the direct one first.
            let rows: Vec<Vec<String>> = measured
                .chunks(2)
                .flat_map(|pair| pair.iter().map(|one| row(one, &pair[0])))
                .collect();
            println!("{}", report::table(&header, &rows));
            println!(
                "CPU: for each answer. Thanos: Query and sidecar. ×: against the direct connection."
            );
            let rows: Vec<Value> = measured.iter().map(|one| json_row(one, &data)).collect();
            self.json.as_deref().map_or(Ok(()), |file| report::write_json(file, &rows))
        })
    }
}

#[expect(clippy::cast_precision_loss, reason = "bytes, shown as MiB")]
fn mebibytes(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

fn row(one: &Measured, direct: &Measured) -> Vec<String> {
    vec![
        one.question.name().to_owned(),
        one.parallel.to_string(),
        one.path.name().to_owned(),
        one.times.count().to_string(),
        format!("{:.1}", mebibytes(one.bytes)),
        format!("{:.0}", milliseconds(one.times.percentile(50))),
        format!("{:.0}", milliseconds(one.times.percentile(99))),
        format!("{:.1}", mebibytes(one.bytes_per_second())),
        format!("{:.1}", one.envoys_cpu_ms()),
        format!("{:.0}", one.thanos_cpu_ms()),
        format!(
            "{:.2}",
            one.times.percentile(50).as_secs_f64() / direct.times.percentile(50).as_secs_f64()
        ),
        format!("{:.2}", mebibytes(one.bytes_per_second()) / mebibytes(direct.bytes_per_second())),
    ]
}

fn json_row(one: &Measured, data: &Data) -> Value {
    json!({
        "case": one.question.name(), "path": one.path.name(), "parallel": one.parallel, "times": one.times.count(),
        "series": data.series, "samples": data.total(), "bytes": one.bytes, "bytes_per_s": one.bytes_per_second(),
        "p50_ms": milliseconds(one.times.percentile(50)), "p99_ms": milliseconds(one.times.percentile(99)),
        "envoys_cpu_ms": one.envoys_cpu_ms(), "thanos_cpu_ms": one.thanos_cpu_ms(),
    })
}

//! Test data for a Prometheus: blocks that `promtool` makes from an OpenMetrics text, without
//! scraping.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use atlas_lab::parts::{self, Part};
use atlas_lab::world::Host;

/// The name of all series.
pub(super) const METRIC: &str = "bench_load";
/// Length of a Prometheus block in seconds. Blocks start at multiples of it.
const BLOCK: u64 = 7200;

/// The amount of data and its time range.
pub(super) struct Data {
    /// Time series.
    pub series: u32,
    /// Samples of each.
    pub samples: u32,
    /// The first moment after all samples, in seconds since 1970; they lie in the two hours before.
    pub end: u64,
}

impl Data {
    /// Data within the last whole block before now.
    ///
    /// # Errors
    /// The clock is before 1970.
    pub(super) fn new(series: u32, samples: u32) -> Result<Self> {
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .context("the clock stands before 1970: set it")?
            .as_secs();
        Ok(Self { series, samples, end: now / BLOCK * BLOCK })
    }

    /// The first moment, in seconds since 1970.
    pub(super) fn start(&self) -> u64 {
        self.end - BLOCK
    }

    /// All samples of all series.
    pub(super) fn total(&self) -> u64 {
        u64::from(self.series) * u64::from(self.samples)
    }

    /// Writes it as blocks into the data directory of a Prometheus that hasn't started yet.
    ///
    /// # Errors
    /// It can't be written, or `promtool` fails.
    pub(super) fn write_blocks(&self, host: &Host, directory: &Path) -> Result<()> {
        let text = host.dir().join("bench.om");
        self.write_text(&text)
            .with_context(|| format!("cannot write {}: is the disk full?", text.display()))?;
        std::fs::create_dir_all(directory)
            .with_context(|| format!("cannot make {}", directory.display()))?;
        // Debian's package of Prometheus has both programs.
        let promtool = parts::get(Part::PrometheusClassic)?.with_file_name("promtool");
        let mut command = Command::new(promtool);
        command
            .args(["tsdb", "create-blocks-from", "openmetrics", "--quiet"])
            .arg(&text)
            .arg(directory);
        host.run(&command).context("promtool makes no blocks")?;
        std::fs::remove_file(&text).with_context(|| format!("cannot remove {}", text.display()))
    }

    /// Labels are as long as those of a usual Pod metric. Values are a random walk, which
    /// compresses like measured values, to some bytes per sample.
    fn write_text(&self, file: &Path) -> Result<()> {
        let mut text = BufWriter::new(File::create(file)?);
        let mut random = Random(0x9e37_79b9_7f4a_7c15);
        writeln!(text, "# TYPE {METRIC} gauge")?;
        for series in 0..self.series {
            let (pod, namespace) = (series / 4, series % 40);
            let labels = format!(
                "namespace=\"team-{namespace}\",pod=\"service-{pod:05}-6d4cf56db6-x{pod:04x}\",container=\"main\",node=\"node-{:03}\",\
                 instance=\"10.{}.{}.{}:8080\",job=\"services\",part=\"{}\"",
                pod % 200,
                namespace,
                pod / 250 % 250,
                pod % 250,
                series % 4
            );
            let mut value = f64::from(random.below(1_000_000)) / 1e3;
            for sample in 0..self.samples {
                value += (f64::from(random.below(20_000)) - 10_000.0) / 1e3;
                // Each sample is in the middle of its share of the block.
                let offset =
                    (u64::from(sample) * 2 + 1) * BLOCK * 1000 / (u64::from(self.samples) * 2);
                let time = self.start() * 1000 + offset;
                writeln!(
                    text,
                    "{METRIC}{{{labels}}} {value:.3} {}.{:03}",
                    time / 1000,
                    time % 1000
                )?;
            }
        }
        writeln!(text, "# EOF")?;
        text.flush().map_err(Into::into)
    }
}

/// Pseudorandom numbers (xorshift), the same in every run, so that runs are comparable.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u32) -> u32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        u32::try_from(((self.0 >> 32) * u64::from(limit)) >> 32).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_sample_lies_within_the_block_and_no_series_is_there_twice() {
        let dir = tempfile::tempdir().unwrap();
        let data = Data::new(500, 7).unwrap();
        data.write_text(&dir.path().join("text")).unwrap();
        let text = std::fs::read_to_string(dir.path().join("text")).unwrap();
        let lines: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
        assert_eq!(lines.len() as u64, data.total());
        let series: std::collections::BTreeSet<&str> =
            lines.iter().map(|line| line.split_once("} ").unwrap().0).collect();
        assert_eq!(series.len(), 500);
        for line in lines {
            let time: f64 = line.rsplit_once(' ').unwrap().1.parse().unwrap();
            assert!(time > data.start() as f64 && time < data.end as f64, "{line}");
        }
    }
}

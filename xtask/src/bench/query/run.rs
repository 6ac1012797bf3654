//! Makes queries on both paths in turn.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use atlas_lab::http::{self, Response};
use serde_json::Value;

use super::super::cost::{Times, milliseconds};
use super::data::{Data, METRIC};
use super::paths::{Paths, Way};

/// Time limit of an answer: Query's own is two minutes.
const ANSWER: Duration = Duration::from_secs(120);
/// Unmeasured answers at the start, while connections are opened and memory grows.
const WARM: u32 = 3;

/// A query.
#[derive(Clone, Copy)]
pub(super) enum Question {
    /// The number of all samples of all series: all chunks pass through the path, and only the
    /// number from Query to this program.
    Samples,
    /// The labels of every series, without samples.
    Series,
}

impl Question {
    /// Its name in tables and JSON.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Samples => "samples",
            Self::Series => "series",
        }
    }

    fn path(self, data: &Data) -> String {
        let exactly = "dedup=false&partial_response=false";
        match self {
            // Blanks and brackets are percent-encoded. The range excludes its start and includes
            // its end.
            Self::Samples => format!(
                "/api/v1/query?query=sum%28count_over_time%28{METRIC}%5B2h%5D%29%29&time={}&{exactly}",
                data.end
            ),
            Self::Series => {
                format!(
                    "/api/v1/series?match%5B%5D={METRIC}&start={}&end={}&{exactly}",
                    data.start(),
                    data.end
                )
            }
        }
    }

    /// Fails for an incomplete answer, which would look like a fast one.
    fn check(self, data: &Data, answer: &Value) -> Result<()> {
        match self {
            Self::Samples => {
                let value = answer["data"]["result"][0]["value"][1]
                    .as_str()
                    .and_then(|text| text.parse::<f64>().ok());
                let value = value.with_context(|| format!("no number in the answer {answer}"))?;
                ensure!(
                    (value - total(data)).abs() < 0.5,
                    "the answer counts {value} samples, {} are there",
                    data.total()
                );
            }
            Self::Series => {
                let count = answer["data"].as_array().map_or(0, Vec::len);
                ensure!(
                    count == data.series as usize,
                    "the answer has {count} series, {} are there",
                    data.series
                );
            }
        }
        Ok(())
    }
}

#[expect(clippy::cast_precision_loss, reason = "far below 2^53")]
fn total(data: &Data) -> f64 {
    data.total() as f64
}

/// The costs of one query on one path.
pub(super) struct Measured {
    pub question: Question,
    /// Concurrent queries.
    pub parallel: usize,
    pub path: Way,
    /// From connecting to Query to the last byte of its answer.
    pub times: Times,
    /// Total time of the queries, without the pauses.
    pub busy: Duration,
    /// HTTP/2 bytes from the sidecar for one answer.
    pub bytes: u64,
    /// CPU time of both Envoys for all answers.
    envoys_cpu: Duration,
    /// CPU time of Query and sidecar for all answers.
    thanos_cpu: Duration,
}

impl Measured {
    /// Bytes per second of all concurrent answers together.
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "bytes, far below 2^53"
    )]
    pub(super) fn bytes_per_second(&self) -> u64 {
        (self.bytes as f64 * self.times.count() as f64 / self.busy.as_secs_f64()) as u64
    }

    /// For each answer.
    pub(super) fn envoys_cpu_ms(&self) -> f64 {
        self.each(self.envoys_cpu)
    }

    /// For each answer.
    pub(super) fn thanos_cpu_ms(&self) -> f64 {
        self.each(self.thanos_cpu)
    }

    #[expect(clippy::cast_precision_loss, reason = "a small number of questions")]
    fn each(&self, cpu: Duration) -> f64 {
        (milliseconds(cpu) / self.times.count() as f64 * 1e3).round() / 1e3
    }
}

/// Makes the same query on both paths in turn, `parallel` at a time, until each has answered
/// `times` times. Returns the direct path first; the order of the queries alternates.
///
/// # Errors
/// An answer fails or isn't complete.
pub(super) fn alternate(
    paths: &Paths,
    data: &Data,
    question: Question,
    times: u32,
    parallel: usize,
) -> Result<Vec<Measured>> {
    let path = question.path(data);
    for way in [Way::Direct, Way::Envoys] {
        for _ in 0..WARM {
            let (_, answer) =
                ask(paths, way, &path).with_context(|| format!("the {} path", way.name()))?;
            question
                .check(data, &answer.json()?)
                .with_context(|| format!("the {} path", way.name()))?;
        }
    }
    let before = paths.received()?;
    ask(paths, Way::Envoys, &path)?;
    let bytes = paths.received()? - before;
    let start = |way| Measured {
        question,
        parallel,
        path: way,
        times: Times::default(),
        busy: Duration::ZERO,
        bytes,
        envoys_cpu: Duration::ZERO,
        thanos_cpu: Duration::ZERO,
    };
    let (mut direct, mut envoys) = (start(Way::Direct), start(Way::Envoys));
    let mut direct_first = true;
    while envoys.times.count() < times as usize {
        let mut pair = [&mut direct, &mut envoys];
        if !direct_first {
            pair.reverse();
        }
        for measured in pair {
            turn(paths, data, &path, measured)
                .with_context(|| format!("the {} path", measured.path.name()))?;
        }
        direct_first = !direct_first;
    }
    Ok(vec![direct, envoys])
}

/// Makes `parallel` concurrent queries on one path.
fn turn(paths: &Paths, data: &Data, path: &str, measured: &mut Measured) -> Result<()> {
    let (envoys, thanos) = (paths.envoys_cpu()?, paths.thanos_cpu(measured.path)?);
    let began = Instant::now();
    let answers: Vec<Result<(Duration, Response)>> = std::thread::scope(|scope| {
        let asking: Vec<_> = (0..measured.parallel)
            .map(|_| scope.spawn(|| ask(paths, measured.path, path)))
            .collect();
        asking
            .into_iter()
            .map(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .collect()
    });
    measured.busy += began.elapsed();
    measured.envoys_cpu += paths.envoys_cpu()?.saturating_sub(envoys);
    measured.thanos_cpu += paths.thanos_cpu(measured.path)?.saturating_sub(thanos);
    for answer in answers {
        let (took, answer) = answer?;
        measured.question.check(data, &answer.json()?)?;
        measured.times.push(took);
    }
    Ok(())
}

/// Makes one query; returns its answer and its duration.
fn ask(paths: &Paths, way: Way, path: &str) -> Result<(Duration, Response)> {
    let url = format!("{}{path}", paths.url(way));
    paths.host().within(|| {
        let began = Instant::now();
        let answer = http::get_within(ANSWER, &url)?.ok()?;
        Ok((began.elapsed(), answer))
    })
}

//! Asks both paths in turn.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use atlas_lab::http::{self, Response};
use serde_json::Value;

use super::super::cost::{Times, milliseconds};
use super::data::{Data, METRIC};
use super::paths::{Paths, Way};

/// How long an answer may take: Query's own limit is two minutes.
const ANSWER: Duration = Duration::from_secs(120);
/// Answers before the first that counts: connections open, memory grows.
const WARM: u32 = 3;

/// What is asked for.
#[derive(Clone, Copy)]
pub(super) enum Question {
    /// Every sample of every series, of which the answer is one number: all chunks go over the
    /// paths, nothing but the number from Query to us.
    Samples,
    /// The labels of every series, without samples.
    Series,
}

impl Question {
    /// For tables and JSON.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Samples => "samples",
            Self::Series => "series",
        }
    }

    fn path(self, data: &Data) -> String {
        let exactly = "dedup=false&partial_response=false";
        match self {
            // Blanks and brackets are encoded; the range excludes its first moment and includes its
            // last.
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

    /// An answer that lacks something must not count as a fast one.
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

/// What one kind of question cost on one path.
pub(super) struct Measured {
    pub question: Question,
    /// Questions at a time.
    pub parallel: usize,
    pub path: Way,
    /// From connecting to Query to the last byte of its answer.
    pub times: Times,
    /// While it was asked, without the pauses.
    pub busy: Duration,
    /// Bytes that one answer takes on the way from the sidecar, as HTTP/2.
    pub bytes: u64,
    /// CPU time of both Envoys, of all answers together.
    envoys_cpu: Duration,
    /// CPU time of Query and sidecar.
    thanos_cpu: Duration,
}

impl Measured {
    /// Over all answers, those at the same time included.
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "bytes, far below 2^53"
    )]
    pub(super) fn bytes_per_second(&self) -> u64 {
        (self.bytes as f64 * self.times.count() as f64 / self.busy.as_secs_f64()) as u64
    }

    /// Of each answer.
    pub(super) fn envoys_cpu_ms(&self) -> f64 {
        self.each(self.envoys_cpu)
    }

    /// Of each answer.
    pub(super) fn thanos_cpu_ms(&self) -> f64 {
        self.each(self.thanos_cpu)
    }

    #[expect(clippy::cast_precision_loss, reason = "a small number of questions")]
    fn each(&self, cpu: Duration) -> f64 {
        (milliseconds(cpu) / self.times.count() as f64 * 1e3).round() / 1e3
    }
}

/// Asks the same question on both paths in turn, `parallel` at a time, until each has answered
/// `times` times. The direct path comes first in what is returned; which one is asked first changes
/// from turn to turn.
///
/// # Errors
/// An answer fails, or is not complete.
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

/// As many questions as go at a time, on one path.
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

/// One question: its answer, and how long that took.
fn ask(paths: &Paths, way: Way, path: &str) -> Result<(Duration, Response)> {
    let url = format!("{}{path}", paths.url(way));
    paths.host().within(|| {
        let began = Instant::now();
        let answer = http::get_within(ANSWER, &url)?.ok()?;
        Ok((began.elapsed(), answer))
    })
}

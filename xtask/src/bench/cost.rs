//! CPU time of processes as the kernel counts it, and percentiles of measured times.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

/// CPU time of a process's present threads, in nanoseconds (`/proc/PID/task/*/schedstat`; the 10 ms
/// ticks of `/proc/PID/stat` are too coarse for a single push). Envoy and Thanos keep their
/// threads, so no time is missing.
///
/// # Errors
/// There is no such process, or this kernel keeps no schedule statistics (`CONFIG_SCHED_INFO`).
pub(super) fn cpu_of_threads(pid: u32) -> Result<Duration> {
    let tasks = format!("/proc/{pid}/task");
    let mut nanoseconds = 0;
    for task in fs::read_dir(&tasks)
        .with_context(|| format!("cannot read {tasks}: has the process ended?"))?
    {
        let file = task?.path().join("schedstat");
        // A thread may end between the two readings.
        nanoseconds +=
            fs::read_to_string(&file).ok().and_then(|text| first_number(&text)).unwrap_or(0);
    }
    ensure!(
        nanoseconds > 0,
        "{tasks}/*/schedstat holds no times: this kernel needs CONFIG_SCHED_INFO"
    );
    Ok(Duration::from_nanos(nanoseconds))
}

/// CPU time of a process with its ended threads, in ticks of 10 ms (`/proc/PID/stat`). For programs
/// whose threads end, over many repetitions.
///
/// # Errors
/// There is no such process.
pub(super) fn cpu_of_process(pid: u32) -> Result<Duration> {
    let file = format!("/proc/{pid}/stat");
    let text = fs::read_to_string(&file)
        .with_context(|| format!("cannot read {file}: has the process ended?"))?;
    // The name in parentheses may contain blanks. Fields 14 and 15 of proc(5) are the 12th and 13th
    // after it.
    let fields: Vec<&str> = text
        .rsplit_once(')')
        .map(|(_, rest)| rest.split_whitespace().collect())
        .unwrap_or_default();
    let ticks: u64 =
        fields.iter().skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum();
    // USER_HZ is 100 on every architecture that Atlas runs on.
    Ok(Duration::from_millis(ticks * 10))
}

fn first_number(text: &str) -> Option<u64> {
    text.split_whitespace().next()?.parse().ok()
}

/// The machine's processors and their model.
pub(super) fn machine() -> String {
    let count = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    let info = fs::read_to_string(Path::new("/proc/cpuinfo")).unwrap_or_default();
    let model = info
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(": "))
        .map_or("unknown", |(_, model)| model);
    format!("{count} cores, {model}")
}

/// Many measured times.
#[derive(Debug, Default, Clone)]
pub(super) struct Times(Vec<Duration>);

impl Times {
    pub(super) fn push(&mut self, time: Duration) {
        let place = self.0.partition_point(|other| *other <= time);
        self.0.insert(place, time);
    }

    pub(super) fn count(&self) -> usize {
        self.0.len()
    }

    /// A percentile (nearest rank); zero if there are no times.
    pub(super) fn percentile(&self, per_cent: usize) -> Duration {
        let rank = (self.0.len() * per_cent).div_ceil(100).max(1);
        self.0.get(rank - 1).copied().unwrap_or_default()
    }
}

/// Milliseconds, rounded to the microsecond.
pub(super) fn milliseconds(time: Duration) -> f64 {
    (time.as_secs_f64() * 1e6).round() / 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_percentile_is_a_time_that_was_measured() {
        let mut times = Times::default();
        assert_eq!(times.percentile(99), Duration::ZERO);
        for milliseconds in [30, 10, 20, 40] {
            times.push(Duration::from_millis(milliseconds));
        }
        assert_eq!(
            [50, 99, 100, 0].map(|rank| times.percentile(rank).as_millis()),
            [20, 40, 40, 10]
        );
        assert_eq!(times.count(), 4);
    }

    #[test]
    fn both_clocks_see_this_process_work() {
        let pid = std::process::id();
        let before = (cpu_of_threads(pid).unwrap(), cpu_of_process(pid).unwrap());
        let began = std::time::Instant::now();
        while began.elapsed() < Duration::from_millis(300) {
            std::hint::black_box(began);
        }
        assert!(
            cpu_of_threads(pid).unwrap() - before.0 >= Duration::from_millis(20),
            "nanoseconds"
        );
        assert!(cpu_of_process(pid).unwrap() - before.1 >= Duration::from_millis(20), "ticks");
    }
}

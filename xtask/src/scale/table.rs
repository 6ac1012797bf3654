//! The measurements as rows (JSON) and as a table (Markdown).

use std::fmt::Write;
use std::time::Duration;

use serde::Serialize;

/// One case on one server. Messages, bytes and CPU time are the mean of one change.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// `atlas`, `go-control-plane` or an address.
    pub server: String,
    /// `delta` or `sotw`.
    pub variant: String,
    pub clusters: usize,
    pub case: String,
    pub messages: f64,
    pub bytes: f64,
    pub p50_ms: f64,
    pub p99_ms: f64,
    pub max_ms: f64,
    pub cpu_ms: f64,
    /// Resident memory after the case.
    pub rss_bytes: u64,
}

/// In milliseconds, rounded to the microsecond.
pub fn ms(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e6).round() / 1e3
}

/// The percentile `share` (0 to 1) of sorted times.
pub fn percentile(sorted: &[Duration], share: f64) -> Duration {
    let place = (sorted.len() as f64 * share).ceil() as usize;
    sorted
        .get(place.saturating_sub(1).min(sorted.len().saturating_sub(1)))
        .copied()
        .unwrap_or_default()
}

pub fn table(rows: &[Row]) -> String {
    let mut text = String::from(
        "| Server | Variant | Clusters | Case | Messages | Bytes | p50 ms | p99 ms | max ms | CPU ms | RSS MiB |\n\
         | --- | --- | ---: | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |\n",
    );
    for row in rows {
        let Row {
            server,
            variant,
            clusters,
            case,
            messages,
            bytes,
            p50_ms,
            p99_ms,
            max_ms,
            cpu_ms,
            rss_bytes,
        } = row;
        let mib = *rss_bytes as f64 / 1_048_576.0;
        let _ = writeln!(
            text,
            "| {server} | {variant} | {clusters} | {case} | {messages:.1} | {bytes:.0} | {p50_ms:.2} | {p99_ms:.2} | {max_ms:.2} | {cpu_ms:.2} | {mib:.1} |"
        );
    }
    text
}

/// A table of the first server's figures divided by the other's, for equal cases.
pub fn ratios(rows: &[Row], ours: &str, theirs: &str) -> String {
    let mut text = format!(
        "| {ours} / {theirs} | Clusters | Case | Messages | Bytes | p99 | CPU | RSS |\n| --- | ---: | --- | ---: | ---: | ---: | ---: | ---: |\n"
    );
    for our in rows.iter().filter(|row| row.server == ours) {
        let same = |row: &&Row| {
            row.server == theirs
                && (&row.variant, row.clusters, &row.case)
                    == (&our.variant, our.clusters, &our.case)
        };
        let Some(their) = rows.iter().find(same) else { continue };
        let ratio = |one: f64, other: f64| {
            if other > 0.0 { format!("{:.3}", one / other) } else { "–".into() }
        };
        let _ = writeln!(
            text,
            "| {} | {} | {} | {} | {} | {} | {} | {} |",
            our.variant,
            our.clusters,
            our.case,
            ratio(our.messages, their.messages),
            ratio(our.bytes, their.bytes),
            ratio(our.p99_ms, their.p99_ms),
            ratio(our.cpu_ms, their.cpu_ms),
            ratio(our.rss_bytes as f64, their.rss_bytes as f64),
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_percentile_is_one_of_the_times() {
        let times: Vec<Duration> = (1..=200).map(Duration::from_millis).collect();
        assert_eq!(percentile(&times, 0.5), Duration::from_millis(100));
        assert_eq!(percentile(&times, 0.99), Duration::from_millis(198));
        assert_eq!(percentile(&times, 1.0), Duration::from_millis(200));
        assert_eq!(percentile(&times[..1], 0.99), Duration::from_millis(1));
        assert_eq!(percentile(&[], 0.99), Duration::ZERO);
    }

    #[test]
    fn ratios_compare_equal_cases() {
        let row = |server: &str, cpu_ms| Row {
            server: server.into(),
            variant: "delta".into(),
            clusters: 100,
            case: "add".into(),
            messages: 1.0,
            bytes: 0.0,
            p50_ms: 1.0,
            p99_ms: 2.0,
            max_ms: 2.0,
            cpu_ms,
            rss_bytes: 1 << 20,
        };
        let text =
            ratios(&[row("a", 1.0), row("b", 4.0), Row { clusters: 7, ..row("b", 9.0) }], "a", "b");
        assert_eq!(text.lines().count(), 3, "{text}");
        assert!(
            text.contains("| delta | 100 | add | 1.000 | – | 1.000 | 0.250 | 1.000 |"),
            "{text}"
        );
    }
}

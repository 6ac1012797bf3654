//! How the values of flags are read, and how defaults are written.

use std::collections::BTreeMap;
use std::time::Duration;

use atlas_core::name::is_dns_label;

/// Reads a lifetime of at least a second: `7d`, `90m`, `2h 30m`.
pub fn lifetime(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(lifetime) if lifetime >= Duration::from_secs(1) => Ok(lifetime),
        Ok(_) => Err("at least one second".into()),
        Err(error) => Err(format!("{error}; write `7d`, `12h` or `30m`")),
    }
}

/// Reads a pause between 1 ms and 60 s: `100ms`, `2s`.
pub fn pause(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(pause) if (Duration::from_millis(1)..=Duration::from_secs(60)).contains(&pause) => {
            Ok(pause)
        }
        Ok(_) => Err("from 1ms to 60s".into()),
        Err(error) => Err(format!("{error}; write `100ms` or `2s`")),
    }
}

/// Reads a number that is not smaller than `LEAST`.
pub fn at_least<const LEAST: usize>(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(number) if number >= LEAST => Ok(number),
        Ok(_) => Err(format!("at least {LEAST}")),
        Err(error) => Err(format!("{error}; write a number without a unit")),
    }
}

/// Reads a name as Kubernetes' namespaces and Services have it. clap adds the flag and the value to
/// the error.
pub fn dns_label(text: &str) -> Result<String, String> {
    if is_dns_label(text) {
        return Ok(text.to_owned());
    }
    Err("is not a DNS label, which has at most 63 lower-case letters, digits and inner hyphens"
        .into())
}

/// A duration as people write it in a flag, in its largest unit that gives a whole number greater
/// than one: `7d`, `30m`, `60s`, `100ms`.
pub fn written(duration: Duration) -> String {
    const UNITS: [(&str, u128); 4] =
        [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000)];
    let milliseconds = duration.as_millis();
    for (unit, length) in UNITS {
        let number = milliseconds / length;
        if milliseconds.is_multiple_of(length) && (number > 1 || (number == 1 && unit == "s")) {
            return format!("{number}{unit}");
        }
    }
    format!("{milliseconds}ms")
}

/// Labels as a selector: `app=envoy,release=atlas`.
pub fn selector(labels: &BTreeMap<String, String>) -> String {
    let pairs: Vec<String> = labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
    pairs.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_is_written_in_its_largest_whole_unit() {
        let seconds = Duration::from_secs;
        for (duration, text) in [
            (seconds(7 * 86_400), "7d"),
            (seconds(1800), "30m"),
            (seconds(60), "60s"),
            (seconds(150), "150s"),
            (seconds(1), "1s"),
            (seconds(86_400), "24h"),
            (Duration::from_millis(100), "100ms"),
            (Duration::from_millis(1500), "1500ms"),
        ] {
            assert_eq!(written(duration), text);
            assert_eq!(humantime::parse_duration(text), Ok(duration));
        }
    }
}

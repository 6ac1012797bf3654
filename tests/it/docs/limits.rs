//! The reference's tables of limits against the limits that Envoys get.

use atlas_core::envoy::limits::{self, ListenerLimits, UpstreamLimits};

use super::*;

fn grouped(number: impl Into<u64>) -> String {
    let digits = number.into().to_string();
    let first = (digits.len() + 2) % 3 + 1;
    let groups = std::iter::once(&digits[..first])
        .chain((first..digits.len()).step_by(3).map(|at| &digits[at..at + 3]));
    groups.collect::<Vec<_>>().join(",")
}

fn listener(limits: ListenerLimits) -> String {
    let handshake = limits.handshake.map_or_else(|| "–".to_owned(), |seconds| seconds.to_string());
    format!(
        "| {} `{}` | {} | {handshake} | {} | {} | {} | {} | {} | {}, {} |",
        limits.port,
        limits.name,
        grouped(limits.connections),
        limits.headers,
        limits.request,
        limits.stream_idle,
        limits.idle,
        limits.streams,
        grouped(limits.stream_window >> 10),
        grouped(limits.connection_window >> 10),
    )
}

fn upstream((name, limits): (&str, UpstreamLimits)) -> String {
    let [connections, pending, requests, retries] =
        [limits.connections, limits.pending, limits.requests, limits.retries].map(grouped);
    format!("| {name} | {connections} | {pending} | {requests} | {retries} |")
}

#[test]
fn the_reference_has_the_limits_that_envoys_get() {
    let reference = std::fs::read_to_string(root().join("docs/reference.md")).unwrap();
    let head = |columns: &str| {
        format!("{columns}\n{}", "| --- ".repeat(columns.matches(" | ").count() + 1) + "|")
    };
    let listeners =
        std::iter::once(head("| Port | Connections | Handshake | Headers | Request | Stream idle | Idle | Streams | Windows |"))
            .chain(limits::listeners().into_iter().map(listener));
    let upstreams =
        std::iter::once(head("| Envoy cluster | Connections | Waiting | Requests | Retries |"))
            .chain(limits::upstreams().into_iter().map(upstream));
    for table in
        [listeners.collect::<Vec<_>>().join("\n"), upstreams.collect::<Vec<_>>().join("\n")]
    {
        assert!(reference.contains(&table), "docs/reference.md should say:\n{table}");
    }
}

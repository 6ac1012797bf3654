//! Whole-system tests: the real programs in a private world. One binary, since each one links
//! again.

mod browser;
mod changes;
mod charts;
mod cli;
mod clients;
mod dns;
mod docs;
mod far;
mod faults;
mod jobs;
mod kube;
mod kube_backup;
mod kube_cli;
mod kube_clusters;
mod kube_writer;
mod limits;
mod names;
mod no_ipv6;
mod protocol;
mod query;
mod services;
mod shown;
mod siege;
mod state;
mod trust;
mod validate;
mod web;
mod xds_memory;

use std::path::Path;

/// The Atlas under test.
fn atlas() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_atlas"))
}

/// The sum of a counter over all its labels, in what `/metrics` says.
fn sum(metrics: &str, name: &str) -> anyhow::Result<u64> {
    let samples: Vec<&str> = metrics
        .lines()
        .filter_map(|line| line.strip_prefix(name))
        .filter(|rest| rest.starts_with([' ', '{']))
        .collect();
    anyhow::ensure!(!samples.is_empty(), "no {name} in {metrics}");
    samples.iter().map(|rest| Ok(rest.rsplit(' ').next().unwrap_or_default().parse::<u64>()?)).sum()
}

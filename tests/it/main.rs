//! Whole-system tests: the real programs in a private world. One binary, since each one links again.

mod browser;
mod changes;
mod charts;
mod cli;
mod dns;
mod docs;
mod faults;
mod jobs;
mod kube;
mod kube_backup;
mod kube_cli;
mod kube_clusters;
mod kube_writer;
mod state;
mod trust;
mod validate;
mod web;

use std::path::Path;

/// The Atlas under test.
fn atlas() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_atlas"))
}

//! `atlas cluster-add`, `cluster-list`, `cluster-remove` and `cluster-values`: the clusters in a
//! directory of manifests (`--from`), or in the hub's Kubernetes cluster.
//!
//! In files a whole document is added, replaced or removed, and the text around it stays as it is.
//! Of a Service in Kubernetes only what the command was given is changed.

pub mod add;
mod edit;
mod hub;
pub mod list;
pub mod remove;
pub mod values;

use std::collections::BTreeSet;
use std::path::Path;

use atlas_core::manifest::{Manifest, Service};
use atlas_core::name::ClusterName;
use atlas_core::validate::is_cluster;
use clap::Args;

use super::output::wrong_usage;
use crate::standalone::watch::DirectoryContents;

/// The cluster's name, as `NAME` or, as in Atlas 0.3, as `--name NAME`.
#[derive(Debug, Args)]
struct NameArgs {
    /// The cluster's name: lower-case letters, digits and hyphens, at most 46 characters.
    #[arg(id = "cluster", value_name = "NAME", required_unless_present = "name")]
    cluster: Option<ClusterName>,
    /// The same as a flag, as in Atlas 0.3.
    #[arg(long, value_name = "NAME", env = "ATLAS_NAME")]
    name: Option<ClusterName>,
}

impl NameArgs {
    /// The name. Two different ones are an error, unless the second comes from the environment.
    fn get(&self) -> anyhow::Result<ClusterName> {
        let from_environment = |name: &ClusterName| {
            std::env::var("ATLAS_NAME").is_ok_and(|value| value == name.as_str())
        };
        match (&self.cluster, &self.name) {
            (Some(cluster), Some(name)) if cluster != name && !from_environment(name) => {
                Err(wrong_usage(format!(
                    "two names are given, {cluster} and {name}: leave out one of them"
                )))
            }
            (Some(name), _) | (None, Some(name)) => Ok(name.clone()),
            (None, None) => Err(wrong_usage("NAME is missing")),
        }
    }
}

/// The Services called `name`, clusters or not.
fn services<'a>(
    report: &'a DirectoryContents,
    name: &ClusterName,
) -> impl Iterator<Item = &'a Service> {
    let service = |manifest: &'a Manifest| {
        if let Manifest::Service(service) = manifest { Some(service) } else { None }
    };
    report
        .manifests
        .iter()
        .filter_map(service)
        .filter(move |service| service.meta.name == name.as_str())
}

/// The names of all Services that are clusters by their label.
fn names(report: &DirectoryContents) -> BTreeSet<String> {
    let name = |manifest: &Manifest| match manifest {
        Manifest::Service(service) if is_cluster(service) => Some(service.meta.name.clone()),
        _ => None,
    };
    report.manifests.iter().filter_map(name).collect()
}

/// File and line of a Service in the directory `dir`: `clusters/tokyo.yaml:4`.
fn place(dir: &Path, service: &Service) -> String {
    format!(
        "{}:{}",
        dir.join(file(service)).display(),
        service.meta.origin.line_of("metadata.name")
    )
}

/// The file of a Service, relative to the directory that was read.
fn file(service: &Service) -> &str {
    service.meta.origin.file.as_deref().unwrap_or_default()
}

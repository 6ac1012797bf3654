//! `atlas cluster-list`

use std::path::PathBuf;

use atlas_core::manifest::ManifestError;
use atlas_core::model::{Cluster, Fleet, StoreNames};
use atlas_core::ports;
use atlas_core::validate::{Finding, Severity, validate};
use clap::Args;
use serde::Serialize;

use crate::cli::Outcome;
use crate::cli::flags::kubernetes::KubeconfigArgs;
use crate::cli::flags::settings::SettingsArgs;
use crate::cli::output::{complain, print_json, show, wrong_usage};
use crate::cli::status::{Output, table};
use crate::kube::admin::Admin;
use crate::standalone::watch::{self, DirectoryContents};

const EXAMPLE: &str = "\
Example:
  atlas cluster-list                                             in the hub's Kubernetes cluster
  atlas cluster-list -o json | jq -r '.clusters[].name'
  atlas cluster-list --from clusters                             in a directory of manifests";

/// List the clusters: in the hub's Kubernetes cluster, or with --from in a directory of manifests
///
/// Needs no running Atlas. What is wrong with a cluster goes to standard error, and makes the exit
/// code 3.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLE)]
pub struct ClusterList {
    /// Directory of manifests, as in `atlas run`. Without it: the hub's Kubernetes cluster.
    #[arg(long, value_name = "DIR", env = "ATLAS_FROM")]
    from: Option<PathBuf>,
    /// How to print it.
    #[arg(short, long, value_enum, default_value = "text", env = "ATLAS_OUTPUT")]
    output: Output,
    #[command(flatten)]
    settings: SettingsArgs,
    #[command(flatten)]
    kubeconfig: KubeconfigArgs,
}

/// The list as JSON.
#[derive(Serialize)]
struct List {
    clusters: Vec<ClusterEntry>,
    errors: Vec<String>,
    findings: Vec<Finding>,
}

#[derive(Serialize)]
struct ClusterEntry {
    name: String,
    addresses: Vec<String>,
    stores: Vec<StoreEntry>,
}

#[derive(Serialize)]
struct StoreEntry {
    name: String,
    at: String,
    exact: bool,
}

impl ClusterList {
    /// Prints the clusters.
    pub fn run(self) -> anyhow::Result<Outcome> {
        let mut settings = self
            .settings
            .settings(ports::XDS, ports::WEB)
            .map_err(|error| wrong_usage(format!("{error:#}")))?;
        let report = match &self.from {
            Some(from) => watch::read_once(from)?,
            None => {
                settings.store_names = StoreNames::Services;
                DirectoryContents {
                    manifests: Admin::connect(&self.kubeconfig.access(), &settings.namespace)?
                        .clusters()?,
                    ..DirectoryContents::default()
                }
            }
        };
        let validation = validate(&settings, &report.manifests, None);
        match self.output {
            Output::Text => show(&table(rows(&validation.fleet)))?,
            Output::Json => {
                print_json(&json(&validation.fleet, &report.errors, &validation.findings))?
            }
        }
        let mut findings = validation.findings;
        findings.retain(|finding| !finding.is_about_the_hub());
        Ok(complain(&report.errors, &findings, Severity::Warning))
    }
}

fn rows(fleet: &Fleet) -> Vec<Vec<String>> {
    let row = |cluster: &Cluster| {
        let addresses: Vec<String> = cluster.addresses.iter().map(ToString::to_string).collect();
        let addresses =
            if addresses.is_empty() { "awaiting its address".into() } else { addresses.join(",") };
        vec![cluster.name.to_string(), cluster.stores.len().to_string(), addresses]
    };
    let head = ["CLUSTER", "STORES", "ADDRESSES"].map(String::from).to_vec();
    [head].into_iter().chain(fleet.clusters.values().map(|cluster| row(cluster))).collect()
}

fn json(fleet: &Fleet, errors: &[ManifestError], findings: &[Finding]) -> List {
    List {
        clusters: fleet.clusters.values().map(|cluster| entry(cluster)).collect(),
        errors: errors.iter().map(ToString::to_string).collect(),
        findings: findings.to_vec(),
    }
}

fn entry(cluster: &Cluster) -> ClusterEntry {
    let store = |store: &atlas_core::model::Store| StoreEntry {
        name: cluster.name.store(store.index),
        at: store.at.to_string(),
        exact: store.exact,
    };
    ClusterEntry {
        name: cluster.name.to_string(),
        addresses: cluster.addresses.iter().map(ToString::to_string).collect(),
        stores: cluster.stores.iter().map(store).collect(),
    }
}

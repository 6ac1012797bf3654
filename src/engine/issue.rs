//! Second step, where this process leads: certificates that are due are issued.

use std::collections::BTreeSet;

use anyhow::{Context, ensure};
use atlas_core::name::{ClusterName, Identity};
use atlas_core::pki::Time;
use atlas_core::validate::ManifestStore;

use crate::pki::{IssueReport, Pki, PkiStore, Subjects};
use crate::process::clock;

/// What was issued.
pub struct Issued {
    /// What was done, and what failed.
    pub report: IssueReport,
    /// When the next certificate of those that were looked at is due; `Time::MAX`: none ever.
    pub next_due: Time,
}

/// Issues what is due: of all clusters, or `only` of these.
///
/// # Errors
/// There is no root and none can be made, or Atlas has no certificate of its own.
pub fn issue<S: PkiStore>(
    pki: &mut Pki<S>,
    manifests: &ManifestStore,
    only: Option<&BTreeSet<ClusterName>>,
) -> anyhow::Result<Issued> {
    let fleet = manifests.fleet();
    let is_sound = |name: &&ClusterName| {
        fleet.clusters.contains_key(*name) && !pki.store().is_unreadable(name)
    };
    let (clusters, present): (BTreeSet<ClusterName>, BTreeSet<ClusterName>) = match only {
        Some(only) => (
            only.iter().filter(is_sound).cloned().collect(),
            only.iter()
                .filter(|name| manifests.services_of(name).next().is_some())
                .cloned()
                .collect(),
        ),
        None => (
            fleet.clusters.keys().filter(is_sound).cloned().collect(),
            manifests.cluster_names().collect(),
        ),
    };
    let subjects = Subjects { clusters: &clusters, present: &present, only };
    let report = pki.issue_due(&subjects, clock::now()).context("cannot issue certificates")?;
    ensure!(
        pki.leaf(&Identity::Atlas).is_some(),
        "Atlas has no certificate of its own: {}",
        report.problems().join("; ")
    );
    Ok(Issued { next_due: pki.next_due(&clusters).unwrap_or(Time::MAX), report })
}

//! Lets the result of a round take effect: the gate, the nodes, the log, and everyone who reads [`Published`].

use std::collections::BTreeSet;
use std::sync::Arc;

use anyhow::Context;
use atlas_core::intake::{Finding, Severity};
use atlas_core::manifest::ManifestError;
use atlas_core::model::Fleet;
use atlas_core::name::{ClusterName, Identity, NodeId};

use crate::ca::{Pki, Vault};
use crate::dns::ZoneVersion;
use crate::metrics::Metrics;
use crate::nodes::Nodes;
use crate::published::{Board, Published};
use crate::streams::Streams;
use crate::tls::Gate;

/// Where results go.
pub struct Publisher {
    /// The xDS port's gate.
    pub gate: Arc<Gate>,
    /// Open streams.
    pub streams: Arc<Streams>,
    /// What each node should have.
    pub nodes: Arc<Nodes>,
    /// Counts.
    pub metrics: Arc<Metrics>,
    /// Everyone else.
    pub board: Arc<Board>,
}

/// What a round came to.
pub struct Round<'a> {
    /// What was understood.
    pub fleet: &'a Fleet,
    /// The clusters that it was about; `None`: all.
    pub about: Option<&'a BTreeSet<ClusterName>>,
    /// How many nodes have something else from now on.
    pub changed: usize,
    /// What people should know about their objects; `None`: the same as before.
    pub findings: Option<Vec<Finding>>,
    /// Files that can't be read; `None`: the same as before.
    pub errors: Option<Vec<ManifestError>>,
    /// See [`Published::troubles`].
    pub troubles: Vec<String>,
    /// See [`Published::zone`].
    pub zone: ZoneVersion,
}

impl Publisher {
    /// Lets these certificates and credentials count: of all clusters, or of those that the round is about. `troubles` are why Atlas has
    /// none of its own, if so.
    ///
    /// # Errors
    /// Atlas has no certificate, or it is broken.
    pub fn open_gate<V: Vault>(
        &self,
        pki: &Pki<V>,
        about: Option<&BTreeSet<ClusterName>>,
        troubles: &[&str],
    ) -> anyhow::Result<()> {
        let own = pki.leaf(&Identity::Atlas);
        let own = own.with_context(|| {
            format!("Atlas has no certificate of its own: {}", troubles.join("; "))
        })?;
        let of = |name: &ClusterName| -> Vec<String> {
            pki.ledger()
                .credentials_of(name)
                .iter()
                .map(|credential| credential.fingerprint.clone())
                .collect()
        };
        match about {
            Some(about) => about.iter().for_each(|name| self.gate.count(name, of(name))),
            None => self
                .gate
                .count_only(pki.ledger().clusters().map(|name| (name.clone(), of(name))).collect()),
        }
        self.gate.serve_as(&own, &pki.trust([]).roots)
    }

    /// Lets a cluster's streams end, if none of its credentials counts. The gate first: an Envoy whose stream ends is back
    /// within a second.
    pub fn forget<V: Vault>(&self, cluster: &ClusterName, pki: &Pki<V>) {
        if !pki.ledger().has(cluster) {
            self.gate.count(cluster, Vec::new());
            self.streams.end(&NodeId::Cluster(cluster.clone()));
            tracing::info!(%cluster, "forgot the credentials of a removed cluster");
        }
    }

    /// Says why a round failed. All the rest stays.
    pub fn failed(&self, error: String) {
        self.metrics.failed_rounds.inc();
        self.board.change(|published| {
            let known = published.as_ref().and_then(|published| published.last_error.as_ref());
            // Once, however often it is tried again.
            if known != Some(&error) {
                tracing::error!(
                    error,
                    "this round failed; what was in force stays, and it is tried again"
                );
            }
            if let Some(published) = published {
                published.last_error = Some(error);
            }
        });
    }

    /// Posts what has taken effect.
    pub fn publish<V: Vault>(&self, pki: &Pki<V>, round: Round<'_>) {
        let (authorities, own_end) = pki.own_ends();
        self.board.change(|board| {
            let is_new = board.is_none();
            let published = board.get_or_insert_with(|| {
                Published::new(Fleet { clusters: Default::default(), ..round.fleet.clone() })
            });
            match round.about {
                Some(about) if !is_new => {
                    about.iter().for_each(|name| take_cluster(published, round.fleet, pki, name))
                }
                _ => {
                    published.fleet.clusters.clone_from(&round.fleet.clusters);
                    published.ends = round
                        .fleet
                        .clusters
                        .keys()
                        .cloned()
                        .map(NodeId::Cluster)
                        .map(|node| (node.clone(), pki.ends(&node)))
                        .collect();
                }
            }
            published.fleet.alertmanagers.clone_from(&round.fleet.alertmanagers);
            published.ends.insert(NodeId::Hub, pki.ends(&NodeId::Hub));
            (published.authorities, published.own_end, published.zone, published.last_error) =
                (authorities, own_end, round.zone, None);
            announce(published, &round);
            round.findings.into_iter().for_each(|findings| published.findings = findings);
            round.errors.into_iter().for_each(|errors| published.errors = errors);
            published.troubles = round.troubles;
            if round.changed > 0 || is_new {
                let clusters = published.fleet.clusters.len();
                tracing::info!(
                    clusters,
                    nodes = round.changed,
                    rejected = published.rejected(),
                    "a new plan is in force"
                );
            }
        });
    }
}

fn take_cluster<V: Vault>(
    published: &mut Published,
    fleet: &Fleet,
    pki: &Pki<V>,
    name: &ClusterName,
) {
    let node = NodeId::Cluster(name.clone());
    match fleet.clusters.get(name) {
        Some(cluster) => {
            published.fleet.clusters.insert(name.clone(), Arc::clone(cluster));
            published.ends.insert(node.clone(), pki.ends(&node));
        }
        None => {
            published.fleet.clusters.remove(name);
            published.ends.remove(&node);
        }
    }
}

/// Says in the log what is newly wrong, once.
fn announce(before: &Published, round: &Round<'_>) {
    let known: BTreeSet<&Finding> = before.findings.iter().collect();
    for finding in round.findings.iter().flatten().filter(|finding| !known.contains(finding)) {
        match finding.severity {
            Severity::Rejected | Severity::FellBack => tracing::warn!("{finding}"),
            Severity::Note => tracing::info!("{finding}"),
        }
    }
    for error in round.errors.iter().flatten().filter(|error| !before.errors.contains(error)) {
        tracing::warn!("{error}");
    }
    for trouble in round.troubles.iter().filter(|trouble| !before.troubles.contains(trouble)) {
        tracing::error!("{trouble}");
    }
}

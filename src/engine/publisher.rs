//! Lets the result of a round take effect: the client_authorizer, the nodes, the log, and everyone who reads [`PublishedState`].

use std::collections::BTreeSet;
use std::sync::Arc;

use anyhow::Context;
use atlas_core::manifest::ManifestError;
use atlas_core::model::Fleet;
use atlas_core::name::{ClusterName, Identity, NodeId};
use atlas_core::validate::{Finding, Severity};

use crate::metrics::Metrics;
use crate::pki::{Pki, PkiStore};
use crate::state::{Nodes, PublishedState, StateStore, ZoneVersion};
use crate::xds::ClientAuthorizer;
use crate::xds::streams::Streams;

/// Where results go.
pub struct Publisher {
    /// The xDS port's client_authorizer.
    pub client_authorizer: Arc<ClientAuthorizer>,
    /// Open streams.
    pub streams: Arc<Streams>,
    /// What each node should have.
    pub nodes: Arc<Nodes>,
    /// Counts.
    pub metrics: Arc<Metrics>,
    /// Everyone else.
    pub state_store: Arc<StateStore>,
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
    /// See [`PublishedState::problems`].
    pub problems: Vec<String>,
    /// See [`PublishedState::zone`].
    pub zone: ZoneVersion,
}

impl Publisher {
    /// Lets these certificates and credentials count: of all clusters, or of those that the round is about. `problems` are why Atlas has
    /// none of its own, if so.
    ///
    /// # Errors
    /// Atlas has no certificate, or it is broken.
    pub fn install_credentials<V: PkiStore>(
        &self,
        pki: &Pki<V>,
        about: Option<&BTreeSet<ClusterName>>,
        problems: &[&str],
    ) -> anyhow::Result<()> {
        let own = pki.leaf(&Identity::Atlas);
        let own = own.with_context(|| {
            format!("Atlas has no certificate of its own: {}", problems.join("; "))
        })?;
        let of = |name: &ClusterName| -> Vec<String> {
            pki.ledger()
                .credentials_of(name)
                .iter()
                .map(|credential| credential.fingerprint.clone())
                .collect()
        };
        match about {
            Some(about) => {
                about.iter().for_each(|name| self.client_authorizer.allow(name, of(name)))
            }
            None => self.client_authorizer.replace_allowed(
                pki.ledger().clusters().map(|name| (name.clone(), of(name))).collect(),
            ),
        }
        self.client_authorizer.install_certificate(&own, &pki.trust_for([]).roots)
    }

    /// Lets a cluster's streams end, if none of its credentials counts. The client_authorizer first: an Envoy whose stream ends is back
    /// within a second.
    pub fn forget<V: PkiStore>(&self, cluster: &ClusterName, pki: &Pki<V>) {
        if !pki.ledger().has_credentials(cluster) {
            self.client_authorizer.allow(cluster, Vec::new());
            self.streams.close_node(&NodeId::Cluster(cluster.clone()));
            tracing::info!(%cluster, "forgot the credentials of a removed cluster");
        }
    }

    /// Says why a round failed. All the rest stays.
    pub fn failed(&self, error: String) {
        self.metrics.failed_rounds.inc();
        self.state_store.change(|published| {
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
    pub fn publish<V: PkiStore>(&self, pki: &Pki<V>, round: Round<'_>) {
        let (authorities, own_expiry) = pki.own_expiries();
        self.state_store.change(|state_store| {
            let is_new = state_store.is_none();
            let published = state_store.get_or_insert_with(|| {
                PublishedState::new(Fleet { clusters: Default::default(), ..round.fleet.clone() })
            });
            match round.about {
                Some(about) if !is_new => {
                    about.iter().for_each(|name| take_cluster(published, round.fleet, pki, name))
                }
                _ => {
                    published.fleet.clusters.clone_from(&round.fleet.clusters);
                    published.expiries = round
                        .fleet
                        .clusters
                        .keys()
                        .cloned()
                        .map(NodeId::Cluster)
                        .map(|node| (node.clone(), pki.expiries(&node)))
                        .collect();
                }
            }
            published.fleet.alertmanagers.clone_from(&round.fleet.alertmanagers);
            published.expiries.insert(NodeId::Hub, pki.expiries(&NodeId::Hub));
            (published.authorities, published.own_expiry, published.zone, published.last_error) =
                (authorities, own_expiry, round.zone, None);
            announce(published, &round);
            round.findings.into_iter().for_each(|findings| published.findings = findings);
            round.errors.into_iter().for_each(|errors| published.errors = errors);
            published.problems = round.problems;
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

fn take_cluster<V: PkiStore>(
    published: &mut PublishedState,
    fleet: &Fleet,
    pki: &Pki<V>,
    name: &ClusterName,
) {
    let node = NodeId::Cluster(name.clone());
    match fleet.clusters.get(name) {
        Some(cluster) => {
            published.fleet.clusters.insert(name.clone(), Arc::clone(cluster));
            published.expiries.insert(node.clone(), pki.expiries(&node));
        }
        None => {
            published.fleet.clusters.remove(name);
            published.expiries.remove(&node);
        }
    }
}

/// Says in the log what is newly wrong, once.
fn announce(before: &PublishedState, round: &Round<'_>) {
    let known: BTreeSet<&Finding> = before.findings.iter().collect();
    for finding in round.findings.iter().flatten().filter(|finding| !known.contains(finding)) {
        match finding.severity {
            Severity::Rejected | Severity::FellBack | Severity::Warning => {
                tracing::warn!("{finding}")
            }
            Severity::Note => tracing::info!("{finding}"),
        }
    }
    for error in round.errors.iter().flatten().filter(|error| !before.errors.contains(error)) {
        tracing::warn!("{error}");
    }
    for problem in round.problems.iter().filter(|problem| !before.problems.contains(problem)) {
        tracing::error!("{problem}");
    }
}

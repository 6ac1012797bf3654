//! Where the result of a reconcile takes effect: the client authorizer, the nodes, the log, and all
//! who read [`PublishedState`].

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
use crate::xds::open_streams::Streams;

/// Publishes the result of each reconcile.
pub struct Publisher {
    /// Who may open a stream on the xDS port.
    pub client_authorizer: Arc<ClientAuthorizer>,
    /// Open streams.
    pub streams: Arc<Streams>,
    /// What each node should have.
    pub nodes: Arc<Nodes>,
    /// Counts.
    pub metrics: Arc<Metrics>,
    /// What people, DNS and metrics read.
    pub state_store: Arc<StateStore>,
}

/// What a reconcile came to, for people, DNS and metrics.
pub struct Publication<'a> {
    /// The fleet in force.
    pub fleet: &'a Fleet,
    /// The clusters of which something may differ; `None`: all.
    pub about: Option<&'a BTreeSet<ClusterName>>,
    /// How many nodes have other resources than before.
    pub changed: usize,
    /// What is wrong or worth knowing about manifests; `None`: the same as before.
    pub findings: Option<Vec<Finding>>,
    /// Files that can't be read; `None`: the same as before.
    pub errors: Option<Vec<ManifestError>>,
    /// See [`PublishedState::problems`].
    pub problems: Vec<String>,
    /// See [`PublishedState::zone`].
    pub zone: ZoneVersion,
}

impl Publisher {
    /// Installs the server certificate and the accepted client fingerprints: of all clusters, or
    /// `only` of these.
    ///
    /// # Errors
    /// Atlas has no certificate, or it is broken.
    pub fn install_credentials<S: PkiStore>(
        &self,
        pki: &Pki<S>,
        only: Option<&BTreeSet<ClusterName>>,
    ) -> anyhow::Result<()> {
        let own = pki.leaf(&Identity::Atlas).context("Atlas has no certificate of its own")?;
        let of = |name: &ClusterName| -> Vec<String> {
            pki.ledger()
                .credentials_of(name)
                .iter()
                .map(|credential| credential.fingerprint.clone())
                .collect()
        };
        match only {
            Some(only) => {
                for name in only {
                    self.client_authorizer.allow(name, of(name));
                }
            }
            None => self.client_authorizer.replace_allowed(
                pki.ledger().clusters().map(|name| (name.clone(), of(name))).collect(),
            ),
        }
        self.client_authorizer.install_certificate(&own, &pki.trust_for([]).roots)
    }

    /// Ends a cluster's streams, if no credential of it is accepted any more. It is refused first:
    /// an Envoy whose stream ends is back within a second.
    pub fn forget<S: PkiStore>(&self, cluster: &ClusterName, pki: &Pki<S>) {
        if !pki.ledger().has_credentials(cluster) {
            self.client_authorizer.allow(cluster, Vec::new());
            self.streams.close_node(&NodeId::Cluster(cluster.clone()));
            tracing::info!(%cluster, "forgot the credentials of a removed cluster");
        }
    }

    /// Says why a reconcile failed. All the rest stays.
    pub fn failed(&self, error: String) {
        self.metrics.failed_reconciles.inc();
        self.state_store.change(|published| {
            let known = published.as_ref().and_then(|published| published.last_error.as_ref());
            // Once, however often it is tried again.
            if known != Some(&error) {
                tracing::error!(
                    error,
                    "this reconcile failed; what was in force stays, and it is tried again"
                );
            }
            if let Some(published) = published {
                published.last_error = Some(error);
            }
        });
    }

    /// Publishes what has taken effect.
    pub fn publish<S: PkiStore>(&self, pki: &Pki<S>, publication: Publication<'_>) {
        let (authorities, own_expiry) = pki.own_expiries();
        self.state_store.change(|state| {
            let is_new = state.is_none();
            let published = state.get_or_insert_with(|| {
                PublishedState::new(Fleet {
                    clusters: Default::default(),
                    ..publication.fleet.clone()
                })
            });
            match publication.about {
                Some(about) if !is_new => {
                    for name in about {
                        publish_cluster(published, publication.fleet, pki, name);
                    }
                }
                _ => {
                    published.fleet.clusters.clone_from(&publication.fleet.clusters);
                    published.expiries = publication
                        .fleet
                        .clusters
                        .keys()
                        .cloned()
                        .map(NodeId::Cluster)
                        .map(|node| (node.clone(), pki.expiries(&node)))
                        .collect();
                }
            }
            published.fleet.alertmanagers.clone_from(&publication.fleet.alertmanagers);
            published.expiries.insert(NodeId::Hub, pki.expiries(&NodeId::Hub));
            (published.authorities, published.own_expiry, published.zone, published.last_error) =
                (authorities, own_expiry, publication.zone, None);
            log_differences(published, &publication);
            if let Some(findings) = publication.findings {
                published.findings = findings;
            }
            if let Some(errors) = publication.errors {
                published.errors = errors;
            }
            published.problems = publication.problems;
            if publication.changed > 0 || is_new {
                let clusters = published.fleet.clusters.len();
                tracing::info!(
                    clusters,
                    nodes = publication.changed,
                    rejected = published.rejected(),
                    "a new plan is in force"
                );
            }
        });
    }
}

fn publish_cluster<S: PkiStore>(
    published: &mut PublishedState,
    fleet: &Fleet,
    pki: &Pki<S>,
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

/// Logs what is newly wrong, once.
fn log_differences(before: &PublishedState, publication: &Publication<'_>) {
    let known: BTreeSet<&Finding> = before.findings.iter().collect();
    for finding in publication.findings.iter().flatten().filter(|finding| !known.contains(finding))
    {
        match finding.severity {
            Severity::Rejected | Severity::FellBack | Severity::Warning => {
                tracing::warn!("{finding}")
            }
            Severity::Note => tracing::info!("{finding}"),
        }
    }
    for error in publication.errors.iter().flatten().filter(|error| !before.errors.contains(error))
    {
        tracing::warn!("{error}");
    }
    for problem in publication.problems.iter().filter(|problem| !before.problems.contains(problem))
    {
        tracing::error!("{problem}");
    }
}

//! Lets the result of a round take effect: the gate, the metrics, the log, and everyone who reads [`Published`].

use std::collections::HashSet;
use std::sync::Arc;

use anyhow::Context;
use atlas_core::intake::Severity;
use atlas_core::name::{ClusterName, Identity, NodeId};
use tokio::sync::watch;

use crate::ca::{Credential, Pki};
use crate::metrics::Metrics;
use crate::published::Published;
use crate::streams::Streams;
use crate::tls::Gate;

/// Where results go.
pub struct Publisher {
    /// The xDS port's gate.
    pub gate: Arc<Gate>,
    /// Open streams.
    pub streams: Arc<Streams>,
    /// Counts.
    pub metrics: Arc<Metrics>,
    /// Everyone else.
    pub out: watch::Sender<Option<Arc<Published>>>,
}

impl Publisher {
    /// What is in force.
    pub fn last(&self) -> Option<Arc<Published>> {
        self.out.borrow().clone()
    }

    /// Lets these certificates and credentials count. `troubles` are why Atlas has none of its own, if so.
    ///
    /// # Errors
    /// Atlas has no certificate, or it is broken.
    pub fn open_gate<V: crate::ca::Vault>(&self, pki: &Pki<V>, troubles: &[&str]) -> anyhow::Result<()> {
        let own = pki.leaf(&Identity::Atlas);
        let own = own.with_context(|| format!("Atlas has no certificate of its own: {}", troubles.join("; ")))?;
        let fingerprints: HashSet<String> = pki.ledger().credentials().map(|credential| credential.fingerprint.clone()).collect();
        self.gate.open(&own, &pki.trust().roots, fingerprints)
    }

    /// Lets a cluster's streams end, if none of its credentials counts. The gate first: an Envoy whose stream ends is back
    /// within a second.
    pub fn forget<'a>(&self, cluster: &ClusterName, counting: impl Iterator<Item = &'a Credential>) {
        let counting: Vec<&Credential> = counting.collect();
        if counting.iter().all(|credential| credential.cluster != cluster.as_str()) {
            self.gate.count_only(counting.iter().map(|credential| credential.fingerprint.clone()).collect());
            self.streams.end(&NodeId::Cluster(cluster.clone()));
            tracing::info!(%cluster, "forgot the credentials of a removed cluster");
        }
    }

    /// Says why a round failed. All the rest stays.
    pub fn failed(&self, error: String) {
        self.metrics.failed_rounds.inc();
        // Once, however often it is tried again.
        if self.out.borrow().as_ref().is_none_or(|last| last.last_error.as_ref() != Some(&error)) {
            tracing::error!(error, "this round failed; what was in force stays, and it is tried again");
        }
        self.out.send_if_modified(|last| match last {
            Some(published) if published.last_error.as_ref() != Some(&error) => {
                Arc::make_mut(published).last_error = Some(error);
                true
            }
            _ => false,
        });
    }

    /// Lets a result take effect.
    pub fn publish(&self, published: Published) {
        self.announce(&published);
        self.count(&published);
        let fleet = &published.fleet;
        let known = self.out.borrow().as_ref().map(|known| known.plan == published.plan);
        if known != Some(true) {
            let stores: usize = fleet.clusters.values().map(|cluster| cluster.stores.len()).sum();
            tracing::info!(clusters = fleet.clusters.len(), stores, rejected = published.rejected(), "a new plan is in force");
        }
        self.out.send_replace(Some(Arc::new(published)));
    }

    /// Says in the log what is newly wrong, once.
    fn announce(&self, published: &Published) {
        let before = self.out.borrow();
        let known = before.as_ref();
        for finding in published.findings.iter().filter(|finding| known.is_none_or(|known| !known.findings.contains(finding))) {
            match finding.severity {
                Severity::Rejected | Severity::FellBack => tracing::warn!("{finding}"),
                Severity::Note => tracing::info!("{finding}"),
            }
        }
        for error in published.errors.iter().filter(|error| known.is_none_or(|known| !known.errors.contains(error))) {
            tracing::warn!("{error}");
        }
        for trouble in published.troubles.iter().filter(|trouble| known.is_none_or(|known| !known.troubles.contains(trouble))) {
            tracing::error!("{trouble}");
        }
    }

    fn count(&self, published: &Published) {
        let fleet = &published.fleet;
        let stores = || fleet.clusters.values().flat_map(|cluster| &cluster.stores);
        let count = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
        self.metrics.clusters.set(count(fleet.clusters.len()));
        self.metrics.stores.set(count(stores().count()));
        self.metrics.inexact_stores.set(count(stores().filter(|store| store.last_resort.is_some()).count()));
        self.metrics.alertmanagers.set(count(fleet.alertmanagers.len()));
        self.metrics.rejected.set(count(published.rejected()));
        let validities = published.inventory.identities.values().chain(published.inventory.authorities.values());
        self.metrics.first_expiry.set(validities.map(|validity| validity.not_after).min().unwrap_or(0));
    }
}

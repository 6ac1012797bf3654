//! One reconcile: takes what has changed, and makes everything follow.
//!
//! ```text
//! changes ─▶ ingest ─▶ issue ─▶ plan ─▶ install credentials ─▶ nodes ─▶ outputs ─▶ published state
//!                        └─ where this process leads ──────────────────────┘
//! ```
//!
//! It is about what has changed: a change to one manifest validates, issues, plans and writes that
//! cluster alone. What was in force stays until a reconcile has succeeded; one that fails is made
//! again, about everything. One node whose files can't be written, or one certificate that can't be
//! issued, fails no reconcile: people are told, and the others get theirs.

use std::collections::{BTreeMap, BTreeSet};

use atlas_core::model::Settings;
use atlas_core::name::{ClusterName, Identity};
use atlas_core::pki::Time;
use atlas_core::plan::{Planner, Scope};
use atlas_core::thanos::stores::Stores;
use atlas_core::validate::ChangeSet;

use super::ingest::Inputs;
use super::issue::issue;
use super::last_good::LastGood;
use super::provider::{Changes, Outputs, Provider};
use super::publisher::{Publication, Publisher};
use crate::pki::Pki;
use crate::state::ZoneVersion;

/// What is known from reconcile to reconcile.
pub struct Reconciler<P: Provider> {
    settings: Settings,
    provider: P,
    pki: Pki<P::Store>,
    publisher: Publisher,
    /// `None` before the first reconcile.
    inputs: Option<Inputs>,
    planner: Planner,
    stores: Stores,
    /// The roots that everything was last planned with.
    roots: Vec<String>,
    /// What the next reconcile is to plan besides what changes.
    pending: Scope,
    /// Whether the next reconcile looks at everything.
    full: bool,
    /// Whether this process issued and wrote in the last reconcile.
    leads: bool,
    /// Whether it was said that this process waits for a leader.
    waits: bool,
    /// When the next certificate is due.
    next_due: Time,
}

/// What a reconcile did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reconciled {
    /// Whether nothing failed that is worth another try soon.
    pub complete: bool,
    /// Whether it looked at everything.
    pub full: bool,
    /// Clusters that were planned.
    pub planned: usize,
    /// When the next certificate is due.
    pub next_due: Time,
}

impl<P: Provider> Reconciler<P> {
    /// Begins with what `pki` has been read to hold.
    pub fn new(settings: Settings, provider: P, pki: Pki<P::Store>, publisher: Publisher) -> Self {
        Self {
            settings,
            provider,
            pki,
            publisher,
            inputs: None,
            planner: Planner::new(),
            stores: Stores::new(),
            roots: Vec::new(),
            pending: Scope::everything(),
            full: true,
            leads: false,
            waits: false,
            next_due: Time::MAX,
        }
    }

    /// Completes when there may be something to reconcile.
    pub async fn changed(&mut self) {
        self.provider.changed().await;
    }

    /// The next reconcile looks at everything.
    pub fn look_at_everything(&mut self) {
        self.full = true;
    }

    /// Whether the next reconcile looks at everything.
    pub fn is_full(&self) -> bool {
        self.full
    }

    /// Makes everything follow what has changed. `None`: there is nothing to reconcile yet.
    ///
    /// # Errors
    /// The input can't be read or isn't accepted, or nothing can be issued. What was in force
    /// stays.
    pub async fn reconcile(&mut self) -> anyhow::Result<Option<Reconciled>> {
        let taken = self.provider.take_changes(&mut self.pki, self.full).await;
        let result = match taken {
            Ok(None) => return Ok(None),
            // Signing and writing block for milliseconds.
            Ok(Some(changes)) => tokio::task::block_in_place(|| self.apply(changes)),
            Err(error) => Err(error),
        };
        self.publisher.metrics.reconciles.inc();
        if let Err(error) = &result {
            (self.pending, self.full) = (Scope::everything(), true);
            self.publisher.failed(format!("{error:#}"));
        }
        result.map(Some)
    }

    fn apply(&mut self, mut changes: Changes) -> anyhow::Result<Reconciled> {
        let inputs = self.inputs.get_or_insert_with(|| {
            Inputs::new(&self.settings, self.provider.last_good(), &changes.sources)
        });
        // A new leader doesn't know what the one before it has left undone.
        self.full |= changes.leads && !self.leads;
        self.leads = changes.leads;
        let sources: BTreeSet<String> = changes.sources.keys().cloned().collect();
        let errors_differ = changes.errors.is_some();
        let concerned = inputs.ingest(&mut changes);
        let mut scope = std::mem::take(&mut self.pending);
        let (mut problems, mut failed) = (changes.problems, changes.failed);
        let ChangeSet { services, findings, alertmanagers, clusters } = concerned;
        scope.extend(Scope { alertmanagers, clusters, ..Scope::default() });
        scope.extend(changes.credentials);
        let mut clusters: BTreeSet<ClusterName> =
            scope.clusters.union(&services).cloned().collect();

        let mut issued = BTreeMap::new();
        if self.leads {
            let everything = self.full || scope.all;
            let noted = (!everything).then_some(&sources);
            self.provider.note_last_good(&mut self.pki, &inputs.last_good, noted);
            let only = (!everything).then_some(&clusters);
            let done = issue(&mut self.pki, &inputs.manifests, only)?;
            self.next_due =
                if everything { done.next_due } else { self.next_due.min(done.next_due) };
            scope.extend(done.report.scope());
            clusters.extend(scope.clusters.iter().cloned());
            problems.extend(done.report.needs_operator);
            failed.extend(done.report.failed);
            issued = done.report.issued;
        } else {
            // Only the leader issues, so only the leader has something due.
            self.next_due = Time::MAX;
        }
        if !self.leads && self.pki.leaf(&Identity::Atlas).is_none() {
            (self.pending, self.full) = (Scope::everything(), true);
            if !std::mem::replace(&mut self.waits, true) {
                tracing::info!("waiting for the leader to issue the first certificates");
            }
            let (complete, full, next_due) = (failed.is_empty(), true, Time::MAX);
            return Ok(Reconciled { complete, full, planned: 0, next_due });
        }

        let inputs = &*inputs;
        let fleet = inputs.manifests.fleet();
        // Every node trusts the roots. Somebody may have replaced them by hand.
        let roots = self.pki.trust_for([]).roots;
        scope.all |= roots != self.roots;
        self.roots = roots;
        // Credentials first: an Envoy whose stream ends is back within a second. From here on
        // nothing fails: the planner hands over each change once.
        let about = (!scope.all && !self.full).then_some(&clusters);
        self.publisher.install_credentials(&self.pki, about)?;
        let everyone: BTreeSet<ClusterName> =
            if scope.all { fleet.clusters.keys().cloned().collect() } else { BTreeSet::new() };
        let planned = if scope.all { &everyone } else { &scope.clusters };
        let trust = self.pki.trust_for(planned);
        let node_changes = self.planner.update(fleet, &trust, &scope);
        let gone: Vec<ClusterName> =
            if scope.all { self.stores.clusters().cloned().collect() } else { Vec::new() };
        let stores_differ = self.stores.update(fleet, planned.iter().chain(&gone));

        // Then what Envoys wait for: files and objects are for those who start later, and each takes
        // a while to be safe.
        let changed = self.publisher.nodes.apply(node_changes);
        if self.leads {
            let outputs = Outputs {
                manifests: &inputs.manifests,
                pki: &self.pki,
                trust: &trust,
                all: scope.all,
                clusters: &clusters,
                hub: scope.hub,
                full: self.full,
                stores: &self.stores,
                stores_differ,
                issued: &issued,
            };
            failed.extend(self.provider.write_outputs(&outputs));
            failed.extend(self.provider.write_last_good(&mut self.pki));
        }
        let complete = failed.is_empty();
        problems.extend(failed);
        // A full reconcile tells everything: the one before may have failed, and told nothing.
        let findings = self.full || findings || alertmanagers;
        let publication = Publication {
            fleet,
            about,
            changed,
            findings: findings.then(|| inputs.manifests.findings()),
            errors: (self.full || errors_differ).then(|| inputs.errors.clone()),
            problems,
            zone: ZoneVersion {
                records: self.stores.version(),
                serial: self.provider.zone_serial(),
            },
        };
        self.publisher.publish(&self.pki, publication);
        let reconciled = Reconciled {
            complete,
            full: self.full,
            planned: planned.len(),
            next_due: self.next_due,
        };
        self.full = !complete;
        if !complete {
            self.pending = scope;
        }
        Ok(reconciled)
    }

    /// Forgets the credentials of a cluster that was removed, and ends its streams.
    ///
    /// # Errors
    /// Something can't be written. Where that concerns files only, the credentials are forgotten
    /// all the same.
    pub fn forget(&mut self, cluster: ClusterName) -> anyhow::Result<()> {
        // Before the first reconcile there is only what an earlier process kept.
        let mut kept = LastGood::from(self.provider.last_good());
        let last_good = self.inputs.as_mut().map_or(&mut kept, |inputs| &mut inputs.last_good);
        let sources = last_good.forget(&cluster);
        self.provider.note_last_good(&mut self.pki, last_good, Some(&sources));
        let failed = self.provider.write_last_good(&mut self.pki);
        let result = if failed.is_empty() {
            self.pki.forget(&cluster)
        } else {
            Err(anyhow::anyhow!(failed.join("; ")))
        };
        // Also where only its files couldn't be removed.
        self.publisher.forget(&cluster, &self.pki);
        self.pending.clusters.insert(cluster);
        result
    }
}

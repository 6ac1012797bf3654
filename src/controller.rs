//! One round after the other: facts → fleet → certificates → plan → published.
//!
//! What was in force stays in force until a whole round has succeeded; a round that fails is tried again.

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use atlas_core::intake::{Severity, intake};
use atlas_core::model::{Fleet, Settings};
use atlas_core::name::{ClusterName, Identity, NodeId};
use atlas_core::plan::plan;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

use crate::ca::Pki;
use crate::clock;
use crate::metrics::Metrics;
use crate::nodefiles::NodeFiles;
use crate::published::Published;
use crate::source::files::Report;
use crate::state_dir::{StateDir, write_public};
use crate::streams::Streams;
use crate::tls::Gate;

/// Longest time between two rounds, so that nothing depends on an event alone.
const ROUND_AT_LEAST: Duration = Duration::from_secs(60);
/// After a failed round.
const RETRY: Duration = Duration::from_secs(5);

/// What people ask of a running Atlas.
pub enum Command {
    /// Forget the credentials of a cluster that has been removed, and end its streams.
    Forget(ClusterName, oneshot::Sender<anyhow::Result<()>>),
}

/// The one writer.
pub struct Controller {
    /// What the operator configured.
    pub settings: Settings,
    /// Keys and certificates.
    pub pki: Pki,
    /// Where results go.
    pub state: StateDir,
    /// Where what Thanos and CoreDNS read goes too, readable by everyone.
    pub public_dir: Option<PathBuf>,
    /// What Envoys start from.
    pub node_files: NodeFiles,
    /// The xDS port's gate.
    pub gate: Arc<Gate>,
    /// Open streams.
    pub streams: Arc<Streams>,
    /// Counts.
    pub metrics: Arc<Metrics>,
    /// Where the result of a round goes.
    pub out: watch::Sender<Option<Arc<Published>>>,
}

impl Controller {
    /// Runs until cancelled.
    pub async fn run(
        mut self,
        mut reports: watch::Receiver<Option<Report>>,
        mut commands: mpsc::Receiver<Command>,
        cancel: CancellationToken,
    ) {
        let mut pause = ROUND_AT_LEAST;
        loop {
            tokio::select! {
                changed = reports.changed() => if changed.is_err() { return },
                () = tokio::time::sleep(pause) => {}
                Some(command) = commands.recv() => self.carry_out(command),
                () = cancel.cancelled() => return,
            }
            let report = reports.borrow_and_update().clone();
            // Nothing is built before the first complete sync.
            if let Some(report) = report {
                pause = self.try_round(&report);
            }
        }
    }

    /// Makes a round; returns when the next is due at the latest.
    fn try_round(&mut self, report: &Report) -> Duration {
        self.metrics.rounds.inc();
        // Signing and writing block for milliseconds.
        match tokio::task::block_in_place(|| self.round(report)) {
            Ok(()) => self.until_next_due(),
            Err(error) => {
                self.metrics.failed_rounds.inc();
                tracing::error!(error = format!("{error:#}"), "this round failed; what was in force stays, and it is tried again");
                RETRY
            }
        }
    }

    fn until_next_due(&self) -> Duration {
        let published = self.out.borrow();
        let clusters = published.iter().flat_map(|published| published.fleet.clusters.keys());
        let due = self.pki.next_due(clusters).unwrap_or(i64::MAX);
        let seconds = due.saturating_sub(clock::now()).max(1);
        ROUND_AT_LEAST.min(Duration::from_secs(u64::try_from(seconds).unwrap_or(1)))
    }

    fn round(&mut self, report: &Report) -> anyhow::Result<()> {
        let last: Option<Fleet> = self.out.borrow().as_ref().map(|published| published.fleet.clone());
        let taken = intake(&self.settings, &report.facts, last.as_ref());
        self.pki.ensure(taken.fleet.clusters.keys(), clock::now()).context("cannot issue certificates")?;
        let trust = self.pki.trust();
        let own = self.pki.leaf(&Identity::Atlas).context("BUG: Atlas has no certificate of its own")?;
        let fingerprints: HashSet<String> = self.pki.ledger().credentials().map(|credential| credential.fingerprint.clone()).collect();
        let published = Published {
            plan: plan(&taken.fleet, &trust),
            fleet: taken.fleet,
            findings: taken.findings,
            errors: report.errors.clone(),
            inventory: self.pki.inventory(),
            credentials: self.pki.ledger().credentials().cloned().collect(),
        };
        self.write(&published, &trust)?;
        self.gate.open(&own, &trust.roots, fingerprints)?;
        self.announce(&published);
        self.publish(published);
        Ok(())
    }

    /// What Thanos and the Envoys read from files.
    fn write(&mut self, published: &Published, trust: &atlas_core::pki::Trust) -> anyhow::Result<()> {
        for (file, text) in [("endpoints.yaml", &published.plan.endpoints), ("atlas.zone", &published.plan.zone.to_file())] {
            self.state.write(file, text)?;
            if let Some(dir) = &self.public_dir {
                write_public(&dir.join(file), text)?;
            }
        }
        let clusters = published.fleet.clusters.keys().cloned().map(NodeId::Cluster);
        for node in clusters.chain([NodeId::Hub]) {
            if let Some(opener) = self.pki.opener(&node) {
                self.node_files.write(&published.fleet, trust, &node, &opener)?;
            }
        }
        Ok(())
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
    }

    fn publish(&self, published: Published) {
        let fleet = &published.fleet;
        let stores = || fleet.clusters.values().flat_map(|cluster| &cluster.stores);
        let count = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
        self.metrics.clusters.set(count(fleet.clusters.len()));
        self.metrics.stores.set(count(stores().count()));
        self.metrics.inexact_stores.set(count(stores().filter(|store| store.last_resort.is_some()).count()));
        self.metrics.alertmanagers.set(count(fleet.alertmanagers.len()));
        self.metrics.rejected.set(count(published.rejected()));
        self.metrics.first_expiry.set(published.inventory.identities.values().map(|v| v.not_after).min().unwrap_or(0));
        let known = self.out.borrow().as_ref().map(|known| known.plan == published.plan);
        if known != Some(true) {
            tracing::info!(
                clusters = fleet.clusters.len(),
                stores = stores().count(),
                rejected = published.rejected(),
                "a new plan is in force"
            );
        }
        self.out.send_replace(Some(Arc::new(published)));
    }

    fn carry_out(&mut self, command: Command) {
        match command {
            Command::Forget(cluster, reply) => {
                let result = tokio::task::block_in_place(|| self.pki.forget(&cluster));
                if result.is_ok() {
                    // The gate first: an Envoy whose stream ends is back within a second.
                    let counting = self.pki.ledger().credentials().map(|credential| credential.fingerprint.clone()).collect();
                    self.gate.count_only(counting);
                    self.streams.end(&NodeId::Cluster(cluster.clone()));
                    tracing::info!(%cluster, "forgot the credentials of a removed cluster");
                }
                let _ = reply.send(result);
            }
        }
    }
}

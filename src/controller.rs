//! One round after the other: facts → fleet → certificates → plan → published.
//!
//! What was in force stays in force until a whole round has succeeded; a round that fails is tried again. One node whose
//! files can't be written, or one certificate that can't be issued, fails no round: it is told, and the others get theirs.

mod last_good;

use std::collections::{BTreeSet, HashSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use atlas_core::fact::Fact;
use atlas_core::intake::{Severity, intake, is_cluster};
use atlas_core::model::{Fleet, Settings};
use atlas_core::name::{ClusterName, Identity, NodeId};
use atlas_core::plan::plan;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

use crate::ca::{Directory, Pki};
use crate::clock;
use crate::metrics::Metrics;
use crate::nodefiles::NodeFiles;
use crate::published::Published;
use crate::source::files::Report;
use crate::state_dir::{StateDir, write_public};
use crate::streams::Streams;
use crate::tls::Gate;
pub use last_good::LastGood;

/// Longest time between two rounds, so that nothing depends on an event alone.
const ROUND_AT_LEAST: Duration = Duration::from_secs(60);
/// After a failed round.
const RETRY: Duration = Duration::from_secs(5);

/// Said where the first report is empty and an earlier process had manifests.
const ALL_GONE: &str = "there is not one manifest, although there were some before Atlas was started: nothing is changed and \
    nobody is served until there is one (mount the directory; if all were meant to go, remove last-good from the state directory)";

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
    pub pki: Pki<Directory>,
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
        let mut last_good = LastGood::load(self.state.clone());
        loop {
            tokio::select! {
                changed = reports.changed() => if changed.is_err() { return },
                () = tokio::time::sleep(pause) => {}
                Some(command) = commands.recv() => self.carry_out(command, &mut last_good),
                () = cancel.cancelled() => return,
            }
            let report = reports.borrow_and_update().clone();
            // Nothing is built before the first complete sync.
            if let Some(report) = report {
                pause = self.try_round(report, &mut last_good);
            }
        }
    }

    /// Makes a round; returns when the next is due at the latest.
    fn try_round(&mut self, report: Report, last_good: &mut LastGood) -> Duration {
        if self.out.borrow().is_none() && last_good.all_gone(&report) {
            tracing::error!("{ALL_GONE}");
            return RETRY;
        }
        self.metrics.rounds.inc();
        // Signing and writing block for milliseconds.
        match tokio::task::block_in_place(|| self.round(report, last_good)) {
            Ok(Round::Complete) => self.until_next_due(),
            Ok(Round::Incomplete) => RETRY,
            Err(error) => {
                self.metrics.failed_rounds.inc();
                let error = format!("{error:#}");
                tracing::error!(error, "this round failed; what was in force stays, and it is tried again");
                self.publish_failure(error);
                RETRY
            }
        }
    }

    fn publish_failure(&self, error: String) {
        self.out.send_if_modified(|last| match last {
            Some(published) if published.last_error.as_ref() != Some(&error) => {
                Arc::make_mut(published).last_error = Some(error);
                true
            }
            _ => false,
        });
    }

    fn until_next_due(&self) -> Duration {
        let published = self.out.borrow();
        let clusters = published.iter().flat_map(|published| published.fleet.clusters.keys());
        let due = self.pki.next_due(clusters).unwrap_or(i64::MAX);
        let seconds = due.saturating_sub(clock::now()).max(1);
        ROUND_AT_LEAST.min(Duration::from_secs(u64::try_from(seconds).unwrap_or(1)))
    }

    fn round(&mut self, mut report: Report, last_good: &mut LastGood) -> anyhow::Result<Round> {
        last_good.complete(&mut report);
        let last: Option<Fleet> = self.out.borrow().as_ref().map(|published| published.fleet.clone());
        let last = last.unwrap_or_else(|| last_good.fleet(&self.settings, &report));
        let taken = intake(&self.settings, &report.facts, Some(&last));
        let present = present(&report.facts);
        let troubles = self.pki.ensure(taken.fleet.clusters.keys(), &present, clock::now()).context("cannot issue certificates")?;
        let trust = self.pki.trust();
        let own = self.pki.leaf(&Identity::Atlas);
        let own = own.with_context(|| format!("Atlas has no certificate of its own: {}", troubles.all().join("; ")))?;
        let fingerprints: HashSet<String> = self.pki.ledger().credentials().map(|credential| credential.fingerprint.clone()).collect();
        let mut published = Published {
            plan: plan(&taken.fleet, &trust),
            fleet: taken.fleet,
            findings: taken.findings,
            inventory: self.pki.inventory(),
            credentials: self.pki.ledger().credentials().cloned().collect(),
            errors: Vec::new(),
            troubles: Vec::new(),
            last_error: None,
        };
        let mut failed = troubles.failed;
        failed.append(&mut self.write(&published, &trust));
        failed.append(&mut last_good.keep(&self.settings, &report, &published.findings));
        self.gate.open(&own, &trust.roots, fingerprints)?;
        let round = if failed.is_empty() { Round::Complete } else { Round::Incomplete };
        published.errors = report.errors;
        published.troubles = [troubles.standing, failed].concat();
        self.announce(&published);
        self.publish(published);
        Ok(round)
    }

    /// What Thanos and the Envoys read from files. Returns what couldn't be written; all the rest was.
    fn write(&mut self, published: &Published, trust: &atlas_core::pki::Trust) -> Vec<String> {
        let mut results = Vec::new();
        for (file, text) in [("endpoints.yaml", &published.plan.endpoints), ("atlas.zone", &published.plan.zone.to_file())] {
            results.push(self.state.write(file, text).map(drop));
            results.extend(self.public_dir.as_ref().map(|dir| write_public(&dir.join(file), text)));
        }
        let clusters = published.fleet.clusters.keys().cloned().map(NodeId::Cluster);
        for node in clusters.chain([NodeId::Hub]) {
            if let Some(opener) = self.pki.opener(&node) {
                let written = self.node_files.write(&published.fleet, trust, &node, &opener);
                results.push(written.with_context(|| format!("the files that the Envoy of {node} starts from")));
            }
        }
        results.into_iter().filter_map(|result| Some(format!("{:#}", result.err()?))).collect()
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

    fn publish(&self, published: Published) {
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

    fn carry_out(&mut self, command: Command, last_good: &mut LastGood) {
        match command {
            Command::Forget(cluster, reply) => {
                let result = tokio::task::block_in_place(|| last_good.forget(&cluster).and_then(|()| self.pki.forget(&cluster)));
                // Also where only its files couldn't be removed. The gate first: an Envoy whose stream ends is back within
                // a second.
                let counting = || self.pki.ledger().credentials();
                if counting().all(|credential| credential.cluster != cluster.as_str()) {
                    self.gate.count_only(counting().map(|credential| credential.fingerprint.clone()).collect());
                    self.streams.end(&NodeId::Cluster(cluster.clone()));
                    tracing::info!(%cluster, "forgot the credentials of a removed cluster");
                }
                let _ = reply.send(result);
            }
        }
    }
}

/// How a round went that succeeded.
enum Round {
    Complete,
    /// Something failed that is worth another try soon.
    Incomplete,
}

/// The clusters that have a manifest, right or wrong.
fn present(facts: &[Fact]) -> BTreeSet<ClusterName> {
    let name = |fact: &Fact| match fact {
        Fact::Service(service) if is_cluster(service) => service.meta.name.parse().ok(),
        _ => None,
    };
    facts.iter().filter_map(name).collect()
}

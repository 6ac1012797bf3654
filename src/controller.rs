//! One round after the other: facts → fleet → certificates → plan → published.
//!
//! What was in force stays in force until a whole round has succeeded; a round that fails is tried again. One node whose
//! files can't be written, or one certificate that can't be issued, fails no round: it is told, and the others get theirs.

mod last_good;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, ensure};
use atlas_core::fact::Fact;
use atlas_core::intake::{intake, is_cluster};
use atlas_core::model::{Fleet, Settings};
use atlas_core::name::{ClusterName, Identity, NodeId};
use atlas_core::plan::plan;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

use crate::ca::{Directory, Pki};
use crate::clock;
use crate::nodefiles::NodeFiles;
use crate::published::Published;
use crate::publisher::Publisher;
use crate::source::files::Report;
use crate::state_dir::{StateDir, write_public};
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
    /// Where the result of a round goes.
    pub publisher: Publisher,
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
        if self.publisher.last().is_none() && last_good.all_gone(&report) {
            tracing::error!("{ALL_GONE}");
            return RETRY;
        }
        self.publisher.metrics.rounds.inc();
        // Signing and writing block for milliseconds.
        match tokio::task::block_in_place(|| self.round(report, last_good)) {
            Ok(Round::Complete) => self.until_next_due(),
            Ok(Round::Incomplete) => RETRY,
            Err(error) => {
                self.publisher.failed(format!("{error:#}"));
                RETRY
            }
        }
    }

    fn until_next_due(&self) -> Duration {
        let published = self.publisher.last();
        let clusters = published.iter().flat_map(|published| published.fleet.clusters.keys());
        let due = self.pki.next_due(clusters).unwrap_or(i64::MAX);
        let seconds = due.saturating_sub(clock::now()).max(1);
        ROUND_AT_LEAST.min(Duration::from_secs(u64::try_from(seconds).unwrap_or(1)))
    }

    fn round(&mut self, mut report: Report, last_good: &mut LastGood) -> anyhow::Result<Round> {
        last_good.complete(&mut report);
        let last: Option<Fleet> = self.publisher.last().map(|published| published.fleet.clone());
        let last = last.unwrap_or_else(|| last_good.fleet(&self.settings, &report));
        let taken = intake(&self.settings, &report.facts, Some(&last));
        let present = present(&report.facts);
        let troubles = self.pki.ensure(taken.fleet.clusters.keys(), &present, clock::now()).context("cannot issue certificates")?;
        let trust = self.pki.trust();
        ensure!(self.pki.leaf(&Identity::Atlas).is_some(), "Atlas has no certificate of its own: {}", troubles.all().join("; "));
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
        self.publisher.open_gate(&self.pki, &[])?;
        let round = if failed.is_empty() { Round::Complete } else { Round::Incomplete };
        published.errors = report.errors;
        published.troubles = [troubles.standing, failed].concat();
        self.publisher.publish(published);
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

    fn carry_out(&mut self, command: Command, last_good: &mut LastGood) {
        match command {
            Command::Forget(cluster, reply) => {
                let result = tokio::task::block_in_place(|| last_good.forget(&cluster).and_then(|()| self.pki.forget(&cluster)));
                // Also where only its files couldn't be removed.
                self.publisher.forget(&cluster, self.pki.ledger().credentials());
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

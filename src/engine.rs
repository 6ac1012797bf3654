//! One round after the other: manifests → fleet → certificates → plan → published.
//!
//! A round is about what has changed: a change to one manifest reads, certifies, plans and writes that cluster alone. What was
//! in force stays in force until a round has succeeded; a round that fails is made again, about everything. One node whose
//! files can't be written, or one certificate that can't be issued, fails no round: it is told, and the others get theirs.

pub mod publisher;

mod last_good;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, ensure};
use atlas_core::manifest::ManifestError;
use atlas_core::model::{Fleet, Settings};
use atlas_core::name::{ClusterName, Identity, NodeId};
use atlas_core::pki::{Time, Trust};
use atlas_core::plan::{Planner, Scope};
use atlas_core::thanos::stores::Stores;
use atlas_core::thanos::zone::ZoneFileVersion;
use atlas_core::validate::{ChangeSet, Finding, ManifestStore};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::engine::publisher::{Publisher, Round};
use crate::pki::{Pki, Subjects};
use crate::process::clock;
use crate::standalone::bootstrap_files::NodeFiles;
use crate::standalone::pki_directory::PkiDirectory;
use crate::standalone::state_dir::{StateDir, write_derived, write_public};
use crate::standalone::watch::{DirectoryUpdate, ManifestIndex, UpdateQueue};
use crate::state::{Command, ZoneVersion};
pub use last_good::LastGood;

/// Longest time between two rounds, so that nothing depends on an event alone.
const ROUND_AT_LEAST: Duration = Duration::from_secs(60);
/// After a failed round.
const RETRY: Duration = Duration::from_secs(5);

/// EventMessage where the first report is empty and an earlier process had manifests.
const ALL_GONE: &str = "there is not one manifest, although there were some before Atlas was started: nothing is changed and \
    nobody is served until there is one (mount the directory; if all were meant to go, remove last-good from the state directory)";

/// The one writer.
pub struct Controller {
    /// What the operator configured.
    pub settings: Settings,
    /// Keys and certificates.
    pub pki: Pki<PkiDirectory>,
    /// Where results go.
    pub state: StateDir,
    /// Where what Thanos and CoreDNS read goes too, readable by everyone.
    pub public_dir: Option<PathBuf>,
    /// What Envoys start from.
    pub node_files: NodeFiles,
    /// Where the result of a round goes.
    pub publisher: Publisher,
}

/// The DNS zone, in the state directory.
const ZONE_FILE: &str = "atlas.zone";

/// What the controller knows from round to round.
struct Known {
    last_good: LastGood,
    /// What has changed and no round has looked at.
    inbox: DirectoryUpdate,
    index: ManifestIndex,
    /// `None` before the first round.
    register: Option<ManifestStore>,
    planner: Planner,
    stores: Stores,
    /// The DNS zone's file, as it is.
    zone: Option<ZoneFileVersion>,
    /// What the next round is to plan besides what changes.
    scope: Scope,
    /// Whether the next round is to look at all certificates and files.
    check: bool,
    /// Files of which it is to be kept what they say.
    unkept: BTreeSet<String>,
    /// When the next certificate is due.
    due: Time,
}

impl Known {
    fn new(last_good: LastGood) -> Self {
        Self {
            last_good,
            inbox: DirectoryUpdate::default(),
            index: ManifestIndex::default(),
            register: None,
            planner: Planner::new(),
            stores: Stores::new(),
            zone: None,
            scope: Scope::everything(),
            check: true,
            unkept: BTreeSet::new(),
            due: Time::MAX,
        }
    }
}

/// What has changed.
struct News {
    touched: ChangeSet,
    /// `None`: as before.
    findings: Option<Vec<Finding>>,
    /// `None`: as before.
    errors: Option<Vec<ManifestError>>,
}

impl Controller {
    /// Runs until cancelled.
    pub async fn run(
        mut self,
        last_good: LastGood,
        queue: Arc<UpdateQueue>,
        mut commands: mpsc::Receiver<Command>,
        cancel: CancellationToken,
    ) {
        let mut known = Known::new(last_good);
        let mut next = tokio::time::Instant::now() + ROUND_AT_LEAST;
        loop {
            tokio::select! {
                () = queue.changed() => known.inbox.extend(queue.drain()),
                () = tokio::time::sleep_until(next) => known.check = true,
                Some(command) = commands.recv() => self.carry_out(command, &mut known),
                () = cancel.cancelled() => return,
            }
            // Nothing is built before the first complete sync, which says something of directories.
            if known.register.is_some() || known.inbox.directories.is_some() {
                next = self.try_round(&mut known, next);
            }
        }
    }

    /// Makes a round; returns when the next is due at the latest.
    fn try_round(&mut self, known: &mut Known, next: tokio::time::Instant) -> tokio::time::Instant {
        let after = |pause| tokio::time::Instant::now() + pause;
        if known.register.is_none() && known.last_good.all_gone(&known.inbox) {
            tracing::error!("{ALL_GONE}");
            return after(RETRY);
        }
        self.publisher.metrics.rounds.inc();
        let checked = known.check;
        // Signing and writing block for milliseconds.
        let complete = match tokio::task::block_in_place(|| self.round(known)) {
            Ok(complete) => complete,
            Err(error) => {
                (known.scope, known.check) = (Scope::everything(), true);
                self.publisher.failed(format!("{error:#}"));
                false
            }
        };
        let seconds = u64::try_from(known.due.saturating_sub(clock::now()).max(1)).unwrap_or(1);
        let latest =
            after(Duration::from_secs(seconds).min(if complete { ROUND_AT_LEAST } else { RETRY }));
        if checked { latest } else { latest.min(next) }
    }

    /// Returns whether nothing failed that is worth another try soon.
    fn round(&mut self, known: &mut Known) -> anyhow::Result<bool> {
        let news = self.take_in(known);
        let Some(register) = &known.register else { return Ok(true) };
        let fleet = register.fleet();
        let mut scope = std::mem::take(&mut known.scope);
        scope.extend(Scope {
            alertmanagers: news.touched.alertmanagers,
            clusters: news.touched.clusters,
            ..Scope::default()
        });

        let concerned: BTreeSet<ClusterName> =
            scope.clusters.union(&news.touched.services).cloned().collect();
        let only = (!known.check && !scope.all).then_some(&concerned);
        let is_claimed = |name: &&ClusterName| register.services_of(name).next().is_some();
        let (clusters, present): (BTreeSet<ClusterName>, _) = match only {
            Some(only) => {
                let clusters = only.iter().filter(|name| fleet.clusters.contains_key(*name));
                (clusters.cloned().collect(), only.iter().filter(is_claimed).cloned().collect())
            }
            None => (fleet.clusters.keys().cloned().collect(), register.cluster_names().collect()),
        };
        let report = self
            .pki
            .issue_due(&Subjects { clusters: &clusters, present: &present, only }, clock::now());
        let report = report.context("cannot issue certificates")?;
        ensure!(
            self.pki.leaf(&Identity::Atlas).is_some(),
            "Atlas has no certificate of its own: {}",
            report.problems().join("; ")
        );
        let due = self.pki.next_due(&clusters).unwrap_or(Time::MAX);
        known.due = if only.is_some() { known.due.min(due) } else { due };
        scope.extend(report.scope());

        // Also where everything is to be planned because of what a round about a few has found.
        let everyone: BTreeSet<ClusterName> =
            if scope.all { fleet.clusters.keys().cloned().collect() } else { BTreeSet::new() };
        let planned = if scope.all { &everyone } else { &scope.clusters };
        let trust = self.pki.trust_for(planned);
        let changes = known.planner.update(fleet, &trust, &scope);
        let gone: Vec<ClusterName> =
            if scope.all { known.stores.clusters().cloned().collect() } else { Vec::new() };
        let differ = known.stores.update(fleet, planned.iter().chain(&gone));

        // First what Envoys wait for: files are for those who start later, and each takes a while to be safe on the disk. A check changes
        // what people see of certificates, and which credentials count.
        let about = (!scope.all && !known.check).then_some(&concerned);
        self.publisher.install_credentials(&self.pki, about, &[])?;
        let changed = self.publisher.nodes.apply(changes);
        let mut failed = report.failed;
        if known.check {
            failed.extend(self.state.keep_private().err().map(|error| format!("{error:#}")));
        }
        if differ || known.check {
            failed.append(&mut self.write_stores(&known.stores, &mut known.zone, differ));
        }
        failed.append(&mut self.write_nodes(
            fleet,
            &trust,
            self.nodes_to_write(fleet, &scope, known.check),
        ));
        failed.append(&mut keep(&mut known.unkept, &mut known.last_good, &known.index, register));
        let complete = failed.is_empty();
        let round = Round {
            fleet,
            about,
            changed,
            findings: news.findings,
            errors: news.errors,
            problems: [report.needs_operator, failed].concat(),
            zone: ZoneVersion {
                records: known.stores.version(),
                serial: known.zone.map_or(0, |zone| zone.serial),
            },
        };
        self.publisher.publish(&self.pki, round);
        known.check = !complete;
        if !complete {
            known.scope = scope;
        }
        Ok(complete)
    }

    /// Takes in what has changed.
    fn take_in(&self, known: &mut Known) -> News {
        let mut update = std::mem::take(&mut known.inbox);
        known.last_good.complete(&mut update, &known.index);
        let new = || {
            ManifestStore::new(
                self.settings.clone(),
                known.last_good.clusters(&self.settings, &update),
            )
        };
        let is_first = !self.publisher.state_store.is_ready();
        let register = known.register.get_or_insert_with(new);
        let errors = !update.is_empty();
        known.unkept.extend(update.files.keys().cloned());
        if is_first {
            known.unkept.extend(known.last_good.files().cloned());
        }
        let keys = known.index.apply(update);
        let touched = register
            .apply(keys.iter().map(|key| (key.clone(), known.index.manifest(key).cloned())));
        known
            .unkept
            .extend(keys.iter().flat_map(|key| known.index.files_of(key)).map(str::to_owned));
        News {
            // A check tells everything: the round before may have failed, and told nothing.
            findings: (known.check || touched.findings || touched.alertmanagers)
                .then(|| register.findings()),
            errors: (known.check || errors).then(|| known.index.errors()),
            touched,
        }
    }

    /// What Thanos Query and DNS servers read from files. Returns what couldn't be written.
    fn write_stores(
        &self,
        stores: &Stores,
        known: &mut Option<ZoneFileVersion>,
        differ: bool,
    ) -> Vec<String> {
        // Before the first round, the file of an earlier process: its serial number must not fall.
        let before = known.or_else(|| {
            ZoneFileVersion::of(&std::fs::read_to_string(self.state.path(ZONE_FILE)).ok()?)
        });
        let zone = ZoneFileVersion::next_file(before, clock::now(), |serial| {
            stores.zone_file(&self.settings, serial)
        });
        *known = ZoneFileVersion::of(&zone);
        let mut results = Vec::new();
        for (file, text) in [("endpoints.yaml", stores.endpoints()), (ZONE_FILE, zone)] {
            // Known to differ, they needn't be compared with what is there: with many clusters they are long.
            results.push(if differ {
                write_derived(&self.state.path(file), &text)
            } else {
                self.state.write(file, &text).map(drop)
            });
            results
                .extend(self.public_dir.as_ref().map(|dir| write_public(&dir.join(file), &text)));
        }
        results.into_iter().filter_map(|result| Some(format!("{:#}", result.err()?))).collect()
    }

    /// The nodes whose files may differ or, where everything is looked at, are missing.
    fn nodes_to_write(&self, fleet: &Fleet, scope: &Scope, everything: bool) -> Vec<NodeId> {
        if !scope.all && !everything {
            let there = scope.clusters.iter().filter(|name| fleet.clusters.contains_key(*name));
            return there
                .cloned()
                .map(NodeId::Cluster)
                .chain(scope.hub.then_some(NodeId::Hub))
                .collect();
        }
        let in_scope = |node: &NodeId| match node {
            NodeId::Hub => scope.hub,
            NodeId::Cluster(name) => scope.clusters.contains(name),
        };
        let nodes = fleet.clusters.keys().cloned().map(NodeId::Cluster).chain([NodeId::Hub]);
        nodes
            .filter(|node| scope.all || in_scope(node) || self.node_files.are_missing(node))
            .collect()
    }

    /// What Envoys start from. Returns what couldn't be written; all the rest was.
    fn write_nodes(&mut self, fleet: &Fleet, trust: &Trust, nodes: Vec<NodeId>) -> Vec<String> {
        let mut failed = Vec::new();
        for node in nodes {
            if let Some(bootstrap_credential) = self.pki.bootstrap_credential(&node) {
                let written = self.node_files.write(fleet, trust, &node, &bootstrap_credential);
                let written = written
                    .with_context(|| format!("the files that the Envoy of {node} starts from"));
                failed.extend(written.err().map(|error| format!("{error:#}")));
            }
        }
        failed
    }

    fn carry_out(&mut self, command: Command, known: &mut Known) {
        match command {
            Command::ForgetCluster(cluster, reply) => {
                let result = tokio::task::block_in_place(|| {
                    known.last_good.forget(&cluster).and_then(|()| self.pki.forget(&cluster))
                });
                // Also where only its files couldn't be removed.
                self.publisher.forget(&cluster, &self.pki);
                known.scope.clusters.insert(cluster);
                let _ = reply.send(result);
            }
        }
    }
}

/// Keeps what files say that were right. Returns what couldn't be kept; it is tried again.
fn keep(
    unkept: &mut BTreeSet<String>,
    last_good: &mut LastGood,
    index: &ManifestIndex,
    register: &ManifestStore,
) -> Vec<String> {
    let mut failed = Vec::new();
    unkept.retain(|file| {
        let result = last_good.keep(file, index, register);
        failed.extend(result.as_ref().err().map(|error| format!("{error:#}")));
        result.is_err()
    });
    failed
}

#[cfg(test)]
mod tests;

//! What the leader writes besides the PKI, for as long as it leads: objects and Events.

use std::collections::BTreeSet;
use std::sync::Arc;

use atlas_core::kubernetes::derived_objects::EnvoySelector;
use atlas_core::kubernetes::lease::Term;
use atlas_core::kubernetes::object::OwnerReference;
use atlas_core::name::{ClusterName, Identity};
use atlas_core::thanos::zone::ZoneFileVersion;
use kube::Client;
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::desired_objects::{DesiredObjectBuilder, ObjectInputs};
use super::election::Candidate;
use super::events::{EventDeduplicator, EventMessage};
use super::pki_store::SecretStore;
use super::watches::Watches;
use super::writer::{DesiredUpdate, Writer};
use crate::engine::provider::Outputs;
use crate::metrics::Metrics;
use crate::process::clock;

/// The outputs of one leadership. Its writer ends when this is dropped.
pub struct LeaderOutputs {
    pub term: Term,
    objects: DesiredObjectBuilder,
    /// Whether the writer was sent the desired states of all objects.
    has_sent_all: bool,
    /// The DNS zone's file as this leader made it last.
    zone: Option<ZoneFileVersion>,
    desired: mpsc::UnboundedSender<DesiredUpdate>,
    problems: watch::Receiver<Vec<String>>,
    deduplicator: EventDeduplicator,
    writer: JoinHandle<()>,
    _stop: DropGuard,
}

/// What the writer of one leadership needs from its process.
pub struct WriterInputs {
    /// The API server.
    pub client: Client,
    /// The namespace of everything that it writes.
    pub namespace: String,
    /// This process in the election.
    pub candidate: Arc<Candidate>,
    /// Counts.
    pub metrics: Arc<Metrics>,
    /// Notified when the writer has other problems than before.
    pub changed: Arc<Notify>,
}

impl LeaderOutputs {
    /// Starts the writer.
    pub fn start(term: Term, inputs: WriterInputs) -> Self {
        let WriterInputs { client, namespace, candidate, metrics, changed } = inputs;
        let (desired, updates) = mpsc::unbounded_channel();
        let (problems_sender, problems) = watch::channel(Vec::new());
        let stop = CancellationToken::new();
        tokio::spawn(notify_of_problems(problems.clone(), changed, stop.clone()));
        let writer = Writer {
            client,
            namespace,
            candidate,
            desired: updates,
            problems: problems_sender,
            metrics,
        };
        Self {
            term,
            objects: DesiredObjectBuilder::default(),
            has_sent_all: false,
            zone: None,
            desired,
            problems,
            deduplicator: EventDeduplicator::default(),
            writer: tokio::spawn(writer.run(stop.clone())),
            _stop: stop.drop_guard(),
        }
    }

    /// Whether its writer has ended, which it never should.
    pub fn is_over(&self) -> bool {
        self.writer.is_finished()
    }

    /// What can't be written, and why.
    pub fn problems(&self) -> Vec<String> {
        self.problems.borrow().clone()
    }

    /// Sends the writer the objects that differ. Returns how many were made, and how many were
    /// sent.
    pub fn write_objects(
        &mut self,
        outputs: &Outputs<'_, SecretStore>,
        watches: &Watches,
        owner: Option<&OwnerReference>,
    ) -> (usize, usize) {
        let made_before = self.objects.made();
        let fleet = outputs.manifests.fleet();
        let inputs = ObjectInputs {
            fleet,
            trust: outputs.trust,
            bootstrap_credential: &|node| outputs.pki.bootstrap_credential(node),
            service_uid: &|cluster| watches.service_uid(cluster.as_str()),
            atlas: owner,
        };
        let selectors: Vec<EnvoySelector> = self.objects.selectors().cloned().collect();
        let everything = outputs.all || outputs.full || !self.has_sent_all;
        let mut changes = if everything {
            let gone: Vec<ClusterName> = self.objects.clusters().cloned().collect();
            self.objects.update_clusters(&inputs, fleet.clusters.keys().chain(&gone))
        } else {
            self.objects.update_clusters(&inputs, outputs.clusters)
        };
        let update_hub = everything
            || outputs.hub
            || outputs.stores_differ
            || !selectors.iter().eq(self.objects.selectors());
        if update_hub {
            // The zone that this leader made last may not have been written yet.
            let before = ZoneFileVersion::latest(self.zone, watches.zone());
            let zone = ZoneFileVersion::next_file(before, clock::now(), |serial| {
                outputs.stores.zone_file(&fleet.settings, serial)
            });
            self.zone = ZoneFileVersion::of(&zone);
            changes.extend(self.objects.update_hub(&inputs, zone, outputs.stores.endpoints()));
        }
        let update = if outputs.full || !self.has_sent_all {
            DesiredUpdate::All(self.objects.all())
        } else {
            DesiredUpdate::Some(changes)
        };
        let sent = update.len();
        self.has_sent_all = true;
        // It fails only where the writer has ended: then this leadership is over.
        let _ = self.desired.send(update);
        (self.objects.made() - made_before, sent)
    }

    /// The Events of these Services and of what was issued, as far as they are new, and those that
    /// are repeated.
    pub fn events(
        &mut self,
        outputs: &Outputs<'_, SecretStore>,
        watches: &Watches,
        services: &BTreeSet<String>,
    ) -> Vec<EventMessage> {
        let namespace = &outputs.manifests.fleet().settings.namespace;
        let mut events = Vec::new();
        for service in services {
            let uid = watches.service_uid(service);
            let findings = outputs.manifests.findings_of(service).iter();
            let problems = findings
                .filter_map(|finding| {
                    EventMessage::from_finding(finding, namespace, uid.as_deref()?)
                })
                .collect();
            events.extend(self.deduplicator.replace(service, problems));
        }
        for (identity, renewed) in outputs.issued {
            if let Identity::Bootstrap(cluster, _) = identity
                && let Some(uid) = watches.service_uid(cluster.as_str())
            {
                events.push(EventMessage::credential_issued(cluster, &uid, *renewed));
            }
        }
        if outputs.full {
            events.extend(self.deduplicator.repeat());
        }
        events
    }
}

async fn notify_of_problems(
    mut problems: watch::Receiver<Vec<String>>,
    changed: Arc<Notify>,
    stop: CancellationToken,
) {
    while stop.run_until_cancelled(problems.changed()).await.is_some_and(|result| result.is_ok()) {
        changed.notify_one();
    }
}

//! What the leader does beyond the others, for as long as it leads.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use atlas_core::kubernetes::derived_objects::EnvoySelector;
use atlas_core::kubernetes::lease::Term;
use atlas_core::manifest::Manifest;
use atlas_core::name::ClusterName;
use atlas_core::thanos::zone::ZoneFileVersion;
use atlas_core::validate::Finding;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::{Context, Controller, RETRY, ROUND_AT_LEAST, View, rejected, services};
use crate::kube::derived_objects::{DerivedObjects, ObjectInputs};
use crate::kube::events::{EventDeduplicator, EventMessage};
use crate::kube::pki_secrets::Secrets;
use crate::kube::writer::{DesiredUpdate, Writer};
use crate::pki::{Pki, Subjects};
use crate::process::clock;

/// One leadership. Dropped, its writer ends.
pub struct Leading {
    /// Its term.
    pub term: Term,
    pki: Pki<Secrets>,
    objects: DerivedObjects,
    /// When the desired states of all objects were last sent.
    compared: Option<Instant>,
    /// The DNS zone's file, as it should be.
    zone: Option<ZoneFileVersion>,
    desired: mpsc::UnboundedSender<DesiredUpdate>,
    problems: watch::Receiver<Vec<String>>,
    event_deduplicator: EventDeduplicator,
    writer: JoinHandle<()>,
    _stop: DropGuard,
}

impl Leading {
    /// Takes over: claims the PKI, reads it, and starts the writer.
    pub async fn begin(controller: &Controller, term: Term) -> anyhow::Result<Self> {
        let settings = &controller.settings;
        let client = controller.client.clone();
        let mut pki_store = Secrets::take_over(
            client.clone(),
            &settings.namespace,
            &settings.trust_domain,
            &controller.candidate,
            term.clone(),
            !controller.records.is_empty(),
        )
        .await?;
        tokio::task::block_in_place(|| pki_store.restore(&controller.records));
        let contents = pki_store.contents().clone();
        let pki =
            Pki::with(pki_store, settings.trust_domain.clone(), controller.lifetimes, contents);
        let (desired, desired_out) = mpsc::unbounded_channel();
        let (troubles_in, problems) = watch::channel(Vec::new());
        let stop = CancellationToken::new();
        let writer = Writer {
            client,
            namespace: settings.namespace.clone(),
            candidate: Arc::clone(&controller.candidate),
            desired: desired_out,
            problems: troubles_in,
            metrics: Arc::clone(&controller.publisher.metrics),
        };
        let (changed, mut changes, stopped) =
            (Arc::clone(&controller.reflectors.changed), problems.clone(), stop.clone());
        tokio::spawn(async move {
            while stopped
                .run_until_cancelled(changes.changed())
                .await
                .is_some_and(|changed| changed.is_ok())
            {
                changed.notify_one();
            }
        });
        let writer = tokio::spawn(writer.run(stop.clone()));
        tracing::info!(%term, "took over as leader");
        Ok(Self {
            term,
            pki,
            objects: DerivedObjects::default(),
            compared: None,
            zone: None,
            desired,
            problems,
            event_deduplicator: EventDeduplicator::default(),
            writer,
            _stop: stop.drop_guard(),
        })
    }

    /// Whether its writer has ended, which it never should.
    pub fn is_over(&self) -> bool {
        self.writer.is_finished()
    }

    /// A round of the leader; returns when the next is due.
    pub fn round(&mut self, controller: &mut Controller, view: &View) -> anyhow::Result<Duration> {
        let (contents, pki_store) = self.pki.contents_and_store();
        let mut failed = pki_store.heal(contents, &view.shown, &view.removed);
        controller.rounds.take(view, &controller.settings, pki_store.services());
        let broken: BTreeSet<ClusterName> =
            pki_store.broken.keys().filter_map(cluster_of).collect();
        let spoilt: Vec<String> = pki_store.broken.values().cloned().collect();
        let Some(register) = controller.rounds.register() else { return Ok(RETRY) };
        let findings = register.findings();
        let kept = kept(controller, view, &findings, pki_store.services());
        pki_store.keep_services(kept);
        let present: BTreeSet<ClusterName> =
            services(&view.manifests).map(|(name, _)| name).collect();
        let held = self.pki.bootstrap_expiries();
        let sound: BTreeSet<ClusterName> = register
            .fleet()
            .clusters
            .keys()
            .filter(|name| !broken.contains(*name))
            .cloned()
            .collect();
        let report = self
            .pki
            .issue_due(&Subjects { clusters: &sound, present: &present, only: None }, clock::now());
        let report = report.context("cannot issue certificates")?;
        controller.rounds.extend(report.scope());
        failed.extend(report.failed);
        let (contents, pki_store) = self.pki.contents_and_store();
        failed.extend(pki_store.save_services(contents));
        let written = self.problems.borrow_and_update().clone();
        let complete = failed.is_empty();
        let problems =
            controller.problems([report.needs_operator, spoilt, failed, written].concat());
        controller.rounds.publish(&controller.publisher, &self.pki, problems, view.zone)?;
        let unwritten = std::mem::take(&mut controller.rounds.unwritten);
        let stores_differ = std::mem::take(&mut controller.rounds.stores_differ);
        let Some(fleet) = controller.rounds.fleet() else { return Ok(RETRY) };
        let uids = uids(&view.manifests);
        let trust = self.pki.trust_for([]);
        let inputs = ObjectInputs {
            fleet,
            trust: &trust,
            bootstrap_credential: &|node| self.pki.bootstrap_credential(node),
            service_uid: &|name: &ClusterName| uids.get(name.as_str()).cloned(),
            atlas: controller.owner.as_ref(),
        };
        let stores = &controller.rounds.stores;
        let all = self.compared.is_none_or(|compared| compared.elapsed() >= ROUND_AT_LEAST);
        let selectors: Vec<EnvoySelector> = self.objects.selectors().cloned().collect();
        let mut changes = if all || unwritten.all {
            let gone: Vec<ClusterName> = self.objects.clusters().cloned().collect();
            self.objects.update_clusters(&inputs, fleet.clusters.keys().chain(&gone))
        } else {
            self.objects.update_clusters(&inputs, &unwritten.clusters)
        };
        let hub = all
            || unwritten.all
            || unwritten.hub
            || stores_differ
            || !selectors.iter().eq(self.objects.selectors());
        if hub {
            // The zone that this leader made may not have been written yet.
            let before = ZoneFileVersion::latest(self.zone, view.zone);
            let zone = ZoneFileVersion::next_file(before, clock::now(), |serial| {
                stores.zone_file(&fleet.settings, serial)
            });
            self.zone = ZoneFileVersion::of(&zone);
            changes.extend(self.objects.update_hub(&inputs, zone, stores.endpoints()));
        }
        let update = if all {
            self.compared = Some(Instant::now());
            DesiredUpdate::All(self.objects.all())
        } else {
            DesiredUpdate::Some(changes)
        };
        // Where the writer has ended, so has this leadership.
        let _ = self.desired.send(update);
        let due = self.pki.next_due(fleet.clusters.keys()).unwrap_or(i64::MAX);
        self.tell(controller, &findings, &uids, &held);
        let seconds = u64::try_from(due.saturating_sub(clock::now()).max(1)).unwrap_or(1);
        Ok(if complete { ROUND_AT_LEAST.min(Duration::from_secs(seconds)) } else { RETRY })
    }

    /// Events: what is wrong and new, and what has just happened.
    fn tell(
        &mut self,
        controller: &Controller,
        findings: &[Finding],
        uids: &BTreeMap<String, String>,
        before: &BTreeMap<String, i64>,
    ) {
        let wrong = findings
            .iter()
            .filter_map(|finding| {
                EventMessage::of_finding(finding, &controller.settings.namespace, uids)
            })
            .collect();
        let mut news = self.event_deduplicator.news(wrong);
        for (name, end) in self.pki.bootstrap_expiries() {
            let Some(uid) = uids.get(&name) else { continue };
            let (reason, note) = match before.get(&name) {
                Some(known) if *known == end => continue,
                Some(_) => (
                    "CredentialRenewed",
                    format!(
                        "The Secret {name}-envoy-values holds a fresh credential; the one in use counts until its end"
                    ),
                ),
                None => (
                    "Joined",
                    format!(
                        "The cluster {name} has a credential: `atlas cluster-values --name {name}` prints the values of its Envoy"
                    ),
                ),
            };
            news.push(EventMessage {
                service: name,
                uid: uid.clone(),
                warning: false,
                reason,
                note,
            });
        }
        for said in news {
            // Too many at once: status has them all.
            let _ = controller.said.try_send(said);
        }
    }
}

fn cluster_of(record: &crate::kube::record::Record) -> Option<ClusterName> {
    if let crate::kube::record::Record::Cluster(name) = record { Some(name.clone()) } else { None }
}

/// The uids of the clusters' Services.
fn uids(manifests: &[Manifest]) -> BTreeMap<String, String> {
    services(manifests)
        .filter_map(|(name, manifest)| Some((name.to_string(), manifest.meta().uid.clone()?)))
        .collect()
}

/// What is to be kept of each Service: of one that is right, what it says; of one that is wrong, what is kept already; of
/// one that is gone, nothing.
fn kept(
    controller: &Controller,
    view: &View,
    findings: &[Finding],
    known: &BTreeMap<ClusterName, String>,
) -> BTreeMap<ClusterName, Option<String>> {
    let rejected = rejected(findings);
    let mut kept: BTreeMap<ClusterName, Option<String>> =
        known.keys().map(|name| (name.clone(), None)).collect();
    for (name, manifest) in services(&view.manifests) {
        if rejected.contains(format!("Service {}/{name}", controller.settings.namespace).as_str()) {
            kept.remove(&name);
        } else if let Ok(text) = serde_json::to_string(manifest) {
            kept.insert(name, Some(text));
        }
    }
    kept
}

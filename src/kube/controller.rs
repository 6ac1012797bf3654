//! One round after the other, on every replica: what is watched → fleet → plan → published. The leader also issues
//! certificates, and says what is to be written.
//!
//! What was in force stays in force until a round has succeeded, and while the API server can't be reached nothing changes.

mod leading;
mod rounds;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use atlas_core::kubernetes::lease::Term;
use atlas_core::kubernetes::object::OwnerReference;
use atlas_core::manifest::Manifest;
use atlas_core::model::Settings;
use atlas_core::name::{ClusterName, Identity, TrustDomain};
use atlas_core::pki::Lifetimes;
use atlas_core::thanos::zone::ZoneFileVersion;
use atlas_core::validate::{Finding, Severity, is_cluster};
use k8s_openapi::api::core::v1::Secret;
use kube::{Api, Client};
use tokio::sync::{Notify, mpsc};
use tokio_util::sync::CancellationToken;

use super::election::Candidate;
use super::errors::error_with_causes;
use super::events::EventMessage;
use super::record::{Record, Stored, adopt};
use super::watch::Reflector;
use crate::engine::publisher::Publisher;
use crate::pki::{Contents, Pki, PkiStore};
use crate::process::debounce::Debouncer;
use leading::Leading;
pub use rounds::Rounds;

/// Longest time between two rounds, so that nothing depends on an event alone.
const ROUND_AT_LEAST: Duration = Duration::from_secs(60);
/// After a failed round.
const RETRY: Duration = Duration::from_secs(2);

/// What is watched.
pub struct Reflectors {
    /// Something differs.
    pub changed: Arc<Notify>,
    /// Services that are clusters.
    pub clusters: Reflector<Manifest>,
    /// The hub's Alertmanagers: Services.
    pub alertmanagers: Reflector<Manifest>,
    /// The hub's Alertmanagers: EndpointSlices.
    pub slices: Reflector<Manifest>,
    /// Atlas's PKI, but for the authorities' keys.
    pub records: Reflector<Stored>,
    /// The ConfigMap of the DNS zone.
    pub zone: Reflector<ZoneFileVersion>,
}

/// Manifests and records at one moment.
pub struct View {
    manifests: Vec<Manifest>,
    /// What counts: also what somebody has deleted by hand.
    records: Arc<BTreeMap<String, Stored>>,
    /// What the watch shows.
    shown: Arc<BTreeMap<String, Stored>>,
    /// What it showed to be deleted since the last time, as it was.
    removed: BTreeMap<String, Stored>,
    /// The DNS zone's file, as it is.
    zone: Option<ZoneFileVersion>,
}

/// One replica's.
pub struct Controller {
    /// What the operator configured.
    pub settings: Settings,
    /// How long certificates live.
    pub lifetimes: Lifetimes,
    /// The API server.
    pub client: Client,
    /// This process in the election.
    pub candidate: Arc<Candidate>,
    /// What is watched.
    pub reflectors: Reflectors,
    /// Where results go.
    pub publisher: Publisher,
    /// To those who write Events.
    pub said: mpsc::Sender<EventMessage>,
    /// The owner of what belongs to the installation.
    pub owner: Option<OwnerReference>,
    /// Records as they were when there were any.
    pub records: Arc<BTreeMap<String, Stored>>,
    /// Why this process doesn't lead, although it holds the Lease.
    pub unable: Option<String>,
    /// The greatest term among them so far.
    pub greatest: Option<Term>,
    /// From round to round.
    pub rounds: Rounds,
    /// Bursts.
    pub debouncer: Debouncer,
}

impl Controller {
    /// Runs until cancelled.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut leads = self.candidate.changes();
        let mut leading: Option<Leading> = None;
        let mut pause = Duration::ZERO;
        loop {
            tokio::select! {
                () = self.reflectors.changed.notified() => {
                    let burst = self.debouncer.burst();
                    while let Some(until) = burst.wait_until(true) {
                        let changed = self.reflectors.changed.notified();
                        if tokio::time::timeout_at(until, changed).await.is_err() {
                            break;
                        }
                    }
                }
                changed = leads.changed() => if changed.is_err() { return },
                () = tokio::time::sleep(pause) => {}
                () = stop.cancelled() => break,
            }
            let term = self.candidate.leads();
            if leading
                .as_ref()
                .is_some_and(|leading| Some(&leading.term) != term.as_ref() || leading.is_over())
            {
                leading = None;
            }
            let unable = match term.filter(|_| leading.is_none()) {
                None => None,
                Some(term) => match Leading::begin(&self, term).await {
                    Ok(begun) => {
                        leading = Some(begun);
                        None
                    }
                    Err(error) => Some(format!("cannot take over as leader: {error:#}")),
                },
            };
            if let Some(error) = unable.as_ref().filter(|error| self.unable.as_ref() != Some(error))
            {
                tracing::error!(error, "nothing is written; it is tried again");
            }
            self.unable = unable;
            self.publisher.metrics.leads.set(i64::from(leading.is_some()));
            pause = self.turn(&mut leading).await;
            self.debouncer.acted();
            if self.unable.is_some() {
                pause = pause.min(RETRY);
            }
        }
    }

    /// Makes a round; returns when the next is due at the latest.
    async fn turn(&mut self, leading: &mut Option<Leading>) -> Duration {
        let Some(view) = self.view().await else { return RETRY };
        self.publisher.metrics.rounds.inc();
        let result = match leading {
            // Signing and the leader's writes block.
            Some(leading) => tokio::task::block_in_place(|| leading.round(self, &view)),
            None => self.follow(&view).map(|()| ROUND_AT_LEAST),
        };
        result.unwrap_or_else(|error| {
            self.rounds.start_over();
            self.publisher.failed(format!("{error:#}"));
            RETRY
        })
    }

    /// What is there; `None` where that isn't known yet, or can't be believed.
    async fn view(&mut self) -> Option<View> {
        let reflectors = &self.reflectors;
        let clusters = reflectors.clusters.all()?;
        let zone = reflectors.zone.all()?.values().next().copied();
        let (alertmanagers, slices, records) =
            (reflectors.alertmanagers.all()?, reflectors.slices.all()?, reflectors.records.all()?);
        let emptied = reflectors.clusters.was_emptied()
            || reflectors.alertmanagers.was_emptied()
            || reflectors.slices.was_emptied()
            || reflectors.records.was_emptied();
        if emptied && !self.records.is_empty() {
            if !self.remembers().await {
                self.publisher.failed(format!(
                    "the API server shows nothing any more of what there was, and not even the Secret {}: it has lost its memory, or answers \
                     for another cluster; everything stays as it was. Restore the backup; to start anew instead, restart Atlas",
                    Record::Root.secret()
                ));
                return None;
            }
            reflectors.clusters.accept_empty();
            reflectors.alertmanagers.accept_empty();
            reflectors.slices.accept_empty();
            reflectors.records.accept_empty();
        }
        let shown = records;
        self.records = remembered(&self.records, &shown, &clusters);
        // A leader that has nothing to write must find out too that another has taken over.
        let greatest = self.records.values().filter_map(|stored| stored.term.as_ref()).max();
        if greatest > self.greatest.as_ref() {
            self.greatest = greatest.cloned();
            self.greatest.iter().for_each(|term| self.candidate.observe_term(term));
        }
        // A Service may be both, and is watched twice then.
        let twice = |manifest: &Manifest| {
            clusters
                .get(&manifest.meta().name)
                .is_some_and(|other| other.meta().namespace == manifest.meta().namespace)
        };
        let alertmanagers = alertmanagers.values().filter(|manifest| !twice(manifest));
        let manifests =
            clusters.values().chain(alertmanagers).chain(slices.values()).cloned().collect();
        Some(View {
            manifests,
            records: Arc::clone(&self.records),
            shown,
            removed: self.reflectors.records.take_removed(),
            zone,
        })
    }

    /// Whether the API server still has the root. Asked where it says that everything of a kind is gone: one that came back
    /// empty-handed must tear nothing down.
    async fn remembers(&self) -> bool {
        let api: Api<Secret> = Api::namespaced(self.client.clone(), &self.settings.namespace);
        let root = Record::Root.secret();
        match tokio::time::timeout(Duration::from_secs(10), api.get_metadata_opt(&root)).await {
            Ok(Ok(secret)) => secret.is_some(),
            Ok(Err(error)) => {
                tracing::warn!(
                    error = error_with_causes(&error),
                    "cannot ask whether everything is really gone"
                );
                false
            }
            Err(_) => false,
        }
    }

    /// A round of a replica that doesn't lead.
    fn follow(&mut self, view: &View) -> anyhow::Result<()> {
        let (contents, broken, services) = read(view);
        let pki =
            Pki::with(ReadOnlyStore, self.settings.trust_domain.clone(), self.lifetimes, contents);
        if pki.leaf(&Identity::Atlas).is_none() {
            tracing::info!("waiting for the leader to issue the first certificates");
            return Ok(());
        }
        self.rounds.take(view, &self.settings, &services);
        let problems = self.problems(broken.into_values());
        self.rounds.publish(&self.publisher, &pki, problems, view.zone)
    }

    fn problems(&self, further: impl IntoIterator<Item = String>) -> Vec<String> {
        self.unable.iter().cloned().chain(further).collect()
    }
}

/// A record that vanishes while its cluster's Service is there was deleted by hand, and the leader writes it again: it counts
/// until then, or its Envoy's stream would end. (What is to be forgotten, the record itself says.)
fn remembered(
    before: &Arc<BTreeMap<String, Stored>>,
    shown: &Arc<BTreeMap<String, Stored>>,
    clusters: &BTreeMap<String, Manifest>,
) -> Arc<BTreeMap<String, Stored>> {
    let vanished = |name: &String| match Record::of_secret(name) {
        Some(Record::Cluster(cluster)) => {
            !shown.contains_key(name) && clusters.contains_key(cluster.as_str())
        }
        Some(_) => !shown.contains_key(name),
        None => false,
    };
    // One that was spoilt by hand counts as it was; people are told of it.
    let is_sound =
        |stored: &Stored| stored.parsed.as_ref().is_ok_and(|parsed| parsed.broken.is_empty());
    let spoilt = |name: &String, before: &Stored| {
        is_sound(before) && shown.get(name).is_some_and(|stored| !is_sound(stored))
    };
    let kept: Vec<_> = before
        .iter()
        .filter(|(name, stored)| vanished(name) || spoilt(name, stored))
        .map(|(name, stored)| (name.clone(), stored.clone()))
        .collect();
    if kept.is_empty() {
        return Arc::clone(shown);
    }
    Arc::new(
        shown.iter().map(|(name, stored)| (name.clone(), stored.clone())).chain(kept).collect(),
    )
}

/// The pki_store of a replica that writes nothing.
struct ReadOnlyStore;

impl PkiStore for ReadOnlyStore {
    fn load(&mut self, _: &TrustDomain) -> anyhow::Result<Contents> {
        bail!("BUG: a replica that doesn't lead loads nothing")
    }

    fn save_authority(
        &mut self,
        _: &Contents,
        _: atlas_core::pki::Authority,
    ) -> anyhow::Result<()> {
        bail!("BUG: a replica that doesn't lead issues nothing")
    }

    fn save_identities(&mut self, _: &Contents, which: &[&Identity]) -> Vec<anyhow::Result<()>> {
        which
            .iter()
            .map(|_| Err(anyhow::anyhow!("BUG: a replica that doesn't lead issues nothing")))
            .collect()
    }

    fn save_ledger(&mut self, _: &Contents, _: &BTreeSet<ClusterName>) -> anyhow::Result<()> {
        bail!("BUG: a replica that doesn't lead changes no list")
    }

    fn remove_keys(&mut self, _: &ClusterName) -> anyhow::Result<()> {
        bail!("BUG: a replica that doesn't lead removes nothing")
    }

    fn remove_bootstrap(&mut self, _: &ClusterName) -> anyhow::Result<()> {
        bail!("BUG: a replica that doesn't lead removes nothing")
    }
}

/// What the records say together; which are broken; and what is kept of Services.
fn read(view: &View) -> (Contents, BTreeMap<Record, String>, BTreeMap<ClusterName, String>) {
    let (mut contents, mut broken, mut services) =
        (Contents::default(), BTreeMap::new(), BTreeMap::new());
    for (name, stored) in view.records.iter() {
        let Some(record) = Record::of_secret(name) else { continue };
        match &stored.parsed {
            Ok(parsed) => {
                if let (Record::Cluster(cluster), Some(service)) = (&record, &parsed.service) {
                    services.insert(cluster.clone(), service.clone());
                }
                adopt(&mut contents, &record, parsed.clone());
            }
            Err(error) => _ = broken.insert(record, error.clone()),
        }
    }
    for (name, stored) in view.shown.iter() {
        if let (Some(record), Err(error)) = (Record::of_secret(name), &stored.parsed) {
            broken.insert(record, error.clone());
        }
    }
    (contents, broken, services)
}

/// The clusters' Services in these manifests, right or wrong, by name.
fn services(manifests: &[Manifest]) -> impl Iterator<Item = (ClusterName, &Manifest)> {
    manifests.iter().filter_map(|manifest| match manifest {
        Manifest::Service(service) if is_cluster(service) => {
            Some((service.meta.name.parse().ok()?, manifest))
        }
        _ => None,
    })
}

/// The objects that findings reject.
fn rejected(findings: &[Finding]) -> BTreeSet<&str> {
    findings
        .iter()
        .filter(|finding| finding.severity == Severity::Rejected)
        .map(|finding| finding.object.as_str())
        .collect()
}

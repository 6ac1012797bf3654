//! The Kubernetes mode as the engine's provider: watches give it changes, Secrets are its PKI
//! store, and while this process leads, it writes objects and Events.
//!
//! A change of one object costs what it concerns: the watches hand over what changed, and each step
//! looks at that alone. Once a minute, and after failures, everything is compared.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{bail, ensure};
use atlas_core::kubernetes::lease::Term;
use atlas_core::kubernetes::object::OwnerReference;
use atlas_core::manifest::Manifest;
use atlas_core::model::Settings;
use atlas_core::name::ClusterName;
use atlas_core::plan::Scope;
use atlas_core::validate::is_cluster;
use k8s_openapi::api::core::v1::Secret;
use kube::{Api, Client};
use tokio::sync::{mpsc, watch};

use super::election::Candidate;
use super::errors::error_with_causes;
use super::events::EventMessage;
use super::leader_outputs::{LeaderOutputs, WriterInputs};
use super::pki_secret::PkiSecret;
use super::pki_store::{EffectiveSecrets, LeaderStore, SecretStore};
use super::watches::{ManifestChanges, Watches};
use crate::engine::last_good::SourceState;
use crate::engine::last_good::{LastGood, LastGoodManifests};
use crate::engine::provider::{Changes, Outputs, Provider};
use crate::metrics::Metrics;
use crate::pki::Pki;

/// How long the API server may take to say whether it has the root.
const ROOT_TIMEOUT: Duration = Duration::from_secs(10);

/// How much a replica has done so far. A change of one cluster must add the same at any number of
/// clusters.
#[derive(Debug, Default)]
pub struct WorkCounts {
    /// Secrets of the PKI that were compared with the watch.
    pub secrets_compared: AtomicUsize,
    /// Objects that were made.
    pub objects_made: AtomicUsize,
    /// Desired states that the writer was sent.
    pub objects_sent: AtomicUsize,
}

/// One replica.
pub struct KubernetesProvider {
    settings: Settings,
    client: Client,
    candidate: Arc<Candidate>,
    /// When the candidate begins or ceases to lead.
    terms: watch::Receiver<Option<Term>>,
    watches: Watches,
    metrics: Arc<Metrics>,
    events: mpsc::Sender<EventMessage>,
    /// The owner of what belongs to the installation.
    owner: Option<OwnerReference>,
    secrets: EffectiveSecrets,
    leadership: Option<LeaderOutputs>,
    /// Services that changed since Events were last written.
    services: BTreeSet<String>,
    /// Why this process doesn't lead, although it holds the Lease.
    cannot_lead: Option<String>,
    work: Arc<WorkCounts>,
}

impl KubernetesProvider {
    /// Knows nothing yet, and doesn't lead.
    pub fn new(
        settings: Settings,
        client: Client,
        candidate: Arc<Candidate>,
        watches: Watches,
        metrics: Arc<Metrics>,
        events: mpsc::Sender<EventMessage>,
        owner: Option<OwnerReference>,
    ) -> Self {
        Self {
            settings,
            client,
            terms: candidate.changes(),
            candidate,
            watches,
            metrics,
            events,
            owner,
            secrets: EffectiveSecrets::default(),
            leadership: None,
            services: BTreeSet::new(),
            cannot_lead: None,
            work: Arc::default(),
        }
    }

    /// Where all objects of a kind are gone at once, accepts that only from an API server that
    /// still has the root. One that has lost its data must not remove the fleet.
    async fn ensure_not_emptied(&self) -> anyhow::Result<()> {
        if !self.watches.were_emptied() {
            return Ok(());
        }
        if !self.secrets.is_empty() {
            ensure!(
                self.has_root().await,
                "the API server shows nothing any more of what there was, and not even the Secret {}: it has lost its memory, or answers \
                 for another cluster; everything stays as it was. Restore the backup; to start anew instead, restart Atlas",
                PkiSecret::Root.name()
            );
        }
        self.watches.accept_empty();
        Ok(())
    }

    async fn has_root(&self) -> bool {
        let api: Api<Secret> = Api::namespaced(self.client.clone(), &self.settings.namespace);
        let root = PkiSecret::Root.name();
        match tokio::time::timeout(ROOT_TIMEOUT, api.get_metadata_opt(&root)).await {
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

    /// Ends a leadership whose term is over. The PKI is what the watch shows from then on.
    fn end_leadership(&mut self, pki: &mut Pki<SecretStore>) -> bool {
        let term = self.candidate.leads();
        let is_over = |leadership: &mut LeaderOutputs| {
            Some(&leadership.term) != term.as_ref() || leadership.is_over()
        };
        if self.leadership.take_if(is_over).is_none() {
            return false;
        }
        let (contents, store) = pki.contents_and_store();
        store.set_leadership(None);
        *contents = self.secrets.contents();
        true
    }

    /// Takes over, if this process leads and hasn't yet. `had_root`: whether it knows that there
    /// was a root. Returns whether it took over.
    async fn begin_leadership(
        &mut self,
        pki: &mut Pki<SecretStore>,
        had_root: bool,
    ) -> anyhow::Result<bool> {
        let Some(term) = self.candidate.leads().filter(|_| self.leadership.is_none()) else {
            return Ok(false);
        };
        let (mut store, mut taken_over) = LeaderStore::take_over(
            self.client.clone(),
            &self.settings.namespace,
            &self.settings.trust_domain,
            &self.candidate,
            term.clone(),
            had_root,
        )
        .await?;
        tokio::task::block_in_place(|| store.restore(&mut taken_over, &self.secrets));
        let (contents, secret_store) = pki.contents_and_store();
        *contents = taken_over;
        secret_store.set_leadership(Some(store));
        tracing::info!(%term, "took over as leader");
        let inputs = WriterInputs {
            client: self.client.clone(),
            namespace: self.settings.namespace.clone(),
            candidate: Arc::clone(&self.candidate),
            metrics: Arc::clone(&self.metrics),
            changed: Arc::clone(&self.watches.changed),
        };
        self.leadership = Some(LeaderOutputs::start(term, inputs));
        Ok(true)
    }

    /// Notes why this process can't lead; logs it once.
    fn set_cannot_lead(&mut self, reason: Option<String>) {
        if let Some(error) = reason.as_ref().filter(|_| self.cannot_lead != reason) {
            tracing::error!(error, "nothing is written; it is tried again");
        }
        self.cannot_lead = reason;
    }

    /// Adopts Secrets into the PKI of a replica that doesn't lead. Returns what is to be planned
    /// again.
    fn adopt(&self, pki: &mut Pki<SecretStore>, changed: &BTreeSet<PkiSecret>) -> Scope {
        let (contents, _) = pki.contents_and_store();
        for secret in changed {
            self.secrets.adopt_into(contents, secret);
        }
        scope_of(changed)
    }
}

/// What is to be planned again where the certificates in these Secrets are others.
fn scope_of(secrets: &BTreeSet<PkiSecret>) -> Scope {
    let mut scope = Scope::default();
    for secret in secrets {
        match secret {
            PkiSecret::Cluster(name) => _ = scope.clusters.insert(name.clone()),
            PkiSecret::Root | PkiSecret::Issuers | PkiSecret::Leaves => scope.hub = true,
        }
    }
    scope
}

/// What a watched Service says now. The watch can't leave out all Services that are no clusters.
fn source(service: Option<Arc<Manifest>>) -> SourceState {
    let is_source =
        |one: &Arc<Manifest>| matches!(&**one, Manifest::Service(service) if is_cluster(service));
    let service = service.filter(is_source);
    service.map_or(SourceState::Gone, |service| SourceState::Manifests([service].into()))
}

impl Provider for KubernetesProvider {
    type Store = SecretStore;

    async fn changed(&mut self) {
        tokio::select! {
            () = self.watches.changed.notified() => {}
            Ok(()) = self.terms.changed() => {}
        }
    }

    async fn take_changes(
        &mut self,
        pki: &mut Pki<SecretStore>,
        full: bool,
    ) -> anyhow::Result<Option<Changes>> {
        let ended = self.end_leadership(pki);
        self.metrics.leads.set(i64::from(self.leadership.is_some()));
        if !self.watches.are_synced() {
            return Ok(None);
        }
        self.ensure_not_emptied().await?;
        let ManifestChanges { manifests, services } = self.watches.take_manifests();
        let shown = self.watches.secrets.take_changes();
        let had_root = !self.secrets.is_empty();
        let clusters: BTreeSet<ClusterName> =
            services.keys().filter_map(|name| name.parse().ok()).collect();
        let has_service = |name: &ClusterName| self.watches.clusters.get(name.as_str()).is_some();
        let changed = self.secrets.update(&shown, &clusters, has_service);
        // Also a leader that has nothing to write must find out that another has taken over.
        if let Some(term) = self.secrets.greatest_term() {
            self.candidate.observe_term(term);
        }
        self.services.extend(services.keys().cloned());

        let mut changes = Changes { manifests, ..Changes::default() };
        changes.sources =
            services.into_iter().map(|(name, service)| (name, source(service))).collect();
        let began = match self.begin_leadership(pki, had_root).await {
            Ok(began) => {
                self.set_cannot_lead(None);
                began
            }
            Err(error) => {
                let reason = format!("cannot take over as leader: {error:#}");
                changes.failed.push(reason.clone());
                self.set_cannot_lead(Some(reason));
                false
            }
        };
        changes.credentials.all = ended || began;
        changes.leads = self.leadership.is_some();
        self.metrics.leads.set(i64::from(changes.leads));
        let Some(leadership) = &self.leadership else {
            changes.credentials.extend(self.adopt(pki, &changed));
            changes.problems.extend(self.secrets.unreadable().cloned());
            return Ok(Some(changes));
        };
        let (contents, store) = pki.contents_and_store();
        let Some(store) = store.leadership() else { bail!("BUG: a leader without its store") };
        let repaired =
            tokio::task::block_in_place(|| store.repair(contents, &shown, &self.secrets, full));
        self.work.secrets_compared.fetch_add(repaired.compared, Ordering::Relaxed);
        changes.credentials.extend(scope_of(&repaired.read));
        changes.failed.extend(repaired.failed);
        changes.problems.extend(store.unreadable().cloned());
        changes.problems.extend(leadership.problems());
        Ok(Some(changes))
    }

    fn last_good(&self) -> LastGoodManifests {
        let mut kept = LastGoodManifests::new();
        for (secret, stored) in self.secrets.iter() {
            if let (PkiSecret::Cluster(name), Ok(data)) = (&secret, &stored.data)
                && let Some(service) = &data.service
                && let Ok(manifest) = serde_json::from_str::<Manifest>(service)
            {
                kept.insert(name.to_string(), [Arc::new(manifest)].into());
            }
        }
        kept
    }

    fn note_last_good(
        &mut self,
        pki: &mut Pki<SecretStore>,
        last_good: &LastGood,
        sources: Option<&BTreeSet<String>>,
    ) {
        let Some(store) = pki.contents_and_store().1.leadership() else { return };
        let names: BTreeSet<ClusterName> = match sources {
            Some(sources) => sources.iter().filter_map(|name| name.parse().ok()).collect(),
            None => {
                let sources = last_good.manifests().keys().filter_map(|name| name.parse().ok());
                sources.chain(store.kept_services().cloned()).collect()
            }
        };
        let mut services = BTreeMap::new();
        for name in names {
            let kept = last_good.get(name.as_str()).and_then(|manifests| manifests.first());
            // What is kept of a Service that is there and wrong stays, also where this process
            // couldn't read it.
            if kept.is_none() && self.watches.is_cluster(name.as_str()) {
                continue;
            }
            let text = kept.and_then(|manifest| serde_json::to_string(&**manifest).ok());
            services.insert(name, text);
        }
        store.keep_services(services);
    }

    fn write_last_good(&mut self, pki: &mut Pki<SecretStore>) -> Vec<String> {
        let (contents, store) = pki.contents_and_store();
        store.leadership().map(|store| store.save_services(contents)).unwrap_or_default()
    }

    fn write_outputs(&mut self, outputs: &Outputs<'_, SecretStore>) -> Vec<String> {
        let Some(leadership) = &mut self.leadership else { return Vec::new() };
        let (made, sent) = leadership.write_objects(outputs, &self.watches, self.owner.as_ref());
        self.work.objects_made.fetch_add(made, Ordering::Relaxed);
        self.work.objects_sent.fetch_add(sent, Ordering::Relaxed);
        tracing::debug!(work = ?self.work, "objects were made and sent to the writer");
        let mut services = std::mem::take(&mut self.services);
        if outputs.full || outputs.all {
            services.extend(self.watches.clusters.all().into_iter().map(|(name, _)| name));
        }
        services.extend(outputs.clusters.iter().map(ToString::to_string));
        for event in leadership.events(outputs, &self.watches, &services) {
            // With too many at once, the rest is in `atlas status` alone.
            let _ = self.events.try_send(event);
        }
        Vec::new()
    }

    fn zone_serial(&self) -> u32 {
        self.watches.zone().map_or(0, |zone| zone.serial)
    }
}

#[cfg(test)]
mod tests;

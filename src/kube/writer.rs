//! Applies and deletes the objects that the leader derives from the fleet, as the [`ObjectApplier`]
//! decides: several at a time, and only while this process leads.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::anyhow;
use atlas_core::kubernetes::apply::{
    ActionResult, Desired, DesiredObjects, ObjectAction, ObjectApplier,
};
use atlas_core::kubernetes::object::{ObjectKey, ObjectKind, ObjectPart};
use atlas_core::object_names;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use k8s_openapi::api::core::v1 as core;
use kube::api::{ApiResource, DynamicObject};
use kube::runtime::watcher::{self, Event};
use kube::{Api, Client, ResourceExt};
use serde_json::Value;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::election::{Candidate, now};
use super::errors::error_with_causes;
use super::reflector::watch_with_retries;
use super::{WRITES, ready_services, stale_endpoints};
use crate::metrics::Metrics;

mod execute;

use execute::{Executed, NameCache, execute};

/// How long one write may take. After that it failed, and is tried again.
const WRITE_TIMEOUT: Duration = Duration::from_secs(20);
/// How long a list may fail, or a Service wait for a pod, before people are told.
const GRACE: Duration = Duration::from_secs(20);
/// With more pending objects than this, the names of all objects are listed instead of asking for
/// each object.
const BULK: usize = 32;
/// How many objects, and how many failures, a problem lists.
const MAX_LISTED: usize = 3;
/// How long the writer sleeps while nothing is due.
const IDLE: u64 = 30_000;

const KINDS: [ObjectKind; 3] = [ObjectKind::Service, ObjectKind::Secret, ObjectKind::ConfigMap];

/// Which objects are to be there, and which are to be absent.
pub enum DesiredUpdate {
    /// Of all objects: others are to be absent.
    All(DesiredObjects),
    /// Of these objects: the others' stay.
    Some(DesiredObjects),
}

impl DesiredUpdate {
    /// Of how many objects.
    pub fn len(&self) -> usize {
        match self {
            DesiredUpdate::All(desired) | DesiredUpdate::Some(desired) => desired.len(),
        }
    }
}

/// Writes objects of one namespace.
pub struct Writer {
    /// The API server.
    pub client: Client,
    pub namespace: String,
    /// Asked before each write.
    pub candidate: Arc<Candidate>,
    /// Desired states; the first update must be of all objects.
    pub desired: mpsc::UnboundedReceiver<DesiredUpdate>,
    /// What people must know, in a stable order.
    pub problems: watch::Sender<Vec<String>>,
    /// Counts pending objects.
    pub metrics: Arc<Metrics>,
}

/// What a watch shows.
enum Observation {
    Object(ObjectKey, Value),
    Gone(ObjectKey),
    /// A list of this kind ended; it had these names.
    Listed(ObjectKind, BTreeSet<String>),
    /// The Services of the hub's Envoys that have a ready pod.
    ReadyServices(BTreeSet<String>),
}

/// What the writer knows between two writes.
struct Progress {
    applier: ObjectApplier,
    /// Kinds whose first list hasn't ended.
    unlisted: BTreeSet<ObjectKind>,
    /// Why the last write of an object failed.
    failures: BTreeMap<ObjectKey, String>,
    started: Instant,
    /// Since when Services wait for a pod.
    waiting_since: Option<Instant>,
}

impl Writer {
    /// Runs until cancelled, or until nobody sends desired states any more.
    pub async fn run(mut self, stop: CancellationToken) {
        let (observed, mut observations) = mpsc::unbounded_channel();
        for kind in KINDS {
            tokio::spawn(self.watch_objects(kind, observed.clone(), stop.clone()));
        }
        tokio::spawn(ready_services::watch(
            self.client.clone(),
            self.namespace.clone(),
            move |services| _ = observed.send(Observation::ReadyServices(services)),
            stop.clone(),
        ));
        let (stale_problem, mut stale) = watch::channel(None);
        tokio::spawn(stale_endpoints::remove(
            self.client.clone(),
            self.namespace.clone(),
            Arc::clone(&self.candidate),
            stale_problem,
            stop.clone(),
        ));
        let mut progress = Progress {
            applier: ObjectApplier::default(),
            unlisted: KINDS.into(),
            failures: BTreeMap::new(),
            started: Instant::now(),
            waiting_since: None,
        };
        let mut in_flight = FuturesUnordered::new();
        let names = Arc::new(NameCache::default());
        loop {
            // Before the first lists an object that is there would be taken for missing.
            let is_listed = progress.unlisted.is_empty();
            if is_listed {
                let is_bulk = progress.applier.pending_count() > BULK;
                let limit = WRITES.saturating_sub(in_flight.len());
                for action in progress.applier.next_actions(now_millis(), limit) {
                    in_flight.push(self.execute(action, is_bulk.then(|| Arc::clone(&names))));
                }
            }
            let stale_problem = stale.borrow_and_update().clone();
            self.report(&mut progress, stale_problem);
            let due = progress.applier.next_due();
            let due = due.filter(|_| is_listed && in_flight.len() < WRITES);
            let pause = due.map_or(IDLE, |due| due.saturating_sub(now_millis()).max(1));
            tokio::select! {
                Some((action, result)) = in_flight.next() => progress.on_result(&action, result),
                Some(observation) = observations.recv() => progress.observe(observation),
                Ok(()) = stale.changed() => {}
                update = self.desired.recv() => match update {
                    Some(update) => progress.set_desired(update),
                    None => return,
                },
                () = tokio::time::sleep(Duration::from_millis(pause)) => {}
                () = stop.cancelled() => return,
            }
        }
    }

    /// Tells people what can't be written, and metrics how much isn't yet.
    fn report(&self, progress: &mut Progress, stale_problem: Option<String>) {
        let pending = i64::try_from(progress.applier.pending_count()).unwrap_or(i64::MAX);
        self.metrics.unwritten.set(pending);
        let mut problems = progress.problems(&self.namespace);
        problems.extend(stale_problem);
        self.problems.send_if_modified(|before| {
            let differs = *before != problems;
            *before = problems;
            differs
        });
    }

    /// Watches Atlas's own objects of one kind.
    fn watch_objects(
        &self,
        kind: ObjectKind,
        observed: mpsc::UnboundedSender<Observation>,
        stop: CancellationToken,
    ) -> impl Future<Output = ()> + use<> {
        let api: Api<DynamicObject> =
            Api::namespaced_with(self.client.clone(), &self.namespace, &resource(kind));
        let parts = ObjectPart::DERIVED.map(ObjectPart::label).join(",");
        let selector = format!("{} in ({parts})", object_names::PART);
        let mut listed = BTreeSet::new();
        let key = move |object: &DynamicObject| ObjectKey { kind, name: object.name_any() };
        let handle = move |event: Event<DynamicObject>| {
            let observation = match event {
                Event::Init => {
                    listed.clear();
                    return;
                }
                Event::InitApply(object) => {
                    listed.insert(object.name_any());
                    Observation::Object(key(&object), value(object))
                }
                Event::InitDone => Observation::Listed(kind, std::mem::take(&mut listed)),
                Event::Apply(object) => Observation::Object(key(&object), value(object)),
                Event::Delete(object) => Observation::Gone(key(&object)),
            };
            let _ = observed.send(observation);
        };
        let config = watcher::Config::default().labels(&selector);
        watch_with_retries("the objects that Atlas wrote", api, config, handle, stop)
    }

    fn execute(
        &self,
        action: ObjectAction,
        names: Option<Arc<NameCache>>,
    ) -> impl Future<Output = (ObjectAction, anyhow::Result<Executed>)> + use<> {
        let resource = resource(action.key().kind);
        let api: Api<DynamicObject> =
            Api::namespaced_with(self.client.clone(), &self.namespace, &resource);
        let candidate = Arc::clone(&self.candidate);
        async move {
            let result = if candidate.leads().is_some() {
                tokio::time::timeout(WRITE_TIMEOUT, execute(&api, &action, names.as_deref()))
                    .await
                    .unwrap_or_else(|_| Err(anyhow!("no answer")))
            } else {
                Err(anyhow!("this Atlas no longer leads"))
            };
            (action, result)
        }
    }
}

impl Progress {
    fn observe(&mut self, observation: Observation) {
        match observation {
            Observation::Object(key, live) => self.applier.observe(&key, &live, now_millis()),
            Observation::Gone(key) => self.applier.observe_gone(&key, now_millis()),
            Observation::Listed(kind, names) => {
                self.applier.observe_list(kind, &names, now_millis());
                self.unlisted.remove(&kind);
            }
            Observation::ReadyServices(services) => self.applier.set_ready_services(services),
        }
    }

    fn set_desired(&mut self, update: DesiredUpdate) {
        let is_written = |desired: Option<&Desired>| matches!(desired, Some(Desired::Object(_)));
        match update {
            DesiredUpdate::All(all) => {
                self.applier.replace_desired(&all);
                self.failures.retain(|key, _| is_written(all.get(key)));
            }
            DesiredUpdate::Some(changes) => {
                self.applier.update_desired(&changes);
                self.failures
                    .retain(|key, _| !changes.contains_key(key) || is_written(changes.get(key)));
            }
        }
    }

    fn on_result(&mut self, action: &ObjectAction, result: anyhow::Result<Executed>) {
        let key = action.key();
        let result = match &result {
            Ok(Executed::Applied(live)) => ActionResult::Applied(live),
            Ok(Executed::Deleted) => ActionResult::Deleted,
            Ok(Executed::NotOurs) => ActionResult::NotOurs,
            Err(error) => {
                let verb =
                    if matches!(action, ObjectAction::Delete { .. }) { "delete" } else { "write" };
                let error = error
                    .downcast_ref::<kube::Error>()
                    .map_or_else(|| format!("{error:#}"), |error| error_with_causes(error));
                self.failures.insert(key.clone(), format!("cannot {verb} the {key}: {error}"));
                ActionResult::Failed
            }
        };
        if !matches!(result, ActionResult::Failed) {
            self.failures.remove(key);
        }
        self.applier.on_result(action, result, now_millis());
    }

    fn problems(&mut self, namespace: &str) -> Vec<String> {
        let applier = &self.applier;
        let mut problems = Vec::new();
        for kind in self.unlisted.iter().filter(|_| self.started.elapsed() > GRACE) {
            problems.push(format!(
                "nothing is written, since the {}s in {namespace} can't be listed (the log says why; Atlas's Role must allow it)",
                kind.name()
            ));
        }
        if let Some(objects) = list_first(applier.contested()) {
            problems.push(format!(
                "something else changes {objects} in {namespace} again and again: `kubectl get --show-managed-fields` shows who"
            ));
        }
        if let Some(objects) = list_first(applier.blocked()) {
            problems.push(format!(
                "{objects} in {namespace}: there is one that is not Atlas's (it lacks the label {}): rename or delete it",
                object_names::PART
            ));
        }
        let mut waiting: BTreeMap<&str, Vec<&ObjectKey>> = BTreeMap::new();
        for (key, target) in applier.waiting_for_pods() {
            waiting.entry(target).or_default().push(key);
        }
        let since = (!waiting.is_empty()).then(|| self.waiting_since.unwrap_or_else(Instant::now));
        self.waiting_since = since;
        if since.is_some_and(|since| since.elapsed() > GRACE) {
            for (target, keys) in waiting {
                problems.push(format!(
                    "{} in {namespace} will lead to the Service {target}, which no ready pod is behind, and until then stays as it is: do \
                     --envoy-selectors and goatlas.io/envoy-selectors name labels of the hub's Envoys?",
                    list_first(keys.into_iter()).unwrap_or_default()
                ));
            }
        }
        problems.extend(self.failures.values().take(MAX_LISTED).cloned());
        problems
    }
}

/// The first few objects, and how many more there are; `None`: there is none.
fn list_first<'a>(keys: impl Iterator<Item = &'a ObjectKey>) -> Option<String> {
    let keys: Vec<String> = keys.map(ToString::to_string).collect();
    let first = keys.iter().take(MAX_LISTED).cloned().collect::<Vec<_>>().join(", ");
    match keys.len() {
        0 => None,
        n if n > MAX_LISTED => Some(format!("{first} and {} more", n - MAX_LISTED)),
        _ => Some(first),
    }
}

fn resource(kind: ObjectKind) -> ApiResource {
    match kind {
        ObjectKind::Service => ApiResource::erase::<core::Service>(&()),
        ObjectKind::Secret => ApiResource::erase::<core::Secret>(&()),
        ObjectKind::ConfigMap => ApiResource::erase::<core::ConfigMap>(&()),
    }
}

fn value(mut object: DynamicObject) -> Value {
    object.metadata.managed_fields = None;
    serde_json::to_value(object).unwrap_or_default()
}

fn now_millis() -> u64 {
    u64::try_from(now().as_millis()).unwrap_or(u64::MAX)
}

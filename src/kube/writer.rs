//! Carries out what the [`ObjectApplier`] decides: applies and deletes objects, several at a time, while this Atlas leads.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::anyhow;
use atlas_core::kubernetes::apply::{Action, ObjectApplier, Outcome, is_ours};
use atlas_core::kubernetes::object::{Key, Kind, Part};
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use k8s_openapi::api::core::v1 as core;
use kube::api::{
    ApiResource, DeleteParams, DynamicObject, ListParams, Patch, PatchParams, Preconditions,
};
use kube::runtime::watcher::{self, Event};
use kube::{Api, Client, ResourceExt};
use serde_json::Value;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::election::{Candidate, now};
use super::watch::{chain, follow};
use super::{MANAGER, WRITES, hub_envoys, leftovers};
use crate::metrics::Metrics;

/// How long an answer may take, before it is tried again.
const PATIENCE: Duration = Duration::from_secs(20);

/// With more to write than this, names are asked for all together.
const BULK: usize = 32;
/// So long such an answer is good for.
const FRESH: Duration = Duration::from_secs(2);

/// What is wanted.
#[derive(Default)]
pub struct Wanted {
    /// By key.
    pub objects: BTreeMap<Key, Arc<Value>>,
    /// What can't be made at present, and stays as it is.
    pub kept: BTreeSet<Key>,
}

/// Writes objects of one namespace.
pub struct Writer {
    /// The API server.
    pub client: Client,
    /// Where.
    pub namespace: String,
    /// Whether it may.
    pub candidate: Arc<Candidate>,
    /// What is wanted; nothing before the first.
    pub wanted: watch::Receiver<Option<Arc<Wanted>>>,
    /// What people must know, in a stable order.
    pub problems: watch::Sender<Vec<String>>,
    /// Counts.
    pub metrics: Arc<Metrics>,
}

enum Seen {
    Is(Key, Value),
    Gone(Key),
    All(Kind, BTreeSet<String>),
    /// The Services of the hub's Envoys that have a ready one.
    WithPods(BTreeSet<String>),
}

const KINDS: [Kind; 3] = [Kind::Service, Kind::Secret, Kind::ConfigMap];

impl Writer {
    /// Runs until cancelled: for as long as this Atlas leads.
    pub async fn run(mut self, stop: CancellationToken) {
        let (seen_in, mut seen) = mpsc::unbounded_channel();
        for kind in KINDS {
            tokio::spawn(self.look(kind, seen_in.clone(), stop.clone()));
        }
        let with_pods = move |services| _ = seen_in.send(Seen::WithPods(services));
        tokio::spawn(hub_envoys::watch(
            self.client.clone(),
            self.namespace.clone(),
            with_pods,
            stop.clone(),
        ));
        let (left_in, mut left) = watch::channel(None);
        tokio::spawn(leftovers::remove(
            self.client.clone(),
            self.namespace.clone(),
            Arc::clone(&self.candidate),
            left_in,
            stop.clone(),
        ));
        let mut reconciler = ObjectApplier::default();
        let mut unlisted: BTreeSet<Kind> = KINDS.into();
        let mut failing: BTreeMap<Key, String> = BTreeMap::new();
        let mut under_way = FuturesUnordered::new();
        let names = Arc::new(Names::default());
        let (started, none) = (Instant::now(), BTreeSet::new());
        let mut waiting_since = None;
        loop {
            // What is there must be known before anything is taken for missing.
            if unlisted.is_empty() {
                let bulk = reconciler.unsettled() > BULK;
                for action in reconciler.next(millis(), WRITES - under_way.len().min(WRITES)) {
                    under_way.push(self.carry_out(action, bulk.then(|| Arc::clone(&names))));
                }
            }
            waiting_since = reconciler.waiting().next().and(waiting_since.or(Some(Instant::now())));
            let waiting = waiting_since.is_some_and(|since: Instant| since.elapsed() > PATIENCE);
            let stays = left.borrow_and_update().clone();
            self.report(
                &reconciler,
                &failing,
                if started.elapsed() > PATIENCE { &unlisted } else { &none },
                waiting,
                stays,
            );
            let due = reconciler.due().filter(|_| unlisted.is_empty() && under_way.len() < WRITES);
            let pause = Duration::from_millis(
                due.map_or(30_000, |due| due.saturating_sub(millis()).max(1)),
            );
            tokio::select! {
                Some((action, result)) = under_way.next() => note(&mut reconciler, &mut failing, &action, result),
                Some(event) = seen.recv() => match event {
                    Seen::Is(key, live) => reconciler.seen(&key, &live, millis()),
                    Seen::Gone(key) => reconciler.gone(&key, millis()),
                    Seen::All(kind, there) => {
                        reconciler.listed(kind, &there, millis());
                        unlisted.remove(&kind);
                    }
                    Seen::WithPods(services) => reconciler.with_pods(services),
                },
                Ok(()) = left.changed() => {}
                changed = self.wanted.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    if let Some(wanted) = self.wanted.borrow_and_update().clone() {
                        reconciler.want(&wanted.objects, &wanted.kept);
                        failing.retain(|key, _| wanted.objects.contains_key(key));
                    }
                }
                () = tokio::time::sleep(pause) => {}
                () = stop.cancelled() => return,
            }
        }
    }

    /// `waiting`: whether some Services have waited for a pod for so long that people should know; `left`: why what is left
    /// of earlier Services stays.
    fn report(
        &self,
        reconciler: &ObjectApplier,
        failing: &BTreeMap<Key, String>,
        unlisted: &BTreeSet<Kind>,
        waiting: bool,
        left: Option<String>,
    ) {
        let namespace = &self.namespace;
        let contested = several(reconciler.contested()).map(|what| {
            format!("something else changes {what} in {namespace} again and again: `kubectl get --show-managed-fields` shows who")
        });
        let blocked = several(reconciler.blocked()).map(|what| {
            format!("{what} in {namespace}: there is one that is not Atlas's (it lacks the label {}): rename or delete it", atlas_core::object_names::PART)
        });
        let waiting = reconciler.waiting().filter(|_| waiting).map(|(_, to)| to).collect::<BTreeSet<_>>().into_iter().map(|to| {
            let names = reconciler.waiting().filter(|(_, other)| *other == to).map(|(key, _)| key);
            format!(
                "{} in {namespace} will lead to the Service {to}, which no ready pod is behind, and until then stays as it is: do \
                 --envoy-selectors and goatlas.io/envoy-selectors name labels of the hub's Envoys?",
                several(names).unwrap_or_default()
            )
        });
        let waiting: Vec<String> = waiting.collect();
        let failing = failing.values().take(FEW).cloned();
        let unlisted = unlisted.iter().map(|kind| {
            format!(
                "nothing is written, since the {}s in {namespace} can't be listed (the log says why; Atlas's Role must allow it)",
                kind.name()
            )
        });
        let problems: Vec<String> = unlisted
            .chain(contested)
            .chain(blocked)
            .chain(waiting)
            .chain(failing)
            .chain(left)
            .collect();
        self.metrics.unwritten.set(i64::try_from(reconciler.unsettled()).unwrap_or(i64::MAX));
        self.problems.send_if_modified(|before| {
            let differs = *before != problems;
            *before = problems;
            differs
        });
    }

    /// Watches Atlas's own objects of one kind. Of each only what differs is kept.
    fn look(
        &self,
        kind: Kind,
        out: mpsc::UnboundedSender<Seen>,
        stop: CancellationToken,
    ) -> impl Future<Output = ()> + use<> {
        let api: Api<DynamicObject> =
            Api::namespaced_with(self.client.clone(), &self.namespace, &resource(kind));
        let parts = Part::DERIVED.map(Part::label).join(",");
        let selector = format!("{} in ({parts})", atlas_core::object_names::PART);
        let mut listed = BTreeSet::new();
        let handle = move |event: Event<DynamicObject>| {
            let is = |object: DynamicObject| {
                Seen::Is(Key { kind, name: object.name_any() }, value(object))
            };
            let said = match event {
                Event::Init => {
                    listed.clear();
                    return;
                }
                Event::InitApply(object) => {
                    listed.insert(object.name_any());
                    is(object)
                }
                Event::InitDone => Seen::All(kind, std::mem::take(&mut listed)),
                Event::Apply(object) => is(object),
                Event::Delete(object) => Seen::Gone(Key { kind, name: object.name_any() }),
            };
            let _ = out.send(said);
        };
        async move {
            follow(
                "the objects that Atlas wrote",
                api,
                watcher::Config::default().labels(&selector),
                handle,
                stop,
            )
            .await
        }
    }

    fn carry_out(
        &self,
        action: Action,
        names: Option<Arc<Names>>,
    ) -> impl Future<Output = (Action, anyhow::Result<Done>)> + use<> {
        let api: Api<DynamicObject> = Api::namespaced_with(
            self.client.clone(),
            &self.namespace,
            &resource(action.key().kind),
        );
        let candidate = Arc::clone(&self.candidate);
        async move {
            let result = if candidate.leads().is_some() {
                tokio::time::timeout(PATIENCE, act(&api, &action, names.as_deref()))
                    .await
                    .unwrap_or_else(|_| Err(anyhow!("no answer")))
            } else {
                Err(anyhow!("this Atlas no longer leads"))
            };
            (action, result)
        }
    }
}

/// Some of many, so that people see the wood.
const FEW: usize = 3;

/// The first few objects, and how many more there are; `None`: there is none.
fn several<'a>(keys: impl Iterator<Item = &'a Key>) -> Option<String> {
    let keys: Vec<String> = keys.map(ToString::to_string).collect();
    let first = keys.iter().take(FEW).cloned().collect::<Vec<_>>().join(", ");
    match keys.len() {
        0 => None,
        n if n > FEW => Some(format!("{first} and {} more", n - FEW)),
        _ => Some(first),
    }
}

enum Done {
    Applied(Value),
    Deleted,
    NotOurs,
}

/// The names of all objects of a kind in the namespace, whosoever: so that a fleet that is written for the first time isn't
/// asked for one by one.
#[derive(Default)]
struct Names(tokio::sync::Mutex<BTreeMap<Kind, (Instant, BTreeSet<String>)>>);

impl Names {
    /// Whether there may be an object of this name. Of one that is younger than [`FRESH`] nobody knows.
    async fn may_have(&self, api: &Api<DynamicObject>, key: &Key) -> anyhow::Result<bool> {
        let mut known = self.0.lock().await;
        if known.get(&key.kind).is_none_or(|(at, _)| at.elapsed() > FRESH) {
            let listed = api.list_metadata(&ListParams::default()).await?;
            let names = listed.items.iter().map(ResourceExt::name_any).collect();
            known.insert(key.kind, (Instant::now(), names));
        }
        Ok(known.get(&key.kind).is_some_and(|(_, names)| names.contains(&key.name)))
    }
}

async fn act(
    api: &Api<DynamicObject>,
    action: &Action,
    names: Option<&Names>,
) -> anyhow::Result<Done> {
    match action {
        Action::Apply { key, manifest, ours } => {
            // Whatever is there and wasn't listed as Atlas's is somebody else's, unless it is only a moment old.
            let may_be_there = match names {
                _ if *ours => false,
                Some(names) => names.may_have(api, key).await?,
                None => true,
            };
            if may_be_there
                && let Some(there) = api.get_opt(&key.name).await?
                && !is_ours(&value(there))
            {
                return Ok(Done::NotOurs);
            }
            // What came into being since then is left alone where it says anything else.
            let params = if *ours {
                PatchParams::apply(MANAGER).force()
            } else {
                PatchParams::apply(MANAGER)
            };
            match api.patch(&key.name, &params, &Patch::Apply(&**manifest)).await {
                Ok(applied) => Ok(Done::Applied(value(applied))),
                Err(kube::Error::Api(status)) if status.code == 409 && !ours => Ok(Done::NotOurs),
                Err(error) => Err(error.into()),
            }
        }
        Action::Delete { key, uid } => {
            let exactly = Preconditions { uid: Some(uid.clone()), resource_version: None };
            match api
                .delete(
                    &key.name,
                    &DeleteParams { preconditions: Some(exactly), ..Default::default() },
                )
                .await
            {
                Ok(_) => Ok(Done::Deleted),
                // Gone, or another one by now: the watch says which.
                Err(kube::Error::Api(status)) if status.code == 404 || status.code == 409 => {
                    Ok(Done::Deleted)
                }
                Err(error) => Err(error.into()),
            }
        }
    }
}

fn note(
    reconciler: &mut ObjectApplier,
    failing: &mut BTreeMap<Key, String>,
    action: &Action,
    result: anyhow::Result<Done>,
) {
    let key = action.key();
    match &result {
        Ok(_) => _ = failing.remove(key),
        Err(error) => {
            let what = if matches!(action, Action::Delete { .. }) { "delete" } else { "write" };
            let error = error
                .downcast_ref::<kube::Error>()
                .map_or_else(|| format!("{error:#}"), |error| chain(error));
            failing.insert(key.clone(), format!("cannot {what} the {key}: {error}"));
        }
    }
    let outcome = match &result {
        Ok(Done::Applied(live)) => Outcome::Applied(live),
        Ok(Done::Deleted) => Outcome::Deleted,
        Ok(Done::NotOurs) => Outcome::NotOurs,
        Err(_) => Outcome::Failed,
    };
    reconciler.done(action, outcome, millis());
}

fn resource(kind: Kind) -> ApiResource {
    match kind {
        Kind::Service => ApiResource::erase::<core::Service>(&()),
        Kind::Secret => ApiResource::erase::<core::Secret>(&()),
        Kind::ConfigMap => ApiResource::erase::<core::ConfigMap>(&()),
    }
}

fn value(mut object: DynamicObject) -> Value {
    object.metadata.managed_fields = None;
    serde_json::to_value(object).unwrap_or_default()
}

fn millis() -> u64 {
    u64::try_from(now().as_millis()).unwrap_or(u64::MAX)
}

//! Decides what to write to an API server so that it holds the desired objects. The caller carries
//! it out.
//!
//! ```text
//! replace_desired, update_desired ─┐
//! observe, observe_gone ───────────┼─▶ ObjectApplier ─▶ next_actions(now) ─▶ Apply or Delete ─▶ on_result ─┐
//!                                  │        ▲                                                              │
//!                                  │        └──────────────────────────────────────────────────────────────┘
//! ```
//!
//! - Only objects that differ are written. A change of a few objects looks at these alone.
//! - An object that can't be written is retried after a pause that doubles. It delays no other
//!   object.
//! - A change by somebody else is corrected at once, twice. Further corrections wait longer each
//!   time, and the object is reported as contested ([`ObjectApplier::contested`]).
//! - An object without Atlas's label is never written or deleted ([`ActionResult::NotOurs`]).
//! - A Service isn't turned into another name (`ExternalName`) of a Service that has no ready pod,
//!   and a Service isn't deleted while another one is a name of it
//!   ([`DerivedObject::external_name_target`]).

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use serde_json::Value;

use crate::kubernetes::object::{DerivedObject, ObjectKey, ObjectKind};
use crate::object_names::{HUB_STORES, PART};

/// Milliseconds on a monotonic clock.
pub type Instant = u64;

/// The first pause after a failure; each further one doubles it.
const FIRST_PAUSE: u64 = 1_000;
/// The longest pause after failures.
const LONGEST_PAUSE: u64 = 60_000;
/// How many changes by somebody else are corrected without a pause.
const IMMEDIATE_CORRECTIONS: u32 = 2;
/// The longest pause before a contested object is corrected again.
const LONGEST_BACKOFF: u64 = 600_000;
/// How many of its own versions of an object are remembered: a watch shows them later.
const OWN_VERSIONS: usize = 8;

/// What the API server should hold under one key.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Desired {
    /// At least what this manifest says.
    Object(Arc<Value>),
    /// Whatever is there: the object is desired, but its manifest can't be made at present.
    Unchanged,
    /// Nothing.
    #[default]
    Absent,
}

impl Desired {
    fn manifest(&self) -> Option<&Arc<Value>> {
        if let Desired::Object(manifest) = self { Some(manifest) } else { None }
    }

    fn is_same(&self, other: &Self) -> bool {
        match (self, other) {
            (Desired::Object(one), Desired::Object(other)) => {
                Arc::ptr_eq(one, other) || one == other
            }
            _ => self == other,
        }
    }
}

/// Desired states by object: all of them, or those that changed.
pub type DesiredObjects = BTreeMap<ObjectKey, Desired>;

/// A write to the API server.
#[derive(Clone, Debug, PartialEq)]
pub enum ObjectAction {
    /// Apply this manifest.
    Apply {
        /// Which object.
        key: ObjectKey,
        /// For server-side apply.
        manifest: Arc<Value>,
        /// Whether an object of Atlas's is known to be there. If not, an object of this name isn't
        /// Atlas's.
        ours: bool,
    },
    /// Delete exactly this object.
    Delete {
        /// Which object.
        key: ObjectKey,
        /// `metadata.uid`, as a precondition.
        uid: String,
    },
}

impl ObjectAction {
    /// The object that it writes.
    pub fn key(&self) -> &ObjectKey {
        match self {
            ObjectAction::Apply { key, .. } | ObjectAction::Delete { key, .. } => key,
        }
    }
}

/// How an [`ObjectAction`] ended.
#[derive(Clone, Debug)]
pub enum ActionResult<'a> {
    /// Applied; this is the object now.
    Applied(&'a Value),
    /// Deleted, or gone before.
    Deleted,
    /// There is an object of this name that isn't Atlas's.
    NotOurs,
    /// It failed, and may have been carried out or not.
    Failed,
}

/// Whether an object of the API server is Atlas's: it has Atlas's own label.
/// `app.kubernetes.io/managed-by` doesn't count, since other tools write it too (kustomize's
/// `managedByLabel`, Helm).
pub fn is_ours(live: &Value) -> bool {
    live["metadata"]["labels"].get(PART).is_some()
}

/// An object as the API server has it.
#[derive(Debug)]
struct LiveObject {
    uid: String,
    /// Whether it says what the desired manifest says.
    is_right: bool,
    /// See [`DerivedObject::external_name_target`].
    external_name_target: Option<String>,
}

impl LiveObject {
    fn new(live: &Value, desired: &Desired) -> Self {
        let is_right = desired
            .manifest()
            .is_some_and(|manifest| DerivedObject::is_satisfied_by(manifest, live));
        Self {
            uid: live["metadata"]["uid"].as_str().unwrap_or_default().to_owned(),
            is_right,
            external_name_target: DerivedObject::external_name_target(live).map(str::to_owned),
        }
    }
}

#[derive(Debug, Default)]
struct ObjectState {
    desired: Desired,
    live: Option<LiveObject>,
    in_flight: bool,
    /// Whether the manifest was applied since it last changed: if the object is wrong then,
    /// somebody else changed it.
    applied: bool,
    failures: u32,
    corrections: u32,
    /// Not written before this time.
    not_before: Instant,
    /// Whether an object of this name that isn't Atlas's is there.
    blocked: bool,
    /// `resourceVersion`s of Atlas's own writes, latest last.
    own_versions: VecDeque<String>,
}

impl ObjectState {
    fn action(&self, key: &ObjectKey) -> Option<ObjectAction> {
        match (&self.desired, &self.live) {
            (Desired::Object(_), Some(live)) if live.is_right => None,
            (Desired::Object(manifest), live) => Some(ObjectAction::Apply {
                key: key.clone(),
                manifest: Arc::clone(manifest),
                ours: live.is_some(),
            }),
            (Desired::Absent, Some(live)) => {
                Some(ObjectAction::Delete { key: key.clone(), uid: live.uid.clone() })
            }
            (Desired::Unchanged, _) | (Desired::Absent, None) => None,
        }
    }

    fn is_contested(&self) -> bool {
        self.desired.manifest().is_some() && self.corrections > IMMEDIATE_CORRECTIONS
    }

    /// Somebody else changed an object that was right.
    fn count_correction(&mut self, now: Instant) {
        if self.desired.manifest().is_none() || !self.applied {
            return;
        }
        self.applied = false;
        // After a quiet time corrections are immediate again.
        if now > self.not_before.saturating_add(LONGEST_BACKOFF) {
            self.corrections = 0;
        }
        self.corrections += 1;
        let pause = match self.corrections.checked_sub(IMMEDIATE_CORRECTIONS + 1) {
            None => 0,
            Some(more) => FIRST_PAUSE.saturating_mul(1 << more.min(20)).min(LONGEST_BACKOFF),
        };
        self.not_before = now + pause;
    }
}

fn resource_version(live: &Value) -> &str {
    live["metadata"]["resourceVersion"].as_str().unwrap_or_default()
}

/// Desired and live objects, and the writes in flight.
#[derive(Debug, Default)]
pub struct ObjectApplier {
    objects: BTreeMap<ObjectKey, ObjectState>,
    /// Objects that may need a write.
    queue: BTreeSet<ObjectKey>,
    /// See [`ObjectApplier::contested`].
    contested: BTreeSet<ObjectKey>,
    /// See [`ObjectApplier::blocked`].
    blocked: BTreeSet<ObjectKey>,
    /// For a Service, how many live Services are another name of it.
    external_names: BTreeMap<String, usize>,
    /// Services with a ready pod.
    ready_services: BTreeSet<String>,
    /// Whether all desired objects were said once: before that, an object may be desired and not
    /// yet said to be.
    has_desired: bool,
}

impl ObjectApplier {
    /// Sets the desired states of all objects: an object that isn't among them is to be absent.
    pub fn replace_desired(&mut self, desired: &DesiredObjects) {
        self.has_desired = true;
        let is_unwanted = |(key, state): &(&ObjectKey, &ObjectState)| {
            state.desired != Desired::Absent && !desired.contains_key(*key)
        };
        let unwanted: Vec<ObjectKey> =
            self.objects.iter().filter(is_unwanted).map(|(key, _)| key.clone()).collect();
        for key in &unwanted {
            self.set_desired(key, &Desired::Absent);
        }
        self.update_desired(desired);
    }

    /// Sets the desired states of these objects; the others' stay.
    pub fn update_desired(&mut self, changes: &DesiredObjects) {
        for (key, desired) in changes {
            self.set_desired(key, desired);
        }
    }

    fn set_desired(&mut self, key: &ObjectKey, desired: &Desired) {
        let before = self.objects.get(key).map_or(&Desired::Absent, |state| &state.desired);
        if before.is_same(desired) {
            return;
        }
        let state = self.objects.entry(key.clone()).or_default();
        state.desired = desired.clone();
        (state.applied, state.not_before) = (false, 0);
        if desired.manifest().is_some() {
            state.failures = 0;
            // What the live object says isn't kept. To apply a manifest that it satisfies already
            // does no harm.
            if let Some(live) = &mut state.live {
                live.is_right = false;
            }
        } else {
            state.blocked = false;
        }
        self.requeue(key);
    }

    /// An object of Atlas's is there.
    pub fn observe(&mut self, key: &ObjectKey, live: &Value, now: Instant) {
        let state = self.objects.entry(key.clone()).or_default();
        let is_latest =
            state.own_versions.back().is_some_and(|version| version == resource_version(live));
        if !is_latest && state.own_versions.iter().any(|version| version == resource_version(live))
        {
            return;
        }
        let live = LiveObject::new(live, &state.desired);
        if !live.is_right && !state.in_flight {
            state.count_correction(now);
        }
        state.blocked = false;
        set_live(&mut self.external_names, state, Some(live));
        self.requeue(key);
    }

    /// An object isn't there any more.
    pub fn observe_gone(&mut self, key: &ObjectKey, now: Instant) {
        let Some(state) = self.objects.get_mut(key) else { return };
        set_live(&mut self.external_names, state, None);
        if !state.in_flight {
            state.count_correction(now);
        }
        self.requeue(key);
    }

    /// All objects of one kind were listed: others are gone.
    pub fn observe_list(&mut self, kind: ObjectKind, names: &BTreeSet<String>, now: Instant) {
        let is_gone = |(key, state): &(&ObjectKey, &ObjectState)| {
            key.kind == kind && state.live.is_some() && !names.contains(&key.name)
        };
        let gone: Vec<ObjectKey> =
            self.objects.iter().filter(is_gone).map(|(key, _)| key.clone()).collect();
        for key in &gone {
            self.observe_gone(key, now);
        }
    }

    /// Replaces the Services that have a ready pod.
    pub fn set_ready_services(&mut self, services: BTreeSet<String>) {
        self.ready_services = services;
    }

    /// The state of an object changed.
    fn requeue(&mut self, key: &ObjectKey) {
        let state = self.objects.get(key);
        for (set, is_member) in [
            (&mut self.contested, state.is_some_and(ObjectState::is_contested)),
            (&mut self.blocked, state.is_some_and(|state| state.blocked)),
        ] {
            if is_member {
                set.insert(key.clone());
            } else {
                set.remove(key);
            }
        }
        self.queue.insert(key.clone());
    }

    /// What to do now, at most `limit` actions. Each is in flight until
    /// [`ObjectApplier::on_result`].
    pub fn next_actions(&mut self, now: Instant, limit: usize) -> Vec<ObjectAction> {
        if !self.has_desired {
            return Vec::new();
        }
        let mut actions = Vec::new();
        let mut done = Vec::new();
        for key in &self.queue {
            if actions.len() >= limit {
                break;
            }
            let Some(state) = self.objects.get(key) else {
                done.push(key.clone());
                continue;
            };
            if state.in_flight || state.not_before > now || self.must_wait(key, state) {
                continue;
            }
            match state.action(key) {
                Some(action) => actions.push(action),
                None => done.push(key.clone()),
            }
        }
        for action in &actions {
            if let Some(state) = self.objects.get_mut(action.key()) {
                state.in_flight = true;
            }
        }
        for key in done {
            self.queue.remove(&key);
            let is_unused =
                |state: &ObjectState| state.desired == Desired::Absent && state.live.is_none();
            if self.objects.get(&key).is_some_and(is_unused) {
                self.objects.remove(&key);
            }
        }
        actions
    }

    /// How an action ended.
    pub fn on_result(&mut self, action: &ObjectAction, result: ActionResult<'_>, now: Instant) {
        let key = action.key();
        let Some(state) = self.objects.get_mut(key) else { return };
        state.in_flight = false;
        state.blocked = matches!(result, ActionResult::NotOurs);
        match result {
            ActionResult::Applied(live) => {
                state.failures = 0;
                if !resource_version(live).is_empty() {
                    state.own_versions.push_back(resource_version(live).to_owned());
                    if state.own_versions.len() > OWN_VERSIONS {
                        state.own_versions.pop_front();
                    }
                }
                let live = LiveObject::new(live, &state.desired);
                state.applied = match (action, state.desired.manifest()) {
                    (ObjectAction::Apply { manifest, .. }, Some(desired)) => manifest == desired,
                    _ => false,
                };
                // An admission webhook changes what is written, or a person was faster.
                if state.applied && !live.is_right {
                    state.count_correction(now);
                }
                set_live(&mut self.external_names, state, Some(live));
            }
            ActionResult::Deleted => {
                state.failures = 0;
                set_live(&mut self.external_names, state, None);
            }
            ActionResult::NotOurs => {
                state.not_before = now + LONGEST_PAUSE;
                set_live(&mut self.external_names, state, None);
            }
            ActionResult::Failed => {
                state.not_before = now
                    + FIRST_PAUSE.saturating_mul(1 << state.failures.min(20)).min(LONGEST_PAUSE);
                state.failures += 1;
            }
        }
        self.requeue(key);
    }

    /// When [`ObjectApplier::next_actions`] will have something to do, if nothing else happens;
    /// `None`: never.
    pub fn next_due(&self) -> Option<Instant> {
        self.pending()
            .filter(|(key, state)| !state.in_flight && !self.must_wait(key, state))
            .map(|(_, state)| state.not_before)
            .min()
    }

    /// How many objects are not yet as desired.
    pub fn pending_count(&self) -> usize {
        self.pending().count()
    }

    fn pending(&self) -> impl Iterator<Item = (&ObjectKey, &ObjectState)> {
        self.queue
            .iter()
            .filter_map(|key| Some((key, self.objects.get(key)?)))
            .filter(|(key, state)| self.has_desired && state.action(key).is_some())
    }

    /// Whether an object has to stay as it is for now, so that no name leads to a Service without
    /// pods.
    fn must_wait(&self, key: &ObjectKey, state: &ObjectState) -> bool {
        let Some(live) = state.live.as_ref().filter(|_| key.kind == ObjectKind::Service) else {
            return false;
        };
        let Some(manifest) = state.desired.manifest() else {
            return key.name.starts_with(HUB_STORES) && self.external_names.contains_key(&key.name);
        };
        let Some(target) = DerivedObject::external_name_target(manifest) else { return false };
        let before = live.external_name_target.as_deref();
        // Where somebody else made it a name of something else, there is nothing to wait for.
        let is_ours = before.is_none_or(|before| before.starts_with(HUB_STORES));
        !live.is_right && is_ours && before != Some(target) && !self.ready_services.contains(target)
    }

    /// Services that will be another name of a Service, but not before that one has a ready pod;
    /// with its name.
    pub fn waiting_for_pods(&self) -> impl Iterator<Item = (&ObjectKey, &str)> {
        self.queue.iter().filter_map(|key| {
            let state = self.objects.get(key).filter(|state| self.must_wait(key, state))?;
            Some((key, DerivedObject::external_name_target(state.desired.manifest()?)?))
        })
    }

    /// Objects that somebody else changes again and again.
    pub fn contested(&self) -> impl Iterator<Item = &ObjectKey> {
        self.contested.iter()
    }

    /// Objects that can't be written, since an object of this name isn't Atlas's.
    pub fn blocked(&self) -> impl Iterator<Item = &ObjectKey> {
        self.blocked.iter()
    }
}

/// Replaces what is known of a live object, and counts the names of Services with it.
fn set_live(
    external_names: &mut BTreeMap<String, usize>,
    state: &mut ObjectState,
    live: Option<LiveObject>,
) {
    let target = |live: &Option<LiveObject>| live.as_ref()?.external_name_target.clone();
    if let Some(before) = target(&state.live)
        && let Some(count) = external_names.get_mut(&before)
    {
        *count -= 1;
        if *count == 0 {
            external_names.remove(&before);
        }
    }
    if let Some(now) = target(&live) {
        *external_names.entry(now).or_default() += 1;
    }
    state.live = live;
}

#[cfg(test)]
mod tests;

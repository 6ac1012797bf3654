//! What to write to an API server so that it holds the wanted objects: decided here, carried out elsewhere.
//!
//! ```text
//! want(objects) ─┐
//! seen(object) ──┼─▶ slots, one per object ─▶ next(now) ─▶ Apply or Delete ─▶ done(outcome) ─┐
//! gone(object) ──┘        ▲                                                                 │
//!                         └─────────────────────────────────────────────────────────────────┘
//! ```
//!
//! - Only what differs is written: a quiet fleet costs nothing, and one change costs what it says.
//! - One object that can't be written waits longer each time, and holds up no other.
//! - **It fights with nobody.** What somebody else changes is put right at once, twice; from then on it is left for longer and
//!   longer, and people are told ([`ObjectApplier::contested`]).
//! - **It takes nothing over.** What is not Atlas's by its labels is never written or deleted ([`Outcome::NotOurs`]).
//! - **It leads no name to where there are no pods.** A Service that is there is not turned into another name of a Service that no ready pod
//!   is behind, and a Service that another one still leads to is not deleted ([`Object::leads_to`]).

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use serde_json::Value;

use crate::kubernetes::object::{Key, Kind, Object};
use crate::object_names::HUB_STORES;

/// Milliseconds on a clock that only goes forward.
pub type Instant = u64;

/// The first pause after a failure; each further one doubles it.
const FIRST_PAUSE: u64 = 1_000;
/// The longest pause after failures.
const LONGEST_PAUSE: u64 = 60_000;
/// So often what somebody changes is put right without a pause.
const FREE_HEALS: u32 = 2;
/// The longest pause before something contested is put right again.
const LONGEST_TRUCE: u64 = 600_000;

/// What to do.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Apply this manifest.
    Apply {
        /// Of which object.
        key: Key,
        /// What it is to say.
        manifest: Arc<Value>,
        /// Whether an object of Atlas's is there already. If not, whatever is there is not Atlas's.
        ours: bool,
    },
    /// Delete exactly this object.
    Delete {
        /// Which one.
        key: Key,
        /// Only if it still is this one.
        uid: String,
    },
}

impl Action {
    /// The object it is about.
    pub fn key(&self) -> &Key {
        match self {
            Action::Apply { key, .. } | Action::Delete { key, .. } => key,
        }
    }
}

/// What came of an action.
#[derive(Clone, Debug)]
pub enum Outcome<'a> {
    /// Applied; this is the object now.
    Applied(&'a Value),
    /// Deleted, or gone before.
    Deleted,
    /// There is an object of this name that is not Atlas's.
    NotOurs,
    /// Nothing is known but that it failed.
    Failed,
}

/// Whether Atlas may write an object of the API server: it carries Atlas's own label. `app.kubernetes.io/managed-by` doesn't
/// count, since others write it too (kustomize's `managedByLabel`, Helm).
pub fn is_ours(live: &Value) -> bool {
    live["metadata"]["labels"].get(crate::object_names::PART).is_some()
}

#[derive(Debug)]
struct Live {
    uid: String,
    /// Whether it says what is wanted.
    right: bool,
    /// See [`Object::leads_to`].
    leads_to: Option<String>,
}

impl Live {
    fn of(live: &Value, wanted: Option<&Arc<Value>>) -> Self {
        Self {
            uid: live["metadata"]["uid"].as_str().unwrap_or_default().to_owned(),
            right: wanted.is_some_and(|wanted| Object::holds_in(wanted, live)),
            leads_to: Object::leads_to(live).map(str::to_owned),
        }
    }
}

#[derive(Debug, Default)]
struct Slot {
    wanted: Option<Arc<Value>>,
    live: Option<Live>,
    in_flight: bool,
    /// Whether `wanted` was applied since it last changed: if it is wrong then, somebody else did that.
    applied: bool,
    failures: u32,
    heals: u32,
    /// Not before that time.
    not_before: Instant,
    /// Something else has this name.
    blocked: bool,
    /// Versions that own writes made, latest last: a watch shows them again, later.
    own: VecDeque<String>,
}

impl Slot {
    fn action(&self, key: &Key) -> Option<Action> {
        match (&self.wanted, &self.live) {
            (Some(_), Some(live)) if live.right => None,
            (Some(manifest), live) => Some(Action::Apply {
                key: key.clone(),
                manifest: Arc::clone(manifest),
                ours: live.is_some(),
            }),
            (None, Some(live)) => Some(Action::Delete { key: key.clone(), uid: live.uid.clone() }),
            (None, None) => None,
        }
    }
}

/// What is kept is not deleted.
fn is_due(action: &Action, kept: &BTreeSet<Key>) -> bool {
    matches!(action, Action::Apply { .. }) || !kept.contains(action.key())
}

fn version(live: &Value) -> &str {
    live["metadata"]["resourceVersion"].as_str().unwrap_or_default()
}

/// So many of its own writes a watch may lag behind.
const LAG: usize = 8;

/// Wanted and live objects, and what is under way.
#[derive(Debug, Default)]
pub struct ObjectApplier {
    slots: BTreeMap<Key, Slot>,
    /// Those that may need something.
    dirty: BTreeSet<Key>,
    /// Objects that can't be made at present, and stay as they are.
    kept: BTreeSet<Key>,
    /// Services that a ready pod is behind.
    with_pods: BTreeSet<String>,
    /// Whether anything was ever wanted: before that nothing is unwanted either.
    told: bool,
}

impl ObjectApplier {
    /// What is wanted from now on, all of it. What is the same `Arc` as before costs nothing. What is in `kept` is wanted, but
    /// can't be made at present: it stays as it is.
    pub fn want(&mut self, objects: &BTreeMap<Key, Arc<Value>>, kept: &BTreeSet<Key>) {
        self.told = true;
        self.dirty.extend(self.kept.iter().chain(kept).cloned());
        self.kept.clone_from(kept);
        for (key, slot) in &mut self.slots {
            if slot.wanted.is_some() && !objects.contains_key(key) {
                (slot.wanted, slot.applied, slot.blocked, slot.not_before) =
                    (None, false, false, 0);
                self.dirty.insert(key.clone());
            }
        }
        for (key, manifest) in objects {
            let slot = self.slots.entry(key.clone()).or_default();
            if slot
                .wanted
                .as_ref()
                .is_some_and(|before| Arc::ptr_eq(before, manifest) || before == manifest)
            {
                continue;
            }
            slot.wanted = Some(Arc::clone(manifest));
            (slot.applied, slot.not_before, slot.failures) = (false, 0, 0);
            // What it says now is unknown, unless it is told again: applying what is right already does no harm.
            slot.live.iter_mut().for_each(|live| live.right = false);
            self.dirty.insert(key.clone());
        }
    }

    /// An object of Atlas's is there.
    pub fn seen(&mut self, key: &Key, live: &Value, now: Instant) {
        let slot = self.slots.entry(key.clone()).or_default();
        let latest = slot.own.back().is_some_and(|own| own == version(live));
        if !latest && slot.own.iter().any(|own| own == version(live)) {
            return;
        }
        let live = Live::of(live, slot.wanted.as_ref());
        let right = live.right;
        slot.live = Some(live);
        slot.blocked = false;
        if !right && !slot.in_flight {
            Self::count_heal(slot, now);
        }
        self.dirty.insert(key.clone());
    }

    /// It is not there any more.
    pub fn gone(&mut self, key: &Key, now: Instant) {
        if let Some(slot) = self.slots.get_mut(key) {
            slot.live = None;
            if !slot.in_flight {
                Self::count_heal(slot, now);
            }
            self.dirty.insert(key.clone());
        }
    }

    /// Everything of one kind has been listed: what is not among it is gone.
    pub fn listed(&mut self, kind: Kind, there: &BTreeSet<String>, now: Instant) {
        let gone = |(key, slot): (&Key, &Slot)| {
            (key.kind == kind && slot.live.is_some() && !there.contains(&key.name))
                .then(|| key.clone())
        };
        let gone: Vec<Key> = self.slots.iter().filter_map(gone).collect();
        gone.iter().for_each(|key| self.gone(key, now));
    }

    /// The Services that a ready pod is behind, as far as known; all of them.
    pub fn with_pods(&mut self, services: BTreeSet<String>) {
        self.with_pods = services;
    }

    /// Somebody else changed what was right.
    fn count_heal(slot: &mut Slot, now: Instant) {
        if slot.wanted.is_none() || !slot.applied {
            return;
        }
        slot.applied = false;
        // What has been left alone for long enough begins anew.
        if now > slot.not_before.saturating_add(LONGEST_TRUCE) {
            slot.heals = 0;
        }
        slot.heals += 1;
        let pause = match slot.heals.checked_sub(FREE_HEALS + 1) {
            None => 0,
            Some(more) => FIRST_PAUSE.saturating_mul(1 << more.min(20)).min(LONGEST_TRUCE),
        };
        slot.not_before = now + pause;
    }

    /// What to do now, at most `room` things. Each is under way until [`ObjectApplier::done`].
    pub fn next(&mut self, now: Instant, room: usize) -> Vec<Action> {
        if !self.told {
            return Vec::new();
        }
        let mut actions = Vec::new();
        let mut idle = Vec::new();
        for key in &self.dirty {
            if actions.len() >= room {
                break;
            }
            let Some(slot) = self.slots.get(key) else {
                idle.push(key.clone());
                continue;
            };
            if slot.in_flight || slot.not_before > now || self.waits(key, slot) {
                continue;
            }
            match slot.action(key).filter(|action| is_due(action, &self.kept)) {
                Some(action) => actions.push(action),
                None => idle.push(key.clone()),
            }
        }
        for action in &actions {
            self.slots.entry(action.key().clone()).and_modify(|slot| slot.in_flight = true);
        }
        for key in idle {
            self.dirty.remove(&key);
            if self.slots.get(&key).is_some_and(|slot| slot.wanted.is_none() && slot.live.is_none())
            {
                self.slots.remove(&key);
            }
        }
        actions
    }

    /// What came of an action. `manifest` is what was applied, if it was that.
    pub fn done(&mut self, action: &Action, outcome: Outcome<'_>, now: Instant) {
        let key = action.key();
        let Some(slot) = self.slots.get_mut(key) else { return };
        slot.in_flight = false;
        slot.blocked = matches!(outcome, Outcome::NotOurs);
        match outcome {
            Outcome::Applied(live) => {
                slot.failures = 0;
                if !version(live).is_empty() {
                    slot.own.push_back(version(live).to_owned());
                    if slot.own.len() > LAG {
                        slot.own.pop_front();
                    }
                }
                let live = Live::of(live, slot.wanted.as_ref());
                let right = live.right;
                let same = matches!((action, &slot.wanted), (Action::Apply { manifest, .. }, Some(wanted)) if manifest == wanted);
                slot.live = Some(live);
                slot.applied = same;
                if same && !right {
                    // Something between here and the API server's store changes it.
                    Self::count_heal(slot, now);
                }
            }
            Outcome::Deleted => {
                slot.failures = 0;
                slot.live = None;
            }
            Outcome::NotOurs => {
                slot.live = None;
                slot.not_before = now + LONGEST_PAUSE;
            }
            Outcome::Failed => {
                slot.not_before =
                    now + FIRST_PAUSE.saturating_mul(1 << slot.failures.min(20)).min(LONGEST_PAUSE);
                slot.failures += 1;
            }
        }
        self.dirty.insert(key.clone());
    }

    /// When [`ObjectApplier::next`] will have something to do at the latest, if nothing else happens; `None`: nothing.
    pub fn due(&self) -> Option<Instant> {
        let waiting = self.dirty.iter().filter_map(|key| Some((key, self.slots.get(key)?)));
        let mine = |(key, slot): &(&Key, &Slot)| {
            self.told && !slot.in_flight && self.needs(key, slot) && !self.waits(key, slot)
        };
        waiting.filter(mine).map(|(_, slot)| slot.not_before).min()
    }

    /// How many objects are not yet as they are wanted.
    pub fn unsettled(&self) -> usize {
        let dirty = self.dirty.iter().filter_map(|key| Some((key, self.slots.get(key)?)));
        dirty.filter(|(key, slot)| self.told && self.needs(key, slot)).count()
    }

    fn needs(&self, key: &Key, slot: &Slot) -> bool {
        slot.action(key).is_some_and(|action| is_due(&action, &self.kept))
    }

    /// Whether it has to stay as it is until something else is otherwise, so that no name leads to where there are no pods.
    fn waits(&self, key: &Key, slot: &Slot) -> bool {
        let Some(live) = slot.live.as_ref().filter(|_| key.kind == Kind::Service) else {
            return false;
        };
        match &slot.wanted {
            Some(wanted) => {
                let to = Object::leads_to(wanted).filter(|to| {
                    live.leads_to.as_deref() != Some(to) && !self.with_pods.contains(*to)
                });
                // Where somebody else has led it there is nothing to wait for.
                let ours =
                    live.leads_to.as_ref().is_none_or(|before| before.starts_with(HUB_STORES));
                !live.right && ours && to.is_some()
            }
            // Only these are led to; to ask this of every store that goes would cost the square of their number.
            None => {
                let leads_here = |other: &Slot| {
                    other
                        .live
                        .as_ref()
                        .is_some_and(|live| live.leads_to.as_deref() == Some(&*key.name))
                };
                key.name.starts_with(HUB_STORES) && self.slots.values().any(leads_here)
            }
        }
    }

    /// Services that are to lead to another Service, which no ready pod is behind yet, and that one.
    pub fn waiting(&self) -> impl Iterator<Item = (&Key, &str)> {
        let dirty = self.dirty.iter().filter_map(|key| Some((key, self.slots.get(key)?)));
        let waiting = dirty.filter(|(key, slot)| slot.wanted.is_some() && self.waits(key, slot));
        waiting.filter_map(|(key, slot)| Some((key, Object::leads_to(slot.wanted.as_ref()?)?)))
    }

    /// Objects that somebody else changes again and again.
    pub fn contested(&self) -> impl Iterator<Item = &Key> {
        self.slots
            .iter()
            .filter(|(_, slot)| slot.wanted.is_some() && slot.heals > FREE_HEALS)
            .map(|(key, _)| key)
    }

    /// Objects that can't be written, since something else has their name.
    pub fn blocked(&self) -> impl Iterator<Item = &Key> {
        self.slots.iter().filter(|(_, slot)| slot.blocked).map(|(key, _)| key)
    }
}

#[cfg(test)]
mod tests;

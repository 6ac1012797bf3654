//! A cache of the objects of one kind, kept up to date by a watch (client-go's reflector): what is
//! there, as far as this process knows, and what changed since it was last asked.
//!
//! ```text
//! API server ──list, watch──▶ Reflector ──▶ take_changes(): per object, as it is now
//!                                └────────▶ notifies whoever waits, if something differs
//! ```
//!
//! While the API server can't be reached, everything stays as it was. After a gap (410, a restart)
//! everything is listed anew, and the differences to that list are changes, all at once.
//!
//! A list that is empty although there were objects isn't applied before
//! [`Reflector::accept_empty`]: either everything was deleted, or the API server has lost its data.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::StreamExt;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::errors::error_with_causes;
use crate::process::lock::lock;

/// The API server ends a watch after this time, and it is resumed where it ended.
pub const WATCH_TIMEOUT: Duration = Duration::from_secs(60);
/// The first pause after a failure; each further one doubles it, and all vary by a fifth.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
/// The longest pause after failures. It is short, so that everything is known again soon after an
/// outage. A few watches per replica are no load for an API server.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// The cache of one kind. A clone is a handle on the same cache.
pub struct Reflector<T>(Arc<SharedCache<T>>);

impl<T> Clone for Reflector<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

struct SharedCache<T> {
    cache: Mutex<ReflectorCache<T>>,
    changed: Arc<Notify>,
}

type Items<T> = BTreeMap<String, Arc<T>>;

struct ReflectorCache<T> {
    items: Items<T>,
    /// An empty list that isn't accepted, and what was shown after it.
    unaccepted: Option<Items<T>>,
    /// Names of objects that changed since they were last taken.
    changed: BTreeSet<String>,
    /// Of these, the last object that was deleted.
    deleted: Items<T>,
    is_synced: bool,
}

/// What happened to one object since changes were last taken.
#[derive(Debug)]
pub struct Change<T> {
    /// The object as it is; `None`: there is none.
    pub now: Option<Arc<T>>,
    /// The last object of this name that was deleted, if one was. It may have been created since
    /// changes were last taken.
    pub deleted: Option<Arc<T>>,
}

impl<T: PartialEq> ReflectorCache<T> {
    /// Applies a complete list; returns whether anything differs.
    fn replace(&mut self, listed: Items<T>) -> bool {
        let is_first = !std::mem::replace(&mut self.is_synced, true);
        let current = self.unaccepted.as_ref().unwrap_or(&self.items);
        let differs = *current != listed;
        if self.unaccepted.is_some() || listed.is_empty() && !self.items.is_empty() {
            self.unaccepted = Some(listed);
        } else {
            self.apply_list(listed);
        }
        is_first || differs
    }

    fn apply_list(&mut self, listed: Items<T>) {
        let gone: Vec<String> =
            self.items.keys().filter(|name| !listed.contains_key(*name)).cloned().collect();
        for name in gone {
            self.set(name, None);
        }
        for (name, item) in listed {
            self.set(name, Some(item));
        }
    }

    /// Applies one event; returns whether anything differs.
    fn apply(&mut self, name: String, item: Option<Arc<T>>) -> bool {
        let Some(unaccepted) = &mut self.unaccepted else { return self.set(name, item) };
        match item {
            Some(item) => unaccepted.insert(name, Arc::clone(&item)) != Some(item),
            None => unaccepted.remove(&name).is_some(),
        }
    }

    fn set(&mut self, name: String, item: Option<Arc<T>>) -> bool {
        if self.items.get(&name) == item.as_ref() {
            return false;
        }
        match item {
            Some(item) => {
                self.items.insert(name.clone(), item);
            }
            None => {
                let deleted = self.items.remove(&name);
                self.deleted.extend(deleted.map(|item| (name.clone(), item)));
            }
        }
        self.changed.insert(name);
        true
    }
}

impl<T: PartialEq + Send + Sync + 'static> Reflector<T> {
    /// An empty cache. `changed` is notified of every difference.
    pub fn new(changed: Arc<Notify>) -> Self {
        let cache = ReflectorCache {
            items: Items::new(),
            unaccepted: None,
            changed: BTreeSet::new(),
            deleted: Items::new(),
            is_synced: false,
        };
        Self(Arc::new(SharedCache { cache: Mutex::new(cache), changed }))
    }

    /// Whether a first complete list has been applied.
    pub fn is_synced(&self) -> bool {
        lock(&self.0.cache).is_synced
    }

    /// An object as it is.
    pub fn get(&self, name: &str) -> Option<Arc<T>> {
        lock(&self.0.cache).items.get(name).cloned()
    }

    /// All objects as they are.
    pub fn all(&self) -> Vec<(String, Arc<T>)> {
        let cache = lock(&self.0.cache);
        cache.items.iter().map(|(name, item)| (name.clone(), Arc::clone(item))).collect()
    }

    /// What happened since this was last called.
    pub fn take_changes(&self) -> BTreeMap<String, Change<T>> {
        let mut cache = lock(&self.0.cache);
        let (changed, mut deleted) =
            (std::mem::take(&mut cache.changed), std::mem::take(&mut cache.deleted));
        let change = |name: String| {
            let (now, deleted) = (cache.items.get(&name).cloned(), deleted.remove(&name));
            (name, Change { now, deleted })
        };
        changed.into_iter().map(change).collect()
    }

    /// Whether a complete list was empty although there were objects, and nobody has accepted that
    /// yet.
    pub fn was_emptied(&self) -> bool {
        lock(&self.0.cache).unaccepted.is_some()
    }

    /// Applies the empty list, and what was shown after it.
    pub fn accept_empty(&self) {
        let mut cache = lock(&self.0.cache);
        if let Some(items) = cache.unaccepted.take() {
            cache.apply_list(items);
        }
    }

    /// Applies a complete list.
    pub fn replace(&self, listed: BTreeMap<String, T>) {
        let listed = listed.into_iter().map(|(name, item)| (name, Arc::new(item))).collect();
        self.change(|cache| cache.replace(listed));
    }

    /// Applies one event: an object as it is now, or (`None`) that it was deleted.
    pub fn apply(&self, name: String, item: Option<T>) {
        self.change(|cache| cache.apply(name, item.map(Arc::new)));
    }

    fn change(&self, change: impl FnOnce(&mut ReflectorCache<T>) -> bool) {
        if change(&mut lock(&self.0.cache)) {
            self.0.changed.notify_one();
        }
    }

    /// Watches until cancelled. `read` takes what matters of an object; `None`: the object doesn't
    /// matter.
    pub async fn run<K>(
        self,
        what: &'static str,
        api: Api<K>,
        config: watcher::Config,
        read: impl Fn(K) -> Option<T> + Send,
        stop: CancellationToken,
    ) where
        K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
    {
        let mut listed = BTreeMap::new();
        let handle = |event: Event<K>| match event {
            Event::Init => listed.clear(),
            Event::InitApply(object) => {
                let name = object.name_any();
                listed.extend(read(object).map(|item| (name, item)));
            }
            Event::InitDone => self.replace(std::mem::take(&mut listed)),
            Event::Apply(object) => self.apply(object.name_any(), read(object)),
            Event::Delete(object) => self.apply(object.name_any(), None),
        };
        watch_with_retries(what, api, config, handle, stop).await;
    }
}

/// Passes every event to `handle` until cancelled. Logs when the API server can't be reached, once
/// per outage.
pub async fn watch_with_retries<K>(
    what: &'static str,
    api: Api<K>,
    config: watcher::Config,
    mut handle: impl FnMut(Event<K>),
    stop: CancellationToken,
) where
    K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
{
    let config = config.timeout(u32::try_from(WATCH_TIMEOUT.as_secs()).unwrap_or(60));
    let mut failures = 0;
    // A new watcher after each error lists everything anew. An API server that was restored from a
    // backup counts its versions on from the backup, and a watch from a version that is still to
    // come would be silent for days.
    loop {
        let mut events = pin!(watcher(api.clone(), config.clone()));
        let error = loop {
            let event = tokio::select! {
                event = events.next() => event,
                () = stop.cancelled() => return,
            };
            match event {
                Some(Ok(event)) => {
                    if std::mem::take(&mut failures) > 0 {
                        tracing::info!("watching {what} again");
                    }
                    handle(event);
                }
                Some(Err(error)) => break error_with_causes(&error),
                None => break "the watch ended".to_owned(),
            }
        };
        if failures == 0 {
            tracing::warn!(
                error,
                "cannot watch {what}: what is known stays in force, and it is tried again"
            );
        }
        let pause = FIRST_PAUSE.saturating_mul(1 << failures.min(8)).min(LONGEST_PAUSE);
        failures += 1;
        let pause = pause.mul_f64(0.8 + 0.4 * fastrand::f64());
        if stop.run_until_cancelled(tokio::time::sleep(pause)).await.is_none() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reflector(items: &[(&str, u32)]) -> Reflector<u32> {
        let reflector = Reflector::new(Arc::default());
        reflector.replace(list(items));
        reflector.take_changes();
        reflector
    }

    fn list(items: &[(&str, u32)]) -> BTreeMap<String, u32> {
        items.iter().map(|(name, item)| ((*name).to_owned(), *item)).collect()
    }

    /// Name, object now, object deleted.
    fn changes(reflector: &Reflector<u32>) -> Vec<(String, Option<u32>, Option<u32>)> {
        let number = |item: Option<Arc<u32>>| item.map(|item| *item);
        let changes = reflector.take_changes().into_iter();
        changes.map(|(name, one)| (name, number(one.now), number(one.deleted))).collect()
    }

    #[test]
    fn only_changed_objects_are_handed_over_and_once() {
        let reflector = Reflector::new(Arc::default());
        assert!(!reflector.is_synced());
        reflector.replace(list(&[("a", 1), ("b", 1)]));
        assert!(reflector.is_synced());
        assert_eq!(changes(&reflector), [("a".into(), Some(1), None), ("b".into(), Some(1), None)]);
        reflector.apply("a".into(), Some(1));
        assert_eq!(changes(&reflector), []);
        reflector.apply("a".into(), Some(2));
        reflector.apply("a".into(), Some(3));
        assert_eq!(changes(&reflector), [("a".into(), Some(3), None)]);
        assert_eq!(changes(&reflector), []);
    }

    #[test]
    fn deleted_objects_are_handed_over_as_they_were() {
        let reflector = reflector(&[("a", 1), ("b", 1)]);
        reflector.apply("a".into(), None);
        reflector.apply("b".into(), None);
        reflector.apply("b".into(), Some(2));
        reflector.apply("c".into(), Some(1));
        reflector.apply("c".into(), None);
        reflector.apply("unknown".into(), None);
        assert_eq!(
            changes(&reflector),
            [
                ("a".into(), None, Some(1)),
                ("b".into(), Some(2), Some(1)),
                ("c".into(), None, Some(1))
            ]
        );
    }

    #[test]
    fn a_new_list_hands_over_what_differs() {
        let reflector = reflector(&[("a", 1), ("b", 1), ("c", 1)]);
        reflector.replace(list(&[("a", 1), ("b", 2), ("d", 1)]));
        assert_eq!(
            changes(&reflector),
            [("b".into(), Some(2), None), ("c".into(), None, Some(1)), ("d".into(), Some(1), None)]
        );
    }

    #[test]
    fn nothing_of_an_emptied_list_is_handed_over_before_it_is_accepted() {
        let reflector = reflector(&[("a", 1), ("b", 1)]);
        reflector.replace(list(&[]));
        reflector.apply("b".into(), Some(2));
        assert!(reflector.was_emptied());
        assert_eq!(changes(&reflector), []);
        assert_eq!(reflector.get("a").as_deref(), Some(&1));
        // A later list is of the same server.
        reflector.replace(list(&[("b", 3)]));
        assert!(reflector.was_emptied());
        assert_eq!(changes(&reflector), []);
        reflector.accept_empty();
        assert!(!reflector.was_emptied());
        assert_eq!(changes(&reflector), [("a".into(), None, Some(1)), ("b".into(), Some(3), None)]);
    }

    #[test]
    fn a_first_list_may_be_empty() {
        let reflector = reflector(&[]);
        assert!(reflector.is_synced() && !reflector.was_emptied());
        assert_eq!(reflector.all(), []);
    }
}

//! One kind of object, watched: what there is of it, as far as this process knows.
//!
//! ```text
//! API server ──list, watch──▶ Reflector ──▶ all(): everything, once there was a complete list
//!                                └─────▶ a changed for whoever waits, if something differs
//! ```
//!
//! While the API server can't be reached, everything stays as it was. After a gap (410, a restart) it is listed anew, and
//! what is there takes the old content's place at once, never object by object.

use std::collections::BTreeMap;
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

/// The API server ends a watch after this, and it is begun again where it ended.
pub const WATCH: Duration = Duration::from_secs(60);

/// The longest pause after failures. Short, so that all is known again soon after an outage: a few watches per replica are
/// nothing to an API server.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// Pauses between tries: half a second, doubled each time, a fifth more or less.
struct Pauses(u32);

impl Pauses {
    fn next(&mut self) -> Duration {
        let pause =
            Duration::from_millis(500).saturating_mul(1 << self.0.min(8)).min(LONGEST_PAUSE);
        self.0 += 1;
        pause.mul_f64(0.8 + 0.4 * fastrand::f64())
    }
}

/// A handle on what is known.
pub struct Reflector<T>(Arc<Inner<T>>);

impl<T> Clone for Reflector<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

struct Inner<T> {
    state: Mutex<State<T>>,
    changed: Arc<Notify>,
}

struct State<T> {
    items: Arc<BTreeMap<String, T>>,
    /// What was deleted since somebody asked, as it was: it may have come and gone between two looks.
    removed: BTreeMap<String, T>,
    synced: bool,
    /// Whether a list had nothing in it, where there was something before, and nobody has believed that yet.
    emptied: bool,
}

impl<T: Clone + PartialEq + Send + Sync + 'static> Reflector<T> {
    /// Knows nothing yet.
    pub fn new(changed: Arc<Notify>) -> Self {
        Self(Arc::new(Inner {
            state: Mutex::new(State {
                items: Arc::default(),
                removed: BTreeMap::new(),
                synced: false,
                emptied: false,
            }),
            changed,
        }))
    }

    /// Everything by name; `None` before the first complete list.
    pub fn all(&self) -> Option<Arc<BTreeMap<String, T>>> {
        let state = lock(&self.0.state);
        state.synced.then(|| Arc::clone(&state.items))
    }

    /// What was deleted since this was last asked, as it was.
    pub fn take_removed(&self) -> BTreeMap<String, T> {
        std::mem::take(&mut lock(&self.0.state).removed)
    }

    /// Whether a complete list had nothing in it, where there was something before: deleted in a gap, or an API server that
    /// has lost its memory.
    pub fn was_emptied(&self) -> bool {
        lock(&self.0.state).emptied
    }

    /// That it was emptied is believed.
    pub fn accept_empty(&self) {
        lock(&self.0.state).emptied = false;
    }

    fn change(&self, change: impl FnOnce(&mut State<T>) -> bool) {
        if change(&mut lock(&self.0.state)) {
            self.0.changed.notify_one();
        }
    }

    fn reset(&self, items: BTreeMap<String, T>) {
        self.change(|state| {
            let differs = !state.synced || *state.items != items;
            state.emptied |= items.is_empty() && !state.items.is_empty();
            state.items = Arc::new(items);
            state.synced = true;
            differs
        });
    }

    fn set(&self, name: String, item: T) {
        self.change(|state| {
            if state.items.get(&name) == Some(&item) {
                return false;
            }
            Arc::make_mut(&mut state.items).insert(name, item);
            true
        });
    }

    fn remove(&self, name: &str) {
        self.change(|state| {
            let removed = Arc::make_mut(&mut state.items).remove(name);
            let was_there = removed.is_some();
            state.removed.extend(removed.map(|item| (name.to_owned(), item)));
            was_there
        });
    }

    /// Watches until cancelled. `read` takes what matters of an object; `None`: it is none of our business.
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
            Event::InitDone => self.reset(std::mem::take(&mut listed)),
            Event::Apply(object) => {
                let name = object.name_any();
                match read(object) {
                    Some(item) => self.set(name, item),
                    None => self.remove(&name),
                }
            }
            Event::Delete(object) => self.remove(&object.name_any()),
        };
        watch_with_retries(what, api, config, handle, stop).await;
    }
}

/// Hands every event to `handle` until cancelled; says when the API server can't be reached, once each time.
pub async fn watch_with_retries<K>(
    what: &'static str,
    api: Api<K>,
    config: watcher::Config,
    mut handle: impl FnMut(Event<K>),
    stop: CancellationToken,
) where
    K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
{
    let config = config.timeout(u32::try_from(WATCH.as_secs()).unwrap_or(60));
    let mut pauses = Pauses(0);
    let mut failing = false;
    // After an error everything is listed anew: an API server that was restored goes on counting from before, and a watch from
    // a version that is still to come would be silent for days.
    loop {
        let mut events = pin!(watcher(api.clone(), config.clone()));
        let error = loop {
            let event = tokio::select! {
                event = events.next() => event,
                () = stop.cancelled() => return,
            };
            match event {
                Some(Ok(event)) => {
                    if std::mem::take(&mut failing) {
                        tracing::info!("watching {what} again");
                    }
                    pauses = Pauses(0);
                    handle(event);
                }
                Some(Err(error)) => break error_with_causes(&error),
                None => break "the watch ended".to_owned(),
            }
        };
        if !std::mem::replace(&mut failing, true) {
            tracing::warn!(
                error,
                "cannot watch {what}: what is known stays in force, and it is tried again"
            );
        }
        if stop.run_until_cancelled(tokio::time::sleep(pauses.next())).await.is_none() {
            return;
        }
    }
}

//! What tells that a directory changed: inotify, by way of `notify`.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use notify::event::{AccessKind, AccessMode};
use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::Notify;

use super::walk::Identity;

/// Watches one directory, also when it is replaced.
pub(super) struct Eyes {
    dir: PathBuf,
    changed: Arc<Notify>,
    watcher: Option<RecommendedWatcher>,
    /// The directory on which the watch is; `None` where there is no watch.
    on: Option<Identity>,
    /// Whether the last attempt failed, so that it is said once.
    failed: bool,
}

impl Eyes {
    pub fn new(dir: &Path, changed: &Arc<Notify>) -> Self {
        Self { dir: dir.to_owned(), changed: Arc::clone(changed), watcher: None, on: None, failed: false }
    }

    /// Sees to it that the directory that is there now is watched, and returns whether it is.
    ///
    /// A watch sticks to the directory that it was set on, even once another has its name; `again` sets it anew in any
    /// case, since not every file system gives a replaced directory another identity.
    pub fn open(&mut self, now: Option<Identity>, again: bool) -> bool {
        if now.is_none() {
            self.close();
            return false;
        }
        if self.on == now && !again {
            return true;
        }
        self.close();
        match self.set() {
            Ok(()) => {
                self.on = now;
                self.failed = false;
            }
            Err(error) if !self.failed => {
                tracing::warn!(dir = %self.dir.display(), %error, "cannot watch the directory of manifests; it is read every second instead");
                self.failed = true;
            }
            Err(_) => {}
        }
        self.on.is_some()
    }

    fn close(&mut self) {
        self.on = None;
        if let Some(watcher) = &mut self.watcher {
            // Fails where the directory went away and took the watch with it.
            let _ = watcher.unwatch(&self.dir);
        }
    }

    fn set(&mut self) -> notify::Result<()> {
        let watcher = match &mut self.watcher {
            Some(watcher) => watcher,
            none => {
                let changed = Arc::clone(&self.changed);
                none.insert(notify::recommended_watcher(move |event| {
                    if matters(&event) {
                        changed.notify_one();
                    }
                })?)
            }
        };
        watcher.watch(&self.dir, RecursiveMode::Recursive)
    }
}

/// Whether an event may mean another content. Atlas's own reading makes events too, and must not make it read again.
fn matters(event: &notify::Result<Event>) -> bool {
    match event.as_ref().map(|event| event.kind) {
        Ok(EventKind::Access(kind)) => kind == AccessKind::Close(AccessMode::Write),
        _ => true,
    }
}

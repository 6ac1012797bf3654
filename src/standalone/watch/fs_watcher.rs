//! Watches a directory by inotify, through the crate `notify`.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use notify::{RecommendedWatcher, RecursiveMode, Watcher};

use super::pending_events::PendingEvents;
use super::walk::FileId;

/// Watches one directory, also after it was replaced by another of the same name.
pub(super) struct FsWatcher {
    dir: PathBuf,
    events: Arc<PendingEvents>,
    watcher: Option<RecommendedWatcher>,
    /// The directory that is watched; `None` where there is no watch.
    watched: Option<FileId>,
    /// Whether the last attempt failed, so that it is logged once.
    failed: bool,
}

impl FsWatcher {
    pub fn new(dir: &Path, events: &Arc<PendingEvents>) -> Self {
        // Events carry absolute paths, and `dir` is what they are compared with.
        let dir = std::path::absolute(dir).unwrap_or_else(|_| dir.to_owned());
        Self { dir, events: Arc::clone(events), watcher: None, watched: None, failed: false }
    }

    /// Watches the directory that is there now, `current`; returns whether it is watched.
    ///
    /// A watch stays with the directory that it was set on, even once another one has its name.
    /// `renew` sets it again in any case, since not every file system gives a replaced directory
    /// another identity; set on a directory that is watched already it continues without a gap in
    /// which a file could be closed unseen.
    pub fn ensure_watching(&mut self, current: Option<FileId>, renew: bool) -> bool {
        if current.is_none() {
            self.unwatch();
            return false;
        }
        if self.watched == current && !renew {
            return true;
        }
        if self.watched != current {
            self.unwatch();
        }
        match self.watch() {
            Ok(()) => {
                self.watched = current;
                self.failed = false;
            }
            Err(error) => {
                self.unwatch();
                if !self.failed {
                    tracing::warn!(dir = %self.dir.display(), %error, "cannot watch the directory of manifests; it is read every second instead");
                }
                self.failed = true;
            }
        }
        self.watched.is_some()
    }

    fn unwatch(&mut self) {
        if self.watched.take().is_some() {
            self.events.forget_open_files();
        }
        if let Some(watcher) = &mut self.watcher {
            // Fails where the directory was removed, and the watch with it.
            let _ = watcher.unwatch(&self.dir);
        }
    }

    fn watch(&mut self) -> notify::Result<()> {
        let watcher = match &mut self.watcher {
            Some(watcher) => watcher,
            none => {
                let (dir, events) = (self.dir.clone(), Arc::clone(&self.events));
                none.insert(notify::recommended_watcher(move |event| events.record(&dir, event))?)
            }
        };
        watcher.watch(&self.dir, RecursiveMode::Recursive)
    }
}

//! One scan of the directory: watch it, see what changed, read that.

use std::path::Path;
use std::sync::Arc;

use tokio::time::Instant;

use super::file_cache::FileCache;
use super::fs_watcher::FsWatcher;
use super::pending_events::PendingEvents;
use super::timing::WatchTiming;
use super::update_queue::DirectoryUpdate;
use super::walk::FileId;
use crate::engine::last_good::LastGoodManifests;

/// Why to scan.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum ScanReason {
    /// Events came.
    Events,
    /// The rescan is due, or the directory is another one.
    Rescan,
    /// A file that waits before it takes effect is due.
    WaitingFile,
}

/// Watches and reads the directory. It is lent to a thread that may block.
pub(super) struct Scanner {
    watcher: FsWatcher,
    events: Arc<PendingEvents>,
    cache: FileCache,
    /// What differs, held back until the directory has been read completely once.
    held_back: DirectoryUpdate,
    /// Whether it has been read completely.
    is_complete: bool,
    /// When it counts as read completely at the latest, whichever files still wait.
    complete_at_latest: Instant,
    /// Whether people were told that files are waited for.
    has_told: bool,
}

/// What one scan found.
pub(super) struct ScanResult {
    /// What differs; empty before the first complete reading.
    pub update: DirectoryUpdate,
    /// The directory that was read; `None` where there was none.
    pub id: Option<FileId>,
    /// Whether to scan again soon: the directory could not be read, or not be watched.
    pub retry: bool,
    /// When a waiting file is due.
    pub due: Option<Instant>,
}

impl Scanner {
    pub fn new(
        dir: &Path,
        events: Arc<PendingEvents>,
        timing: &WatchTiming,
        last_good: LastGoodManifests,
    ) -> Self {
        Self {
            watcher: FsWatcher::new(dir, &events),
            events,
            cache: FileCache::new(dir, timing.quiet, last_good),
            held_back: DirectoryUpdate::default(),
            is_complete: false,
            complete_at_latest: Instant::now() + timing.quiet.if_less,
            has_told: false,
        }
    }

    pub fn scan(mut self, reason: ScanReason) -> (Self, ScanResult) {
        let id = self.cache.current_id();
        // Watch, then take the events, then read: a file that changes in between is read twice, and
        // none is missed.
        let is_watched = self.watcher.ensure_watching(id, reason == ScanReason::Rescan);
        let mut update = DirectoryUpdate::default();
        let result = if reason == ScanReason::WaitingFile {
            // The events stay: the burst that they belong to may go on.
            self.cache.read_waiting(&self.events.open_files(), &mut update)
        } else {
            let changes = self.events.drain();
            let open = self.events.open_files();
            let names_all_files = reason == ScanReason::Events
                && is_watched
                && self.is_complete
                && !changes.whole_directory;
            if names_all_files {
                self.cache.read_changed(&changes, &open, &mut update)
            } else {
                self.cache.read_all(&changes, &open, &mut update)
            }
        };
        if !self.is_complete {
            match &result {
                Ok(()) => self.check_complete(),
                Err(error) => tracing::warn!(%error, "waiting for the directory of manifests"),
            }
        }
        self.held_back.extend(update);
        let update = if self.is_complete {
            std::mem::take(&mut self.held_back)
        } else {
            DirectoryUpdate::default()
        };
        // Where nothing could be read, what was due is still due: `retry` covers it, and a time
        // that is past would spin.
        let due = if result.is_ok() { self.cache.due() } else { None };
        let result = ScanResult { update, id, retry: !is_watched || result.is_err(), due };
        (self, result)
    }

    /// At the start a file that may be incomplete, and of which nothing is known, would make a
    /// smaller fleet than there was.
    fn check_complete(&mut self) {
        self.is_complete =
            !self.cache.lacks_waiting_file() || Instant::now() >= self.complete_at_latest;
        if !self.is_complete && !self.has_told {
            self.has_told = true;
            tracing::info!(
                "waiting for manifests that have just been changed, in case they are being written"
            );
        }
    }
}

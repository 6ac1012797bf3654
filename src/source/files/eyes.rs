//! What tells that a directory changed: inotify, by way of `notify`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use notify::event::{AccessKind, AccessMode, ModifyKind, RenameMode};
use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::Notify;

use super::walk::{self, Identity};
use crate::lock::lock;

/// What was seen and not yet looked at.
#[derive(Default)]
pub(super) struct Sight {
    seen: Mutex<Seen>,
    bell: Notify,
}

/// What happened, as far as is known.
#[derive(Default)]
pub(super) struct Seen {
    /// Which files it happened to; `None`: perhaps to any.
    pub paths: Option<BTreeMap<PathBuf, IsComplete>>,
    /// Whether anything happened at all.
    any: bool,
}

/// Whether a file was written to its end, or moved into its place: nothing more is to be expected.
pub(super) type IsComplete = bool;

impl Sight {
    /// Takes what was seen so far.
    pub fn take(&self) -> Seen {
        let seen = std::mem::take(&mut *lock(&self.seen));
        if seen.any { seen } else { Seen { paths: Some(BTreeMap::new()), any: false } }
    }

    /// Waits until something is seen.
    pub async fn changed(&self) {
        self.bell.notified().await;
    }

    /// Whether all that was seen are files that are complete.
    pub fn is_complete(&self) -> bool {
        let seen = lock(&self.seen);
        seen.any && seen.paths.as_ref().is_some_and(|paths| paths.values().all(|complete| *complete))
    }

    fn note(&self, dir: &Path, event: notify::Result<Event>) {
        let what = matter(dir, event);
        let mut seen = lock(&self.seen);
        match what {
            Matter::Nothing => return,
            Matter::Any => seen.paths = None,
            Matter::Files(files) => {
                if !seen.any {
                    seen.paths = Some(BTreeMap::new());
                }
                if let Some(paths) = &mut seen.paths {
                    paths.extend(files);
                }
            }
        }
        seen.any = true;
        drop(seen);
        self.bell.notify_one();
    }
}

/// Watches one directory, also when it is replaced.
pub(super) struct Eyes {
    dir: PathBuf,
    sight: Arc<Sight>,
    watcher: Option<RecommendedWatcher>,
    /// The directory on which the watch is; `None` where there is no watch.
    on: Option<Identity>,
    /// Whether the last attempt failed, so that it is said once.
    failed: bool,
}

impl Eyes {
    pub fn new(dir: &Path, sight: &Arc<Sight>) -> Self {
        Self { dir: dir.to_owned(), sight: Arc::clone(sight), watcher: None, on: None, failed: false }
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
                let (dir, sight) = (self.dir.clone(), Arc::clone(&self.sight));
                none.insert(notify::recommended_watcher(move |event| sight.note(&dir, event))?)
            }
        };
        watcher.watch(&self.dir, RecursiveMode::Recursive)
    }
}

/// What an event may mean.
enum Matter {
    Nothing,
    /// Another content of these files, by their path within the directory.
    Files(Vec<(PathBuf, IsComplete)>),
    /// Anything.
    Any,
}

/// Atlas's own reading makes events too, and must not make it read again.
fn matter(dir: &Path, event: notify::Result<Event>) -> Matter {
    let Ok(event) = event else { return Matter::Any };
    if event.need_rescan() {
        return Matter::Any;
    }
    let complete = match event.kind {
        EventKind::Access(AccessKind::Close(AccessMode::Write)) | EventKind::Modify(ModifyKind::Name(RenameMode::To)) => true,
        EventKind::Access(_) => return Matter::Nothing,
        // Each end of it has been told by an event of its own.
        EventKind::Modify(ModifyKind::Name(RenameMode::Both)) => return Matter::Nothing,
        EventKind::Create(_) | EventKind::Modify(_) | EventKind::Remove(_) => false,
        EventKind::Any | EventKind::Other => return Matter::Any,
    };
    let mut files = Vec::new();
    for path in event.paths {
        match path.strip_prefix(dir).ok().map(|within| (walk::sort(within), within)) {
            Some((walk::Sort::Manifest, _)) if path.is_dir() => return Matter::Any,
            Some((walk::Sort::Manifest, within)) => files.push((within.to_owned(), complete)),
            Some((walk::Sort::PassedOver, _)) => {}
            // A directory, or what was one; any other file is none of ours.
            Some((walk::Sort::Other, within)) if path.is_file() && !within.as_os_str().is_empty() => {}
            _ => return Matter::Any,
        }
    }
    if files.is_empty() { Matter::Nothing } else { Matter::Files(files) }
}

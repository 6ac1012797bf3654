//! What tells that a directory changed: inotify, by way of `notify`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use atlas_core::yaml::WriteEvent;
use notify::event::{AccessKind, AccessMode, ModifyKind, RenameMode};
use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::Notify;

use super::walk::{self, Identity};
use crate::process::lock::lock;

/// What was seen and not yet looked at.
#[derive(Default)]
pub(super) struct Sight {
    state: Mutex<State>,
    bell: Notify,
}

#[derive(Default)]
struct State {
    seen: Seen,
    /// Files that somebody has written to and not closed since, by their path within the directory; of whatever name, since
    /// one may be moved before it is closed.
    open: BTreeSet<PathBuf>,
    /// The file that is being moved, by inotify's cookie, and whether it is open.
    moving: Option<(usize, bool)>,
}

/// What happened, as far as is known.
#[derive(Clone, Debug, Default)]
pub(super) struct Seen {
    /// To which manifests, and how their text came to be there.
    pub files: BTreeMap<PathBuf, WriteEvent>,
    /// Perhaps to any other as well.
    pub others: bool,
    /// Directories that were moved into their place, with all that is below them. The whole one where it was the link by which Kubernetes
    /// turns a mount.
    pub turned: BTreeSet<PathBuf>,
}

impl Seen {
    fn is_nothing(&self) -> bool {
        self.files.is_empty() && !self.others
    }
}

impl Sight {
    /// Takes what was seen so far.
    pub fn take(&self) -> Seen {
        std::mem::take(&mut lock(&self.state).seen)
    }

    /// Files that are being written now.
    pub fn open(&self) -> BTreeSet<PathBuf> {
        lock(&self.state).open.clone()
    }

    /// Waits until something is seen.
    pub async fn changed(&self) {
        self.bell.notified().await;
    }

    /// Whether all that was seen are files that are complete.
    pub fn is_complete(&self) -> bool {
        let seen = &lock(&self.state).seen;
        !seen.is_nothing()
            && !seen.others
            && seen.files.values().all(|arrival| *arrival != WriteEvent::Unknown)
    }

    pub fn note(&self, dir: &Path, event: notify::Result<Event>) {
        let mut state = lock(&self.state);
        state.note(dir, event);
        let rings = !state.seen.is_nothing();
        drop(state);
        if rings {
            self.bell.notify_one();
        }
    }

    /// What was open may have been closed without anybody having seen it.
    fn forget_open(&self) {
        let mut state = lock(&self.state);
        state.open.clear();
        state.seen.others = true;
    }
}

impl State {
    /// Atlas's own reading makes events too, and must not make it read again.
    fn note(&mut self, dir: &Path, event: notify::Result<Event>) {
        let event = match event {
            Ok(event) if !event.need_rescan() => event,
            // Events were lost, perhaps of closing too.
            _ => {
                self.open.clear();
                self.seen.others = true;
                return;
            }
        };
        // Of mode, owner and times alone, which many set after they have closed a file.
        let is_metadata = matches!(event.kind, EventKind::Modify(ModifyKind::Metadata(_)));
        let within: Vec<&Path> =
            event.paths.iter().filter_map(|path| path.strip_prefix(dir).ok()).collect();
        let arrival = match event.kind {
            EventKind::Access(AccessKind::Close(AccessMode::Write)) => {
                within.iter().for_each(|path| _ = self.open.remove(*path));
                WriteEvent::CloseWrite
            }
            EventKind::Modify(ModifyKind::Name(RenameMode::To)) => {
                self.moved_to(&within, event.tracker())
            }
            EventKind::Modify(ModifyKind::Name(RenameMode::From)) => {
                let was_open = within.iter().any(|path| self.open.contains(*path));
                self.moving = event.tracker().map(|cookie| (cookie, was_open));
                self.not_there(&within);
                WriteEvent::Unknown
            }
            // Each end of it has been told by an event of its own.
            EventKind::Modify(ModifyKind::Name(RenameMode::Both)) => return,
            EventKind::Access(_) => return,
            EventKind::Modify(ModifyKind::Data(_)) => {
                self.open.extend(within.iter().map(|path| (*path).to_owned()));
                WriteEvent::Unknown
            }
            EventKind::Remove(_) => {
                self.not_there(&within);
                WriteEvent::Unknown
            }
            EventKind::Create(_) | EventKind::Modify(_) => WriteEvent::Unknown,
            EventKind::Any | EventKind::Other => {
                self.seen.others = true;
                return;
            }
        };
        // Of the directory itself, by whichever name.
        self.seen.others |= within.len() < event.paths.len();
        for (path, within) in
            event.paths.iter().filter_map(|path| Some((path, path.strip_prefix(dir).ok()?)))
        {
            match walk::sort(within) {
                walk::Sort::Manifest if is_metadata => {
                    _ = self.seen.files.entry(within.to_owned()).or_insert(arrival)
                }
                walk::Sort::Manifest if !path.is_dir() => {
                    _ = self.seen.files.insert(within.to_owned(), arrival)
                }
                walk::Sort::PassedOver => {}
                // Any other file is none of ours.
                walk::Sort::Other if path.is_file() && !within.as_os_str().is_empty() => {}
                // A directory, or what was one.
                _ => {
                    self.seen.others = true;
                    if arrival == WriteEvent::MovedTo {
                        let is_mount = within.as_os_str().as_encoded_bytes().starts_with(b"..");
                        self.seen.turned.insert(if is_mount {
                            PathBuf::new()
                        } else {
                            within.to_owned()
                        });
                    }
                }
            }
        }
    }

    /// A file that is moved while somebody still writes it is none that is complete.
    fn moved_to(&mut self, within: &[&Path], cookie: Option<usize>) -> WriteEvent {
        let is_open =
            self.moving.take().is_some_and(|(moving, is_open)| Some(moving) == cookie && is_open);
        self.not_there(within);
        if is_open {
            self.open.extend(within.iter().map(|path| (*path).to_owned()));
            return WriteEvent::Unknown;
        }
        WriteEvent::MovedTo
    }

    /// What was there, and was below it, is no longer.
    fn not_there(&mut self, within: &[&Path]) {
        self.open.retain(|open| !within.iter().any(|path| open.starts_with(path)));
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
        // As events name it: by its absolute path, of which their paths must be told apart.
        let dir = std::path::absolute(dir).unwrap_or_else(|_| dir.to_owned());
        Self { dir, sight: Arc::clone(sight), watcher: None, on: None, failed: false }
    }

    /// Sees to it that the directory that is there now is watched, and returns whether it is.
    ///
    /// A watch sticks to the directory that it was set on, even once another has its name; `again` sets it anew in any
    /// case, since not every file system gives a replaced directory another identity. Set on what is watched already, it
    /// goes on without a gap in which a file could be closed unseen.
    pub fn open(&mut self, now: Option<Identity>, again: bool) -> bool {
        if now.is_none() {
            self.close();
            return false;
        }
        if self.on == now && !again {
            return true;
        }
        if self.on != now {
            self.close();
        }
        match self.set() {
            Ok(()) => {
                self.on = now;
                self.failed = false;
            }
            Err(error) => {
                self.close();
                if !self.failed {
                    tracing::warn!(dir = %self.dir.display(), %error, "cannot watch the directory of manifests; it is read every second instead");
                }
                self.failed = true;
            }
        }
        self.on.is_some()
    }

    fn close(&mut self) {
        if self.on.take().is_some() {
            self.sight.forget_open();
        }
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

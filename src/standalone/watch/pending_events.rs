//! File system events, collected until the next scan.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use atlas_core::yaml::WriteEvent;
use notify::event::{AccessKind, AccessMode, ModifyKind, RenameMode};
use notify::{Event, EventKind};
use tokio::sync::Notify;

use super::walk::{self, PathKind};
use crate::process::lock::lock;

/// Events that no scan has handled yet.
#[derive(Default)]
pub(super) struct PendingEvents {
    state: Mutex<EventState>,
    changed: Notify,
}

#[derive(Default)]
struct EventState {
    changes: PendingChanges,
    /// Files that were written to and not closed since, by their path within the directory. Files
    /// of every name, since one may be renamed before it is closed.
    open: BTreeSet<PathBuf>,
    /// The file that is being renamed, by inotify's cookie, and whether it is open.
    renaming: Option<(usize, bool)>,
}

/// What changed, by the events.
#[derive(Clone, Debug, Default)]
pub(super) struct PendingChanges {
    /// Manifests, and how their text was written.
    pub files: BTreeMap<PathBuf, WriteEvent>,
    /// Whether any other file may have changed too, so that the whole directory must be read.
    pub whole_directory: bool,
    /// Directories that were moved into their place, with all that is below them. The empty path
    /// stands for the whole directory: Kubernetes replaced the `..data` link of a mounted
    /// ConfigMap.
    pub moved_directories: BTreeSet<PathBuf>,
}

impl PendingChanges {
    fn is_empty(&self) -> bool {
        self.files.is_empty() && !self.whole_directory
    }
}

impl PendingEvents {
    /// Takes out what has changed so far.
    pub fn drain(&self) -> PendingChanges {
        std::mem::take(&mut lock(&self.state).changes)
    }

    /// Files that are being written now.
    pub fn open_files(&self) -> BTreeSet<PathBuf> {
        lock(&self.state).open.clone()
    }

    /// Waits until something changes.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }

    /// Whether something has changed, and only files that are complete.
    pub fn all_complete(&self) -> bool {
        let changes = &lock(&self.state).changes;
        !changes.is_empty()
            && !changes.whole_directory
            && changes.files.values().all(|write_event| *write_event != WriteEvent::Unknown)
    }

    /// Records an event of the directory `dir`.
    pub fn record(&self, dir: &Path, event: notify::Result<Event>) {
        let mut state = lock(&self.state);
        state.record(dir, event);
        let has_changes = !state.changes.is_empty();
        drop(state);
        if has_changes {
            self.changed.notify_one();
        }
    }

    /// Forgets which files are open: while nothing was watched, they may have been closed.
    pub fn forget_open_files(&self) {
        lock(&self.state).record_lost_events();
    }
}

impl EventState {
    /// Reading a file makes events too; they must not cause another scan.
    fn record(&mut self, dir: &Path, event: notify::Result<Event>) {
        let event = match event {
            Ok(event) if !event.need_rescan() => event,
            _ => return self.record_lost_events(),
        };
        // Events of mode, owner and times alone: many programs set these after they have closed a
        // file.
        let is_metadata = matches!(event.kind, EventKind::Modify(ModifyKind::Metadata(_)));
        let within: Vec<&Path> =
            event.paths.iter().filter_map(|path| path.strip_prefix(dir).ok()).collect();
        let write_event = match event.kind {
            EventKind::Access(AccessKind::Close(AccessMode::Write)) => {
                for path in &within {
                    self.open.remove(*path);
                }
                WriteEvent::CloseWrite
            }
            EventKind::Modify(ModifyKind::Name(RenameMode::To)) => {
                self.record_renamed_to(&within, event.tracker())
            }
            EventKind::Modify(ModifyKind::Name(RenameMode::From)) => {
                let was_open = within.iter().any(|path| self.open.contains(*path));
                self.renaming = event.tracker().map(|cookie| (cookie, was_open));
                self.close_below(&within);
                WriteEvent::Unknown
            }
            // The old and the new name had an event each.
            EventKind::Modify(ModifyKind::Name(RenameMode::Both)) => return,
            EventKind::Access(_) => return,
            EventKind::Modify(ModifyKind::Data(_)) => {
                self.open.extend(within.iter().map(|path| (*path).to_owned()));
                WriteEvent::Unknown
            }
            EventKind::Remove(_) => {
                self.close_below(&within);
                WriteEvent::Unknown
            }
            EventKind::Create(_) | EventKind::Modify(_) => WriteEvent::Unknown,
            EventKind::Any | EventKind::Other => {
                self.changes.whole_directory = true;
                return;
            }
        };
        // A path outside is that of the directory itself, by whichever name.
        self.changes.whole_directory |= within.len() < event.paths.len();
        for path in &event.paths {
            if let Ok(within) = path.strip_prefix(dir) {
                self.record_path(path, within, write_event, is_metadata);
            }
        }
    }

    /// `within` is `path` without the watched directory.
    fn record_path(
        &mut self,
        path: &Path,
        within: &Path,
        write_event: WriteEvent,
        is_metadata: bool,
    ) {
        match walk::classify(within) {
            PathKind::Manifest if is_metadata => {
                self.changes.files.entry(within.to_owned()).or_insert(write_event);
            }
            PathKind::Manifest if !path.is_dir() => {
                self.changes.files.insert(within.to_owned(), write_event);
            }
            PathKind::Ignored => {}
            PathKind::Other if path.is_file() && !within.as_os_str().is_empty() => {}
            // A directory, or what was one.
            _ => {
                self.changes.whole_directory = true;
                if write_event == WriteEvent::MovedTo {
                    let is_mount = within.as_os_str().as_encoded_bytes().starts_with(b"..");
                    let moved = if is_mount { PathBuf::new() } else { within.to_owned() };
                    self.changes.moved_directories.insert(moved);
                }
            }
        }
    }

    /// A file that is renamed while it is open isn't complete.
    fn record_renamed_to(&mut self, within: &[&Path], cookie: Option<usize>) -> WriteEvent {
        let is_open = self
            .renaming
            .take()
            .is_some_and(|(renaming, is_open)| Some(renaming) == cookie && is_open);
        self.close_below(within);
        if is_open {
            self.open.extend(within.iter().map(|path| (*path).to_owned()));
            return WriteEvent::Unknown;
        }
        WriteEvent::MovedTo
    }

    /// Files may have been closed without an event, and any file may have changed.
    fn record_lost_events(&mut self) {
        self.open.clear();
        self.changes.whole_directory = true;
    }

    /// What was open at these paths or below them has another name now, or none.
    fn close_below(&mut self, within: &[&Path]) {
        self.open.retain(|open| !walk::is_below(open, within));
    }
}

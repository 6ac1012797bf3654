//! The files of a directory as they were last read, and which of them wait before they take effect.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use atlas_core::manifest::ManifestError;
use atlas_core::yaml::WriteEvent;
use tokio::time::Instant;

use super::cached_file::{CachedFile, ReadContext, STAYS};
use super::pending_events::PendingChanges;
use super::timing::QuietPeriods;
use super::update_queue::{DirectoryErrors, DirectoryUpdate};
use super::walk::{self, FileId, Listing, ReadResult, is_below};
use crate::engine::last_good::LastGoodManifests;

/// A directory as it was last read.
pub(super) struct FileCache {
    dir: PathBuf,
    quiet: QuietPeriods,
    /// Manifests that an earlier process kept of files of which this one has read no valid text
    /// yet.
    last_good: LastGoodManifests,
    files: BTreeMap<PathBuf, CachedFile>,
    /// Those of `files` that wait before they take effect.
    waiting: BTreeSet<PathBuf>,
    /// Directories within it that can't be read at present.
    unreadable: Vec<ManifestError>,
    /// Why the directory itself can't be read at present.
    problem: Option<ManifestError>,
    /// Whether the directory has been read once.
    has_started: bool,
    /// The directory errors that were last reported; `None` before the first update.
    reported: Option<DirectoryErrors>,
    /// The directory that was read last.
    id: Option<FileId>,
    /// Its path with all links resolved.
    real_path: Option<PathBuf>,
}

impl FileCache {
    pub fn new(dir: &Path, quiet: QuietPeriods, last_good: LastGoodManifests) -> Self {
        Self {
            dir: dir.to_owned(),
            quiet,
            last_good,
            files: BTreeMap::new(),
            waiting: BTreeSet::new(),
            unreadable: Vec::new(),
            problem: None,
            has_started: false,
            reported: None,
            id: None,
            real_path: None,
        }
    }

    #[cfg(test)]
    pub fn set_quiet(&mut self, quiet: QuietPeriods) {
        self.quiet = quiet;
    }

    /// The directory that is there now.
    pub fn current_id(&self) -> Option<FileId> {
        fs::metadata(&self.dir).ok().map(|metadata| FileId::of(&metadata))
    }

    /// When a waiting file is to be read again.
    pub fn due(&self) -> Option<Instant> {
        self.waiting.iter().filter_map(|path| self.files.get(path)?.due()).min()
    }

    /// Whether the fleet would be smaller than it was: a file waits, and nothing was known of it
    /// before.
    pub fn lacks_waiting_file(&self) -> bool {
        self.waiting.iter().any(|path| {
            let Some(file) = self.files.get(path) else { return false };
            let last_good = self.last_good.get(&path.display().to_string());
            file.waits_for_quiet()
                && file.is_empty()
                && last_good.is_none_or(|manifests| manifests.is_empty())
        })
    }

    /// Reads the whole directory, and adds what differs to `update`. `open` are the files that are
    /// being written.
    ///
    /// # Errors
    /// The directory itself can't be read; what was read before is kept.
    pub fn read_all(
        &mut self,
        changes: &PendingChanges,
        open: &BTreeSet<PathBuf>,
        update: &mut DirectoryUpdate,
    ) -> Result<(), ManifestError> {
        let real_path = fs::canonicalize(&self.dir).ok();
        // A link on the way leads elsewhere now: another directory was put in place as a whole.
        let root_moved =
            self.real_path.is_some() && real_path.is_some() && real_path != self.real_path;
        let moved: Vec<&PathBuf> = changes.moved_directories.iter().collect();
        let listing = self.list();
        self.problem = listing.as_ref().err().cloned();
        if let Ok(listing) = &listing {
            self.real_path = real_path;
            for path in &listing.files {
                let write_event = changes
                    .files
                    .get(path)
                    .copied()
                    .filter(|write_event| *write_event != WriteEvent::Unknown);
                self.read_file(
                    path,
                    write_event,
                    root_moved || is_below(path, &moved),
                    open,
                    update,
                );
            }
            self.forget_missing_files(listing, update);
            self.unreadable.clear();
            for (path, error) in &listing.unreadable {
                self.unreadable.push(error_of(path, format!("cannot be read: {error}: {STAYS}")));
            }
            self.has_started = true;
        }
        let errors = DirectoryErrors {
            errors: self.problem.iter().chain(&self.unreadable).cloned().collect(),
            unreadable: self.unreadable.iter().map(|error| error.file.clone()).collect(),
        };
        // The first time also where nothing is wrong: by that an empty directory is known to have
        // been read.
        if self.reported.as_ref() != Some(&errors) {
            update.directories = Some(errors.clone());
            self.reported = Some(errors);
        }
        listing.map(drop)
    }

    /// Forgets the files that a listing no longer has.
    fn forget_missing_files(&mut self, listing: &Listing, update: &mut DirectoryUpdate) {
        let there: BTreeSet<&PathBuf> = listing.files.iter().collect();
        let unreadable: Vec<&PathBuf> = listing.unreadable.iter().map(|(dir, _)| dir).collect();
        let gone: Vec<PathBuf> = self
            .files
            .keys()
            .filter(|path| !there.contains(path) && !is_below(path, &unreadable))
            .cloned()
            .collect();
        self.forget(gone, update);
        // What an earlier process read and is not there now was removed in between. But an empty
        // directory may be one whose volume isn't mounted yet.
        if !self.has_started && !listing.is_empty() {
            self.last_good.retain(|name, _| {
                there.contains(&PathBuf::from(name)) || is_below(Path::new(name), &unreadable)
            });
        }
    }

    /// Reads only the files that changed and those that wait, and adds what differs to `update`.
    ///
    /// # Errors
    /// As [`FileCache::read_all`], which is called where the directory is another one.
    pub fn read_changed(
        &mut self,
        changes: &PendingChanges,
        open: &BTreeSet<PathBuf>,
        update: &mut DirectoryUpdate,
    ) -> Result<(), ManifestError> {
        if self.problem.is_some() || self.current_id() != self.id {
            return self.read_all(changes, open, update);
        }
        let mut gone = Vec::new();
        for (path, write_event) in &changes.files {
            if !self.read_file(path, Some(*write_event), false, open, update) {
                gone.push(path.clone());
            }
        }
        for path in self.waiting.clone() {
            if !changes.files.contains_key(&path)
                && !self.read_file(&path, None, false, open, update)
            {
                gone.push(path);
            }
        }
        self.forget(gone, update);
        Ok(())
    }

    /// Reads the waiting files again, and adds what differs to `update`. A file that is gone is not
    /// forgotten here, since somebody may delete it and write it again; an event or the next rescan
    /// decides that.
    ///
    /// # Errors
    /// As [`FileCache::read_changed`].
    pub fn read_waiting(
        &mut self,
        open: &BTreeSet<PathBuf>,
        update: &mut DirectoryUpdate,
    ) -> Result<(), ManifestError> {
        if self.problem.is_some() || self.current_id() != self.id {
            return self.read_all(&PendingChanges::default(), open, update);
        }
        let mut gone = Vec::new();
        for path in self.waiting.clone() {
            let was_gone = self.files.get(&path).is_some_and(CachedFile::is_gone);
            if self.read_file(&path, None, false, open, update) {
                continue;
            }
            if was_gone {
                gone.push(path);
            } else {
                self.waiting.remove(&path);
            }
        }
        self.forget(gone, update);
        Ok(())
    }

    fn list(&mut self) -> Result<Listing, ManifestError> {
        let id = self.current_id();
        let listing = walk::list(&self.dir).map_err(|error| {
            let stays = if self.files.is_empty() { String::new() } else { format!(": {STAYS}") };
            error_of(&self.dir, format!("cannot be read: {error}{stays}"))
        })?;
        // The mount point of a volume that isn't mounted is an empty directory, and so is one that
        // was just made again.
        if listing.is_empty() && !self.files.is_empty() && id != self.id {
            return Err(error_of(
                &self.dir,
                format!(
                    "is another directory than before and has no manifests (is a volume not mounted?): {STAYS}"
                ),
            ));
        }
        self.id = id;
        Ok(listing)
    }

    /// Reads a file; returns whether it is there. `write_event`: how it was written, by an event.
    /// `moved`: if it is another file than before, it was moved into its place.
    fn read_file(
        &mut self,
        path: &Path,
        write_event: Option<WriteEvent>,
        moved: bool,
        open: &BTreeSet<PathBuf>,
        update: &mut DirectoryUpdate,
    ) -> bool {
        let name = path.display().to_string();
        let full_path = self.dir.join(path);
        let is_open = open.contains(path) && fs::metadata(&full_path).is_ok();
        let result = if is_open { ReadResult::Changing } else { walk::read(&full_path) };
        if matches!(result, ReadResult::Gone) {
            return false;
        }
        let file = self.files.entry(path.to_owned()).or_default();
        match result {
            ReadResult::Text(text) => {
                let context = ReadContext {
                    write_event: if moved && !file.has_id(text.id) {
                        Some(WriteEvent::MovedTo)
                    } else {
                        write_event
                    },
                    last_good: self.last_good.get(&name),
                    is_first_scan: !self.has_started,
                };
                file.ingest(&name, &text, &context, self.quiet);
                if file.was_valid() {
                    self.last_good.remove(&name);
                }
            }
            ReadResult::Changing if is_open => file.mark_open(&name, self.quiet),
            ReadResult::Changing => file.mark_changing(&name, self.quiet),
            ReadResult::Unreadable(why) => file.keep_manifests(&name, &why),
            ReadResult::Gone => {}
        }
        if file.is_waiting() {
            self.waiting.insert(path.to_owned());
        } else {
            self.waiting.remove(path);
        }
        if let Some(state) = file.take_update() {
            update.files.insert(name, Some(state));
        }
        true
    }

    /// Forgets files that are gone. While other files may be incomplete these stay in force for a
    /// while: their manifests may have moved there.
    fn forget(&mut self, gone: Vec<PathBuf>, update: &mut DirectoryUpdate) {
        let is_incomplete = |path: &PathBuf| {
            self.files.get(path).is_some_and(|file| file.is_waiting() && !file.is_gone())
        };
        let others_wait =
            self.waiting.iter().any(|path| !gone.contains(path) && is_incomplete(path));
        for path in gone {
            let name = path.display().to_string();
            if others_wait
                && let Some(file) = self.files.get_mut(&path)
                && file.mark_gone(&name, self.quiet)
            {
                if let Some(state) = file.take_update() {
                    update.files.insert(name, Some(state));
                }
                self.waiting.insert(path);
                continue;
            }
            self.waiting.remove(&path);
            self.last_good.remove(&name);
            if self.files.remove(&path).is_some() {
                update.files.insert(name, None);
            }
        }
    }
}

fn error_of(path: &Path, message: String) -> ManifestError {
    ManifestError { file: path.display().to_string(), line: 0, key: String::new(), message }
}

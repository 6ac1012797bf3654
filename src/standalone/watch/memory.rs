//! What each file said last, and what of it counts.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use atlas_core::manifest::Manifest;
use atlas_core::manifest::ManifestError;
use atlas_core::yaml::WriteEvent;
use tokio::time::Instant;

use super::eyes::Seen;
use super::known::{Known, News};
use super::walk::{self, Identity, Listing, Reading};
use super::{Directories, Update};

/// Ends a message about what could not be read but was before.
pub(super) const STAYS: &str = "what was read before stays in force";

/// What files said when an earlier process read them, by their path within the directory.
pub type Earlier = BTreeMap<String, Arc<[Arc<Manifest>]>>;

/// How long nobody must have changed a file that may be half: see [`super::Timing`].
#[derive(Clone, Copy, Debug)]
pub(super) struct Patience {
    pub quiet: Duration,
    pub quiet_if_less: Duration,
}

impl Patience {
    /// For those who look once.
    pub fn none() -> Self {
        Self { quiet: Duration::ZERO, quiet_if_less: Duration::ZERO }
    }
}

/// A directory as it was read last.
pub(super) struct Memory {
    dir: PathBuf,
    patience: Patience,
    earlier: Earlier,
    files: BTreeMap<PathBuf, Known>,
    /// Those of them that may be half or are open, and those that are gone while there are such.
    waiting: BTreeSet<PathBuf>,
    /// Directories within it that cannot be read at present.
    unreadable: Vec<ManifestError>,
    /// Why the directory itself cannot be read at present.
    problem: Option<ManifestError>,
    /// Whether the directory has been read once.
    has_started: bool,
    /// What was told of directories last; `None` before anything was.
    told: Option<Directories>,
    /// The directory that was read last.
    identity: Option<Identity>,
    /// Where links on the way to it led.
    real: Option<PathBuf>,
}

impl Memory {
    pub fn new(dir: &Path, patience: Patience, earlier: Earlier) -> Self {
        Self {
            dir: dir.to_owned(),
            patience,
            earlier,
            files: BTreeMap::new(),
            waiting: BTreeSet::new(),
            unreadable: Vec::new(),
            problem: None,
            has_started: false,
            told: None,
            identity: None,
            real: None,
        }
    }

    #[cfg(test)]
    pub fn set_patience(&mut self, patience: Patience) {
        self.patience = patience;
    }

    /// The directory that is there now.
    pub fn identity_now(&self) -> Option<Identity> {
        fs::metadata(&self.dir).ok().map(|metadata| Identity::of(&metadata))
    }

    /// When a file is to be looked at again.
    pub fn due(&self) -> Option<Instant> {
        self.waiting.iter().filter_map(|path| self.files.get(path)?.due()).min()
    }

    /// Whether a file may be half of which nothing was known before.
    pub fn lacks_something(&self) -> bool {
        self.waiting.iter().filter_map(|path| Some((path, self.files.get(path)?))).any(
            |(path, known)| {
                let earlier = self.earlier.get(&path.display().to_string());
                known.may_be_half()
                    && known.says_nothing()
                    && earlier.is_none_or(|manifests| manifests.is_empty())
            },
        )
    }

    /// Reads the directory again, and says what differs. `open` are the files that are being written.
    ///
    /// # Errors
    /// Where the directory itself cannot be read; nothing is forgotten then.
    pub fn refresh(
        &mut self,
        seen: &Seen,
        open: &BTreeSet<PathBuf>,
        update: &mut Update,
    ) -> Result<(), ManifestError> {
        let real = fs::canonicalize(&self.dir).ok();
        let root_turned = self.real.is_some() && real.is_some() && real != self.real;
        let turned =
            |path: &Path| root_turned || seen.turned.iter().any(|dir| path.starts_with(dir));
        let read = self.list();
        self.problem = read.as_ref().err().cloned();
        if let Ok(listing) = &read {
            self.real = real;
            for path in &listing.files {
                let told =
                    seen.files.get(path).copied().filter(|arrival| *arrival != WriteEvent::Unknown);
                self.read(path, told, turned(path), open, update);
            }
            let unreadable = listing.unreadable.iter();
            self.unreadable = unreadable
                .map(|(path, error)| about(path, format!("cannot be read: {error}: {STAYS}")))
                .collect();
            let there: BTreeSet<&PathBuf> = listing.files.iter().collect();
            let may_be_there =
                |path: &Path| listing.unreadable.iter().any(|(dir, _)| path.starts_with(dir));
            let gone: Vec<PathBuf> = self
                .files
                .keys()
                .filter(|path| !there.contains(path) && !may_be_there(path))
                .cloned()
                .collect();
            self.part_with(gone, update);
            // What isn't there now was removed meanwhile. An empty directory may be one whose volume isn't mounted yet.
            let is_bare = listing.files.is_empty() && listing.unreadable.is_empty();
            if !self.has_started && !is_bare {
                self.earlier.retain(|name, _| {
                    there.contains(&PathBuf::from(name)) || may_be_there(Path::new(name))
                });
            }
            self.has_started = true;
        }
        let directories = Directories {
            errors: self.problem.iter().chain(&self.unreadable).cloned().collect(),
            unreadable: self.unreadable.iter().map(|error| error.file.clone()).collect(),
        };
        // The first time also that nothing is wrong: an empty directory has been read completely too.
        if self.told.as_ref() != Some(&directories) {
            update.directories = Some(directories.clone());
            self.told = Some(directories);
        }
        read.map(drop)
    }

    /// Reads alone the files that something happened to, and those that are waited for; says what differs.
    ///
    /// # Errors
    /// As [`Memory::refresh`], which it falls back to where the directory is another one.
    pub fn refresh_some(
        &mut self,
        seen: &Seen,
        open: &BTreeSet<PathBuf>,
        update: &mut Update,
    ) -> Result<(), ManifestError> {
        if self.problem.is_some() || self.identity_now() != self.identity {
            return self.refresh(seen, open, update);
        }
        let mut gone = Vec::new();
        let waiting: Vec<PathBuf> =
            self.waiting.iter().filter(|path| !seen.files.contains_key(*path)).cloned().collect();
        for (path, told) in seen
            .files
            .iter()
            .map(|(path, arrival)| (path, Some(*arrival)))
            .chain(waiting.iter().map(|path| (path, None)))
        {
            if !self.read(path, told, false, open, update) {
                gone.push(path.clone());
            }
        }
        self.part_with(gone, update);
        Ok(())
    }

    /// Looks again at the files that are waited for; says what differs. Of their going it knows nothing yet: whoever deletes a
    /// file may put it back.
    ///
    /// # Errors
    /// As [`Memory::refresh_some`].
    pub fn look_again(
        &mut self,
        open: &BTreeSet<PathBuf>,
        update: &mut Update,
    ) -> Result<(), ManifestError> {
        if self.problem.is_some() || self.identity_now() != self.identity {
            return self.refresh(&Seen::default(), open, update);
        }
        let mut gone = Vec::new();
        for path in self.waiting.clone() {
            let was_gone = self.files.get(&path).is_some_and(Known::is_gone);
            if self.read(&path, None, false, open, update) {
                continue;
            }
            if was_gone {
                gone.push(path);
            } else {
                // There is nothing to look at again: an event tells what became of it, or a rescan.
                self.waiting.remove(&path);
            }
        }
        self.part_with(gone, update);
        Ok(())
    }

    fn list(&mut self) -> Result<Listing, ManifestError> {
        let identity = self.identity_now();
        let listing = walk::list(&self.dir).map_err(|error| {
            let stays = if self.files.is_empty() { String::new() } else { format!(": {STAYS}") };
            about(&self.dir, format!("cannot be read: {error}{stays}"))
        })?;
        // An unmounted volume leaves an empty directory, and whoever recreates one begins with an empty one.
        let bare = listing.files.is_empty() && listing.unreadable.is_empty();
        if bare && !self.files.is_empty() && identity != self.identity {
            return Err(about(
                &self.dir,
                format!(
                    "is another directory than before and has no manifests (is a volume not mounted?): {STAYS}"
                ),
            ));
        }
        self.identity = identity;
        Ok(listing)
    }

    /// Reads a file; returns whether it is there. `told`: what an event told of it. `turned`: another file in its place was moved there.
    fn read(
        &mut self,
        path: &Path,
        told: Option<WriteEvent>,
        turned: bool,
        open: &BTreeSet<PathBuf>,
        update: &mut Update,
    ) -> bool {
        let name = path.display().to_string();
        let full = self.dir.join(path);
        let is_open = open.contains(path) && fs::metadata(&full).is_ok();
        let reading = if is_open { Reading::Changing } else { walk::read(&full) };
        if matches!(reading, Reading::Gone) {
            return false;
        }
        let known = self.files.entry(path.to_owned()).or_default();
        match reading {
            Reading::Text(text) => {
                let moved = turned && !known.is(text.identity);
                let told = if moved { Some(WriteEvent::MovedTo) } else { told };
                let news =
                    News { told, earlier: self.earlier.get(&name), at_start: !self.has_started };
                known.take(&name, &text, &news, self.patience);
                if known.was_right() {
                    self.earlier.remove(&name);
                }
            }
            Reading::Changing if is_open => known.opens(&name, self.patience),
            Reading::Changing => known.changes(&name, self.patience),
            Reading::Unreadable(why) => known.keep(&name, &why),
            Reading::Gone => {}
        }
        if known.is_waited_for() {
            self.waiting.insert(path.to_owned());
        } else {
            self.waiting.remove(path);
        }
        if let Some(state) = known.news() {
            update.files.insert(name, Some(state));
        }
        true
    }

    /// Forgets files that are no longer there. While others may be half they may have gone there: then for a while they stay.
    fn part_with(&mut self, gone: Vec<PathBuf>, update: &mut Update) {
        let is_half = |path: &PathBuf| {
            self.files.get(path).is_some_and(|known| known.is_waited_for() && !known.is_gone())
        };
        let others = self.waiting.iter().any(|path| !gone.contains(path) && is_half(path));
        for path in gone {
            let name = path.display().to_string();
            let stays = others
                && self.files.get_mut(&path).is_some_and(|known| known.goes(&name, self.patience));
            if !stays {
                self.waiting.remove(&path);
                self.earlier.remove(&name);
                if self.files.remove(&path).is_some() {
                    update.files.insert(name, None);
                }
                continue;
            }
            self.waiting.insert(path.clone());
            if let Some(state) = self.files.get_mut(&path).and_then(Known::news) {
                update.files.insert(name, Some(state));
            }
        }
    }
}

fn about(path: &Path, message: String) -> ManifestError {
    ManifestError { file: path.display().to_string(), line: 0, key: String::new(), message }
}

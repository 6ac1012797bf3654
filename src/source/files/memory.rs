//! What each file said last, and what of it counts.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use atlas_core::fact::Fact;
use atlas_core::manifest::{self, ManifestError};
use atlas_core::xds::snapshot::Version;

use super::eyes::IsComplete;
use super::walk::{self, Identity, Listing, Reading};
use super::{Directories, FileState, Update};

/// Ends a message about what could not be read but was before.
const STAYS: &str = "what was read before stays in force";

/// A directory as it was read last.
pub(super) struct Memory {
    dir: PathBuf,
    files: BTreeMap<PathBuf, Known>,
    /// Directories within it that cannot be read at present.
    unreadable: Vec<ManifestError>,
    /// Why the directory itself cannot be read at present.
    trouble: Option<ManifestError>,
    /// What was told of directories last; `None` before anything was.
    told: Option<Directories>,
    /// The directory that was read last.
    identity: Option<Identity>,
}

/// A file as it was read last.
#[derive(Default)]
struct Known {
    /// Of its text.
    hash: Option<Version>,
    /// What it said when it was last right.
    facts: Arc<[Arc<Fact>]>,
    /// Whether the text that said so is there and not blank.
    was_right: bool,
    /// Whether its text is right.
    is_right: bool,
    /// What is wrong with its text.
    mistakes: Vec<ManifestError>,
    /// Why it cannot be read at present.
    trouble: Option<ManifestError>,
    /// Whether something differs from what was told.
    differs: bool,
}

impl Memory {
    pub fn new(dir: &Path) -> Self {
        Self { dir: dir.to_owned(), files: BTreeMap::new(), unreadable: Vec::new(), trouble: None, told: None, identity: None }
    }

    /// The directory that is there now.
    pub fn identity_now(&self) -> Option<Identity> {
        fs::metadata(&self.dir).ok().map(|metadata| Identity::of(&metadata))
    }

    /// Reads the directory again, and says what differs.
    ///
    /// # Errors
    /// Where the directory itself cannot be read; nothing is forgotten then.
    pub fn refresh(&mut self, update: &mut Update) -> Result<(), ManifestError> {
        let read = self.list();
        self.trouble = read.as_ref().err().cloned();
        if let Ok(listing) = &read {
            self.forget(listing, update);
            for path in &listing.files {
                self.read(path.clone(), update);
            }
            let unreadable = listing.unreadable.iter();
            self.unreadable = unreadable.map(|(path, error)| about(path, format!("cannot be read: {error}: {STAYS}"))).collect();
        }
        let directories = Directories {
            errors: self.trouble.iter().chain(&self.unreadable).cloned().collect(),
            unreadable: self.unreadable.iter().map(|error| error.file.clone()).collect(),
        };
        // The first time also that nothing is wrong: an empty directory has been read completely too.
        if self.told.as_ref() != Some(&directories) {
            update.directories = Some(directories.clone());
            self.told = Some(directories);
        }
        read.map(drop)
    }

    /// Reads these files alone, and says what differs.
    ///
    /// # Errors
    /// As [`Memory::refresh`], which it falls back to where the directory is another one.
    pub fn refresh_some(&mut self, paths: BTreeMap<PathBuf, IsComplete>, update: &mut Update) -> Result<(), ManifestError> {
        if self.trouble.is_some() || self.identity_now() != self.identity {
            return self.refresh(update);
        }
        for path in paths.into_keys() {
            self.read(path, update);
        }
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
                format!("is another directory than before and has no manifests (is a volume not mounted?): {STAYS}"),
            ));
        }
        self.identity = identity;
        Ok(listing)
    }

    /// Forgets the files that are no longer there, as far as can be known.
    fn forget(&mut self, listing: &Listing, update: &mut Update) {
        let there: BTreeSet<&PathBuf> = listing.files.iter().collect();
        let may_be_there = |path: &Path| listing.unreadable.iter().any(|(dir, _)| path.starts_with(dir));
        self.files.retain(|path, _| {
            let stays = there.contains(path) || may_be_there(path);
            if !stays {
                update.files.insert(path.display().to_string(), None);
            }
            stays
        });
    }

    fn read(&mut self, path: PathBuf, update: &mut Update) {
        let name = path.display().to_string();
        let reading = walk::read(&self.dir.join(&path));
        if matches!(reading, Reading::Gone) {
            if self.files.remove(&path).is_some() {
                update.files.insert(name, None);
            }
            return;
        }
        let known = self.files.entry(path).or_default();
        match reading {
            Reading::Text(text) => known.take(&name, &text),
            Reading::Unreadable(why) => known.keep(&name, &why),
            Reading::Gone => {}
        }
        if std::mem::take(&mut known.differs) {
            update.files.insert(name, Some(known.state()));
        }
    }
}

impl Known {
    fn take(&mut self, file: &str, text: &str) {
        let blank = text.trim_ascii().is_empty();
        // Many writers empty a file before they write it.
        if blank && !self.facts.is_empty() {
            return self.keep(file, "is empty, perhaps because it is being written (to remove what it says, delete it)");
        }
        self.differs |= self.trouble.take().is_some();
        let hash = Some(Version::of(text.as_bytes()));
        if self.hash == hash {
            return;
        }
        (self.hash, self.differs) = (hash, true);
        match manifest::parse(file, text) {
            Ok(facts) => {
                self.facts = facts.into_iter().map(Arc::new).collect();
                (self.mistakes, self.is_right, self.was_right) = (Vec::new(), true, !blank);
            }
            Err(mistakes) => (self.mistakes, self.is_right) = (mistakes, false),
        }
    }

    fn keep(&mut self, file: &str, why: &str) {
        let stays = if self.facts.is_empty() { String::new() } else { format!(": {STAYS}") };
        let trouble = Some(ManifestError { file: file.to_owned(), line: 0, key: String::new(), message: format!("{why}{stays}") });
        self.differs |= self.trouble != trouble;
        self.trouble = trouble;
    }

    fn state(&self) -> FileState {
        FileState {
            facts: Arc::clone(&self.facts),
            mistakes: self.trouble.iter().chain(&self.mistakes).cloned().collect(),
            was_right: self.was_right,
            is_right: self.is_right && self.trouble.is_none(),
            is_remembered: false,
            was_seen: true,
        }
    }
}

fn about(path: &Path, message: String) -> ManifestError {
    ManifestError { file: path.display().to_string(), line: 0, key: String::new(), message }
}

//! What each file said last, and what of it counts.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use atlas_core::fact::{Fact, Origin};
use atlas_core::manifest::{self, ManifestError};

use super::walk::{self, Identity, Listing, Reading};
use super::{Manifest, Report};

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
    /// The directory that was read last.
    identity: Option<Identity>,
}

/// A file as it was read last.
#[derive(Default)]
struct Known {
    text: Arc<str>,
    /// What it said when it was last right.
    facts: Vec<Fact>,
    /// The text that said so.
    good: Option<Arc<str>>,
    /// What is wrong with `text`.
    mistakes: Vec<ManifestError>,
    /// Why it cannot be read at present.
    trouble: Option<ManifestError>,
}

impl Memory {
    pub fn new(dir: &Path) -> Self {
        Self { dir: dir.to_owned(), files: BTreeMap::new(), unreadable: Vec::new(), trouble: None, identity: None }
    }

    /// The directory that is there now.
    pub fn identity_now(&self) -> Option<Identity> {
        fs::metadata(&self.dir).ok().map(|metadata| Identity::of(&metadata))
    }

    /// Reads the directory again.
    ///
    /// # Errors
    /// Where the directory itself cannot be read; nothing is forgotten then.
    pub fn refresh(&mut self) -> Result<(), ManifestError> {
        let read = self.list();
        self.trouble = read.as_ref().err().cloned();
        let listing = read?;
        self.forget(&listing);
        for path in listing.files {
            self.read(path);
        }
        self.unreadable = listing.unreadable.iter().map(|(path, error)| about(path, format!("cannot be read: {error}: {STAYS}"))).collect();
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
    fn forget(&mut self, listing: &Listing) {
        let may_be_there = |path: &Path| listing.unreadable.iter().any(|(dir, _)| path.starts_with(dir));
        self.files.retain(|path, _| listing.files.binary_search(path).is_ok() || may_be_there(path));
    }

    fn read(&mut self, path: PathBuf) {
        match walk::read(&self.dir.join(&path)) {
            Reading::Text(text) => self.files.entry(path.clone()).or_default().take(&path, text),
            Reading::Unreadable(why) => self.files.entry(path.clone()).or_default().keep(&path, &why),
            Reading::Gone => {
                self.files.remove(&path);
            }
        }
    }

    /// What counts of all that: of an object that two files have, the one whose file comes first by path.
    pub fn report(&self) -> Report {
        let errors = self.trouble.iter().chain(&self.unreadable).cloned().collect();
        let unreadable = self.unreadable.iter().map(|error| error.file.clone()).collect();
        let files = self.files.iter().map(|(path, known)| (path.display().to_string(), known.manifest())).collect();
        let mut report = Report { facts: Vec::new(), errors, files, unreadable };
        let mut first: HashMap<_, &Origin> = HashMap::new();
        for known in self.files.values() {
            report.errors.extend(known.trouble.iter().chain(&known.mistakes).cloned());
            for fact in &known.facts {
                let origin = &fact.meta().origin;
                match first.get(&manifest::identity(fact)) {
                    Some(earlier) => report.errors.push(duplicate(fact, earlier)),
                    None => {
                        first.insert(manifest::identity(fact), origin);
                        report.facts.push(fact.clone());
                    }
                }
            }
        }
        report
    }
}

impl Known {
    fn take(&mut self, path: &Path, text: String) {
        // Many writers empty a file before they write it.
        if text.trim_ascii().is_empty() && !self.facts.is_empty() {
            return self.keep(path, "is empty, perhaps because it is being written (to remove what it says, delete it)");
        }
        self.trouble = None;
        if *text == *self.text {
            return;
        }
        self.text = text.into();
        match manifest::parse(&path.display().to_string(), &self.text) {
            Ok(facts) => (self.facts, self.mistakes, self.good) = (facts, Vec::new(), Some(Arc::clone(&self.text))),
            Err(mistakes) => self.mistakes = mistakes,
        }
    }

    fn manifest(&self) -> Manifest {
        let is_good = self.good.is_some() && self.mistakes.is_empty() && self.trouble.is_none();
        Manifest { good: self.good.clone(), is_good }
    }

    fn keep(&mut self, path: &Path, why: &str) {
        let stays = if self.facts.is_empty() { String::new() } else { format!(": {STAYS}") };
        self.trouble = Some(about(path, format!("{why}{stays}")));
    }
}

fn about(path: &Path, message: String) -> ManifestError {
    ManifestError { file: path.display().to_string(), line: 0, key: String::new(), message }
}

fn duplicate(fact: &Fact, earlier: &Origin) -> ManifestError {
    const KEY: &str = "metadata.name";
    let origin = &fact.meta().origin;
    let file = |origin: &Origin| origin.file.clone().unwrap_or_default();
    let place = format!("{}:{}", file(earlier), earlier.line_of(KEY));
    let message = format!("{} is already in {place}, which counts: remove one of the two", manifest::title(fact));
    ManifestError { file: file(origin), line: origin.line_of(KEY), key: KEY.into(), message }
}

//! All files together: which manifests a directory has, and which of two manifests of the same
//! object counts.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use atlas_core::manifest::ManifestKey;
use atlas_core::manifest::{Manifest, ManifestError, Origin};

use super::update_queue::{DirectoryUpdate, FileState};

/// What a directory has when it is read once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DirectoryContents {
    /// The manifests that count, in the order of their files' paths.
    pub manifests: Vec<Manifest>,
    /// What is wrong.
    pub errors: Vec<ManifestError>,
}

/// The manifests of a directory, updated file by file.
#[derive(Debug, Default)]
pub struct ManifestIndex {
    files: BTreeMap<Arc<str>, FileState>,
    /// The files that have an object, the one that counts first.
    claims: HashMap<ManifestKey, Vec<DeclaringFile>>,
    /// Files that have errors.
    files_with_errors: BTreeSet<Arc<str>>,
    /// Objects that several files have.
    duplicates: BTreeSet<ManifestKey>,
    /// What is wrong with directories.
    directory_errors: Vec<ManifestError>,
}

/// A file that has an object. By the order of its fields, a file whose manifests an earlier process
/// kept counts last, and otherwise the first by path.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct DeclaringFile {
    is_last_good: bool,
    file: Arc<str>,
}

impl ManifestIndex {
    /// Applies an update; returns the objects that may differ.
    pub fn apply(&mut self, update: DirectoryUpdate) -> BTreeSet<ManifestKey> {
        let mut touched = BTreeSet::new();
        for (file, state) in update.files {
            let file: Arc<str> = file.into();
            self.remove_file(&file, &mut touched);
            if let Some(state) = state {
                self.insert_file(file, state, &mut touched);
            }
        }
        for key in &touched {
            let claims = self.claims.get(key).map_or(0, Vec::len);
            if claims > 1 {
                self.duplicates.insert(key.clone());
            } else {
                self.duplicates.remove(key);
            }
            if claims == 0 {
                self.claims.remove(key);
            }
        }
        if let Some(directories) = update.directories {
            self.directory_errors = directories.errors;
        }
        touched
    }

    fn remove_file(&mut self, file: &Arc<str>, touched: &mut BTreeSet<ManifestKey>) {
        let Some(state) = self.files.remove(file) else { return };
        let claim = DeclaringFile { is_last_good: state.is_last_good, file: Arc::clone(file) };
        for manifest in state.manifests.iter() {
            let key = manifest.key();
            if let Some(claims) = self.claims.get_mut(&key) {
                claims.retain(|other| *other != claim);
            }
            touched.insert(key);
        }
        self.files_with_errors.remove(file);
    }

    fn insert_file(
        &mut self,
        file: Arc<str>,
        state: FileState,
        touched: &mut BTreeSet<ManifestKey>,
    ) {
        let claim = DeclaringFile { is_last_good: state.is_last_good, file: Arc::clone(&file) };
        for manifest in state.manifests.iter() {
            let key = manifest.key();
            // Nearly every object is in one file only.
            let claims = self.claims.entry(key.clone()).or_insert_with(|| Vec::with_capacity(1));
            claims.push(claim.clone());
            claims.sort();
            touched.insert(key);
        }
        if !state.errors.is_empty() {
            self.files_with_errors.insert(Arc::clone(&file));
        }
        self.files.insert(file, state);
    }

    /// The manifest of an object that counts.
    pub fn manifest(&self, key: &ManifestKey) -> Option<&Arc<Manifest>> {
        find(self.files.get(&self.claims.get(key)?.first()?.file)?, key)
    }

    /// The files that have an object.
    pub fn files_of(&self, key: &ManifestKey) -> impl Iterator<Item = &str> {
        self.claims.get(key).into_iter().flatten().map(|claim| &*claim.file)
    }

    /// The state of a file.
    pub fn file(&self, file: &str) -> Option<&FileState> {
        self.files.get(file)
    }

    /// All files, by path.
    pub fn files(&self) -> impl Iterator<Item = (&str, &FileState)> {
        self.files.iter().map(|(file, state)| (&**file, state))
    }

    /// What is wrong at present, directories first, then files by path.
    pub fn errors(&self) -> Vec<ManifestError> {
        let mut by_file: BTreeMap<&str, Vec<ManifestError>> = BTreeMap::new();
        for file in &self.files_with_errors {
            if let Some(state) = self.files.get(file) {
                by_file.entry(file).or_default().extend(state.errors.iter().cloned());
            }
        }
        for key in &self.duplicates {
            // An earlier process's manifests are no duplicates: their file is wrong, which is
            // reported already.
            let claims = self.claims.get(key).into_iter().flatten();
            let mut present = claims
                .filter(|claim| !claim.is_last_good)
                .filter_map(|claim| Some((&*claim.file, find(self.files.get(&claim.file)?, key)?)));
            let Some((_, first)) = present.next() else { continue };
            for (file, manifest) in present {
                let error = duplicate_error(manifest, &first.meta().origin);
                by_file.entry(file).or_default().push(error);
            }
        }
        self.directory_errors.iter().cloned().chain(by_file.into_values().flatten()).collect()
    }

    /// Everything, for commands that read a directory once.
    pub fn contents(&self) -> DirectoryContents {
        let counts = |file: &str, manifest: &Manifest| {
            let claims = self.claims.get(&manifest.key());
            claims.and_then(|claims| claims.first()).is_some_and(|claim| &*claim.file == file)
        };
        let mut manifests = Vec::new();
        for (file, state) in &self.files {
            let counting = state.manifests.iter().filter(|manifest| counts(file, manifest));
            manifests.extend(counting.map(|manifest| (**manifest).clone()));
        }
        DirectoryContents { manifests, errors: self.errors() }
    }
}

fn find<'a>(file: &'a FileState, key: &ManifestKey) -> Option<&'a Arc<Manifest>> {
    file.manifests.iter().find(|manifest| manifest.has_key(key))
}

fn duplicate_error(manifest: &Manifest, first: &Origin) -> ManifestError {
    const KEY: &str = "metadata.name";
    let origin = &manifest.meta().origin;
    let file = |origin: &Origin| origin.file.clone().unwrap_or_default();
    let place = format!("{}:{}", file(first), first.line_of(KEY));
    let message =
        format!("{} is already in {place}, which counts: remove one of the two", manifest.key());
    ManifestError { file: file(origin), line: origin.line_of(KEY), key: KEY.into(), message }
}

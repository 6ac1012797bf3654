//! All files together: which objects there are, and which of two that claim to be the same counts.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use atlas_core::manifest::ManifestError;
use atlas_core::manifest::ManifestKey;
use atlas_core::manifest::{Manifest, Origin};

use super::{FileState, Report, Update};

/// What a directory says, kept up to date file by file.
#[derive(Debug, Default)]
pub struct Shelf {
    files: BTreeMap<Arc<str>, FileState>,
    /// Which files have an object; those that count first, first.
    claims: HashMap<ManifestKey, Vec<Claim>>,
    /// Files that something is wrong with.
    wrong: BTreeSet<Arc<str>>,
    /// Objects that several files have.
    doubled: BTreeSet<ManifestKey>,
    /// What is wrong with directories.
    errors: Vec<ManifestError>,
}

/// A file that has an object: what is merely remembered of a file counts last.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Claim {
    is_remembered: bool,
    file: Arc<str>,
}

impl Shelf {
    /// Takes what has changed; returns the objects that it may concern.
    pub fn apply(&mut self, update: Update) -> BTreeSet<ManifestKey> {
        let mut touched = BTreeSet::new();
        for (file, state) in update.files {
            let file: Arc<str> = file.into();
            if let Some(before) = self.files.remove(&file) {
                let claim = Claim { is_remembered: before.is_remembered, file: Arc::clone(&file) };
                for manifest in before.manifests.iter() {
                    let key = manifest.key();
                    if let Some(claims) = self.claims.get_mut(&key) {
                        claims.retain(|one| *one != claim);
                    }
                    touched.insert(key);
                }
                self.wrong.remove(&file);
            }
            let Some(state) = state else { continue };
            let claim = Claim { is_remembered: state.is_remembered, file: Arc::clone(&file) };
            for manifest in state.manifests.iter() {
                let key = manifest.key();
                // Nearly always it is the only one.
                let claims =
                    self.claims.entry(key.clone()).or_insert_with(|| Vec::with_capacity(1));
                claims.push(claim.clone());
                claims.sort();
                touched.insert(key);
            }
            if !state.mistakes.is_empty() {
                self.wrong.insert(Arc::clone(&file));
            }
            self.files.insert(file, state);
        }
        for key in &touched {
            let claims = self.claims.get(key).map_or(0, Vec::len);
            if claims > 1 {
                self.doubled.insert(key.clone());
            } else {
                self.doubled.remove(key);
            }
            if claims == 0 {
                self.claims.remove(key);
            }
        }
        if let Some(directories) = update.directories {
            self.errors = directories.errors;
        }
        touched
    }

    /// The manifest about an object that counts: of several files the first by path.
    pub fn manifest(&self, key: &ManifestKey) -> Option<&Arc<Manifest>> {
        find(self.files.get(&self.claims.get(key)?.first()?.file)?, key)
    }

    /// The files that have an object.
    pub fn files_of(&self, key: &ManifestKey) -> impl Iterator<Item = &str> {
        self.claims.get(key).into_iter().flatten().map(|claim| &*claim.file)
    }

    /// One file.
    pub fn file(&self, file: &str) -> Option<&FileState> {
        self.files.get(file)
    }

    /// All files, by path.
    pub fn files(&self) -> impl Iterator<Item = (&str, &FileState)> {
        self.files.iter().map(|(file, state)| (&**file, state))
    }

    /// What is wrong at present.
    pub fn errors(&self) -> Vec<ManifestError> {
        let mut by_file: BTreeMap<&str, Vec<ManifestError>> = BTreeMap::new();
        for file in &self.wrong {
            by_file.entry(file).or_default().extend(
                self.files.get(file).into_iter().flat_map(|state| state.mistakes.iter().cloned()),
            );
        }
        for key in &self.doubled {
            let claims: Vec<&Claim> = self
                .claims
                .get(key)
                .into_iter()
                .flatten()
                .filter(|claim| !claim.is_remembered)
                .collect();
            let manifest = |claim: &Claim| find(self.files.get(&claim.file)?, key);
            let Some(first) = claims.first().and_then(|claim| manifest(claim)) else { continue };
            for claim in claims.iter().skip(1) {
                by_file
                    .entry(&claim.file)
                    .or_default()
                    .extend(manifest(claim).map(|other| duplicate(other, &first.meta().origin)));
            }
        }
        self.errors.iter().cloned().chain(by_file.into_values().flatten()).collect()
    }

    /// Everything, for those who look once.
    pub fn report(&self) -> Report {
        let counts = |file: &str, manifest: &&Arc<Manifest>| {
            self.claims
                .get(&manifest.key())
                .and_then(|claims| claims.first())
                .is_some_and(|claim| &*claim.file == file)
        };
        let manifests = self.files.iter().flat_map(|(file, state)| {
            state.manifests.iter().filter(move |manifest| counts(file, manifest))
        });
        Report {
            manifests: manifests.map(|manifest| (**manifest).clone()).collect(),
            errors: self.errors(),
        }
    }
}

fn find<'a>(file: &'a FileState, key: &ManifestKey) -> Option<&'a Arc<Manifest>> {
    file.manifests.iter().find(|manifest| manifest.has_key(key))
}

/// Whether a file lies in one of these directories.
pub fn is_below(file: &str, directories: &[String]) -> bool {
    directories.iter().any(|dir| std::path::Path::new(file).starts_with(dir))
}

fn duplicate(manifest: &Manifest, earlier: &Origin) -> ManifestError {
    const KEY: &str = "metadata.name";
    let origin = &manifest.meta().origin;
    let file = |origin: &Origin| origin.file.clone().unwrap_or_default();
    let place = format!("{}:{}", file(earlier), earlier.line_of(KEY));
    let message =
        format!("{} is already in {place}, which counts: remove one of the two", manifest.key());
    ManifestError { file: file(origin), line: origin.line_of(KEY), key: KEY.into(), message }
}

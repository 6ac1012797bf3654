//! The last good manifests in the state directory, one file for each file of manifests.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use anyhow::ensure;
use atlas_core::manifest::{Manifest, ManifestError};
use atlas_core::name::ClusterName;

use crate::engine::last_good::{LastGood, LastGoodManifests};
use crate::standalone::state_dir::StateDir;
use crate::standalone::watch::{DirectoryUpdate, FileState, ManifestIndex, is_below};

const DIR: &str = "last-good";
/// Longest name of a file on the usual file systems. A manifest whose path takes more is not kept.
const MAX_NAME: usize = 255;

/// What is kept, in memory and in the state directory.
pub struct LastGoodFiles {
    state: StateDir,
    kept: LastGoodManifests,
    /// Those that the state directory has otherwise.
    unwritten: BTreeSet<String>,
}

impl LastGoodFiles {
    /// Reads what an earlier process kept. What can't be read is as if it hadn't been kept, and is
    /// logged.
    pub fn load(state: StateDir) -> Self {
        let mut kept = BTreeMap::new();
        let names = state.list(DIR).unwrap_or_else(|error| {
            tracing::warn!(error = format!("{error:#}"), "cannot see what manifests said before");
            Vec::new()
        });
        for name in names {
            let Some(file) = decode(&name) else { continue };
            let read = state.read(&path(&name)).and_then(|text| {
                Ok(text.map(|text| serde_json::from_str::<Vec<Manifest>>(&text)).transpose()?)
            });
            match read {
                Ok(Some(manifests)) => {
                    kept.insert(file, manifests.into_iter().map(Arc::new).collect());
                }
                Ok(None) => {}
                Err(error) => tracing::warn!(
                    name,
                    error = format!("{error:#}"),
                    "cannot read what a manifest said before"
                ),
            }
        }
        Self { state, kept, unwritten: BTreeSet::new() }
    }

    /// What is kept, by file.
    pub fn manifests(&self) -> &LastGoodManifests {
        &self.kept
    }

    /// Whether every manifest has vanished since an earlier process: more likely a mount that isn't
    /// there yet than a wish. `first` is all that has been read.
    pub fn all_gone(&self, first: &DirectoryUpdate) -> bool {
        let unreadable =
            first.directories.iter().any(|directories| !directories.unreadable.is_empty());
        !self.kept.is_empty() && first.files.values().all(Option::is_none) && !unreadable
    }

    /// Adds what the files said that have been wrong ever since this process began, with a mistake
    /// that says so of each; drops what turns out to be gone.
    pub fn complete(&self, update: &mut DirectoryUpdate, index: &ManifestIndex) {
        for (file, state) in &mut update.files {
            if let Some(state) = state.as_mut().filter(|state| !state.was_valid)
                && let Some(manifests) = self.kept.get(file)
            {
                state.manifests = Arc::clone(manifests);
                state.is_last_good = true;
                let is_empty = state.errors.is_empty();
                state.errors.push(stays_in_force(file, is_empty));
            }
        }
        let Some(directories) = &update.directories else { return };
        let mut further = Vec::new();
        for (file, manifests) in &self.kept {
            let was_seen = update.files.contains_key(file) || index.file(file).is_some();
            if !was_seen && is_below(file, &directories.unreadable) {
                let state = FileState {
                    manifests: Arc::clone(manifests),
                    errors: vec![stays_in_force(file, false)],
                    was_valid: false,
                    is_valid: false,
                    is_last_good: true,
                    was_read: false,
                };
                further.push((file.clone(), Some(state)));
            }
        }
        for (file, state) in index.files() {
            let may_be_there = !state.is_unread() || is_below(file, &directories.unreadable);
            if !may_be_there && !update.files.contains_key(file) {
                further.push((file.to_owned(), None));
            }
        }
        update.files.extend(further);
    }

    /// Notes what is to be kept of these files, or of all.
    pub fn note(&mut self, last_good: &LastGood, files: Option<&BTreeSet<String>>) {
        let all: BTreeSet<String> = match files {
            Some(files) => files.clone(),
            None => last_good.manifests().keys().chain(self.kept.keys()).cloned().collect(),
        };
        for file in all.into_iter().filter(|file| encode(file).is_some()) {
            let manifests = last_good.manifests().get(&file);
            if self.kept.get(&file) != manifests {
                self.unwritten.insert(file.clone());
            }
            // Also where it is equal: one copy of it in memory is enough.
            match manifests {
                Some(manifests) => _ = self.kept.insert(file, Arc::clone(manifests)),
                None => _ = self.kept.remove(&file),
            }
        }
    }

    /// Writes what was noted. Returns what couldn't be written.
    pub fn write(&mut self) -> Vec<String> {
        let mut failed = Vec::new();
        for file in std::mem::take(&mut self.unwritten) {
            if let Err(error) = self.write_one(&file) {
                failed.push(format!("{error:#}"));
                self.unwritten.insert(file);
            }
        }
        failed
    }

    /// Forgets a cluster that was removed while no Atlas runs.
    ///
    /// # Errors
    /// The state directory can't be written.
    pub fn forget(&mut self, cluster: &ClusterName) -> anyhow::Result<()> {
        let mut last_good = LastGood::from(self.kept.clone());
        let files = last_good.forget(cluster);
        self.note(&last_good, Some(&files));
        let failed = self.write();
        ensure!(failed.is_empty(), "{}", failed.join("; "));
        Ok(())
    }

    fn write_one(&self, file: &str) -> anyhow::Result<()> {
        let Some(name) = encode(file) else { return Ok(()) };
        let Some(manifests) = self.kept.get(file) else { return self.state.remove(&path(&name)) };
        let manifests: Vec<&Manifest> = manifests.iter().map(|manifest| &**manifest).collect();
        self.state.write(&path(&name), &serde_json::to_string_pretty(&manifests)?)?;
        Ok(())
    }
}

fn path(name: &str) -> String {
    format!("{DIR}/{name}")
}

fn stays_in_force(file: &str, is_empty: bool) -> ManifestError {
    let message = if is_empty {
        "is empty (to remove what it said, delete it): what it said before Atlas was started stays in force"
    } else {
        "what it said before Atlas was started stays in force"
    };
    ManifestError { file: file.to_owned(), line: 0, key: String::new(), message: message.into() }
}

/// A path as the name of one file: everything but letters, digits, `-`, `_` and inner dots as
/// `%2F`. It never begins with a dot, as temporary files do. `None`: too long.
fn encode(path: &str) -> Option<String> {
    let mut name = String::new();
    for (place, byte) in path.bytes().enumerate() {
        let is_plain = byte.is_ascii_alphanumeric()
            || matches!(byte, b'-' | b'_')
            || (byte == b'.' && place > 0);
        if is_plain {
            name.push(char::from(byte));
        } else {
            name.push_str(&format!("%{byte:02X}"));
        }
    }
    (!name.is_empty() && name.len() <= MAX_NAME).then_some(name)
}

/// The path that [`encode`] made a name of; `None` for any other name.
fn decode(name: &str) -> Option<String> {
    let mut bytes = Vec::new();
    let mut rest = name.as_bytes();
    while let [first, after @ ..] = rest {
        if *first == b'%' {
            let digits = std::str::from_utf8(after.get(..2)?).ok()?;
            bytes.push(u8::from_str_radix(digits, 16).ok()?);
            rest = after.get(2..)?;
        } else {
            bytes.push(*first);
            rest = after;
        }
    }
    let path = String::from_utf8(bytes).ok()?;
    (encode(&path).as_deref() == Some(name)).then_some(path)
}

#[cfg(test)]
mod tests;

//! What each manifest's objects were when they were last right, kept across restarts: a wrong file changes nothing, also
//! where Atlas is restarted while it is wrong.
//!
//! ```text
//! a file that is right     its objects, as they are
//! an object is rejected    that object, as it was; the file's others, as they are
//! a file can't be read     all as it was
//! a file is gone           nothing
//! ```
//!
//! So nothing comes back that was deleted, and nothing good is shadowed by what it was before.

use std::collections::BTreeMap;
use std::sync::Arc;

use atlas_core::manifest::Manifest;
use atlas_core::manifest::ManifestError;
use atlas_core::model::{Cluster, Settings};
use atlas_core::name::ClusterName;
use atlas_core::validate::{ManifestStore, validate};

use crate::standalone::state_dir::StateDir;
use crate::standalone::watch::{
    DirectoryUpdate, FileState, LastGoodFiles, ManifestIndex, is_below,
};

const DIR: &str = "last-good";
/// Longest name of a file on the usual file systems. A manifest whose path takes more is not kept.
const MAX_NAME: usize = 255;

/// The objects of each file, in memory and in the state directory.
pub struct LastGood {
    state: StateDir,
    manifests: LastGoodFiles,
}

/// What a file says.
type Manifests = Arc<[Arc<Manifest>]>;

impl LastGood {
    /// Reads what an earlier process kept. What can't be read is as if it hadn't been kept, and is said.
    pub fn load(state: StateDir) -> Self {
        let mut manifests = BTreeMap::new();
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
                Ok(read) => manifests
                    .extend(read.map(|read| (file, read.into_iter().map(Arc::new).collect()))),
                Err(error) => tracing::warn!(
                    name,
                    error = format!("{error:#}"),
                    "cannot read what a manifest said before"
                ),
            }
        }
        Self { state, manifests }
    }

    /// Whether every manifest has vanished since an earlier process: more likely a mount that isn't there yet than a wish.
    /// `first` is all that has been read.
    pub fn all_gone(&self, first: &DirectoryUpdate) -> bool {
        let unreadable =
            first.directories.iter().any(|directories| !directories.unreadable.is_empty());
        !self.manifests.is_empty() && first.files.values().all(Option::is_none) && !unreadable
    }

    /// Adds what the files said that have been wrong ever since this process began, and says so of each; lets go of what turns
    /// out to be gone.
    pub fn complete(&self, update: &mut DirectoryUpdate, index: &ManifestIndex) {
        for (file, state) in &mut update.files {
            if let Some(state) = state.as_mut().filter(|state| !state.was_valid)
                && let Some(manifests) = self.manifests.get(file)
            {
                state.manifests = Arc::clone(manifests);
                state.is_last_good = true;
                let is_empty = state.errors.is_empty();
                state.errors.push(stays(file, is_empty));
            }
        }
        let Some(directories) = &update.directories else { return };
        let seen = |file: &str| update.files.contains_key(file) || index.file(file).is_some();
        let unseen = self
            .manifests
            .iter()
            .filter(|(file, _)| is_below(file, &directories.unreadable) && !seen(file));
        let remembered = |(file, manifests): (&String, &Manifests)| {
            let errors = vec![stays(file, false)];
            let state = FileState {
                manifests: Arc::clone(manifests),
                errors,
                was_valid: false,
                is_valid: false,
                is_last_good: true,
                was_read: false,
            };
            (file.clone(), Some(state))
        };
        let unseen: Vec<_> = unseen.map(remembered).collect();
        let left = |(file, state): &(&str, &FileState)| {
            state.is_unread() && !is_below(file, &directories.unreadable)
        };
        let gone: Vec<_> = index
            .files()
            .filter(left)
            .filter(|(file, _)| !update.files.contains_key(*file))
            .map(|(file, _)| (file.to_owned(), None))
            .collect();
        update.files.extend(unseen.into_iter().chain(gone));
    }

    /// The clusters as they were when everything was right, as far as their files may still be there: what clusters that are
    /// rejected in the first round were before. `first` is all that has been read.
    pub fn clusters(
        &self,
        settings: &Settings,
        first: &DirectoryUpdate,
    ) -> BTreeMap<ClusterName, Arc<Cluster>> {
        let unreadable = first
            .directories
            .as_ref()
            .map(|directories| directories.unreadable.as_slice())
            .unwrap_or_default();
        let there = |file: &str| {
            first.files.get(file).is_some_and(Option::is_some) || is_below(file, unreadable)
        };
        let manifests = self
            .manifests
            .iter()
            .filter(|(file, _)| there(file))
            .flat_map(|(_, manifests)| manifests.iter());
        let manifests: Vec<Manifest> = manifests.map(|manifest| (**manifest).clone()).collect();
        validate(settings, &manifests, None).fleet.clusters
    }

    /// Keeps what a round accepted of a file; forgets it if it is gone.
    ///
    /// # Errors
    /// The state directory can't be written.
    pub fn keep(
        &mut self,
        file: &str,
        index: &ManifestIndex,
        register: &ManifestStore,
    ) -> anyhow::Result<()> {
        let Some(state) = index.file(file) else { return self.set(file, Arc::default()) };
        if !state.is_valid || !state.was_valid {
            return Ok(());
        }
        if !state.manifests.iter().any(|manifest| register.is_rejected(manifest)) {
            return self.set(file, Arc::clone(&state.manifests));
        }
        let before = self.manifests.get(file).cloned().unwrap_or_default();
        let kept = |manifest: &Arc<Manifest>| match register.is_rejected(manifest) {
            true => before.iter().find(|old| old.key() == manifest.key()).cloned(),
            false => Some(Arc::clone(manifest)),
        };
        self.set(file, state.manifests.iter().filter_map(kept).collect())
    }

    /// What is kept.
    pub fn said(&self) -> &LastGoodFiles {
        &self.manifests
    }

    /// The files of which something is kept.
    pub fn files(&self) -> impl Iterator<Item = &String> {
        self.manifests.keys()
    }

    /// Forgets a cluster that was removed.
    ///
    /// # Errors
    /// The state directory can't be written.
    pub fn forget(&mut self, cluster: &ClusterName) -> anyhow::Result<()> {
        let files: Vec<String> = self.manifests.keys().cloned().collect();
        for file in files {
            let manifests = self.manifests.get(&file).cloned().unwrap_or_default();
            let other = |manifest: &&Arc<Manifest>| !matches!(&***manifest, Manifest::Service(service) if service.meta.name == cluster.as_str());
            let others = manifests.iter().filter(other).cloned().collect();
            self.set(&file, others)?;
        }
        Ok(())
    }

    /// What a file's objects are from now on; none: nothing is kept of it.
    fn set(&mut self, file: &str, manifests: Manifests) -> anyhow::Result<()> {
        if self.manifests.get(file).map(|manifests| &**manifests).unwrap_or_default() == &*manifests
        {
            // Equal, and kept once.
            self.manifests
                .get_mut(file)
                .into_iter()
                .for_each(|known| *known = Arc::clone(&manifests));
            return Ok(());
        }
        let Some(name) = encode(file) else { return Ok(()) };
        if manifests.is_empty() {
            self.state.remove(&path(&name))?;
            self.manifests.remove(file);
        } else {
            let texts: Vec<&Manifest> = manifests.iter().map(|manifest| &**manifest).collect();
            self.state.write(&path(&name), &serde_json::to_string_pretty(&texts)?)?;
            self.manifests.insert(file.to_owned(), manifests);
        }
        Ok(())
    }
}

fn path(name: &str) -> String {
    format!("{DIR}/{name}")
}

fn stays(file: &str, is_empty: bool) -> ManifestError {
    let message = if is_empty {
        "is empty (to remove what it said, delete it): what it said before Atlas was started stays in force"
    } else {
        "what it said before Atlas was started stays in force"
    };
    ManifestError { file: file.to_owned(), line: 0, key: String::new(), message: message.into() }
}

/// A path as the name of one file: everything but letters, digits, `-`, `_` and inner dots as `%2F`. It never begins with a
/// dot, as temporary files do.
fn encode(path: &str) -> Option<String> {
    let plain = |place: usize, byte: u8| {
        byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_') || (byte == b'.' && place > 0)
    };
    let one = |(place, byte)| {
        if plain(place, byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }
    };
    let name: String = path.bytes().enumerate().map(one).collect();
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

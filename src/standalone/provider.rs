//! The standalone mode as the engine sees it: a watched directory of manifests, and a state
//! directory.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use anyhow::ensure;

use super::last_good_files::LastGoodFiles;
use super::output_files::OutputFiles;
use super::pki_directory::PkiDirectory;
use super::watch::{DirectoryUpdate, ManifestIndex, UpdateQueue};
use crate::engine::last_good::SourceState;
use crate::engine::last_good::{LastGood, LastGoodManifests};
use crate::engine::provider::{Changes, Outputs, Provider};
use crate::pki::Pki;

/// Why nothing is changed where the first report is empty and an earlier process had manifests.
const ALL_GONE: &str = "there is not one manifest, although there were some before Atlas was started: nothing is changed and \
    nobody is served until there is one (mount the directory; if all were meant to go, remove last-good from the state directory)";

/// Takes changes from the watch of a directory, and writes files.
pub struct DirectoryProvider {
    updates: Arc<UpdateQueue>,
    /// What was taken from the updates and not yet by the engine.
    update: DirectoryUpdate,
    /// Whether the engine has taken anything.
    has_begun: bool,
    index: ManifestIndex,
    last_good: LastGoodFiles,
    outputs: OutputFiles,
}

impl DirectoryProvider {
    /// Nothing has been taken from `updates` yet.
    pub fn new(updates: Arc<UpdateQueue>, last_good: LastGoodFiles, outputs: OutputFiles) -> Self {
        Self {
            updates,
            update: DirectoryUpdate::default(),
            has_begun: false,
            index: ManifestIndex::default(),
            last_good,
            outputs,
        }
    }

    fn take(&mut self) -> anyhow::Result<Option<Changes>> {
        self.update.extend(self.updates.drain());
        if !self.has_begun {
            // The first complete reading says something of directories. A part of it would make the
            // fleet smaller.
            if self.update.directories.is_none() {
                return Ok(None);
            }
            ensure!(!self.last_good.all_gone(&self.update), ALL_GONE);
            self.has_begun = true;
        }
        let mut update = std::mem::take(&mut self.update);
        self.last_good.complete(&mut update, &self.index);
        let differs = !update.is_empty();
        let mut files: BTreeSet<String> = update.files.keys().cloned().collect();
        let keys = self.index.apply(update);
        // Of two files that have an object, one counts: a change of the other may make it right or
        // wrong.
        for key in &keys {
            files.extend(self.index.files_of(key).map(str::to_owned));
        }
        let mut sources = BTreeMap::new();
        for file in files {
            let source = source(&self.index, &file);
            sources.insert(file, source);
        }
        let mut manifests = Vec::new();
        for key in keys {
            let manifest = self.index.manifest(&key).cloned();
            manifests.push((key, manifest));
        }
        Ok(Some(Changes {
            manifests,
            sources,
            errors: differs.then(|| self.index.errors()),
            leads: true,
            ..Changes::default()
        }))
    }
}

/// What a file says now.
pub(super) fn source(index: &ManifestIndex, file: &str) -> SourceState {
    match index.file(file) {
        None => SourceState::Gone,
        Some(state) if state.is_valid && state.was_valid => {
            SourceState::Manifests(Arc::clone(&state.manifests))
        }
        Some(_) => SourceState::Unreadable,
    }
}

impl Provider for DirectoryProvider {
    type Store = PkiDirectory;

    async fn changed(&mut self) {
        self.updates.changed().await;
    }

    async fn take_changes(
        &mut self,
        _: &mut Pki<PkiDirectory>,
        _: bool,
    ) -> anyhow::Result<Option<Changes>> {
        self.take()
    }

    fn last_good(&self) -> LastGoodManifests {
        self.last_good.manifests().clone()
    }

    fn note_last_good(
        &mut self,
        _: &mut Pki<PkiDirectory>,
        last_good: &LastGood,
        files: Option<&BTreeSet<String>>,
    ) {
        self.last_good.note(last_good, files);
    }

    fn write_last_good(&mut self, _: &mut Pki<PkiDirectory>) -> Vec<String> {
        self.last_good.write()
    }

    fn write_outputs(&mut self, outputs: &Outputs<'_, PkiDirectory>) -> Vec<String> {
        self.outputs.write(outputs)
    }

    fn zone_serial(&self) -> u32 {
        self.outputs.zone_serial()
    }
}

#[cfg(test)]
mod tests;

//! What the scanner found and nobody has handled yet. Of each file only the latest state is kept,
//! so a slow reader costs no memory.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use atlas_core::manifest::{Manifest, ManifestError};
use tokio::sync::Notify;

use crate::process::lock::lock;

/// The latest state of one file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FileState {
    /// Its manifests when it was last valid.
    pub manifests: Arc<[Arc<Manifest>]>,
    /// What is wrong with it now.
    pub errors: Vec<ManifestError>,
    /// Whether this process has read a valid text of it that was not blank.
    pub was_valid: bool,
    /// Whether its present text is valid.
    pub is_valid: bool,
    /// Whether `manifests` were kept by an earlier process, and not read by this one.
    pub is_last_good: bool,
    /// Whether this process has seen that the file is there.
    pub was_read: bool,
}

impl FileState {
    /// Whether the file itself was never seen: its manifests are an earlier process's, and its
    /// directory can't be read.
    pub fn is_unread(&self) -> bool {
        self.is_last_good && !self.was_read
    }
}

/// What is wrong with directories.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DirectoryErrors {
    /// The errors as people are told them.
    pub errors: Vec<ManifestError>,
    /// Directories that can't be read. Files below them may still be there.
    pub unreadable: Vec<String>,
}

/// What has changed in a directory of manifests.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DirectoryUpdate {
    /// Files that differ, by their path within the directory; `None`: gone.
    pub files: BTreeMap<String, Option<FileState>>,
    /// `None`: as before. The first update always has it.
    pub directories: Option<DirectoryErrors>,
}

impl DirectoryUpdate {
    /// Whether nothing has changed.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Adds a later update, which replaces this one's state of the same files.
    pub fn extend(&mut self, later: Self) {
        self.files.extend(later.files);
        self.directories = later.directories.or(self.directories.take());
    }
}

/// Updates from the scanner to the provider.
#[derive(Debug, Default)]
pub struct UpdateQueue {
    pending: Mutex<DirectoryUpdate>,
    changed: Notify,
}

impl UpdateQueue {
    /// Adds an update.
    pub fn push(&self, update: DirectoryUpdate) {
        if !update.is_empty() {
            lock(&self.pending).extend(update);
            self.changed.notify_one();
        }
    }

    /// Takes all updates out, as one.
    pub fn drain(&self) -> DirectoryUpdate {
        std::mem::take(&mut lock(&self.pending))
    }

    /// Waits until an update is added.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }
}

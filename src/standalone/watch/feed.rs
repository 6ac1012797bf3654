//! From who reads manifests to who acts on them: what has changed, until it is taken. Of a file only the latest counts, so a slow
//! taker costs no memory.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use atlas_core::manifest::Manifest;
use atlas_core::manifest::ManifestError;
use tokio::sync::Notify;

use crate::process::lock::lock;

/// The latest of one file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FileState {
    /// What it said when it was last right.
    pub manifests: Arc<[Arc<Manifest>]>,
    /// What is wrong with it now.
    pub mistakes: Vec<ManifestError>,
    /// Whether it has been right since this process began, and was not blank then.
    pub was_right: bool,
    /// Whether it is right now.
    pub is_right: bool,
    /// Whether `manifests` are not of this process's reading, but what an earlier one kept.
    pub is_remembered: bool,
    /// Whether this process has seen that the file is there.
    pub was_seen: bool,
}

impl FileState {
    /// Whether nobody of this process has seen the file: what is known of it is remembered, and its directory can't be read.
    pub fn is_unseen(&self) -> bool {
        self.is_remembered && !self.was_seen
    }
}

/// What is wrong with directories.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Directories {
    /// What to tell people.
    pub errors: Vec<ManifestError>,
    /// Directories that can't be read: what is below may be there.
    pub unreadable: Vec<String>,
}

/// What has changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Update {
    /// By path within the directory; `None`: gone.
    pub files: BTreeMap<String, Option<FileState>>,
    /// `None`: as before. The first update of all says it.
    pub directories: Option<Directories>,
}

impl Update {
    /// Whether it says nothing.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Takes in a later one.
    pub fn extend(&mut self, later: Self) {
        self.files.extend(later.files);
        self.directories = later.directories.or(self.directories.take());
    }
}

/// What hasn't been taken yet.
#[derive(Debug, Default)]
pub struct Feed {
    pending: Mutex<Update>,
    bell: Notify,
}

impl Feed {
    /// Adds what has changed.
    pub fn put(&self, update: Update) {
        if !update.is_empty() {
            lock(&self.pending).extend(update);
            self.bell.notify_one();
        }
    }

    /// Takes everything.
    pub fn take(&self) -> Update {
        std::mem::take(&mut lock(&self.pending))
    }

    /// Waits until there is something.
    pub async fn changed(&self) {
        self.bell.notified().await;
    }
}

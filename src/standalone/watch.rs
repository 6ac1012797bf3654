//! Manifests in a directory: read once by commands, watched by a running Atlas.
//!
//! ```text
//! inotify ─▶ FsWatcher ─▶ PendingEvents ─▶ ScanSchedule ─▶ Scanner ─▶ FileCache ─▶ UpdateQueue ─▶ ManifestIndex
//!                     every 30 s, or another directory ───▶┘         (CachedFile)
//! ```
//!
//! Errors never make the fleet smaller. A file that becomes wrong, unreadable or empty keeps its
//! last valid manifests; a directory that is gone keeps all of its files'. Clusters go only with
//! what is removed from a directory that can be read.
//!
//! A file that was moved into its place, or written in place and closed, is read at once, and no
//! other file is. A file that was written to and not closed isn't read. Any other change waits for
//! the end of its burst, since whoever deletes a file may be about to write it again. Events can be
//! lost (NFS, overflowing queues), so every 30 s the whole directory is read; only files whose text
//! differs are parsed again.
//!
//! A text that may be incomplete ([`yaml::incomplete_reason`](atlas_core::yaml::incomplete_reason))
//! takes effect once it has been unchanged for a while ([`QuietPeriods`]); until then the file
//! keeps its last valid manifests.

mod cached_file;
mod file_cache;
mod fs_watcher;
mod manifest_index;
mod pending_events;
mod scanner;
mod schedule;
mod timing;
mod update_queue;
mod walk;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context;
use tokio_util::sync::CancellationToken;

use crate::engine::last_good::LastGoodManifests;

use file_cache::FileCache;
pub use manifest_index::{DirectoryContents, ManifestIndex};
use pending_events::{PendingChanges, PendingEvents};
use scanner::{ScanReason, Scanner};
use schedule::ScanSchedule;
use timing::QuietPeriods;
pub use timing::WatchTiming;
pub use update_queue::{DirectoryUpdate, FileState, UpdateQueue};
pub use walk::is_below;

/// Reads a directory once, for commands that need no running Atlas.
///
/// # Errors
/// The directory itself can't be read. What is wrong with files is in the result.
pub fn read_once(dir: &Path) -> anyhow::Result<DirectoryContents> {
    Ok(read_index(dir)?.0.contents())
}

/// Reads a directory once, file by file.
///
/// # Errors
/// As [`read_once`].
pub fn read_index(dir: &Path) -> anyhow::Result<(ManifestIndex, DirectoryUpdate)> {
    let mut cache = FileCache::new(dir, QuietPeriods::NONE, LastGoodManifests::new());
    let mut update = DirectoryUpdate::default();
    cache
        .read_all(&PendingChanges::default(), &BTreeSet::new(), &mut update)
        .with_context(|| format!("cannot read manifests from {}", dir.display()))?;
    let mut index = ManifestIndex::default();
    index.apply(update.clone());
    Ok((index, update))
}

/// Watches a directory until `cancel`, and adds updates to the queue: the first once it has been
/// read completely, then whenever something differs. `last_good` are the files' manifests when an
/// earlier process read them.
///
/// A directory that is not there (yet) is waited for.
///
/// # Errors
/// A thread that reads the directory panicked.
pub async fn watch(
    dir: PathBuf,
    queue: Arc<UpdateQueue>,
    timing: WatchTiming,
    last_good: LastGoodManifests,
    cancel: CancellationToken,
) -> anyhow::Result<()> {
    // Cancelled here, whatever is waited for: a network file system that hangs must not keep Atlas
    // from stopping.
    cancel.run_until_cancelled(run(dir, queue, timing, last_good)).await.unwrap_or(Ok(()))
}

async fn run(
    dir: PathBuf,
    queue: Arc<UpdateQueue>,
    timing: WatchTiming,
    last_good: LastGoodManifests,
) -> anyhow::Result<()> {
    let events = Arc::new(PendingEvents::default());
    let mut schedule = ScanSchedule::new(&dir, &events, &timing);
    let mut scanner = Scanner::new(&dir, events, &timing, last_good);
    let mut reason = ScanReason::Rescan;
    loop {
        let (back, mut result) = tokio::task::spawn_blocking(move || scanner.scan(reason))
            .await
            .context("BUG: reading manifests panicked")?;
        scanner = back;
        queue.push(std::mem::take(&mut result.update));
        reason = schedule.next(&result).await;
    }
}

#[cfg(test)]
mod tests;

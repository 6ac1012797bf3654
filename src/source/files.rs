//! Manifests in a directory: read once for commands, or watched for a running Atlas.
//!
//! ```text
//! inotify ──▶ debounce ─▶ the files it named ─┐
//! every 30 s ───────────┬─▶ walk: all files ──┴▶ memory ──▶ Feed, of the files whose text differs ──▶ Shelf
//! directory replaced ───┘
//! ```
//!
//! What went wrong never makes the fleet smaller. A file that becomes wrong, unreadable or empty keeps what it said last;
//! a directory that is gone keeps everything. Only a manifest that is deleted, from a directory that can be read, takes
//! its clusters with it.
//!
//! A file that was written to its end, or moved into its place, is read at once, and no other file is. Whatever else
//! happens waits until it is over: who deletes a file may be about to put it back. Events may be lost (NFS, overflowing queues),
//! so now and then the whole directory is read; only files whose text differs are parsed again.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use atlas_core::fact::Fact;
use atlas_core::manifest::ManifestError;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at, timeout_at};
use tokio_util::sync::CancellationToken;

mod eyes;
mod feed;
mod memory;
mod shelf;
mod walk;

use eyes::{Eyes, Sight};
pub use feed::{Directories, Feed, FileState, Update};
use memory::Memory;
pub use shelf::{Shelf, is_below};
use walk::Identity;

/// What a directory says, read once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// The last good facts of every file that is there, in the order of their paths.
    pub facts: Vec<Fact>,
    /// What is wrong at present.
    pub errors: Vec<ManifestError>,
}

/// How patiently a directory is watched.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// A burst of changes has ended once nothing happened for so long. 100 ms cover the several writes and renames by which
    /// an editor, `git checkout` or rsync replaces files, and nobody notices them. A single file that was written to its end
    /// doesn't wait.
    pub idle: Duration,
    /// A burst is read after so long even if it goes on, so that a busy directory still takes effect.
    pub longest: Duration,
    /// How often to look whether the directory is still the same one (one `stat`), and to read it again while it cannot be
    /// read or watched. Events don't tell of a directory that is replaced (a mount, a link that git-sync turns).
    pub poll: Duration,
    /// How often everything is read without any event, in case events were lost (NFS has none of other machines' writes).
    pub rescan: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            idle: Duration::from_millis(100),
            longest: Duration::from_secs(1),
            poll: Duration::from_secs(1),
            rescan: Duration::from_secs(30),
        }
    }
}

/// Reads a directory once, for commands that need no running Atlas.
///
/// # Errors
/// Where the directory itself cannot be read. What is wrong with files is in the report.
pub fn read_once(dir: &Path) -> anyhow::Result<Report> {
    Ok(read_shelf(dir)?.0.report())
}

/// [`read_once`], file by file.
///
/// # Errors
/// As [`read_once`].
pub fn read_shelf(dir: &Path) -> anyhow::Result<(Shelf, Update)> {
    let (mut memory, mut update, mut shelf) = (Memory::new(dir), Update::default(), Shelf::default());
    memory.refresh(&mut update).with_context(|| format!("cannot read manifests from {}", dir.display()))?;
    shelf.apply(update.clone());
    Ok((shelf, update))
}

/// Watches a directory until `cancel`led, and tells the feed what it says: first when it has been read completely for the first
/// time, then whenever that differs.
///
/// A directory that is not there (yet) is waited for.
///
/// # Errors
/// Only where a thread of its own fails.
pub async fn watch(dir: PathBuf, feed: Arc<Feed>, timing: Timing, cancel: CancellationToken) -> anyhow::Result<()> {
    // Waiting ends here, in one place, whatever is waited for: a hanging NFS server must not keep Atlas from stopping.
    cancel.run_until_cancelled(run(dir, feed, timing)).await.unwrap_or(Ok(()))
}

async fn run(dir: PathBuf, feed: Arc<Feed>, timing: Timing) -> anyhow::Result<()> {
    let sight = Arc::new(Sight::default());
    let mut alarm = Alarm::new(&dir, &sight, timing);
    let mut source = Source { eyes: Eyes::new(&dir, &sight), sight, memory: Memory::new(&dir), complete: false };
    let mut wake = Wake::Due;
    loop {
        let (back, pass) = tokio::task::spawn_blocking(move || source.pass(wake)).await.context("BUG: reading manifests panicked")?;
        source = back;
        feed.put(pass.update);
        wake = alarm.wait(pass.identity, pass.retry).await;
    }
}

/// What reads and watches; it is lent to a thread that may block.
struct Source {
    eyes: Eyes,
    sight: Arc<Sight>,
    memory: Memory,
    /// Whether the directory has been read completely once.
    complete: bool,
}

/// What one reading came to.
struct Pass {
    /// What differs; empty before the first complete reading.
    update: Update,
    /// The directory that was read; `None` where there was none.
    identity: Option<Identity>,
    /// Whether to try again soon: it could not be read, or not be watched.
    retry: bool,
}

impl Source {
    fn pass(mut self, wake: Wake) -> (Self, Pass) {
        let identity = self.memory.identity_now();
        // First watch, then look at what was seen, then read: a change in between is read twice rather than missed.
        let watched = self.eyes.open(identity, wake == Wake::Due);
        let seen = self.sight.take();
        let mut update = Update::default();
        let refreshed = match seen.paths {
            Some(paths) if wake == Wake::Changed && watched && self.complete => self.memory.refresh_some(paths, &mut update),
            _ => self.memory.refresh(&mut update),
        };
        match &refreshed {
            Ok(()) => self.complete = true,
            Err(error) if !self.complete => tracing::warn!(%error, "waiting for the directory of manifests"),
            Err(_) => {}
        }
        if !self.complete {
            update = Update::default();
        }
        let pass = Pass { update, identity, retry: !watched || refreshed.is_err() };
        (self, pass)
    }
}

/// Why to read again.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Wake {
    /// Something in the directory changed.
    Changed,
    /// It is time, or the directory is another one.
    Due,
}

/// Says when to read again.
struct Alarm {
    dir: PathBuf,
    sight: Arc<Sight>,
    timing: Timing,
    poll: Interval,
    rescan: Interval,
    /// When something was last acted on.
    acted: Option<Instant>,
}

impl Alarm {
    fn new(dir: &Path, sight: &Arc<Sight>, timing: Timing) -> Self {
        let every = |period| {
            let mut interval = interval_at(Instant::now() + period, period);
            interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
            interval
        };
        let (poll, rescan) = (every(timing.poll), every(timing.rescan));
        Self { dir: dir.to_owned(), sight: Arc::clone(sight), timing, poll, rescan, acted: None }
    }

    async fn wait(&mut self, seen: Option<Identity>, retry: bool) -> Wake {
        loop {
            tokio::select! {
                () = self.sight.changed() => {
                    self.settle().await;
                    self.acted = Some(Instant::now());
                    return Wake::Changed;
                }
                _ = self.rescan.tick() => return Wake::Due,
                _ = self.poll.tick() => {
                    let now = tokio::fs::metadata(&self.dir).await.ok().map(|metadata| Identity::of(&metadata));
                    if retry || now != seen {
                        return Wake::Due;
                    }
                }
            }
        }
    }

    /// Waits until nothing has changed for a while, but not forever; and not at all for files that are complete, unless it has
    /// acted just now and this goes on.
    async fn settle(&self) {
        let deadline = Instant::now() + self.timing.longest;
        loop {
            let now = Instant::now();
            let rested = self.acted.is_none_or(|acted| now >= acted + self.timing.idle);
            if now >= deadline || rested && self.sight.is_complete() {
                return;
            }
            if timeout_at((now + self.timing.idle).min(deadline), self.sight.changed()).await.is_err() {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests;

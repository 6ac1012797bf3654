//! Manifests in a directory: read once for commands, or watched for a running Atlas.
//!
//! ```text
//! inotify ──▶ debounce ─┐
//! every 30 s ───────────┼──▶ walk ──▶ memory ──▶ Report, published where it differs from the last
//! directory replaced ───┘
//! ```
//!
//! What went wrong never makes the fleet smaller. A file that becomes wrong, unreadable or empty keeps what it said last;
//! a directory that is gone keeps everything. Only a manifest that is deleted, from a directory that can be read, takes
//! its clusters with it.
//!
//! The whole directory is read at every change, since events may be lost (NFS, overflowing queues) and a read of 10,000
//! small files takes a fraction of a second; only files whose text differs are parsed again.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use atlas_core::fact::Fact;
use atlas_core::manifest::ManifestError;
use tokio::sync::{Notify, watch::Sender};
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at, timeout_at};
use tokio_util::sync::CancellationToken;

mod eyes;
mod memory;
mod walk;

use eyes::Eyes;
use memory::Memory;
use walk::Identity;

/// What a directory says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// The last good facts of every file that is there, in the order of their paths.
    pub facts: Vec<Fact>,
    /// What is wrong at present.
    pub errors: Vec<ManifestError>,
    /// Every file that is there, as far as it is known, by its path within the directory.
    pub files: BTreeMap<String, Manifest>,
    /// Directories within it that can't be read: what is below may be there.
    pub unreadable: Vec<String>,
}

/// One file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Manifest {
    /// Its text when it was last right; `None` if it never was since this process began.
    pub good: Option<Arc<str>>,
    /// Whether it is right now.
    pub is_good: bool,
}

/// How patiently a directory is watched.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// A burst of changes has ended once nothing happened for so long. 100 ms cover the several writes and renames by which
    /// an editor, `git checkout` or rsync replaces files, and nobody notices them.
    pub idle: Duration,
    /// A burst is read after so long even if it goes on, so that a busy directory still takes effect.
    pub max_wait: Duration,
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
            max_wait: Duration::from_secs(1),
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
    let mut memory = Memory::new(dir);
    memory.refresh().with_context(|| format!("cannot read manifests from {}", dir.display()))?;
    Ok(memory.report())
}

/// Watches a directory until `cancel`led, and publishes what it says: first when it has been read completely for the first
/// time, then whenever that differs.
///
/// A directory that is not there (yet) is waited for.
///
/// # Errors
/// Only where a thread of its own fails.
pub async fn watch(dir: PathBuf, out: Sender<Option<Report>>, cancel: CancellationToken) -> anyhow::Result<()> {
    watch_with(dir, out, cancel, Timing::default()).await
}

/// [`watch`] with other [`Timing`].
///
/// # Errors
/// As [`watch`].
pub async fn watch_with(dir: PathBuf, out: Sender<Option<Report>>, cancel: CancellationToken, timing: Timing) -> anyhow::Result<()> {
    // Waiting ends here, in one place, whatever is waited for: a hanging NFS server must not keep Atlas from stopping.
    cancel.run_until_cancelled(run(dir, out, timing)).await.unwrap_or(Ok(()))
}

async fn run(dir: PathBuf, out: Sender<Option<Report>>, timing: Timing) -> anyhow::Result<()> {
    let changed = Arc::new(Notify::new());
    let mut alarm = Alarm::new(&dir, &changed, timing);
    let mut source = Source { eyes: Eyes::new(&dir, &changed), memory: Memory::new(&dir), complete: false };
    let mut wake = Wake::Start;
    loop {
        let rearm = wake != Wake::Changed;
        let (back, pass) = tokio::task::spawn_blocking(move || source.pass(rearm)).await.context("BUG: reading manifests panicked")?;
        source = back;
        if let Some(report) = pass.report {
            publish(&out, report);
        }
        wake = alarm.wait(pass.identity, pass.retry).await;
    }
}

fn publish(out: &Sender<Option<Report>>, report: Report) {
    out.send_if_modified(|last| {
        let differs = last.as_ref() != Some(&report);
        if differs {
            *last = Some(report);
        }
        differs
    });
}

/// What reads and watches; it is lent to a thread that may block.
struct Source {
    eyes: Eyes,
    memory: Memory,
    /// Whether the directory has been read completely once.
    complete: bool,
}

/// What one reading came to.
struct Pass {
    /// `None` before the first complete reading.
    report: Option<Report>,
    /// The directory that was read; `None` where there was none.
    identity: Option<Identity>,
    /// Whether to try again soon: it could not be read, or not be watched.
    retry: bool,
}

impl Source {
    fn pass(mut self, rearm: bool) -> (Self, Pass) {
        let identity = self.memory.identity_now();
        // First watch, then read: a change in between is read twice rather than missed.
        let watched = self.eyes.open(identity, rearm);
        let refreshed = self.memory.refresh();
        match &refreshed {
            Ok(()) => self.complete = true,
            Err(error) if !self.complete => tracing::warn!(%error, "waiting for the directory of manifests"),
            Err(_) => {}
        }
        let report = self.complete.then(|| self.memory.report());
        let pass = Pass { report, identity, retry: !watched || refreshed.is_err() };
        (self, pass)
    }
}

/// Why to read again.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Wake {
    Start,
    /// Something in the directory changed.
    Changed,
    /// It is time, or the directory is another one.
    Due,
}

/// Says when to read again.
struct Alarm {
    dir: PathBuf,
    changed: Arc<Notify>,
    timing: Timing,
    poll: Interval,
    rescan: Interval,
}

impl Alarm {
    fn new(dir: &Path, changed: &Arc<Notify>, timing: Timing) -> Self {
        let every = |period| {
            let mut interval = interval_at(Instant::now() + period, period);
            interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
            interval
        };
        Self { dir: dir.to_owned(), changed: Arc::clone(changed), timing, poll: every(timing.poll), rescan: every(timing.rescan) }
    }

    async fn wait(&mut self, seen: Option<Identity>, retry: bool) -> Wake {
        loop {
            tokio::select! {
                () = self.changed.notified() => {
                    self.settle().await;
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

    /// Waits until nothing has changed for a while, but not forever.
    async fn settle(&self) {
        let deadline = Instant::now() + self.timing.max_wait;
        loop {
            let idle = Instant::now() + self.timing.idle;
            let quiet = timeout_at(idle.min(deadline), self.changed.notified()).await.is_err();
            if quiet || Instant::now() >= deadline {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests;

//! Manifests in a directory: read once for commands, or watched for a running Atlas.
//!
//! ```text
//! inotify ──▶ debounce ─▶ the files it named ─┐
//! every 30 s ───────────┬─▶ walk: all files ──┴▶ memory ──▶ Feed, of the files whose text differs ──▶ Shelf
//! directory replaced ───┘
//! ```
//!
//! What went wrong never makes the fleet smaller. A file that becomes wrong, unreadable or empty keeps what it said last;
//! a directory that is gone keeps everything. Only what is removed, from a directory that can be read, takes its clusters
//! with it.
//!
//! A file that was moved into its place, or written in place and closed, is read at once, and no other file is. One that
//! somebody has written to and not closed isn't read. Whatever else happens waits until it is over: who deletes a file may be
//! about to put it back. Events may be lost (NFS, overflowing queues), so now and then the whole directory is read; only files
//! whose text differs are parsed again.
//!
//! What may be half a file ([`yaml::incomplete_reason`](atlas_core::yaml::incomplete_reason)) counts once nobody has changed it for a while, and until then
//! it says what it said before.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use atlas_core::manifest::Manifest;
use atlas_core::manifest::ManifestError;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at, sleep_until, timeout_at};
use tokio_util::sync::CancellationToken;

mod eyes;
mod feed;
mod known;
mod memory;
mod shelf;
mod walk;

use eyes::{Eyes, Seen, Sight};
pub use feed::{Directories, Feed, FileState, Update};
pub use memory::Earlier;
use memory::{Memory, Patience};
pub use shelf::{Shelf, is_below};
use walk::Identity;

/// What a directory says, read once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// The last good manifests of every file that is there, in the order of their paths.
    pub manifests: Vec<Manifest>,
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
    /// So long nobody must have changed a file of which nobody told that it is whole.
    pub quiet: Duration,
    /// And so long one that says less than before, which is how half a file looks. No pause of a writer that doesn't keep the file open
    /// is as long, and who takes a cluster out of a file can wait.
    pub quiet_if_less: Duration,
    /// How often everything is read without any event, in case events were lost (NFS has none of other machines' writes).
    pub rescan: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            idle: Duration::from_millis(100),
            longest: Duration::from_secs(1),
            poll: Duration::from_secs(1),
            quiet: Duration::from_secs(2),
            quiet_if_less: Duration::from_secs(10),
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
    let (mut memory, mut update, mut shelf) =
        (Memory::new(dir, Patience::none(), Earlier::new()), Update::default(), Shelf::default());
    memory
        .refresh(&Seen::default(), &BTreeSet::new(), &mut update)
        .with_context(|| format!("cannot read manifests from {}", dir.display()))?;
    shelf.apply(update.clone());
    Ok((shelf, update))
}

/// Watches a directory until `cancel`led, and tells the feed what it says: first when it has been read completely for the first
/// time, then whenever that differs. `earlier` is what files said when an earlier process read them.
///
/// A directory that is not there (yet) is waited for.
///
/// # Errors
/// Only where a thread of its own fails.
pub async fn watch(
    dir: PathBuf,
    feed: Arc<Feed>,
    timing: Timing,
    earlier: Earlier,
    cancel: CancellationToken,
) -> anyhow::Result<()> {
    // Waiting ends here, in one place, whatever is waited for: a hanging NFS server must not keep Atlas from stopping.
    cancel.run_until_cancelled(run(dir, feed, timing, earlier)).await.unwrap_or(Ok(()))
}

async fn run(
    dir: PathBuf,
    feed: Arc<Feed>,
    timing: Timing,
    earlier: Earlier,
) -> anyhow::Result<()> {
    let sight = Arc::new(Sight::default());
    let mut alarm = Alarm::new(&dir, &sight, timing);
    let mut source = Source::new(&dir, sight, timing, earlier);
    let mut wake = Wake::Due;
    loop {
        let (back, pass) = tokio::task::spawn_blocking(move || source.pass(wake))
            .await
            .context("BUG: reading manifests panicked")?;
        source = back;
        feed.put(pass.update);
        wake = alarm.wait(pass.identity, pass.retry, pass.due).await;
    }
}

/// What reads and watches; it is lent to a thread that may block.
struct Source {
    eyes: Eyes,
    sight: Arc<Sight>,
    memory: Memory,
    /// What differs, until the directory has been read completely once.
    held: Update,
    /// Whether it has.
    complete: bool,
    /// Then it counts as read completely, whatever may be half.
    complete_at_latest: Instant,
    /// Whether it was said that this is waited for.
    said: bool,
}

/// What one reading came to.
struct Pass {
    /// What differs; empty before the first complete reading.
    update: Update,
    /// The directory that was read; `None` where there was none.
    identity: Option<Identity>,
    /// Whether to try again soon: it could not be read, or not be watched.
    retry: bool,
    /// When a file is to be looked at again.
    due: Option<Instant>,
}

impl Source {
    fn new(dir: &Path, sight: Arc<Sight>, timing: Timing, earlier: Earlier) -> Self {
        Self {
            eyes: Eyes::new(dir, &sight),
            sight,
            memory: Memory::new(
                dir,
                Patience { quiet: timing.quiet, quiet_if_less: timing.quiet_if_less },
                earlier,
            ),
            held: Update::default(),
            complete: false,
            complete_at_latest: Instant::now() + timing.quiet_if_less,
            said: false,
        }
    }

    fn pass(mut self, wake: Wake) -> (Self, Pass) {
        let identity = self.memory.identity_now();
        // First watch, then look at what was seen, then read: a change in between is read twice rather than missed.
        let watched = self.eyes.open(identity, wake == Wake::Due);
        let mut update = Update::default();
        let refreshed = if wake == Wake::Waiting {
            // What else was seen may not be over.
            self.memory.look_again(&self.sight.open(), &mut update)
        } else {
            let seen = self.sight.take();
            let open = self.sight.open();
            match wake == Wake::Changed && watched && self.complete && !seen.others {
                true => self.memory.refresh_some(&seen, &open, &mut update),
                false => self.memory.refresh(&seen, &open, &mut update),
            }
        };
        match &refreshed {
            // A file that may be half, and of which nothing is known, would make a smaller fleet than there was.
            Ok(()) if !self.complete => {
                self.complete =
                    !self.memory.lacks_something() || Instant::now() >= self.complete_at_latest;
                if !self.complete && !std::mem::replace(&mut self.said, true) {
                    tracing::info!(
                        "waiting for manifests that have just been changed, in case they are being written"
                    );
                }
            }
            Ok(()) => {}
            Err(error) if !self.complete => {
                tracing::warn!(%error, "waiting for the directory of manifests")
            }
            Err(_) => {}
        }
        self.held.extend(update);
        let update = if self.complete { std::mem::take(&mut self.held) } else { Update::default() };
        // Where nothing could be read nothing was looked at again, so that what is due stays due; `poll` tries again soon.
        let due = refreshed.is_ok().then(|| self.memory.due()).flatten();
        let pass = Pass { update, identity, retry: !watched || refreshed.is_err(), due };
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
    /// A file that may be half is to be looked at again.
    Waiting,
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

    async fn wait(&mut self, seen: Option<Identity>, retry: bool, due: Option<Instant>) -> Wake {
        let due = async {
            if let Some(due) = due { sleep_until(due).await } else { std::future::pending().await }
        };
        let mut due = std::pin::pin!(due);
        loop {
            tokio::select! {
                () = &mut due => return Wake::Waiting,
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
            if timeout_at((now + self.timing.idle).min(deadline), self.sight.changed())
                .await
                .is_err()
            {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests;

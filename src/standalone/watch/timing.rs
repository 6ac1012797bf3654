//! How often a directory is looked at, and how long changed files wait.

use std::time::Duration;

use crate::process::debounce::Debounce;

/// Times of a watched directory.
#[derive(Clone, Copy, Debug)]
pub struct WatchTiming {
    /// How long a burst of changes lasts. 100 ms of idle time cover the several writes and renames
    /// by which an editor, `git checkout` or rsync replaces files. A single file that was written
    /// to its end doesn't wait.
    pub debounce: Debounce,
    /// How often to check whether the directory is still the same one (one `stat`), and to read it
    /// again while it can't be read or watched. There are no events of a directory that is replaced
    /// (a mount, or a link that git-sync moves).
    pub poll: Duration,
    /// How long files wait that may be incomplete.
    pub quiet: QuietPeriods,
    /// How often everything is read without any event. Events can be lost: NFS has none of other
    /// machines' writes.
    pub rescan: Duration,
}

impl Default for WatchTiming {
    fn default() -> Self {
        Self {
            debounce: Debounce::default(),
            poll: Duration::from_secs(1),
            quiet: QuietPeriods { usual: Duration::from_secs(2), if_less: Duration::from_secs(10) },
            rescan: Duration::from_secs(30),
        }
    }
}

/// How long a file that may be incomplete must stay unchanged before it takes effect.
#[derive(Clone, Copy, Debug)]
pub struct QuietPeriods {
    /// Where no event has shown that the file is complete.
    pub usual: Duration,
    /// Where it says less than before, as a half-written file does. Longer than any pause of a
    /// writer that closes the file between writes; whoever removes a cluster from a file can wait.
    pub if_less: Duration,
}

impl QuietPeriods {
    /// For commands that read a directory once.
    pub const NONE: Self = Self { usual: Duration::ZERO, if_less: Duration::ZERO };
}

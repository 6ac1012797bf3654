//! One file: what it said last, and whether what it says now counts yet.

use std::sync::Arc;
use std::time::Duration;

use atlas_core::manifest::Manifest;
use atlas_core::manifest::ManifestError;
use atlas_core::xds::resource::Version;
use atlas_core::yaml::{self, IncompleteReason, WriteEvent};
use tokio::time::Instant;

use super::FileState;
use super::memory::{Patience, STAYS};
use super::walk::{Identity, Text};

/// Longer than anybody waits for a file.
const LONG_AGO: Duration = Duration::from_secs(120);

/// A file as it was read last.
#[derive(Default)]
pub(super) struct Known {
    /// Of the text that was understood last, or found wrong.
    hash: Option<Version>,
    /// What it said when it was last right.
    manifests: Arc<[Arc<Manifest>]>,
    /// Whether the text that said so is there and not blank.
    was_right: bool,
    /// Whether its text is right.
    is_right: bool,
    /// What is wrong with its text.
    mistakes: Vec<ManifestError>,
    /// Why it cannot be read at present, or doesn't count yet.
    problem: Option<ManifestError>,
    /// What it looked like last.
    look: Option<Look>,
    /// What is waited for before it counts.
    wait: Option<Wait>,
    /// Whether something differs from what was told.
    differs: bool,
}

/// What a file looked like.
struct Look {
    identity: Identity,
    hash: Version,
    /// Since when.
    since: Instant,
    arrival: WriteEvent,
}

/// What is known of a text beside itself.
pub(super) struct News<'a> {
    /// What an event told.
    pub told: Option<WriteEvent>,
    /// What the file said when an earlier process read it.
    pub earlier: Option<&'a Arc<[Arc<Manifest>]>>,
    /// Whether this process reads the directory for the first time.
    pub at_start: bool,
}

/// What is waited for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Wait {
    /// That who writes it closes it. From then on that is worth a word.
    Closing(Instant),
    /// That nobody changes it until then.
    Quiet(Instant),
    /// It is gone; that others have become whole, until then.
    Gone(Instant),
}

impl Known {
    /// Whether it is this file, and not another one in its place.
    pub fn is(&self, identity: Identity) -> bool {
        self.look.as_ref().is_some_and(|look| look.identity == identity)
    }

    pub fn is_waited_for(&self) -> bool {
        self.wait.is_some()
    }

    /// Whether that will be known soon.
    pub fn may_be_half(&self) -> bool {
        matches!(self.wait, Some(Wait::Quiet(_)))
    }

    pub fn is_gone(&self) -> bool {
        matches!(self.wait, Some(Wait::Gone(_)))
    }

    /// Whether the text that says what it says has been read by this process.
    pub fn was_right(&self) -> bool {
        self.was_right
    }

    pub fn says_nothing(&self) -> bool {
        self.manifests.is_empty()
    }

    /// When it is to be looked at again.
    pub fn due(&self) -> Option<Instant> {
        match self.wait? {
            Wait::Closing(told) => (told > Instant::now()).then_some(told),
            Wait::Quiet(due) | Wait::Gone(due) => Some(due),
        }
    }

    /// Takes a text. `news`: what else is known of it.
    pub fn take(&mut self, file: &str, text: &Text, news: &News<'_>, patience: Patience) {
        let hash = Version::of(text.text.as_bytes());
        let (since, arrival) = self.look_at(text, hash, news);
        let text = text.text.as_str();
        let blank = text.trim_ascii().is_empty();
        // Many writers empty a file before they write it.
        if blank && !self.manifests.is_empty() {
            let due = since + patience.quiet;
            if arrival == WriteEvent::Unknown && Instant::now() < due {
                // What it says in a moment is worth a word, this isn't.
                self.wait = Some(Wait::Quiet(due));
                return;
            }
            return self.keep(
                file,
                "is empty, perhaps because it is being written (to remove what it says, delete it)",
            );
        }
        if self.hash == Some(hash) {
            return self.settle();
        }
        match yaml::parse(file, text) {
            Ok(manifests) => {
                let before = if self.was_right || !self.manifests.is_empty() {
                    Some(&self.manifests)
                } else {
                    news.earlier
                };
                let before = before
                    .into_iter()
                    .flat_map(|manifests| manifests.iter().map(|manifest| &**manifest));
                if let Some((why, due)) = yaml::incomplete_reason(before, &manifests, text, arrival)
                    .and_then(|doubt| pending(&doubt, since, patience))
                {
                    return self.wait(file, &why, due);
                }
                self.manifests = manifests.into_iter().map(Arc::new).collect();
                (self.mistakes, self.is_right, self.was_right) = (Vec::new(), true, !blank);
            }
            Err(mistakes) => (self.mistakes, self.is_right) = (mistakes, false),
        }
        (self.hash, self.differs) = (Some(hash), true);
        self.settle();
    }

    /// Since when it says this, and how that came to be there.
    ///
    /// Of a text that is there again, since it was there first: a generator that writes the same every few seconds must not keep it
    /// waiting for ever. What was there in between would have been another text.
    fn look_at(&mut self, text: &Text, hash: Version, news: &News<'_>) -> (Instant, WriteEvent) {
        let now = Instant::now();
        let identity = text.identity;
        let (since, arrival) = match &self.look {
            Some(look) if look.hash == hash => (look.since, look.arrival),
            Some(_) => (now, WriteEvent::Unknown),
            // At start it may be old. What is said of the future says nothing.
            None if news.at_start => {
                (now.checked_sub(text.age.min(LONG_AGO)).unwrap_or(now), WriteEvent::Unknown)
            }
            // Later it came just now, whatever the clock of another machine says.
            None => (now, WriteEvent::Unknown),
        };
        let arrival = news.told.filter(|told| *told != WriteEvent::Unknown).unwrap_or(arrival);
        self.look = Some(Look { identity, hash, since, arrival });
        (since, arrival)
    }

    /// It is open, and somebody has written to it.
    pub fn opens(&mut self, file: &str, patience: Patience) {
        let now = Instant::now();
        let told =
            if let Some(Wait::Closing(told)) = self.wait { told } else { now + patience.quiet };
        if now >= told {
            self.keep(file, "is open, and being written: it counts once it is closed");
        }
        self.wait = Some(Wait::Closing(told));
    }

    /// It was written while it was read.
    pub fn changes(&mut self, file: &str, patience: Patience) {
        self.wait(file, "is being written", Instant::now() + patience.quiet);
    }

    /// It is gone, and for a while that doesn't count; returns whether.
    pub fn goes(&mut self, file: &str, patience: Patience) -> bool {
        let due = if let Some(Wait::Gone(due)) = self.wait {
            due
        } else {
            Instant::now() + patience.quiet_if_less
        };
        if due <= Instant::now() {
            return false;
        }
        self.keep(
            file,
            "is gone, while other files may be half written: that counts once these count",
        );
        self.wait = Some(Wait::Gone(due));
        true
    }

    fn wait(&mut self, file: &str, why: &str, due: Instant) {
        // Of another text.
        if !self.mistakes.is_empty() {
            (self.mistakes, self.hash, self.differs) = (Vec::new(), None, true);
        }
        self.keep(file, why);
        self.wait = Some(Wait::Quiet(due));
    }

    /// It keeps what it said.
    pub fn keep(&mut self, file: &str, why: &str) {
        let stays = if self.manifests.is_empty() { String::new() } else { format!(": {STAYS}") };
        let problem = Some(ManifestError {
            file: file.to_owned(),
            line: 0,
            key: String::new(),
            message: format!("{why}{stays}"),
        });
        self.differs |= self.problem != problem;
        (self.problem, self.wait) = (problem, None);
    }

    /// It is understood, or its mistakes are.
    fn settle(&mut self) {
        self.differs |= self.problem.take().is_some();
        self.wait = None;
    }

    /// What differs from what was told, once.
    pub fn news(&mut self) -> Option<FileState> {
        std::mem::take(&mut self.differs).then(|| FileState {
            manifests: Arc::clone(&self.manifests),
            mistakes: self.problem.iter().chain(&self.mistakes).cloned().collect(),
            was_right: self.was_right,
            is_right: self.is_right && self.problem.is_none(),
            is_remembered: false,
            was_seen: true,
        })
    }
}

/// Why a text doesn't count yet, and when it will; `None`: it does.
fn pending(
    doubt: &IncompleteReason,
    since: Instant,
    patience: Patience,
) -> Option<(String, Instant)> {
    let (why, quiet) = match doubt {
        IncompleteReason::MayContinue => ("has just been changed".to_owned(), patience.quiet),
        IncompleteReason::Truncated => (
            "has just been changed, and its last line has no end".to_owned(),
            patience.quiet_if_less,
        ),
        IncompleteReason::Missing(what) => {
            (format!("no longer says {what}"), patience.quiet_if_less)
        }
    };
    let due = since + quiet;
    let rule = || {
        format!(
            "{why}: that counts once nobody has changed it for {}, or a file is moved into its place",
            seconds(quiet)
        )
    };
    (due > Instant::now()).then(|| (rule(), due))
}

fn seconds(of: Duration) -> String {
    format!("{} s", of.as_secs_f64())
}

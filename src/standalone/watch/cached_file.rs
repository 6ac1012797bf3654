//! One file: its manifests when it was last valid, and whether its present text takes effect yet.

use std::sync::Arc;
use std::time::Duration;

use atlas_core::manifest::{Manifest, ManifestError};
use atlas_core::xds::resource::Version;
use atlas_core::yaml::{self, IncompleteReason, WriteEvent};
use tokio::time::Instant;

use super::timing::QuietPeriods;
use super::update_queue::FileState;
use super::walk::{FileId, FileText};

/// Ends a message about what can't be read now but was read before.
pub(super) const STAYS: &str = "what was read before stays in force";

/// Older than any text that waits.
const LONG_AGO: Duration = Duration::from_secs(120);

/// A file as it was read last.
#[derive(Default)]
pub(super) struct CachedFile {
    /// Hash of the text that took effect last, or was found wrong.
    hash: Option<Version>,
    /// Its manifests when it was last valid.
    manifests: Arc<[Arc<Manifest>]>,
    /// Whether `manifests` were read by this process, from a text that was not blank.
    was_valid: bool,
    /// Whether the text of `hash` is valid.
    is_valid: bool,
    /// What is wrong with the text of `hash`.
    errors: Vec<ManifestError>,
    /// Why the file can't be read at present, or why its present text doesn't take effect yet.
    problem: Option<ManifestError>,
    /// The text that was read last, whether or not it took effect.
    observed: Option<ObservedText>,
    /// What it waits for before it takes effect.
    waiting: Option<WaitingFor>,
    /// Whether it differs from the state that was last reported.
    differs: bool,
}

/// A text that was read.
struct ObservedText {
    id: FileId,
    hash: Version,
    /// Since when the file has had this text.
    since: Instant,
    write_event: WriteEvent,
}

/// What is known of a text beside the text itself.
pub(super) struct ReadContext<'a> {
    /// How it was written, by an event.
    pub write_event: Option<WriteEvent>,
    /// The file's manifests when an earlier process read it.
    pub last_good: Option<&'a Arc<[Arc<Manifest>]>>,
    /// Whether this process reads the directory for the first time.
    pub is_first_scan: bool,
}

/// What a file waits for before it takes effect.
#[derive(Clone, Copy, PartialEq, Eq)]
enum WaitingFor {
    /// Its writer closes it. If that takes until this time, people are told.
    Closing(Instant),
    /// It stays unchanged until this time.
    Quiet(Instant),
    /// It is gone, and files that may be incomplete become complete, at the latest at this time:
    /// its manifests may have moved to one of them.
    OtherFiles(Instant),
}

impl CachedFile {
    /// Whether it is the file that was read last, and not another one in its place.
    pub fn has_id(&self, id: FileId) -> bool {
        self.observed.as_ref().is_some_and(|observed| observed.id == id)
    }

    /// Whether it waits for anything.
    pub fn is_waiting(&self) -> bool {
        self.waiting.is_some()
    }

    /// Whether it waits for a time at which it takes effect.
    pub fn waits_for_quiet(&self) -> bool {
        matches!(self.waiting, Some(WaitingFor::Quiet(_)))
    }

    /// Whether it is gone and still in force.
    pub fn is_gone(&self) -> bool {
        matches!(self.waiting, Some(WaitingFor::OtherFiles(_)))
    }

    /// Whether this process has read a valid text of it that was not blank.
    pub fn was_valid(&self) -> bool {
        self.was_valid
    }

    /// Whether it has no manifests.
    pub fn is_empty(&self) -> bool {
        self.manifests.is_empty()
    }

    /// When it is to be read again.
    pub fn due(&self) -> Option<Instant> {
        match self.waiting? {
            WaitingFor::Closing(due) => (due > Instant::now()).then_some(due),
            WaitingFor::Quiet(due) | WaitingFor::OtherFiles(due) => Some(due),
        }
    }

    /// Lets a text take effect, or wait.
    pub fn ingest(
        &mut self,
        file: &str,
        text: &FileText,
        context: &ReadContext<'_>,
        quiet: QuietPeriods,
    ) {
        let hash = Version::of(text.text.as_bytes());
        let (since, write_event) = self.observe(text, hash, context);
        let text = text.text.as_str();
        let is_blank = text.trim_ascii().is_empty();
        // Many programs truncate a file before they write it.
        if is_blank && !self.manifests.is_empty() {
            let due = since + quiet.usual;
            if write_event == WriteEvent::Unknown && Instant::now() < due {
                // Most likely it is being written; people aren't told of that.
                self.waiting = Some(WaitingFor::Quiet(due));
                return;
            }
            return self.keep_manifests(
                file,
                "is empty, perhaps because it is being written (to remove what it says, delete it)",
            );
        }
        if self.hash == Some(hash) {
            return self.stop_waiting();
        }
        match yaml::parse(file, text) {
            Ok(manifests) => {
                let before = if self.was_valid || !self.manifests.is_empty() {
                    Some(&self.manifests)
                } else {
                    context.last_good
                };
                let before = before
                    .into_iter()
                    .flat_map(|manifests| manifests.iter().map(|manifest| &**manifest));
                if let Some((why, due)) =
                    yaml::incomplete_reason(before, &manifests, text, write_event)
                        .and_then(|reason| wait_of(&reason, since, quiet))
                {
                    return self.wait_for_quiet(file, &why, due);
                }
                self.manifests = manifests.into_iter().map(Arc::new).collect();
                (self.errors, self.is_valid, self.was_valid) = (Vec::new(), true, !is_blank);
            }
            Err(errors) => (self.errors, self.is_valid) = (errors, false),
        }
        (self.hash, self.differs) = (Some(hash), true);
        self.stop_waiting();
    }

    /// Notes a text; returns since when the file has had it, and how it was written.
    ///
    /// A text that is written again counts from when it was first there: a generator that writes
    /// the same text every few seconds must not make it wait for ever. Had there been another text
    /// in between, it would have been read.
    fn observe(
        &mut self,
        text: &FileText,
        hash: Version,
        context: &ReadContext<'_>,
    ) -> (Instant, WriteEvent) {
        let now = Instant::now();
        let (since, write_event) = match &self.observed {
            Some(observed) if observed.hash == hash => (observed.since, observed.write_event),
            Some(_) => (now, WriteEvent::Unknown),
            // At the start it may be old. A time in the future gives an age of 0.
            None if context.is_first_scan => {
                (now.checked_sub(text.age.min(LONG_AGO)).unwrap_or(now), WriteEvent::Unknown)
            }
            // A file that appears later is new, whatever its times say: another machine's clock may
            // be wrong.
            None => (now, WriteEvent::Unknown),
        };
        let write_event = context
            .write_event
            .filter(|write_event| *write_event != WriteEvent::Unknown)
            .unwrap_or(write_event);
        self.observed = Some(ObservedText { id: text.id, hash, since, write_event });
        (since, write_event)
    }

    /// Notes that it was written to and is still open.
    pub fn mark_open(&mut self, file: &str, quiet: QuietPeriods) {
        let now = Instant::now();
        let due =
            if let Some(WaitingFor::Closing(due)) = self.waiting { due } else { now + quiet.usual };
        if now >= due {
            self.keep_manifests(file, "is open, and being written: it counts once it is closed");
        }
        self.waiting = Some(WaitingFor::Closing(due));
    }

    /// Notes that it was written to while it was read.
    pub fn mark_changing(&mut self, file: &str, quiet: QuietPeriods) {
        self.wait_for_quiet(file, "is being written", Instant::now() + quiet.usual);
    }

    /// Notes that it is gone while other files may be incomplete. Returns whether it stays in force
    /// for now.
    pub fn mark_gone(&mut self, file: &str, quiet: QuietPeriods) -> bool {
        let due = if let Some(WaitingFor::OtherFiles(due)) = self.waiting {
            due
        } else {
            Instant::now() + quiet.if_less
        };
        if due <= Instant::now() {
            return false;
        }
        self.keep_manifests(
            file,
            "is gone, while other files may be half written: that counts once these count",
        );
        self.waiting = Some(WaitingFor::OtherFiles(due));
        true
    }

    fn wait_for_quiet(&mut self, file: &str, why: &str, due: Instant) {
        // The errors are those of an earlier text.
        if !self.errors.is_empty() {
            (self.errors, self.hash, self.differs) = (Vec::new(), None, true);
        }
        self.keep_manifests(file, why);
        self.waiting = Some(WaitingFor::Quiet(due));
    }

    /// Keeps its manifests, and tells people why.
    pub fn keep_manifests(&mut self, file: &str, why: &str) {
        let stays = if self.manifests.is_empty() { String::new() } else { format!(": {STAYS}") };
        let problem = Some(ManifestError {
            file: file.to_owned(),
            line: 0,
            key: String::new(),
            message: format!("{why}{stays}"),
        });
        self.differs |= self.problem != problem;
        (self.problem, self.waiting) = (problem, None);
    }

    fn stop_waiting(&mut self) {
        self.differs |= self.problem.take().is_some();
        self.waiting = None;
    }

    /// Its state, if that differs from the state that was last taken.
    pub fn take_update(&mut self) -> Option<FileState> {
        std::mem::take(&mut self.differs).then(|| FileState {
            manifests: Arc::clone(&self.manifests),
            errors: self.problem.iter().chain(&self.errors).cloned().collect(),
            was_valid: self.was_valid,
            is_valid: self.is_valid && self.problem.is_none(),
            is_last_good: false,
            was_read: true,
        })
    }
}

/// Why a text waits, and until when; `None`: it has waited long enough.
fn wait_of(
    reason: &IncompleteReason,
    since: Instant,
    quiet: QuietPeriods,
) -> Option<(String, Instant)> {
    let (why, period) = match reason {
        IncompleteReason::MayContinue => ("has just been changed".to_owned(), quiet.usual),
        IncompleteReason::Truncated => {
            ("has just been changed, and its last line has no end".to_owned(), quiet.if_less)
        }
        IncompleteReason::Missing(what) => (format!("no longer says {what}"), quiet.if_less),
    };
    let due = since + period;
    let message = || {
        format!(
            "{why}: that counts once nobody has changed it for {} s, or a file is moved into its place",
            period.as_secs_f64()
        )
    };
    (due > Instant::now()).then(|| (message(), due))
}

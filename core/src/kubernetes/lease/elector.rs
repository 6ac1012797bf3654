//! One candidate for a lease, as a state machine. The [module above](super) says why its rules are these.
//!
//! The edge asks [`Elector::next`] what to do, does it within [`Timing::patience`], says what came of it, and asks again:
//!
//! - `Read`: GET the Lease as it is now (no `resourceVersion` in the query, which would allow an old one). It, or its absence
//!   (404): [`Elector::observed`]. Anything else: [`Elector::unread`].
//! - `Write` without an expected version: POST a new Lease. With one: PATCH (`application/merge-patch+json`) with
//!   `metadata.resourceVersion` set to it, so that the API server compares and others' labels stay. 2xx is
//!   [`Outcome::Done`]; 409, and 404 of a PATCH, [`Outcome::Conflict`]; everything else, a timeout too, [`Outcome::Unknown`].
//! - `Wait`: sleep, but ask again after [`Elector::surpass`] or [`Elector::release`].
//!
//! Whoever is about to write something else asks [`Elector::leads`], each time.

use std::time::Duration;

use super::{Epoch, Outcome, Record, Term, Timing, Version};

/// What the edge is to do next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Read the Lease.
    Read {
        /// Give it back with the result.
        attempt: Attempt,
    },
    /// Write the Lease.
    Write {
        /// Give it back with the result.
        attempt: Attempt,
        /// What to write. `renewTime` is now.
        record: Record,
        /// The version that it replaces; `None`: there must be none yet.
        expected: Option<Version>,
        /// `acquireTime` is now; otherwise it stays as it is.
        acquires: bool,
    },
    /// Nothing to do before then.
    Wait {
        /// By this process's clock.
        until: Duration,
    },
    /// Nothing to do any more: the lease was released, or another's.
    Stop,
}

/// Tells one try from another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attempt(u64);

/// A candidate.
#[derive(Clone, Debug)]
pub struct Elector {
    me: String,
    timing: Timing,
    seen: Seen,
    /// The Lease may no longer be as it was seen.
    unsure: bool,
    held: Option<Held>,
    /// The epoch of the next write: not less than any that was seen, and greater than any of another's.
    epoch: Epoch,
    attempts: u64,
    under_way: Option<(Attempt, UnderWay)>,
    /// No read before.
    read_from: Duration,
    /// No write before, so that an API server that always refuses is asked once in a retry period.
    write_from: Duration,
    stopping: bool,
}

/// The Lease when it was last seen.
#[derive(Clone, Debug)]
enum Seen {
    Never,
    Absent {
        /// When what was there before would have ended.
        free_from: Duration,
    },
    Is {
        version: Version,
        record: Record,
        /// When this version was first seen.
        since: Duration,
    },
}

/// The last write that is known to have happened.
#[derive(Clone, Debug)]
struct Held {
    term: Term,
    /// When it was started.
    from: Duration,
}

#[derive(Clone, Debug)]
enum UnderWay {
    Read,
    Write { record: Record, started: Duration },
}

impl Elector {
    /// A candidate. `me` is written as `holderIdentity`. It must be unique to this process: the pod's name, `_`, and
    /// something random, as other controllers do. The pod's name alone is not enough, since its container may restart.
    pub fn new(me: impl Into<String>, timing: Timing) -> Self {
        Self {
            me: me.into(),
            timing,
            seen: Seen::Never,
            unsure: true,
            held: None,
            epoch: Epoch(1),
            attempts: 0,
            under_way: None,
            read_from: Duration::ZERO,
            write_from: Duration::ZERO,
            stopping: false,
        }
    }

    /// What to do now. What is still under way is given up: its result, should it come, is ignored.
    pub fn next(&mut self, now: Duration) -> Action {
        match self.under_way.take() {
            Some((_, UnderWay::Write { .. })) => self.look_again(now),
            Some((_, UnderWay::Read)) => self.read_from = now + self.timing.retry,
            None => {}
        }
        if self.stopping && (matches!(self.seen, Seen::Never) || !self.unsure && !self.is_mine()) {
            return Action::Stop;
        }
        let write_at = self.write_at();
        if write_at.is_some_and(|at| at <= now) {
            return self.write(now);
        }
        // Who holds the lease learns all that it must know from its writes.
        let read_at = (self.unsure || !self.is_mine()).then_some(self.read_from);
        if read_at.is_some_and(|at| at <= now) {
            return Action::Read { attempt: self.begin(UnderWay::Read) };
        }
        Action::Wait {
            until: write_at.into_iter().chain(read_at).min().unwrap_or(now + self.timing.retry),
        }
    }

    /// The Lease was read; `None`: there is none.
    pub fn observed(&mut self, now: Duration, attempt: Attempt, lease: Option<(Version, Record)>) {
        if self.finish(attempt).is_none() {
            return;
        }
        self.unsure = false;
        self.read_from = now + self.jittered(self.timing.retry);
        let Some((version, record)) = lease else {
            // Nobody holds what isn't there. But somebody who doesn't know yet may still lead.
            self.held = None;
            self.seen = Seen::Absent { free_from: self.free_from() };
            return;
        };
        let mine = record.holder == self.me;
        self.epoch =
            self.epoch.max(if mine { record.transitions } else { record.transitions.next() });
        if !mine {
            self.held = None;
        }
        let since = match &self.seen {
            Seen::Is { version: known, since, .. } if *known == version => *since,
            _ => now,
        };
        self.seen = Seen::Is { version, record, since };
    }

    /// The Lease couldn't be read.
    pub fn unread(&mut self, now: Duration, attempt: Attempt) {
        if self.finish(attempt).is_some() {
            self.read_from = now + self.jittered(self.timing.retry);
        }
    }

    /// What became of a write.
    pub fn wrote(&mut self, now: Duration, attempt: Attempt, outcome: Outcome) {
        let Some(UnderWay::Write { record, started }) = self.finish(attempt) else { return };
        let Outcome::Done(version) = outcome else { return self.look_again(now) };
        if !self.stopping {
            let term = Term { epoch: record.transitions, holder: self.me.clone() };
            self.held = Some(Held { term, from: started });
            self.write_from = now + self.timing.retry;
        }
        self.unsure = false;
        self.seen = Seen::Is { version, record, since: now };
    }

    /// The term in which this process leads at this time, if it does.
    pub fn leads(&self, now: Duration) -> Option<&Term> {
        let held = self.held.as_ref().filter(|held| held.term.epoch >= self.epoch)?;
        (now < held.from + self.timing.renew).then_some(&held.term)
    }

    /// When this process ceases to lead if nothing more succeeds; `None`: it doesn't lead.
    pub fn leads_until(&self, now: Duration) -> Option<Duration> {
        self.leads(now)?;
        self.held.as_ref().map(|held| held.from + self.timing.renew)
    }

    /// Who held the lease when it was last seen, for people.
    pub fn holder(&self) -> Option<&str> {
        match &self.seen {
            Seen::Is { record, .. } => {
                Some(record.holder.as_str()).filter(|holder| !holder.is_empty())
            }
            Seen::Never | Seen::Absent { .. } => None,
        }
    }

    /// No epoch is left: somebody wrote an absurd `leaseTransitions`. To be said to people: delete the Lease, and the term
    /// in what it guards.
    pub fn exhausted(&self) -> bool {
        self.epoch > Epoch::MAX
    }

    /// Something that this lease guards was written in this term: to be said of every record that is read, by who leads and
    /// who doesn't. If it is greater than this process's term, that ends at once. If the process turns out to hold the lease
    /// all the same (somebody deleted the Lease, or restored an old one), it leads again with a term that is greater still;
    /// otherwise it finds out whose the lease is.
    pub fn surpass(&mut self, other: &Term) {
        if other.holder == self.me {
            self.epoch = self.epoch.max(other.epoch);
        } else if self.held.as_ref().is_none_or(|held| held.term < *other) {
            self.epoch = self.epoch.max(other.epoch.next());
        }
    }

    /// Stops leading, now and for good. From here on, [`next`](Self::next) gives back the lease, so that another needn't wait
    /// for its end, and then says `Stop`. End what writes first; and limit how long all this may take.
    pub fn release(&mut self) {
        self.held = None;
        self.stopping = true;
        self.write_from = Duration::ZERO;
    }

    /// When to write; `None`: not as things stand.
    fn write_at(&self) -> Option<Duration> {
        if self.unsure || self.exhausted() && !self.stopping {
            return None;
        }
        Some(self.free_from().max(self.write_from))
    }

    /// From when this process may take the lease, as it was last seen.
    fn free_from(&self) -> Duration {
        match &self.seen {
            Seen::Never => Duration::ZERO,
            Seen::Absent { free_from } => *free_from,
            Seen::Is { record, .. } if record.holder.is_empty() || record.holder == self.me => {
                Duration::ZERO
            }
            Seen::Is { record, since, .. } => *since + record.duration.unwrap_or(self.timing.lease),
        }
    }

    fn is_mine(&self) -> bool {
        matches!(&self.seen, Seen::Is { record, .. } if record.holder == self.me)
    }

    fn write(&mut self, now: Duration) -> Action {
        let (expected, acquires) = match &self.seen {
            Seen::Is { version, record, .. } => (
                Some(version.clone()),
                record.holder != self.me || record.transitions != self.epoch,
            ),
            Seen::Never | Seen::Absent { .. } => (None, true),
        };
        let record = if self.stopping {
            // As client-go does it: for one second, by nobody.
            Record {
                holder: String::new(),
                duration: Some(Duration::from_secs(1)),
                transitions: self.epoch.min(Epoch::MAX),
            }
        } else {
            Record {
                holder: self.me.clone(),
                duration: Some(self.timing.lease),
                transitions: self.epoch,
            }
        };
        self.write_from = now + self.timing.retry;
        let attempt = self.begin(UnderWay::Write { record: record.clone(), started: now });
        Action::Write { attempt, record, expected, acquires }
    }

    /// Something else happened to the Lease than was meant to, or may have.
    fn look_again(&mut self, now: Duration) {
        self.unsure = true;
        self.read_from = now;
    }

    fn begin(&mut self, what: UnderWay) -> Attempt {
        self.attempts += 1;
        let attempt = Attempt(self.attempts);
        self.under_way = Some((attempt, what));
        attempt
    }

    /// What this was an attempt at, unless it was given up.
    fn finish(&mut self, attempt: Attempt) -> Option<UnderWay> {
        self.under_way.take_if(|(current, _)| *current == attempt).map(|(_, what)| what)
    }

    /// Up to a fifth more, so that candidates that started together don't stay together: a hash (FNV-1a) of name and count.
    fn jittered(&self, time: Duration) -> Duration {
        let bytes = self.me.bytes().chain(self.attempts.to_le_bytes());
        let hash = bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
        time + time / 5 * ((hash >> 32) as u32 % 1000) / 1000
    }
}

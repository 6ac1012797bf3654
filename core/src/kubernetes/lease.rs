//! Which of several Atlas processes writes: a lease, and what keeps it honest when the lease alone can't.
//!
//! Every replica of Atlas serves, but only one may write. They agree by one small object in the Kubernetes API, a **Lease**
//! (`coordination.k8s.io/v1`): it names its holder, and the holder writes it again and again while it lives. Who sees it
//! unchanged for long enough may take it over.
//!
//! ```text
//!             ┌────────────────────── the edge: HTTP, the clock ──────────────────────┐
//!  Elector ──next(now)──▶ Read ──▶ GET ────▶ observed / unread ──▶ Elector ──leads(now)──▶ Some(term): this process writes
//!                    ├──▶ Write ─▶ POST, PATCH ──▶ wrote ────────▶                   └──▶ None: it doesn't
//!                    ├──▶ Wait ──▶ sleep
//!                    └──▶ Stop
//! ```
//!
//! | Module | What it is for |
//! | --- | --- |
//! | [`Elector`] | one candidate for the lease, as a state machine: no socket, no clock, no randomness |
//! | [`fence`] | how a leader writes CA state so that a leader that doesn't know of its end does no harm |
//!
//! # Why it works
//!
//! All times are those of one process's own monotonic clock, since its own start. **No two clocks are ever compared**, and
//! the times of day in the Lease (`renewTime`, `acquireTime`) are for people.
//!
//! - **Writes are compare-and-swap** on the Lease's `resourceVersion`: of two that saw the same version, one succeeds.
//! - **The holder counts from the start** of its last write that the API server is known to have made, and leads until
//!   [`Timing::renew`] (10 s) after it, whatever is still under way.
//! - **A candidate counts from when it first saw** a version, necessarily after that write's start, and takes the lease when
//!   it has seen nothing else for the lease's duration (15 s).
//! - So the holder has stopped before another begins, as long as no clock runs more than 15 / 10 = **1.5 times as fast** as
//!   another. Clocks that people use differ by less than a thousandth; the rest is for what nobody thought of.
//! - **Only an acknowledged write counts.** One whose answer didn't come may have happened, may yet happen, or never will.
//!   The Lease is read then; if it names this process, it's written again, and that write counts.
//! - A result that comes after it was given up on is ignored: whatever that write did, the next read shows it.
//!
//! A process that is stopped and continued asks [`Elector::leads`] again and finds that it no longer leads. But it may be
//! stopped *after* it asked and before its request goes out; or the request may linger in the network; or its clock may stop
//! with it (a suspended virtual machine: give `CLOCK_BOOTTIME`, which counts suspension where the machine can know of it).
//! No lease helps against that, at any timing. So what must never have two writers has the [`fence`].
//!
//! # Terms
//!
//! `leaseTransitions` counts up whenever the lease changes hands. Here it is the **epoch**, and epoch and holder together are
//! a [`Term`], of which each is greater than those before. A holder's name is unique to its process (not only to its pod, in
//! which a container may restart), so no two processes ever have the same term, not even after somebody deleted the Lease and
//! its count began anew. Who meets a greater term than its own in what it guards tells [`Elector::surpass`].
//!
//! **Architecture invariant:** nothing here knows the time, the network or Kubernetes' client. `tests.rs` runs whole fleets of
//! candidates in simulated time, and also variants with one rule broken, each of which it must catch.

use std::fmt;
use std::num::ParseIntError;
use std::str::FromStr;
use std::time::Duration;

mod elector;
pub mod fence;
#[cfg(test)]
mod tests;

pub use elector::{Action, Attempt, Elector};

/// How long things take. `Timing::default()` is what Kubernetes' own controllers use: 15 s, 10 s, 2 s.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    lease: Duration,
    renew: Duration,
    retry: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            lease: Duration::from_secs(15),
            renew: Duration::from_secs(10),
            retry: Duration::from_secs(2),
        }
    }
}

/// Why a [`Timing`] is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TimingError {
    /// `leaseDurationSeconds` is a positive 32-bit number.
    #[error("lease duration {0:?}: must be whole seconds, at least 1 and at most 2147483647")]
    Lease(Duration),
    /// Nothing would be left for clocks that differ.
    #[error(
        "renew deadline {renew:?}: must be shorter than the lease duration {lease:?}, best by a third; else two processes may lead at once"
    )]
    Renew {
        /// The lease duration.
        lease: Duration,
        /// The renew deadline.
        renew: Duration,
    },
    /// One lost request would end the leadership.
    #[error(
        "retry period {retry:?}: must be at least 1ms and at most half the renew deadline {renew:?}, so that a lost request can be repeated"
    )]
    Retry {
        /// The renew deadline.
        renew: Duration,
        /// The retry period.
        retry: Duration,
    },
}

impl Timing {
    /// `lease`: how long others leave a lease alone that they see unchanged. `renew`: how long its holder leads after its last
    /// good write. `retry`: how often the holder writes and the others read.
    ///
    /// # Errors
    /// The three don't fit together.
    pub fn new(lease: Duration, renew: Duration, retry: Duration) -> Result<Self, TimingError> {
        if lease.subsec_nanos() != 0 || lease.is_zero() || lease.as_secs() > u64::from(Epoch::MAX.0)
        {
            return Err(TimingError::Lease(lease));
        }
        if renew >= lease {
            return Err(TimingError::Renew { lease, renew });
        }
        if retry < Duration::from_millis(1) || retry > renew / 2 {
            return Err(TimingError::Retry { renew, retry });
        }
        Ok(Self { lease, renew, retry })
    }

    /// The lease duration.
    pub fn lease(&self) -> Duration {
        self.lease
    }

    /// The renew deadline.
    pub fn renew(&self) -> Duration {
        self.renew
    }

    /// The retry period.
    pub fn retry(&self) -> Duration {
        self.retry
    }

    /// How long the edge waits for one answer (4 s), so that after a lost one there is time for another attempt.
    pub fn patience(&self) -> Duration {
        (self.renew - self.retry) / 2
    }
}

/// A `resourceVersion`: equal or not, and nothing else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Version(pub String);

/// What matters of a Lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// `holderIdentity`; empty: released.
    pub holder: String,
    /// `leaseDurationSeconds`; `None`: not said, and the reader's own counts.
    pub duration: Option<Duration>,
    /// `leaseTransitions`; 0 where absent.
    pub transitions: Epoch,
}

/// What became of a write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It happened; what was written has this version.
    Done(Version),
    /// It didn't and won't: what is there isn't what was expected (409; 404 of an update).
    Conflict,
    /// Nobody knows: no answer, or one that doesn't say.
    Unknown,
}

/// How often a lease has changed hands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Epoch(pub u32);

impl Epoch {
    /// The greatest that `leaseTransitions` can say. At one change in 15 s it is reached after a thousand years.
    pub const MAX: Self = Self(i32::MAX as u32);

    fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

/// One process's leadership: greater than all before it. Its text is the epoch, a space, and the holder.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Term {
    // The order of the fields is the order of terms. Of equal epochs, which exist only where somebody deleted the Lease,
    // one is greater all the same, and the process of the lesser takes a new one.
    /// The Lease's `leaseTransitions`.
    pub epoch: Epoch,
    /// The Lease's `holderIdentity`.
    pub holder: String,
}

impl fmt::Display for Term {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.epoch.0, self.holder)
    }
}

/// Why a text is no [`Term`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TermError {
    /// Not two words.
    #[error(
        "{0:?} is no term: must be a number, a space, and the name of a process, such as \"7 atlas-0_5d1f\""
    )]
    Form(String),
    /// The first isn't a number.
    #[error("{0:?} is no term: its first word must be a number")]
    Number(String, #[source] ParseIntError),
    /// The number is too great.
    #[error("{0:?} is no term: its number is greater than 2147483647")]
    Great(String),
}

impl FromStr for Term {
    type Err = TermError;

    fn from_str(text: &str) -> Result<Self, TermError> {
        let (epoch, holder) = text
            .split_once(' ')
            .filter(|(_, holder)| !holder.is_empty())
            .ok_or_else(|| TermError::Form(text.to_owned()))?;
        let epoch =
            Epoch(epoch.parse().map_err(|error| TermError::Number(text.to_owned(), error))?);
        if epoch > Epoch::MAX {
            return Err(TermError::Great(text.to_owned()));
        }
        Ok(Self { epoch, holder: holder.to_owned() })
    }
}

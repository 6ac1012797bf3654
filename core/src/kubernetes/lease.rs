//! Leader election by a lease, and a fence for what a lease alone can't guard.
//!
//! Every replica of Atlas serves, but only one may write. They agree by one small object in the
//! Kubernetes API, a **Lease** (`coordination.k8s.io/v1`). It names its holder, and the holder
//! renews it again and again. A candidate that sees it unchanged for long enough may take it over.
//!
//! ```text
//!             ┌──────────────── src/kube/election.rs: HTTP, the clock ────────────────┐
//!  Elector ─next_action─▶ Read ──▶ GET ────▶ on_read ────────────▶ Elector ──leads(now)──▶ Some(term): this process writes
//!                    ├──▶ Write ─▶ POST, PATCH ──▶ on_write ─────▶                   └──▶ None: it doesn't
//!                    ├──▶ Wait ──▶ sleep
//!                    └──▶ Stop
//! ```
//!
//! | Module | What it is for |
//! | --- | --- |
//! | [`Elector`] | one candidate for the lease, as a state machine: no socket, no clock, no randomness |
//! | [`fence`] | how a leader writes CA state so that an earlier leader that hasn't noticed its end does no harm |
//!
//! # Why it works
//!
//! All times are those of one process's own monotonic clock, since its own start. **No two clocks
//! are ever compared**, and the times of day in the Lease (`renewTime`, `acquireTime`) are for
//! people.
//!
//! - **Writes are compare-and-swap** on the Lease's `resourceVersion`: of two that saw the same
//!   version, one succeeds.
//! - **The holder counts from the start** of its last write that the API server is known to have
//!   made, and leads until [`LeaseTiming::renew`] (10 s) after it, whatever is still under way.
//! - **A candidate counts from when it first saw** a version, necessarily after that write's start,
//!   and takes the lease when it has seen nothing else for the lease's duration (15 s).
//! - So the holder has stopped before another begins, as long as no clock runs more than 15 / 10 =
//!   **1.5 times as fast** as another. Real clocks differ by less than a thousandth; the rest is a
//!   safety margin.
//! - **Only an acknowledged write counts.** One whose answer didn't come may have happened, may yet
//!   happen, or never will. The Lease is read then; if it names this process, it's written again,
//!   and that write counts.
//! - The result of a request that was given up is ignored: whatever that write did, the next read
//!   shows it.
//!
//! A process that is stopped and continued asks [`Elector::leads`] again and finds that it no
//! longer leads. But it may be stopped *after* it asked and before its request goes out; or the
//! request may linger in the network; or its clock may stop with it (a suspended virtual machine:
//! give `CLOCK_BOOTTIME`, which counts suspension where the machine can know of it). No lease helps
//! against that, at any timing. So records that must never have two writers have the [`fence`].
//!
//! # Terms
//!
//! `leaseTransitions` counts up whenever the lease changes hands. Here it is the **epoch**, and
//! epoch and holder together are a [`Term`], of which each is greater than those before. A holder's
//! name is unique to its process (not only to its pod, in which a container may restart), so no two
//! processes ever have the same term, not even after somebody deleted the Lease and its count began
//! anew. Every term that is read in a guarded object goes to [`Elector::observe_term`].
//!
//! **Architecture invariant:** nothing here knows the time, the network or Kubernetes' client.
//! `tests.rs` runs whole fleets of candidates in simulated time, and also variants with one rule
//! broken, each of which it must catch.

use std::fmt;
use std::num::ParseIntError;
use std::str::FromStr;
use std::time::Duration;

mod elector;
pub mod fence;
#[cfg(test)]
mod tests;

pub use elector::{Attempt, ElectionAction, Elector};

/// Durations of the election. The default is that of Kubernetes' own controllers: 15 s, 10 s, 2 s.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaseTiming {
    lease: Duration,
    renew: Duration,
    retry: Duration,
}

impl Default for LeaseTiming {
    fn default() -> Self {
        Self {
            lease: Duration::from_secs(15),
            renew: Duration::from_secs(10),
            retry: Duration::from_secs(2),
        }
    }
}

/// Why durations make no [`LeaseTiming`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LeaseTimingError {
    /// `leaseDurationSeconds` is a positive 32-bit number.
    #[error("lease duration {0:?}: must be whole seconds, at least 1 and at most 2147483647")]
    Lease(Duration),
    /// There would be no margin for clocks that differ.
    #[error(
        "renew deadline {renew:?}: must be shorter than the lease duration {lease:?}, best by a third; else two processes may lead at once"
    )]
    Renew {
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

impl LeaseTiming {
    /// `lease`: how long others leave a lease alone that they see unchanged. `renew`: how long its
    /// holder leads after its last good write. `retry`: how often the holder writes and the others
    /// read.
    ///
    /// # Errors
    /// The three don't fit together.
    pub fn new(
        lease: Duration,
        renew: Duration,
        retry: Duration,
    ) -> Result<Self, LeaseTimingError> {
        if lease.subsec_nanos() != 0 || lease.is_zero() || lease.as_secs() > u64::from(Epoch::MAX.0)
        {
            return Err(LeaseTimingError::Lease(lease));
        }
        if renew >= lease {
            return Err(LeaseTimingError::Renew { lease, renew });
        }
        if retry < Duration::from_millis(1) || retry > renew / 2 {
            return Err(LeaseTimingError::Retry { renew, retry });
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

    /// How long to wait for one answer (4 s by default): after a lost one there is time for another
    /// attempt.
    pub fn request_timeout(&self) -> Duration {
        (self.renew - self.retry) / 2
    }
}

/// `metadata.resourceVersion`. It can be compared for equality only.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResourceVersion(pub String);

/// The fields of a Lease that matter (client-go's `LeaderElectionRecord`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaderElectionRecord {
    /// `holderIdentity`; empty: released.
    pub holder: String,
    /// `leaseDurationSeconds`; `None`: absent, and the reader's own counts.
    pub duration: Option<Duration>,
    /// `leaseTransitions`; 0 where absent.
    pub transitions: Epoch,
}

/// How a write ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WriteResult {
    /// It happened; the object has this version now.
    Done(ResourceVersion),
    /// It didn't happen and won't: the object isn't the expected one (409; 404 of an update).
    Conflict,
    /// It may have happened or not: there was no answer, or one that doesn't say.
    Unknown,
}

/// How often the lease has changed hands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Epoch(pub u32);

impl Epoch {
    /// The greatest value of `leaseTransitions`. At one change in 15 s it is reached after a
    /// thousand years.
    pub const MAX: Self = Self(i32::MAX as u32);

    fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

/// One process's leadership; each is greater than those before it. As text: the epoch, a space, and
/// the holder.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Term {
    // The order of the fields is the order of terms. Of equal epochs, which exist only where
    // somebody deleted the Lease, one is greater all the same, and the process of the lesser takes
    // a new one.
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

/// Why a text isn't a [`Term`].
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

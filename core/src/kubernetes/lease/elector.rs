//! One candidate for a lease, as a state machine. [The module above](super) gives the reasons for
//! its rules.
//!
//! The caller asks [`Elector::next_action`] what to do, does it within
//! [`LeaseTiming::request_timeout`], reports the result, and asks again:
//!
//! - `Read`: GET the Lease as it is now (without `resourceVersion` in the query, which would allow
//!   an old one). The Lease or its absence (404): [`Elector::on_read`]. Anything else:
//!   [`Elector::on_read_failed`].
//! - `Write` without an expected version: POST a new Lease. With one: PATCH
//!   (`application/merge-patch+json`) with `metadata.resourceVersion` set to it, so that the API
//!   server compares and others' labels stay. 2xx is [`WriteResult::Done`]; 409, and 404 of a
//!   PATCH, [`WriteResult::Conflict`]; everything else, a timeout too, [`WriteResult::Unknown`].
//!   The result goes to [`Elector::on_write`].
//! - `Wait`: sleep, but ask again after [`Elector::observe_term`] or [`Elector::release`].
//!
//! Before each write of anything else, the caller asks [`Elector::leads`].

use std::time::Duration;

use super::{Epoch, LeaderElectionRecord, LeaseTiming, ResourceVersion, Term, WriteResult};

/// What the caller is to do next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ElectionAction {
    /// Read the Lease.
    Read {
        /// To be given back with the result.
        attempt: Attempt,
    },
    /// Write the Lease.
    Write {
        /// To be given back with the result.
        attempt: Attempt,
        /// What to write. `renewTime` is now.
        record: LeaderElectionRecord,
        /// The version that it replaces; `None`: there must be none yet.
        expected: Option<ResourceVersion>,
        /// `acquireTime` is now; otherwise it stays as it is.
        acquires: bool,
    },
    /// There is nothing to do before then.
    Wait {
        /// On this process's clock.
        until: Duration,
    },
    /// There is nothing to do any more: the lease was released, or is another's.
    Stop,
}

/// Identifies one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attempt(u64);

/// A candidate.
#[derive(Clone, Debug)]
pub struct Elector {
    identity: String,
    timing: LeaseTiming,
    lease: ObservedLease,
    /// Whether the Lease may no longer be as it was observed.
    must_read: bool,
    last_write: Option<OwnWrite>,
    /// The epoch of the next write: not less than any that was observed, and greater than any of
    /// another holder.
    epoch: Epoch,
    attempts: u64,
    in_flight: Option<(Attempt, InFlightRequest)>,
    /// When to read next, at the earliest.
    next_read: Duration,
    /// When to write next, at the earliest: an API server that always refuses is asked once in a
    /// retry period.
    next_write: Duration,
    stopping: bool,
}

/// The Lease when it was last read or written.
#[derive(Clone, Debug)]
enum ObservedLease {
    Never,
    Absent {
        /// When the lease that was there before would have expired.
        free_from: Duration,
    },
    Is {
        version: ResourceVersion,
        record: LeaderElectionRecord,
        /// When this version was first observed.
        since: Duration,
    },
}

/// This process's last acknowledged write that makes it the holder.
#[derive(Clone, Debug)]
struct OwnWrite {
    term: Term,
    /// When it was started.
    from: Duration,
}

#[derive(Clone, Debug)]
enum InFlightRequest {
    Read,
    Write { record: LeaderElectionRecord, started: Duration },
}

impl Elector {
    /// `identity` is written as `holderIdentity`. It must be unique to this process: the pod's
    /// name, `_`, and something random, as other controllers do. The pod's name alone isn't unique,
    /// since its container may restart.
    pub fn new(identity: impl Into<String>, timing: LeaseTiming) -> Self {
        Self {
            identity: identity.into(),
            timing,
            lease: ObservedLease::Never,
            must_read: true,
            last_write: None,
            epoch: Epoch(1),
            attempts: 0,
            in_flight: None,
            next_read: Duration::ZERO,
            next_write: Duration::ZERO,
            stopping: false,
        }
    }

    /// What to do now. A request that is still in flight is given up: its result, should it come,
    /// is ignored.
    pub fn next_action(&mut self, now: Duration) -> ElectionAction {
        match self.in_flight.take() {
            Some((_, InFlightRequest::Write { .. })) => self.read_again(now),
            Some((_, InFlightRequest::Read)) => self.next_read = now + self.timing.retry,
            None => {}
        }
        if self.stopping
            && (matches!(self.lease, ObservedLease::Never) || !self.must_read && !self.is_mine())
        {
            return ElectionAction::Stop;
        }
        let write_at = self.write_at();
        if write_at.is_some_and(|at| at <= now) {
            return self.write(now);
        }
        // A holder's own writes tell it all that a read would.
        let read_at = (self.must_read || !self.is_mine()).then_some(self.next_read);
        if read_at.is_some_and(|at| at <= now) {
            return ElectionAction::Read { attempt: self.begin(InFlightRequest::Read) };
        }
        ElectionAction::Wait {
            until: write_at.into_iter().chain(read_at).min().unwrap_or(now + self.timing.retry),
        }
    }

    /// The Lease was read; `None`: there is none.
    pub fn on_read(
        &mut self,
        now: Duration,
        attempt: Attempt,
        lease: Option<(ResourceVersion, LeaderElectionRecord)>,
    ) {
        if self.finish(attempt).is_none() {
            return;
        }
        self.must_read = false;
        self.next_read = now + self.jittered(self.timing.retry);
        let Some((version, record)) = lease else {
            // Somebody may still lead who doesn't know that the Lease was deleted.
            self.last_write = None;
            self.lease = ObservedLease::Absent { free_from: self.free_from() };
            return;
        };
        let mine = record.holder == self.identity;
        self.epoch =
            self.epoch.max(if mine { record.transitions } else { record.transitions.next() });
        if !mine {
            self.last_write = None;
        }
        let since = match &self.lease {
            ObservedLease::Is { version: known, since, .. } if *known == version => *since,
            _ => now,
        };
        self.lease = ObservedLease::Is { version, record, since };
    }

    /// The Lease couldn't be read.
    pub fn on_read_failed(&mut self, now: Duration, attempt: Attempt) {
        if self.finish(attempt).is_some() {
            self.next_read = now + self.jittered(self.timing.retry);
        }
    }

    /// The Lease was written, or not.
    pub fn on_write(&mut self, now: Duration, attempt: Attempt, result: WriteResult) {
        let Some(InFlightRequest::Write { record, started }) = self.finish(attempt) else { return };
        let WriteResult::Done(version) = result else { return self.read_again(now) };
        if !self.stopping {
            let term = Term { epoch: record.transitions, holder: self.identity.clone() };
            self.last_write = Some(OwnWrite { term, from: started });
            self.next_write = now + self.timing.retry;
        }
        self.must_read = false;
        self.lease = ObservedLease::Is { version, record, since: now };
    }

    /// The term in which this process leads now; `None`: it doesn't.
    pub fn leads(&self, now: Duration) -> Option<&Term> {
        let last_write =
            self.last_write.as_ref().filter(|last_write| last_write.term.epoch >= self.epoch)?;
        (now < last_write.from + self.timing.renew).then_some(&last_write.term)
    }

    /// When this process ceases to lead if nothing more succeeds; `None`: it doesn't lead.
    pub fn leads_until(&self, now: Duration) -> Option<Duration> {
        self.leads(now)?;
        self.last_write.as_ref().map(|last_write| last_write.from + self.timing.renew)
    }

    /// The holder as it was last observed, for people.
    pub fn holder(&self) -> Option<&str> {
        match &self.lease {
            ObservedLease::Is { record, .. } => {
                Some(record.holder.as_str()).filter(|holder| !holder.is_empty())
            }
            ObservedLease::Never | ObservedLease::Absent { .. } => None,
        }
    }

    /// Whether no greater epoch is left, because somebody wrote an absurd `leaseTransitions`.
    /// People must delete the Lease, and the terms in the objects that it guards.
    pub fn has_no_epoch_left(&self) -> bool {
        self.epoch > Epoch::MAX
    }

    /// An object that this lease guards was written in this term. To be called for every such
    /// object that is read, also by processes that don't lead. A term greater than this process's
    /// own ends its leadership at once. If the process holds the lease all the same (somebody
    /// deleted the Lease, or restored an old one), it leads again in a term that is greater still;
    /// otherwise it finds out who holds the lease.
    pub fn observe_term(&mut self, other: &Term) {
        if other.holder == self.identity {
            self.epoch = self.epoch.max(other.epoch);
        } else if self.last_write.as_ref().is_none_or(|last_write| last_write.term < *other) {
            self.epoch = self.epoch.max(other.epoch.next());
        }
    }

    /// Stops leading, now and for good. From here on, [`Elector::next_action`] gives back the
    /// lease, so that another candidate needn't wait for its end, and then says `Stop`. Everything
    /// that writes must have ended before.
    pub fn release(&mut self) {
        self.last_write = None;
        self.stopping = true;
        self.next_write = Duration::ZERO;
    }

    /// When to write; `None`: not before the Lease was read again.
    fn write_at(&self) -> Option<Duration> {
        if self.must_read || self.has_no_epoch_left() && !self.stopping {
            return None;
        }
        Some(self.free_from().max(self.next_write))
    }

    /// From when this process may take the lease, as it was last observed.
    fn free_from(&self) -> Duration {
        match &self.lease {
            ObservedLease::Never => Duration::ZERO,
            ObservedLease::Absent { free_from } => *free_from,
            ObservedLease::Is { record, .. }
                if record.holder.is_empty() || record.holder == self.identity =>
            {
                Duration::ZERO
            }
            ObservedLease::Is { record, since, .. } => {
                *since + record.duration.unwrap_or(self.timing.lease)
            }
        }
    }

    fn is_mine(&self) -> bool {
        matches!(&self.lease, ObservedLease::Is { record, .. } if record.holder == self.identity)
    }

    fn write(&mut self, now: Duration) -> ElectionAction {
        let (expected, acquires) = match &self.lease {
            ObservedLease::Is { version, record, .. } => (
                Some(version.clone()),
                record.holder != self.identity || record.transitions != self.epoch,
            ),
            ObservedLease::Never | ObservedLease::Absent { .. } => (None, true),
        };
        let record = if self.stopping {
            // As client-go does: no holder, one second.
            LeaderElectionRecord {
                holder: String::new(),
                duration: Some(Duration::from_secs(1)),
                transitions: self.epoch.min(Epoch::MAX),
            }
        } else {
            LeaderElectionRecord {
                holder: self.identity.clone(),
                duration: Some(self.timing.lease),
                transitions: self.epoch,
            }
        };
        self.next_write = now + self.timing.retry;
        let attempt = self.begin(InFlightRequest::Write { record: record.clone(), started: now });
        ElectionAction::Write { attempt, record, expected, acquires }
    }

    /// The Lease may not be as it was observed.
    fn read_again(&mut self, now: Duration) {
        self.must_read = true;
        self.next_read = now;
    }

    fn begin(&mut self, request: InFlightRequest) -> Attempt {
        self.attempts += 1;
        let attempt = Attempt(self.attempts);
        self.in_flight = Some((attempt, request));
        attempt
    }

    /// The request of this attempt; `None`: it was given up.
    fn finish(&mut self, attempt: Attempt) -> Option<InFlightRequest> {
        self.in_flight.take_if(|(current, _)| *current == attempt).map(|(_, request)| request)
    }

    /// Adds up to a fifth, so that candidates that started together don't stay in step: a hash
    /// (FNV-1a) of the identity and the count of attempts.
    fn jittered(&self, time: Duration) -> Duration {
        let bytes = self.identity.bytes().chain(self.attempts.to_le_bytes());
        let hash = bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
        time + time / 5 * ((hash >> 32) as u32 % 1000) / 1000
    }
}

//! The fence: how a leader writes CA state. A leader may be stopped after asking whether it leads
//! and before writing, for longer than its lease lasts, and then write without knowing that another
//! leads. The fence makes such a write fail, or harmless.
//!
//! CA state is a few records (Secrets), each with a `resourceVersion` and an annotation with the
//! [`Term`] of its last write: the **issuers** (the keys of the CAs), and one record per cluster
//! (its certificates, and its accepted credentials).
//!
//! # The protocol
//!
//! 1. A process that begins to lead in a term reads the issuers and **claims** them: a write that
//!    changes nothing but the annotation (where there are none yet, it creates them, empty).
//!    [`Claim`] says whether it may, and becomes a [`Fence`] when the write is acknowledged. Then
//!    it reads all the other records afresh, and forgets what it knew of them from an earlier term.
//! 2. Every write is compare-and-swap on the version that this process itself read or wrote
//!    ([`KnownVersion`]) and carries its term. The fence is asked immediately before each
//!    ([`Fence::permit_write`]).
//! 3. After a conflict, or where a write may have happened or not, the record is read again before
//!    anything else is done with it, and what to write is decided again from what was read.
//! 4. The term of every record that is read, or that a watch shows, goes to
//!    [`Elector::observe_term`](super::Elector::observe_term). If it is greater than this process's
//!    own, its leadership ends. (Also without a write: a leader that has nothing to write must find
//!    out that another has claimed the issuers.)
//!
//! # What holds
//!
//! **Architecture invariant** of CA state, whatever processes, clocks and networks do:
//!
//! - **No lost update.** Each record's history is one chain: every write was decided from exactly
//!   what it replaced.
//! - **Terms never decrease** along a record's history. So once a term has written a record, no
//!   lesser one writes it again.
//! - **The issuers have one writer.** Before a term writes anything anywhere, it has claimed the
//!   issuers; from then on no lesser term writes them. So no process replaces a CA without having
//!   read the one in force.
//! - **A late write of a lesser term** can still succeed on a cluster's record, but only on one
//!   that the greater term hasn't written yet, and the greater term meets a conflict, and reads
//!   what was written, before it writes there itself.
//!
//! Such a late write can bring a certificate that was signed by a CA no longer in force. It carries
//! that CA's certificate, and both are below the same root, so it is valid. (A way to revoke a CA
//! would have to change this.)
//!
//! Two rules keep this true. **A record is never deleted**, only emptied: otherwise a late write
//! that expects no record would bring back what was forgotten. (After somebody else deleted one,
//! its history begins anew.) And data that must be consistent is in one record, since no write is
//! atomic over two.
//!
//! None of this depends on the leader's own clock. [`Fence::permit_write`] also asks whether this
//! process still leads, which only saves writes that would fail.

use super::{ResourceVersion, Term, WriteResult};

/// The version of one record, as far as this process knows it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum KnownVersion {
    /// Unknown: the record must be read.
    #[default]
    Unread,
    /// There is no such record.
    Absent,
    /// The record is there.
    Present {
        version: ResourceVersion,
        /// The term in which it was written; `None`: none, which is less than any.
        term: Option<Term>,
    },
}

impl KnownVersion {
    /// The record was read; `None`: there is none.
    pub fn read(record: Option<(ResourceVersion, Option<Term>)>) -> Self {
        record.map_or(Self::Absent, |(version, term)| Self::Present { version, term })
    }

    /// What is known after a write in this term.
    pub fn written(result: WriteResult, term: &Term) -> Self {
        match result {
            WriteResult::Done(version) => Self::Present { version, term: Some(term.clone()) },
            WriteResult::Conflict | WriteResult::Unknown => Self::Unread,
        }
    }

    fn permit_write(&self, term: &Term, leads: Option<&Term>) -> Result<WritePermit, WriteDenied> {
        let expected = match self {
            Self::Unread => return Err(WriteDenied::Unread),
            Self::Present { term: Some(by), .. } if by > term => {
                return Err(WriteDenied::Overtaken { by: by.clone(), term: term.clone() });
            }
            Self::Present { version, .. } => Some(version.clone()),
            Self::Absent => None,
        };
        if leads != Some(term) {
            return Err(WriteDenied::NotLeading { term: term.clone() });
        }
        Ok(WritePermit { expected, term: term.clone() })
    }
}

/// Permission for one write, to be made at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WritePermit {
    /// The version that the write replaces; `None`: there must be none yet.
    pub expected: Option<ResourceVersion>,
    /// The value of the record's annotation.
    pub term: Term,
}

/// Why a write may not be made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WriteDenied {
    /// The record must be read first.
    #[error("the record must be read again before it is written")]
    Unread,
    /// The elector wasn't told of this record: let it
    /// [`observe_term`](super::Elector::observe_term) that term, and drop this fence.
    #[error("the record was written in term {by}, which is later than this process's {term}")]
    Overtaken {
        /// The greater term.
        by: Term,
        /// This process's term.
        term: Term,
    },
    /// Drop this fence. If the elector leads in another term, that needs its own claim.
    #[error("this process no longer leads in term {term}")]
    NotLeading {
        /// The term that is over.
        term: Term,
    },
}

/// A term that hasn't claimed the issuers yet, and may write nothing else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim(Term);

impl Claim {
    /// `term`: the one in which the elector leads.
    pub fn new(term: Term) -> Self {
        Self(term)
    }

    pub fn term(&self) -> &Term {
        &self.0
    }

    /// Permits the claim's write. `leads`: what the elector says now.
    ///
    /// # Errors
    /// Why the issuers may not be written.
    pub fn permit_write(
        &self,
        issuers: &KnownVersion,
        leads: Option<&Term>,
    ) -> Result<WritePermit, WriteDenied> {
        issuers.permit_write(&self.0, leads)
    }

    /// The claim's write ended.
    ///
    /// # Errors
    /// It wasn't acknowledged: read the issuers, and try again.
    pub fn written(self, result: &WriteResult) -> Result<Fence, Self> {
        match result {
            WriteResult::Done(_) => Ok(Fence(self.0)),
            WriteResult::Conflict | WriteResult::Unknown => Err(self),
        }
    }
}

/// A term that has claimed the issuers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fence(Term);

impl Fence {
    pub fn term(&self) -> &Term {
        &self.0
    }

    /// Permits a record's write. `leads`: what the elector says now.
    ///
    /// # Errors
    /// Why the record may not be written.
    pub fn permit_write(
        &self,
        record: &KnownVersion,
        leads: Option<&Term>,
    ) -> Result<WritePermit, WriteDenied> {
        record.permit_write(&self.0, leads)
    }
}

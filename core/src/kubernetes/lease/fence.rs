//! How a leader writes CA state. A lease is no fence: a leader may be stopped between asking whether it leads and writing, for
//! longer than its lease lasts, and then write without knowing that another leads. This makes such a write fail, or harmless.
//!
//! CA state is a few records (Secrets), each with a `resourceVersion` and an annotation with the [`Term`] of its last write:
//! the **issuers** (the CAs' keys), and one record per cluster (its certificates, and which of its credentials count).
//!
//! # The protocol
//!
//! 1. A process that begins to lead in a term reads the issuers and **claims** them: a write that changes nothing but the
//!    annotation (where there are none yet, it creates them, empty). [`Claim`] says whether it may, and becomes a [`Fence`] when the write is acknowledged. Then it reads all
//!    the other records afresh; what it knew from an earlier term doesn't count.
//! 2. Every write is compare-and-swap on the version that this process itself read or wrote ([`Known`]), carries its term,
//!    and is asked of the fence immediately before ([`Fence::permit`]).
//! 3. After a conflict, or where nobody knows whether a write happened, the record is read again before anything else is
//!    done with it, and what to write is decided again from what was read.
//! 4. Whoever reads a record, or is told of it by a watch, tells [`Elector::surpass`](super::Elector::surpass) its term. If
//!    that is greater than its own, it thereby leads no more in its own. (Not only when it wants to write: a leader that has
//!    nothing to write must find out, too, that the issuers aren't claimed by it any more.)
//!
//! # What holds
//!
//! **Architecture invariant:** for CA state, whatever processes, clocks and networks do:
//!
//! - **No lost update.** Each record's history is one chain: every write was decided from exactly what it replaced.
//! - **Terms never decrease** along a record's history. So once a term has written a record, no lesser one writes it again.
//! - **The issuers have one writer.** Before a term writes anything anywhere, it has claimed the issuers; from then on no
//!   lesser term writes them. So a CA is never replaced by one who doesn't know of the CA in force.
//! - **A late write of a lesser term** can still succeed on a cluster's record, but only on one that the greater term hasn't
//!   written yet, and the greater term meets a conflict, and reads what was written, before it writes there itself.
//!
//! Of the last, what can come is a certificate that was signed by a CA no longer in force. It carries that CA's certificate,
//! and both are below the same root, so it is as good as any. (Whoever makes a CA end before its time must change this.)
//!
//! Two rules keep this true. **A record is never deleted**, only emptied: a late write that expects there to be none would
//! bring back what was forgotten. (After somebody else deleted one, its history begins anew.) And what must be right together
//! is in one record, since nothing is atomic over two.
//!
//! The leader's own clock matters to none of this. That [`Fence::permit`] also asks whether this process still leads spares
//! the API server writes that would come to nothing, and people the sight of two processes at work.

use super::{Outcome, Term, Version};

/// What one process knows of one record.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Known {
    /// Nothing, or nothing that still counts: it must be read.
    #[default]
    Unread,
    /// There is none.
    Absent,
    /// It is there.
    Is {
        /// Its version.
        version: Version,
        /// In which term it was written; `None`: in none, which is less than any.
        term: Option<Term>,
    },
}

impl Known {
    /// The record was read; `None`: there is none.
    pub fn read(record: Option<(Version, Option<Term>)>) -> Self {
        record.map_or(Self::Absent, |(version, term)| Self::Is { version, term })
    }

    /// What is known after a write in this term.
    pub fn written(outcome: Outcome, term: &Term) -> Self {
        match outcome {
            Outcome::Done(version) => Self::Is { version, term: Some(term.clone()) },
            Outcome::Conflict | Outcome::Unknown => Self::Unread,
        }
    }

    fn permit(&self, term: &Term, leads: Option<&Term>) -> Result<Permit, Refusal> {
        let expected = match self {
            Self::Unread => return Err(Refusal::Unread),
            Self::Is { term: Some(by), .. } if by > term => {
                return Err(Refusal::Overtaken { by: by.clone(), term: term.clone() });
            }
            Self::Is { version, .. } => Some(version.clone()),
            Self::Absent => None,
        };
        if leads != Some(term) {
            return Err(Refusal::NotLeading { term: term.clone() });
        }
        Ok(Permit { expected, term: term.clone() })
    }
}

/// Leave for one write, to be made at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Permit {
    /// The version that the write replaces; `None`: there must be none yet.
    pub expected: Option<Version>,
    /// What its annotation says.
    pub term: Term,
}

/// Why a write may not be made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Read the record first.
    #[error("the record must be read again before it is written")]
    Unread,
    /// The elector wasn't told of this record: let it [`surpass`](super::Elector::surpass) that term, and drop this fence.
    #[error("the record was written in term {by}, which is later than this process's {term}")]
    Overtaken {
        /// The greater one.
        by: Term,
        /// This process's own.
        term: Term,
    },
    /// Drop this fence. If the elector leads in another term, that needs its own claim.
    #[error("this process no longer leads in term {term}")]
    NotLeading {
        /// The one that is over.
        term: Term,
    },
}

/// A term that has yet to claim the issuers, and may write nothing else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim(Term);

impl Claim {
    /// In the term in which the elector leads.
    pub fn new(term: Term) -> Self {
        Self(term)
    }

    /// In which term.
    pub fn term(&self) -> &Term {
        &self.0
    }

    /// Whether the issuers may be claimed. `leads`: what the elector says now.
    ///
    /// # Errors
    /// They may not.
    pub fn permit(&self, issuers: &Known, leads: Option<&Term>) -> Result<Permit, Refusal> {
        issuers.permit(&self.0, leads)
    }

    /// What became of the claim's write.
    ///
    /// # Errors
    /// It didn't happen, or nobody knows: read the issuers, and try again.
    pub fn written(self, outcome: &Outcome) -> Result<Fence, Self> {
        match outcome {
            Outcome::Done(_) => Ok(Fence(self.0)),
            Outcome::Conflict | Outcome::Unknown => Err(self),
        }
    }
}

/// A term that has claimed the issuers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fence(Term);

impl Fence {
    /// In which term.
    pub fn term(&self) -> &Term {
        &self.0
    }

    /// Whether a record may be written. `leads`: what the elector says now.
    ///
    /// # Errors
    /// It may not.
    pub fn permit(&self, record: &Known, leads: Option<&Term>) -> Result<Permit, Refusal> {
        record.permit(&self.0, leads)
    }
}

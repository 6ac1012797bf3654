//! The API server: one Lease, and the records of CA state with all their history. Every request is
//! one atomic step.

use crate::kubernetes::lease::{LeaderElectionRecord, ResourceVersion, Term, WriteResult};

/// Records of CA state: the issuers, and three clusters.
pub const RECORDS: usize = 4;
/// The place of the issuers among them.
pub const ISSUERS: usize = 0;

/// A request, as the server sees it.
#[derive(Clone, Debug)]
pub enum Request {
    ReadLease,
    WriteLease { record: LeaderElectionRecord, expected: Option<ResourceVersion> },
    ReadState { place: usize },
    WriteState { place: usize, expected: Option<ResourceVersion>, state: State },
}

#[derive(Clone, Debug)]
pub enum Answer {
    Lease(Option<(ResourceVersion, LeaderElectionRecord)>),
    State(Option<(ResourceVersion, State)>),
    Written(WriteResult),
}

/// A record of CA state.
#[derive(Clone, Debug)]
pub struct State {
    pub term: Term,
    /// Of the issuers: the CA in force. Of a cluster: who signed its certificate.
    pub issuer: u64,
    /// What the writer had read when it decided this; for the check, not for the server.
    pub decided_from: Option<ResourceVersion>,
}

/// One successful write of CA state.
#[derive(Clone, Debug)]
pub struct Entry {
    pub place: usize,
    pub version: ResourceVersion,
    pub state: State,
}

/// Which comparison is left out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Blind {
    #[default]
    Nothing,
    Lease,
    State,
}

#[derive(Debug)]
pub struct Server {
    blind: Blind,
    versions: u64,
    lease: Option<(ResourceVersion, LeaderElectionRecord)>,
    /// All writes of CA state, in their order.
    pub history: Vec<Entry>,
}

impl Server {
    pub fn new(blind: Blind) -> Self {
        Self { blind, versions: 0, lease: None, history: vec![] }
    }

    pub fn serve(&mut self, request: Request) -> Answer {
        match request {
            Request::ReadLease => Answer::Lease(self.lease.clone()),
            Request::ReadState { place } => Answer::State(
                self.state(place).map(|entry| (entry.version.clone(), entry.state.clone())),
            ),
            Request::WriteLease { record, expected } => {
                let current = self.lease.as_ref().map(|(version, _)| version);
                if self.blind != Blind::Lease && current != expected.as_ref() {
                    return Answer::Written(WriteResult::Conflict);
                }
                let version = self.version();
                self.lease = Some((version.clone(), record));
                Answer::Written(WriteResult::Done(version))
            }
            Request::WriteState { place, expected, state } => {
                let current = self.state(place).map(|entry| &entry.version);
                if self.blind != Blind::State && current != expected.as_ref() {
                    return Answer::Written(WriteResult::Conflict);
                }
                let version = self.version();
                self.history.push(Entry { place, version: version.clone(), state });
                Answer::Written(WriteResult::Done(version))
            }
        }
    }

    /// Somebody deletes the Lease by hand.
    pub fn delete_lease(&mut self) {
        self.lease = None;
    }

    /// Somebody labels the Lease by hand: a new version that says the same.
    pub fn touch_lease(&mut self) {
        let version = self.version();
        if let Some((old, _)) = &mut self.lease {
            *old = version;
        }
    }

    pub fn state(&self, place: usize) -> Option<&Entry> {
        self.history.iter().rev().find(|entry| entry.place == place)
    }

    fn version(&mut self) -> ResourceVersion {
        self.versions += 1;
        ResourceVersion(self.versions.to_string())
    }
}

/// The invariant of [`crate::kubernetes::lease::fence`], on all that the server has seen.
pub fn check(history: &[Entry]) -> Result<(), String> {
    let mut last: [Option<&Entry>; RECORDS] = [None; RECORDS];
    // The greatest term that has written anything.
    let mut greatest: Option<&Term> = None;
    for entry in history {
        let before = last[entry.place].replace(entry);
        let term = &entry.state.term;
        if entry.state.decided_from.as_ref() != before.map(|before| &before.version) {
            return Err(format!("lost update: {entry:?} was decided without {before:?}"));
        }
        if let Some(before) = before.filter(|before| before.state.term > *term) {
            return Err(format!("terms decrease: {entry:?} after {before:?}"));
        }
        if entry.place == ISSUERS && greatest.is_some_and(|greatest| greatest > term) {
            return Err(format!(
                "two writers: {entry:?} writes the issuers after {greatest:?} has written"
            ));
        }
        greatest = greatest.max(Some(term));
    }
    Ok(())
}

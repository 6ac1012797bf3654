//! One process: a candidate, and the writer of CA state that it runs while it leads. It drives the
//! real [`Elector`] and the real [`fence`](crate::kubernetes::lease::fence) as the edge does; the
//! [world](super::world) gives it time and carries its requests.

use std::time::Duration;

use super::Break;
use super::server::{Answer, ISSUERS, RECORDS, Request, State};
use super::world::Random;
use crate::kubernetes::lease::fence::{Claim, Fence, KnownVersion, WriteDenied, WritePermit};
use crate::kubernetes::lease::{
    Attempt, ElectionAction, Elector, LeaderElectionRecord, LeaseTiming, ResourceVersion, Term,
    WriteResult,
};

/// What a request was for.
#[derive(Clone, Debug)]
pub enum Purpose {
    Elect(Attempt),
    Read(usize),
    Write(usize, State),
}

#[derive(Debug)]
pub struct Process {
    broken: Break,
    timing: LeaseTiming,
    pub elector: Elector,
    /// For [`Break::CountsFromTheEnd`]: what the last good write was acknowledged at.
    acknowledged: Option<(Term, Duration)>,
    stage: Stage,
    known: [KnownVersion; RECORDS],
    issuers: [u64; RECORDS],
    /// The writer does one thing at a time.
    busy: bool,
}

#[derive(Clone, Debug)]
enum Stage {
    Idle,
    Claiming(Claim),
    Leading(Fence),
}

impl Process {
    pub fn new(name: String, timing: LeaseTiming, broken: Break) -> Self {
        Self {
            broken,
            timing,
            elector: Elector::new(name, timing),
            acknowledged: None,
            stage: Stage::Idle,
            known: Default::default(),
            issuers: [0; RECORDS],
            busy: false,
        }
    }

    /// In which term this process thinks that it leads.
    pub fn leads(&self, now: Duration) -> Option<Term> {
        if self.broken == Break::CountsFromTheEnd {
            let (term, at) = self.acknowledged.as_ref()?;
            return (now < *at + self.timing.renew()).then(|| term.clone());
        }
        self.elector.leads(now).cloned()
    }

    /// What the elector wants sent; or when to ask again; `None`: it has stopped.
    pub fn elect(&mut self, now: Duration) -> Option<Result<(Purpose, Request), Duration>> {
        match self.elector.next_action(now) {
            ElectionAction::Read { attempt } => {
                Some(Ok((Purpose::Elect(attempt), Request::ReadLease)))
            }
            ElectionAction::Write { attempt, record, expected, .. } => {
                Some(Ok((Purpose::Elect(attempt), Request::WriteLease { record, expected })))
            }
            ElectionAction::Wait { until } => Some(Err(until)),
            ElectionAction::Stop => None,
        }
    }

    /// An answer; `None`: there was none in time.
    pub fn answered(
        &mut self,
        now: Duration,
        purpose: Purpose,
        request: &Request,
        answer: Option<Answer>,
    ) {
        match (purpose, answer) {
            (Purpose::Elect(attempt), Some(Answer::Lease(lease))) => {
                self.elector.on_read(now, attempt, lease)
            }
            (Purpose::Elect(attempt), answer) => match (request, answer) {
                (Request::WriteLease { record, .. }, Some(Answer::Written(outcome))) => {
                    self.lease_written(now, attempt, record, outcome)
                }
                (Request::WriteLease { record, expected: Some(version) }, _)
                    if self.broken == Break::TakesUnknownForDone =>
                {
                    self.lease_written(now, attempt, record, WriteResult::Done(version.clone()));
                }
                (Request::WriteLease { record, .. }, _) => {
                    self.lease_written(now, attempt, record, WriteResult::Unknown)
                }
                _ => self.elector.on_read_failed(now, attempt),
            },
            (Purpose::Read(place), answer) => {
                self.busy = false;
                let Some(Answer::State(state)) = answer else { return };
                self.issuers[place] = state.as_ref().map_or(0, |(_, state)| state.issuer);
                self.known[place] =
                    KnownVersion::read(state.map(|(version, state)| (version, Some(state.term))));
                let KnownVersion::Present { term, .. } = &mut self.known[place] else { return };
                if self.broken == Break::IgnoresGreaterTerms {
                    *term = None;
                }
                if let Some(term) = term {
                    self.elector.observe_term(term);
                }
            }
            (Purpose::Write(place, state), answer) => {
                self.busy = false;
                let outcome = if let Some(Answer::Written(outcome)) = answer {
                    outcome
                } else {
                    WriteResult::Unknown
                };
                self.state_written(place, &state, outcome);
            }
        }
    }

    fn lease_written(
        &mut self,
        now: Duration,
        attempt: Attempt,
        record: &LeaderElectionRecord,
        outcome: WriteResult,
    ) {
        let done = matches!(outcome, WriteResult::Done(_));
        self.elector.on_write(now, attempt, outcome);
        if done && self.elector.holder() == Some(&record.holder) {
            let term = Term { epoch: record.transitions, holder: record.holder.clone() };
            self.acknowledged = Some((term, now));
        }
    }

    pub fn release(&mut self) {
        self.acknowledged = None;
        self.elector.release();
    }

    fn state_written(&mut self, place: usize, state: &State, outcome: WriteResult) {
        if let Stage::Claiming(claim) = &self.stage
            && *claim.term() == state.term
            && let Ok(fence) = claim.clone().written(&outcome)
        {
            // What was known before the claim doesn't count.
            self.known = Default::default();
            self.stage = Stage::Leading(fence);
        }
        if matches!(outcome, WriteResult::Done(_)) {
            self.issuers[place] = state.issuer;
        }
        self.known[place] = KnownVersion::written(outcome, &state.term);
    }

    /// What the writer of CA state wants sent.
    pub fn work(
        &mut self,
        now: Duration,
        random: &mut Random,
        calm: bool,
    ) -> Option<(Purpose, Request)> {
        if self.busy {
            return None;
        }
        let leads = self.leads(now);
        let term = match &self.stage {
            Stage::Idle => None,
            Stage::Claiming(claim) => Some(claim.term()),
            Stage::Leading(fence) => Some(fence.term()),
        };
        if term != leads.as_ref() {
            self.known = Default::default();
            self.stage = leads.map_or(Stage::Idle, |term| Stage::Claiming(Claim::new(term)));
            if self.broken == Break::NeverClaims
                && let Stage::Claiming(claim) = &self.stage
            {
                let fence =
                    claim.clone().written(&WriteResult::Done(ResourceVersion(String::new())));
                self.stage = Stage::Leading(fence.unwrap());
            }
        }
        let request = match &self.stage {
            Stage::Idle => return None,
            Stage::Claiming(_) => self.write(now, ISSUERS, self.issuers[ISSUERS]),
            Stage::Leading(_) => self.round(now, random, calm),
        };
        self.busy = request.is_some();
        request
    }

    fn round(
        &mut self,
        now: Duration,
        random: &mut Random,
        calm: bool,
    ) -> Option<(Purpose, Request)> {
        if let Some(place) = self.known.iter().position(|known| *known == KnownVersion::Unread) {
            return Some(read(place));
        }
        if self.issuers[ISSUERS] == 0 {
            return self.write(now, ISSUERS, 1 + random.below(u64::MAX - 1));
        }
        // Certificates by an issuer that isn't in force are due.
        if let Some(place) =
            (1..RECORDS).find(|place| self.issuers[*place] != self.issuers[ISSUERS])
        {
            return self.write(now, place, self.issuers[ISSUERS]);
        }
        match random.below(10).max(if calm { 4 } else { 0 }) {
            0 => self.write(now, ISSUERS, 1 + random.below(u64::MAX - 1)),
            1..4 => self.write(
                now,
                1 + random.below(RECORDS as u64 - 1) as usize,
                self.issuers[ISSUERS],
            ),
            // Instead of a watch.
            4..8 => Some(read(random.below(RECORDS as u64) as usize)),
            _ => None,
        }
    }

    fn write(&mut self, now: Duration, place: usize, issuer: u64) -> Option<(Purpose, Request)> {
        let leads = self.leads(now);
        let permit = match &self.stage {
            Stage::Idle => return None,
            Stage::Claiming(claim) => claim.permit_write(&self.known[place], leads.as_ref()),
            Stage::Leading(fence) => fence.permit_write(&self.known[place], leads.as_ref()),
        };
        match permit {
            Ok(WritePermit { expected, term }) => {
                let state = State { term, issuer, decided_from: expected.clone() };
                Some((
                    Purpose::Write(place, state.clone()),
                    Request::WriteState { place, expected, state },
                ))
            }
            Err(WriteDenied::Unread) => Some(read(place)),
            Err(WriteDenied::Overtaken { by, .. }) => {
                self.elector.observe_term(&by);
                None
            }
            Err(WriteDenied::NotLeading { .. }) => None,
        }
    }
}

fn read(place: usize) -> (Purpose, Request) {
    (Purpose::Read(place), Request::ReadState { place })
}

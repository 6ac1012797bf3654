//! Single rules of one candidate, of terms, and of a fence, spelt out.

use super::*;
use crate::kubernetes::lease::fence::{Claim, Known, Refusal};

fn s(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn version(number: u32) -> Version {
    Version(number.to_string())
}

fn held_by(holder: &str, transitions: u32) -> Record {
    Record { holder: holder.to_owned(), duration: Some(s(15)), transitions: Epoch(transitions) }
}

fn term(epoch: u32, holder: &str) -> Term {
    Term { epoch: Epoch(epoch), holder: holder.to_owned() }
}

/// The attempt of an action that must be a read.
#[track_caller]
fn read(action: Action) -> Attempt {
    let Action::Read { attempt } = action else { panic!("{action:?} is no read") };
    attempt
}

/// Attempt, record and expected version of an action that must be a write.
#[track_caller]
fn write(action: Action) -> (Attempt, Record, Option<Version>) {
    let Action::Write { attempt, record, expected, .. } = action else {
        panic!("{action:?} is no write")
    };
    (attempt, record, expected)
}

/// A candidate that has read this at second 0.
fn candidate(lease: Option<(Version, Record)>) -> Elector {
    let mut elector = Elector::new("me", Timing::default());
    let attempt = read(elector.next(s(0)));
    elector.observed(s(0), attempt, lease);
    elector
}

/// A candidate that has led since second 0, with version 1 and epoch 1.
fn leader() -> Elector {
    let mut elector = candidate(None);
    let (attempt, record, expected) = write(elector.next(s(0)));
    assert_eq!((record, expected), (held_by("me", 1), None));
    elector.wrote(s(1), attempt, Outcome::Done(version(1)));
    elector
}

#[test]
fn a_leader_counts_from_the_start_of_its_write() {
    let elector = leader();
    assert_eq!(elector.leads(s(1)), Some(&term(1, "me")));
    assert_eq!(elector.leads_until(s(1)), Some(s(10)));
    assert_eq!(elector.leads(s(10)), None);
    assert_eq!(elector.leads_until(s(10)), None);
}

#[test]
fn a_late_answer_counts_for_nothing() {
    let mut elector = leader();
    let (late, ..) = write(elector.next(s(3)));
    elector.wrote(s(7), late, Outcome::Unknown);
    let attempt = read(elector.next(s(7)));
    elector.wrote(s(8), late, Outcome::Done(version(2)));
    assert_eq!(elector.leads_until(s(8)), Some(s(10)));
    // The read shows what became of it. That alone doesn't count, the next write does.
    elector.observed(s(8), attempt, Some((version(2), held_by("me", 1))));
    assert_eq!(elector.leads_until(s(8)), Some(s(10)));
    let (attempt, record, expected) = write(elector.next(s(8)));
    assert_eq!((record, expected), (held_by("me", 1), Some(version(2))));
    elector.wrote(s(9), attempt, Outcome::Done(version(3)));
    assert_eq!(elector.leads_until(s(9)), Some(s(18)));
}

#[test]
fn what_was_under_way_is_given_up_when_the_edge_asks_again() {
    let mut elector = leader();
    let (attempt, ..) = write(elector.next(s(3)));
    read(elector.next(s(6)));
    elector.wrote(s(6), attempt, Outcome::Done(version(2)));
    assert_eq!(elector.leads_until(s(6)), Some(s(10)));
}

#[test]
fn another_s_lease_is_taken_when_it_was_seen_unchanged_for_its_duration() {
    let mut elector = candidate(Some((version(1), held_by("other", 4))));
    assert_eq!(elector.holder(), Some("other"));
    for second in [3, 6, 9] {
        let attempt = read(elector.next(s(second)));
        // Renewed once.
        let number = if second < 6 { 1 } else { 2 };
        elector.observed(s(second), attempt, Some((version(number), held_by("other", 4))));
    }
    assert!(matches!(elector.next(s(10)), Action::Wait { until } if until < s(12)));
    let attempt = read(elector.next(s(20)));
    elector.unread(s(20), attempt);
    let (_, record, expected) = write(elector.next(s(21)));
    assert_eq!((record, expected), (held_by("me", 5), Some(version(2))));
}

#[test]
fn a_released_lease_is_taken_at_once() {
    let mut elector = candidate(Some((version(1), held_by("", 4))));
    let (_, record, _) = write(elector.next(s(0)));
    assert_eq!(record, held_by("me", 5));
}

#[test]
fn an_earlier_process_of_the_same_pod_is_another() {
    let mut elector = Elector::new("atlas-0_2", Timing::default());
    let attempt = read(elector.next(s(0)));
    elector.observed(s(0), attempt, Some((version(1), held_by("atlas-0_1", 4))));
    assert!(matches!(elector.next(s(0)), Action::Wait { .. }));
}

#[test]
fn a_deleted_lease_is_waited_for_by_who_saw_its_holder() {
    let mut elector = candidate(Some((version(1), held_by("other", 4))));
    let attempt = read(elector.next(s(3)));
    elector.observed(s(3), attempt, None);
    assert!(matches!(elector.next(s(3)), Action::Wait { .. }));
    let (_, record, expected) = write(elector.next(s(15)));
    assert_eq!((record, expected), (held_by("me", 5), None));
}

#[test]
fn a_label_on_the_lease_costs_nobody_the_leadership() {
    let mut elector = leader();
    let (attempt, ..) = write(elector.next(s(3)));
    elector.wrote(s(3), attempt, Outcome::Conflict);
    let attempt = read(elector.next(s(3)));
    elector.observed(s(3), attempt, Some((version(2), held_by("me", 1))));
    assert_eq!(elector.leads(s(4)), Some(&term(1, "me")));
    let (_, record, expected) = write(elector.next(s(5)));
    assert_eq!((record, expected), (held_by("me", 1), Some(version(2))));
}

#[test]
fn an_api_server_that_refuses_is_asked_once_in_a_retry_period() {
    let mut elector = candidate(None);
    let (mut now, mut asked) = (s(0), 0);
    while now < s(20) {
        match elector.next(now) {
            Action::Read { attempt } => elector.observed(now, attempt, None),
            Action::Write { attempt, .. } => {
                asked += 1;
                elector.wrote(
                    now,
                    attempt,
                    if asked % 2 == 0 { Outcome::Unknown } else { Outcome::Conflict },
                );
            }
            Action::Wait { until } => {
                assert!(until > now);
                now = until;
            }
            Action::Stop => panic!("nobody asked it to"),
        }
    }
    assert_eq!(asked, 10);
}

#[test]
fn a_greater_term_is_surpassed_by_who_holds_the_lease() {
    let mut elector = leader();
    elector.surpass(&term(1, "a lesser name"));
    assert_eq!(elector.leads(s(2)), Some(&term(1, "me")));
    elector.surpass(&term(7, "other"));
    assert_eq!(elector.leads(s(2)), None);
    let (attempt, record, expected) = write(elector.next(s(3)));
    assert_eq!((record, expected), (held_by("me", 8), Some(version(1))));
    elector.wrote(s(3), attempt, Outcome::Done(version(2)));
    assert_eq!(elector.leads(s(3)), Some(&term(8, "me")));
}

#[test]
fn the_lease_is_given_back_also_while_a_renewal_is_under_way() {
    let mut elector = leader();
    let (attempt, ..) = write(elector.next(s(3)));
    elector.release();
    assert_eq!(elector.leads(s(3)), None);
    elector.wrote(s(3), attempt, Outcome::Done(version(2)));
    assert_eq!(elector.leads(s(3)), None);
    let (attempt, record, expected) = write(elector.next(s(3)));
    assert_eq!(
        (record.holder.as_str(), record.duration, expected),
        ("", Some(s(1)), Some(version(2)))
    );
    elector.wrote(s(4), attempt, Outcome::Unknown);
    let attempt = read(elector.next(s(4)));
    elector.observed(s(4), attempt, Some((version(3), held_by("", 1))));
    assert_eq!(elector.next(s(4)), Action::Stop);
}

#[test]
fn who_doesn_t_hold_the_lease_has_nothing_to_give_back() {
    let mut elector = Elector::new("me", Timing::default());
    elector.release();
    assert_eq!(elector.next(s(0)), Action::Stop);
    let mut elector = candidate(Some((version(1), held_by("other", 4))));
    elector.release();
    assert_eq!(elector.next(s(0)), Action::Stop);
}

#[test]
fn no_epoch_is_used_twice_when_there_are_none_left() {
    let mut elector = candidate(Some((version(1), held_by("", Epoch::MAX.0))));
    assert!(elector.exhausted());
    assert!(matches!(elector.next(s(0)), Action::Wait { .. }));
}

#[test]
fn a_timing_is_checked() {
    let timing = |lease, renew, retry| {
        Timing::new(
            Duration::from_millis(lease),
            Duration::from_millis(renew),
            Duration::from_millis(retry),
        )
    };
    assert_eq!(timing(15_000, 10_000, 2_000), Ok(Timing::default()));
    assert_eq!(Timing::default().patience(), s(4));
    for (wrong, error) in [
        (
            timing(0, 10_000, 2_000),
            "lease duration 0ns: must be whole seconds, at least 1 and at most 2147483647",
        ),
        (
            timing(15_500, 10_000, 2_000),
            "lease duration 15.5s: must be whole seconds, at least 1 and at most 2147483647",
        ),
        (
            timing(15_000, 15_000, 2_000),
            "renew deadline 15s: must be shorter than the lease duration 15s, best by a third; else two processes may lead at once",
        ),
        (
            timing(15_000, 10_000, 6_000),
            "retry period 6s: must be at least 1ms and at most half the renew deadline 10s, so that a lost request can be repeated",
        ),
    ] {
        assert_eq!(wrong.unwrap_err().to_string(), error);
    }
}

#[test]
fn terms_are_ordered_and_written_as_text() {
    assert!(term(2, "a") > term(1, "b") && term(1, "b") > term(1, "a"));
    assert_eq!("7 atlas-0_5d1f".parse(), Ok(term(7, "atlas-0_5d1f")));
    assert_eq!(term(7, "atlas-0_5d1f").to_string(), "7 atlas-0_5d1f");
    for wrong in ["", "7", "7 ", "x y", "-1 y", "2147483648 y", "99999999999 y"] {
        assert!(wrong.parse::<Term>().is_err(), "{wrong:?}");
    }
}

#[test]
fn a_fence_says_why_not() {
    let me = term(2, "me");
    let claim = Claim::new(me.clone());
    assert_eq!(claim.permit(&Known::Unread, Some(&me)), Err(Refusal::Unread));
    assert_eq!(claim.permit(&Known::Absent, None), Err(Refusal::NotLeading { term: me.clone() }));
    let claim = claim.written(&Outcome::Unknown).expect_err("nobody knows whether it was made");
    let fence = claim.written(&Outcome::Done(version(1))).expect("it was made");
    let known = Known::written(Outcome::Done(version(1)), &me);
    assert_eq!(fence.permit(&known, Some(&me)).unwrap().expected, Some(version(1)));
    assert_eq!(
        fence.permit(&Known::written(Outcome::Conflict, &me), Some(&me)),
        Err(Refusal::Unread)
    );
    let other = term(3, "other");
    assert_eq!(fence.permit(&known, Some(&other)), Err(Refusal::NotLeading { term: me.clone() }));
    let theirs = Known::read(Some((version(9), Some(other.clone()))));
    assert_eq!(fence.permit(&theirs, Some(&me)), Err(Refusal::Overtaken { by: other, term: me }));
}

//! Single rules of one candidate, of terms, and of a fence, spelt out.

use super::*;
use crate::kubernetes::lease::fence::{Claim, KnownVersion, WriteDenied};

fn s(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn version(number: u32) -> ResourceVersion {
    ResourceVersion(number.to_string())
}

fn held_by(holder: &str, transitions: u32) -> LeaderElectionRecord {
    LeaderElectionRecord {
        holder: holder.to_owned(),
        duration: Some(s(15)),
        transitions: Epoch(transitions),
    }
}

fn term(epoch: u32, holder: &str) -> Term {
    Term { epoch: Epoch(epoch), holder: holder.to_owned() }
}

/// The attempt of an action that must be a read.
#[track_caller]
fn read(action: ElectionAction) -> Attempt {
    let ElectionAction::Read { attempt } = action else { panic!("{action:?} is no read") };
    attempt
}

/// Attempt, record and expected version of an action that must be a write.
#[track_caller]
fn write(action: ElectionAction) -> (Attempt, LeaderElectionRecord, Option<ResourceVersion>) {
    let ElectionAction::Write { attempt, record, expected, .. } = action else {
        panic!("{action:?} is no write")
    };
    (attempt, record, expected)
}

/// A candidate that has read this at second 0.
fn candidate(lease: Option<(ResourceVersion, LeaderElectionRecord)>) -> Elector {
    let mut elector = Elector::new("me", LeaseTiming::default());
    let attempt = read(elector.next_action(s(0)));
    elector.on_read(s(0), attempt, lease);
    elector
}

/// A candidate that has led since second 0, with version 1 and epoch 1.
fn leader() -> Elector {
    let mut elector = candidate(None);
    let (attempt, record, expected) = write(elector.next_action(s(0)));
    assert_eq!((record, expected), (held_by("me", 1), None));
    elector.on_write(s(1), attempt, WriteResult::Done(version(1)));
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
    let (late, ..) = write(elector.next_action(s(3)));
    elector.on_write(s(7), late, WriteResult::Unknown);
    let attempt = read(elector.next_action(s(7)));
    elector.on_write(s(8), late, WriteResult::Done(version(2)));
    assert_eq!(elector.leads_until(s(8)), Some(s(10)));
    // The read shows what became of it. That alone doesn't count, the next write does.
    elector.on_read(s(8), attempt, Some((version(2), held_by("me", 1))));
    assert_eq!(elector.leads_until(s(8)), Some(s(10)));
    let (attempt, record, expected) = write(elector.next_action(s(8)));
    assert_eq!((record, expected), (held_by("me", 1), Some(version(2))));
    elector.on_write(s(9), attempt, WriteResult::Done(version(3)));
    assert_eq!(elector.leads_until(s(9)), Some(s(18)));
}

#[test]
fn what_was_under_way_is_given_up_when_the_edge_asks_again() {
    let mut elector = leader();
    let (attempt, ..) = write(elector.next_action(s(3)));
    read(elector.next_action(s(6)));
    elector.on_write(s(6), attempt, WriteResult::Done(version(2)));
    assert_eq!(elector.leads_until(s(6)), Some(s(10)));
}

#[test]
fn another_s_lease_is_taken_when_it_was_seen_unchanged_for_its_duration() {
    let mut elector = candidate(Some((version(1), held_by("other", 4))));
    assert_eq!(elector.holder(), Some("other"));
    for second in [3, 6, 9] {
        let attempt = read(elector.next_action(s(second)));
        // Renewed once.
        let number = if second < 6 { 1 } else { 2 };
        elector.on_read(s(second), attempt, Some((version(number), held_by("other", 4))));
    }
    assert!(matches!(elector.next_action(s(10)), ElectionAction::Wait { until } if until < s(12)));
    let attempt = read(elector.next_action(s(20)));
    elector.on_read_failed(s(20), attempt);
    let (_, record, expected) = write(elector.next_action(s(21)));
    assert_eq!((record, expected), (held_by("me", 5), Some(version(2))));
}

#[test]
fn a_released_lease_is_taken_at_once() {
    let mut elector = candidate(Some((version(1), held_by("", 4))));
    let (_, record, _) = write(elector.next_action(s(0)));
    assert_eq!(record, held_by("me", 5));
}

#[test]
fn an_earlier_process_of_the_same_pod_is_another() {
    let mut elector = Elector::new("atlas-0_2", LeaseTiming::default());
    let attempt = read(elector.next_action(s(0)));
    elector.on_read(s(0), attempt, Some((version(1), held_by("atlas-0_1", 4))));
    assert!(matches!(elector.next_action(s(0)), ElectionAction::Wait { .. }));
}

#[test]
fn a_deleted_lease_is_waited_for_by_who_saw_its_holder() {
    let mut elector = candidate(Some((version(1), held_by("other", 4))));
    let attempt = read(elector.next_action(s(3)));
    elector.on_read(s(3), attempt, None);
    assert!(matches!(elector.next_action(s(3)), ElectionAction::Wait { .. }));
    let (_, record, expected) = write(elector.next_action(s(15)));
    assert_eq!((record, expected), (held_by("me", 5), None));
}

#[test]
fn a_label_on_the_lease_costs_nobody_the_leadership() {
    let mut elector = leader();
    let (attempt, ..) = write(elector.next_action(s(3)));
    elector.on_write(s(3), attempt, WriteResult::Conflict);
    let attempt = read(elector.next_action(s(3)));
    elector.on_read(s(3), attempt, Some((version(2), held_by("me", 1))));
    assert_eq!(elector.leads(s(4)), Some(&term(1, "me")));
    let (_, record, expected) = write(elector.next_action(s(5)));
    assert_eq!((record, expected), (held_by("me", 1), Some(version(2))));
}

#[test]
fn an_api_server_that_refuses_is_asked_once_in_a_retry_period() {
    let mut elector = candidate(None);
    let (mut now, mut asked) = (s(0), 0);
    while now < s(20) {
        match elector.next_action(now) {
            ElectionAction::Read { attempt } => elector.on_read(now, attempt, None),
            ElectionAction::Write { attempt, .. } => {
                asked += 1;
                elector.on_write(
                    now,
                    attempt,
                    if asked % 2 == 0 { WriteResult::Unknown } else { WriteResult::Conflict },
                );
            }
            ElectionAction::Wait { until } => {
                assert!(until > now);
                now = until;
            }
            ElectionAction::Stop => panic!("nobody asked it to"),
        }
    }
    assert_eq!(asked, 10);
}

#[test]
fn a_greater_term_is_surpassed_by_who_holds_the_lease() {
    let mut elector = leader();
    elector.observe_term(&term(1, "a lesser name"));
    assert_eq!(elector.leads(s(2)), Some(&term(1, "me")));
    elector.observe_term(&term(7, "other"));
    assert_eq!(elector.leads(s(2)), None);
    let (attempt, record, expected) = write(elector.next_action(s(3)));
    assert_eq!((record, expected), (held_by("me", 8), Some(version(1))));
    elector.on_write(s(3), attempt, WriteResult::Done(version(2)));
    assert_eq!(elector.leads(s(3)), Some(&term(8, "me")));
}

#[test]
fn the_lease_is_given_back_also_while_a_renewal_is_under_way() {
    let mut elector = leader();
    let (attempt, ..) = write(elector.next_action(s(3)));
    elector.release();
    assert_eq!(elector.leads(s(3)), None);
    elector.on_write(s(3), attempt, WriteResult::Done(version(2)));
    assert_eq!(elector.leads(s(3)), None);
    let (attempt, record, expected) = write(elector.next_action(s(3)));
    assert_eq!(
        (record.holder.as_str(), record.duration, expected),
        ("", Some(s(1)), Some(version(2)))
    );
    elector.on_write(s(4), attempt, WriteResult::Unknown);
    let attempt = read(elector.next_action(s(4)));
    elector.on_read(s(4), attempt, Some((version(3), held_by("", 1))));
    assert_eq!(elector.next_action(s(4)), ElectionAction::Stop);
}

#[test]
fn who_doesn_t_hold_the_lease_has_nothing_to_give_back() {
    let mut elector = Elector::new("me", LeaseTiming::default());
    elector.release();
    assert_eq!(elector.next_action(s(0)), ElectionAction::Stop);
    let mut elector = candidate(Some((version(1), held_by("other", 4))));
    elector.release();
    assert_eq!(elector.next_action(s(0)), ElectionAction::Stop);
}

#[test]
fn no_epoch_is_used_twice_when_there_are_none_left() {
    let mut elector = candidate(Some((version(1), held_by("", Epoch::MAX.0))));
    assert!(elector.has_no_epoch_left());
    assert!(matches!(elector.next_action(s(0)), ElectionAction::Wait { .. }));
}

#[test]
fn a_timing_is_checked() {
    let timing = |lease, renew, retry| {
        LeaseTiming::new(
            Duration::from_millis(lease),
            Duration::from_millis(renew),
            Duration::from_millis(retry),
        )
    };
    assert_eq!(timing(15_000, 10_000, 2_000), Ok(LeaseTiming::default()));
    assert_eq!(LeaseTiming::default().request_timeout(), s(4));
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
    assert_eq!(claim.permit_write(&KnownVersion::Unread, Some(&me)), Err(WriteDenied::Unread));
    assert_eq!(
        claim.permit_write(&KnownVersion::Absent, None),
        Err(WriteDenied::NotLeading { term: me.clone() })
    );
    let claim = claim.written(&WriteResult::Unknown).expect_err("nobody knows whether it was made");
    let fence = claim.written(&WriteResult::Done(version(1))).expect("it was made");
    let known = KnownVersion::written(WriteResult::Done(version(1)), &me);
    assert_eq!(fence.permit_write(&known, Some(&me)).unwrap().expected, Some(version(1)));
    assert_eq!(
        fence.permit_write(&KnownVersion::written(WriteResult::Conflict, &me), Some(&me)),
        Err(WriteDenied::Unread)
    );
    let other = term(3, "other");
    assert_eq!(
        fence.permit_write(&known, Some(&other)),
        Err(WriteDenied::NotLeading { term: me.clone() })
    );
    let theirs = KnownVersion::read(Some((version(9), Some(other.clone()))));
    assert_eq!(
        fence.permit_write(&theirs, Some(&me)),
        Err(WriteDenied::Overtaken { by: other, term: me })
    );
}

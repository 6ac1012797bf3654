//! The incremental variant.

use super::notation::*;
use crate::xds::limits::SessionLimits;
use crate::xds::messages::Variant;
use crate::xds::resource::ResourceType;
use crate::xds::session::{ConfigStatus, Session};

#[test]
fn a_first_request_without_names_subscribes_to_all_of_cds_and_lds() {
    let mut stream = Stream::new("CDS a=1 b=1, LDS l=1");
    assert_eq!(stream.receives("CDS"), ["1 CDS a=1 b=1"]);
    assert_eq!(stream.receives("LDS"), ["2 LDS l=1"]);
    assert_eq!(stream.receives("CDS ack 1"), [""; 0]);
    assert_eq!(stream.status("CDS"), ConfigStatus::Synced);
    assert_eq!(stream.status("LDS"), ConfigStatus::Stale);
}

#[test]
fn an_empty_snapshot_is_answered() {
    let mut stream = Stream::new("");
    assert_eq!(stream.receives("CDS + *"), ["1 CDS"]);
    assert_eq!(stream.receives("CDS ack 1"), [""; 0]);
}

#[test]
fn a_name_that_does_not_exist_is_answered_at_once() {
    let mut stream = Stream::new("SDS leaf=1");
    assert_eq!(stream.receives("SDS + leaf + other"), ["1 SDS leaf=1 removed other"]);
    stream.receives("SDS ack 1");
    assert_eq!(
        stream.changes_to("SDS leaf=1 other=1"),
        ["2 SDS other=1"],
        "and sent when it comes to exist"
    );
}

#[test]
fn names_may_come_in_several_requests() {
    let mut stream = Stream::new("SDS a=1 b=1");
    assert_eq!(stream.receives("SDS + a"), ["1 SDS a=1"]);
    assert_eq!(stream.receives("SDS + b"), [""; 0], "one response at a time");
    assert_eq!(stream.receives("SDS ack 1"), ["2 SDS b=1"]);
    assert_eq!(stream.receives("SDS ack 2"), [""; 0]);
    assert_eq!(stream.receives("SDS + a"), ["3 SDS a=1"], "asked for again, sent again");
}

#[test]
fn an_equal_snapshot_sends_nothing() {
    let mut stream = Stream::new("CDS a=1");
    stream.receives("CDS");
    stream.receives("CDS ack 1");
    assert_eq!(stream.changes_to("CDS a=1"), [""; 0]);
}

#[test]
fn only_what_changed_is_sent() {
    let mut stream = Stream::new("CDS a=1 b=1");
    stream.receives("CDS");
    stream.receives("CDS ack 1");
    assert_eq!(stream.changes_to("CDS a=1 b=2 c=1"), ["2 CDS b=2 c=1"]);
}

#[test]
fn changes_while_a_response_is_in_flight_are_sent_once() {
    let mut stream = Stream::new("CDS a=1");
    stream.receives("CDS");
    assert_eq!(stream.changes_to("CDS a=2"), [""; 0]);
    assert_eq!(stream.changes_to("CDS a=3"), [""; 0]);
    assert_eq!(stream.receives("CDS ack 1"), ["2 CDS a=3"]);
}

#[test]
fn removals_wait_until_no_response_is_in_flight() {
    let mut stream = Stream::new("CDS old=1, RDS r=1");
    stream.receives("CDS");
    stream.receives("RDS + r");
    stream.receives("CDS ack 1");
    stream.receives("RDS ack 2");
    assert_eq!(stream.changes_to("CDS new=1, RDS r=2"), ["3 CDS new=1", "4 RDS r=2"]);
    assert_eq!(stream.receives("CDS ack 3"), [""; 0], "routes may still point at the old one");
    assert_eq!(stream.receives("RDS ack 4"), ["5 CDS removed old"]);
}

#[test]
fn a_reconnect_sends_only_differences_and_removals() {
    let mut stream = Stream::new("CDS same=1 changed=2 new=1");
    assert_eq!(
        stream.receives("CDS + * has same=1 has changed=1 has zombie=1"),
        ["1 CDS changed=2 new=1"]
    );
    assert_eq!(stream.receives("CDS ack 1"), ["2 CDS removed zombie"]);
}

#[test]
fn unknown_resources_are_kept_until_they_are_to_be_removed() {
    let mut stream = Stream::new("CDS same=1");
    stream.session.keep_unknown_resources();
    assert_eq!(stream.receives("CDS + * has same=1 has unknown=1 has late=1"), ["1 CDS"]);
    assert_eq!(stream.receives("CDS ack 1"), [""; 0]);
    assert_eq!(stream.status("CDS"), ConfigStatus::Synced);
    // Resources that the snapshot has had are removed.
    assert_eq!(stream.changes_to("CDS same=1 late=1"), [""; 0]);
    assert_eq!(stream.changes_to(""), ["2 CDS removed late removed same"]);
    assert_eq!(stream.receives("CDS ack 2"), [""; 0]);
    stream.session.remove_unknown_resources();
    assert_eq!(stream.changes_to(""), ["3 CDS removed unknown"]);
}

#[test]
fn a_reconnect_without_differences_is_answered() {
    let mut stream = Stream::new("CDS a=1, SDS leaf=1");
    assert_eq!(stream.receives("CDS + * has a=1"), ["1 CDS"]);
    assert_eq!(stream.receives("SDS + leaf has leaf=1"), ["2 SDS"]);
}

#[test]
fn a_rejected_version_is_not_sent_again_but_the_next_is() {
    let mut stream = Stream::new("LDS l=1");
    stream.receives("LDS");
    stream.receives("LDS ack 1");
    assert_eq!(stream.changes_to("LDS l=bad"), ["2 LDS l=bad"]);
    assert_eq!(stream.receives("LDS nack 2 no such filter"), [""; 0]);
    assert_eq!(stream.status("LDS"), ConfigStatus::Nack("no such filter".into()));
    assert_eq!(stream.changes_to("LDS l=bad"), [""; 0]);
    assert_eq!(stream.session.nacks(), 1);
    assert_eq!(stream.changes_to("LDS l=3"), ["3 LDS l=3"]);
    stream.receives("LDS ack 3");
    assert_eq!(stream.status("LDS"), ConfigStatus::Synced);
}

#[test]
fn good_resources_of_a_rejected_response_are_removed_later() {
    let mut stream = Stream::new("");
    stream.receives("CDS");
    stream.receives("CDS ack 1");
    assert_eq!(stream.changes_to("CDS good=1 bad=1"), ["2 CDS bad=1 good=1"]);
    assert_eq!(
        stream.receives("CDS nack 2 bad"),
        ["3 CDS good=1"],
        "Envoy would not list it when it reconnects"
    );
    stream.receives("CDS ack 3");
    assert_eq!(stream.changes_to(""), ["4 CDS removed bad removed good"]);
}

#[test]
fn an_answer_with_an_old_nonce_is_ignored() {
    let mut stream = Stream::new("CDS a=1");
    stream.receives("CDS");
    assert_eq!(stream.receives("CDS ack 77"), [""; 0]);
    assert_eq!(stream.changes_to("CDS a=2"), [""; 0], "the first is still in flight");
    assert_eq!(stream.receives("CDS ack 1"), ["2 CDS a=2"]);
}

#[test]
fn unsubscribed_names_are_forgotten() {
    let mut stream = Stream::new("SDS a=1 b=1");
    stream.receives("SDS + a + b");
    stream.receives("SDS ack 1");
    assert_eq!(stream.receives("SDS - a"), [""; 0]);
    assert_eq!(stream.changes_to("SDS a=2 b=1"), [""; 0]);
    assert_eq!(stream.receives("SDS + a"), ["2 SDS a=2"]);
}

#[test]
fn a_changed_secret_is_sent_before_the_envoy_cluster() {
    let mut stream = Stream::new("SDS s=1, CDS a=1");
    stream.receives("CDS");
    stream.receives("SDS + s");
    assert_eq!(stream.receives("CDS ack 1"), [""; 0]);
    assert_eq!(stream.changes_to("SDS s=2, CDS a=2"), [""; 0], "the first secret is in flight");
    assert_eq!(stream.receives("SDS ack 2"), ["3 SDS s=2", "4 CDS a=2"]);
}

#[test]
fn large_updates_are_split_and_listeners_wait_for_all_clusters() {
    let long = "x".repeat(300);
    let mut stream =
        Stream::new(&format!("SDS s=1, CDS a={long} b={long} c={long}, LDS l=1, RDS r=1"));
    stream.session = Session::new(Variant::Delta, None)
        .with_limits(SessionLimits { response_bytes: 600, ..SessionLimits::default() });
    assert_eq!(stream.receives("CDS"), [format!("1 CDS a={long}")]);
    assert_eq!(stream.receives("LDS"), [""; 0], "it waits, even for its first response");
    assert_eq!(
        stream.receives("SDS + s"),
        ["2 SDS s=1"],
        "secrets don't wait: clusters warm up with them"
    );
    assert_eq!(stream.receives("CDS ack 1"), [format!("3 CDS b={long}")]);
    assert_eq!(stream.receives("RDS + r"), [""; 0]);
    assert_eq!(stream.status("LDS"), ConfigStatus::Stale);
    assert_eq!(
        stream.receives("CDS ack 3"),
        [format!("4 CDS c={long}"), "5 LDS l=1".into(), "6 RDS r=1".into()]
    );
    for answer in ["SDS ack 2", "CDS ack 4", "LDS ack 5", "RDS ack 6"] {
        assert_eq!(stream.receives(answer), [""; 0]);
    }
    assert!(stream.statuses().values().all(|standing| *standing == ConfigStatus::Synced));
    // Two that fit are sent together, one that is too large is sent alone.
    let longer = "x".repeat(3000);
    let parts = stream.changes_to(&format!("SDS s=1, CDS a=1 b=1 c={longer}, LDS l=1, RDS r=1"));
    assert_eq!(parts, ["7 CDS a=1 b=1"]);
    assert_eq!(stream.receives("CDS ack 7"), [format!("8 CDS c={longer}")]);
}

#[test]
fn large_removals_are_split() {
    let names: Vec<String> = (0..40).map(|n| format!("a-name-of-some-length-{n:02}=1")).collect();
    let mut stream = Stream::new(&format!("CDS {}", names.join(" ")));
    stream.session = Session::new(Variant::Delta, None)
        .with_limits(SessionLimits { response_bytes: 500, ..SessionLimits::default() });
    let mut answer = stream.receives("CDS");
    while let Some(response) = answer.pop() {
        answer = stream.receives(&format!("CDS ack {}", response.split(' ').next().unwrap()));
    }
    let (mut removed, mut answer) = (0, stream.changes_to(""));
    while let Some(response) = answer.pop() {
        assert!(response.len() < 700, "{response}");
        removed += response.matches("removed").count();
        answer = stream.receives(&format!("CDS ack {}", response.split(' ').next().unwrap()));
    }
    assert_eq!(removed, 40);
}

#[test]
fn a_stream_of_a_single_types_service_has_only_that_type() {
    let mut stream = Stream::new("SDS s=1, CDS a=1");
    stream.session = Session::new(Variant::Delta, Some(ResourceType::Secret));
    let without_type_url =
        crate::xds::messages::Request { type_url: String::new(), ..request("SDS + s") };
    assert_eq!(stream.receives_request(without_type_url), ["1 SDS s=1"]);
    assert_eq!(stream.receives("CDS + a"), ["2 CDS removed a"]);
    assert_eq!(stream.statuses().len(), 1);
}

#[test]
fn a_different_snapshot_is_checked_completely() {
    let mut stream = Stream::new("CDS a=1 b=1");
    stream.receives("CDS");
    stream.receives("CDS ack 1");
    stream.snapshot = resources("CDS a=2 c=1").into_iter().collect();
    assert_eq!(stream.on_change(), ["2 CDS a=2 c=1"]);
    assert_eq!(stream.receives("CDS ack 2"), ["3 CDS removed b"]);
}

//! The state-of-the-world variant.

use super::notation::*;
use crate::xds::messages::Variant;
use crate::xds::session::ConfigStatus;

fn stream(text: &str) -> Stream {
    Stream::of(Variant::StateOfTheWorld, text)
}

#[test]
fn without_names_each_response_has_all_clusters_or_listeners() {
    let mut stream = stream("CDS a=1 b=1, LDS l=1");
    assert_eq!(stream.receives("CDS"), ["1 CDS a=1 b=1"]);
    assert_eq!(stream.receives("LDS *"), ["2 LDS l=1"]);
    assert_eq!(stream.receives("CDS ack 1"), [""; 0]);
    assert_eq!(stream.receives("LDS ack 2 *"), [""; 0]);
    assert_eq!(stream.changes_to("CDS a=1 b=2, LDS l=1"), ["3 CDS a=1 b=2"]);
    assert_eq!(stream.status("CDS"), ConfigStatus::Stale);
    stream.receives("CDS ack 3");
    assert_eq!(stream.changes_to("CDS a=1 b=2, LDS l=1"), [""; 0]);
    assert_eq!(stream.status("CDS"), ConfigStatus::Synced);
}

#[test]
fn an_empty_snapshot_is_answered() {
    let mut stream = stream("");
    assert_eq!(stream.receives("CDS"), ["1 CDS"]);
    assert_eq!(stream.receives("SDS s"), ["2 SDS"], "a secret that doesn't exist");
    stream.receives("CDS ack 1");
    stream.receives("SDS ack 2 s");
    assert_eq!(stream.changes_to("SDS s=1"), ["3 SDS s=1"], "and sent when it comes to exist");
}

#[test]
fn a_response_with_secrets_has_only_what_is_new() {
    let mut stream = stream("SDS a=1 b=1");
    assert_eq!(stream.receives("SDS a"), ["1 SDS a=1"]);
    assert_eq!(stream.receives("SDS ack 1 a"), [""; 0]);
    assert_eq!(
        stream.receives("SDS ack 1 a b"),
        ["2 SDS b=1"],
        "the list may change after the answer"
    );
    assert_eq!(stream.receives("SDS ack 2 a b c"), ["3 SDS"], "c doesn't exist");
    assert_eq!(stream.receives("SDS ack 3 b c"), [""; 0]);
    assert_eq!(stream.changes_to("SDS a=2 b=2"), ["4 SDS b=2"], "a is no longer subscribed to");
    assert_eq!(stream.receives("SDS ack 4 a b c"), ["5 SDS a=2"]);
}

#[test]
fn a_response_has_all_named_clusters() {
    let mut stream = stream("CDS a=1 b=1 c=1");
    assert_eq!(stream.receives("CDS a b"), ["1 CDS a=1 b=1"]);
    stream.receives("CDS ack 1 a b");
    assert_eq!(stream.changes_to("CDS a=2 b=1 c=2"), ["2 CDS a=2 b=1"]);
    assert_eq!(stream.receives("CDS ack 2 a"), [""; 0]);
    assert_eq!(
        stream.receives("CDS ack 2"),
        [""; 0],
        "after a name was subscribed to, no names are no wildcard"
    );
    assert_eq!(stream.changes_to("CDS a=3"), [""; 0]);
    assert_eq!(stream.receives("CDS ack 2 *"), ["3 CDS a=3"]);
}

#[test]
fn a_request_with_an_old_nonce_is_ignored() {
    let mut stream = stream("SDS a=1 b=1");
    stream.receives("SDS a");
    assert_eq!(stream.receives("SDS b"), [""; 0], "it has no nonce and isn't the first");
    assert_eq!(stream.receives("SDS ack 77 b"), [""; 0]);
    assert_eq!(stream.receives("SDS ack 1 a b"), ["2 SDS b=1"]);
    assert_eq!(stream.receives("SDS ack 1 a"), [""; 0]);
    assert_eq!(stream.changes_to("SDS a=2 b=1"), [""; 0], "the second is in flight");
    assert_eq!(stream.receives("SDS ack 2 a b"), ["3 SDS a=2"]);
}

#[test]
fn removals_wait_until_no_response_is_in_flight() {
    let mut stream = stream("CDS old=1, RDS r=1");
    stream.receives("CDS");
    stream.receives("RDS r");
    stream.receives("CDS ack 1");
    stream.receives("RDS ack 2 r");
    assert_eq!(stream.changes_to("CDS new=1, RDS r=2"), ["3 CDS new=1 old=1", "4 RDS r=2"]);
    assert_eq!(stream.receives("CDS ack 3"), [""; 0], "routes may still point at the old one");
    assert_eq!(stream.receives("RDS ack 4 r"), ["5 CDS new=1"]);
}

#[test]
fn after_a_reconnect_everything_is_sent_again() {
    let mut stream = stream("CDS a=1, SDS s=1");
    stream.session.keep_unknown_resources();
    assert_eq!(stream.receives("CDS v 1"), ["1 CDS a=1"]);
    assert_eq!(stream.receives("SDS v 1 s"), ["2 SDS s=1"]);
}

#[test]
fn version_info_is_a_hash_of_the_resources() {
    let version = |text: &str, name: &str| {
        let mut stream = stream(text);
        let mut responses = stream
            .session
            .on_request(request(name), &stream.snapshot, &mut stream.quarantine)
            .unwrap();
        responses.remove(0).version_info
    };
    let one = version("CDS a=1 b=1", "CDS");
    assert_eq!(
        one,
        version("CDS b=1 a=1", "CDS *"),
        "also after a restart, and on another replica"
    );
    for other in [version("CDS a=2 b=1", "CDS"), version("CDS a=1", "CDS"), version("", "CDS")] {
        assert!(!other.is_empty() && other != one);
    }
}

#[test]
fn a_rejected_cluster_keeps_its_previous_version() {
    let mut stream = stream("CDS a=1 b=1");
    stream.receives("CDS");
    stream.receives("CDS ack 1");
    assert_eq!(stream.changes_to("CDS a=2 b=1"), ["2 CDS a=2 b=1"]);
    assert_eq!(stream.receives("CDS nack 2 whatever"), [""; 0], "the client has what it had");
    assert_eq!(stream.status("CDS"), ConfigStatus::Nack("whatever".into()));
    assert_eq!(stream.changes_to("CDS a=2 b=2"), ["3 CDS a=1 b=2"], "or Envoy would remove it");
    stream.receives("CDS ack 3");
    assert_eq!(stream.quarantined(), ["CDS a=2/1"]);
    // After a reconnect it is sent the fallback.
    stream.reconnects(Variant::StateOfTheWorld);
    assert_eq!(stream.receives("CDS v 3"), ["1 CDS a=1 b=2"]);
    stream.receives("CDS ack 1");
    assert_eq!(stream.changes_to("CDS a=3 b=2"), ["2 CDS a=3 b=2"]);
}

#[test]
fn sending_halves_removes_nothing() {
    let mut stream = stream("CDS a=1 b=1 c=1");
    stream.receives("CDS");
    stream.receives("CDS ack 1");
    assert_eq!(stream.changes_to("CDS a=2 b=2 c=1 d=2"), ["2 CDS a=2 b=2 c=1 d=2"]);
    assert_eq!(stream.receives("CDS nack 2 no"), ["3 CDS a=2 b=1 c=1"]);
    assert_eq!(stream.receives("CDS ack 3"), ["4 CDS a=2 b=2 c=1 d=2"]);
    assert_eq!(stream.receives("CDS nack 4 no"), ["5 CDS a=2 b=2 c=1"]);
    assert_eq!(stream.receives("CDS nack 5 no"), ["6 CDS a=2 b=1 c=1"]);
    assert_eq!(stream.receives("CDS ack 6"), ["7 CDS a=2 b=1 c=1 d=2"]);
    assert_eq!(stream.receives("CDS ack 7"), [""; 0]);
    assert_eq!(stream.quarantined(), ["CDS b=2/1"]);
}

#[test]
fn what_only_rejected_responses_omit_is_omitted_again() {
    let mut stream = stream("CDS bad=1");
    assert_eq!(stream.receives("CDS v of-another-stream"), ["1 CDS bad=1"], "the client has more");
    assert_eq!(stream.receives("CDS nack 1 cannot decode"), ["2 CDS"]);
    assert_eq!(stream.receives("CDS nack 2 never content"), [""; 0]);
    assert_eq!(stream.on_change(), [""; 0]);
}

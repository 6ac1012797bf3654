//! Rejected versions: which are quarantined, and what is sent instead.

use super::notation::*;
use crate::xds::messages::Variant;
use crate::xds::quarantine::MAX_ENTRIES;
use crate::xds::session::{ConfigStatus, Session};
use crate::xds::snapshot::Change;

/// A stream whose client has ACKed everything.
fn synced(text: &str) -> Stream {
    let mut stream = Stream::new(text);
    let mut answers = stream.receives("CDS");
    while let Some(response) = answers.pop() {
        answers = stream.receives(&format!("CDS ack {}", response.split(' ').next().unwrap()));
    }
    stream
}

const NOTHING: [&str; 0] = [];

#[test]
fn named_versions_are_quarantined_and_good_ones_sent_again() {
    let mut stream = synced("CDS a=1 b=1");
    assert_eq!(stream.changes_to("CDS a=2 b=2 c=2"), ["2 CDS a=2 b=2 c=2"]);
    let good = stream.receives("CDS nack 2 Error adding/updating cluster(s) b: unknown a");
    assert_eq!(good, ["3 CDS a=2 b=1 c=2"], "with the previous b: it may have been applied or not");
    assert_eq!(stream.receives("CDS ack 3"), NOTHING);
    assert_eq!(stream.quarantined(), ["CDS b=2/1"]);
    assert_eq!(
        stream.status("CDS"),
        ConfigStatus::Nack("Error adding/updating cluster(s) b: unknown a".into())
    );
    assert_eq!(stream.on_change(), NOTHING);
    assert_eq!(
        stream.changes_to("CDS a=2 b=3 c=2"),
        ["4 CDS b=3"],
        "the next version is tried at once"
    );
    assert_eq!(stream.receives("CDS ack 4"), NOTHING);
    assert_eq!(stream.quarantined(), NOTHING);
    assert_eq!(stream.status("CDS"), ConfigStatus::Synced);
}

#[test]
fn a_single_resource_is_quarantined_without_being_named() {
    let mut stream = synced("CDS a=1 b=1");
    stream.changes_to("CDS a=2 b=1");
    assert_eq!(stream.receives("CDS nack 2 no"), NOTHING);
    assert_eq!(stream.quarantined(), ["CDS a=2/1"]);
    assert_eq!(stream.changes_to("CDS a=1 b=1"), NOTHING, "the client still has it");
    assert_eq!(stream.status("CDS"), ConfigStatus::Synced);
}

#[test]
fn without_names_halves_find_the_bad_resource() {
    let mut stream = synced("");
    assert_eq!(stream.changes_to("CDS a=1 b=1 c=1 d=1 e=1"), ["2 CDS a=1 b=1 c=1 d=1 e=1"]);
    assert_eq!(stream.receives("CDS nack 2 no"), ["3 CDS a=1 b=1"]);
    assert_eq!(stream.status("CDS"), ConfigStatus::Stale);
    assert_eq!(stream.receives("CDS ack 3"), ["4 CDS c=1 d=1 e=1"]);
    assert_eq!(stream.receives("CDS nack 4 no"), ["5 CDS c=1"]);
    assert_eq!(stream.receives("CDS ack 5"), ["6 CDS d=1 e=1"]);
    assert_eq!(stream.receives("CDS nack 6 no"), ["7 CDS d=1"]);
    assert_eq!(stream.receives("CDS nack 7 no"), ["8 CDS e=1"]);
    assert_eq!(stream.receives("CDS ack 8"), NOTHING);
    assert_eq!(stream.quarantined(), ["CDS d=1"]);
    assert_eq!(stream.changes_to(""), ["9 CDS removed a removed b removed c removed d removed e"]);
}

#[test]
fn a_client_that_rejects_everything_is_sent_each_version_a_few_times() {
    for message in ["no", "Error adding/updating cluster(s) n000: no"] {
        let all: Vec<String> = (0..256).map(|n| format!("n{n:03}=1")).collect();
        let mut stream = Stream::new(&format!("CDS {}", all.join(" ")));
        let (mut sent, mut responses) = (0, 0);
        let mut answers = stream.receives("CDS");
        while let Some(response) = answers.pop() {
            sent += response.matches("=1").count();
            responses += 1;
            answers = stream
                .receives(&format!("CDS nack {} {message}", response.split(' ').next().unwrap()));
        }
        assert!(sent <= 256 * (9 + 8) && responses <= 2 * 256 + 9, "{sent} in {responses}");
        assert_eq!(stream.quarantine.len(), 256);
        assert_eq!(stream.on_change(), NOTHING);
        assert!(matches!(stream.status("CDS"), ConfigStatus::Nack(_)));
    }
}

#[test]
fn no_stream_of_the_node_is_sent_a_quarantined_version() {
    let mut stream = synced("CDS a=1 b=1");
    let mut other = stream.session.clone();
    stream.changes_to("CDS a=2 b=1");
    stream.receives("CDS nack 2 no");
    assert_eq!(other.on_change(&stream.snapshot, &stream.quarantine), []);
    assert_eq!(
        other.status(&stream.snapshot, &stream.quarantine)[&kind_of("CDS")],
        ConfigStatus::Nack("no".into())
    );
    // The same process reconnects, first with both clusters, then without the rejected one.
    stream.reconnects(Variant::Delta);
    assert_eq!(stream.receives("CDS + * has a=1 has b=1"), ["1 CDS"]);
    assert_eq!(stream.receives("CDS ack 1"), NOTHING);
    assert_eq!(stream.status("CDS"), ConfigStatus::Nack("no".into()));
    stream.reconnects(Variant::Delta);
    assert_eq!(stream.receives("CDS + * has b=1"), ["1 CDS a=1"]);
}

#[test]
fn a_new_process_is_sent_a_quarantined_version_once_more() {
    let mut stream = synced("CDS a=1 b=1");
    stream.changes_to("CDS a=2 b=1");
    stream.receives("CDS nack 2 no");
    // It rejects the version too, and is sent the fallback.
    stream.reconnects(Variant::Delta);
    assert_eq!(stream.receives("CDS"), ["1 CDS a=2 b=1"]);
    assert_eq!(stream.status("CDS"), ConfigStatus::Stale);
    assert_eq!(stream.receives("CDS nack 1 a is bad"), ["2 CDS a=1 b=1"]);
    assert_eq!(stream.receives("CDS ack 2"), NOTHING);
    assert_eq!(stream.quarantined(), ["CDS a=2/1"]);
    assert_eq!(stream.status("CDS"), ConfigStatus::Nack("a is bad".into()));
    // Another new process accepts it, so it leaves the quarantine.
    let mut other = stream.session.clone();
    stream.reconnects(Variant::Delta);
    assert_eq!(stream.receives("CDS"), ["1 CDS a=2 b=1"]);
    assert_eq!(stream.receives("CDS ack 1"), NOTHING);
    assert_eq!(stream.quarantined(), NOTHING);
    assert_eq!(stream.status("CDS"), ConfigStatus::Synced);
    let responses = other.on_change(&stream.snapshot, &stream.quarantine);
    assert_eq!(responses.len(), 0, "a stream remembers what its own client rejected");
}

#[test]
fn a_fallback_from_one_stream_reaches_an_envoy_that_has_nothing() {
    let mut stream = synced("CDS a=1");
    assert_eq!(stream.changes_to("CDS a=2"), ["2 CDS a=2"]);
    let mut other = Session::new(Variant::Delta, None);
    let Stream { snapshot, quarantine, .. } = &mut stream;
    let mut other_receives = |text| {
        other
            .on_request(request(text), snapshot, quarantine)
            .unwrap()
            .iter()
            .map(text_of)
            .collect::<Vec<_>>()
    };
    assert_eq!(other_receives("CDS"), ["1 CDS a=2"]);
    assert_eq!(other_receives("CDS nack 1 no"), NOTHING);
    assert_eq!(stream.quarantined(), ["CDS a=2"]);
    assert_eq!(stream.receives("CDS nack 2 no"), NOTHING);
    assert_eq!(stream.quarantined(), ["CDS a=2/1"]);
    let responses = other.on_change(&stream.snapshot, &stream.quarantine);
    assert_eq!(responses.iter().map(text_of).collect::<Vec<_>>(), ["2 CDS a=1"]);
}

#[test]
fn a_rejected_fallback_is_not_sent_again() {
    let mut stream = synced("CDS a=1");
    stream.changes_to("CDS a=2");
    stream.receives("CDS nack 2 no");
    stream.reconnects(Variant::Delta);
    assert_eq!(stream.receives("CDS"), ["1 CDS a=2"]);
    assert_eq!(stream.receives("CDS nack 1 no"), ["2 CDS a=1"]);
    assert_eq!(stream.receives("CDS nack 2 no"), NOTHING);
    assert_eq!(stream.quarantined(), ["CDS a=2"]);
    assert_eq!(stream.on_change(), NOTHING);
}

#[test]
fn a_request_for_a_quarantined_name_is_answered_at_once() {
    let mut stream = Stream::new("CDS a=1, SDS s=1");
    stream.receives("CDS");
    stream.receives("SDS + s");
    stream.receives("CDS ack 1");
    assert_eq!(stream.receives("SDS nack 2 no"), NOTHING);
    stream.reconnects(Variant::Delta);
    assert_eq!(stream.receives("CDS + * has a=1"), ["1 CDS"]);
    assert_eq!(
        stream.receives("SDS + s"),
        ["2 SDS removed s"],
        "without a response Envoy would wait 15 s"
    );
}

#[test]
fn absent_names_of_a_rejected_response_are_sent_again() {
    let mut stream = Stream::new("SDS a=1 b=1");
    assert_eq!(stream.receives("SDS + a + b + c"), ["1 SDS a=1 b=1 removed c"]);
    assert_eq!(stream.receives("SDS nack 1 cannot decode"), ["2 SDS a=1"]);
    assert_eq!(stream.receives("SDS ack 2"), ["3 SDS b=1"]);
    assert_eq!(stream.receives("SDS nack 3 cannot decode"), ["4 SDS removed c"]);
    assert_eq!(stream.receives("SDS nack 4 never content"), NOTHING);
    // Not if the client has unsubscribed meanwhile.
    let mut stream = Stream::new("SDS a=1");
    assert_eq!(stream.receives("SDS + a + b"), ["1 SDS a=1 removed b"]);
    assert_eq!(stream.receives("SDS - b"), NOTHING);
    assert_eq!(stream.receives("SDS nack 1 no"), NOTHING);
}

#[test]
fn a_nack_of_an_outdated_version_quarantines_nothing() {
    let mut stream = synced("CDS a=1");
    stream.changes_to("CDS a=2");
    stream.changes_to("CDS a=3");
    assert_eq!(stream.receives("CDS nack 2 no"), ["3 CDS a=3"]);
    assert_eq!(stream.quarantined(), NOTHING);
    assert_eq!(stream.receives("CDS ack 3"), NOTHING);
    assert_eq!(stream.status("CDS"), ConfigStatus::Synced);
}

#[test]
fn a_version_that_a_full_quarantine_drops_is_not_sent_again() {
    let names: Vec<String> = (0..=MAX_ENTRIES).map(|n| format!("n{n:04}=1")).collect();
    let mut stream = Stream::new(&format!("CDS {}", names.join(" ")));
    let message: Vec<String> = names.iter().map(|name| name.replace("=1", "")).collect();
    stream.receives("CDS");
    assert_eq!(stream.receives(&format!("CDS nack 1 {}", message.join(" "))), NOTHING);
    assert_eq!(stream.quarantine.len(), MAX_ENTRIES);
    assert!(
        stream.quarantine.entries().all(|(_, name, _)| name != "n0000"),
        "the oldest is dropped"
    );
    assert_eq!(stream.on_change(), NOTHING);
}

#[test]
fn entries_leave_with_their_version_even_without_streams() {
    let mut stream = synced("CDS a=1 b=1");
    stream.changes_to("CDS a=2 b=2");
    stream.receives("CDS nack 2 a: no, b: no");
    assert_eq!(stream.quarantine.len(), 2);
    stream.session = Session::new(Variant::Delta, None);
    stream.snapshot.apply(vec![Change::Remove(kind_of("CDS"), "a".into())]);
    stream.quarantine.remove_outdated(&stream.snapshot);
    assert_eq!(stream.quarantined(), ["CDS b=2/1"]);
    stream.snapshot = resources("CDS b=3").into_iter().collect();
    stream.quarantine.remove_outdated(&stream.snapshot);
    assert!(stream.quarantine.is_empty());
}

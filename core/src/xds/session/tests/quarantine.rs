//! What becomes of refused versions.

use super::language::*;
use crate::xds::quarantine::MAX_ENTRIES;
use crate::xds::session::{Session, Standing, Variant};
use crate::xds::snapshot::Change;

/// A stream whose client has accepted everything.
fn settled(text: &str) -> Stream {
    let mut stream = Stream::new(text);
    let mut answers = stream.hears("CDS");
    while let Some(response) = answers.pop() {
        answers = stream.hears(&format!("CDS ack {}", response.split(' ').next().unwrap()));
    }
    stream
}

const NOTHING: [&str; 0] = [];

#[test]
fn the_named_is_quarantined_and_the_good_ones_are_sent_again() {
    let mut stream = settled("CDS a=1 b=1");
    assert_eq!(stream.becomes("CDS a=2 b=2 c=2"), ["2 CDS a=2 b=2 c=2"]);
    let good = stream.hears("CDS nack 2 Error adding/updating cluster(s) b: unknown a");
    assert_eq!(good, ["3 CDS a=2 b=1 c=2"], "with what b was before: who knows what was applied");
    assert_eq!(stream.hears("CDS ack 3"), NOTHING);
    assert_eq!(stream.quarantined(), ["CDS b=2/1"]);
    assert_eq!(
        stream.standing("CDS"),
        Standing::Nack("Error adding/updating cluster(s) b: unknown a".into())
    );
    assert_eq!(stream.looks(), NOTHING);
    assert_eq!(
        stream.becomes("CDS a=2 b=3 c=2"),
        ["4 CDS b=3"],
        "the next version is tried at once"
    );
    assert_eq!(stream.hears("CDS ack 4"), NOTHING);
    assert_eq!(stream.quarantined(), NOTHING);
    assert_eq!(stream.standing("CDS"), Standing::Synced);
}

#[test]
fn a_single_one_needs_no_name_and_the_client_keeps_what_it_has() {
    let mut stream = settled("CDS a=1 b=1");
    stream.becomes("CDS a=2 b=1");
    assert_eq!(stream.hears("CDS nack 2 no"), NOTHING);
    assert_eq!(stream.quarantined(), ["CDS a=2/1"]);
    assert_eq!(stream.becomes("CDS a=1 b=1"), NOTHING, "it has that");
    assert_eq!(stream.standing("CDS"), Standing::Synced);
}

#[test]
fn where_nobody_is_named_halves_find_the_bad_one() {
    let mut stream = settled("");
    assert_eq!(stream.becomes("CDS a=1 b=1 c=1 d=1 e=1"), ["2 CDS a=1 b=1 c=1 d=1 e=1"]);
    assert_eq!(stream.hears("CDS nack 2 no"), ["3 CDS a=1 b=1"]);
    assert_eq!(stream.standing("CDS"), Standing::Stale);
    assert_eq!(stream.hears("CDS ack 3"), ["4 CDS c=1 d=1 e=1"]);
    assert_eq!(stream.hears("CDS nack 4 no"), ["5 CDS c=1"]);
    assert_eq!(stream.hears("CDS ack 5"), ["6 CDS d=1 e=1"]);
    assert_eq!(stream.hears("CDS nack 6 no"), ["7 CDS d=1"]);
    assert_eq!(stream.hears("CDS nack 7 no"), ["8 CDS e=1"]);
    assert_eq!(stream.hears("CDS ack 8"), NOTHING);
    assert_eq!(stream.quarantined(), ["CDS d=1"]);
    assert_eq!(stream.becomes(""), ["9 CDS gone a gone b gone c gone d gone e"]);
}

#[test]
fn who_refuses_everything_hears_each_version_a_few_times_and_then_no_more() {
    for words in ["no", "Error adding/updating cluster(s) n000: no"] {
        let all: Vec<String> = (0..256).map(|n| format!("n{n:03}=1")).collect();
        let mut stream = Stream::new(&format!("CDS {}", all.join(" ")));
        let (mut sent, mut responses) = (0, 0);
        let mut answers = stream.hears("CDS");
        while let Some(response) = answers.pop() {
            sent += response.matches("=1").count();
            responses += 1;
            answers =
                stream.hears(&format!("CDS nack {} {words}", response.split(' ').next().unwrap()));
        }
        assert!(sent <= 256 * (9 + 8) && responses <= 2 * 256 + 9, "{sent} in {responses}");
        assert_eq!(stream.quarantine.len(), 256);
        assert_eq!(stream.looks(), NOTHING);
        assert!(matches!(stream.standing("CDS"), Standing::Nack(_)));
    }
}

#[test]
fn no_stream_of_the_node_sends_it_again_and_each_says_so() {
    let mut stream = settled("CDS a=1 b=1");
    let mut other = stream.session.clone();
    stream.becomes("CDS a=2 b=1");
    stream.hears("CDS nack 2 no");
    assert_eq!(other.on_change(&stream.snapshot, &stream.quarantine), []);
    assert_eq!(
        other.standing(&stream.snapshot, &stream.quarantine)[&kind_of("CDS")],
        Standing::Nack("no".into())
    );
    // The same process reconnects: with what it had, and without what it lost.
    stream.reconnects(Variant::Delta);
    assert_eq!(stream.hears("CDS + * has a=1 has b=1"), ["1 CDS"]);
    assert_eq!(stream.hears("CDS ack 1"), NOTHING);
    assert_eq!(stream.standing("CDS"), Standing::Nack("no".into()));
    stream.reconnects(Variant::Delta);
    assert_eq!(stream.hears("CDS + * has b=1"), ["1 CDS a=1"]);
}

#[test]
fn a_process_that_starts_anew_tries_it_once_more() {
    let mut stream = settled("CDS a=1 b=1");
    stream.becomes("CDS a=2 b=1");
    stream.hears("CDS nack 2 no");
    // Still bad: it gets what was good before.
    stream.reconnects(Variant::Delta);
    assert_eq!(stream.hears("CDS"), ["1 CDS a=2 b=1"]);
    assert_eq!(stream.standing("CDS"), Standing::Stale);
    assert_eq!(stream.hears("CDS nack 1 a is bad"), ["2 CDS a=1 b=1"]);
    assert_eq!(stream.hears("CDS ack 2"), NOTHING);
    assert_eq!(stream.quarantined(), ["CDS a=2/1"]);
    assert_eq!(stream.standing("CDS"), Standing::Nack("a is bad".into()));
    // Mended: all others get it too, with their next event.
    let mut other = stream.session.clone();
    stream.reconnects(Variant::Delta);
    assert_eq!(stream.hears("CDS"), ["1 CDS a=2 b=1"]);
    assert_eq!(stream.hears("CDS ack 1"), NOTHING);
    assert_eq!(stream.quarantined(), NOTHING);
    assert_eq!(stream.standing("CDS"), Standing::Synced);
    let responses = other.on_change(&stream.snapshot, &stream.quarantine);
    assert_eq!(responses.len(), 0, "but for the stream that refused it itself");
}

#[test]
fn a_fallback_that_one_streams_refusal_brings_reaches_an_envoy_that_has_nothing() {
    let mut stream = settled("CDS a=1");
    assert_eq!(stream.becomes("CDS a=2"), ["2 CDS a=2"]);
    let mut other = Session::new(Variant::Delta, None);
    let Stream { snapshot, quarantine, .. } = &mut stream;
    let mut other_hears = |text| {
        other
            .on_request(request(text), snapshot, quarantine)
            .unwrap()
            .iter()
            .map(line)
            .collect::<Vec<_>>()
    };
    assert_eq!(other_hears("CDS"), ["1 CDS a=2"]);
    assert_eq!(other_hears("CDS nack 1 no"), NOTHING);
    assert_eq!(stream.quarantined(), ["CDS a=2"]);
    assert_eq!(stream.hears("CDS nack 2 no"), NOTHING);
    assert_eq!(stream.quarantined(), ["CDS a=2/1"]);
    let responses = other.on_change(&stream.snapshot, &stream.quarantine);
    assert_eq!(responses.iter().map(line).collect::<Vec<_>>(), ["2 CDS a=1"]);
}

#[test]
fn what_stood_in_and_is_refused_too_does_so_no_longer() {
    let mut stream = settled("CDS a=1");
    stream.becomes("CDS a=2");
    stream.hears("CDS nack 2 no");
    stream.reconnects(Variant::Delta);
    assert_eq!(stream.hears("CDS"), ["1 CDS a=2"]);
    assert_eq!(stream.hears("CDS nack 1 no"), ["2 CDS a=1"]);
    assert_eq!(stream.hears("CDS nack 2 no"), NOTHING);
    assert_eq!(stream.quarantined(), ["CDS a=2"]);
    assert_eq!(stream.looks(), NOTHING);
}

#[test]
fn who_asks_for_a_quarantined_name_is_answered_at_once() {
    let mut stream = Stream::new("CDS a=1, SDS s=1");
    stream.hears("CDS");
    stream.hears("SDS + s");
    stream.hears("CDS ack 1");
    assert_eq!(stream.hears("SDS nack 2 no"), NOTHING);
    stream.reconnects(Variant::Delta);
    assert_eq!(stream.hears("CDS + * has a=1"), ["1 CDS"]);
    assert_eq!(
        stream.hears("SDS + s"),
        ["2 SDS gone s"],
        "there is nothing for it, and 15 s are long"
    );
}

#[test]
fn that_a_name_does_not_exist_is_said_again_where_the_response_that_said_so_was_refused() {
    let mut stream = Stream::new("SDS a=1 b=1");
    assert_eq!(stream.hears("SDS + a + b + c"), ["1 SDS a=1 b=1 gone c"]);
    assert_eq!(stream.hears("SDS nack 1 cannot decode"), ["2 SDS a=1"]);
    assert_eq!(stream.hears("SDS ack 2"), ["3 SDS b=1"]);
    assert_eq!(stream.hears("SDS nack 3 cannot decode"), ["4 SDS gone c"]);
    assert_eq!(stream.hears("SDS nack 4 never content"), NOTHING);
    // Not if the client has ceased to ask for it.
    let mut stream = Stream::new("SDS a=1");
    assert_eq!(stream.hears("SDS + a + b"), ["1 SDS a=1 gone b"]);
    assert_eq!(stream.hears("SDS - b"), NOTHING);
    assert_eq!(stream.hears("SDS nack 1 no"), NOTHING);
}

#[test]
fn a_refusal_of_what_is_outdated_quarantines_nothing() {
    let mut stream = settled("CDS a=1");
    stream.becomes("CDS a=2");
    stream.becomes("CDS a=3");
    assert_eq!(stream.hears("CDS nack 2 no"), ["3 CDS a=3"]);
    assert_eq!(stream.quarantined(), NOTHING);
    assert_eq!(stream.hears("CDS ack 3"), NOTHING);
    assert_eq!(stream.standing("CDS"), Standing::Synced);
}

#[test]
fn the_quarantine_is_bounded_and_who_is_put_out_of_it_is_still_not_sent_again() {
    let names: Vec<String> = (0..=MAX_ENTRIES).map(|n| format!("n{n:04}=1")).collect();
    let mut stream = Stream::new(&format!("CDS {}", names.join(" ")));
    let words: Vec<String> = names.iter().map(|name| name.replace("=1", "")).collect();
    stream.hears("CDS");
    assert_eq!(stream.hears(&format!("CDS nack 1 {}", words.join(" "))), NOTHING);
    assert_eq!(stream.quarantine.len(), MAX_ENTRIES);
    assert!(stream.quarantine.entries().all(|(_, name, _)| name != "n0000"), "the oldest goes");
    assert_eq!(stream.looks(), NOTHING);
}

#[test]
fn entries_go_with_their_resource_also_when_nobody_is_there() {
    let mut stream = settled("CDS a=1 b=1");
    stream.becomes("CDS a=2 b=2");
    stream.hears("CDS nack 2 a: no, b: no");
    assert_eq!(stream.quarantine.len(), 2);
    stream.session = Session::new(Variant::Delta, None);
    stream.snapshot.apply(vec![Change::Remove(kind_of("CDS"), "a".into())]);
    stream.quarantine.follow(&stream.snapshot);
    assert_eq!(stream.quarantined(), ["CDS b=2/1"]);
    stream.snapshot = resources("CDS b=3").into_iter().collect();
    stream.quarantine.follow(&stream.snapshot);
    assert!(stream.quarantine.is_empty());
}

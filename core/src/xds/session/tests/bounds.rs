//! What clients may ask for.

use super::language::*;
use crate::xds::quarantine::Quarantine;
use crate::xds::session::{Abuse, Limits, MAX_REASON, Request, Response, Session, Standing, Variant};
use crate::xds::snapshot::{ResourceType, Snapshot};

const UNKNOWN: &str = "type.googleapis.com/some.Other";

/// What becomes of a stream's first request.
fn first(variant: Variant, request: Request) -> Result<Vec<Response>, Abuse> {
    Session::new(variant, None).on_request(request, &Snapshot::default(), &mut Quarantine::default())
}

fn asking(variant: Variant, type_url: &str, names: Vec<String>) -> Request {
    let request = Request { type_url: type_url.into(), ..Request::default() };
    match variant {
        Variant::Delta => Request { subscribe: names, ..request },
        Variant::StateOfTheWorld => Request { names, ..request },
    }
}

const BOTH: [Variant; 2] = [Variant::Delta, Variant::StateOfTheWorld];

#[test]
fn an_unknown_type_is_answered_as_absent() {
    for variant in BOTH {
        let responses = first(variant, asking(variant, UNKNOWN, vec!["x".into()])).unwrap();
        assert_eq!((responses.len(), &*responses[0].type_url), (1, UNKNOWN));
        assert_eq!(responses[0].removed.len(), usize::from(variant == Variant::Delta));
        assert_eq!(responses[0].version_info.is_empty(), variant == Variant::Delta);
        let answer = Request { nonce: responses[0].nonce.clone(), ..asking(variant, UNKNOWN, vec![]) };
        assert_eq!(first(variant, answer).unwrap(), []);
    }
}

#[test]
fn more_names_than_anyone_needs_end_the_stream() {
    let most = Limits::default().names;
    for (variant, url) in BOTH.into_iter().flat_map(|variant| [(variant, ResourceType::Secret.url()), (variant, UNKNOWN)]) {
        let names = |count: usize| (0..count).map(|n| n.to_string()).collect();
        assert_eq!(first(variant, asking(variant, url, names(most + 1))), Err(Abuse::TooManyNames(most + 1, most)));
        assert!(first(variant, asking(variant, url, names(most))).is_ok());
    }
}

#[test]
fn a_name_longer_than_any_ends_the_stream() {
    let limit = Limits::default().name_length;
    let (long, most) = ("n".repeat(limit + 1), "n".repeat(limit));
    for (variant, url) in BOTH.into_iter().flat_map(|variant| [(variant, ResourceType::Secret.url()), (variant, UNKNOWN)]) {
        let of = |name: &str| asking(variant, url, vec![name.into()]);
        let unsubscribing = Request { unsubscribe: vec![long.clone()], ..of("n") };
        let having = |name: &str, version: &str| Request { initial_versions: [(name.into(), version.into())].into(), ..of("n") };
        let knowing = Request { version_info: long.clone(), ..of("n") };
        for request in [of(&long), unsubscribing, having(&long, "1"), having("n", &long), knowing] {
            assert_eq!(first(variant, request), Err(Abuse::LongName(limit + 1, limit)), "{url}");
        }
        assert!(first(variant, of(&most)).is_ok() && first(variant, having(&most, &most)).is_ok(), "{url}");
    }
    assert_eq!(first(Variant::Delta, asking(Variant::Delta, &long, vec![])), Err(Abuse::LongName(limit + 1, limit)));
}

#[test]
fn long_names_add_up_over_requests() {
    let limits = Limits::default();
    let mut session = Session::new(Variant::Delta, None);
    let names = |from: usize| (from..from + 4096).map(|n| format!("{n:0>width$}", width = limits.name_length)).collect();
    let mut ask = |from| {
        let request = asking(Variant::Delta, ResourceType::Secret.url(), names(from));
        session.on_request(request, &Snapshot::default(), &mut Quarantine::default()).map(drop)
    };
    let wanted = limits.bytes / limits.name_length;
    for from in (0..wanted).step_by(4096) {
        assert_eq!(ask(from), Ok(()));
    }
    assert!(matches!(ask(wanted), Err(Abuse::TooManyBytes(..))));
}

#[test]
fn limits_are_what_one_sets() {
    let limits = Limits { names: 2, ..Limits::default() };
    let ask = |count: usize| {
        let names = (0..count).map(|n| n.to_string()).collect();
        let request = asking(Variant::Delta, ResourceType::Secret.url(), names);
        Session::new(Variant::Delta, None).limit(limits).on_request(request, &Snapshot::default(), &mut Quarantine::default())
    };
    assert!(ask(2).is_ok());
    assert_eq!(ask(3), Err(Abuse::TooManyNames(3, 2)));
}

#[test]
fn a_refusal_is_kept_in_plain_and_few_words() {
    let mut stream = Stream::new("LDS l=bad");
    stream.hears("LDS");
    let error = format!("no \x1b[2Jsuch\nfilter\u{9b}\u{202e}{}", "é".repeat(3 * MAX_REASON));
    stream.takes(Request { error: Some(error), ..request("LDS ack 1") });
    let Standing::Nack(words) = stream.standing("LDS") else { panic!("no NACK") };
    assert!(words.starts_with("no  [2Jsuch filter  é"), "{words}");
    assert_eq!(words.chars().count(), MAX_REASON);
}

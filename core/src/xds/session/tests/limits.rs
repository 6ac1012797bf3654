//! What clients may ask for.

use super::notation::*;
use crate::xds::limits::{LimitExceeded, Limits, MAX_NACK_MESSAGE, max_request_memory};
use crate::xds::messages::{Request, Response, Variant};
use crate::xds::quarantine::Quarantine;
use crate::xds::resource::ResourceType;
use crate::xds::session::{ConfigStatus, Session};
use crate::xds::snapshot::Snapshot;

const UNKNOWN: &str = "type.googleapis.com/some.Other";

/// What becomes of a stream's first request.
fn first(variant: Variant, request: Request) -> Result<Vec<Response>, LimitExceeded> {
    Session::new(variant, None).on_request(
        request,
        &Snapshot::default(),
        &mut Quarantine::default(),
    )
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
        let answer =
            Request { nonce: responses[0].nonce.clone(), ..asking(variant, UNKNOWN, vec![]) };
        assert_eq!(first(variant, answer).unwrap(), []);
    }
}

#[test]
fn more_names_than_anyone_needs_end_the_stream() {
    let most = Limits::default().names;
    for (variant, url) in BOTH
        .into_iter()
        .flat_map(|variant| [(variant, ResourceType::Secret.url()), (variant, UNKNOWN)])
    {
        let names = |count: usize| (0..count).map(|n| n.to_string()).collect();
        assert_eq!(
            first(variant, asking(variant, url, names(most + 1))),
            Err(LimitExceeded::Names(most + 1, most))
        );
        assert!(first(variant, asking(variant, url, names(most))).is_ok());
    }
}

#[test]
fn a_name_longer_than_any_ends_the_stream() {
    let limit = Limits::default().name_length;
    let (long, most) = ("n".repeat(limit + 1), "n".repeat(limit));
    for (variant, url) in BOTH
        .into_iter()
        .flat_map(|variant| [(variant, ResourceType::Secret.url()), (variant, UNKNOWN)])
    {
        let of = |name: &str| asking(variant, url, vec![name.into()]);
        let unsubscribing = Request { unsubscribe: vec![long.clone()], ..of("n") };
        let having = |name: &str, version: &str| Request {
            initial_versions: [(name.into(), version.into())].into(),
            ..of("n")
        };
        let knowing = Request { version_info: long.clone(), ..of("n") };
        for request in [of(&long), unsubscribing, having(&long, "1"), having("n", &long), knowing] {
            assert_eq!(
                first(variant, request),
                Err(LimitExceeded::NameLength(limit + 1, limit)),
                "{url}"
            );
        }
        assert!(
            first(variant, of(&most)).is_ok() && first(variant, having(&most, &most)).is_ok(),
            "{url}"
        );
    }
    assert_eq!(
        first(Variant::Delta, asking(Variant::Delta, &long, vec![])),
        Err(LimitExceeded::NameLength(limit + 1, limit))
    );
}

#[test]
fn long_names_add_up_over_requests() {
    let limits = Limits::default();
    let mut session = Session::new(Variant::Delta, None);
    let names = |from: usize| {
        (from..from + 4096).map(|n| format!("{n:0>width$}", width = limits.name_length)).collect()
    };
    let mut ask = |from| {
        let request = asking(Variant::Delta, ResourceType::Secret.url(), names(from));
        session.on_request(request, &Snapshot::default(), &mut Quarantine::default()).map(drop)
    };
    let wanted = limits.bytes / limits.name_length;
    for from in (0..wanted).step_by(4096) {
        assert_eq!(ask(from), Ok(()));
    }
    assert!(matches!(ask(wanted), Err(LimitExceeded::Bytes(..))));
}

#[test]
fn limits_are_what_one_sets() {
    let limits = Limits { names: 2, ..Limits::default() };
    let ask = |count: usize| {
        let names = (0..count).map(|n| n.to_string()).collect();
        let request = asking(Variant::Delta, ResourceType::Secret.url(), names);
        Session::new(Variant::Delta, None).with_limits(limits).on_request(
            request,
            &Snapshot::default(),
            &mut Quarantine::default(),
        )
    };
    assert!(ask(2).is_ok());
    assert_eq!(ask(3), Err(LimitExceeded::Names(3, 2)));
}

#[test]
fn a_refusal_is_kept_in_plain_and_few_words() {
    let mut stream = Stream::new("LDS l=bad");
    stream.receives("LDS");
    let error = format!("no \x1b[2Jsuch\nfilter\u{9b}\u{202e}{}", "é".repeat(3 * MAX_NACK_MESSAGE));
    stream.receives_request(Request { error: Some(error), ..request("LDS ack 1") });
    let ConfigStatus::Nack(words) = stream.status("LDS") else { panic!("no NACK") };
    assert!(words.starts_with("no \\u{1b}[2Jsuch\\nfilter\\u{9b}\\u{202e}é"), "{words}");
    assert_eq!(words.chars().count(), MAX_NACK_MESSAGE);
}

#[test]
fn what_a_client_says_is_remembered_as_so_many_bytes_and_forgotten_again() {
    let names: Vec<String> = (0..1000).map(|n| format!("some-name-of-a-secret-{n}")).collect();
    let bytes: usize = names.iter().map(String::len).sum();
    let (snapshot, mut quarantine) = (Snapshot::default(), Quarantine::default());
    for variant in BOTH {
        let mut session = Session::new(variant, None);
        assert_eq!(session.memory_bytes(), 0);
        let mut take = |session: &mut Session, request| {
            session.on_request(request, &snapshot, &mut quarantine).unwrap()
        };
        let responses =
            take(&mut session, asking(variant, ResourceType::Secret.url(), names.clone()));
        let remembered = session.memory_bytes();
        // Each in a block of its own, in a set.
        assert!(
            (bytes + 64_000..=max_request_memory(names.len(), bytes)).contains(&remembered),
            "{remembered}"
        );
        let waiting: usize = responses.iter().map(Response::queued_bytes).sum();
        assert!(
            remembered + waiting <= max_request_memory(names.len(), bytes),
            "{remembered} and {waiting}"
        );
        let nonce = responses[0].nonce.clone();
        let none = match variant {
            Variant::Delta => Request {
                nonce,
                unsubscribe: names.clone(),
                ..asking(variant, ResourceType::Secret.url(), vec![])
            },
            Variant::StateOfTheWorld => {
                Request { nonce, ..asking(variant, ResourceType::Secret.url(), vec![]) }
            }
        };
        take(&mut session, none);
        assert!(session.memory_bytes() < 1000, "{variant:?}: {}", session.memory_bytes());
    }
}

#[test]
fn what_a_client_brings_and_refuses_is_remembered_too_and_what_the_snapshot_has_costs_a_pointer() {
    let mut quarantine = Quarantine::default();
    let resource = |n: usize| resource(ResourceType::Cluster, &format!("cluster-{n:04}"), "1");
    let snapshot: Snapshot = (0..1000).map(resource).collect();
    let brings = |version: &dyn Fn(usize) -> String| {
        let initial_versions = (0..1000).map(|n| (format!("cluster-{n:04}"), version(n))).collect();
        Request {
            initial_versions,
            ..asking(Variant::Delta, ResourceType::Cluster.url(), vec!["*".into()])
        }
    };
    let mut session = Session::new(Variant::Delta, None);
    session
        .on_request(brings(&|n| resource(n).version.to_string()), &snapshot, &mut quarantine)
        .unwrap();
    let equal = session.memory_bytes();
    assert!((16_000..50_000).contains(&equal), "{equal}");
    // They are unknown, and so taken away, but not yet.
    let mut holding = Session::new(Variant::Delta, None);
    holding.keep_unknown_resources();
    holding
        .on_request(brings(&|_| "another".into()), &Snapshot::default(), &mut quarantine)
        .unwrap();
    let unknown = holding.memory_bytes();
    assert!((100_000..=max_request_memory(1000, 19_000)).contains(&unknown), "{unknown}");

    let mut stream = Stream::new("LDS l=bad");
    stream.receives("LDS");
    let before = stream.session.memory_bytes();
    stream.receives_request(Request {
        error: Some("é".repeat(MAX_NACK_MESSAGE)),
        ..request("LDS ack 1")
    });
    assert!(
        stream.session.memory_bytes() >= before + 2 * MAX_NACK_MESSAGE,
        "the words of a refusal"
    );
}

#[test]
fn whoever_has_more_resources_may_list_more() {
    let limits = Limits { names: 10, bytes: 100, ..Limits::default() };
    let ask = |resources: usize, count: usize| {
        let snapshot: Snapshot = (0..resources)
            .map(|n| resource(ResourceType::Cluster, &format!("cluster-{n}"), "1"))
            .collect();
        let initial_versions =
            (0..count).map(|n| (format!("of-an-earlier-fleet-{n:04}"), "0".repeat(32))).collect();
        let request = Request {
            initial_versions,
            ..asking(Variant::Delta, ResourceType::Cluster.url(), vec![])
        };
        Session::new(Variant::Delta, None)
            .with_limits(limits)
            .on_request(request, &snapshot, &mut Quarantine::default())
            .map(drop)
    };
    assert_eq!(ask(0, 11), Err(LimitExceeded::Names(11, 10)));
    assert_eq!(ask(100, 200), Ok(()));
    assert_eq!(ask(100, 201), Err(LimitExceeded::Names(201, 200)));
}

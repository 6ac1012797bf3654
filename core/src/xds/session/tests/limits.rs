//! What a client may ask for, and how much memory it makes a session use.

use super::notation::*;
use crate::xds::limits::{LimitExceeded, MAX_NACK_MESSAGE, SessionLimits, max_request_memory};
use crate::xds::messages::{Request, Response, Variant};
use crate::xds::quarantine::Quarantine;
use crate::xds::resource::ResourceType;
use crate::xds::session::{ConfigStatus, Session};
use crate::xds::snapshot::Snapshot;

const UNKNOWN_TYPE: &str = "type.googleapis.com/some.Other";

/// The result of a stream's first request.
fn result_of_first(variant: Variant, request: Request) -> Result<Vec<Response>, LimitExceeded> {
    Session::new(variant, None).on_request(
        request,
        &Snapshot::default(),
        &mut Quarantine::default(),
    )
}

fn subscribing(variant: Variant, type_url: &str, names: Vec<String>) -> Request {
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
        let responses =
            result_of_first(variant, subscribing(variant, UNKNOWN_TYPE, vec!["x".into()])).unwrap();
        assert_eq!((responses.len(), &*responses[0].type_url), (1, UNKNOWN_TYPE));
        assert_eq!(responses[0].removed.len(), usize::from(variant == Variant::Delta));
        assert_eq!(responses[0].version_info.is_empty(), variant == Variant::Delta);
        let answer = Request {
            nonce: responses[0].nonce.clone(),
            ..subscribing(variant, UNKNOWN_TYPE, vec![])
        };
        assert_eq!(result_of_first(variant, answer).unwrap(), []);
    }
}

#[test]
fn too_many_names_end_the_stream() {
    let limit = SessionLimits::default().names;
    for (variant, url) in BOTH
        .into_iter()
        .flat_map(|variant| [(variant, ResourceType::Secret.url()), (variant, UNKNOWN_TYPE)])
    {
        let names = |count: usize| (0..count).map(|n| n.to_string()).collect();
        assert_eq!(
            result_of_first(variant, subscribing(variant, url, names(limit + 1))),
            Err(LimitExceeded::Names(limit + 1, limit))
        );
        assert!(result_of_first(variant, subscribing(variant, url, names(limit))).is_ok());
    }
}

#[test]
fn too_long_a_name_ends_the_stream() {
    let limit = SessionLimits::default().name_length;
    let (too_long, longest) = ("n".repeat(limit + 1), "n".repeat(limit));
    for (variant, url) in BOTH
        .into_iter()
        .flat_map(|variant| [(variant, ResourceType::Secret.url()), (variant, UNKNOWN_TYPE)])
    {
        let to_name = |name: &str| subscribing(variant, url, vec![name.into()]);
        let unsubscribing = Request { unsubscribe: vec![too_long.clone()], ..to_name("n") };
        let listing = |name: &str, version: &str| Request {
            initial_versions: [(name.into(), version.into())].into(),
            ..to_name("n")
        };
        let with_version = Request { version_info: too_long.clone(), ..to_name("n") };
        for request in [
            to_name(&too_long),
            unsubscribing,
            listing(&too_long, "1"),
            listing("n", &too_long),
            with_version,
        ] {
            assert_eq!(
                result_of_first(variant, request),
                Err(LimitExceeded::NameLength(limit + 1, limit)),
                "{url}"
            );
        }
        assert!(
            result_of_first(variant, to_name(&longest)).is_ok()
                && result_of_first(variant, listing(&longest, &longest)).is_ok(),
            "{url}"
        );
    }
    assert_eq!(
        result_of_first(Variant::Delta, subscribing(Variant::Delta, &too_long, vec![])),
        Err(LimitExceeded::NameLength(limit + 1, limit))
    );
}

#[test]
fn bytes_of_names_add_up_over_requests() {
    let limits = SessionLimits::default();
    let mut session = Session::new(Variant::Delta, None);
    let names = |from: usize| {
        (from..from + 4096).map(|n| format!("{n:0>width$}", width = limits.name_length)).collect()
    };
    let mut subscribe = |from| {
        let request = subscribing(Variant::Delta, ResourceType::Secret.url(), names(from));
        session.on_request(request, &Snapshot::default(), &mut Quarantine::default()).map(drop)
    };
    let most = limits.bytes / limits.name_length;
    for from in (0..most).step_by(4096) {
        assert_eq!(subscribe(from), Ok(()));
    }
    assert!(matches!(subscribe(most), Err(LimitExceeded::Bytes(..))));
}

#[test]
fn limits_can_be_set() {
    let limits = SessionLimits { names: 2, ..SessionLimits::default() };
    let ask = |count: usize| {
        let names = (0..count).map(|n| n.to_string()).collect();
        let request = subscribing(Variant::Delta, ResourceType::Secret.url(), names);
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
fn a_nack_message_is_shortened_and_escaped() {
    let mut stream = Stream::new("LDS l=bad");
    stream.receives("LDS");
    let error = format!("no \x1b[2Jsuch\nfilter\u{9b}\u{202e}{}", "é".repeat(3 * MAX_NACK_MESSAGE));
    stream.receives_request(Request { error: Some(error), ..request("LDS ack 1") });
    let ConfigStatus::Nack(message) = stream.status("LDS") else { panic!("no NACK") };
    assert!(message.starts_with("no \\u{1b}[2Jsuch\\nfilter\\u{9b}\\u{202e}é"), "{message}");
    assert_eq!(message.chars().count(), MAX_NACK_MESSAGE);
}

#[test]
fn names_count_as_memory_until_they_are_unsubscribed() {
    let names: Vec<String> = (0..1000).map(|n| format!("some-name-of-a-secret-{n}")).collect();
    let bytes: usize = names.iter().map(String::len).sum();
    let (snapshot, mut quarantine) = (Snapshot::default(), Quarantine::default());
    for variant in BOTH {
        let mut session = Session::new(variant, None);
        assert_eq!(session.memory_bytes(), 0);
        let mut send = |session: &mut Session, request| {
            session.on_request(request, &snapshot, &mut quarantine).unwrap()
        };
        let responses =
            send(&mut session, subscribing(variant, ResourceType::Secret.url(), names.clone()));
        let memory = session.memory_bytes();
        // A name is an allocation of its own and an entry of a set.
        assert!(
            (bytes + 64_000..=max_request_memory(names.len(), bytes)).contains(&memory),
            "{memory}"
        );
        let queued: usize = responses.iter().map(Response::queued_bytes).sum();
        assert!(memory + queued <= max_request_memory(names.len(), bytes), "{memory} and {queued}");
        let nonce = responses[0].nonce.clone();
        let unsubscribe = match variant {
            Variant::Delta => Request {
                nonce,
                unsubscribe: names.clone(),
                ..subscribing(variant, ResourceType::Secret.url(), vec![])
            },
            Variant::StateOfTheWorld => {
                Request { nonce, ..subscribing(variant, ResourceType::Secret.url(), vec![]) }
            }
        };
        send(&mut session, unsubscribe);
        assert!(session.memory_bytes() < 1000, "{variant:?}: {}", session.memory_bytes());
    }
}

#[test]
fn initial_versions_and_nack_messages_count_as_memory() {
    let mut quarantine = Quarantine::default();
    let resource = |n: usize| resource(ResourceType::Cluster, &format!("cluster-{n:04}"), "1");
    let snapshot: Snapshot = (0..1000).map(resource).collect();
    let listing = |version: &dyn Fn(usize) -> String| {
        let initial_versions = (0..1000).map(|n| (format!("cluster-{n:04}"), version(n))).collect();
        Request {
            initial_versions,
            ..subscribing(Variant::Delta, ResourceType::Cluster.url(), vec!["*".into()])
        }
    };
    let mut session = Session::new(Variant::Delta, None);
    session
        .on_request(listing(&|n| resource(n).version.to_string()), &snapshot, &mut quarantine)
        .unwrap();
    let equal = session.memory_bytes();
    assert!((16_000..50_000).contains(&equal), "{equal}");
    let mut keeping = Session::new(Variant::Delta, None);
    keeping.keep_unknown_resources();
    keeping
        .on_request(listing(&|_| "another".into()), &Snapshot::default(), &mut quarantine)
        .unwrap();
    let unknown = keeping.memory_bytes();
    assert!((100_000..=max_request_memory(1000, 19_000)).contains(&unknown), "{unknown}");

    let mut stream = Stream::new("LDS l=bad");
    stream.receives("LDS");
    let before = stream.session.memory_bytes();
    stream.receives_request(Request {
        error: Some("é".repeat(MAX_NACK_MESSAGE)),
        ..request("LDS ack 1")
    });
    assert!(stream.session.memory_bytes() >= before + 2 * MAX_NACK_MESSAGE, "the message");
}

#[test]
fn a_node_with_more_resources_may_list_more_names() {
    let limits = SessionLimits { names: 10, bytes: 100, ..SessionLimits::default() };
    let ask = |resources: usize, count: usize| {
        let snapshot: Snapshot = (0..resources)
            .map(|n| resource(ResourceType::Cluster, &format!("cluster-{n}"), "1"))
            .collect();
        let initial_versions =
            (0..count).map(|n| (format!("of-an-earlier-fleet-{n:04}"), "0".repeat(32))).collect();
        let request = Request {
            initial_versions,
            ..subscribing(Variant::Delta, ResourceType::Cluster.url(), vec![])
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

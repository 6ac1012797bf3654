//! What a session costs: how much it looks at, and how much it remembers.

use std::sync::Arc;

use super::LOOKS;
use super::language::*;
use crate::xds::session::subscription::Subscription;
use crate::xds::session::{Session, Standing};
use crate::xds::snapshot::{Change, ResourceType};

/// At how many names something looks.
fn looks<T>(what: impl FnOnce() -> T) -> (u64, T) {
    let before = LOOKS.get();
    let result = what();
    (LOOKS.get() - before, result)
}

fn acknowledged(stream: &mut Stream, mut responses: Vec<String>) {
    while let Some(response) = responses.pop() {
        let mut words = response.split(' ');
        let (nonce, kind) = (words.next().unwrap(), words.next().unwrap());
        responses.extend(stream.hears(&format!("{kind} ack {nonce}")));
    }
}

#[test]
fn one_change_among_15_000_costs_as_little_as_among_15() {
    for size in [15, 15_000] {
        let all: Vec<String> = (0..size).map(|n| format!("n{n:05}=1")).collect();
        let mut stream = Stream::new(&format!("CDS {}, LDS l=1, SDS s=1", all.join(" ")));
        for text in ["CDS", "LDS", "SDS + s"] {
            let responses = stream.hears(text);
            acknowledged(&mut stream, responses);
        }
        assert!(stream.standings().values().all(|standing| *standing == Standing::Synced));
        let change = |stream: &mut Stream, change: Change, wanted: &str| {
            stream.snapshot.apply(vec![change]);
            let (looked, responses) = looks(|| stream.looks());
            assert!(looked <= 4, "{looked} looks at {size} resources");
            assert!(responses[0].ends_with(wanted), "{responses:?}");
            let (looked, ()) = looks(|| acknowledged(stream, responses));
            assert!(looked <= 4, "{looked} looks at {size} resources for an answer");
            let (looked, standings) = looks(|| stream.standings());
            assert_eq!((looked, &standings[&ResourceType::Cluster]), (0, &Standing::Synced));
        };
        change(
            &mut stream,
            Change::Set(resource(ResourceType::Cluster, "n00007", "2")),
            "CDS n00007=2",
        );
        change(&mut stream, Change::Set(resource(ResourceType::Cluster, "new", "1")), "CDS new=1");
        change(
            &mut stream,
            Change::Remove(ResourceType::Cluster, "n00003".into()),
            "CDS gone n00003",
        );
        // A burst while the client is slow costs what it changes.
        for version in 0..20 {
            stream.snapshot.apply(vec![Change::Set(resource(
                ResourceType::Cluster,
                "n00009",
                &format!("v{version}"),
            ))]);
            assert!(looks(|| stream.looks()).0 <= 25);
        }
    }
}

/// What a session has on the heap when it is idle, counted from its parts: the allocator's own overhead left out.
fn heap(session: &Session) -> usize {
    let node = |entry: usize| 11 * entry + 16;
    let subscription = |subscription: &Subscription| {
        let names = subscription.names.len();
        let of_names = names.div_ceil(6) * node(size_of::<Arc<str>>());
        let idle = subscription.owed.is_empty()
            && subscription.refused.is_empty()
            && subscription.suspects.is_empty();
        assert!(idle && subscription.under_way.is_none());
        assert!(
            subscription.held.iter().all(|held| held.resource().is_some()),
            "the snapshot's own"
        );
        size_of::<Subscription>() + of_names + subscription.held.capacity_bytes()
    };
    let types = node(size_of::<(ResourceType, Box<Subscription>)>());
    size_of::<Session>() + types + session.types.values().map(|it| subscription(it)).sum::<usize>()
}

#[test]
fn an_idle_session_of_a_cluster_takes_less_than_two_kilobytes_and_the_hubs_a_few_bytes_for_each_resource()
 {
    let mut stream =
        Stream::new("SDS a=1 b=1 c=1 d=1, CDS e=1 f=1 g=1, LDS h=1 i=1, RDS j=1 k=1 l=1");
    for text in ["CDS", "LDS", "SDS + a + b", "SDS + c + d", "RDS + j + k + l"] {
        let responses = stream.hears(text);
        acknowledged(&mut stream, responses);
    }
    assert!(stream.standings().values().all(|standing| *standing == Standing::Synced));
    let bytes = heap(&stream.session);
    assert!(bytes < 2048, "{bytes}");
    let all: Vec<String> = (0..15_000).map(|n| format!("n{n:05}=1")).collect();
    let mut stream = Stream::new(&format!("CDS {}", all.join(" ")));
    let responses = stream.hears("CDS");
    acknowledged(&mut stream, responses);
    let bytes = heap(&stream.session) / 15_000;
    assert!(bytes <= 40, "{bytes} for each");
}

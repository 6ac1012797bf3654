//! What a session costs: how many names it checks, and how much memory it takes.

use std::sync::Arc;

use super::notation::*;
use crate::xds::resource::ResourceType;
use crate::xds::session::subscription::{NAMES_CHECKED, Subscription};
use crate::xds::session::{ConfigStatus, Session};
use crate::xds::snapshot::Change;

/// How many names are checked meanwhile.
fn count_checked<T>(what: impl FnOnce() -> T) -> (u64, T) {
    let before = NAMES_CHECKED.get();
    let result = what();
    (NAMES_CHECKED.get() - before, result)
}

fn ack_all(stream: &mut Stream, mut responses: Vec<String>) {
    while let Some(response) = responses.pop() {
        let mut words = response.split(' ');
        let (nonce, kind) = (words.next().unwrap(), words.next().unwrap());
        responses.extend(stream.receives(&format!("{kind} ack {nonce}")));
    }
}

#[test]
fn one_change_among_15_000_costs_as_little_as_among_15() {
    for size in [15, 15_000] {
        let all: Vec<String> = (0..size).map(|n| format!("n{n:05}=1")).collect();
        let mut stream = Stream::new(&format!("CDS {}, LDS l=1, SDS s=1", all.join(" ")));
        for text in ["CDS", "LDS", "SDS + s"] {
            let responses = stream.receives(text);
            ack_all(&mut stream, responses);
        }
        assert!(stream.statuses().values().all(|status| *status == ConfigStatus::Synced));
        let apply = |stream: &mut Stream, change: Change, expected: &str| {
            stream.snapshot.apply(vec![change]);
            let (checked, responses) = count_checked(|| stream.on_change());
            assert!(checked <= 4, "{checked} of {size} names checked");
            assert!(responses[0].ends_with(expected), "{responses:?}");
            let (checked, ()) = count_checked(|| ack_all(stream, responses));
            assert!(checked <= 4, "{checked} of {size} names checked for an answer");
            let (checked, statuses) = count_checked(|| stream.statuses());
            assert_eq!((checked, &statuses[&ResourceType::Cluster]), (0, &ConfigStatus::Synced));
        };
        apply(
            &mut stream,
            Change::Set(resource(ResourceType::Cluster, "n00007", "2")),
            "CDS n00007=2",
        );
        apply(&mut stream, Change::Set(resource(ResourceType::Cluster, "new", "1")), "CDS new=1");
        apply(
            &mut stream,
            Change::Remove(ResourceType::Cluster, "n00003".into()),
            "CDS removed n00003",
        );
        // While a response is in flight, only the changed names are checked.
        for version in 0..20 {
            stream.snapshot.apply(vec![Change::Set(resource(
                ResourceType::Cluster,
                "n00009",
                &format!("v{version}"),
            ))]);
            assert!(count_checked(|| stream.on_change()).0 <= 25);
        }
    }
}

/// Bytes that an idle session has on the heap, counted from its parts, without the allocator's
/// overhead.
fn heap_bytes(session: &Session) -> usize {
    let btree_node = |entry: usize| 11 * entry + 16;
    let of_subscription = |subscription: &Subscription| {
        let is_idle = subscription.names.pending_response().is_empty()
            && subscription.nacks.rejected_count() == 0
            && !subscription.nacks.has_candidates()
            && !subscription.is_in_flight();
        assert!(is_idle, "{subscription:?}");
        let mut client_resources = subscription.client.iter();
        assert!(client_resources.all(|resource| resource.content().is_some()));
        let names = subscription.names.len().div_ceil(6) * btree_node(size_of::<Arc<str>>());
        size_of::<Subscription>() + names + subscription.client.memory_bytes()
    };
    let map = btree_node(size_of::<(ResourceType, Box<Subscription>)>());
    let subscriptions =
        session.subscriptions.values().map(|subscription| of_subscription(subscription));
    size_of::<Session>() + map + subscriptions.sum::<usize>()
}

#[test]
fn an_idle_session_of_a_cluster_takes_less_than_two_kilobytes() {
    let mut stream =
        Stream::new("SDS a=1 b=1 c=1 d=1, CDS e=1 f=1 g=1, LDS h=1 i=1, RDS j=1 k=1 l=1");
    for text in ["CDS", "LDS", "SDS + a + b", "SDS + c + d", "RDS + j + k + l"] {
        let responses = stream.receives(text);
        ack_all(&mut stream, responses);
    }
    assert!(stream.statuses().values().all(|status| *status == ConfigStatus::Synced));
    let bytes = heap_bytes(&stream.session);
    assert!(bytes < 2048, "{bytes}");
}

#[test]
fn an_idle_session_of_the_hub_takes_at_most_40_bytes_a_resource() {
    let all: Vec<String> = (0..15_000).map(|n| format!("n{n:05}=1")).collect();
    let mut stream = Stream::new(&format!("CDS {}", all.join(" ")));
    let responses = stream.receives("CDS");
    ack_all(&mut stream, responses);
    let bytes = heap_bytes(&stream.session) / 15_000;
    assert!(bytes <= 40, "{bytes} for each");
}

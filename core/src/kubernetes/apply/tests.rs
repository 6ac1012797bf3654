use serde_json::json;

use super::*;
use crate::kubernetes::object::Kind;

fn key(name: &str) -> Key {
    Key { kind: Kind::ConfigMap, name: name.into() }
}

fn manifest(name: &str, text: &str) -> Arc<Value> {
    let labels = json!({"app.kubernetes.io/managed-by": "atlas", "goatlas.io/part": "dns"});
    Arc::new(
        json!({"kind": "ConfigMap", "metadata": {"name": name, "labels": labels}, "data": {"text": text}}),
    )
}

fn want(reconciler: &mut ObjectApplier, objects: &[(&str, &str)]) {
    let objects = objects.iter().map(|(name, text)| (key(name), manifest(name, text))).collect();
    reconciler.want(&objects, &BTreeSet::new());
}

/// The API server, with the objects in it.
#[derive(Default)]
struct Server(BTreeMap<Key, Value>);

impl Server {
    /// Carries everything out, and tells how much that was.
    fn settle(&mut self, reconciler: &mut ObjectApplier, now: Instant) -> usize {
        let mut count = 0;
        loop {
            let actions = reconciler.next(now, 2);
            if actions.is_empty() {
                return count;
            }
            for action in actions {
                count += 1;
                match &action {
                    Action::Apply { key, manifest, ours } => {
                        if !ours && self.0.get(key).is_some_and(|live| !is_ours(live)) {
                            reconciler.done(&action, Outcome::NotOurs, now);
                            continue;
                        }
                        let mut live = (**manifest).clone();
                        live["metadata"]["uid"] = key.name.clone().into();
                        self.0.insert(key.clone(), live.clone());
                        reconciler.done(&action, Outcome::Applied(&live), now);
                    }
                    Action::Delete { key, uid } => {
                        assert_eq!(*uid, key.name);
                        self.0.remove(key);
                        reconciler.done(&action, Outcome::Deleted, now);
                    }
                }
            }
        }
    }
}

#[test]
fn only_what_differs_is_written() {
    let (mut reconciler, mut server) = (ObjectApplier::default(), Server::default());
    want(&mut reconciler, &[("a", "1"), ("b", "1"), ("c", "1")]);
    assert_eq!((reconciler.unsettled(), server.settle(&mut reconciler, 0)), (3, 3));
    want(&mut reconciler, &[("a", "1"), ("b", "2"), ("c", "1")]);
    assert_eq!(server.settle(&mut reconciler, 0), 1);
    want(&mut reconciler, &[("a", "1"), ("b", "2")]);
    assert_eq!(server.settle(&mut reconciler, 0), 1);
    want(&mut reconciler, &[("a", "1"), ("b", "2")]);
    assert_eq!(
        (server.settle(&mut reconciler, 0), reconciler.unsettled(), reconciler.due()),
        (0, 0, None)
    );
    assert_eq!(server.0.keys().cloned().collect::<Vec<_>>(), [key("a"), key("b")]);
}

#[test]
fn a_restart_writes_nothing_that_is_right_and_deletes_what_is_no_longer_wanted() {
    let (mut reconciler, mut server) = (ObjectApplier::default(), Server::default());
    want(&mut reconciler, &[("a", "1"), ("old", "1")]);
    server.settle(&mut reconciler, 0);
    let mut reconciler = ObjectApplier::default();
    want(&mut reconciler, &[("a", "1")]);
    server.0.iter().for_each(|(key, live)| reconciler.seen(key, live, 0));
    assert_eq!(server.settle(&mut reconciler, 0), 1);
    assert_eq!(server.0.keys().cloned().collect::<Vec<_>>(), [key("a")]);
}

#[test]
fn what_others_change_or_delete_is_put_right_but_not_for_ever_at_once() {
    let (mut reconciler, mut server) = (ObjectApplier::default(), Server::default());
    want(&mut reconciler, &[("a", "1")]);
    server.settle(&mut reconciler, 0);
    let mut written = 0;
    for second in 0..600 {
        let now = second * 1000;
        let wrong = json!({"metadata": {"uid": "a"}, "data": {"text": "mine!"}});
        reconciler.seen(&key("a"), &wrong, now);
        written += server.settle(&mut reconciler, now);
    }
    assert!((5..=12).contains(&written), "{written} in ten minutes");
    assert_eq!(reconciler.contested().count(), 1);
    assert_eq!(server.settle(&mut reconciler, 2_000_000), 1);
    reconciler.gone(&key("a"), 3_000_000);
    assert_eq!(server.settle(&mut reconciler, 3_000_000), 1, "after a truce it begins anew");
    assert_eq!(reconciler.contested().count(), 0);
}

#[test]
fn what_is_not_ours_is_left_alone_and_holds_up_nobody() {
    let (mut reconciler, mut server) = (ObjectApplier::default(), Server::default());
    server.0.insert(key("a"), json!({"metadata": {"labels": {"app": "theirs"}}}));
    want(&mut reconciler, &[("a", "1"), ("b", "1")]);
    server.settle(&mut reconciler, 0);
    assert_eq!(reconciler.blocked().cloned().collect::<Vec<_>>(), [key("a")]);
    assert!(server.0.contains_key(&key("b")) && server.0[&key("a")]["data"].is_null());
    server.0.remove(&key("a"));
    assert_eq!(server.settle(&mut reconciler, LONGEST_PAUSE), 1);
    assert_eq!(reconciler.blocked().count(), 0);
    want(&mut reconciler, &[]);
    assert_eq!(server.settle(&mut reconciler, LONGEST_PAUSE), 2);
}

/// Helm, kustomize and others write the label `app.kubernetes.io/managed-by` over what is there.
#[test]
fn what_another_tool_says_that_it_manages_stays_atlas_s() {
    let (mut reconciler, mut server) = (ObjectApplier::default(), Server::default());
    let mut live = (*manifest("a", "0")).clone();
    live["metadata"]["labels"]["app.kubernetes.io/managed-by"] = "Helm".into();
    server.0.insert(key("a"), live);
    want(&mut reconciler, &[("a", "1")]);
    server.settle(&mut reconciler, 0);
    let live = &server.0[&key("a")];
    assert_eq!((reconciler.blocked().count(), &live["data"]["text"]), (0, &json!("1")));
    assert_eq!(live["metadata"]["labels"], manifest("a", "1")["metadata"]["labels"]);
}

#[test]
fn a_failure_waits_longer_each_time_and_a_change_is_tried_at_once() {
    let mut reconciler = ObjectApplier::default();
    want(&mut reconciler, &[("a", "1")]);
    let mut tries = Vec::new();
    for now in (0..200_000).step_by(500) {
        for action in reconciler.next(now, 9) {
            tries.push(now / 1000);
            reconciler.done(&action, Outcome::Failed, now);
        }
    }
    assert_eq!(tries, [0, 1, 3, 7, 15, 31, 63, 123, 183]);
    want(&mut reconciler, &[("a", "2")]);
    assert_eq!(reconciler.next(200_000, 9).len(), 1);
}

#[test]
fn a_change_while_another_is_under_way_is_written_after_it() {
    let mut reconciler = ObjectApplier::default();
    want(&mut reconciler, &[("a", "1")]);
    let first = reconciler.next(0, 9);
    want(&mut reconciler, &[("a", "2")]);
    assert_eq!(reconciler.next(0, 9), []);
    let mut live = (*manifest("a", "1")).clone();
    reconciler.done(&first[0], Outcome::Applied(&live), 0);
    let second = reconciler.next(0, 9);
    assert!(
        matches!(&second[..], [Action::Apply { manifest, ours: true, .. }] if manifest["data"]["text"] == "2")
    );
    live["data"]["text"] = "2".into();
    reconciler.done(&second[0], Outcome::Applied(&live), 0);
    assert_eq!(reconciler.next(0, 9), []);
    assert_eq!(reconciler.contested().count(), 0);
}

#[test]
fn a_list_tells_what_is_gone() {
    let (mut reconciler, mut server) = (ObjectApplier::default(), Server::default());
    want(&mut reconciler, &[("a", "1"), ("b", "1")]);
    server.settle(&mut reconciler, 0);
    reconciler.listed(Kind::ConfigMap, &["b".to_owned()].into(), 0);
    reconciler.listed(Kind::Secret, &BTreeSet::new(), 0);
    assert_eq!(server.settle(&mut reconciler, 0), 1);
}

#[test]
fn nothing_is_deleted_before_anything_was_wanted() {
    let mut reconciler = ObjectApplier::default();
    reconciler.seen(&key("a"), &manifest("a", "1"), 0);
    assert_eq!(
        (reconciler.next(0, 9), reconciler.due(), reconciler.unsettled()),
        (vec![], None, 0)
    );
    want(&mut reconciler, &[]);
    assert_eq!(reconciler.next(0, 9).len(), 1);
}

#[test]
fn what_cannot_be_made_stays_as_it_is() {
    let (mut reconciler, mut server) = (ObjectApplier::default(), Server::default());
    want(&mut reconciler, &[("a", "1"), ("b", "1")]);
    server.settle(&mut reconciler, 0);
    reconciler.want(&BTreeMap::new(), &[key("a")].into());
    assert_eq!((server.settle(&mut reconciler, 0), reconciler.unsettled()), (1, 0));
    assert!(server.0.contains_key(&key("a")));
    want(&mut reconciler, &[]);
    assert_eq!(server.settle(&mut reconciler, 0), 1);
}

#[test]
fn a_watch_that_shows_own_writes_late_shows_nobody_at_work() {
    let mut reconciler = ObjectApplier::default();
    let mut shown = Vec::new();
    for n in 1..6 {
        let text = n.to_string();
        want(&mut reconciler, &[("a", &text)]);
        let action = reconciler.next(0, 9).remove(0);
        let mut live = (*manifest("a", &text)).clone();
        live["metadata"]["resourceVersion"] = text.into();
        reconciler.done(&action, Outcome::Applied(&live), 0);
        shown.push(live);
    }
    shown.iter().for_each(|live| reconciler.seen(&key("a"), live, 0));
    assert_eq!((reconciler.next(0, 9), reconciler.contested().count()), (vec![], 0));
}

fn service(name: &str) -> Key {
    Key { kind: Kind::Service, name: name.into() }
}

fn spec(name: &str, spec: Value) -> (Key, Arc<Value>) {
    let labels = json!({"app.kubernetes.io/managed-by": "atlas", "goatlas.io/part": "store"});
    (
        service(name),
        Arc::new(
            json!({"kind": "Service", "metadata": {"name": name, "labels": labels}, "spec": spec}),
        ),
    )
}

/// Another name of a Service.
fn name_of(name: &str, of: &str) -> (Key, Arc<Value>) {
    spec(
        name,
        json!({"type": "ExternalName", "externalName": format!("{of}.monitoring.svc.cluster.local")}),
    )
}

/// A Service that selects pods.
fn selecting(name: &str) -> (Key, Arc<Value>) {
    spec(name, json!({"clusterIP": "None", "selector": {"app": "envoy"}}))
}

fn want_services(reconciler: &mut ObjectApplier, services: &[(Key, Arc<Value>)]) {
    reconciler.want(&services.iter().cloned().collect(), &BTreeSet::new());
}

fn leads_to(server: &Server, name: &str) -> Option<String> {
    Object::leads_to(&server.0[&service(name)]).map(str::to_owned)
}

#[test]
fn a_name_that_leads_to_pods_is_led_elsewhere_once_there_are_pods() {
    let (mut reconciler, mut server) = (ObjectApplier::default(), Server::default());
    want_services(&mut reconciler, &[selecting("tokyo-thanos-sidecar0")]);
    server.settle(&mut reconciler, 0);

    let wanted = [
        name_of("tokyo-thanos-sidecar0", "atlas-hub-stores"),
        name_of("new", "atlas-hub-stores"),
        selecting("atlas-hub-stores"),
    ];
    want_services(&mut reconciler, &wanted);
    assert_eq!(server.settle(&mut reconciler, 0), 2, "what is new has nothing to lose");
    assert_eq!(leads_to(&server, "tokyo-thanos-sidecar0"), None);
    assert_eq!(leads_to(&server, "new").as_deref(), Some("atlas-hub-stores"));
    assert_eq!(
        (reconciler.unsettled(), reconciler.due()),
        (1, None),
        "nobody turns in circles meanwhile"
    );
    assert_eq!(
        reconciler.waiting().collect::<Vec<_>>(),
        [(&service("tokyo-thanos-sidecar0"), "atlas-hub-stores")]
    );

    reconciler.with_pods(["another".to_owned()].into());
    assert_eq!(server.settle(&mut reconciler, 0), 0);
    reconciler.with_pods(["atlas-hub-stores".to_owned()].into());
    assert_eq!(reconciler.due(), Some(0));
    assert_eq!(server.settle(&mut reconciler, 0), 1);
    assert_eq!(leads_to(&server, "tokyo-thanos-sidecar0").as_deref(), Some("atlas-hub-stores"));
    assert_eq!((reconciler.unsettled(), reconciler.waiting().count()), (0, 0));

    // What somebody else changes is put right all the same, pods or not.
    reconciler.with_pods(BTreeSet::new());
    let mut live = server.0[&service("tokyo-thanos-sidecar0")].clone();
    live["spec"]["externalName"] = "mine.example.com".into();
    reconciler.seen(&service("tokyo-thanos-sidecar0"), &live, 0);
    assert_eq!(server.settle(&mut reconciler, 0), 1);
}

#[test]
fn a_service_goes_after_the_last_name_that_leads_to_it() {
    let (mut reconciler, mut server) = (ObjectApplier::default(), Server::default());
    want_services(
        &mut reconciler,
        &[
            selecting("atlas-hub-stores-a"),
            name_of("paris", "atlas-hub-stores-a"),
            name_of("tokyo", "atlas-hub-stores-a"),
        ],
    );
    server.settle(&mut reconciler, 0);

    want_services(
        &mut reconciler,
        &[selecting("atlas-hub-stores-b"), name_of("tokyo", "atlas-hub-stores-b")],
    );
    assert_eq!(server.settle(&mut reconciler, 0), 2, "b comes, paris goes");
    assert_eq!(leads_to(&server, "tokyo").as_deref(), Some("atlas-hub-stores-a"));
    assert!(server.0.contains_key(&service("atlas-hub-stores-a")), "tokyo leads to it");

    reconciler.with_pods(["atlas-hub-stores-b".to_owned()].into());
    server.settle(&mut reconciler, 0);
    assert_eq!(leads_to(&server, "tokyo").as_deref(), Some("atlas-hub-stores-b"));
    assert_eq!(
        server.0.keys().cloned().collect::<Vec<_>>(),
        [service("atlas-hub-stores-b"), service("tokyo")]
    );
    assert_eq!((reconciler.unsettled(), reconciler.due()), (0, None));
}

use serde_json::json;

use super::*;

fn key(name: &str) -> ObjectKey {
    ObjectKey { kind: ObjectKind::ConfigMap, name: name.into() }
}

fn manifest(name: &str, text: &str) -> Arc<Value> {
    let labels = json!({"app.kubernetes.io/managed-by": "atlas", "goatlas.io/part": "dns"});
    Arc::new(
        json!({"kind": "ConfigMap", "metadata": {"name": name, "labels": labels}, "data": {"text": text}}),
    )
}

fn set_objects(applier: &mut ObjectApplier, objects: &[(&str, &str)]) {
    let desired =
        objects.iter().map(|(name, text)| (key(name), Desired::Object(manifest(name, text))));
    applier.replace_desired(&desired.collect());
}

/// The API server, with the objects in it.
#[derive(Default)]
struct Server(BTreeMap<ObjectKey, Value>);

impl Server {
    /// Carries out all actions; returns how many there were.
    fn carry_out_all(&mut self, applier: &mut ObjectApplier, now: Instant) -> usize {
        let mut count = 0;
        loop {
            let actions = applier.next_actions(now, 2);
            if actions.is_empty() {
                return count;
            }
            for action in actions {
                count += 1;
                match &action {
                    ObjectAction::Apply { key, manifest, ours } => {
                        if !ours && self.0.get(key).is_some_and(|live| !is_ours(live)) {
                            applier.on_result(&action, ActionResult::NotOurs, now);
                            continue;
                        }
                        let mut live = (**manifest).clone();
                        live["metadata"]["uid"] = key.name.clone().into();
                        self.0.insert(key.clone(), live.clone());
                        applier.on_result(&action, ActionResult::Applied(&live), now);
                    }
                    ObjectAction::Delete { key, uid } => {
                        assert_eq!(*uid, key.name);
                        self.0.remove(key);
                        applier.on_result(&action, ActionResult::Deleted, now);
                    }
                }
            }
        }
    }
}

#[test]
fn only_what_differs_is_written() {
    let (mut applier, mut server) = (ObjectApplier::default(), Server::default());
    set_objects(&mut applier, &[("a", "1"), ("b", "1"), ("c", "1")]);
    assert_eq!((applier.pending_count(), server.carry_out_all(&mut applier, 0)), (3, 3));
    set_objects(&mut applier, &[("a", "1"), ("b", "2"), ("c", "1")]);
    assert_eq!(server.carry_out_all(&mut applier, 0), 1);
    set_objects(&mut applier, &[("a", "1"), ("b", "2")]);
    assert_eq!(server.carry_out_all(&mut applier, 0), 1);
    set_objects(&mut applier, &[("a", "1"), ("b", "2")]);
    assert_eq!(
        (server.carry_out_all(&mut applier, 0), applier.pending_count(), applier.next_due()),
        (0, 0, None)
    );
    assert_eq!(server.0.keys().cloned().collect::<Vec<_>>(), [key("a"), key("b")]);
}

#[test]
fn after_a_restart_only_what_differs_is_written() {
    let (mut applier, mut server) = (ObjectApplier::default(), Server::default());
    set_objects(&mut applier, &[("a", "1"), ("old", "1")]);
    server.carry_out_all(&mut applier, 0);
    let mut applier = ObjectApplier::default();
    set_objects(&mut applier, &[("a", "1")]);
    server.0.iter().for_each(|(key, live)| applier.observe(key, live, 0));
    assert_eq!(server.carry_out_all(&mut applier, 0), 1);
    assert_eq!(server.0.keys().cloned().collect::<Vec<_>>(), [key("a")]);
}

#[test]
fn changes_by_others_are_corrected_in_longer_and_longer_pauses() {
    let (mut applier, mut server) = (ObjectApplier::default(), Server::default());
    set_objects(&mut applier, &[("a", "1")]);
    server.carry_out_all(&mut applier, 0);
    let mut written = 0;
    for second in 0..600 {
        let now = second * 1000;
        let wrong = json!({"metadata": {"uid": "a"}, "data": {"text": "mine!"}});
        applier.observe(&key("a"), &wrong, now);
        written += server.carry_out_all(&mut applier, now);
    }
    assert!((5..=12).contains(&written), "{written} in ten minutes");
    assert_eq!(applier.contested().count(), 1);
    assert_eq!(server.carry_out_all(&mut applier, 2_000_000), 1);
    applier.observe_gone(&key("a"), 3_000_000);
    assert_eq!(
        server.carry_out_all(&mut applier, 3_000_000),
        1,
        "after a quiet time it begins anew"
    );
    assert_eq!(applier.contested().count(), 0);
}

#[test]
fn an_object_that_is_not_ours_stays_and_delays_no_other() {
    let (mut applier, mut server) = (ObjectApplier::default(), Server::default());
    server.0.insert(key("a"), json!({"metadata": {"labels": {"app": "theirs"}}}));
    set_objects(&mut applier, &[("a", "1"), ("b", "1")]);
    server.carry_out_all(&mut applier, 0);
    assert_eq!(applier.blocked().cloned().collect::<Vec<_>>(), [key("a")]);
    assert!(server.0.contains_key(&key("b")) && server.0[&key("a")]["data"].is_null());
    server.0.remove(&key("a"));
    assert_eq!(server.carry_out_all(&mut applier, LONGEST_PAUSE), 1);
    assert_eq!(applier.blocked().count(), 0);
    set_objects(&mut applier, &[]);
    assert_eq!(server.carry_out_all(&mut applier, LONGEST_PAUSE), 2);
}

/// Helm, kustomize and others write the label `app.kubernetes.io/managed-by` over what is there.
#[test]
fn another_value_of_managed_by_changes_nothing() {
    let (mut applier, mut server) = (ObjectApplier::default(), Server::default());
    let mut live = (*manifest("a", "0")).clone();
    live["metadata"]["labels"]["app.kubernetes.io/managed-by"] = "Helm".into();
    server.0.insert(key("a"), live);
    set_objects(&mut applier, &[("a", "1")]);
    server.carry_out_all(&mut applier, 0);
    let live = &server.0[&key("a")];
    assert_eq!((applier.blocked().count(), &live["data"]["text"]), (0, &json!("1")));
    assert_eq!(live["metadata"]["labels"], manifest("a", "1")["metadata"]["labels"]);
}

#[test]
fn failures_wait_longer_each_time_and_changes_are_tried_at_once() {
    let mut applier = ObjectApplier::default();
    set_objects(&mut applier, &[("a", "1")]);
    let mut tries = Vec::new();
    for now in (0..200_000).step_by(500) {
        for action in applier.next_actions(now, 9) {
            tries.push(now / 1000);
            applier.on_result(&action, ActionResult::Failed, now);
        }
    }
    assert_eq!(tries, [0, 1, 3, 7, 15, 31, 63, 123, 183]);
    set_objects(&mut applier, &[("a", "2")]);
    assert_eq!(applier.next_actions(200_000, 9).len(), 1);
}

#[test]
fn a_change_during_a_write_is_written_after_it() {
    let mut applier = ObjectApplier::default();
    set_objects(&mut applier, &[("a", "1")]);
    let first = applier.next_actions(0, 9);
    set_objects(&mut applier, &[("a", "2")]);
    assert_eq!(applier.next_actions(0, 9), []);
    let mut live = (*manifest("a", "1")).clone();
    applier.on_result(&first[0], ActionResult::Applied(&live), 0);
    let second = applier.next_actions(0, 9);
    assert!(
        matches!(&second[..], [ObjectAction::Apply { manifest, ours: true, .. }] if manifest["data"]["text"] == "2")
    );
    live["data"]["text"] = "2".into();
    applier.on_result(&second[0], ActionResult::Applied(&live), 0);
    assert_eq!(applier.next_actions(0, 9), []);
    assert_eq!(applier.contested().count(), 0);
}

#[test]
fn objects_that_a_list_lacks_are_gone() {
    let (mut applier, mut server) = (ObjectApplier::default(), Server::default());
    set_objects(&mut applier, &[("a", "1"), ("b", "1")]);
    server.carry_out_all(&mut applier, 0);
    applier.observe_list(ObjectKind::ConfigMap, &["b".to_owned()].into(), 0);
    applier.observe_list(ObjectKind::Secret, &BTreeSet::new(), 0);
    assert_eq!(server.carry_out_all(&mut applier, 0), 1);
}

#[test]
fn nothing_is_deleted_before_the_desired_objects_are_known() {
    let mut applier = ObjectApplier::default();
    applier.observe(&key("a"), &manifest("a", "1"), 0);
    assert_eq!(
        (applier.next_actions(0, 9), applier.next_due(), applier.pending_count()),
        (vec![], None, 0)
    );
    set_objects(&mut applier, &[]);
    assert_eq!(applier.next_actions(0, 9).len(), 1);
}

#[test]
fn an_object_that_cannot_be_made_stays_as_it_is() {
    let (mut applier, mut server) = (ObjectApplier::default(), Server::default());
    set_objects(&mut applier, &[("a", "1"), ("b", "1")]);
    server.carry_out_all(&mut applier, 0);
    applier.replace_desired(&[(key("a"), Desired::Unchanged)].into());
    assert_eq!((server.carry_out_all(&mut applier, 0), applier.pending_count()), (1, 0));
    assert!(server.0.contains_key(&key("a")));
    set_objects(&mut applier, &[]);
    assert_eq!(server.carry_out_all(&mut applier, 0), 1);
}

#[test]
fn a_watch_that_shows_own_writes_late_shows_no_change_by_others() {
    let mut applier = ObjectApplier::default();
    let mut shown = Vec::new();
    for n in 1..6 {
        let text = n.to_string();
        set_objects(&mut applier, &[("a", &text)]);
        let action = applier.next_actions(0, 9).remove(0);
        let mut live = (*manifest("a", &text)).clone();
        live["metadata"]["resourceVersion"] = text.into();
        applier.on_result(&action, ActionResult::Applied(&live), 0);
        shown.push(live);
    }
    shown.iter().for_each(|live| applier.observe(&key("a"), live, 0));
    assert_eq!((applier.next_actions(0, 9), applier.contested().count()), (vec![], 0));
}

fn service(name: &str) -> ObjectKey {
    ObjectKey { kind: ObjectKind::Service, name: name.into() }
}

fn spec(name: &str, spec: Value) -> (ObjectKey, Arc<Value>) {
    let labels = json!({"app.kubernetes.io/managed-by": "atlas", "goatlas.io/part": "store"});
    (
        service(name),
        Arc::new(
            json!({"kind": "Service", "metadata": {"name": name, "labels": labels}, "spec": spec}),
        ),
    )
}

/// Another name of a Service.
fn name_of(name: &str, of: &str) -> (ObjectKey, Arc<Value>) {
    spec(
        name,
        json!({"type": "ExternalName", "externalName": format!("{of}.monitoring.svc.cluster.local")}),
    )
}

/// A Service that selects pods.
fn selecting(name: &str) -> (ObjectKey, Arc<Value>) {
    spec(name, json!({"clusterIP": "None", "selector": {"app": "envoy"}}))
}

fn set_services(applier: &mut ObjectApplier, services: &[(ObjectKey, Arc<Value>)]) {
    let desired =
        services.iter().map(|(key, manifest)| (key.clone(), Desired::Object(Arc::clone(manifest))));
    applier.replace_desired(&desired.collect());
}

fn external_name_target(server: &Server, name: &str) -> Option<String> {
    DerivedObject::external_name_target(&server.0[&service(name)]).map(str::to_owned)
}

#[test]
fn a_service_becomes_a_name_of_another_once_that_has_pods() {
    let (mut applier, mut server) = (ObjectApplier::default(), Server::default());
    set_services(&mut applier, &[selecting("tokyo-thanos-sidecar0")]);
    server.carry_out_all(&mut applier, 0);

    let desired = [
        name_of("tokyo-thanos-sidecar0", "atlas-hub-stores"),
        name_of("new", "atlas-hub-stores"),
        selecting("atlas-hub-stores"),
    ];
    set_services(&mut applier, &desired);
    assert_eq!(server.carry_out_all(&mut applier, 0), 2, "what is new has nothing to lose");
    assert_eq!(external_name_target(&server, "tokyo-thanos-sidecar0"), None);
    assert_eq!(external_name_target(&server, "new").as_deref(), Some("atlas-hub-stores"));
    assert_eq!(
        (applier.pending_count(), applier.next_due()),
        (1, None),
        "nobody turns in circles meanwhile"
    );
    assert_eq!(
        applier.waiting_for_pods().collect::<Vec<_>>(),
        [(&service("tokyo-thanos-sidecar0"), "atlas-hub-stores")]
    );

    applier.set_ready_services(["another".to_owned()].into());
    assert_eq!(server.carry_out_all(&mut applier, 0), 0);
    applier.set_ready_services(["atlas-hub-stores".to_owned()].into());
    assert_eq!(applier.next_due(), Some(0));
    assert_eq!(server.carry_out_all(&mut applier, 0), 1);
    assert_eq!(
        external_name_target(&server, "tokyo-thanos-sidecar0").as_deref(),
        Some("atlas-hub-stores")
    );
    assert_eq!((applier.pending_count(), applier.waiting_for_pods().count()), (0, 0));

    // What somebody else changes is put right all the same, pods or not.
    applier.set_ready_services(BTreeSet::new());
    let mut live = server.0[&service("tokyo-thanos-sidecar0")].clone();
    live["spec"]["externalName"] = "mine.example.com".into();
    applier.observe(&service("tokyo-thanos-sidecar0"), &live, 0);
    assert_eq!(server.carry_out_all(&mut applier, 0), 1);
}

#[test]
fn a_service_is_deleted_after_the_last_name_of_it() {
    let (mut applier, mut server) = (ObjectApplier::default(), Server::default());
    set_services(
        &mut applier,
        &[
            selecting("atlas-hub-stores-a"),
            name_of("paris", "atlas-hub-stores-a"),
            name_of("tokyo", "atlas-hub-stores-a"),
        ],
    );
    server.carry_out_all(&mut applier, 0);

    set_services(
        &mut applier,
        &[selecting("atlas-hub-stores-b"), name_of("tokyo", "atlas-hub-stores-b")],
    );
    assert_eq!(server.carry_out_all(&mut applier, 0), 2, "b comes, paris goes");
    assert_eq!(external_name_target(&server, "tokyo").as_deref(), Some("atlas-hub-stores-a"));
    assert!(server.0.contains_key(&service("atlas-hub-stores-a")), "tokyo leads to it");

    applier.set_ready_services(["atlas-hub-stores-b".to_owned()].into());
    server.carry_out_all(&mut applier, 0);
    assert_eq!(external_name_target(&server, "tokyo").as_deref(), Some("atlas-hub-stores-b"));
    assert_eq!(
        server.0.keys().cloned().collect::<Vec<_>>(),
        [service("atlas-hub-stores-b"), service("tokyo")]
    );
    assert_eq!((applier.pending_count(), applier.next_due()), (0, None));
}

#[test]
fn a_change_of_one_object_looks_at_no_other() {
    let mut applier = ObjectApplier::default();
    let mut server = Server::default();
    let names: Vec<String> = (0..1000).map(|n| format!("c{n}")).collect();
    let all: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), "1")).collect();
    set_objects(&mut applier, &all);
    assert_eq!(server.carry_out_all(&mut applier, 0), 1000);
    assert!(applier.queue.is_empty());

    let changes = [
        (key("c7"), Desired::Object(manifest("c7", "2"))),
        (key("c8"), Desired::Absent),
        (key("c9"), Desired::Unchanged),
        (key("c10"), Desired::Object(manifest("c10", "1"))),
        (key("unknown"), Desired::Absent),
    ];
    applier.update_desired(&changes.into());
    assert_eq!(applier.queue, [key("c7"), key("c8"), key("c9")].into());
    assert_eq!(server.carry_out_all(&mut applier, 0), 2);
    assert_eq!(server.0[&key("c7")]["data"]["text"], "2");
    assert!(!server.0.contains_key(&key("c8")) && server.0.contains_key(&key("c9")));
    assert_eq!((applier.queue.len(), applier.objects.len()), (0, 999));
}

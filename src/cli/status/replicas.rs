//! One status of several replicas. Each replica knows the Envoys that are connected to it; the rest
//! is taken from the leader.

use std::collections::BTreeMap;

use crate::kube::admin::{Admin, PodRef};
use crate::web::status::{NodeStatus, Status};

/// Asks every pod of a Service for its status, and merges the answers.
///
/// # Errors
/// There is no pod, access is denied, or no pod answers.
pub fn ask(hub: &Admin, service: &str, port: u16) -> anyhow::Result<Status> {
    let mut answers = Vec::new();
    for pod in hub.pods_of(service)? {
        let answer = hub.ask_pod(&pod.name, port, "/api/v1/status")?;
        let read = |text: String| {
            serde_json::from_str(&text)
                .map_err(|error| format!("its answer is not a status: {error}"))
        };
        answers.push((pod, answer.and_then(read)));
    }
    merge(answers)
}

/// Merges the answers. Pods that don't answer are named as problems.
fn merge(answers: Vec<(PodRef, Result<Status, String>)>) -> anyhow::Result<Status> {
    let mut silent = Vec::new();
    let mut statuses = BTreeMap::new();
    for (pod, answer) in answers {
        match answer {
            Ok(status) => _ = statuses.insert(pod.name, status),
            Err(reason) => silent.push(no_answer(&pod, &reason)),
        }
    }
    let Some(base) = best(&statuses) else {
        anyhow::bail!("no replica of Atlas answers:\n{}", silent.join("\n"))
    };
    let mut merged = statuses.remove(&base).expect("BUG: the best of the answers is none of them");
    for (name, status) in statuses {
        merge_into(&mut merged, &name, status);
    }
    merged.problems.extend(silent);
    Ok(merged)
}

fn no_answer(pod: &PodRef, reason: &str) -> String {
    let ready = if pod.ready { "" } else { " (and says that it isn't ready)" };
    format!(
        "the replica {}{ready} doesn't answer, so its Envoys are missing here: {reason}",
        pod.name
    )
}

/// The pod that the rest is taken from: the leader, else one that is ready. The Lease's holder is
/// the pod's name with a random suffix.
fn best(statuses: &BTreeMap<String, Status>) -> Option<String> {
    let leads = |name: &str, status: &Status| {
        let leader = status.leader.as_deref().unwrap_or_default();
        leader.rsplit_once('_').is_some_and(|(pod, _)| pod == name)
    };
    let leader = statuses.iter().find(|(name, status)| leads(name, status));
    let ready = statuses.iter().find(|(_, status)| status.ready);
    leader.or(ready).or_else(|| statuses.iter().next()).map(|(name, _)| name.clone())
}

fn merge_into(merged: &mut Status, pod: &str, status: Status) {
    for cluster in status.clusters {
        if let Some(known) = merged.clusters.iter_mut().find(|known| known.name == cluster.name) {
            known.connected += cluster.connected;
        }
    }
    for node in status.nodes {
        match merged.nodes.iter_mut().find(|known| known.node == node.node) {
            Some(known) => known.instances.extend(node.instances),
            // A node that only this replica lists: Envoys of a cluster that isn't there (any more),
            // or not there for others yet.
            None if !node.instances.is_empty() => insert(&mut merged.nodes, node),
            None => {}
        }
    }
    // Findings about objects are the same on every replica; those about its port are its own.
    merged
        .findings
        .extend(status.findings.into_iter().filter(|finding| finding.object.starts_with("port ")));
    let problems = status.problems.into_iter().filter(|problem| !merged.problems.contains(problem));
    let problems: Vec<String> = problems.map(|problem| format!("{pod}: {problem}")).collect();
    merged.problems.extend(problems);
}

/// Inserts a node. The hub is first, the others are sorted by name.
fn insert(nodes: &mut Vec<NodeStatus>, node: NodeStatus) {
    let place = nodes
        .iter()
        .position(|known| known.node != "hub" && known.node > node.node)
        .unwrap_or(nodes.len());
    nodes.insert(place, node);
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pod(name: &str) -> PodRef {
        PodRef { name: name.into(), ready: true }
    }

    fn instance(id: &str) -> Value {
        json!({
            "id": id, "version": "1.40.0", "address": "192.0.2.7:1", "spiffe_id": "", "fingerprint": "", "credential_not_after": 0,
            "since": 0, "types": {},
        })
    }

    fn status(
        leader: &str,
        instances: &[(&str, &str)],
        troubles: &[&str],
    ) -> Result<Status, String> {
        let node = |name: &str| {
            let own: Vec<Value> = instances
                .iter()
                .filter(|(node, _)| *node == name)
                .map(|(_, id)| instance(id))
                .collect();
            json!({"node": name, "instances": own, "leaf_not_after": null, "credential_not_after": null, "revision": null})
        };
        let connected = instances.iter().filter(|(node, _)| *node == "tokyo").count();
        let mut nodes = vec![node("hub"), node("tokyo")];
        nodes.extend(
            instances.iter().filter(|(name, _)| *name == "lost").map(|(name, _)| node(name)),
        );
        Ok(serde_json::from_value(json!({
            "version": "0.4.0", "now": 0, "ready": true, "leader": leader, "nodes": nodes,
            "clusters": [{"name": "tokyo", "addresses": [], "stores": [], "connected": connected}],
            "errors": [], "troubles": troubles, "findings": [], "authorities": {},
        }))
        .unwrap())
    }

    #[test]
    fn instances_are_merged_and_the_rest_is_the_leader_s() {
        let answers = vec![
            (
                pod("atlas-0"),
                status("atlas-1_x", &[("tokyo", "a"), ("lost", "c")], &["only here", "both"]),
            ),
            (pod("atlas-1"), status("atlas-1_x", &[("tokyo", "b"), ("hub", "h")], &["both"])),
        ];
        let merged = merge(answers).unwrap();
        assert_eq!(merged.clusters[0].connected, 2);
        let nodes: Vec<(&str, Vec<&str>)> = merged
            .nodes
            .iter()
            .map(|node| {
                (node.node.as_str(), node.instances.iter().map(|one| one.id.as_str()).collect())
            })
            .collect();
        assert_eq!(nodes, [("hub", vec!["h"]), ("lost", vec!["c"]), ("tokyo", vec!["b", "a"])]);
        assert_eq!(merged.problems, ["both", "atlas-0: only here"]);
    }

    #[test]
    fn a_replica_that_does_not_answer_is_named() {
        let silent = || (PodRef { ready: false, ..pod("atlas-1") }, Err("timeout".to_owned()));
        let merged =
            merge(vec![(pod("atlas-0"), status("atlas-1_x", &[("tokyo", "a")], &[])), silent()])
                .unwrap();
        assert_eq!(merged.clusters[0].connected, 1);
        assert!(
            merged.problems[0].contains("atlas-1") && merged.problems[0].contains("timeout"),
            "{:?}",
            merged.problems
        );
        assert!(merge(vec![silent()]).unwrap_err().to_string().contains("atlas-1"));
    }
}

//! What Atlas writes to a real API server: heals it, removes it, takes nothing over, and loses
//! nothing with an API server that lost everything.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, ensure};
use atlas_lab::process::{Proc, wait_until};
use atlas_lab::run::Kube;
use atlas_lab::world::Host;
use atlas_lab::world_test;
use serde_json::{Value, json};

use crate::atlas;

const SECOND: Duration = Duration::from_secs(1);

/// The path of something in Atlas's namespace.
pub fn at(path: &str) -> String {
    format!("/api/v1/namespaces/monitoring/{path}")
}

/// Atlas with all rights.
pub fn start_atlas(host: &Host, kube: &Kube, name: &str) -> anyhow::Result<Proc> {
    let mut command = Command::new(atlas());
    command
        .arg("run")
        .arg("--kubeconfig")
        .arg(kube.admin_kubeconfig())
        .args(["--hub-address", "hub.example.com"]);
    host.spawn(name, &command)
}

/// A cluster's Service, as a person would write it.
pub fn cluster(name: &str, replicas: u32) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {
            "name": name, "namespace": "monitoring",
            "labels": {"goatlas.io/cluster": "true", "goatlas.io/replicas": replicas.to_string()},
            "annotations": {"goatlas.io/addresses": "192.0.2.7", "goatlas.io/prometheus-name": "k8s"},
        },
        "spec": {"clusterIP": "None", "ports": [{"name": "grpc", "port": 10901}]},
    })
}

/// What stands in a Secret or ConfigMap as text.
pub fn text(object: &Value, key: &str) -> String {
    object["data"][key].as_str().unwrap_or_default().to_owned()
}

world_test! {
    needs [Etcd, KubeApiserver, KubeControllerManager],
    within 120,
    fn kube_the_writer_heals_removes_and_takes_nothing_over(world) {
        let host = world.host("hub")?;
        let kube = Kube::start(&host)?;
        kube.namespace("monitoring", &[])?;
        let theirs = json!({
            "apiVersion": "v1", "kind": "Secret", "metadata": {"name": "paris-envoy-values", "labels": {"team": "paris"}},
            "stringData": {"mine": "yes"},
        });
        kube.apply_objects("monitoring", &[theirs])?;
        let _atlas = start_atlas(&host, &kube, "atlas")?;
        kube.apply_objects("monitoring", &[cluster("tokyo", 2), cluster("paris", 1)])?;
        let values = kube.wait_for(&at("secrets/tokyo-envoy-values"), 40 * SECOND, |_| true)?;
        for path in ["services/tokyo-thanos-sidecar0", "services/tokyo-thanos-sidecar1", "services/paris-thanos-sidecar0", "secrets/atlas-hub"] {
            kube.wait_for(&at(path), 10 * SECOND, |_| true)?;
        }
        kube.wait_for(&at("configmaps/atlas-thanos-endpoints"), 10 * SECOND, |map| {
            text(map, "endpoints.yaml").contains("- address: tokyo-thanos-sidecar1.monitoring.svc.cluster.local:10901")
        })?;

        // Somebody else's Secret of that name stays as it was, and holds up nobody.
        let foreign = kube.get(&at("secrets/paris-envoy-values"))?;
        ensure!(foreign["data"].as_object().map(|data| data.len()) == Some(1), "{foreign:#}");
        let log = || std::fs::read_to_string(host.dir().join("atlas.log"));
        wait_until("it is said", 10 * SECOND, || Ok(log()?.contains("Secret paris-envoy-values in monitoring: there is one that is not Atlas's").then_some(())))?;

        // What people change or delete comes back; what they add stays.
        let added = json!({"metadata": {"labels": {"team": "sre"}}});
        kube.merge_patch(&at("services/tokyo-thanos-sidecar0"), &added)?;
        kube.merge_patch(&at("services/tokyo-thanos-sidecar0"), &json!({"spec": {"externalName": "mine.example.com"}}))?;
        // A label that other tools write too: what has another value there is Atlas's all the same.
        let by_helm = json!({"metadata": {"labels": {"app.kubernetes.io/managed-by": "Helm"}}});
        for path in ["services/tokyo-thanos-sidecar1", "secrets/tokyo-envoy-values"] {
            kube.merge_patch(&at(path), &by_helm)?;
            kube.wait_for(&at(path), 10 * SECOND, |object| object["metadata"]["labels"]["app.kubernetes.io/managed-by"] == "atlas")?;
        }
        let host = "atlas-hub-stores.monitoring.svc.cluster.local";
        let healed = kube.wait_for(&at("services/tokyo-thanos-sidecar0"), 10 * SECOND, |service| service["spec"]["externalName"] == host)?;
        ensure!(healed["metadata"]["labels"]["team"] == "sre", "{healed:#}");
        let changed = json!({"spec": {"selector": {"app": "mine", "and": "more"}}});
        kube.merge_patch(&at("services/atlas-hub-stores"), &changed)?;
        kube.wait_for(&at("services/atlas-hub-stores"), 10 * SECOND, |service| service["spec"]["selector"]["app"] == "envoy")?;
        kube.merge_patch(&at("secrets/tokyo-envoy-values"), &json!({"data": {"tls.key": "bWluZQ=="}}))?;
        kube.wait_for(&at("secrets/tokyo-envoy-values"), 10 * SECOND, |secret| text(secret, "tls.key") == text(&values, "tls.key"))?;
        kube.delete(&at("secrets/tokyo-envoy-values"))?;
        kube.wait_for(&at("secrets/tokyo-envoy-values"), 10 * SECOND, |secret| text(secret, "tls.key") == text(&values, "tls.key"))?;
        let record = kube.get(&at("secrets/tokyo.atlas-cluster"))?;
        kube.delete(&at("secrets/tokyo.atlas-cluster"))?;
        let again = kube.wait_for(&at("secrets/tokyo.atlas-cluster"), 10 * SECOND, |_| true)?;
        for key in ["issued.json", "leaf.pem", "bootstrap.pem"] {
            ensure!(!text(&record, key).is_empty() && text(&again, key) == text(&record, key), "{key} is another one");
        }

        // What is no longer wanted goes; what is not Atlas's stays.
        kube.apply_objects("monitoring", &[cluster("tokyo", 1)])?;
        kube.wait_gone(&at("services/tokyo-thanos-sidecar1"), 10 * SECOND)?;
        kube.delete(&at("services/tokyo"))?;
        for path in ["services/tokyo-thanos-sidecar0", "secrets/tokyo-envoy-values"] {
            kube.wait_gone(&at(path), 20 * SECOND)?;
        }
        kube.get(&at("secrets/tokyo.atlas-cluster")).context("the credential sleeps")?;
        kube.delete(&at("secrets/paris-envoy-values"))?;
        // It is looked at once a minute; an edit of the cluster is tried at once.
        kube.merge_patch(&at("services/paris"), &json!({"metadata": {"annotations": {"goatlas.io/envoy-replicas": "3"}}}))?;
        kube.wait_for(&at("secrets/paris-envoy-values"), 70 * SECOND, |secret| !text(secret, "values.yaml").is_empty())?;
    }
}

world_test! {
    needs [Etcd, KubeApiserver, KubeControllerManager],
    within 120,
    fn kube_deleted_or_older_secrets_cost_no_credential(world) {
        let host = world.host("hub")?;
        let kube = Kube::start(&host)?;
        kube.namespace("monitoring", &[])?;
        let _atlas = start_atlas(&host, &kube, "atlas")?;
        kube.apply_objects("monitoring", &[cluster("tokyo", 1), cluster("paris", 1)])?;
        for name in ["tokyo", "paris"] {
            kube.wait_for(&at(&format!("secrets/{name}-envoy-values")), 40 * SECOND, |_| true)?;
        }
        let records = ["tokyo.atlas-cluster", "paris.atlas-cluster", "atlas-leaves"].map(|name| at(&format!("secrets/{name}")));
        let before: Vec<Value> = records.iter().map(|path| kube.get(path)).collect::<Result<_, _>>()?;
        for path in &records {
            kube.delete(path)?;
        }
        for (path, before) in records.iter().zip(&before) {
            let after = kube.wait_for(path, 20 * SECOND, |_| true)?;
            ensure!(after["data"] == before["data"], "{path} is another one");
        }

        // A broken record takes nothing away: neither what was made of it, nor the others.
        let spoilt = json!({"data": {"issued.json": "aGFsZg=="}});
        kube.merge_patch(&records[0], &spoilt)?;
        let log = || std::fs::read_to_string(host.dir().join("atlas.log"));
        wait_until("it is said", 20 * SECOND, || Ok(log()?.contains("the Secret tokyo.atlas-cluster is broken").then_some(())))?;
        kube.apply_objects("monitoring", &[cluster("osaka", 1)])?;
        kube.wait_for(&at("secrets/osaka-envoy-values"), 20 * SECOND, |_| true)?;
        kube.get(&at("secrets/tokyo-envoy-values")).context("the last copy of the credential")?;
        ensure!(kube.get(&records[0])?["data"]["issued.json"] == "aGFsZg==", "the list is nobody's to make anew");
        let good = json!({"data": {"issued.json": before[0]["data"]["issued.json"]}});
        kube.merge_patch(&records[0], &good)?;
    }
}

//! The charts' objects in a real API server: its validation, and its admission by the pod-security level `restricted`.
//!
//! What no API server of ours knows (ServiceMonitor, PrometheusRule) is left out. So is the case with IPv6, since this
//! one has IPv4 alone. Nothing starts: there are no nodes.

use std::time::Duration;

use atlas_lab::process::wait_until;
use atlas_lab::run::Kube;
use atlas_lab::world_test;
use serde_json::{Value as Json, json};

use super::*;

/// How long Kubernetes may take to take note of something.
const SOON: Duration = Duration::from_secs(20);
/// Namespaces that values name beside the release's own.
const OTHERS: [&str; 3] = ["alerting", "prometheus", "ingress-nginx"];

world_test! {
    needs [Etcd, KubeApiserver, KubeControllerManager],
    fn kube_charts_objects_are_accepted(world) {
        let kube = Kube::start(&world.host("kube")?)?;
        for namespace in OTHERS {
            kube.namespace(namespace, &[])?;
        }
        let range = json!({"cidrs": ["10.43.0.0/16"]});
        let range = json!({"apiVersion": "networking.k8s.io/v1", "kind": "ServiceCIDR", "metadata": {"name": "k3s"}, "spec": range});
        // The range of K3s, in which 0.3's address of the DNS Service lies. It counts once the allocator has seen it.
        kube.apply_objects("default", &[range])?;
        let service = json!({"clusterIP": "10.43.43.11", "ports": [{"port": 53}]});
        let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "probe"}, "spec": service});
        wait_until("addresses of the range of K3s are given", SOON, || kube.apply_objects("default", std::slice::from_ref(&service)).map(Some))?;
        let mut tried = 0;
        for chart in CHARTS {
            for case in cases(chart)?.into_iter().filter(|case| case.name != "ipv6-load-balancer") {
                tried += accepted(&kube, &case).with_context(|| format!("{chart}/{}", case.name))?;
            }
        }
        ensure!(tried > 30, "only {tried} Pods were tried");
    }
}

/// Applies a case's objects, and creates a Pod of each template. Yields how many Pods.
fn accepted(kube: &Kube, case: &Case) -> Result<usize> {
    let namespace = format!("{}-{}", case.chart, case.name.replace('.', "-"));
    let level = |level| [("pod-security.kubernetes.io/enforce", level)];
    kube.namespace(&namespace, &level("restricted"))?;
    let nobody =
        json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "nobody"}});
    kube.apply_objects(&namespace, &[nobody])?;

    let objects = case.objects(&[])?;
    let known = objects
        .iter()
        .filter(|object| !text(object, "apiVersion").starts_with("monitoring.coreos.com/"));
    let objects: Vec<_> = known.map(|object| moved(object, &namespace)).collect::<Result<_>>()?;
    // A Pod of its own comes last, after the ServiceAccounts that it may name.
    let (pods, others): (Vec<_>, Vec<_>) =
        objects.into_iter().partition(|object| object["kind"] == "Pod");
    kube.apply_objects(&namespace, &others)?;

    let templates = others.iter().filter(|object| object["kind"] == "Deployment").map(pod_of);
    let pods: Vec<_> = templates.chain(pods).collect();
    for pod in &pods {
        let path = format!("/api/v1/namespaces/{namespace}/pods");
        if !has_host_port(pod) {
            kube.create(&path, pod)?;
            continue;
        }
        // What NOTES and values.yaml say of host ports.
        let refused =
            kube.create(&path, pod).err().map(|error| format!("{error:#}")).unwrap_or_default();
        ensure!(
            refused.contains("violates PodSecurity") && refused.contains("hostPort"),
            "host ports are not refused: {refused}"
        );
        let privileged = format!("{namespace}-privileged");
        kube.namespace(&privileged, &level("privileged"))?;
        let mut pod = pod.clone();
        pod["metadata"]["namespace"] = json!(privileged);
        kube.create(&format!("/api/v1/namespaces/{privileged}/pods"), &pod)?;
    }
    Ok(pods.len())
}

/// The object in a namespace of its case, so that cases don't meet, unless its namespace is one of [`OTHERS`].
fn moved(object: &Value, namespace: &str) -> Result<Json> {
    let mut object = serde_json::to_value(object)?;
    if !OTHERS.iter().any(|other| object["metadata"]["namespace"] == *other) {
        object["metadata"]["namespace"] = json!(namespace);
    }
    // Of these, one cluster has one.
    if object["metadata"]["name"] == "atlas-alertmanager-configs" {
        object["metadata"]["namespace"] = json!(namespace);
    }
    Ok(object)
}

/// The Pod that a Deployment's controller would make.
fn pod_of(deployment: &Json) -> Json {
    let mut pod = deployment["spec"]["template"].clone();
    pod["apiVersion"] = json!("v1");
    pod["kind"] = json!("Pod");
    pod["metadata"]["name"] =
        json!(format!("{}-0", deployment["metadata"]["name"].as_str().unwrap_or_default()));
    pod["metadata"]["namespace"] = deployment["metadata"]["namespace"].clone();
    pod
}

fn has_host_port(pod: &Json) -> bool {
    let ports = pod["spec"]["containers"]
        .as_array()
        .into_iter()
        .flatten()
        .flat_map(|container| container["ports"].as_array());
    ports.flatten().any(|port| !port["hostPort"].is_null())
}

//! An API server accepts the objects of the charts, with the pod security level `restricted`.
//!
//! Left out are the kinds that the API server of the tests doesn't know (ServiceMonitor,
//! PrometheusRule), and the case with IPv6, because this one has IPv4 only. No Pod starts, because
//! there are no nodes.

use std::time::Duration;

use atlas_lab::process::wait_until;
use atlas_lab::run::Kube;
use atlas_lab::world_test;
use serde_json::{Value as Json, json};

use super::*;

/// How long Kubernetes may take to use a new range of Service addresses.
const ALLOCATOR_TIMEOUT: Duration = Duration::from_secs(20);
/// The namespaces in the values of cases, beside that of the release.
const OTHER_NAMESPACES: [&str; 3] = ["alerting", "prometheus", "ingress-nginx"];

world_test! {
    needs [Etcd, KubeApiserver, KubeControllerManager],
    fn kube_charts_objects_are_accepted(world) {
        let kube = Kube::start(&world.host("kube")?)?;
        for namespace in OTHER_NAMESPACES {
            kube.namespace(namespace, &[])?;
        }
        let range = json!({"cidrs": ["10.43.0.0/16"]});
        let range = json!({"apiVersion": "networking.k8s.io/v1", "kind": "ServiceCIDR", "metadata": {"name": "k3s"}, "spec": range});
        // The address range of K3s, which contains the DNS Service's address of Atlas 0.3.
        // Addresses of the range can be used after the allocator has noticed it.
        kube.apply_objects("default", &[range])?;
        let service = json!({"clusterIP": "10.43.43.11", "ports": [{"port": 53}]});
        let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "probe"}, "spec": service});
        wait_until("addresses of the range of K3s are given", ALLOCATOR_TIMEOUT, || kube.apply_objects("default", std::slice::from_ref(&service)).map(Some))?;
        let mut tried = 0;
        for chart in CHARTS {
            for case in cases(chart)?.into_iter().filter(|case| case.name != "ipv6-load-balancer") {
                tried += accepted(&kube, &case).with_context(|| format!("{chart}/{}", case.name))?;
            }
        }
        ensure!(tried > 30, "only {tried} Pods were tried");
    }
}

/// Applies a case's objects and creates a Pod of each template. Returns the number of Pods.
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
    // Pods last, after the ServiceAccounts that they use.
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
        // As NOTES and values.yaml describe.
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

/// The object in its case's own namespace, so that objects of different cases don't conflict,
/// unless it is in one of [`OTHER_NAMESPACES`].
fn moved(object: &Value, namespace: &str) -> Result<Json> {
    let mut object = serde_json::to_value(object)?;
    if !OTHER_NAMESPACES.iter().any(|other| object["metadata"]["namespace"] == *other) {
        object["metadata"]["namespace"] = json!(namespace);
    }
    // Cases would conflict here, because a cluster has one object of this name.
    if object["metadata"]["name"] == "atlas-alertmanager-configs" {
        object["metadata"]["namespace"] = json!(namespace);
    }
    Ok(object)
}

/// The Pod of a Deployment.
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

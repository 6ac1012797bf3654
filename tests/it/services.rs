//! What people's Services say of a cluster, on the real programs: which of the pods' Services is
//! named, and what an API server makes of its addresses.

use std::time::Duration;

use anyhow::{Result, ensure};
use atlas_lab::process::wait_until;
use atlas_lab::run::Kube;
use atlas_lab::scene::{Cluster, ClusterOptions, Hub, HubOptions, Place, Scene, prove};
use atlas_lab::{http, world_test};
use serde_json::{Value, json};

use crate::atlas;
use crate::kube_writer::{cluster, start_atlas};

world_test! {
    needs [Envoy, Thanos, Prometheus, Alertmanager, CoreDns],
    fn stores_are_found_whichever_service_of_their_pods_is_named(world) {
        let mut hub = Hub::start(Place::in_world(world, "hub")?, HubOptions::new(atlas()))?;
        let mut clusters = Vec::new();
        // Their DNS has the pods' names as Kubernetes has them: under the governing Service, and
        // under no other.
        for (name, service) in [("tokyo", "kube-prometheus-stack-thanos-discovery.monitoring"), ("paris", "prometheus-operated")] {
            let named = ("goatlas.io/prometheus-name".into(), "kube-prometheus-stack-prometheus".into());
            let annotations = vec![named, ("goatlas.io/thanos-service".into(), service.into())];
            let options = ClusterOptions { annotations, ..ClusterOptions::new(name) };
            clusters.push(Cluster::start(Place::in_world(world, name)?, &mut hub, options)?);
        }
        let mut scene = Scene { hub, clusters };
        scene.wait_connected()?;
        println!("{}", prove::stores(&mut scene)?);
        let status = scene.hub.atlas.status()?;
        ensure!(status["clusters"].as_array().into_iter().flatten().all(|cluster| cluster["stores"][1]["exact"] == true), "{status:#}");
        ensure!(!status["findings"].to_string().contains("prometheus-name"), "{status:#}");
    }
}

world_test! {
    needs [Etcd, KubeApiserver, KubeControllerManager],
    within 120,
    fn kube_what_an_api_server_makes_of_a_service_s_addresses_is_told(world) {
        let host = world.host("hub")?;
        let kube = Kube::start(&host)?;
        kube.namespace("monitoring", &[])?;
        let _atlas = start_atlas(&host, &kube, "atlas")?;
        let service = |name: &str, spec: Value| {
            let mut service = cluster(name, 1);
            service["metadata"]["annotations"] = json!({"goatlas.io/prometheus-name": "k8s"});
            service["spec"] = spec;
            service
        };
        let ports = json!([{"name": "grpc", "port": 10901}]);
        kube.apply_objects("monitoring", &[
            service("tokyo", json!({"externalIPs": ["192.0.2.7"], "ports": ports})),
            service("osaka", json!({"clusterIP": "None", "externalIPs": ["192.0.2.8"], "ports": ports})),
            service("paris", json!({"type": "ExternalName", "externalName": "edge.paris.example.com"})),
            service("rome", json!({"type": "LoadBalancer", "ports": ports})),
        ])?;
        let status = wait_until("four clusters", Duration::from_secs(40), || {
            let answer = host.within(|| http::get("http://127.0.0.1:6310/api/v1/status"))?;
            let status: Value = serde_json::from_str(&answer.text())?;
            Ok((status["clusters"].as_array().map(Vec::len) == Some(4)).then_some(status))
        })?;
        println!("{}", status["findings"]);
        let addresses = |name: &str| -> Result<Value> {
            let found = status["clusters"].as_array().into_iter().flatten().find(|cluster| cluster["name"] == name);
            Ok(found.ok_or_else(|| anyhow::anyhow!("no {name}"))?["addresses"].clone())
        };
        ensure!(addresses("tokyo")? == json!(["192.0.2.7:11901"]) && addresses("osaka")? == json!(["192.0.2.8:11901"]));
        ensure!(addresses("paris")? == json!(["edge.paris.example.com:11901"]) && addresses("rome")? == json!([]));
        let told = |name: &str| -> Vec<String> {
            let findings = status["findings"].as_array().into_iter().flatten();
            findings.filter(|finding| finding["object"] == format!("Service monitoring/{name}")).map(|finding| finding["key"].to_string()).collect()
        };
        ensure!(told("tokyo") == ["\"spec.externalIPs\""] && told("rome") == ["\"spec.type\""], "{:?} {:?}", told("tokyo"), told("rome"));
        // The note says that the field can't be changed.
        let refused = kube.merge_patch("/api/v1/namespaces/monitoring/services/tokyo", &json!({"spec": {"clusterIP": "None"}}));
        ensure!(refused.as_ref().is_err_and(|error| format!("{error:#}").contains("clusterIP")), "{refused:?}");
        ensure!(told("osaka").is_empty() && told("paris").is_empty(), "{:?} {:?}", told("osaka"), told("paris"));
    }
}

//! The least that Atlas does on a real API server: what it writes, who leads, what it says.

use std::process::Command;
use std::time::Duration;

use atlas_lab::run::Kube;
use atlas_lab::world_test;

use crate::atlas;

const SECOND: Duration = Duration::from_secs(1);

world_test! {
    needs [Etcd, KubeApiserver, KubeControllerManager],
    fn kube_a_cluster_s_objects_are_written(world) {
        let host = world.host("hub")?;
        let kube = Kube::start(&host)?;
        kube.namespace("monitoring", &[])?;
        let mut command = Command::new(atlas());
        command.arg("run").arg("--kubeconfig").arg(kube.admin_kubeconfig()).args(["--hub-address", "hub.example.com"]);
        let _atlas = host.spawn("atlas", &command)?;
        kube.apply("
apiVersion: v1
kind: Service
metadata:
  name: tokyo
  namespace: monitoring
  labels: {goatlas.io/cluster: 'true', goatlas.io/replicas: '2'}
  annotations: {goatlas.io/addresses: 192.0.2.7, goatlas.io/prometheus-name: k8s}
spec: {clusterIP: None, ports: [{name: grpc, port: 10901}]}
")?;
        let at = |path: &str| format!("/api/v1/namespaces/monitoring/{path}");
        let secret = kube.wait_for(&at("secrets/tokyo-envoy-values"), 40 * SECOND, |_| true)?;
        println!("{:?}", secret["data"].as_object().unwrap().keys());
        for path in ["services/tokyo-thanos-sidecar0", "services/tokyo-thanos-sidecar1", "secrets/atlas-hub", "configmaps/atlas-coredns"] {
            kube.wait_for(&at(path), 10 * SECOND, |_| true)?;
        }
        println!("{}", kube.get(&at("configmaps/atlas-coredns"))?["data"]["atlas.zone"]);
        for secret in kube.list(&at("secrets"))? {
            println!("{} {:?}", secret["metadata"]["name"], secret["metadata"]["labels"]);
        }
        println!("{:#}", kube.list(&at("events"))?.iter().map(|e| e["message"].to_string()).collect::<Vec<_>>().join("\n"));
        std::thread::sleep(10 * SECOND);
        println!("{}", std::fs::read_to_string(host.dir().join("atlas.log"))?);
    }
}

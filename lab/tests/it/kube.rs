//! The real Kubernetes in a private world, and what the lab lays over it.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use atlas_lab::parts::{self, Part};
use atlas_lab::process::wait_until;
use atlas_lab::run::{CoreDns, Corefile, Kube, Kubelet, helm_install, helm_uninstall};
use atlas_lab::world::Host;
use atlas_lab::world_test;
use serde_json::{Value, json};

/// How long a controller may take.
const SOON: Duration = Duration::from_secs(20);

/// Two namespaces, each with a Secret; the ServiceAccount `atlas` may read those of its own.
const TWO_NAMESPACES: &str = "
apiVersion: v1
kind: Namespace
metadata: {name: monitoring}
---
apiVersion: v1
kind: Namespace
metadata: {name: elsewhere}
---
apiVersion: v1
kind: Secret
metadata: {name: secret, namespace: monitoring}
stringData: {key: ours}
---
apiVersion: v1
kind: Secret
metadata: {name: secret, namespace: elsewhere}
stringData: {key: theirs}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: atlas, namespace: monitoring}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: atlas, namespace: monitoring}
rules: [{apiGroups: [''], resources: [secrets], verbs: [get, list]}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: atlas, namespace: monitoring}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: atlas}
subjects: [{kind: ServiceAccount, name: atlas, namespace: monitoring}]
";

world_test! {
    needs [Etcd, KubeApiserver, KubeControllerManager, Kubectl],
    fn kube_binds_a_service_accounts_token_by_rbac(world) {
        let kube = Kube::start(&world.host("kube")?)?;
        kube.apply(TWO_NAMESPACES)?;
        let version: Value = kube.get("/version")?;
        assert_eq!((version["gitVersion"].as_str(), version["minor"].as_str()), (Some("v1.36.3"), Some("36")));

        let atlas = kube.client_for_service_account("monitoring", "atlas")?;
        assert_eq!(atlas.get("/api/v1/namespaces/monitoring/secrets/secret")?["metadata"]["name"], "secret");
        let status = |path: &str| anyhow::Ok(atlas.request("GET", path, None)?.status);
        assert_eq!(status("/api/v1/namespaces/elsewhere/secrets/secret")?, 403);
        assert_eq!(status("/api/v1/secrets")?, 403);
        assert_eq!(atlas.with_token("nobody")?.request("GET", "/api/v1/secrets", None)?.status, 401);

        // The kubeconfig works from another host: the certificate covers the API server's address.
        let tokyo = world.host("tokyo")?;
        let mut kubectl = Command::new(parts::get(Part::Kubectl)?);
        kubectl.arg("--kubeconfig").arg(kube.kubeconfig_for_service_account("monitoring", "atlas")?);
        kubectl.env("HOME", tokyo.dir()).args(["get", "secrets", "--output=name"]);
        assert_eq!(tokyo.run(&kubectl)?, "secret/secret\n");
    }
}

world_test! {
    needs [Etcd, KubeApiserver, KubeControllerManager],
    fn kube_collects_what_a_deleted_owner_leaves(world) {
        let kube = Kube::start(&world.host("kube")?)?;
        kube.namespace("monitoring", &[])?;
        let services = "/api/v1/namespaces/monitoring/services";
        let service = |name: &str, owners: Value| json!({
            "apiVersion": "v1", "kind": "Service",
            "metadata": {"name": name, "ownerReferences": owners},
            "spec": {"clusterIP": "None", "ports": [{"port": 10901}]},
        });
        let owner = kube.apply_objects("monitoring", &[service("tokyo", json!([]))])?;
        let reference = json!([{"apiVersion": "v1", "kind": "Service", "name": "tokyo", "uid": owner[0]["metadata"]["uid"]}]);
        kube.apply_objects("monitoring", &[service("tokyo-thanos-sidecar0", reference), service("paris", json!([]))])?;
        kube.delete(&format!("{services}/tokyo"))?;
        kube.wait_gone(&format!("{services}/tokyo-thanos-sidecar0"), SOON)?;
        assert!(kube.find(&format!("{services}/paris"))?.is_some());
    }
}

world_test! {
    needs [Etcd, KubeApiserver, KubeControllerManager],
    fn kube_makes_endpoint_slices_of_pods_without_a_kubelet(world) {
        let kube = Kube::start(&world.host("kube")?)?;
        kube.namespace("monitoring", &[])?;
        kube.apply(HEADLESS)?;
        let ip: IpAddr = [10, 91, 7, 1].into();
        kube.pod_with_ip("monitoring", "envoy-0", &[("app", "envoy")], ip, &[("stores", 10901)])?;
        let slices = "/apis/discovery.k8s.io/v1/namespaces/monitoring/endpointslices?labelSelector=kubernetes.io%2Fservice-name%3Dtokyo";
        let first = |list: &Value| list["items"][0].clone();
        let endpoint = |list: &Value| first(list)["endpoints"][0].clone();
        let list = kube.wait_for(slices, SOON, |list| endpoint(list)["conditions"]["ready"] == true)?;
        assert_eq!(endpoint(&list)["addresses"], json!([ip]));
        assert_eq!(first(&list)["ports"][0]["port"], 10901);
        kube.report_pod("monitoring", "envoy-0", ip, false)?;
        kube.wait_for(slices, SOON, |list| endpoint(list)["conditions"]["ready"] == false)?;
        kube.delete("/api/v1/namespaces/monitoring/pods/envoy-0")?;
        kube.wait_for(slices, SOON, |list| endpoint(list).is_null())?;
    }
}

const HEADLESS: &str = "
apiVersion: v1
kind: Service
metadata: {name: tokyo, namespace: monitoring}
spec:
  clusterIP: None
  selector: {app: envoy}
  ports: [{name: grpc, port: 10901, targetPort: stores}]
";

world_test! {
    needs [Etcd, KubeApiserver, KubeControllerManager],
    fn kube_survives_its_api_servers_end_and_can_be_made_anew(world) {
        let mut kube = Kube::start(&world.host("kube")?)?;
        kube.apply(TWO_NAMESPACES)?;
        let secret = "/api/v1/namespaces/monitoring/secrets/secret";
        let token = kube.token_of("monitoring", "atlas", None)?;

        kube.stop_api()?;
        assert!(kube.get(secret).is_err());
        kube.start_api()?;
        let before = kube.get(secret)?;
        kube.pause_api()?;
        kube.resume_api()?;
        assert_eq!(kube.get(secret)?, before);
        assert_eq!(kube.with_token(&token)?.get(secret)?, before);

        kube.restart_empty()?;
        assert_eq!(kube.find(secret)?, None);
        kube.apply(TWO_NAMESPACES)?;
        assert_eq!(kube.with_token(&token)?.request("GET", secret, None)?.status, 401, "the ServiceAccount is another one");
    }
}

/// The IPv4 addresses of a name, as `host` resolves it.
fn addresses(host: &Host, name: &str) -> anyhow::Result<Vec<String>> {
    let answer = host.run(Command::new("getent").args(["ahostsv4", name]))?;
    let mut addresses: Vec<String> = answer
        .lines()
        .filter_map(|line| line.split_whitespace().next())
        .map(str::to_owned)
        .collect();
    addresses.dedup();
    Ok(addresses)
}

world_test! {
    needs [Etcd, KubeApiserver, KubeControllerManager, CoreDns],
    fn kube_answers_by_dns_for_a_headless_service_beside_other_zones(world) {
        let kube = Kube::start(&world.host("kube")?)?;
        kube.namespace("monitoring", &[])?;
        kube.apply(HEADLESS)?;
        let coredns = parts::get(Part::CoreDns)?;

        let atlas = world.host("atlas")?;
        let stub = SocketAddr::new(atlas.ip().into(), 5353);
        let names = CoreDns::corefile(stub, [([10, 91, 8, 8].into(), "tokyo.thanos.atlas")]);
        let mut stub_server = CoreDns::start(&atlas, "stub", &coredns, stub, &names)?;
        stub_server.wait_ready()?;

        let hub = world.host("hub")?;
        hub.write("coredns/corp.zone", "@ IN SOA ns root 1 1 1 1 1\nwww 1 IN A 10.91.9.9\n")?;
        let listen = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 53);
        let corefile = Corefile::new(listen)
            .kubernetes("cluster.local", &kube.admin_kubeconfig())
            .file("corp.example", "corp.zone")
            .forward("thanos.atlas", stub);
        let mut dns = CoreDns::start(&hub, "coredns", &coredns, listen, corefile.text())?;
        dns.wait_ready()?;
        hub.write_resolv_conf("nameserver 127.0.0.1\n")?;

        let name = "tokyo.monitoring.svc.cluster.local";
        assert!(addresses(&hub, name).is_err());
        for n in 1..=2u8 {
            kube.pod_with_ip("monitoring", &format!("envoy-{n}"), &[("app", "envoy")], [10, 91, 7, n].into(), &[("stores", 10901)])?;
        }
        wait_until("both Pods", SOON, || {
            let mut found = addresses(&hub, name)?;
            found.sort();
            Ok((found == ["10.91.7.1", "10.91.7.2"]).then_some(()))
        })?;
        assert_eq!(addresses(&hub, "www.corp.example")?, ["10.91.9.9"]);
        assert_eq!(addresses(&hub, "tokyo.thanos.atlas")?, ["10.91.8.8"]);
    }
}

/// What a chart might render: a Secret at `/etc/atlas`, and a program that shows what it was given.
fn deployment() -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": "envoy", "namespace": "monitoring"},
        "spec": {"template": {
            "metadata": {"labels": {"app": "envoy"}},
            "spec": {
                "serviceAccountName": "atlas",
                "terminationGracePeriodSeconds": 5,
                "volumes": [
                    {"name": "files", "secret": {"secretName": "files", "defaultMode": 0o440}},
                    {"name": "scratch", "emptyDir": {}},
                ],
                "containers": [{
                    "name": "envoy", "image": "example.invalid/envoy",
                    "command": ["/bin/envoy"],
                    "args": ["-c", "trap 'exit 7' TERM; env; cat $(DIR)/key; while :; do sleep 0.1; done"],
                    "env": [
                        {"name": "DIR", "value": "/etc/atlas"},
                        {"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
                    ],
                    "ports": [{"name": "stores", "containerPort": 10901}],
                    "volumeMounts": [{"name": "files", "mountPath": "/etc/atlas"}, {"name": "scratch", "mountPath": "/var/lib/atlas/scratch"}],
                }],
            },
        }},
    })
}

fn secret(value: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "files"}, "stringData": {"key": value}})
}

world_test! {
    needs [Etcd, KubeApiserver, KubeControllerManager],
    fn kube_has_an_imitation_of_a_kubelet_that_swaps_a_changed_secret(world) {
        let kube = Kube::start(&world.host("kube")?)?;
        kube.apply(TWO_NAMESPACES)?;
        kube.apply(HEADLESS)?;
        let hub = world.host("hub")?;
        // The Secret comes later than the Pod, which has to wait for it.
        let mut pod = std::thread::scope(|scope| {
            let running = scope.spawn(|| Kubelet::run(&kube, &hub, &deployment(), "envoy-0", Path::new("/bin/sh")));
            kube.wait_for("/api/v1/namespaces/monitoring/pods/envoy-0", SOON, |pod| pod["status"]["phase"] == "Pending")?;
            kube.apply_objects("monitoring", &[secret("first")])?;
            running.join().expect("it does not panic")
        })?;
        pod.wait_ready(SOON)?;
        wait_until("its first words", SOON, || Ok(pod.process.log().contains("first").then_some(())))?;
        let words = pod.process.log();
        for expected in ["IP=10.91.2.1", "HOSTNAME=envoy-0", "KUBERNETES_SERVICE_HOST=10.91.1.1", "KUBERNETES_SERVICE_PORT=6443"] {
            assert!(words.contains(expected), "{words}");
        }

        // The container's own view, through its mount namespace.
        let mut nsenter = Command::new("nsenter");
        nsenter.arg(format!("--target={}", pod.process.pid())).arg("--mount").args(["sh", "-c"]);
        let shows = |script: &str| -> anyhow::Result<String> {
            let mut command = Command::new(nsenter.get_program());
            command.args(nsenter.get_args()).arg(script);
            hub.run(&command)
        };
        assert_eq!(shows("readlink /etc/atlas/key; stat -L -c %a /etc/atlas/key")?, "..data/key\n440\n");
        assert!(shows("cat /etc/hosts /etc/passwd")?.contains("localhost"));
        assert!(shows("echo > /etc/atlas/key").is_err(), "a Secret's volume is read-only");
        shows("echo > /var/lib/atlas/scratch/file")?;
        assert!(!Path::new("/etc/atlas").exists() && !Path::new("/var/lib/atlas").exists(), "the machine's own files are as they were");

        // The token is the ServiceAccount's, and ends with the Pod.
        let token = shows("cat /var/run/secrets/kubernetes.io/serviceaccount/token")?;
        assert_eq!(shows("cat /run/secrets/kubernetes.io/serviceaccount/namespace")?, "monitoring");
        assert!(shows("cat /run/secrets/kubernetes.io/serviceaccount/ca.crt")?.trim() == kube.ca().trim());
        let atlas = kube.with_token(&token)?;
        atlas.get("/api/v1/namespaces/monitoring/secrets/secret")?;

        kube.apply_objects("monitoring", &[secret("second")])?;
        wait_until("the new content", Duration::from_secs(5), || Ok((shows("cat /etc/atlas/key")? == "second").then_some(())))?;

        let slices = "/apis/discovery.k8s.io/v1/namespaces/monitoring/endpointslices?labelSelector=kubernetes.io%2Fservice-name%3Dtokyo";
        let endpoint = |list: &Value| list["items"][0]["endpoints"][0].clone();
        let ready = |wanted: bool| move |list: &Value| endpoint(list)["conditions"]["ready"] == wanted;
        kube.wait_for(slices, SOON, ready(true))?;
        pod.set_ready(false)?;
        kube.wait_for(slices, SOON, ready(false))?;
        pod.follow_probe()?;
        pod.kill()?;
        kube.wait_for(slices, SOON, ready(false))?;
        pod.restart()?;
        kube.wait_for(slices, SOON, ready(true))?;
        wait_until("its second words", SOON, || Ok(pod.process.log().contains("second").then_some(())))?;
        assert_eq!(pod.stop()?.code(), Some(7));
        kube.wait_for(slices, SOON, |list| endpoint(list).is_null())?;
        // The API server remembers a good token for 10 s.
        wait_until("the end of the token", SOON, || {
            let status = atlas.request("GET", "/api/v1/namespaces/monitoring/secrets/secret", None)?.status;
            Ok((status == 401).then_some(()))
        })?;
    }
}

world_test! {
    needs [Etcd, KubeApiserver, KubeControllerManager, Helm, Helm3],
    fn kube_takes_charts_of_both_helms_and_refuses_forbidden_pods(world) {
        let host = world.host("kube")?;
        let kube = Kube::start(&host)?;
        host.write("chart/Chart.yaml", "apiVersion: v2\nname: small\nversion: 0.1.0\n")?;
        let chart = host.dir().join("chart");
        let map = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: {{ .Release.Name }}}\ndata: {who: {{ .Values.who | quote }}}\n";
        host.write("chart/templates/map.yaml", map)?;
        for part in [Part::Helm, Part::Helm3] {
            let path = format!("/api/v1/namespaces/monitoring/configmaps/{}", part.name());
            for who in ["first", "second"] {
                helm_install(part, &kube, &chart, part.name(), "monitoring", &[&format!("who: {who}")])?;
                assert_eq!(kube.get(&path)?["data"]["who"], who);
            }
            helm_uninstall(part, &kube, part.name(), "monitoring")?;
            assert_eq!(kube.find(&path)?, None);
        }

        kube.namespace("strict", &[("pod-security.kubernetes.io/enforce", "restricted")])?;
        let error = kube.pod_with_ip("strict", "envoy-0", &[], [10, 91, 7, 1].into(), &[]).unwrap_err();
        assert!(format!("{error:#}").contains("violates PodSecurity"), "{error:#}");
    }
}

//! Commands against the hub's cluster: clusters added, listed, changed and removed, and one status
//! of several replicas.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use atlas_lab::http;
use atlas_lab::process::{Proc, wait_until};
use atlas_lab::run::Kube;
use atlas_lab::world::Host;
use atlas_lab::world_test;
use k8s_openapi::ByteString;
use serde_json::{Value, json};

use crate::atlas;
use crate::kube_writer::{at, cluster, start_atlas};

const SECOND: Duration = Duration::from_secs(1);

/// Whoever types the commands.
struct Person {
    host: Host,
    kubeconfig: PathBuf,
}

/// How a command ended.
#[derive(Debug)]
struct Ended {
    code: Option<i32>,
    out: String,
    err: String,
}

impl Person {
    fn atlas(&self, line: &str) -> Result<Ended> {
        let mut command = self.command(line);
        let output = self.host.within(|| command.output().context("atlas doesn't start"))?;
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).context("what atlas says is UTF-8");
        Ok(Ended {
            code: output.status.code(),
            out: text(output.stdout)?,
            err: text(output.stderr)?,
        })
    }

    fn command(&self, line: &str) -> Command {
        let mut command = Command::new(atlas());
        command.args(line.split(' ')).env_clear().env("KUBECONFIG", &self.kubeconfig);
        command
    }
}

impl Ended {
    /// Fails unless the exit code is the expected one, and all the words are somewhere in what was
    /// said.
    fn with(self, code: i32, words: &[&str]) -> Result<Self> {
        ensure!(self.code == Some(code), "expected exit code {code}: {self:#?}");
        for word in words {
            ensure!(
                self.out.contains(word) || self.err.contains(word),
                "{word:?} is missing: {self:#?}"
            );
        }
        Ok(self)
    }
}

/// The list of credentials in a cluster's record.
fn issued(kube: &Kube, name: &str) -> Result<Value> {
    Ok(serde_json::from_str(&decoded(
        &kube.get(&at(&format!("secrets/{name}.atlas-cluster")))?,
        "issued.json",
    )?)?)
}

fn decoded(secret: &Value, key: &str) -> Result<String> {
    let ByteString(bytes) = serde_json::from_value(secret["data"][key].clone())
        .with_context(|| format!("{key} in {}", secret["metadata"]["name"]))?;
    Ok(String::from_utf8(bytes)?)
}

world_test! {
    needs [Etcd, KubeApiserver, KubeControllerManager],
    within 120,
    fn kube_clusters_are_added_listed_changed_and_removed(world) {
        let host = world.host("hub")?;
        let kube = Kube::start(&host)?;
        kube.namespace("monitoring", &[])?;
        let me = Person { host: host.clone(), kubeconfig: kube.admin_kubeconfig() };
        let mut running = start_atlas(&host, &kube, "atlas")?;
        kube.wait_for(&at("secrets/atlas-hub"), 40 * SECOND, |_| true)?;

        // Asked whether it would be taken, and not made.
        me.atlas("cluster-add tokyo --address 192.0.2.7 --dry-run")?.with(0, &["kind: Service", "192.0.2.7"])?;
        ensure!(kube.find(&at("services/tokyo"))?.is_none(), "a dry run made it");
        me.atlas("cluster-add tokyo --address 192.0.2.7 --dry-run --namespace nowhere")?.with(1, &["nowhere"])?;

        me.atlas("cluster-add --name tokyo --address 192.0.2.7 --replicas 2")?.with(0, &["tokyo"])?;
        let made = kube.get(&at("services/tokyo"))?;
        ensure!(made["metadata"]["labels"]["goatlas.io/replicas"] == "2", "{made:#}");
        let manager = |object: &Value| object["metadata"]["managedFields"].as_array().is_some_and(|all| all.iter().any(|one| one["manager"] == "atlas-cli"));
        ensure!(manager(&made), "{made:#}");
        me.atlas("cluster-add osaka --external-ip 192.0.2.8")?.with(0, &["osaka"])?;
        ensure!(kube.get(&at("services/osaka"))?["spec"]["externalIPs"] == json!(["192.0.2.8"]));

        me.atlas("cluster-list")?.with(0, &["tokyo", "192.0.2.7", "osaka"])?;
        let list: Value = serde_json::from_str(&me.atlas("cluster-list -o json")?.with(0, &[])?.out)?;
        ensure!(list["clusters"].as_array().map(Vec::len) == Some(2), "{list:#}");

        // One that is there is changed only if that is said, and what others have set stays.
        let theirs = json!({"metadata": {"labels": {"team": "sre"}, "annotations": {"note": "do not touch"}}});
        let before = kube.merge_patch(&at("services/tokyo"), &theirs)?;
        me.atlas("cluster-add tokyo --address 192.0.2.9 --replicas 3")?.with(1, &["--overwrite", "192.0.2.9"])?;
        me.atlas("cluster-add tokyo --address 192.0.2.9 --replicas 3 --overwrite --dry-run")?.with(0, &["192.0.2.9"])?;
        ensure!(kube.get(&at("services/tokyo"))? == before, "neither changes anything");
        me.atlas("cluster-add tokyo --address 192.0.2.9 --replicas 3 --overwrite")?.with(0, &[])?;
        let after = kube.get(&at("services/tokyo"))?["metadata"].clone();
        ensure!(after["labels"]["goatlas.io/replicas"] == "3" && after["annotations"]["goatlas.io/addresses"] == "192.0.2.9", "{after:#}");
        ensure!(after["labels"]["team"] == "sre" && after["annotations"]["note"] == "do not touch", "{after:#}");
        ensure!(after["uid"] == before["metadata"]["uid"], "{after:#}");

        // What is no cluster is nobody's to change or delete.
        let foreign = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "shop"}, "spec": {"ports": [{"port": 80}]}});
        kube.apply_objects("monitoring", &[foreign])?;
        let foreign = kube.get(&at("services/shop"))?;
        for line in ["cluster-add shop --address 192.0.2.1", "cluster-add shop --address 192.0.2.1 --overwrite", "cluster-remove shop"] {
            me.atlas(line)?.with(1, &["shop", "no cluster"])?;
        }
        ensure!(kube.get(&at("services/shop"))? == foreign, "it stays as it was");
        // Nor is a store of Atlas's.
        kube.wait_for(&at("services/tokyo-thanos-sidecar0"), 10 * SECOND, |_| true)?;
        me.atlas("cluster-remove tokyo-thanos-sidecar0")?.with(2, &["reads like a store"])?;
        kube.get(&at("services/tokyo-thanos-sidecar0"))?;

        // What a running Atlas would reject, a list says too.
        let mut wrong = cluster("wrong", 1);
        wrong["metadata"]["annotations"]["goatlas.io/addresses"] = json!("not an address");
        kube.apply_objects("monitoring", &[wrong])?;
        me.atlas("cluster-list")?.with(3, &["tokyo", "wrong", "goatlas.io/addresses"])?;
        me.atlas("cluster-remove wrong")?.with(0, &[])?;

        // Said, then done: the record has no key any more, and its next revision stands.
        kube.wait_for(&at("secrets/tokyo-envoy-values"), 20 * SECOND, |_| true)?;
        let first = issued(&kube, "tokyo")?;
        ensure!(first["credentials"][0]["revision"] == 1, "{first:#}");
        me.atlas("cluster-remove tokyo --dry-run")?.with(0, &["would have deleted", "would have forgotten"])?;
        ensure!(issued(&kube, "tokyo")? == first, "a dry run forgets nothing");
        kube.get(&at("services/tokyo"))?;
        let term = kube.get(&at("secrets/tokyo.atlas-cluster"))?["metadata"]["annotations"].clone();
        me.atlas("cluster-remove tokyo")?.with(0, &["deleted", "forgot"])?;
        ensure!(kube.find(&at("services/tokyo"))?.is_none(), "it is gone when the command ends");
        let forgotten = |when: &str| -> Result<()> {
            let record = kube.get(&at("secrets/tokyo.atlas-cluster"))?;
            let keys: Vec<_> = record["data"].as_object().context("data")?.keys().collect();
            ensure!(keys == ["issued.json"], "{when}: {keys:?}");
            let list = issued(&kube, "tokyo")?;
            ensure!(list["credentials"] == json!([]) && list["revisions"]["tokyo"] == 2, "{when}: {list:#}");
            ensure!(record["metadata"]["annotations"] == term, "{when}: {record:#}");
            Ok(())
        };
        forgotten("at once")?;
        kube.wait_gone(&at("secrets/tokyo-envoy-values"), 20 * SECOND)?;
        std::thread::sleep(2 * SECOND);
        forgotten("when Atlas has seen it")?;
        me.atlas("cluster-remove tokyo")?.with(1, &["no cluster tokyo", "osaka"])?;

        // Come back, it gets another one.
        me.atlas("cluster-add tokyo --address 192.0.2.7")?.with(0, &[])?;
        kube.wait_for(&at("secrets/tokyo-envoy-values"), 20 * SECOND, |_| true)?;
        let second = issued(&kube, "tokyo")?;
        ensure!(second["credentials"][0]["revision"] == 2, "{second:#}");
        ensure!(second["credentials"][0]["fingerprint"] != first["credentials"][0]["fingerprint"], "{second:#}");

        // Also where no Atlas runs.
        running.stop(10 * SECOND)?;
        me.atlas("cluster-add kyoto")?.with(0, &[])?;
        me.atlas("cluster-remove kyoto")?.with(0, &["no credential"])?;
        me.atlas("cluster-remove osaka")?.with(0, &["forgot"])?;
        ensure!(issued(&kube, "osaka")?["revisions"]["osaka"] == 2);
    }
}

/// A replica, and the Pod that it is to the API server.
fn replica(host: &Host, kube: &Kube, pod: &str) -> Result<Proc> {
    let mut command = Command::new(atlas());
    command.arg("run").arg("--kubeconfig").arg(kube.admin_kubeconfig()).args([
        "--hub-address",
        "hub.example.com",
        "--identity",
        pod,
    ]);
    command.args(["--listen-address", &host.ip().to_string()]);
    let process = host.spawn(pod, &command)?;
    kube.pod_with_ip("monitoring", pod, &[("app", "atlas")], host.ip().into(), &[("web", 6310)])?;
    Ok(process)
}

world_test! {
    needs [Etcd, KubeApiserver, KubeControllerManager],
    within 120,
    fn kube_one_status_is_of_all_replicas(world) {
        let api = world.host("kube")?;
        let kube = Kube::start(&api)?;
        kube.namespace("monitoring", &[])?;
        let me = Person { host: world.host("desk")?, kubeconfig: kube.admin_kubeconfig() };
        me.atlas("status")?.with(1, &["no pod behind the Service atlas"])?;
        let service = json!({
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": "atlas"},
            "spec": {"clusterIP": "None", "selector": {"app": "atlas"}, "ports": [{"name": "web", "port": 6310}]},
        });
        kube.apply_objects("monitoring", &[service, cluster("tokyo", 1)])?;
        let hosts = [world.host("a")?, world.host("b")?];
        let mut replicas = [replica(&hosts[0], &kube, "atlas-0")?, replica(&hosts[1], &kube, "atlas-1")?];
        kube.wait_for(&at("secrets/tokyo-envoy-values"), 40 * SECOND, |_| true)?;
        for host in &hosts {
            wait_until("a replica is ready", 20 * SECOND, || Ok(host.within(|| http::get(&format!("http://{}:6309/readyz", host.ip())))?.ok().ok().map(drop)))?;
        }
        let slices = "/apis/discovery.k8s.io/v1/namespaces/monitoring/endpointslices?labelSelector=kubernetes.io%2Fservice-name%3Datlas";
        wait_until("both are behind the Service", 20 * SECOND, || {
            let all = kube.list(slices)?;
            Ok((all.iter().filter_map(|slice| slice["endpoints"].as_array()).map(Vec::len).sum::<usize>() == 2).then_some(()))
        })?;

        let report: Value = serde_json::from_str(&me.atlas("status -o json")?.with(0, &[])?.out)?;
        let leader = report["leader"].as_str().context("leader")?.to_owned();
        ensure!(report["clusters"][0]["name"] == "tokyo" && report["ready"] == true, "{report:#}");
        let led_by = if leader.starts_with("atlas-0_") { 0 } else { 1 };
        ensure!(leader.starts_with(&format!("atlas-{led_by}_")), "{leader}");
        me.atlas("status")?.with(0, &["tokyo", &leader])?;

        // By whatever name the API server is called: Atlas's pods answer only to their own.
        let by_name = std::fs::read_to_string(&me.kubeconfig)?.replace(&format!("https://{}", kube.address()), &format!("https://kubernetes:{}", kube.address().port()));
        ensure!(by_name.contains("https://kubernetes:"), "{by_name}");
        me.host.write_hosts([(api.ip().into(), "kubernetes")])?;
        let named = Person { kubeconfig: me.host.write("by-name.kubeconfig", by_name)?, host: me.host.clone() };
        ensure!(me.host.run(&named.command("status"))?.contains("tokyo"));

        // Who may list, but not ask pods, is told what is missing.
        kube.apply(
            "{apiVersion: v1, kind: ServiceAccount, metadata: {name: viewer, namespace: monitoring}}\n---\n\
             apiVersion: rbac.authorization.k8s.io/v1\nkind: RoleBinding\nmetadata: {name: viewer, namespace: monitoring}\n\
             roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: view}\n\
             subjects: [{kind: ServiceAccount, name: viewer, namespace: monitoring}]\n",
        )?;
        let viewer = Person { kubeconfig: kube.kubeconfig_for_service_account("monitoring", "viewer")?, host: me.host.clone() };
        wait_until("its rights are there", 10 * SECOND, || Ok(viewer.atlas("status")?.with(1, &["pods/proxy"]).ok().map(drop)))?;

        // A replica that does not answer is named, and the other still tells the rest.
        replicas[1 - led_by].kill()?;
        let silent = format!("atlas-{}", 1 - led_by);
        let ended = me.atlas("status")?;
        ensure!(ended.out.contains("tokyo"), "{ended:#?}");
        ensure!(ended.out.contains(&silent) || ended.err.contains(&silent), "{ended:#?}");
    }
}

//! Commands against a real API server, as a person with a kubeconfig uses them.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use atlas_lab::parts::Part;
use atlas_lab::process::{Proc, wait_until};
use atlas_lab::run::kube::manifest;
use atlas_lab::run::{Kube, helm_template};
use atlas_lab::world::Host;
use atlas_lab::world_test;
use serde_json::{Value, json};

use crate::atlas;
use crate::kube_writer::{at, cluster, start_atlas};

const SECOND: Duration = Duration::from_secs(1);

/// A shell with a kubeconfig.
struct Shell {
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

impl Ended {
    fn with(self, code: i32, words: &[&str]) -> Result<Self> {
        ensure!(
            self.code == Some(code),
            "ended with {:?} instead of {code}: {}{}",
            self.code,
            self.out,
            self.err
        );
        for word in words {
            ensure!(self.err.contains(word), "{word:?} is not in: {}", self.err);
        }
        Ok(self)
    }
}

impl Shell {
    fn new(host: &Host, kube: &Kube) -> Self {
        Self { host: host.clone(), kubeconfig: kube.admin_kubeconfig() }
    }

    /// Runs a command of Atlas, its words separated by blanks.
    fn atlas(&self, line: &str) -> Result<Ended> {
        let mut command = Command::new(atlas());
        command
            .args(line.split(' '))
            .env_clear()
            .env("KUBECONFIG", &self.kubeconfig)
            .current_dir(self.host.dir());
        let output = self.host.within(|| command.output().context("atlas doesn't start"))?;
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        Ok(Ended { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) })
    }
}

/// The number of the credential that counts.
fn revision(kube: &Kube, name: &str) -> Result<Option<u64>> {
    let path = at(&format!("secrets/{name}.atlas-cluster"));
    let Some(secret) = kube.find(&path)? else { return Ok(None) };
    let list = secret["data"]["issued.json"].as_str().context("issued.json")?;
    let list: Value = serde_json::from_slice(&decode(list)?)?;
    Ok(list["credentials"]
        .as_array()
        .context("credentials")?
        .iter()
        .filter_map(|one| one["revision"].as_u64())
        .max())
}

fn decode(base64: &str) -> Result<Vec<u8>> {
    let value: k8s_openapi::ByteString = serde_json::from_value(json!(base64))?;
    Ok(value.0)
}

world_test! {
    needs [Etcd, KubeApiserver, KubeControllerManager, Helm],
    within 120,
    fn kube_cli_a_cluster_is_added_changed_carried_and_removed(world) {
        let host = world.host("hub")?;
        let kube = Kube::start(&host)?;
        kube.namespace("monitoring", &[])?;
        let shell = Shell::new(&host, &kube);
        let _atlas = start_atlas(&host, &kube, "atlas")?;

        // Nothing is written by a dry run, nor where Atlas would reject it.
        let add = "cluster-add --name tokyo --address tokyo.example.com --replicas 2";
        let dry = shell.atlas(&format!("{add} --dry-run"))?.with(0, &[])?;
        ensure!(manifest::parse(&dry.out)?[0]["metadata"]["namespace"] == "monitoring", "{}", dry.out);
        shell.atlas("cluster-add tokyo --address 127.0.0.1")?.with(1, &["--allow-local-addresses"])?;
        ensure!(kube.find(&at("services/tokyo"))?.is_none());
        shell.atlas("cluster-values tokyo --wait 0")?.with(1, &["tokyo-envoy-values", "cluster-add tokyo"])?;

        // Added, and listed as Atlas sees it.
        let added = shell.atlas(add)?.with(0, &["cluster-values tokyo"])?;
        ensure!(added.out == "service/tokyo\n", "{}", added.out);
        kube.apply_objects("monitoring", &[cluster("paris", 1)])?;
        let listed = shell.atlas("cluster-list")?.with(0, &[])?;
        ensure!(listed.out == "CLUSTER  STORES  ADDRESSES\nparis    1       192.0.2.7:11901\ntokyo    2       tokyo.example.com:11901\n", "{}", listed.out);
        let listed: Value = serde_json::from_str(&shell.atlas("cluster-list -o json")?.with(0, &[])?.out)?;
        ensure!(listed["clusters"][1]["stores"][1]["name"] == "tokyo-thanos-sidecar1", "{listed:#}");
        values_in_every_form(&shell, &kube)?;

        // One that is there is changed only when asked; what others have set stays.
        let other = "cluster-add tokyo --external-ip 192.0.2.8,2001:db8::8 --replicas 3";
        shell.atlas(other)?.with(1, &["goatlas.io/addresses: \"tokyo.example.com\" is there", "goatlas.io/replicas: \"2\"", "--overwrite"])?;
        kube.merge_patch(&at("services/tokyo"), &json!({"metadata": {"labels": {"team": "sre"}, "annotations": {"goatlas.io/envoy-replicas": "3"}}}))?;
        shell.atlas(&format!("{other} --overwrite --dry-run"))?.with(0, &[])?;
        ensure!(kube.get(&at("services/tokyo"))?["metadata"]["labels"]["goatlas.io/replicas"] == "2");
        shell.atlas(&format!("{other} --overwrite"))?.with(0, &["kept", "goatlas.io/envoy-replicas"])?;
        let now = kube.get(&at("services/tokyo"))?;
        let (labels, annotations) = (&now["metadata"]["labels"], &now["metadata"]["annotations"]);
        ensure!(labels["goatlas.io/replicas"] == "3" && labels["team"] == "sre" && annotations["goatlas.io/envoy-replicas"] == "3", "{now:#}");
        ensure!(annotations["goatlas.io/addresses"].is_null() && now["spec"]["externalIPs"] == json!(["192.0.2.8", "2001:db8::8"]), "{now:#}");
        shell.atlas(&format!("{other} --overwrite"))?.with(0, &[])?;

        // What is no cluster is nobody's to change.
        let foreign = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "rome"}, "spec": {"clusterIP": "None", "ports": [{"port": 80}]}});
        kube.apply_objects("monitoring", &[foreign])?;
        for line in ["cluster-add rome --overwrite", "cluster-remove rome"] {
            shell.atlas(line)?.with(1, &["Service rome", "goatlas.io/cluster"])?;
        }
        let before = kube.get(&at("services/rome"))?;
        ensure!(before["metadata"]["labels"].is_null(), "{before:#}");

        // Removed: its credential counts no more, and the next is another.
        ensure!(revision(&kube, "tokyo")? == Some(1));
        let dry = shell.atlas("cluster-remove tokyo --dry-run")?.with(0, &[])?;
        ensure!(dry.out == "would have deleted service/tokyo\nwould have forgotten the credential of tokyo\n", "{}", dry.out);
        let removed = shell.atlas("cluster-remove tokyo")?.with(0, &[])?;
        ensure!(removed.out == "deleted service/tokyo\nforgot the credential of tokyo\n" && !removed.err.contains("noticed"), "{removed:?}");
        std::thread::sleep(SECOND);
        ensure!(revision(&kube, "tokyo")?.is_none(), "a credential counts again");
        shell.atlas("cluster-remove tokyo")?.with(1, &["no cluster tokyo", "paris"])?;
        shell.atlas(add)?.with(0, &[])?;
        wait_until("tokyo has its next credential", 20 * SECOND, || Ok((revision(&kube, "tokyo")? == Some(2)).then_some(())))?;
        shell.atlas("cluster-values tokyo")?.with(0, &[])?;

        // Whoever may not is told what.
        let weak = Shell { kubeconfig: kube.kubeconfig_for_service_account("monitoring", "default")?, ..Shell::new(&host, &kube) };
        weak.atlas("cluster-list")?.with(1, &["services is forbidden"])?;
    }
}

/// The values of tokyo's Envoy in every form.
fn values_in_every_form(shell: &Shell, kube: &Kube) -> Result<()> {
    let values = shell.atlas("cluster-values --name tokyo")?.with(0, &[])?.out;
    let chart = Path::new(env!("CARGO_MANIFEST_DIR")).join("charts/envoy");
    let rendered =
        |values: &str| helm_template(Part::Helm, &chart, "atlas-envoy", "monitoring", &[values]);
    let is = |objects: &[Value], kind: &str| {
        objects.iter().filter(|object| object["kind"] == kind).count()
    };
    ensure!(is(&rendered(&values)?, "Deployment") == 1);

    let k3s = manifest::parse(
        &shell.atlas("cluster-values tokyo --format helm-chart")?.with(0, &[])?.out,
    )?;
    ensure!(
        k3s[0]["stringData"]["values.yaml"] == values.as_str()
            && k3s[1]["apiVersion"] == "helm.cattle.io/v1",
        "{k3s:#?}"
    );
    ensure!(
        k3s[1]["spec"]["valuesSecrets"][0]["name"] == k3s[0]["metadata"]["name"]
            && k3s[0]["metadata"]["namespace"] == k3s[1]["metadata"]["namespace"]
    );
    let flux = manifest::parse(
        &shell.atlas("cluster-values tokyo --format helm-release --chart https://charts.example.com/envoy")?.with(0, &[])?.out,
    )?;
    ensure!(
        is(&flux, "HelmRepository") == 1
            && flux[2]["spec"]["valuesFrom"][0]["name"] == flux[0]["metadata"]["name"],
        "{flux:#?}"
    );
    let of_registry = manifest::parse(
        &shell.atlas("cluster-values tokyo --format helm-release")?.with(0, &[])?.out,
    )?;
    ensure!(is(&of_registry, "OCIRepository") == 1, "{of_registry:#?}");
    for objects in [&k3s, &flux, &of_registry] {
        ensure!(
            objects
                .iter()
                .all(|object| (object["kind"] == "Secret")
                    == object.to_string().contains("PRIVATE KEY")),
            "{objects:#?}"
        );
    }
    let secret = manifest::parse(
        &shell
            .atlas("cluster-values tokyo --format secret")?
            .with(0, &["existingSecret: atlas-envoy-files", "replicaCount: 2", "memory: '256Mi'"])?
            .out,
    )?;
    ensure!(
        secret[0]["stringData"].as_object().map(serde_json::Map::len) == Some(6),
        "{secret:#?}"
    );
    let mounted = rendered("cluster: tokyo\nexistingSecret: atlas-envoy-files\n")?;
    ensure!(is(&mounted, "Secret") < is(&rendered(&values)?, "Secret"));
    // The API server takes it, as a person's kubectl would hand it over.
    kube.namespace("downstream", &[])?;
    let secret = shell
        .atlas("cluster-values tokyo --format secret --target-namespace downstream")?
        .with(0, &[])?
        .out;
    kube.apply(&secret)?;
    ensure!(
        kube.get("/api/v1/namespaces/downstream/secrets/atlas-envoy-files")?["data"]["tls.key"]
            .is_string()
    );

    let prometheus = shell.atlas("cluster-values tokyo --prometheus")?.with(0, &[])?.out;
    ensure!(
        manifest::parse(&prometheus)?[0]["prometheus"]["prometheusSpec"]["replicas"] == 2,
        "{prometheus}"
    );
    for name in ["hub", "--name=atlas"] {
        ensure!(
            shell
                .atlas(&format!("cluster-values {name}"))?
                .with(0, &[])?
                .out
                .contains("cluster: hub")
        );
    }
    for node in ["tokyo", "hub"] {
        let out = shell.host.dir().join(node);
        shell
            .atlas(&format!("bootstrap {node} --out {node} --credential-dir /run/envoy"))?
            .with(0, &[])?;
        let (bootstrap, leaf) = (
            std::fs::read_to_string(out.join("envoy.yaml"))?,
            std::fs::read_to_string(out.join("leaf.yaml"))?,
        );
        ensure!(
            bootstrap.contains("/run/envoy/leaf.yaml")
                && leaf.contains("/run/envoy/tls.crt")
                && !bootstrap.contains("/etc/atlas"),
            "{bootstrap}{leaf}"
        );
        ensure!(std::fs::read_dir(&out)?.count() == 6);
        let carried = kube.get(&at(&format!(
            "secrets/{}-envoy-values",
            if node == "hub" { "atlas" } else { node }
        )))?;
        let values = String::from_utf8(decode(
            carried["data"]["values.yaml"].as_str().context("values.yaml")?,
        )?)?;
        let files = manifest::parse(&values)?[0]["files"].clone();
        for (file, text) in files.as_object().context("files")? {
            let here = text.as_str().context("a file")?.replace("/etc/atlas", "/run/envoy");
            ensure!(
                std::fs::read_to_string(out.join(file))? == here,
                "{file} of {node} is another one than in the Secret"
            );
        }
    }
    Ok(())
}

world_test! {
    needs [Etcd, KubeApiserver, KubeControllerManager],
    within 120,
    fn kube_cli_status_asks_every_replica(world) {
        let host = world.host("kube")?;
        let kube = Kube::start(&host)?;
        kube.namespace("monitoring", &[])?;
        let shell = Shell::new(&host, &kube);
        shell.atlas("status")?.with(1, &["no pod behind the Service atlas in monitoring"])?;

        let mut replicas = Vec::new();
        for name in ["atlas-0", "atlas-1"] {
            let at = world.host(name)?;
            replicas.push(replica(&at, &kube, name)?);
            kube.pod_with_ip("monitoring", name, &[("app", "atlas")], at.ip().into(), &[("web", 6310)])?;
        }
        let service = json!({
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": "atlas"},
            "spec": {"clusterIP": "None", "selector": {"app": "atlas"}, "ports": [{"port": 6310}]},
        });
        kube.apply_objects("monitoring", &[service, cluster("tokyo", 1)])?;
        let whole = wait_until("both replicas answer", 40 * SECOND, || {
            let ended = shell.atlas("status -o json")?.with(0, &[])?;
            let status: Value = serde_json::from_str(&ended.out)?;
            ensure!(status["ready"] == true && status["clusters"][0]["name"] == "tokyo", "{status:#}");
            Ok(Some(status))
        })?;
        ensure!(whole["leader"].as_str().is_some_and(|leader| leader.starts_with("atlas-")), "{whole:#}");
        ensure!(shell.atlas("status")?.with(0, &[])?.out.contains("tokyo"));

        // By a name, which the API server hands on and Atlas doesn't know.
        host.write_hosts([(host.ip().into(), "kube.example.com")])?;
        let text = std::fs::read_to_string(&shell.kubeconfig)?;
        let ip = host.ip().to_string();
        let named = text.replace(&format!("https://{ip}:6443"), "https://kube.example.com:6443");
        ensure!(named != text, "{text}");
        let named: Value = with_server_name(&manifest::parse(&named)?[0], &ip);
        let mut command = Command::new(atlas());
        command.arg("status").arg("--kubeconfig").arg(host.write("named.kubeconfig", named.to_string())?);
        ensure!(host.run(&command)?.contains("tokyo"));

        // One that is away is named; the other is enough.
        replicas.pop().context("two replicas")?.kill()?;
        let ended = shell.atlas("status")?.with(3, &[])?;
        ensure!(ended.out.contains("the replica atlas-1") && ended.out.contains("tokyo"), "{}", ended.out);

        kube.apply(READS_SLICES)?;
        let weak = Shell { kubeconfig: kube.kubeconfig_for_service_account("monitoring", "default")?, ..Shell::new(&host, &kube) };
        weak.atlas("status")?.with(1, &["pods/proxy"])?;
    }
}

/// May find Atlas's pods, and not ask them.
const READS_SLICES: &str = "
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: slices, namespace: monitoring}
rules: [{apiGroups: [discovery.k8s.io], resources: [endpointslices], verbs: [list]}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: slices, namespace: monitoring}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: slices}
subjects: [{kind: ServiceAccount, name: default, namespace: monitoring}]
";

fn replica(host: &Host, kube: &Kube, name: &str) -> Result<Proc> {
    let mut command = Command::new(atlas());
    command.arg("run").arg("--kubeconfig").arg(kube.admin_kubeconfig()).args([
        "--identity",
        name,
        "--listen-address",
        "0.0.0.0",
    ]);
    command.args(["--hub-address", "hub.example.com"]);
    host.spawn(name, &command)
}

/// The certificate is for the address.
fn with_server_name(kubeconfig: &Value, name: &str) -> Value {
    let mut kubeconfig = kubeconfig.clone();
    kubeconfig["clusters"][0]["cluster"]["tls-server-name"] = name.into();
    kubeconfig
}

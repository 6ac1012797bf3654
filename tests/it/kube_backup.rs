//! A backup, and its restoration after everything was lost: as docs/backup.md says.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, ensure};
use atlas_lab::parts::{self, Part};
use atlas_lab::run::Kube;
use atlas_lab::world_test;

use crate::kube_writer::{at, cluster, start_atlas, text};

const SECOND: Duration = Duration::from_secs(1);

world_test! {
    needs [Etcd, KubeApiserver, KubeControllerManager, Kubectl],
    within 120,
    fn kube_a_restored_backup_keeps_every_credential(world) {
        let host = world.host("hub")?;
        let mut kube = Kube::start(&host)?;
        kube.namespace("monitoring", &[])?;
        let kubeconfig = kube.admin_kubeconfig();
        let kubectl = |arguments: &[&str]| -> anyhow::Result<Vec<u8>> {
            let mut command = Command::new(parts::get(Part::Kubectl)?);
            command.arg("--kubeconfig").arg(&kubeconfig).args(["--namespace", "monitoring"]).args(arguments);
            let output = host.within(|| command.output().context("kubectl doesn't start"))?;
            ensure!(output.status.success(), "kubectl {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
            Ok(output.stdout)
        };
        let mut atlas = start_atlas(&host, &kube, "atlas")?;
        kube.apply_objects("monitoring", &[cluster("tokyo", 1), cluster("paris", 1)])?;
        kube.wait_for(&at("secrets/tokyo-envoy-values"), 40 * SECOND, |_| true)?;
        kube.wait_for(&at("secrets/paris-envoy-values"), 10 * SECOND, |_| true)?;
        let names = ["atlas-root-ca", "atlas-issuers", "atlas-leaves", "tokyo.atlas-cluster", "paris.atlas-cluster"];
        let before: Vec<_> = names.iter().map(|name| kube.get(&at(&format!("secrets/{name}")))).collect::<Result<_, _>>()?;

        let pki = kubectl(&["get", "secrets", "-l", "goatlas.io/part in (root,issuers,pki)", "-o", "yaml"])?;
        let services = kubectl(&["get", "services", "-l", "goatlas.io/cluster,!goatlas.io/thanos-sidecar", "-o", "yaml"])?;
        atlas.stop(10 * SECOND)?;
        kube.restart_empty()?;
        kube.namespace("monitoring", &[])?;

        for (file, text) in [("pki.yaml", pki), ("clusters.yaml", services)] {
            let text = without_server_fields(&String::from_utf8(text)?);
            let path = host.write(file, text)?;
            kubectl(&["create", "-f", path.to_str().context("a path is UTF-8")?])?;
        }
        let _atlas = start_atlas(&host, &kube, "atlas-again")?;
        for name in ["tokyo", "paris"] {
            let values = kube.wait_for(&at(&format!("secrets/{name}-envoy-values")), 40 * SECOND, |_| true)?;
            ensure!(!text(&values, "values.yaml").is_empty());
        }
        for (name, before) in names.iter().zip(before) {
            let after = kube.get(&at(&format!("secrets/{name}")))?;
            for key in before["data"].as_object().context("data")?.keys() {
                // The Service has a new uid.
                ensure!(key == "service.json" || text(&after, key) == text(&before, key), "{name}: {key} is another one");
            }
        }
    }
}

/// As docs/backup.md says: what only the old API server could know goes.
fn without_server_fields(yaml: &str) -> String {
    let dropped = ["resourceVersion:", "uid:", "creationTimestamp:", "selfLink:"];
    let lines = yaml
        .lines()
        .filter(|line| !dropped.iter().any(|field| line.trim_start().starts_with(field)));
    lines.map(|line| format!("{line}\n")).collect()
}

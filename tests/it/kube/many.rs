//! Many clusters at once.

use std::process::Command;
use std::thread;
use std::time::Instant;

use anyhow::{Result, ensure};
use atlas_lab::process::wait_until;
use atlas_lab::run::{Client, Kube};
use atlas_lab::world_test;
use serde_json::json;

use super::{SECOND, waiting_cluster};
use crate::atlas;

const CLUSTERS: usize = 400;
const NAMESPACE: &str = "/api/v1/namespaces/monitoring";

world_test! {
    needs [Etcd, KubeApiserver, KubeControllerManager],
    within 120,
    fn kube_four_hundred_clusters_are_written_within_ten_seconds(world) {
        let host = world.host("hub")?;
        let kube = Kube::start(&host)?;
        kube.namespace("monitoring", &[])?;
        let mut command = Command::new(atlas());
        command.arg("run").arg("--kubeconfig").arg(kube.admin_kubeconfig()).args(["--hub-address", "hub.example.com"]);
        let mut atlas = host.spawn("atlas", &command)?;
        atlas.wait_until("Atlas writes", 30 * SECOND, || kube.find(&format!("{NAMESPACE}/secrets/atlas-hub")).map(|found| found.map(drop)))?;
        let secrets = count(&kube, "secrets")?;

        let began = Instant::now();
        thread::scope(|scope| {
            let threads: Vec<_> = (0..8).map(|n| {
                let client = kube.client().clone();
                scope.spawn(move || (n..CLUSTERS).step_by(8).try_for_each(|number| add(&client, number)))
            }).collect();
            threads.into_iter().try_for_each(|thread| thread.join().expect("no panic"))
        })?;
        let applied = Instant::now();
        // Per cluster: what it is issued, and its values; its own Service and one of a store.
        wait_until("all are written", 90 * SECOND, || {
            let (written, services) = (count(&kube, "secrets")? - secrets, count(&kube, "services")?);
            ensure!(written == 2 * CLUSTERS && services == 2 * CLUSTERS, "{written} Secrets, {services} Services");
            Ok(Some(()))
        })?;
        let took = applied.elapsed();
        println!("{CLUSTERS} clusters, applied within {:?}, are written {took:?} later", applied - began);
        let values = kube.list(&format!("{NAMESPACE}/secrets?labelSelector=goatlas.io%2Fpart%3Dvalues"))?;
        ensure!(values.len() == CLUSTERS + 1, "{} values Secrets", values.len());
        println!("Atlas holds {} MiB", atlas.resident_bytes() >> 20);
        ensure!(took < 30 * SECOND, "promised: 10 s; asserted: three times that; it took {took:?}");
    }
}

fn add(client: &Client, number: usize) -> Result<()> {
    let mut service = waiting_cluster(&format!("cluster-{number}"));
    service["metadata"]["annotations"] = json!({
        "goatlas.io/addresses": format!("10.{}.{}.1", 100 + number / 250, number % 250),
        "goatlas.io/prometheus-name": "k8s",
    });
    client.apply_objects("monitoring", &[service]).map(drop)
}

/// How many there are, without asking for them all.
fn count(kube: &Kube, plural: &str) -> Result<usize> {
    let list = kube.get(&format!("{NAMESPACE}/{plural}?limit=1"))?;
    let here = list["items"].as_array().map_or(0, Vec::len);
    let more = list["metadata"]["remainingItemCount"].as_u64().unwrap_or(0);
    Ok(here + usize::try_from(more)?)
}

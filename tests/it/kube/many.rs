//! Many clusters at once.

use std::process::Command;
use std::thread;
use std::time::Instant;

use anyhow::{Result, ensure};
use atlas_lab::http;
use atlas_lab::process::wait_until;
use atlas_lab::run::{Client, Kube};
use atlas_lab::world_test;
use serde_json::{Value, json};

use super::{SECOND, waiting_cluster};
use crate::atlas;

const CLUSTERS: usize = 400;
const NAMESPACE: &str = "/api/v1/namespaces/monitoring";

world_test! {
    needs [Etcd, KubeApiserver, KubeControllerManager],
    within 120,
    fn kube_four_hundred_clusters_are_written_within_ten_seconds(world) {
        let host = world.host("hub")?;
        let mut kube = Kube::start(&host)?;
        kube.namespace("monitoring", &[])?;
        let mut command = Command::new(atlas());
        command.arg("run").arg("--kubeconfig").arg(kube.admin_kubeconfig()).args(["--hub-address", "hub.example.com"]);
        let mut atlas = host.spawn("atlas", &command)?;
        // Root, issuers, Atlas's own leaves; what the hub's Envoy starts from, and the same as
        // values.
        let secrets = 5;
        atlas.wait_until("the hub's own are written", 30 * SECOND, || Ok((count(&kube, "secrets")? == secrets).then_some(())))?;

        let began = Instant::now();
        thread::scope(|scope| {
            let threads: Vec<_> = (0..8).map(|n| {
                let client = kube.client().clone();
                scope.spawn(move || (n..CLUSTERS).step_by(8).try_for_each(|number| add(&client, number, 1)))
            }).collect();
            threads.into_iter().try_for_each(|thread| thread.join().expect("no panic"))
        })?;
        let applied = Instant::now();
        // Per cluster: what it is issued, and its values; its own Service and one of a store. One
        // is of the hub's Envoys.
        wait_until("all are written", 90 * SECOND, || {
            let (written, services) = (count(&kube, "secrets")? - secrets, count(&kube, "services")?);
            // The question itself costs the API server something.
            thread::sleep(SECOND / 5);
            ensure!(written == 2 * CLUSTERS && services == 2 * CLUSTERS + 1, "{written} Secrets, {services} Services");
            Ok(Some(()))
        })?;
        let took = applied.elapsed();
        println!("{CLUSTERS} clusters, applied within {:?}, are written {took:?} later", applied - began);
        let values = kube.list(&format!("{NAMESPACE}/secrets?labelSelector=goatlas.io%2Fpart%3Dvalues"))?;
        ensure!(values.len() == CLUSTERS + 1, "{} values Secrets", values.len());
        println!("Atlas holds {} MiB", atlas.resident_bytes() >> 20);
        assert!(took < 30 * SECOND, "promised: 10 s; asserted: three times that; it took {took:?}");

        // Come back empty-handed, and Atlas is let in as before: everything stays.
        kube.restart_empty()?;
        kube.namespace("monitoring", &[])?;
        let status = || -> Result<Value> { host.within(|| http::get("http://127.0.0.1:6310/api/v1/status"))?.ok()?.json() };
        let troubles = |status: &Value| status["troubles"].as_array().is_some_and(|troubles| !troubles.is_empty());
        let began = Instant::now();
        wait_until("whoever looks is told", 40 * SECOND, || status().map(|status| troubles(&status).then_some(())))?;
        println!("the API is empty: Atlas says so after {:?}", began.elapsed());
        thread::sleep(8 * SECOND);
        let status = status()?;
        let clusters = status["clusters"].as_array().map_or(0, Vec::len);
        ensure!(clusters == CLUSTERS, "{clusters} clusters are left; troubles: {}", status["troubles"]);
        ensure!(kube.find(&format!("{NAMESPACE}/secrets/atlas-root-ca"))?.is_none(), "a second root was made");
        ensure!(troubles(&status), "it is said for as long as it lasts");
        println!("{}", status["troubles"]);
    }
}

/// Adds a cluster, `cluster-<number>`, whose Prometheus has so many replicas.
pub fn add(client: &Client, number: usize, replicas: u32) -> Result<()> {
    let mut service = waiting_cluster(&format!("cluster-{number}"));
    service["metadata"]["annotations"] = json!({
        "goatlas.io/addresses": format!("10.{}.{}.1", 100 + number / 250, number % 250),
        "goatlas.io/prometheus-name": "k8s",
    });
    service["metadata"]["labels"]["goatlas.io/replicas"] = replicas.to_string().into();
    client.apply_objects("monitoring", &[service]).map(drop)
}

/// How many there are, without asking for them all.
fn count(kube: &Kube, plural: &str) -> Result<usize> {
    let list = kube.get(&format!("{NAMESPACE}/{plural}?limit=1"))?;
    let here = list["items"].as_array().map_or(0, Vec::len);
    let more = list["metadata"]["remainingItemCount"].as_u64().unwrap_or(0);
    Ok(here + usize::try_from(more)?)
}

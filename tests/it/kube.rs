//! Atlas on Kubernetes as people run it: both charts, real API server, real DNS, Atlas's Pods with
//! their own rights.

mod changes;
mod jobs;
mod many;
mod outages;
mod stores;

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::Result;
use atlas_lab::run::Query;
use serde_json::{Value, json};

const SECOND: Duration = Duration::from_secs(1);

/// A cluster's Service that says nothing yet of where the cluster is: it gets a credential and
/// values, and Thanos is not told of it.
fn waiting_cluster(name: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": name, "labels": {"goatlas.io/cluster": "true", "goatlas.io/replicas": "1"}},
        "spec": {"clusterIP": "None", "ports": [{"name": "grpc", "port": 10901}]},
    })
}

/// Asks every 100 ms until `body` is done: how many answers there were, and those that were not of
/// two whole clusters.
fn under_load(query: &Query, body: impl FnOnce() -> Result<()>) -> Result<(usize, Vec<String>)> {
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let asking = scope.spawn(|| {
            let (mut asked, mut bad) = (0, Vec::new());
            while !done.load(Ordering::Relaxed) {
                asked += 1;
                match query.query("count by (cluster) (up)") {
                    Ok(answer)
                        if answer.result.as_array().is_some_and(|series| series.len() == 2)
                            && answer.warnings.is_empty() => {}
                    other => bad.push(format!("{other:?}")),
                }
                thread::sleep(SECOND / 10);
            }
            (asked, bad)
        });
        // Also when it fails, or the scope would wait for ever.
        let result = body();
        done.store(true, Ordering::Relaxed);
        let asked = asking.join().expect("the asking thread doesn't panic");
        result.map(|()| asked)
    })
}

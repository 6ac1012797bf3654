//! Checks of a running scene. Each returns a sentence for the demo's output.

use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::json;

use super::{Hub, KubeHub, KubeScene, Scene};
use crate::http::Response;
use crate::process::wait_until;
use crate::run::{Alertmanager, Query};

/// Time limit of a check. Prometheus scrapes and evaluates every second, and sends alerts a few
/// seconds later.
const PROOF: Duration = Duration::from_secs(40);

/// A hub, standalone or on Kubernetes.
pub trait HubHandle {
    /// Thanos Query.
    fn query(&self) -> &Query;
    fn alertmanagers(&self) -> &[Alertmanager];
    /// `GET` on the web port.
    ///
    /// # Errors
    /// No answer.
    fn web(&self, path: &str) -> Result<Response>;
}

/// A hub with its clusters.
pub trait Deployment {
    fn hub(&self) -> &impl HubHandle;
    /// Each cluster's name, and how many stores it has.
    fn clusters(&self) -> Vec<(String, usize)>;
}

impl HubHandle for Hub {
    fn query(&self) -> &Query {
        &self.query
    }

    fn alertmanagers(&self) -> &[Alertmanager] {
        &self.alertmanagers
    }

    fn web(&self, path: &str) -> Result<Response> {
        Self::web(self, path)
    }
}

impl HubHandle for KubeHub {
    fn query(&self) -> &Query {
        &self.query
    }

    fn alertmanagers(&self) -> &[Alertmanager] {
        &self.alertmanagers
    }

    fn web(&self, path: &str) -> Result<Response> {
        Self::web(self, path)
    }
}

impl Deployment for Scene {
    fn hub(&self) -> &impl HubHandle {
        &self.hub
    }

    fn clusters(&self) -> Vec<(String, usize)> {
        self.clusters.iter().map(|cluster| (cluster.name.clone(), cluster.sidecars.len())).collect()
    }
}

impl Deployment for KubeScene {
    fn hub(&self) -> &impl HubHandle {
        &self.hub
    }

    fn clusters(&self) -> Vec<(String, usize)> {
        self.clusters
            .iter()
            .map(|cluster| (cluster.name.clone(), cluster.programs.sidecars.len()))
            .collect()
    }
}

/// Checks that Thanos Query has every store, each with the labels of its replica.
///
/// # Errors
/// A store is missing, or answers with another's labels.
pub fn stores(scene: &mut impl Deployment) -> Result<String> {
    let wanted: Vec<(String, String, String)> =
        scene.clusters().into_iter().flat_map(wanted_stores).collect();
    let query = scene.hub().query();
    let lines = wait_until("every store with its own labels", PROOF, || {
        let stores = query.stores()?;
        let mut lines = Vec::new();
        for (name, cluster, replica) in &wanted {
            let store = stores.iter().find(|store| store.name.starts_with(&format!("{name}.")));
            let Some(store) = store else { anyhow::bail!("{name} is missing from {stores:#?}") };
            ensure!(store.last_error.is_none(), "{name}: {:?}", store.last_error);
            let labels = store.labels.first().cloned().unwrap_or_default();
            ensure!(
                labels.get("cluster") == Some(cluster)
                    && labels.get("prometheus_replica") == Some(replica),
                "{name} answers with {labels:?}"
            );
            lines.push(format!("    {name}: {labels:?}"));
        }
        Ok(Some(lines))
    })?;
    Ok(format!(
        "Thanos Query reaches {} of {} stores, each exactly:\n{}",
        lines.len(),
        wanted.len(),
        lines.join("\n")
    ))
}

fn wanted_stores((name, stores): (String, usize)) -> Vec<(String, String, String)> {
    (0..stores)
        .map(|n| (format!("{name}-thanos-sidecar{n}"), name.clone(), format!("prometheus-{n}")))
        .collect()
}

/// Checks that one PromQL query returns every cluster.
///
/// # Errors
/// A cluster is missing from the answer.
pub fn query(scene: &mut impl Deployment) -> Result<String> {
    let promql = "count by (cluster) (up)";
    let clusters: Vec<String> = scene.clusters().into_iter().map(|(name, _)| name).collect();
    let query = scene.hub().query();
    let seen = wait_until("an answer for every cluster", PROOF, || {
        let answer = query.query(promql)?;
        let result = answer.result.as_array().cloned().unwrap_or_default();
        let has = |name: &String| result.iter().any(|series| series["metric"]["cluster"] == **name);
        ensure!(clusters.iter().all(has) && answer.warnings.is_empty(), "{answer:?}");
        Ok(Some(result.len()))
    })?;
    Ok(format!("one PromQL query over {seen} clusters: {promql}"))
}

/// Checks that an alert of a cluster is at every Alertmanager of the hub.
///
/// # Errors
/// It doesn't arrive everywhere.
pub fn alert(hub: &impl HubHandle, cluster: &str) -> Result<String> {
    wait_until("the alert at every Alertmanager of the hub", PROOF, || {
        for (n, alertmanager) in hub.alertmanagers().iter().enumerate() {
            let alerts = alertmanager.alerts()?;
            ensure!(
                alerts.iter().any(|alert| alert["labels"]["cluster"] == cluster),
                "Alertmanager {n} has {}",
                json!(alerts)
            );
        }
        Ok(Some(()))
    })?;
    Ok(format!("an alert that fires in {cluster} is at both of the hub's Alertmanagers"))
}

/// Checks that the web UIs of a cluster answer through the hub.
///
/// # Errors
/// A web UI doesn't answer.
pub fn web(hub: &impl HubHandle, cluster: &str) -> Result<String> {
    for path in [
        format!("/prom/{cluster}/-/healthy"),
        format!("/alertmanager/{cluster}/-/healthy"),
        format!("/alertmanager/{cluster}/"),
    ] {
        wait_until("a web UI through the hub", PROOF, || {
            let answer = hub.web(&path)?;
            ensure!(answer.status == 200, "{path} answers {}: {}", answer.status, answer.text());
            Ok(Some(()))
        })?;
    }
    Ok(format!("the web UIs of Prometheus and Alertmanager in {cluster} answer through the hub"))
}

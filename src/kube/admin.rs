//! Requests of commands to the API server, with the rights of the person whose kubeconfig it is.
//! They block: a command does one thing after the other.

mod credential;
mod pods;

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, bail, ensure};
use atlas_core::annotations;
use atlas_core::manifest::{self, Manifest};
use atlas_core::validate::CLUSTER_SELECTOR;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{Secret, Service};
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, Preconditions};
use kube::{Api, Client};
use serde_json::{Value, json};
use tokio::runtime::Runtime;

use super::errors::error_with_causes;
use super::{connect, convert};
use crate::config::ClusterAccess;

pub use credential::Forgotten;
pub use pods::PodRef;

/// The field manager of objects that commands write.
pub const MANAGER: &str = "atlas-cli";
/// How long the deletion of a Service may take: a finalizer may hold it.
const DELETE_TIMEOUT: Duration = Duration::from_secs(30);
/// The pause between two requests.
const POLL: Duration = Duration::from_millis(100);

/// The hub's Kubernetes cluster, with a person's rights.
pub struct Admin {
    runtime: Runtime,
    client: Client,
    /// Atlas's namespace.
    pub namespace: String,
}

/// A Service of the API server.
pub struct LiveService {
    /// The fields that Atlas reads.
    pub service: manifest::Service,
    /// All fields.
    pub object: Value,
}

impl Admin {
    /// Makes a client. No request is sent yet.
    ///
    /// # Errors
    /// There is no usable kubeconfig.
    pub fn connect(access: &ClusterAccess, namespace: &str) -> anyhow::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .context("cannot start the runtime")?;
        let client = runtime.block_on(connect::client(access))?;
        Ok(Self { runtime, client, namespace: namespace.to_owned() })
    }

    /// The Services that are clusters, as Atlas itself selects them.
    ///
    /// # Errors
    /// The API server refuses or doesn't answer.
    pub fn clusters(&self) -> anyhow::Result<Vec<Manifest>> {
        let services = self.block(
            "list the Services",
            self.services().list(&ListParams::default().labels(CLUSTER_SELECTOR)),
        )?;
        Ok(services.items.into_iter().map(convert::service).collect())
    }

    /// A Service, cluster or not.
    ///
    /// # Errors
    /// The API server refuses or doesn't answer.
    pub fn service(&self, name: &str) -> anyhow::Result<Option<LiveService>> {
        let Some(service) =
            self.block(&format!("read the Service {name}"), self.services().get_opt(name))?
        else {
            return Ok(None);
        };
        let object = serde_json::to_value(&service).context("BUG: a Service that is no JSON")?;
        let Manifest::Service(service) = convert::service(service) else {
            bail!("BUG: a Service that is none")
        };
        Ok(Some(LiveService { service, object }))
    }

    /// Applies a Service by server-side apply.
    ///
    /// # Errors
    /// The API server refuses it, or doesn't answer.
    pub fn apply_service(&self, name: &str, manifest: &Value, dry_run: bool) -> anyhow::Result<()> {
        let params = PatchParams { dry_run, ..PatchParams::apply(MANAGER).force() };
        let doing =
            format!("{} the Service {name}", if dry_run { "try to apply" } else { "apply" });
        self.block(&doing, self.services().patch(name, &params, &Patch::Apply(manifest))).map(drop)
    }

    /// Deletes the Service with this uid, and waits until it is gone.
    ///
    /// # Errors
    /// The API server refuses, or a finalizer holds the Service.
    pub fn delete_service(&self, name: &str, uid: Option<String>) -> anyhow::Result<()> {
        let preconditions = uid.map(|uid| Preconditions { uid: Some(uid), resource_version: None });
        let params = DeleteParams { preconditions, ..DeleteParams::background() };
        let services = self.services();
        let delete = async {
            match services.delete(name, &params).await {
                Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
                other => other.map(drop),
            }
        };
        self.block(&format!("delete the Service {name}"), delete)?;
        let deadline = Instant::now() + DELETE_TIMEOUT;
        while let Some(live) = self.service(name)? {
            let finalizers = &live.object["metadata"]["finalizers"];
            ensure!(
                Instant::now() < deadline,
                "the Service {name} in {} is still there after {} s (finalizers: {finalizers}), so its credential still counts: once it \
                 is gone, run the same command again",
                self.namespace,
                DELETE_TIMEOUT.as_secs()
            );
            std::thread::sleep(POLL);
        }
        Ok(())
    }

    /// The data of a Secret, as far as they are UTF-8.
    ///
    /// # Errors
    /// The API server refuses or doesn't answer.
    pub fn secret(&self, name: &str) -> anyhow::Result<Option<BTreeMap<String, String>>> {
        let Some(secret) = self.get_secret(name)? else { return Ok(None) };
        let text = |(key, ByteString(bytes)): (String, ByteString)| {
            Some((key, String::from_utf8(bytes).ok()?))
        };
        Ok(Some(secret.data.unwrap_or_default().into_iter().filter_map(text).collect()))
    }

    fn get_secret(&self, name: &str) -> anyhow::Result<Option<Secret>> {
        self.block(&format!("read the Secret {name}"), self.secrets().get_opt(name))
    }

    fn services(&self) -> Api<Service> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    fn secrets(&self) -> Api<Secret> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// `doing`: for the error.
    fn block<T>(
        &self,
        doing: &str,
        task: impl Future<Output = kube::Result<T>>,
    ) -> anyhow::Result<T> {
        let explain = |error| match error {
            kube::Error::Api(status) => anyhow!("{}", status.message),
            other => anyhow!("{} (is the API server reachable?)", error_with_causes(&other)),
        };
        self.runtime
            .block_on(task)
            .map_err(explain)
            .with_context(|| format!("cannot {doing} in {}", self.namespace))
    }
}

/// The fields that Atlas reads and in which a manifest and an object differ; a line each.
pub fn differences(manifest: &Value, live: &Value) -> Vec<String> {
    let mut lines = Vec::new();
    for part in ["labels", "annotations"] {
        let of = |object: &Value| -> BTreeMap<String, Value> {
            let all = object["metadata"][part].as_object().cloned().unwrap_or_default();
            all.into_iter().filter(|(key, _)| key.starts_with("goatlas.io/")).collect()
        };
        let (given, there) = (of(manifest), of(live));
        let keys: BTreeSet<&String> = given.keys().chain(there.keys()).collect();
        lines.extend(
            keys.into_iter().filter_map(|key| difference(key, given.get(key), there.get(key))),
        );
    }
    let ips = |object: &Value| {
        Some(object["spec"]["externalIPs"].clone()).filter(|ips| *ips != json!(null))
    };
    lines.extend(difference(annotations::EXTERNAL_IPS, ips(manifest).as_ref(), ips(live).as_ref()));
    lines
}

fn difference(key: &str, given: Option<&Value>, there: Option<&Value>) -> Option<String> {
    match (given, there) {
        (given, there) if given == there => None,
        (Some(given), Some(there)) => Some(format!("{key}: {there} is there, {given} is given")),
        (None, Some(there)) => Some(format!("{key}: {there} is there, nothing is given")),
        (Some(given), None) => Some(format!("{key}: nothing is there, {given} is given")),
        (None, None) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_fields_that_atlas_reads_are_differences() {
        let manifest = json!({
            "metadata": {"labels": {"goatlas.io/replicas": "2"}, "annotations": {"goatlas.io/addresses": "a"}},
            "spec": {"clusterIP": "None"},
        });
        let live = json!({
            "metadata": {
                "labels": {"goatlas.io/replicas": "1", "team": "sre"},
                "annotations": {"goatlas.io/addresses": "a", "goatlas.io/shards": "3", "note": "x"},
            },
            "spec": {"clusterIP": "None", "externalIPs": ["192.0.2.7"]},
        });
        let expected = [
            "goatlas.io/replicas: \"1\" is there, \"2\" is given",
            "goatlas.io/shards: \"3\" is there, nothing is given",
            "spec.externalIPs: [\"192.0.2.7\"] is there, nothing is given",
        ];
        assert_eq!(differences(&manifest, &live), expected);
        assert_eq!(differences(&live, &live), [""; 0]);
    }
}

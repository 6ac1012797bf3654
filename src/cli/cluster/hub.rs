//! Clusters in the hub's Kubernetes cluster: added to it, and removed from it.

use anyhow::{Context, bail, ensure};
use atlas_core::annotations;
use atlas_core::name::{ClusterName, TrustDomain};
use atlas_core::ports;
use atlas_core::validate::is_cluster;
use serde_json::Value;

use crate::cli::Outcome;
use crate::cli::output::{print, say, show};
use crate::kube::admin::{Admin, Forgotten, LiveService, differences};

/// What is to be added.
pub struct Add<'a> {
    /// The cluster.
    pub name: &'a ClusterName,
    /// Its manifest.
    pub text: &'a str,
    /// Whether one that is there is changed.
    pub overwrite: bool,
    /// Whether nothing is written.
    pub dry_run: bool,
}

/// Applies the cluster's Service, and says what comes next.
///
/// # Errors
/// There is one already that may not be changed, or the API server refuses.
pub fn add(hub: &Admin, how: &Add<'_>) -> anyhow::Result<()> {
    let (name, namespace) = (how.name, &hub.namespace);
    let mut manifest: Value =
        serde_yaml_ng::from_str(how.text).context("BUG: the new manifest is not YAML")?;
    let there = hub.service(name.as_str())?;
    if let Some(live) = &there {
        ensure_cluster(hub, name, live, "choose another name")?;
        let differences = differences(&manifest, &live.object);
        ensure!(how.overwrite, "{}", already(namespace, name, &differences));
        adapt(&mut manifest, &live.object);
    }
    hub.apply_service(name.as_str(), &manifest, how.dry_run)?;
    if how.dry_run {
        return print(how.text);
    }
    print(&format!("service/{name}\n"))?;
    let done = if there.is_some() { "changed" } else { "made" };
    say(format_args!(
        "{done} the Service {name} in {namespace}. An Atlas that runs there takes it up at once.\n\
         next, the values of its Envoy: atlas cluster-values {name} --namespace {namespace}"
    ));
    if there.is_some()
        && let Some(now) = hub.service(name.as_str())?
    {
        for kept in differences(&manifest, &now.object) {
            say(format_args!("kept, since somebody else has set it: {kept}"));
        }
    }
    Ok(())
}

/// What can't be changed stays (`clusterIP`), and what others may use too: the name of the stores'
/// port is part of names in DNS.
fn adapt(manifest: &mut Value, live: &Value) {
    manifest["metadata"]["uid"] = live["metadata"]["uid"].clone();
    if live["spec"]["clusterIP"] != "None"
        && let Some(spec) = manifest["spec"].as_object_mut()
    {
        spec.remove("clusterIP");
    }
    let is_store = |one: &&Value| one["port"] == ports::THANOS && one["name"].is_string();
    if let Some(there) = live["spec"]["ports"].as_array().into_iter().flatten().find(is_store) {
        manifest["spec"]["ports"][0]["name"] = there["name"].clone();
    }
}

fn already(namespace: &str, name: &ClusterName, differences: &[String]) -> String {
    let there = format!("there is a cluster {name} in {namespace} already");
    if differences.is_empty() {
        return format!("{there}, and it says the same");
    }
    format!(
        "{there}, and it differs:\n  {}\nchoose another name, or change it with --overwrite",
        differences.join("\n  ")
    )
}

fn ensure_cluster(
    hub: &Admin,
    name: &ClusterName,
    live: &LiveService,
    fix: &str,
) -> anyhow::Result<()> {
    ensure!(
        is_cluster(&live.service),
        "the Service {name} in {} is no cluster of Atlas's (the label {} is missing, or it is a store's): it is left as it is; {fix}",
        hub.namespace,
        annotations::CLUSTER
    );
    Ok(())
}

/// Deletes the cluster's Service, then forgets its credential.
///
/// # Errors
/// There is no such cluster, or the API server refuses.
pub fn remove(
    hub: &Admin,
    name: &ClusterName,
    domain: &TrustDomain,
    dry_run: bool,
) -> anyhow::Result<Outcome> {
    let there = hub.service(name.as_str())?;
    let known = hub.has_credential(name, domain)?;
    match &there {
        Some(live) => ensure_cluster(hub, name, live, "delete it with kubectl, if you mean it")?,
        None if known => {
            say(format_args!("there is no Service {name} in {} any more", hub.namespace))
        }
        None => bail!("there is no cluster {name} in {}: {}", hub.namespace, others(hub)?),
    }
    if dry_run {
        let service = there.map(|_| format!("would have deleted service/{name}\n"));
        let credential = known.then(|| format!("would have forgotten the credential of {name}\n"));
        show(&[service, credential].into_iter().flatten().collect::<String>())?;
        return Ok(Outcome::Done);
    }
    if let Some(live) = there {
        hub.delete_service(name.as_str(), live.service.meta.uid)?;
        print(&format!("deleted service/{name}\n"))?;
    }
    let gone = || {
        format!(
            "the Service {name} is gone, but its credential still counts: run the same command again"
        )
    };
    let Forgotten { had_credential, is_noticed } = hub.forget(name, domain).with_context(gone)?;
    if !is_noticed {
        say(format_args!(
            "no Atlas has noticed yet that {name} is gone: if one runs and still has that cluster, run the same command again"
        ));
    }
    if had_credential {
        print(&format!("forgot the credential of {name}\n"))?;
    } else {
        say(format_args!("there was no credential of {name} in {} to forget", hub.namespace));
    }
    Ok(Outcome::Done)
}

/// Which clusters there are.
fn others(hub: &Admin) -> anyhow::Result<String> {
    let names: Vec<String> =
        hub.clusters()?.iter().map(|manifest| manifest.meta().name.clone()).collect();
    Ok(if names.is_empty() {
        "there is none at all".into()
    } else {
        format!("there are {}", names.join(", "))
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_cannot_or_should_not_change_is_left_as_it_is() {
        let ours =
            json!({"spec": {"clusterIP": "None", "ports": [{"name": "grpc", "port": 10901}]}});
        let of_03 = json!({
            "metadata": {"uid": "1"},
            "spec": {"clusterIP": "10.0.0.7", "ports": [{"name": "prometheus", "port": 9090}, {"name": "thanos", "port": 10901}]},
        });
        let mut manifest = ours.clone();
        adapt(&mut manifest, &of_03);
        assert_eq!(manifest["spec"], json!({"ports": [{"name": "thanos", "port": 10901}]}));
        let mut manifest = ours.clone();
        adapt(
            &mut manifest,
            &json!({"metadata": {"uid": "1"}, "spec": {"clusterIP": "None", "ports": [{"port": 10901}]}}),
        );
        assert_eq!(manifest["spec"], ours["spec"]);
    }
}

//! Manifests that install a cluster's Envoy with its values, for several tools. The result is YAML
//! for `kubectl apply -f -`.
//!
//! ```text
//!                 ┌─ helm_chart ───▶ Secret + HelmChart                     K3s, RKE2
//! values.yaml ────┼─ helm_release ─▶ Secret + OCIRepository + HelmRelease   Flux (HelmRepository for https://)
//! six files ──────┴─ secret ───────▶ Secret                                 existingSecret: Argo CD, External Secrets
//! ```
//!
//! Private keys are in Secrets only, never in an object that many may read. These objects don't
//! have Atlas's label, since Atlas deletes objects that have it and don't belong to its fleet.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::bootstrap_files::FILES;
use super::helm_values::VALUES;
use crate::name::is_within_path;
use crate::render;

/// An installation of the Envoy's chart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChartInstallation {
    /// The release's name.
    pub release: String,
    /// Namespace of the release.
    pub namespace: String,
    /// Namespace of the HelmChart or HelmRelease, and of its Secret.
    pub manifests: String,
    /// Name of the Secret with the values or files.
    pub secret: String,
    /// The chart's source.
    pub chart: ChartSource,
    /// The chart's version.
    pub version: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ChartSource {
    /// `oci://registry/path/name`.
    Oci(String),
    /// `https://host/path/name`: the chart `name` of the repository at `https://host/path`.
    Repository {
        /// The repository.
        url: String,
        /// The chart's name.
        name: String,
    },
}

/// A text is not the source of a chart.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "says nothing of where the chart is: write oci://REGISTRY/PATH/NAME, or https://REPOSITORY/NAME"
)]
pub struct ParseChartSourceError;

impl std::str::FromStr for ChartSource {
    type Err = ParseChartSourceError;

    fn from_str(text: &str) -> Result<Self, ParseChartSourceError> {
        let whole = text.chars().all(|c| c.is_ascii_graphic());
        let (scheme, rest) =
            text.split_once("://").filter(|_| whole).ok_or(ParseChartSourceError)?;
        let (at, name) = rest
            .rsplit_once('/')
            .filter(|(at, name)| !at.is_empty() && !name.is_empty())
            .ok_or(ParseChartSourceError)?;
        match scheme {
            "oci" => Ok(Self::Oci(text.to_owned())),
            "https" | "http" => {
                Ok(Self::Repository { url: format!("{scheme}://{at}"), name: name.to_owned() })
            }
            _ => Err(ParseChartSourceError),
        }
    }
}

/// For the Helm controller of K3s and RKE2: a `HelmChart`, and a Secret with its values.
pub fn helm_chart(to: &ChartInstallation, values: &str) -> String {
    let mut spec = json!({
        "version": to.version,
        "targetNamespace": to.namespace,
        "createNamespace": true,
        "valuesSecrets": [{"name": to.secret, "keys": [VALUES], "ignoreUpdates": false}],
    });
    match &to.chart {
        ChartSource::Oci(url) => spec["chart"] = url.as_str().into(),
        ChartSource::Repository { url, name } => {
            spec["repo"] = url.as_str().into();
            spec["chart"] = name.as_str().into();
        }
    }
    let chart = json!({
        "apiVersion": "helm.cattle.io/v1", "kind": "HelmChart",
        "metadata": {"name": to.release, "namespace": to.manifests},
        "spec": spec,
    });
    documents(&[values_secret(to, values), chart])
}

/// For Flux 2.6 and later: a `HelmRelease`, the source of its chart, and a Secret with its values.
pub fn helm_release(to: &ChartInstallation, values: &str) -> String {
    let metadata = json!({"name": to.release, "namespace": to.manifests});
    let mut spec = json!({
        "interval": "1h",
        "releaseName": to.release,
        "valuesFrom": [{"kind": "Secret", "name": to.secret, "valuesKey": VALUES}],
    });
    if to.manifests != to.namespace {
        spec["targetNamespace"] = to.namespace.as_str().into();
        // Helm keeps its release records in the release's namespace.
        spec["storageNamespace"] = to.namespace.as_str().into();
        spec["install"] = json!({"createNamespace": true});
    }
    let source = match &to.chart {
        ChartSource::Oci(url) => {
            spec["chartRef"] = json!({"kind": "OCIRepository", "name": to.release});
            json!({
                "apiVersion": "source.toolkit.fluxcd.io/v1", "kind": "OCIRepository", "metadata": metadata,
                "spec": {
                    "interval": "1h",
                    "url": url,
                    // A tag can't have the plus sign of a version; Helm writes an underscore.
                    "ref": {"tag": to.version.replace('+', "_")},
                    "layerSelector": {"mediaType": "application/vnd.cncf.helm.chart.content.v1.tar+gzip", "operation": "copy"},
                },
            })
        }
        ChartSource::Repository { url, name } => {
            let source = json!({"kind": "HelmRepository", "name": to.release});
            spec["chart"] =
                json!({"spec": {"chart": name, "version": to.version, "sourceRef": source}});
            json!({
                "apiVersion": "source.toolkit.fluxcd.io/v1", "kind": "HelmRepository", "metadata": metadata,
                "spec": {"interval": "1h", "url": url},
            })
        }
    };
    let release = json!({"apiVersion": "helm.toolkit.fluxcd.io/v2", "kind": "HelmRelease", "metadata": metadata, "spec": spec});
    let mut secret = values_secret(to, values);
    // With this label, Flux 2.7 and later upgrade at once when the Secret changes. Flux 2.6
    // upgrades within the interval.
    secret["metadata"]["labels"] = json!({"reconcile.fluxcd.io/watch": "Enabled"});
    documents(&[secret, source, release])
}

/// The Secret that the chart mounts by its value `existingSecret`.
pub fn secret(to: &ChartInstallation, files: &BTreeMap<String, String>) -> String {
    let files: BTreeMap<_, _> =
        files.iter().filter(|(name, _)| FILES.contains(&name.as_str())).collect();
    documents(&[opaque(&to.secret, &to.namespace, json!(files))])
}

/// A generated `values.yaml` for an Envoy that has the six files from a Secret: the number of
/// replicas and the memory limit, which the bootstrap has too.
pub fn values_for_existing_secret(to: &ChartInstallation, values: &str) -> String {
    let values: Value = serde_yaml_ng::from_str(values).unwrap_or_default();
    let mut values = values.as_object().cloned().unwrap_or_default();
    values.remove("files");
    values.insert("existingSecret".into(), to.secret.as_str().into());
    document(&Value::Object(values))
}

/// The six files in a generated `values.yaml`, if it has them.
pub fn files_in_values(values: &str) -> BTreeMap<String, String> {
    let values: Value = serde_yaml_ng::from_str(values).unwrap_or_default();
    let files = values["files"].as_object().into_iter().flatten();
    files.filter_map(|(name, text)| Some((name.clone(), text.as_str()?.to_owned()))).collect()
}

/// The files for an Envoy in whose container they lie in the directory `to` instead of `from`.
///
/// # Errors
/// One of them is not YAML.
pub fn replace_directory(
    files: BTreeMap<String, String>,
    from: &str,
    to: &str,
) -> Result<BTreeMap<String, String>, serde_yaml_ng::Error> {
    let one = |(name, text): (String, String)| {
        let text = if name.ends_with(".yaml") { replace_in_text(&text, from, to)? } else { text };
        Ok((name, text))
    };
    files.into_iter().map(one).collect()
}

/// Replaces `from` by `to` in every path within `from`.
fn replace_in_text(text: &str, from: &str, to: &str) -> Result<String, serde_yaml_ng::Error> {
    let mut tree: serde_yaml_ng::Value = serde_yaml_ng::from_str(text)?;
    replace_in_tree(&mut tree, from, to);
    Ok(render::document(&tree))
}

fn replace_in_tree(tree: &mut serde_yaml_ng::Value, from: &str, to: &str) {
    match tree {
        serde_yaml_ng::Value::String(text) => {
            if let Some(rest) = text.strip_prefix(from).filter(|_| is_within_path(text, from)) {
                *text = format!("{to}{rest}");
            }
        }
        serde_yaml_ng::Value::Sequence(items) => {
            for item in items {
                replace_in_tree(item, from, to);
            }
        }
        serde_yaml_ng::Value::Mapping(map) => {
            for (_, item) in map {
                replace_in_tree(item, from, to);
            }
        }
        _ => {}
    }
}

fn values_secret(to: &ChartInstallation, values: &str) -> Value {
    opaque(&to.secret, &to.manifests, json!({VALUES: values}))
}

/// The data is text, not base64, so that people see what they encrypt (SOPS) and what changed.
fn opaque(name: &str, namespace: &str, data: Value) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Secret",
        "metadata": {"name": name, "namespace": namespace},
        "type": "Opaque",
        "stringData": data,
    })
}

fn document(value: &Value) -> String {
    let tree = serde_yaml_ng::to_value(value).expect("BUG: JSON that is no YAML");
    render::document(&tree)
}

fn documents(objects: &[Value]) -> String {
    let text: Vec<String> = objects.iter().map(document).collect();
    format!(
        "# Written by `atlas cluster-values`. It holds a private key: encrypt it before you store it.\n{}",
        text.join("---\n")
    )
}

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{Value, json};

use super::*;
use crate::install::helm_values;
use crate::quantity::Memory;

fn delivery() -> ChartInstallation {
    ChartInstallation {
        release: "atlas-envoy".into(),
        namespace: "monitoring".into(),
        manifests: "kube-system".into(),
        secret: "atlas-envoy-helm-values".into(),
        chart: "oci://ghcr.io/goatlas-io/charts/envoy".parse().unwrap(),
        version: "0.4.0+a".into(),
    }
}

/// Texts that an indentation or a lenient parser could spoil.
fn files() -> BTreeMap<String, String> {
    let key = "-----BEGIN PRIVATE KEY-----\nMIG=\n-----END PRIVATE KEY-----\n";
    let yaml = "dir: /etc/atlas\npath: /etc/atlas/tls.crt\nother: /etc/atlas-2/x\nlist:\n- /etc/atlas/ca.crt\n";
    FILES
        .iter()
        .map(|name| {
            ((*name).to_owned(), if name.ends_with(".yaml") { yaml } else { key }.to_owned())
        })
        .collect()
}

fn parse(text: &str) -> Vec<Value> {
    serde_yaml_ng::Deserializer::from_str(text)
        .map(|document| Value::deserialize(document).unwrap())
        .collect()
}

#[test]
fn k3s_gets_a_chart_whose_values_lie_in_a_secret() {
    let values = helm_values::envoy("tokyo", 2, Memory::mebibytes(256), &files());
    let text = helm_chart(&delivery(), &values);
    let [secret, chart] = parse(&text).try_into().unwrap();
    assert_eq!(secret["stringData"]["values.yaml"], values.as_str());
    assert_eq!(
        secret["metadata"],
        json!({"name": "atlas-envoy-helm-values", "namespace": "kube-system"})
    );
    assert_eq!(
        chart,
        json!({
            "apiVersion": "helm.cattle.io/v1", "kind": "HelmChart",
            "metadata": {"name": "atlas-envoy", "namespace": "kube-system"},
            "spec": {
                "chart": "oci://ghcr.io/goatlas-io/charts/envoy", "version": "0.4.0+a",
                "targetNamespace": "monitoring", "createNamespace": true,
                "valuesSecrets": [{"name": "atlas-envoy-helm-values", "keys": ["values.yaml"], "ignoreUpdates": false}],
            },
        })
    );
    assert!(!chart.to_string().contains("PRIVATE KEY"));
    let repository = ChartInstallation {
        chart: "https://charts.example.com/atlas/envoy".parse().unwrap(),
        ..delivery()
    };
    let chart = &parse(&helm_chart(&repository, &values))[1]["spec"];
    assert_eq!(
        (&chart["repo"], &chart["chart"]),
        (&json!("https://charts.example.com/atlas"), &json!("envoy"))
    );
}

#[test]
fn flux_gets_a_release_its_source_and_a_secret() {
    let values = helm_values::envoy("tokyo", 2, Memory::mebibytes(256), &files());
    let here = ChartInstallation { manifests: "monitoring".into(), ..delivery() };
    let [secret, source, release] = parse(&helm_release(&here, &values)).try_into().unwrap();
    assert_eq!(secret["stringData"]["values.yaml"], values.as_str());
    assert_eq!(
        (&source["kind"], &source["apiVersion"]),
        (&json!("OCIRepository"), &json!("source.toolkit.fluxcd.io/v1"))
    );
    assert_eq!(source["spec"]["ref"]["tag"], "0.4.0_a");
    assert_eq!(release["apiVersion"], "helm.toolkit.fluxcd.io/v2");
    assert_eq!(
        release["spec"],
        json!({
            "interval": "1h", "releaseName": "atlas-envoy",
            "chartRef": {"kind": "OCIRepository", "name": "atlas-envoy"},
            "valuesFrom": [{"kind": "Secret", "name": "atlas-envoy-helm-values", "valuesKey": "values.yaml"}],
        })
    );
    let elsewhere = ChartInstallation {
        chart: "https://charts.example.com/envoy".parse().unwrap(),
        manifests: "flux-system".into(),
        ..delivery()
    };
    let [_, source, release] = parse(&helm_release(&elsewhere, &values)).try_into().unwrap();
    assert_eq!(source["spec"]["url"], "https://charts.example.com");
    let chart = &release["spec"]["chart"]["spec"];
    assert_eq!(
        (&chart["chart"], &chart["sourceRef"]["kind"]),
        (&json!("envoy"), &json!("HelmRepository"))
    );
    assert_eq!(release["spec"]["targetNamespace"], "monitoring");
}

#[test]
fn the_plain_secret_holds_the_six_files_and_nothing_else() {
    let mut given = files();
    given.insert("values.yaml".into(), "x".into());
    let [secret] = parse(&secret(&delivery(), &given)).try_into().unwrap();
    assert_eq!(secret["stringData"], json!(files()));
    assert_eq!(secret["metadata"]["namespace"], "monitoring");
}

#[test]
fn values_give_back_their_files() {
    assert_eq!(
        files_in_values(&helm_values::envoy("tokyo", 2, Memory::mebibytes(256), &files())),
        files()
    );
    assert_eq!(files_in_values("cluster: tokyo\n"), BTreeMap::new());
    assert_eq!(files_in_values("\t"), BTreeMap::new());
}

#[test]
fn paths_move_and_what_only_looks_like_them_stays() {
    let moved = replace_directory(files(), "/etc/atlas", "/run/envoy").unwrap();
    let expected = "dir: /run/envoy\npath: /run/envoy/tls.crt\nother: /etc/atlas-2/x\nlist:\n- /run/envoy/ca.crt\n";
    assert_eq!(moved["envoy.yaml"], expected);
    assert_eq!(moved["tls.key"], files()["tls.key"]);
}

#[test]
fn a_chart_is_somewhere() {
    for wrong in [
        "envoy",
        "oci://",
        "oci://registry",
        "https://charts.example.com/",
        "ftp://a/b",
        "oci://a/b c",
        "./charts/envoy",
    ] {
        assert_eq!(wrong.parse::<ChartSource>(), Err(ParseChartSourceError), "{wrong}");
    }
}

/// Without them the Envoy's container would have less memory than the Envoy counts on, and another
/// number of replicas.
#[test]
fn values_for_an_existing_secret_have_replicas_and_memory() {
    let to = ChartInstallation { secret: "atlas-envoy-files".into(), ..delivery() };
    let text = values_for_existing_secret(
        &to,
        &helm_values::envoy("tokyo", 3, Memory::mebibytes(1024), &files()),
    );
    let expected = json!({
        "cluster": "tokyo", "replicaCount": 3, "resources": {"limits": {"memory": Memory::mebibytes(1024).to_string()}},
        "existingSecret": "atlas-envoy-files",
    });
    assert_eq!(serde_yaml_ng::from_str::<Value>(&text).unwrap(), expected);
}

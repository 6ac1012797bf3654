//! Which objects select which by labels, also after other tools have changed the labels.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use serde_json::json;

use super::*;

/// The flags that enable all objects with selectors.
const ALL_SELECTORS: [&str; 2] =
    ["--set", "serviceMonitor.enabled=true,networkPolicy.enabled=true"];

pub fn is_selected(selector: &Value, deployment: &Value) -> bool {
    text(deployment, "kind") == "Deployment"
        && has_labels(selector, at(deployment, "spec/template/metadata/labels"))
}

pub fn is_monitored(monitor: &Value, service: &Value) -> bool {
    assert!(
        at(monitor, "spec/selector/matchExpressions").is_null(),
        "this test knows no expressions"
    );
    text(service, "kind") == "Service"
        && has_labels(at(monitor, "spec/selector/matchLabels"), at(service, "metadata/labels"))
}

/// Whether `labels` has all labels of a selector, which must not be empty.
fn has_labels(selector: &Value, labels: &Value) -> bool {
    let selector =
        selector.as_mapping().filter(|selector| !selector.is_empty()).expect("a selector");
    selector.iter().all(|(key, value)| labels.get(key) == Some(value))
}

/// The names of the objects that each selector selects. It must be at least one, except for the
/// topology spread constraints of a case's values.
pub fn selections(objects: &[Value]) -> BTreeMap<String, BTreeSet<String>> {
    let mut all = BTreeMap::new();
    for object in objects {
        let what = format!("{} {}", text(object, "kind"), text(object, "metadata/name"));
        for (how, selector) in selectors(object) {
            let found = objects
                .iter()
                .filter(|other| is_selected(&selector, other))
                .map(|other| text(other, "metadata/name").to_owned());
            all.insert(format!("{what}: {how}"), found.collect::<BTreeSet<_>>());
        }
        if text(object, "kind") == "ServiceMonitor" {
            let found = objects
                .iter()
                .filter(|other| is_monitored(object, other))
                .map(|other| text(other, "metadata/name").to_owned());
            all.insert(what, found.collect());
        }
    }
    for (what, found) in &all {
        assert!(!found.is_empty() || what.contains(": spread"), "{what} selects nothing");
    }
    all
}

/// The selectors of Pods in an object, by their place.
fn selectors(object: &Value) -> Vec<(String, Value)> {
    let mut all = Vec::new();
    let mut add = |how: String, selector: &Value| {
        if selector.as_mapping().is_some_and(|labels| !labels.is_empty()) {
            all.push((how, selector.clone()));
        }
    };
    match text(object, "kind") {
        "Service" => add("selector".into(), at(object, "spec/selector")),
        "PodDisruptionBudget" => add("selector".into(), at(object, "spec/selector/matchLabels")),
        "NetworkPolicy" => {
            add("podSelector".into(), at(object, "spec/podSelector/matchLabels"));
            for (number, peer) in
                list(object, "spec/ingress").iter().flat_map(|rule| list(rule, "from")).enumerate()
            {
                add(format!("from {number}"), at(peer, "podSelector/matchLabels"));
            }
        }
        "Deployment" => {
            add("selector".into(), at(object, "spec/selector/matchLabels"));
            for (number, spread) in
                list(object, "spec/template/spec/topologySpreadConstraints").iter().enumerate()
            {
                add(format!("spread {number}"), at(spread, "labelSelector/matchLabels"));
            }
            let variables = list(object, "spec/template/spec/containers/0/env").iter();
            for told in
                variables.filter(|variable| text(variable, "name") == "ATLAS_ENVOY_SELECTORS")
            {
                let labels =
                    text(told, "value").split(',').map(|pair| pair.split_once('=').unwrap());
                add(
                    "ATLAS_ENVOY_SELECTORS".into(),
                    &Value::Mapping(
                        labels.map(|(key, value)| (key.into(), value.into())).collect(),
                    ),
                );
            }
        }
        _ => {}
    }
    all
}

/// The objects, each with these labels in place of its own of the same keys.
fn relabelled(objects: &[Value], labels: &[(&str, &str)]) -> Vec<Value> {
    let mut objects = objects.to_vec();
    for object in &mut objects {
        let metadata = object["metadata"].as_mapping_mut().unwrap();
        let all = metadata
            .entry("labels".into())
            .or_insert_with(|| Value::Mapping(serde_yaml_ng::Mapping::new()));
        for (key, value) in labels {
            all[*key] = Value::from(*value);
        }
    }
    objects
}

/// Argo CD writes its tracking label, the application's name, into `metadata.labels` of every
/// object and nowhere else (`SetAppInstanceLabel`, `util/kube`). Flux's `commonMetadata` writes any
/// labels there.
#[test]
fn labels_of_argo_cd_and_flux_change_no_selection() {
    let argo_cd = [("app.kubernetes.io/instance", "prod-hub")];
    let flux = [
        ("app", "observability"),
        ("app.kubernetes.io/component", "observability"),
        ("app.kubernetes.io/instance", "observability"),
        ("app.kubernetes.io/managed-by", "flux"),
        ("app.kubernetes.io/name", "observability"),
        ("app.kubernetes.io/part-of", "platform"),
        ("helm.sh/chart", "observability"),
        ("release", "kube-prometheus-stack"),
    ];
    let mut monitors = 0;
    for case in CHARTS.into_iter().flat_map(|chart| cases(chart).unwrap()) {
        let objects = case.objects(&ALL_SELECTORS).unwrap();
        let before = selections(&objects);
        monitors += before.keys().filter(|what| what.starts_with("ServiceMonitor")).count();
        for labels in [&argo_cd[..], &flux] {
            assert_eq!(
                selections(&relabelled(&objects, labels)),
                before,
                "{}/{}",
                case.chart,
                case.name
            );
        }
    }
    assert!(monitors > 20, "{monitors}");
}

/// kustomize's `commonLabels` changes selectors too, of the kinds that it knows: not that of a
/// ServiceMonitor, nor the flags of Atlas. (`app`, `release` and `app.kubernetes.io/component`
/// can't be used as common labels: docs/troubleshooting.md.)
#[test]
fn common_labels_of_kustomize_change_no_selection() {
    let kubectl = parts::get(Part::Kubectl).unwrap();
    for case in CHARTS
        .into_iter()
        .flat_map(|chart| cases(chart).unwrap())
        .filter(|case| ["defaults", "split"].contains(&case.name.as_str()))
    {
        let objects = case.objects(&ALL_SELECTORS).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let all: Vec<_> =
            objects.iter().map(|object| serde_yaml_ng::to_string(object).unwrap()).collect();
        fs::write(dir.path().join("all.yaml"), all.join("---\n")).unwrap();
        let labels = json!({
            "app.kubernetes.io/instance": "prod", "app.kubernetes.io/name": "observability", "app.kubernetes.io/managed-by": "kustomize",
            "app.kubernetes.io/part-of": "platform", "helm.sh/chart": "none", "team": "metrics",
        });
        let kustomization = json!({"resources": ["all.yaml"], "commonLabels": labels});
        fs::write(dir.path().join("kustomization.yaml"), kustomization.to_string()).unwrap();
        let output = Command::new(&kubectl).arg("kustomize").arg(dir.path()).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let after = super::objects(&String::from_utf8(output.stdout).unwrap()).unwrap();
        assert_eq!(text(&after[0], "metadata/labels/team"), "metrics");
        assert_eq!(selections(&after), selections(&objects), "{}/{}", case.chart, case.name);
    }
}

/// People add labels to a Service, such as `release`, which the selectors of kube-prometheus-stack
/// often require.
#[test]
fn labels_in_the_values_of_a_service_change_no_selection() {
    for (chart, service) in
        [("envoy", "alertsService"), ("atlas", "envoy.internalService"), ("atlas", "service")]
    {
        let case = case(chart, "defaults").unwrap();
        let before = selections(&case.objects(&ALL_SELECTORS).unwrap());
        let own = format!(
            r#"{service}.labels={{"release":"stack","app.kubernetes.io/component":"mine","app.kubernetes.io/name":"mine"}}"#
        );
        let after = case.objects(&[&ALL_SELECTORS[..], &["--set-json", &own]].concat()).unwrap();
        assert_eq!(selections(&after), before, "{chart}: {service}");
    }
}

/// Kubernetes rejects a change of this selector, so an upgrade from an earlier chart would fail.
#[test]
fn a_deployments_selector_is_that_of_earlier_charts() {
    for case in CHARTS.into_iter().flat_map(|chart| cases(chart).unwrap()) {
        let release = &case.arguments[0];
        for deployment in
            case.objects(&[]).unwrap().iter().filter(|object| text(object, "kind") == "Deployment")
        {
            let labels = at(deployment, "spec/selector/matchLabels");
            let envoy = text(deployment, "spec/template/spec/containers/0/name") == "envoy";
            let keys: BTreeSet<_> =
                labels.as_mapping().unwrap().keys().filter_map(Value::as_str).collect();
            let expected = if envoy {
                ["app", "release"].into()
            } else {
                BTreeSet::from([
                    "app.kubernetes.io/component",
                    "app.kubernetes.io/instance",
                    "app.kubernetes.io/name",
                ])
            };
            assert_eq!(keys, expected, "{}/{}", case.chart, case.name);
            let key = if envoy { "release" } else { "app.kubernetes.io/instance" };
            assert_eq!(
                labels[key].as_str(),
                Some(release.as_str()),
                "{}/{}",
                case.chart,
                case.name
            );
        }
    }
}

//! Alerts and Alertmanager configuration of the charts, checked by promtool.

use std::collections::BTreeSet;
use std::fs;

use super::*;

/// The metrics of Envoy and of kube-state-metrics that alerts use.
const FOREIGN_METRICS: [&str; 8] = [
    "envoy_cluster_membership_healthy",
    "envoy_cluster_upstream_rq_pending_overflow",
    "envoy_cluster_upstream_rq_xx",
    "envoy_connection_limit_limited_connections",
    "envoy_overload_envoy_resource_monitors_fixed_heap_pressure",
    "envoy_control_plane_connected_state",
    "kube_pod_status_ready",
    "up",
];

#[test]
fn prometheus_accepts_every_alert() {
    for chart in CHARTS {
        let rules = rules(chart);
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), serde_yaml_ng::to_string(&rules).unwrap()).unwrap();
        promtool(&["check", "rules", &file.path().to_string_lossy()]);
    }
}

#[test]
fn alerts_use_metrics_that_exist_and_say_what_is_wrong() {
    let reference = fs::read_to_string(root().join("docs/reference.md")).unwrap();
    for chart in CHARTS {
        let rules = rules(chart);
        let groups = list(&rules, "groups").iter().flat_map(|group| list(group, "rules"));
        let mut names = BTreeSet::new();
        for rule in groups {
            let name = text(rule, "alert");
            assert!(names.insert(name), "{name} appears twice");
            for metric in metrics(text(rule, "expr")) {
                let known = FOREIGN_METRICS.contains(&metric)
                    || reference.contains(&format!("| `{metric}"));
                assert!(known, "{name}: docs/reference.md does not know {metric}");
            }
            let said = [text(rule, "annotations/summary"), text(rule, "annotations/description")];
            assert!(said.iter().all(|said| !said.is_empty()), "{name} does not say what is wrong");
            assert!(
                ["info", "warning", "critical"].contains(&text(rule, "labels/severity")),
                "{name}"
            );
            let all = serde_yaml_ng::to_string(rule).unwrap();
            assert!(
                !["NAMESPACE", "FULLNAME", "SERVICE", "LEASE"]
                    .iter()
                    .any(|word| all.contains(word)),
                "{all}"
            );
        }
    }
}

#[test]
fn values_disable_alerts_and_add_labels() {
    let objects = case("envoy", "everything").unwrap().objects(&[]).unwrap();
    let rules = list(at(find(&objects, "PrometheusRule", "edge"), "spec/groups/0"), "rules");
    assert!(rules.iter().all(|rule| text(rule, "alert") != "AtlasEnvoyBackendDown"
        && text(rule, "labels/severity") == "page"));
    assert!(rules.len() > 1);
}

#[test]
fn prometheus_accepts_the_alertmanagers_as_shown_in_the_docs() {
    let objects = case("envoy", "other-namespace").unwrap().objects(&[]).unwrap();
    let secret = find(&objects, "Secret", "atlas-alertmanager-configs");
    assert_eq!(text(secret, "metadata/namespace"), "prometheus");
    let mut written: Value =
        serde_yaml_ng::from_str(text(secret, "stringData/config.yaml")).unwrap();
    let config =
        serde_yaml_ng::to_string(&serde_json::json!({"alerting": {"alertmanagers": written}}))
            .unwrap();
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), config).unwrap();
    promtool(&["check", "config", &file.path().to_string_lossy()]);

    let url = &mut written[0]["http_sd_configs"][0]["url"];
    assert_eq!(
        url.as_str(),
        Some("http://edge-envoy-alerts.observability.svc:11903/alertmanagers")
    );
    let service = find(&objects, "Service", "edge-envoy-alerts");
    assert!(
        list(service, "spec/ports").iter().any(|port| at(port, "port").as_u64() == Some(11903))
    );

    // Prometheus's own file, in docs/standalone.md, says the same of another place.
    let page = fs::read_to_string(root().join("docs/standalone.md")).unwrap();
    let shown = page
        .split("```")
        .find(|block| block.contains("http_sd_configs"))
        .expect("a block with http_sd_configs");
    let shown: Value = serde_yaml_ng::from_str(shown.trim_start_matches("yaml")).unwrap();
    let shown = at(&shown, "alerting/alertmanagers");
    *url = shown[0]["http_sd_configs"][0]["url"].clone();
    assert_eq!(&written, shown);
}

/// All rules of a chart, as a file for Prometheus.
fn rules(chart: &'static str) -> Value {
    let set = ["--set", "prometheusRule.enabled=true"];
    let objects = case(chart, "defaults").unwrap().objects(&set).unwrap();
    let rule = objects
        .iter()
        .find(|object| text(object, "kind") == "PrometheusRule")
        .expect("a PrometheusRule");
    at(rule, "spec").clone()
}

/// The names in an expression that are followed by `{`.
fn metrics(expression: &str) -> Vec<&str> {
    let before = expression.split('{').collect::<Vec<_>>();
    let before = &before[..before.len() - 1];
    let name = |text: &&str| {
        text.rfind(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_')
            .map_or(0, |end| end + 1)
    };
    before.iter().map(|text| &text[name(text)..]).filter(|name| !name.is_empty()).collect()
}

/// Runs promtool, which comes with Prometheus's package.
fn promtool(arguments: &[&str]) {
    let program = parts::get(Part::PrometheusClassic).unwrap().with_file_name("promtool");
    let output = Command::new(program).args(arguments).output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&said));
}

//! The charts as dependencies of a parent chart, with `condition`, `alias`, `tags`, `global` and
//! null values.

use std::collections::BTreeSet;
use std::fs;

use serde_json::json;
use tempfile::TempDir;

use super::labels::selections;
use super::*;

/// A parent chart.
struct Parent(TempDir);

impl Parent {
    fn new(dependencies: &serde_json::Value) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let chart = json!({"apiVersion": "v2", "name": "observability", "version": "1.0.0", "dependencies": dependencies});
        fs::write(dir.path().join("Chart.yaml"), chart.to_string()).unwrap();
        fs::create_dir(dir.path().join("charts")).unwrap();
        // Helm also renders charts in this directory that the parent doesn't declare.
        let declared = |chart: &&str| {
            dependencies.as_array().unwrap().iter().any(|dependency| dependency["name"] == **chart)
        };
        for chart in CHARTS.into_iter().filter(declared) {
            std::os::unix::fs::symlink(
                root().join("charts").join(chart),
                dir.path().join("charts").join(chart),
            )
            .unwrap();
        }
        Self(dir)
    }

    /// A parent of both charts, each with its own name and condition.
    fn of_both() -> Self {
        let dependency = |name: &str| json!({"name": name, "version": env!("CARGO_PKG_VERSION"), "condition": format!("{name}.enabled"), "tags": ["never"]});
        Self::new(&json!([dependency("atlas"), dependency("envoy")]))
    }

    fn render(&self, helm: Part, release: &str, values: &serde_json::Value) -> Result<Vec<Value>> {
        let file = self.0.path().with_extension("values.json");
        fs::write(&file, values.to_string())?;
        let rendered = template_at(
            helm,
            self.0.path(),
            &[release, "--namespace", "monitoring", "--values", &file.to_string_lossy()],
        );
        fs::remove_file(&file)?;
        objects(&rendered?)
    }
}

/// The values without which `charts/envoy` isn't rendered.
fn files() -> serde_json::Value {
    json!({"envoy.yaml": "a", "leaf.yaml": "a", "trust.yaml": "a", "tls.crt": "a", "tls.key": "a", "ca.crt": "a"})
}

/// Values with all objects that have selectors.
fn envoy(more: &[(&str, serde_json::Value)]) -> serde_json::Value {
    let mut values = json!({"files": files(), "serviceMonitor": {"enabled": true}, "networkPolicy": {"enabled": true}});
    values
        .as_object_mut()
        .unwrap()
        .extend(more.iter().map(|(key, value)| ((*key).to_owned(), value.clone())));
    values
}

fn hub() -> serde_json::Value {
    json!({"atlas": {"hubAddress": "hub.example.com"}, "serviceMonitor": {"enabled": true}, "networkPolicy": {"enabled": true}})
}

fn names(objects: &[Value]) -> Vec<(&str, &str, &str)> {
    objects
        .iter()
        .map(|object| {
            (
                text(object, "kind"),
                text(object, "metadata/namespace"),
                text(object, "metadata/name"),
            )
        })
        .collect()
}

fn sorted(objects: &[Value]) -> Vec<String> {
    let mut all: Vec<_> =
        objects.iter().map(|object| serde_yaml_ng::to_string(object).unwrap()).collect();
    all.sort();
    all
}

#[test]
fn an_enabled_chart_renders_as_if_it_were_alone() {
    let parent = Parent::of_both();
    for helm in HELMS {
        for (atlas, envoys) in [(true, false), (false, true), (true, true), (false, false)] {
            let mut values = json!({"atlas": hub(), "envoy": envoy(&[]), "tags": {"never": false}, "global": {"team": "metrics"}});
            values["atlas"]["enabled"] = json!(atlas);
            values["envoy"]["enabled"] = json!(envoys);
            let rendered = parent
                .render(helm, "obs", &values)
                .unwrap_or_else(|error| panic!("{helm}: {error:#}"));
            let mut alone = Vec::new();
            for (chart, _) in
                [("atlas", atlas), ("envoy", envoys)].into_iter().filter(|(_, enabled)| *enabled)
            {
                let file = tempfile::NamedTempFile::new().unwrap();
                fs::write(file.path(), values[chart].to_string()).unwrap();
                let arguments = [
                    "obs",
                    "--namespace",
                    "monitoring",
                    "--values",
                    &file.path().to_string_lossy(),
                ];
                alone.extend(objects(&template(helm, chart, &arguments).unwrap()).unwrap());
            }
            assert_eq!(sorted(&rendered), sorted(&alone), "{helm}: atlas {atlas}, envoy {envoys}");
        }
    }
}

#[test]
fn charts_and_aliases_in_one_release_share_no_object_or_selector() {
    let dependency = |name: &str, alias: &str| json!({"name": name, "version": env!("CARGO_PKG_VERSION"), "alias": alias, "condition": format!("{alias}.enabled")});
    let parent = Parent::new(&json!([
        dependency("atlas", "atlas"),
        dependency("envoy", "envoy"),
        dependency("envoy", "paris")
    ]));
    let secret = json!({"alertmanagerConfigs": {"name": "paris-alertmanager-configs"}});
    let values = json!({"atlas": hub(), "envoy": envoy(&[]), "paris": envoy(&[("atlas", secret)])});
    for helm in HELMS {
        let rendered = parent.render(helm, "obs", &values).unwrap();
        let names = names(&rendered);
        assert_eq!(names.len(), names.iter().collect::<BTreeSet<_>>().len(), "{helm}: {names:#?}");
        let all = selections(&rendered);
        assert!(all.len() > 25, "{all:#?}");
        for (what, found) in &all {
            // Two Deployments may select the same labels: each has Pods of its own by their owner.
            assert!(
                found.len() == 1
                    || what.starts_with("Deployment obs-") && what.ends_with(": selector"),
                "{helm}: {what}: {found:?}"
            );
            let ours = |name: &str| found.iter().all(|one| one.starts_with(name));
            let whose = ["obs-atlas", "obs-envoy", "obs-paris"]
                .into_iter()
                .find(|name| what.contains(name))
                .unwrap();
            assert!(
                ours(whose) || what.ends_with(": selector") && what.starts_with("Deployment"),
                "{helm}: {what} selects {found:?}"
            );
        }
    }
}

#[test]
fn globals_and_imported_values_are_those_of_the_parent() {
    let imported = json!({"child": "atlas", "parent": "imported"});
    let dependency = json!({"name": "atlas", "version": env!("CARGO_PKG_VERSION"), "condition": "atlas.enabled", "import-values": [imported]});
    let parent = Parent::new(&json!([dependency]));
    fs::create_dir(parent.0.path().join("templates")).unwrap();
    let text = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: zone}\ndata: {zone: {{ .Values.imported.dnsZone }}}\n";
    fs::write(parent.0.path().join("templates/zone.yaml"), text).unwrap();
    let mut values = json!({"atlas": hub(), "global": {"imageRegistry": "registry.example.com", "imagePullSecrets": ["mirror"], "cattle": {"any": 1}}});
    values["atlas"]["enabled"] = true.into();
    for helm in HELMS {
        let rendered = parent.render(helm, "obs", &values).unwrap();
        assert_eq!(super::text(find(&rendered, "ConfigMap", "zone"), "data/zone"), "atlas");
        let pod = at(find(&rendered, "Deployment", "obs-atlas"), "spec/template/spec");
        assert_eq!(super::text(pod, "imagePullSecrets/0/name"), "mirror");
        assert!(super::text(pod, "containers/0/image").starts_with("registry.example.com/"));
    }
}

#[test]
fn enabled_false_without_a_condition_is_an_error_that_names_it() {
    let dependency = |name: &str| json!({"name": name, "version": env!("CARGO_PKG_VERSION")});
    let parent = Parent::new(&json!(CHARTS.map(dependency)));
    for helm in HELMS {
        for chart in CHARTS {
            let mut values = json!({"atlas": hub(), "envoy": envoy(&[])});
            values[chart]["enabled"] = false.into();
            let error = parent.render(helm, "obs", &values).unwrap_err().to_string();
            assert!(
                error.contains("put `condition: <the chart's name there>.enabled`"),
                "{helm}, {chart}: {error}"
            );
            values[chart]["enabled"] = "yes".into();
            let error = parent.render(helm, "obs", &values).unwrap_err().to_string();
            assert!(error.contains("/enabled"), "{helm}, {chart}: {error}");
        }
    }
}

/// A parent removes a chart's own value by null. Either the chart renders without it, or the error
/// names it.
#[test]
fn a_table_set_to_null_is_optional_or_named_in_the_error() {
    let parent = Parent::of_both();
    let mut refused = BTreeSet::new();
    let mut tried = 0;
    for chart in CHARTS {
        let text =
            fs::read_to_string(root().join("charts").join(chart).join("values.yaml")).unwrap();
        let mut paths = Vec::new();
        tables(&serde_yaml_ng::from_str(&text).unwrap(), &mut Vec::new(), &mut paths);
        for path in paths.iter().filter(|path| path[0] != "files") {
            let mut values = json!({"atlas": hub(), "envoy": envoy(&[]), "tags": {}});
            for name in CHARTS {
                values[name]["enabled"] = json!(name == chart);
                values[name]["prometheusRule"] = json!({"enabled": true});
            }
            if chart == "atlas" {
                values[chart]["coredns"] = json!({"enabled": true});
                values[chart]["ingress"] =
                    json!({"enabled": true, "hosts": [{"host": "hub.example.com"}]});
            }
            let mut place = &mut values[chart];
            for step in path {
                place = &mut place[step.as_str()];
            }
            *place = serde_json::Value::Null;
            tried += 1;
            if let Err(error) = parent.render(Part::Helm, "obs", &values) {
                let error = error.to_string();
                let named = format!("missing property '{}'", path.last().unwrap());
                assert!(error.contains(&named), "{chart}: {}: {error}", path.join("."));
                refused.insert(format!("{chart}: {}", path.join(".")));
            }
        }
    }
    assert!(tried > 100 && refused.len() < 40, "{tried}: {refused:#?}");
}

/// The paths of everything that is a table.
fn tables(values: &Value, at: &mut Vec<String>, out: &mut Vec<Vec<String>>) {
    for (key, value) in
        values.as_mapping().into_iter().flatten().filter(|(_, value)| value.is_mapping())
    {
        at.push(key.as_str().unwrap().to_owned());
        out.push(at.clone());
        tables(value, at, out);
        at.pop();
    }
}

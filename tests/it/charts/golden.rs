//! Each case renders as its golden file says, with both Helms. Linters and notes.

use std::collections::BTreeSet;
use std::fs;

use super::update_golden::update_golden;
use super::*;

#[test]
fn every_case_renders_as_its_golden_under_both_helms() {
    let update = update_golden();
    let mut differences = Vec::new();
    for chart in CHARTS {
        let cases = cases(chart).unwrap();
        for case in &cases {
            for helm in HELMS {
                let rendered = case
                    .render(helm)
                    .unwrap_or_else(|error| panic!("{chart}/{}: {helm}: {error:#}", case.name));
                if update && helm == HELMS[0] {
                    fs::write(case.golden(), &rendered).unwrap();
                }
                let golden = fs::read_to_string(case.golden()).unwrap_or_default();
                differences.extend(
                    difference(&golden, &rendered)
                        .map(|what| format!("{chart}/{}: {helm}: {what}", case.name)),
                );
            }
        }
        for stale in stale(chart, &cases) {
            if update {
                fs::remove_file(&stale).unwrap();
            } else {
                differences.push(format!("{} has no case", stale.display()));
            }
        }
    }
    assert!(
        differences.is_empty(),
        "{}\n(UPDATE_GOLDEN=1 rewrites the goldens; read the diff)",
        differences.join("\n")
    );
}

#[test]
fn both_helms_lint_both_charts_without_a_finding() {
    let no_icon = "[INFO] Chart.yaml: icon is recommended";
    for helm in HELMS {
        for chart in CHARTS {
            let case = case(chart, "defaults").unwrap();
            let (values, chart) =
                (case.values.to_string_lossy(), root().join("charts").join(chart));
            let flags = ["--strict", "--kube-version", KUBERNETES, "--values", &values];
            let output = run(helm, &["lint", &chart.to_string_lossy()], &flags).unwrap();
            let said = String::from_utf8_lossy(&output.stdout);
            let complaints: Vec<_> =
                said.lines().filter(|line| line.starts_with('[') && *line != no_icon).collect();
            assert!(output.status.success() && complaints.is_empty(), "{helm}: {said}");
        }
    }
}

#[test]
fn a_chart_has_the_version_of_the_workspace() {
    for chart in CHARTS {
        let text =
            fs::read_to_string(root().join("charts").join(chart).join("Chart.yaml")).unwrap();
        let manifest: Value = serde_yaml_ng::from_str(&text).unwrap();
        for key in ["version", "appVersion"] {
            assert_eq!(super::text(&manifest, key), env!("CARGO_PKG_VERSION"), "{chart}: {key}");
        }
        for key in ["license", "changes", "images", "links"] {
            let annotation = &manifest["annotations"][format!("artifacthub.io/{key}")];
            let parsed: Value =
                serde_yaml_ng::from_str(annotation.as_str().unwrap_or_default()).unwrap();
            assert!(!parsed.is_null(), "{chart}: artifacthub.io/{key} says nothing");
        }
    }
}

#[test]
fn chart_annotations_list_exactly_the_images_in_use() {
    for (chart, name) in [("atlas", "openshift"), ("envoy", "defaults")] {
        let used: BTreeSet<_> =
            case(chart, name).unwrap().objects(&[]).unwrap().iter().flat_map(images).collect();
        let manifest =
            fs::read_to_string(root().join("charts").join(chart).join("Chart.yaml")).unwrap();
        let manifest: Value = serde_yaml_ng::from_str(&manifest).unwrap();
        let announced: Value = serde_yaml_ng::from_str(
            manifest["annotations"]["artifacthub.io/images"].as_str().unwrap(),
        )
        .unwrap();
        let announced: BTreeSet<_> = announced
            .as_sequence()
            .unwrap()
            .iter()
            .map(|image| super::text(image, "image").to_owned())
            .collect();
        assert_eq!(used, announced, "{chart}");
    }
}

fn images(object: &Value) -> Vec<String> {
    let containers =
        ["spec/containers", "spec/template/spec/containers"].map(|path| list(object, path));
    containers.concat().iter().map(|container| super::text(container, "image").to_owned()).collect()
}

/// The first line in which two texts differ.
fn difference(golden: &str, rendered: &str) -> Option<String> {
    let lines = golden.lines().chain([""]).zip(rendered.lines().chain([""])).enumerate();
    let differs = lines.into_iter().find(|(_, (golden, rendered))| golden != rendered);
    match differs {
        Some((number, (golden, rendered))) => {
            Some(format!("line {}: golden {golden:?}, rendered {rendered:?}", number + 1))
        }
        None if golden != rendered => Some("one is longer than the other".into()),
        None => None,
    }
}

/// Files that belong to no case.
fn stale(chart: &str, cases: &[Case]) -> Vec<PathBuf> {
    let known: BTreeSet<_> =
        cases.iter().flat_map(|case| [case.values.clone(), case.golden()]).collect();
    let entries = fs::read_dir(root().join("tests/golden/charts").join(chart)).unwrap();
    entries.map(|entry| entry.unwrap().path()).filter(|path| !known.contains(path)).collect()
}

/// With Helm 4, because Helm 3 renders notes only with an API server.
#[test]
fn the_notes_say_the_next_step_and_what_uninstalling_leaves() {
    let notes = |chart: &'static str, name: &str| {
        let case = case(chart, name).unwrap();
        let directory = root().join("charts").join(chart);
        let values = case.values.to_string_lossy().into_owned();
        let mut flags =
            vec!["--namespace", "observability", "--dry-run=client", "--values", &values];
        flags.extend(["--set", if chart == "envoy" { "cluster=tokyo" } else { "replicaCount=2" }]);
        let output =
            run(Part::Helm, &["install", &case.arguments[0], &directory.to_string_lossy()], &flags)
                .unwrap();
        let all = String::from_utf8(output.stdout).unwrap();
        all.split_once("NOTES:")
            .unwrap_or_else(|| panic!("{}", String::from_utf8_lossy(&output.stderr)))
            .1
            .to_owned()
    };
    let expected = [
        ("atlas", "defaults", "the hub is hub.example.com"),
        ("atlas", "defaults", "atlas cluster-values --namespace observability"),
        ("atlas", "defaults", "Uninstalling leaves"),
        ("atlas", "openshift", "SAY WHERE THE HUB IS: set atlas.hubAddress"),
        ("atlas", "host-ports", "\"privileged\""),
        ("atlas", "legacy-0.3", "- envoyads.ingress: xDS needs none"),
        ("envoy", "defaults", "kubectl annotate service tokyo --overwrite goatlas.io/addresses="),
        ("envoy", "defaults", "additionalAlertManagerConfigsSecret"),
        ("envoy", "existing-secret", "Uninstalling leaves that Secret"),
        ("envoy", "host-ports", "\"privileged\""),
        ("envoy", "legacy-0.3", "- ports.prometheus: 11904 is gone"),
    ];
    for (chart, name, part) in expected {
        let notes = notes(chart, name);
        assert!(notes.contains(part), "{chart}/{name} lacks {part:?}:\n{notes}");
    }
}

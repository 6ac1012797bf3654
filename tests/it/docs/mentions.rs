//! What the pages mention in passing: flags and commands of `atlas`, keys, chart values, names of
//! objects, ports.

use std::collections::BTreeSet;
use std::process::Command;

use atlas_core::annotations;

use super::*;

/// The values of one of our charts.
fn chart_values(chart: &str) -> Value {
    let text =
        std::fs::read_to_string(root().join("charts").join(chart).join("values.yaml")).unwrap();
    serde_yaml_ng::from_str(&text).unwrap()
}

/// Everything between backticks outside of blocks, and the words of blocks without a language.
fn words(page: &Page) -> Vec<String> {
    let mut words: Vec<String> = Vec::new();
    for (number, part) in page.text.split("```").enumerate() {
        if number % 2 == 0 {
            words.extend(
                part.split('`')
                    .skip(1)
                    .step_by(2)
                    .map(|code| code.split_whitespace().collect::<Vec<_>>().join(" ")),
            );
        } else if part.starts_with('\n') {
            words.extend(part.lines().map(str::trim).map(str::to_owned));
        }
    }
    words
}

#[test]
fn every_command_and_flag_of_atlas_is_there() {
    let help = |command: &str| {
        let output = Command::new(crate::atlas()).args([command, "--help"]).output().unwrap();
        assert!(output.status.success(), "atlas knows no {command}");
        String::from_utf8(output.stdout).unwrap()
    };
    let mut seen = 0;
    for page in Page::all().unwrap() {
        for line in words(&page).iter().filter(|line| line.starts_with("atlas ")) {
            let call: Vec<&str> =
                line.split(['>', '|']).next().unwrap().split_whitespace().collect();
            let help = help(call[1]);
            for flag in call.iter().filter(|word| word.starts_with("--")) {
                let known = help
                    .split(|c: char| !(c.is_ascii_alphanumeric() || c == '-'))
                    .any(|word| word == *flag);
                assert!(known, "docs/{}: atlas {} knows no {flag}", page.name, call[1]);
                seen += 1;
            }
            if let Some(format) =
                call.iter().position(|word| *word == "--format").map(|at| call[at + 1])
            {
                assert!(
                    help.contains(&format!("- {format}:")),
                    "docs/{}: --format {format}",
                    page.name
                );
            }
        }
    }
    assert!(seen > 8, "the pages' flags are not found: {seen}");
    // Flags by themselves. Those with a dot are of Thanos and Prometheus.
    let all: String =
        ["run", "status", "cluster-add", "cluster-list", "cluster-remove", "cluster-values"]
            .map(help)
            .concat();
    for page in Page::all().unwrap() {
        for flag in
            words(&page).iter().filter(|word| word.starts_with("--") && !word.contains(['.', '=']))
        {
            assert!(
                all.contains(flag.as_str()),
                "docs/{}: no command of atlas knows {flag}",
                page.name
            );
        }
    }
    for command in
        ["status", "cluster-add", "cluster-list", "cluster-remove", "cluster-values"].map(help)
    {
        for flag in ["--kubeconfig", "--context", "--namespace"] {
            assert!(command.contains(flag), "a command of atlas knows no {flag}: {command}");
        }
    }
}

#[test]
fn every_chart_value_is_there() {
    let charts = ["atlas", "envoy"].map(chart_values);
    // `a.b.c: value`, `--set a.b.c=value`, `a.b.c`
    let is_path = |word: &str| {
        word.contains('.')
            && word
                .split('.')
                .all(|step| !step.is_empty() && step.chars().all(char::is_alphanumeric))
    };
    // What a parent's condition reads; the charts' schemas have it, their values don't.
    let is_condition = |word: &str| ["atlas.enabled", "envoy.enabled"].contains(&word);
    let is_file =
        |word: &str| [".yaml", ".zone", ".crt", ".key"].iter().any(|end| word.ends_with(end));
    let mut seen = BTreeSet::new();
    for page in Page::all().unwrap() {
        for line in words(&page) {
            for word in line
                .split([' ', '=', ':'])
                .filter(|word| is_path(word) && !is_file(word) && !is_condition(word))
            {
                let first = word.split('.').next().unwrap();
                let ours = charts.iter().any(|chart| chart.get(first).is_some());
                let holds = |chart: &Value| {
                    word.split('.').try_fold(chart, |value, step| value.get(step)).is_some()
                };
                let variable =
                    word.strip_prefix("env.").is_some_and(|name| variables().contains(name));
                assert!(
                    !ours || variable || charts.iter().any(holds),
                    "docs/{}: no chart has the value {word}",
                    page.name
                );
                if ours {
                    seen.insert(word.to_owned());
                }
            }
        }
    }
    assert!(seen.len() > 12, "the pages' values are not found: {seen:?}");
}

/// The variables of `atlas run`.
fn variables() -> BTreeSet<String> {
    let help = Command::new(crate::atlas()).args(["run", "--help"]).output().unwrap();
    let help = String::from_utf8(help.stdout).unwrap();
    help.split("[env: ")
        .skip(1)
        .filter_map(|rest| rest.split(['=', ']']).next())
        .map(str::to_owned)
        .collect()
}

#[test]
fn every_variable_of_the_values_is_one_of_atlas() {
    let page = Page::read("kube-prometheus-stack.md").unwrap();
    let given = page.yaml("hub-atlas.yaml").unwrap();
    for name in given["env"].as_object().unwrap().keys() {
        assert!(variables().contains(name), "atlas run knows no {name}");
    }
}

#[test]
fn every_key_is_there() {
    for page in Page::all().unwrap() {
        for rest in page.text.split("goatlas.io/").skip(1) {
            let key: String =
                rest.chars().take_while(|c| c.is_ascii_lowercase() || *c == '-').collect();
            let key = format!("goatlas.io/{key}");
            // The charts' own, for ServiceMonitors.
            let known = annotations::CLUSTER_LABELS
                .iter()
                .chain(annotations::CLUSTER_ANNOTATIONS)
                .chain(&["goatlas.io/scraped-by"])
                .any(|one| *one == key);
            assert!(known, "docs/{}: Atlas knows no {key}", page.name);
        }
    }
}

#[test]
fn every_object_is_there() {
    // Those of Atlas's PKI are its own business (src/kube/pki_secret.rs); the tests of a backup
    // know them.
    let mut names: BTreeSet<String> =
        ["atlas-root-ca", "atlas-issuers", "atlas-leaves", "tokyo.atlas-cluster"]
            .map(str::to_owned)
            .into();
    names.extend(
        [
            atlas_core::object_names::HUB_SECRET,
            atlas_core::object_names::HUB_VALUES,
            atlas_core::object_names::ZONE_CONFIG_MAP.0,
            atlas_core::object_names::ENDPOINTS_CONFIG_MAP.0,
        ]
        .map(str::to_owned),
    );
    names.insert(format!("tokyo{}", atlas_core::object_names::VALUES_SUFFIX));
    let objects = [render("atlas", "atlas", &[]).unwrap(), render_envoy("").unwrap()].concat();
    names.extend(
        objects.iter().filter_map(|object| object["metadata"]["name"].as_str()).map(str::to_owned),
    );
    for page in Page::all().unwrap() {
        for word in words(&page) {
            let ours = word.starts_with("atlas-")
                || word.ends_with("-envoy-values")
                || word.ends_with(".atlas-cluster");
            let host = word.split('.').next().unwrap_or_default();
            let known = names.contains(&word) || word.contains('.') && names.contains(host);
            assert!(!ours || known, "docs/{}: nobody makes {word}", page.name);
        }
    }
}

#[test]
fn every_port_is_one_that_somebody_listens_on() {
    use atlas_core::ports::{
        CLUSTER_ALERTS, CLUSTER_INBOUND, HUB_ALERTS, HUB_STORES, HUB_WEB, HUB_XDS,
    };
    let known = [CLUSTER_ALERTS, CLUSTER_INBOUND, HUB_ALERTS, HUB_STORES, HUB_WEB, HUB_XDS];
    // Thanos Query's own pages.
    let others = [10902];
    for page in Page::all().unwrap() {
        let numbers = page
            .text
            .split(|c: char| !c.is_ascii_digit())
            .filter(|word| word.len() == 5)
            .filter_map(|word| word.parse().ok());
        for number in numbers.filter(|number| (10000..12000).contains(number)) {
            assert!(
                known.contains(&number) || others.contains(&number),
                "docs/{}: nobody listens on {number}",
                page.name
            );
        }
    }
    // The firewall's table names each port that is reached from another cluster, and no other.
    let page = Page::read("installing.md").unwrap();
    let open: BTreeSet<&str> = page
        .text
        .split("/tcp")
        .filter_map(|before| before.rsplit(' ').next())
        .filter(|word| word.len() == 5)
        .collect();
    assert_eq!(open, BTreeSet::from(["10900", "10903", "11901"]));
}

//! Add a directory with a `fleet.yaml` to `core/tests/golden`, and get a test.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use atlas_core::annotations;
use atlas_core::install::bootstrap_files;
use atlas_core::kubernetes::derived_objects::{of_cluster, of_hub};
use atlas_core::kubernetes::object::{Content, Owner, OwnerRef};
use atlas_core::model::{Fleet, Settings, StoreNames};
use atlas_core::name::NodeId;
use atlas_core::pki::Trust;
use atlas_core::plan::plan;
use atlas_core::render::{self, Secrets};
use atlas_core::thanos::stores::Stores;
use atlas_core::validate::{Finding, Severity};
use atlas_core::xds::snapshot::{ResourceType, Snapshot};
use similar::TextDiff;

use crate::cases::{self, Case};

/// The case that shows secrets too, redacted.
const WITH_SECRETS: &str = "minimal";
/// Where Envoy finds its credential in the goldens.
const CREDENTIAL_DIR: &str = "/etc/envoy/credential";
/// The DNS zone's serial number.
const SERIAL: u32 = 1_800_000_000;

/// Where the cases are.
pub fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden")
}

#[test]
fn every_case_renders_as_its_golden_files_say() {
    let update = std::env::var_os("UPDATE_GOLDEN").is_some_and(|value| value != "0");
    let differences: Vec<String> = cases::all(&directory())
        .iter()
        .flat_map(|case| compare(case, &outputs(case), update))
        .collect();
    assert!(
        differences.is_empty(),
        "{}\n{} golden files differ. If that is as it should be:\n    UPDATE_GOLDEN=1 cargo test -p atlas-core --test it golden\nand read the diff before you commit it.",
        differences.join("\n"),
        differences.len(),
    );
}

/// What a case gives, by file name.
fn outputs(case: &Case) -> BTreeMap<String, String> {
    let intake = case.validate();
    let (fleet, trust) = (&intake.fleet, cases::trust(&intake.fleet));
    let plan = plan(fleet, &trust);
    let mut files: BTreeMap<String, String> = BTreeMap::new();
    for (node, snapshot) in &plan.nodes {
        for (what, kind) in [
            ("clusters", ResourceType::Cluster),
            ("listeners", ResourceType::Listener),
            ("routes", ResourceType::Route),
        ] {
            files.insert(format!("{node}.{what}.yaml"), resources(snapshot, kind));
        }
        if case.name == WITH_SECRETS {
            files.insert(format!("{node}.secrets.yaml"), resources(snapshot, ResourceType::Secret));
        }
        files.insert(format!("{node}.bootstrap.yaml"), bootstrap(fleet, &trust, node));
    }
    if fleet.settings.store_names == StoreNames::Services {
        files.insert("objects.yaml".into(), objects(fleet, &trust));
    }
    let stores = Stores::of(fleet);
    files.insert("endpoints.yaml".into(), stores.endpoints());
    files.insert("atlas.zone".into(), stores.zone_file(&fleet.settings, SERIAL));
    files.insert("findings.txt".into(), findings(case, &intake.findings));
    files
}

/// What is written to the hub's API server. Credentials are shown by their names alone: they are text from other goldens.
fn objects(fleet: &Fleet, trust: &Trust) -> String {
    let stores = Stores::of(fleet);
    let bootstrap_credential = |node: &NodeId| trust.leaves.get(node);
    let clusters = fleet.clusters.values();
    let of_clusters = clusters.flat_map(|cluster| {
        of_cluster(
            fleet,
            cluster,
            trust,
            bootstrap_credential(&NodeId::Cluster(cluster.name.clone())),
        )
    });
    let of_hub = of_hub(
        fleet,
        trust,
        bootstrap_credential(&NodeId::Hub),
        stores.zone_file(&fleet.settings, SERIAL),
        stores.endpoints(),
    );
    let mut text = String::new();
    for object in of_clusters.chain(of_hub) {
        let owner = match &object.owner {
            Owner::Cluster(name) => Some(OwnerRef {
                kind: "Service",
                name: name.to_string(),
                uid: "uid-of-the-service".into(),
            }),
            Owner::Atlas => Some(OwnerRef {
                kind: "ServiceAccount",
                name: "atlas".into(),
                uid: "uid-of-the-account".into(),
            }),
            Owner::Nobody => None,
        };
        let mut manifest = object.manifest(&fleet.settings.namespace, owner.as_ref());
        if let Content::Secret(data) = &object.content {
            manifest.as_object_mut().expect("an object").remove("data");
            let shown = |(key, value): (&String, &String)| {
                let shown = if bootstrap_files::FILES.contains(&key.as_str()) {
                    "[see the bootstrap]".to_owned()
                } else {
                    without_keys(value)
                };
                (key.clone(), serde_json::Value::from(shown))
            };
            manifest["stringData"] =
                data.iter().map(shown).collect::<serde_json::Map<_, _>>().into();
        }
        text += "---\n";
        text += &render::document(&serde_yaml_ng::to_value(manifest).expect("JSON is YAML"));
    }
    text
}

/// Values without the files in them.
fn without_keys(text: &str) -> String {
    let mut lines: Vec<&str> = text.lines().take_while(|line| *line != "files:").collect();
    if lines.len() < text.lines().count() {
        let names = text.lines().filter(|line| {
            line.starts_with("  ") && !line.starts_with("   ") && line.contains(": |")
        });
        lines.push("files:");
        lines.extend(names);
    }
    lines.join("\n") + "\n"
}

fn resources(snapshot: &Snapshot, kind: ResourceType) -> String {
    render::resources_yaml(snapshot.of(kind).iter().map(AsRef::as_ref), Secrets::Redact)
}

fn bootstrap(fleet: &Fleet, trust: &Trust, node: &NodeId) -> String {
    match bootstrap_files::node_bootstrap(fleet, trust, node, CREDENTIAL_DIR) {
        Ok(bootstrap) => render::yaml(&bootstrap, Secrets::Redact),
        Err(error) => format!("# {error}\n"),
    }
}

fn findings(case: &Case, findings: &[Finding]) -> String {
    let severity = |severity| match severity {
        Severity::Rejected => "rejected",
        Severity::FellBack => "fell back",
        Severity::Note => "note",
    };
    let unreadable = case.unreadable.iter().map(|error| format!("unreadable: {error}\n"));
    let findings =
        findings.iter().map(|finding| format!("{}: {finding}\n", severity(finding.severity)));
    let lines: String = unreadable.chain(findings).collect();
    if lines.is_empty() { "none\n".into() } else { lines }
}

/// What is not as the files say; `update` makes it so.
fn compare(case: &Case, outputs: &BTreeMap<String, String>, update: bool) -> Vec<String> {
    let mut differences = Vec::new();
    for name in stale(case, outputs) {
        if update {
            std::fs::remove_file(case.dir.join(&name)).expect("a stale file can be deleted");
        } else {
            differences
                .push(format!("{}/{name}: is there, but nothing renders it any more", case.name));
        }
    }
    for (name, text) in outputs {
        let path = case.dir.join(name);
        let golden = std::fs::read_to_string(&path).unwrap_or_default();
        if golden != *text && update {
            std::fs::write(&path, text).expect("a golden file can be written");
        } else if golden != *text || !path.exists() {
            differences.push(difference(&format!("{}/{name}", case.name), &golden, text));
        }
    }
    differences
}

fn stale(case: &Case, outputs: &BTreeMap<String, String>) -> BTreeSet<String> {
    let entries = std::fs::read_dir(&case.dir).expect("the case's directory can be read");
    let names = entries
        .map(|entry| entry.expect("a directory entry").file_name().to_string_lossy().into_owned());
    names
        .filter(|name| {
            name != cases::FLEET && name != cases::SETTINGS && !outputs.contains_key(name)
        })
        .collect()
}

fn difference(name: &str, golden: &str, rendered: &str) -> String {
    let diff = TextDiff::from_lines(golden, rendered);
    diff.unified_diff()
        .context_radius(4)
        .header(&format!("{name} (golden)"), &format!("{name} (rendered)"))
        .to_string()
}

#[test]
fn a_difference_is_shown_by_its_lines() {
    let text = difference("case/file", "a\nb\n", "a\nc\n");
    assert!(text.contains("--- case/file (golden)") && text.contains("\n-b\n+c\n"), "{text}");
}

#[test]
fn every_key_is_written_in_some_case() {
    let cases = cases::all(&directory());
    let texts: Vec<String> = cases
        .iter()
        .map(|case| std::fs::read_to_string(case.dir.join(cases::FLEET)).unwrap())
        .collect();
    let keys = [
        annotations::CLUSTER_LABELS,
        annotations::CLUSTER_ANNOTATIONS,
        &[annotations::THANOS_SIDECAR, "externalIPs"],
    ]
    .concat();
    let missing: Vec<&str> = keys
        .into_iter()
        .filter(|key| !texts.iter().any(|text| text.contains(&format!("{key}:"))))
        .collect();
    assert!(missing.is_empty(), "no case in core/tests/golden has {missing:?}");
}

#[test]
fn every_setting_differs_from_its_default_in_some_case() {
    let fields = |settings: &Settings| -> BTreeMap<String, String> {
        let text = format!("{settings:#?}");
        let mut fields = BTreeMap::new();
        let mut name = String::new();
        for line in text.lines().filter(|line| line.starts_with("    ")) {
            if let Some((field, _)) = line[4..]
                .split_once(": ")
                .filter(|(field, _)| !field.starts_with([' ', '}', ']', ')']))
            {
                name = field.to_owned();
            }
            fields.entry(name.clone()).or_insert_with(String::new).push_str(line);
        }
        fields
    };
    let default = fields(&Settings::default());
    let cases = cases::all(&directory());
    let differs = |(name, value): (&String, &String)| {
        cases.iter().any(|case| fields(&case.settings).get(name) != Some(value))
    };
    let missing: Vec<&String> =
        default.iter().filter(|field| !differs(*field)).map(|(name, _)| name).collect();
    assert!(
        missing.is_empty() && default.len() > 15,
        "no case in core/tests/golden sets {missing:?}"
    );
}

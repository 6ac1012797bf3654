//! What Atlas renders for a fleet, as files that people can read.

use std::collections::BTreeMap;

use atlas_core::install::bootstrap_files;
use atlas_core::kubernetes::derived_objects::{cluster_objects, envoy_selector, hub_objects};
use atlas_core::kubernetes::object::{ObjectContent, Owner, OwnerReference};
use atlas_core::model::{Fleet, StoreNames};
use atlas_core::name::NodeId;
use atlas_core::pki::Trust;
use atlas_core::plan::plan;
use atlas_core::render::{self, Secrets};
use atlas_core::thanos::stores::Stores;
use atlas_core::validate::{Finding, Severity};
use atlas_core::xds::resource::ResourceType;
use atlas_core::xds::snapshot::Snapshot;

use crate::cases::{self, Case};

/// Where Envoy finds its credential in the golden files.
const CREDENTIAL_DIR: &str = "/etc/envoy/credential";
/// The DNS zone's serial number.
const SERIAL: u32 = 1_800_000_000;

/// The text of each file, by its name. Files of one node are called `NODE.WHAT.yaml`.
pub fn outputs(case: &Case) -> BTreeMap<String, String> {
    let validated = case.validate();
    let (fleet, trust) = (&validated.fleet, cases::trust(&validated.fleet));
    let plan = plan(fleet, &trust);
    let mut files = BTreeMap::new();
    for (node, snapshot) in &plan.nodes {
        for (what, kind) in [
            ("clusters", ResourceType::Cluster),
            ("listeners", ResourceType::Listener),
            ("routes", ResourceType::Route),
            ("secrets", ResourceType::Secret),
        ] {
            files.insert(format!("{node}.{what}.yaml"), resources(snapshot, kind));
        }
        files.insert(format!("{node}.bootstrap.yaml"), bootstrap(fleet, &trust, node));
    }
    files.insert("nodes.txt".into(), plan.nodes.keys().map(|node| format!("{node}\n")).collect());
    if fleet.settings.store_names == StoreNames::Services {
        files.insert("objects.yaml".into(), objects(fleet, &trust));
    }
    let stores = Stores::of(fleet);
    files.insert("endpoints.yaml".into(), stores.endpoints());
    files.insert("atlas.zone".into(), stores.zone_file(&fleet.settings, SERIAL));
    files.insert("findings.txt".into(), findings(case, &validated.findings));
    files
}

fn resources(snapshot: &Snapshot, kind: ResourceType) -> String {
    render::resources_yaml(snapshot.of_type(kind).iter().map(AsRef::as_ref), Secrets::Redact)
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
        Severity::Warning => "warning",
        Severity::Note => "note",
    };
    let unreadable = case.unreadable.iter().map(|error| format!("unreadable: {error}\n"));
    let findings =
        findings.iter().map(|finding| format!("{}: {finding}\n", severity(finding.severity)));
    let lines: String = unreadable.chain(findings).collect();
    if lines.is_empty() { "none\n".into() } else { lines }
}

/// What is written to the hub's API server. The files of a credential are shown by their names
/// alone: their text is in `NODE.bootstrap.yaml`.
fn objects(fleet: &Fleet, trust: &Trust) -> String {
    let stores = Stores::of(fleet);
    let bootstrap_credential = |node: &NodeId| trust.leaves.get(node);
    let clusters = fleet.clusters.values();
    let of_clusters = clusters.flat_map(|cluster| {
        cluster_objects(
            fleet,
            cluster,
            trust,
            bootstrap_credential(&NodeId::Cluster(cluster.name.clone())),
        )
    });
    let hub_objects = hub_objects(
        fleet,
        trust,
        bootstrap_credential(&NodeId::Hub),
        fleet.clusters.values().map(|cluster| envoy_selector(&fleet.settings, cluster)),
        stores.zone_file(&fleet.settings, SERIAL),
        stores.endpoints(),
    );
    let mut text = String::new();
    for object in of_clusters.chain(hub_objects) {
        let owner = match &object.owner {
            Owner::Cluster(name) => Some(OwnerReference {
                kind: "Service",
                name: name.to_string(),
                uid: "uid-of-the-service".into(),
            }),
            Owner::Atlas => Some(OwnerReference {
                kind: "ServiceAccount",
                name: "atlas".into(),
                uid: "uid-of-the-account".into(),
            }),
            Owner::Nobody => None,
        };
        let mut manifest = object.manifest(&fleet.settings.namespace, owner.as_ref());
        if let ObjectContent::Secret(data) = &object.content {
            manifest.as_object_mut().expect("an object").remove("data");
            let mut shown = serde_json::Map::new();
            for (key, value) in data {
                let value = match bootstrap_files::FILES.contains(&key.as_str()) {
                    true => "[see the bootstrap]".to_owned(),
                    false => with_files_by_name(value),
                };
                shown.insert(key.clone(), value.into());
            }
            manifest["stringData"] = shown.into();
        }
        text += "---\n";
        text += &render::document(&serde_yaml_ng::to_value(manifest).expect("JSON is YAML"));
    }
    text
}

/// Helm values, of whose `files` only the names are left.
fn with_files_by_name(values: &str) -> String {
    let mut lines: Vec<&str> = values.lines().take_while(|line| *line != "files:").collect();
    if lines.len() < values.lines().count() {
        lines.push("files:");
        lines.extend(values.lines().filter(|line| {
            line.starts_with("  ") && !line.starts_with("   ") && line.contains(": |")
        }));
    }
    lines.join("\n") + "\n"
}

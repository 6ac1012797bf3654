//! What the pages for people tell them to write, against what Atlas generates and its charts
//! render.
//!
//! ```text
//! docs/*.md -> YAML blocks that begin with "# <file>" ─┬─ values of Atlas ── validate, plan
//!                                                      └─ values of charts ── helm template
//!           -> `goatlas.io/…`, `--flags`, `chart.values`, names, ports ── keys, `atlas --help`, values.yaml
//! ```
//!
//! Values and objects of others (kube-prometheus-stack, Flux) aren't checked: their charts aren't
//! here.

mod limits;
mod mentions;
mod paths;
mod reference;
mod stack;
mod standalone;

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result};
use atlas_core::install::bootstrap_files::FILES;
use atlas_core::install::helm_values;
use atlas_core::model::{Cluster, Fleet, Settings, StoreNames};
use atlas_core::name::HostPort;
use atlas_core::validate::validate;
use atlas_core::yaml;
use atlas_lab::parts::{self, Part};
use atlas_lab::run::helm_template;
use serde_json::{Value, json};

/// All pages of this kind.
const PAGES: [&str; 7] = [
    "installing.md",
    "kube-prometheus-stack.md",
    "other-setups/agent-and-victoriametrics.md",
    "other-setups/no-operator.md",
    "other-setups/prometheus-operator.md",
    "other-setups/two-prometheus.md",
    "troubleshooting.md",
];

/// One page, its code blocks with it.
struct Page {
    name: &'static str,
    text: String,
}

/// A fenced block.
struct Block {
    language: String,
    text: String,
}

impl Page {
    fn read(name: &'static str) -> Result<Self> {
        let path = root().join("docs").join(name);
        let text = std::fs::read_to_string(&path)
            .with_context(|| format!("cannot read {}", path.display()))?;
        Ok(Self { name, text })
    }

    fn all() -> Result<Vec<Self>> {
        PAGES.into_iter().map(Self::read).collect()
    }

    fn blocks(&self) -> Vec<Block> {
        let parts = self.text.split("```").skip(1).step_by(2);
        let block = |part: &str| {
            let (language, text) = part.split_once('\n').unwrap_or((part, ""));
            Block { language: language.trim().to_owned(), text: text.to_owned() }
        };
        parts.map(block).collect()
    }

    /// The text of the block that is called `file`.
    fn file(&self, file: &str) -> Result<String> {
        let head = format!("# {file}\n");
        let block = self.blocks().into_iter().find(|block| block.text.starts_with(&head));
        Ok(block
            .with_context(|| {
                format!("docs/{} has no YAML block that begins with {head:?}", self.name)
            })?
            .text)
    }

    fn yaml(&self, file: &str) -> Result<Value> {
        serde_yaml_ng::from_str(&self.file(file)?)
            .with_context(|| format!("docs/{}, {file}", self.name))
    }

    /// The cluster of a Service on this page, as Atlas understands it; nothing may be wrong with
    /// it.
    fn cluster(&self, file: &str, settings: &Settings) -> Result<(Fleet, Cluster)> {
        let manifests = yaml::parse(file, &self.file(file)?)
            .map_err(|errors| anyhow::anyhow!("docs/{}, {file}: {errors:?}", self.name))?;
        let read = validate(settings, &manifests, None);
        assert_eq!(read.findings, [], "docs/{}, {file}", self.name);
        let cluster = read
            .fleet
            .clusters
            .values()
            .next()
            .with_context(|| format!("{file} is no cluster"))?
            .as_ref()
            .clone();
        Ok((read.fleet, cluster))
    }
}

/// The arguments of a hub that is installed as the pages say.
fn settings() -> Settings {
    let hub = |port| vec![HostPort::parse("hub.example.com", port).expect("a host")];
    Settings {
        web_url: Some("https://hub.example.com".parse().expect("a URL")),
        hub_xds: hub(10900),
        hub_alerts: hub(10903),
        store_names: StoreNames::Services,
        ..Settings::default()
    }
}

/// `charts/<chart>` with these values, in namespace `monitoring`.
fn render(chart: &str, release: &str, values: &[&str]) -> Result<Vec<Value>> {
    helm_template(Part::Helm, &root().join("charts").join(chart), release, "monitoring", values)
}

/// The chart of a cluster's Envoy with generated values and those of a page.
fn render_envoy(own: &str) -> Result<Vec<Value>> {
    let files: BTreeMap<String, String> =
        FILES.into_iter().map(|name| (name.to_owned(), "{}\n".to_owned())).collect();
    render(
        "envoy",
        "atlas-envoy",
        &[&helm_values::envoy("tokyo", 2, atlas_core::model::DEFAULT_ENVOY_MEMORY, &files), own],
    )
}

/// The object of this kind and name.
fn find<'a>(objects: &'a [Value], kind: &str, name: &str) -> Result<&'a Value> {
    let found = objects
        .iter()
        .find(|object| object["kind"] == json!(kind) && object["metadata"]["name"] == json!(name));
    found.with_context(|| format!("no chart makes a {kind} {name}"))
}

/// The ports of a Service.
fn ports(service: &Value) -> Vec<u64> {
    service["spec"]["ports"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|port| port["port"].as_u64())
        .collect()
}

/// The paths in `wanted` that `given` lacks.
fn missing(wanted: &Value, given: &Value, at: &str) -> Vec<String> {
    match (wanted, given) {
        (Value::Object(wanted), Value::Object(_)) => wanted
            .iter()
            .flat_map(|(key, value)| missing(value, &given[key], &format!("{at}.{key}")))
            .collect(),
        _ if wanted == given => Vec::new(),
        _ => vec![format!("{at}: {given} instead of {wanted}")],
    }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

#[test]
fn every_page_is_looked_at() {
    let docs = root().join("docs/other-setups");
    for entry in std::fs::read_dir(docs).unwrap() {
        let name = format!("other-setups/{}", entry.unwrap().file_name().to_str().unwrap());
        assert!(PAGES.contains(&name.as_str()), "docs/{name} is not in PAGES");
    }
}

#[test]
fn every_yaml_block_is_yaml() {
    for page in Page::all().unwrap() {
        for block in page.blocks().iter().filter(|block| block.language == "yaml") {
            let parsed: Result<Value, _> = serde_yaml_ng::from_str(&block.text);
            assert!(parsed.is_ok(), "docs/{}: {parsed:?}\n{}", page.name, block.text);
        }
    }
}

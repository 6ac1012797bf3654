//! `atlas translate`: what Atlas would do with manifests, without doing it.
//!
//! The same way as in a running Atlas (parse, validate, plan), with placeholders where
//! certificates and keys would be.

use std::collections::BTreeSet;
use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use atlas_core::install::bootstrap_files::node_bootstrap;
use atlas_core::manifest::Manifest;
use atlas_core::manifest::ManifestError;
use atlas_core::model::Fleet;
use atlas_core::name::NodeId;
use atlas_core::pki::{Leaf, PrivateKey, Trust};
use atlas_core::plan::{Plan, plan};
use atlas_core::ports;
use atlas_core::render::{self, Secrets};
use atlas_core::thanos::endpoints::endpoints;
use atlas_core::thanos::stores::Stores;
use atlas_core::validate::{Severity, validate};
use atlas_core::xds::resource::ResourceType;
use atlas_core::xds::snapshot::Snapshot;
use atlas_core::yaml;
use clap::{Args, ValueEnum};

use super::Outcome;
use super::flags::settings::SettingsArgs;
use super::output::{complain, print, wrong_usage};
use crate::standalone::watch;

/// Stands where a running Atlas puts what it issues.
const PLACEHOLDER: &str = "[issued at run time]";
/// Where the bootstrap looks for its credential here; `atlas bootstrap` knows the real place.
const CREDENTIAL_DIR: &str = "/etc/envoy";

const EXAMPLE: &str = "\
Example:
  atlas translate -f clusters --hub-address hub.example.com
  atlas translate -f tokyo.yaml --node tokyo --what routes
  atlas cluster-add tokyo --from clusters --dry-run | atlas translate -f - --what zone,endpoints";

/// Show what Atlas makes of manifests, as YAML: every Envoy's resources, Thanos' endpoints, the DNS
/// zone
///
/// Needs no running Atlas and no state: certificates are placeholders, private keys are
/// `[redacted]`. What is wrong with manifests goes to standard error, and makes the exit code 3.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLE)]
pub struct Translate {
    /// Files or directories of manifests; `-` is standard input.
    #[arg(short, long, value_name = "FILE_OR_DIR", num_args = 1.., required = true, env = "ATLAS_FILE")]
    file: Vec<PathBuf>,
    /// Show this node alone: `hub`, or a cluster's name.
    #[arg(long, env = "ATLAS_NODE")]
    node: Option<NodeId>,
    /// What to show, comma-separated [default: all; with --node, all of that node].
    #[arg(long, value_enum, value_delimiter = ',', env = "ATLAS_WHAT")]
    what: Vec<What>,
    /// Atlas's xDS port, as in `atlas run`.
    #[arg(long, default_value_t = ports::XDS, env = "ATLAS_XDS_PORT")]
    xds_port: u16,
    /// Atlas's web port, as in `atlas run`.
    #[arg(long, default_value_t = ports::WEB, env = "ATLAS_WEB_PORT")]
    web_port: u16,
    #[command(flatten)]
    settings: SettingsArgs,
}

/// What can be shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum What {
    /// Envoy clusters (CDS).
    Clusters,
    /// Listeners (LDS).
    Listeners,
    /// Route configurations (RDS).
    Routes,
    /// Certificates and trusted roots (SDS).
    Secrets,
    /// The file an Envoy starts from.
    Bootstrap,
    /// Thanos Query's endpoint SD file.
    Endpoints,
    /// The DNS zone.
    Zone,
}

impl What {
    /// Its xDS resource type; `None`: it is no xDS resource.
    fn resource_type(self) -> Option<ResourceType> {
        match self {
            Self::Clusters => Some(ResourceType::Cluster),
            Self::Listeners => Some(ResourceType::Listener),
            Self::Routes => Some(ResourceType::Route),
            Self::Secrets => Some(ResourceType::Secret),
            Self::Bootstrap | Self::Endpoints | Self::Zone => None,
        }
    }

    /// Whether each node has one.
    fn is_per_node(self) -> bool {
        self == Self::Bootstrap || self.resource_type().is_some()
    }
}

impl Translate {
    /// Prints what is made of the manifests.
    pub fn run(self) -> anyhow::Result<Outcome> {
        let settings = self
            .settings
            .settings(self.xds_port, self.web_port)
            .map_err(|error| wrong_usage(format!("{error:#}")))?;
        let mut input = Input::default();
        for path in &self.file {
            input.read(path)?;
        }
        let validation = validate(&settings, &input.manifests, None);
        let trust = placeholders(&validation.fleet);
        let documents = self.documents(&validation.fleet, &trust, &plan(&validation.fleet, &trust));
        let outcome = complain(&input.errors, &validation.findings, Severity::Note);
        print(&documents?)?;
        Ok(outcome)
    }

    fn documents(&self, fleet: &Fleet, trust: &Trust, plan: &Plan) -> anyhow::Result<String> {
        let mut out = String::new();
        for (node, snapshot) in self.nodes(plan)? {
            for what in self.selected().filter(|what| what.is_per_node()) {
                out.push_str(&match what.resource_type() {
                    Some(kind) => resources(node, snapshot, kind),
                    None => bootstrap(fleet, trust, node),
                });
            }
        }
        for what in self.selected() {
            match what {
                What::Endpoints => out.push_str(&document(
                    "endpoints.yaml: Thanos Query's --endpoint.sd-config-file",
                    &endpoints(fleet),
                )),
                What::Zone => out.push_str(&zone(fleet)?),
                _ => {}
            }
        }
        Ok(out)
    }

    /// What to print, in a fixed order.
    fn selected(&self) -> impl Iterator<Item = What> {
        let default =
            |what: What| self.what.is_empty() && (what.is_per_node() || self.node.is_none());
        What::value_variants()
            .iter()
            .copied()
            .filter(move |what| default(*what) || self.what.contains(what))
    }

    fn nodes<'a>(&self, plan: &'a Plan) -> anyhow::Result<Vec<(&'a NodeId, &'a Snapshot)>> {
        let all = plan.nodes.iter().map(|(node, snapshot)| (node, &**snapshot));
        let Some(wanted) = &self.node else { return Ok(all.collect()) };
        let nodes: Vec<_> = all.filter(|(node, _)| *node == wanted).collect();
        if nodes.is_empty() {
            let there: Vec<String> = plan.nodes.keys().map(ToString::to_string).collect();
            bail!("--node: there is no node {wanted}: there are {}", there.join(", "));
        }
        Ok(nodes)
    }
}

/// What the files have.
#[derive(Default)]
struct Input {
    manifests: Vec<Manifest>,
    errors: Vec<ManifestError>,
}

impl Input {
    /// Reads one path. Errors in manifests are collected.
    fn read(&mut self, path: &Path) -> anyhow::Result<()> {
        if path.is_dir() {
            let report = watch::read_once(path)?;
            self.manifests.extend(report.manifests);
            self.errors.extend(report.errors);
            return Ok(());
        }
        let (name, text) = if path.as_os_str() == "-" {
            (
                "standard input".to_owned(),
                std::io::read_to_string(std::io::stdin())
                    .context("-f -: cannot read standard input")?,
            )
        } else {
            (
                path.display().to_string(),
                read(path).with_context(|| format!("-f: cannot read {}", path.display()))?,
            )
        };
        match yaml::parse(&name, &text) {
            Ok(manifests) => self.manifests.extend(manifests),
            Err(errors) => self.errors.extend(errors),
        }
        Ok(())
    }
}

fn read(path: &Path) -> anyhow::Result<String> {
    let mut text = String::new();
    std::fs::File::open(path)?.read_to_string(&mut text)?;
    Ok(text)
}

/// Placeholders for certificates and keys.
fn placeholders(fleet: &Fleet) -> Trust {
    let leaf = || Leaf { chain: PLACEHOLDER.into(), key: PrivateKey::new(PLACEHOLDER.into()) };
    let nodes: BTreeSet<NodeId> =
        fleet.clusters.keys().cloned().map(NodeId::Cluster).chain([NodeId::Hub]).collect();
    Trust {
        domain: fleet.settings.trust_domain.clone(),
        roots: vec![PLACEHOLDER.into()],
        leaves: nodes.into_iter().map(|node| (node, leaf())).collect(),
        revisions: Default::default(),
    }
}

/// A YAML document with a comment that says what it is.
fn document(what: &str, text: &str) -> String {
    format!("---\n# {what}\n{}\n", text.trim_end())
}

fn resources(node: &NodeId, snapshot: &Snapshot, kind: ResourceType) -> String {
    let resources = snapshot.of_type(kind).iter().map(|resource| &**resource);
    document(&format!("node {node}: {kind}"), &render::resources_yaml(resources, Secrets::Redact))
}

/// A node's bootstrap, or a document that says why it has none.
fn bootstrap(fleet: &Fleet, trust: &Trust, node: &NodeId) -> String {
    match node_bootstrap(fleet, trust, node, CREDENTIAL_DIR) {
        Ok(bootstrap) => document(
            &format!("node {node}: bootstrap (envoy.yaml)"),
            &render::yaml(&bootstrap, Secrets::Redact),
        ),
        Err(error) => document(&format!("node {node}: no bootstrap: {error}"), ""),
    }
}

fn zone(fleet: &Fleet) -> anyhow::Result<String> {
    let file = std::collections::BTreeMap::from([(
        "atlas.zone",
        Stores::of(fleet).zone_file(&fleet.settings, 1),
    )]);
    Ok(document("atlas.zone: the DNS zone, as a master file", &serde_yaml_ng::to_string(&file)?))
}

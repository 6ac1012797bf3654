//! The cases in `core/tests/golden`: the manifests of a fleet, and the settings of Atlas.
//!
//! Also used by `tests/it/validate.rs`.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use atlas_core::manifest::Manifest;
use atlas_core::manifest::ManifestError;
use atlas_core::model::{Fleet, Settings, StoreNames};
use atlas_core::name::{HostPort, NameError, NodeId};
use atlas_core::pki::{Leaf, PrivateKey, Trust};
use atlas_core::validate::{Validation, validate};
use atlas_core::yaml;
use serde::Deserialize;

/// The file with the manifests of a case.
pub const FLEET: &str = "fleet.yaml";
/// The file with the settings of a case that differ from [`settings`].
pub const SETTINGS: &str = "settings.yaml";

/// One case.
pub struct Case {
    /// The name of its directory.
    pub name: String,
    /// Its directory.
    pub dir: PathBuf,
    /// The settings of Atlas.
    pub settings: Settings,
    /// The manifests; none if the file has an error.
    pub manifests: Vec<Manifest>,
    /// The errors of the file.
    pub unreadable: Vec<ManifestError>,
}

impl Case {
    /// Validates the manifests.
    pub fn validate(&self) -> Validation {
        validate(&self.settings, &self.manifests, None)
    }
}

/// All cases, by name.
pub fn all(golden: &Path) -> Vec<Case> {
    let entries =
        std::fs::read_dir(golden).unwrap_or_else(|error| panic!("{}: {error}", golden.display()));
    let mut dirs: Vec<PathBuf> = entries
        .map(|entry| entry.expect("a directory entry").path())
        .filter(|path| path.is_dir())
        .collect();
    dirs.sort();
    assert!(!dirs.is_empty(), "{} has no cases", golden.display());
    dirs.into_iter().map(case).collect()
}

fn case(dir: PathBuf) -> Case {
    let read = |file: &str| std::fs::read_to_string(dir.join(file));
    let fleet = read(FLEET).unwrap_or_else(|error| panic!("{}: {FLEET}: {error}", dir.display()));
    let settings = match read(SETTINGS) {
        Ok(text) => parse_settings(&text)
            .unwrap_or_else(|error| panic!("{}: {SETTINGS}: {error}", dir.display())),
        Err(_) => settings(),
    };
    let (manifests, unreadable) = match yaml::parse(FLEET, &fleet) {
        Ok(manifests) => (manifests, Vec::new()),
        Err(errors) => (Vec::new(), errors),
    };
    let name = dir.file_name().unwrap_or_default().to_string_lossy().into_owned();
    Case { name, dir, settings, manifests, unreadable }
}

/// The settings of most cases: the addresses of the hub, and defaults.
pub fn settings() -> Settings {
    Settings {
        hub_xds: hosts(&["hub.example.com"], 10900).unwrap_or_default(),
        hub_alerts: hosts(&["hub.example.com"], 10903).unwrap_or_default(),
        hub_stores: vec![IpAddr::from([10, 1, 0, 10])],
        ..Settings::default()
    }
}

/// The contents of `settings.yaml`: fields of [`Settings`].
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct SettingsFile {
    trust_domain: Option<String>,
    namespace: Option<String>,
    alertmanager_namespace: Option<String>,
    alertmanager_selector: Option<BTreeMap<String, String>>,
    alertmanager_endpoints: Option<String>,
    alertmanager_path_prefix: Option<String>,
    downstream_namespace: Option<String>,
    cluster_domain: Option<String>,
    dns_zone: Option<String>,
    /// Whether stores are headless Services, as in Kubernetes.
    services: Option<bool>,
    web_url: Option<String>,
    web_pass_headers: Vec<String>,
    web_pass_cookies: Vec<String>,
    hub_xds: Option<Vec<String>>,
    hub_alerts: Option<Vec<String>>,
    hub_stores: Option<Vec<IpAddr>>,
    hub_bind: Option<IpAddr>,
    atlas_xds: Option<String>,
    atlas_web: Option<String>,
    hub_envoy_memory: Option<String>,
    max_request_seconds: Option<u32>,
    trusted_hops: Option<u32>,
    allow_local_addresses: Option<bool>,
    envoy_selectors: Option<BTreeMap<String, String>>,
}

fn parse_settings(text: &str) -> Result<Settings, Box<dyn std::error::Error>> {
    let file: SettingsFile = serde_yaml_ng::from_str(text)?;
    let default = settings();
    let host = |text: Option<String>, port, default| {
        text.map_or(Ok(default), |text| HostPort::parse(&text, port))
    };
    let list = |list: Option<Vec<String>>, port, default| {
        list.map_or(Ok(default), |list| hosts(&list, port))
    };
    Ok(Settings {
        trust_domain: file.trust_domain.map_or(Ok(default.trust_domain), |text| text.parse())?,
        namespace: file.namespace.unwrap_or(default.namespace),
        alertmanager_namespace: file
            .alertmanager_namespace
            .unwrap_or(default.alertmanager_namespace),
        alertmanager_selector: file.alertmanager_selector.unwrap_or(default.alertmanager_selector),
        alertmanager_endpoints: file
            .alertmanager_endpoints
            .unwrap_or(default.alertmanager_endpoints),
        alertmanager_path_prefix: file
            .alertmanager_path_prefix
            .unwrap_or(default.alertmanager_path_prefix),
        downstream_namespace: file.downstream_namespace.unwrap_or(default.downstream_namespace),
        cluster_domain: file.cluster_domain.unwrap_or(default.cluster_domain),
        dns_zone: file.dns_zone.unwrap_or(default.dns_zone),
        store_names: if file.services.unwrap_or_default() {
            StoreNames::Services
        } else {
            default.store_names
        },
        web_url: file.web_url.map(|text| text.parse()).transpose()?.or(default.web_url),
        web_pass_headers: names(file.web_pass_headers)?,
        web_pass_cookies: names(file.web_pass_cookies)?,
        hub_xds: list(file.hub_xds, 10900, default.hub_xds)?,
        hub_alerts: list(file.hub_alerts, 10903, default.hub_alerts)?,
        hub_stores: file.hub_stores.unwrap_or(default.hub_stores),
        hub_bind: file.hub_bind.unwrap_or(default.hub_bind),
        atlas_xds: host(file.atlas_xds, 6305, default.atlas_xds)?,
        atlas_web: host(file.atlas_web, 6310, default.atlas_web)?,
        hub_envoy_memory: file
            .hub_envoy_memory
            .map_or(Ok(default.hub_envoy_memory), |text| text.parse())?,
        max_request_seconds: file.max_request_seconds.unwrap_or(default.max_request_seconds),
        trusted_hops: file.trusted_hops.unwrap_or(default.trusted_hops),
        allow_local_addresses: file.allow_local_addresses.unwrap_or(default.allow_local_addresses),
        envoy_selectors: file.envoy_selectors.unwrap_or(default.envoy_selectors),
    })
}

fn names<T: FromStr<Err = NameError> + Ord>(texts: Vec<String>) -> Result<BTreeSet<T>, NameError> {
    texts.iter().map(|text| text.parse()).collect()
}

fn hosts<T: AsRef<str>>(
    list: &[T],
    port: u16,
) -> Result<Vec<HostPort>, atlas_core::name::NameError> {
    list.iter().map(|text| HostPort::parse(text.as_ref(), port)).collect()
}

/// Certificates of every node, as text that isn't a real certificate.
pub fn trust(fleet: &Fleet) -> Trust {
    let pem = |what: &str, whose: &str| {
        format!("-----BEGIN {what}-----\n{whose}\n-----END {what}-----\n")
    };
    let leaf = |node: NodeId| {
        let whose = node.to_string();
        (
            node,
            Leaf {
                chain: pem("CERTIFICATE", &whose),
                key: PrivateKey::new(pem("PRIVATE KEY", &whose)),
            },
        )
    };
    let nodes = fleet.clusters.keys().cloned().map(NodeId::Cluster).chain([NodeId::Hub]);
    Trust {
        domain: fleet.settings.trust_domain.clone(),
        roots: vec![pem("CERTIFICATE", "root")],
        leaves: nodes.map(leaf).collect(),
        revisions: BTreeMap::new(),
    }
}

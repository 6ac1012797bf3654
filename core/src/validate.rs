//! Checks manifests and makes the fleet. Every key of a manifest is read here and nowhere else.
//!
//! ```text
//! manifests ──▶ validate ─┬─▶ Fleet      what the plan is made from
//!                         └─▶ findings   object, key, value, what is wrong with it, and the fix
//! ```
//!
//! An invalid object is reported and left out, and changes nothing for other objects. A cluster
//! whose Service becomes invalid keeps its last good configuration, so a typo interrupts nothing.

mod addresses;
mod alertmanagers;
mod cluster;
mod manifest_store;
mod reader;
mod stores;

pub use manifest_store::{ChangeSet, ManifestStore};
pub use reader::parse_selector;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use crate::annotations;
use crate::manifest::{Manifest, Meta, Service};
use crate::model::{Cluster, Fleet, Settings, StoreNames};
use crate::name::{ClusterName, Host};
use crate::text;

/// The flag with the DNS zone's addresses. It is the key of the finding that the zone has none.
pub const HUB_STORE_ADDRESS: &str = "--hub-store-address";
/// The problem with addresses for which [`Host::is_local`] is true.
const LOCAL: &str = "is a loopback, link-local, multicast or metadata address, which would lead to the Envoy's own machine";

/// How many characters of a value a message quotes. An annotation may have 256 KiB.
const MAX_QUOTED_VALUE: usize = 300;

/// What a finding means for the object. The gravest comes first.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize,
)]
#[serde(rename_all = "kebab-case")]
pub enum Severity {
    /// The object is left out, or its last good configuration stays in force.
    Rejected,
    /// The object counts; this one field falls back to its default.
    FellBack,
    /// The object counts, but something in it has no effect, or something that it needs is missing:
    /// somebody must act.
    Warning,
    /// Nothing is wrong, but people should know.
    Note,
}

/// Something to know about one key of one object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
pub struct Finding {
    /// What it means for the object.
    pub severity: Severity,
    /// Kind, namespace and name: `Service monitoring/tokyo`.
    pub object: String,
    /// File and line, `clusters/tokyo.yaml:7`; empty for an object of an API server.
    pub place: String,
    /// A label, annotation or field: `goatlas.io/replicas`.
    pub key: String,
    /// The value as written.
    pub value: String,
    /// What is wrong with it.
    pub problem: String,
    /// What to do about it; empty where nothing can be done.
    pub fix: String,
}

impl Finding {
    /// Whether this is about a flag that says where the hub is. Commands that only read manifests
    /// are not given these flags.
    pub fn is_about_the_hub(&self) -> bool {
        [annotations::HUB_ADDRESSES, HUB_STORE_ADDRESS].contains(&self.key.as_str())
            && self.severity != Severity::Rejected
    }

    /// Key, value, problem and fix on one line that is safe to show. It leaves out the object.
    pub fn message(&self) -> String {
        let value = if self.value.is_empty() {
            String::new()
        } else {
            format!(": {:?}", text::cut(&self.value, MAX_QUOTED_VALUE))
        };
        let fix = if self.fix.is_empty() { String::new() } else { format!(": {}", self.fix) };
        text::line(&format!("{}{value}: {}{fix}", self.key, self.problem), text::LONGEST)
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let place = if self.place.is_empty() { String::new() } else { format!("{}: ", self.place) };
        let object = &self.object;
        f.write_str(&text::line(&format!("{place}{object}: {}", self.message()), text::LONGEST))
    }
}

/// The result of [`validate`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Validation {
    /// What the plan is made from.
    pub fleet: Fleet,
    /// All findings, in a stable order.
    pub findings: Vec<Finding>,
}

/// Checks all manifests and makes the fleet. A cluster whose Service is invalid is taken from
/// `last`, the fleet in force, if it is there.
///
/// The order of the manifests doesn't matter. [`ManifestStore`] gives the same change by change.
pub fn validate(settings: &Settings, manifests: &[Manifest], last: Option<&Fleet>) -> Validation {
    let mut findings = Vec::new();
    let mut clusters = BTreeMap::new();
    let mut services: Vec<&Service> = manifests.iter().filter_map(as_cluster).collect();
    services.sort_by_key(|service| {
        (&service.meta.name, &service.meta.namespace, &service.meta.origin.file)
    });
    for same_name in services.chunk_by(|one, next| one.meta.name == next.meta.name) {
        let last = |name: &ClusterName| last.and_then(|last| last.clusters.get(name)).cloned();
        let cluster = read_cluster(settings, same_name.iter().copied(), last, &mut findings);
        if let Some(cluster) = cluster {
            clusters.insert(cluster.name.clone(), cluster);
        }
    }
    let alertmanagers = alertmanagers::read(settings, manifests, &mut findings);
    let addressed = clusters.values().any(|cluster: &Arc<Cluster>| !cluster.addresses.is_empty());
    findings.extend(zone_without_addresses(settings, addressed));
    findings.sort();
    findings.dedup();
    Validation { fleet: Fleet { settings: settings.clone(), clusters, alertmanagers }, findings }
}

/// The finding that the zone has names of stores but no addresses for them, if that is so.
fn zone_without_addresses(settings: &Settings, has_stores: bool) -> Option<Finding> {
    let by_zone = settings.store_names == StoreNames::Zone;
    (by_zone && has_stores && settings.hub_stores.is_empty()).then(|| Finding {
        severity: Severity::Warning,
        object: "atlas".into(),
        place: String::new(),
        key: HUB_STORE_ADDRESS.into(),
        value: String::new(),
        problem: "the DNS zone has no addresses for stores, so Thanos Query finds none".into(),
        fix: "start Atlas with the IP addresses at which Thanos Query reaches the hub's Envoy"
            .into(),
    })
}

/// Whether the settings refuse this host because it is local.
fn is_refused(settings: &Settings, host: &Host) -> bool {
    host.is_local() && !settings.allow_local_addresses
}

fn as_cluster(manifest: &Manifest) -> Option<&Service> {
    match manifest {
        Manifest::Service(service) if is_cluster(service) => Some(service),
        _ => None,
    }
}

/// The label selector of the Services that [`is_cluster`] accepts. Kubernetes selects by labels
/// alone, so [`is_cluster`] still leaves out Services that have [`annotations::THANOS_SIDECAR`] as
/// an annotation.
pub const CLUSTER_SELECTOR: &str =
    "goatlas.io/cluster,goatlas.io/cluster!=false,!goatlas.io/thanos-sidecar";

/// Whether a Service is meant to be a downstream cluster, right or wrong: labelled so, and not one
/// of the replica Services that Atlas writes (Atlas 0.3's carry the cluster's label too).
pub fn is_cluster(service: &Service) -> bool {
    let meta = &service.meta;
    let labelled = meta.labels.get(annotations::CLUSTER).is_some_and(|value| value != "false");
    labelled
        && !meta.labels.contains_key(annotations::THANOS_SIDECAR)
        && !meta.annotations.contains_key(annotations::THANOS_SIDECAR)
}

/// Makes the cluster of one name from its Services. The first valid one counts; where none is
/// valid, the cluster stays as `last` gives it.
fn read_cluster<'a>(
    settings: &Settings,
    services: impl Iterator<Item = &'a Service>,
    last: impl Fn(&ClusterName) -> Option<Arc<Cluster>>,
    findings: &mut Vec<Finding>,
) -> Option<Arc<Cluster>> {
    let (mut accepted, mut rejections, mut rejected_name) = (None, Vec::new(), None);
    for service in services {
        let meta = &service.meta;
        if let Some(namespace) = &meta.namespace
            && *namespace != settings.namespace
        {
            findings.push(Finding {
                severity: Severity::Rejected,
                problem: format!(
                    "clusters are read from the namespace {:?} only",
                    settings.namespace
                ),
                fix: "move the Service there, or set --namespace".into(),
                ..finding_about(settings, "Service", meta, "metadata.namespace", namespace)
            });
            continue;
        }
        let (cluster, mut found) = cluster::read(settings, service);
        match cluster {
            None => {
                rejected_name = meta.name.parse().ok();
                rejections.append(&mut found);
            }
            Some(cluster) if accepted.is_none() => {
                accepted = Some(Arc::new(cluster));
                findings.append(&mut found);
            }
            Some(_) => findings.push(Finding {
                severity: Severity::Rejected,
                problem: "another Service of this name is a cluster already".into(),
                fix: "delete one of the two".into(),
                ..finding_about(settings, "Service", meta, "metadata.name", &meta.name)
            }),
        }
    }
    if accepted.is_none() {
        accepted = rejected_name.and_then(|name| last(&name));
        if accepted.is_some() {
            for finding in &mut rejections {
                if finding.severity == Severity::Rejected {
                    finding.fix.push_str(
                        " (until then the last good configuration of this cluster stays in force)",
                    );
                }
            }
        }
    }
    findings.append(&mut rejections);
    accepted
}

/// A finding about `key` of an object, still without its severity, problem and fix.
fn finding_about(settings: &Settings, kind: &str, meta: &Meta, key: &str, value: &str) -> Finding {
    let namespace = meta.namespace.as_deref().unwrap_or(&settings.namespace);
    let place = match &meta.origin.file {
        Some(file) => format!("{file}:{}", meta.origin.line_of(key)),
        None => String::new(),
    };
    Finding {
        severity: Severity::Note,
        object: format!("{kind} {namespace}/{}", meta.name),
        place,
        key: key.to_owned(),
        value: value.to_owned(),
        problem: String::new(),
        fix: String::new(),
    }
}

#[cfg(test)]
mod tests;

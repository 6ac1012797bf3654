//! Facts in, fleet out: every key is read and checked here, once.
//!
//! ```text
//! facts ──▶ intake ──▶ Fleet      what the plan is made from
//!                 └──▶ findings   what is wrong, with object, key, value and fix
//! ```
//!
//! One bad object never touches another: it is reported and left out. A cluster that was good before keeps its last
//! good configuration while its Service is wrong, so a slip of the pen takes nothing down.

mod alertmanagers;
mod cluster;
mod reader;

pub use reader::{path_prefix, selector};

use std::collections::BTreeMap;
use std::fmt;

use crate::fact::{Fact, Meta, Service};
use crate::keys;
use crate::model::{Cluster, Fleet, Settings, StoreNames};
use crate::name::{ClusterName, Host};

/// The flag that gives the DNS zone its addresses: the key of a finding when it has none.
pub const HUB_STORE_ADDRESS: &str = "--hub-store-address";
/// What is wrong with [`Host::is_local`] addresses.
const LOCAL: &str = "is a loopback, link-local, multicast or metadata address, which would lead to the Envoy's own machine";

/// What a finding did to the object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Severity {
    /// The object is left out, or its last good configuration stays in force.
    Rejected,
    /// The object counts; this one field falls back to its default.
    FellBack,
    /// Nothing is wrong, but people should know.
    Note,
}

/// Something people should know about one key of one object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
pub struct Finding {
    /// What it did to the object.
    pub severity: Severity,
    /// `Service monitoring/tokyo`.
    pub object: String,
    /// `clusters/tokyo.yaml:7`; empty for an object of an API server.
    pub place: String,
    /// `goatlas.io/replicas`.
    pub key: String,
    /// The value as written.
    pub value: String,
    /// What is wrong with it.
    pub problem: String,
    /// What to do.
    pub fix: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.place.is_empty() {
            write!(f, "{}: ", self.place)?;
        }
        write!(f, "{}: {}", self.object, self.key)?;
        if !self.value.is_empty() {
            write!(f, ": {:?}", self.value)?;
        }
        write!(f, ": {}", self.problem)?;
        if !self.fix.is_empty() {
            write!(f, ": {}", self.fix)?;
        }
        Ok(())
    }
}

/// What came of the facts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Intake {
    /// What the plan is made from.
    pub fleet: Fleet,
    /// What people should know, in a stable order.
    pub findings: Vec<Finding>,
}

/// Checks the facts and builds the fleet. `last` is the fleet in force, whose clusters outlive their Service's mistakes.
///
/// The order of the facts doesn't matter.
pub fn intake(settings: &Settings, facts: &[Fact], last: Option<&Fleet>) -> Intake {
    let mut findings = Vec::new();
    let mut clusters: BTreeMap<ClusterName, Cluster> = BTreeMap::new();
    let mut services: Vec<&Service> = facts.iter().filter_map(as_cluster).collect();
    services.sort_by_key(|service| (&service.meta.name, &service.meta.namespace, &service.meta.origin.file));
    for service in services {
        if let Some(cluster) = one_cluster(settings, service, last, &clusters, &mut findings) {
            clusters.insert(cluster.name.clone(), cluster);
        }
    }
    let alertmanagers = alertmanagers::read(settings, facts, &mut findings);
    findings.extend(zone_without_addresses(settings, &clusters));
    findings.sort();
    findings.dedup();
    Intake { fleet: Fleet { settings: settings.clone(), clusters, alertmanagers }, findings }
}

/// The stores' names are in the zone, but nobody can resolve them.
fn zone_without_addresses(settings: &Settings, clusters: &BTreeMap<ClusterName, Cluster>) -> Option<Finding> {
    let stores = clusters.values().any(|cluster| !cluster.addresses.is_empty());
    let by_zone = settings.store_names == StoreNames::Zone;
    (by_zone && stores && settings.hub_stores.is_empty()).then(|| Finding {
        severity: Severity::Note,
        object: "atlas".into(),
        place: String::new(),
        key: HUB_STORE_ADDRESS.into(),
        value: String::new(),
        problem: "the DNS zone has no addresses for stores, so Thanos Query finds none".into(),
        fix: "start Atlas with the IP addresses at which Thanos Query reaches the hub's Envoy".into(),
    })
}

/// Whether the host is [`LOCAL`] where that isn't allowed.
fn is_refused(settings: &Settings, host: &Host) -> bool {
    host.is_local() && !settings.allow_local_addresses
}

fn as_cluster(fact: &Fact) -> Option<&Service> {
    match fact {
        Fact::Service(service) if is_cluster(service) => Some(service),
        _ => None,
    }
}

/// Whether a Service is meant to be a downstream cluster, right or wrong: labelled so, and not one of Atlas's own replica
/// Services.
pub fn is_cluster(service: &Service) -> bool {
    let meta = &service.meta;
    let labelled = meta.labels.get(keys::CLUSTER).is_some_and(|value| value != "false");
    labelled && !meta.labels.contains_key(keys::THANOS_SIDECAR) && !meta.annotations.contains_key(keys::THANOS_SIDECAR)
}

fn one_cluster(
    settings: &Settings,
    service: &Service,
    last: Option<&Fleet>,
    so_far: &BTreeMap<ClusterName, Cluster>,
    findings: &mut Vec<Finding>,
) -> Option<Cluster> {
    let meta = &service.meta;
    if let Some(namespace) = &meta.namespace
        && *namespace != settings.namespace
    {
        findings.push(Finding {
            severity: Severity::Rejected,
            problem: format!("clusters are read from the namespace {:?} only", settings.namespace),
            fix: "move the Service there, or set --namespace".into(),
            ..about(settings, "Service", meta, "metadata.namespace", namespace)
        });
        return None;
    }
    let (cluster, mut found) = cluster::read(settings, service);
    if cluster.as_ref().is_some_and(|cluster| so_far.contains_key(&cluster.name)) {
        findings.push(Finding {
            severity: Severity::Rejected,
            problem: "another Service of this name is a cluster already".into(),
            fix: "delete one of the two".into(),
            ..about(settings, "Service", meta, "metadata.name", &meta.name)
        });
        return None;
    }
    let kept = match &cluster {
        Some(_) => None,
        None => last.and_then(|last| last.clusters.get(&meta.name.parse::<ClusterName>().ok()?)).cloned(),
    };
    if kept.is_some() {
        for finding in found.iter_mut().filter(|finding| finding.severity == Severity::Rejected) {
            finding.fix.push_str(" (until then the last good configuration of this cluster stays in force)");
        }
    }
    findings.append(&mut found);
    cluster.or(kept)
}

/// A finding about `key` of an object, with nothing said yet.
fn about(settings: &Settings, kind: &str, meta: &Meta, key: &str, value: &str) -> Finding {
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

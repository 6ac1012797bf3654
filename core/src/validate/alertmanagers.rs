//! The hub's Alertmanager replicas, from Services and EndpointSlices.
//!
//! Prometheus must send every alert to every replica, so each has an index of its own. The index
//! follows from the replica's name ([`sets`]) and doesn't change when another replica is added or
//! removed.

mod sets;

use std::collections::BTreeMap;

use sets::ReplicaFinding;

use super::{Finding, LOCAL, Severity, finding_about, is_refused};
use crate::annotations;
use crate::manifest::{EndpointSlice, Manifest, Meta, Service, ServicePort};
use crate::model::{Alertmanager, Settings};
use crate::name::{Host, HostPort, NameError};
use crate::ports;

/// The kind of object that lists a replica.
#[derive(Clone, Copy, PartialEq, Eq)]
enum ReplicaSource {
    Slice,
    Service,
}

/// A pod or Service that may be a replica.
struct ReplicaCandidate<'a> {
    meta: &'a Meta,
    addresses: Vec<HostPort>,
}

/// ReplicaCandidates by name.
type ReplicaCandidates<'a> = BTreeMap<String, ReplicaCandidate<'a>>;

/// Whether a manifest may be about the hub's Alertmanagers.
pub(super) fn may_be_about(settings: &Settings, manifest: &Manifest) -> bool {
    match manifest {
        Manifest::Service(service) => is_selected(settings, service),
        Manifest::EndpointSlice(_) => true,
    }
}

/// Reads the replicas, by index. Manifests in other namespaces are ignored.
pub(super) fn read<'a>(
    settings: &Settings,
    manifests: impl IntoIterator<Item = &'a Manifest>,
    findings: &mut Vec<Finding>,
) -> BTreeMap<u32, Alertmanager> {
    let mut manifests: Vec<&Manifest> =
        manifests.into_iter().filter(|manifest| in_namespace(settings, manifest)).collect();
    // Several manifests may list the same replica. Findings name the first in this order.
    manifests.sort_by_key(|manifest| &manifest.meta().name);
    let (mut slices, mut services) = (ReplicaCandidates::new(), ReplicaCandidates::new());
    for manifest in manifests {
        match manifest {
            Manifest::EndpointSlice(slice) => from_slice(settings, slice, &mut slices, findings),
            Manifest::Service(service) if is_selected(settings, service) => {
                from_service(settings, service, &mut services, findings)
            }
            Manifest::Service(_) => {}
        }
    }
    let selected = sets::select_replicas(&settings.alertmanager_endpoints, &slices, &services);
    for finding in selected.findings {
        let ReplicaFinding { severity, source, name, value, problem, fix } = finding;
        let (candidates, kind, key) = match source {
            ReplicaSource::Slice => (&slices, "EndpointSlice", "endpoints"),
            ReplicaSource::Service => (&services, "Service", "metadata.name"),
        };
        findings.push(Finding {
            severity,
            problem,
            fix,
            ..finding_about(settings, kind, candidates[&name].meta, key, &value)
        });
    }
    let replica = |(index, (source, name)): (u32, (ReplicaSource, String))| {
        let candidate = if source == ReplicaSource::Slice {
            slices.remove(&name)
        } else {
            services.remove(&name)
        };
        Some((index, Alertmanager { name, addresses: candidate?.addresses }))
    };
    selected.replicas.into_iter().filter_map(replica).collect()
}

fn in_namespace(settings: &Settings, manifest: &Manifest) -> bool {
    manifest
        .meta()
        .namespace
        .as_deref()
        .is_none_or(|namespace| namespace == settings.alertmanager_namespace)
}

fn is_selected(settings: &Settings, service: &Service) -> bool {
    settings
        .alertmanager_selector
        .iter()
        .all(|(key, value)| service.meta.labels.get(key) == Some(value))
}

/// Adds the slice's endpoints to `found`.
fn from_slice<'a>(
    settings: &Settings,
    slice: &'a EndpointSlice,
    found: &mut ReplicaCandidates<'a>,
    findings: &mut Vec<Finding>,
) {
    if slice.meta.labels.get(annotations::SERVICE_NAME) != Some(&settings.alertmanager_endpoints) {
        return;
    }
    let port = web_port(&slice.ports);
    for (place, endpoint) in slice.endpoints.iter().enumerate() {
        let name = endpoint.hostname.clone().or_else(|| endpoint.target.clone());
        let name = name.unwrap_or_else(|| {
            endpoint
                .addresses
                .first()
                .cloned()
                .unwrap_or_else(|| format!("{}-{place}", slice.meta.name))
        });
        for address in &endpoint.addresses {
            match parse_host(settings, address) {
                Ok(host) => add(found, &name, &slice.meta, HostPort::new(host, port)),
                Err(error) => findings.push(Finding {
                    severity: Severity::FellBack,
                    problem: format!("{error}; this address is left out"),
                    fix: fix(settings, address),
                    ..finding_about(settings, "EndpointSlice", &slice.meta, "endpoints", address)
                }),
            }
        }
    }
}

/// Adds the Service to `found`.
fn from_service<'a>(
    settings: &Settings,
    service: &'a Service,
    found: &mut ReplicaCandidates<'a>,
    findings: &mut Vec<Finding>,
) {
    let meta = &service.meta;
    let default = format!(
        "{}.{}.svc.{}",
        meta.name, settings.alertmanager_namespace, settings.cluster_domain
    );
    let name = service.external_name.as_deref().unwrap_or(&default);
    match parse_host(settings, name) {
        Ok(host) => add(found, &meta.name, meta, HostPort::new(host, web_port(&service.ports))),
        Err(error) => findings.push(Finding {
            severity: Severity::Rejected,
            problem: format!("{error}; this address is left out"),
            fix: fix(settings, name),
            ..finding_about(settings, "Service", meta, "spec.externalName", name)
        }),
    }
}

/// Reads a replica's host. The hub's Envoy connects to it, so local addresses are refused as for
/// clusters.
fn parse_host(settings: &Settings, text: &str) -> Result<Host, NameError> {
    match text.parse() {
        Ok(host) if is_refused(settings, &host) => Err(NameError(LOCAL.into())),
        parsed => parsed,
    }
}

fn fix(settings: &Settings, text: &str) -> String {
    let local = text.parse().is_ok_and(|host| is_refused(settings, &host));
    let unless = if local { " (or start Atlas with --allow-local-addresses)" } else { "" };
    format!("write the Alertmanager's real DNS name or IP address{unless}")
}

fn add<'a>(found: &mut ReplicaCandidates<'a>, name: &str, meta: &'a Meta, at: HostPort) {
    let candidate = found
        .entry(name.to_owned())
        .or_insert_with(|| ReplicaCandidate { meta, addresses: Vec::new() });
    if !candidate.addresses.contains(&at) {
        candidate.addresses.push(at);
        candidate.addresses.sort();
    }
}

/// The port of Alertmanager's HTTP API: the one with a usual name, else 9093 if it is listed, else
/// the first.
fn web_port(ports: &[ServicePort]) -> u16 {
    let named = ports.iter().find(|port| ["http-web", "web", "http"].contains(&port.name.as_str()));
    let usual = ports.iter().find(|p| p.port == ports::ALERTMANAGER);
    named.or(usual).or(ports.first()).map_or(ports::ALERTMANAGER, |port| port.port)
}

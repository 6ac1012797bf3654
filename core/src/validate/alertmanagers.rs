//! The hub's Alertmanager replicas, from Services and EndpointSlices.
//!
//! Each replica has an index, since Prometheus must send every alert to every one of them. Which one an index means follows from names
//! alone ([`sets`]), so it doesn't change when another replica comes or goes.

mod sets;

use std::collections::BTreeMap;

use sets::Remark;

use super::{Finding, LOCAL, Severity, finding_about, is_refused};
use crate::annotations;
use crate::manifest::{EndpointSlice, Manifest, Meta, Service, ServicePort};
use crate::model::{Alertmanager, Settings};
use crate::name::{Host, HostPort, NameError};
use crate::ports;

/// Where a replica was found.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Source {
    Slice,
    Service,
}

/// Who may be a replica.
struct Candidate<'a> {
    meta: &'a Meta,
    addresses: Vec<HostPort>,
}

/// By name.
type Candidates<'a> = BTreeMap<String, Candidate<'a>>;

/// Whether a manifest may be about the hub's Alertmanagers.
pub(super) fn may_be_about(settings: &Settings, manifest: &Manifest) -> bool {
    match manifest {
        Manifest::Service(service) => selected(settings, service),
        Manifest::EndpointSlice(_) => true,
    }
}

pub(super) fn read<'a>(
    settings: &Settings,
    manifests: impl IntoIterator<Item = &'a Manifest>,
    findings: &mut Vec<Finding>,
) -> BTreeMap<u32, Alertmanager> {
    let mut manifests: Vec<&Manifest> =
        manifests.into_iter().filter(|manifest| in_namespace(settings, manifest)).collect();
    // Findings are about the first that they can be about.
    manifests.sort_by_key(|manifest| &manifest.meta().name);
    let (mut slices, mut services) = (Candidates::new(), Candidates::new());
    for manifest in manifests {
        match manifest {
            Manifest::EndpointSlice(slice) => from_slice(settings, slice, &mut slices, findings),
            Manifest::Service(service) if selected(settings, service) => {
                from_service(settings, service, &mut services, findings)
            }
            Manifest::Service(_) => {}
        }
    }
    let chosen = sets::choose(&settings.alertmanager_endpoints, &slices, &services);
    findings.extend(chosen.remarks.into_iter().map(|remark| {
        let candidate =
            &if remark.source == Source::Slice { &slices } else { &services }[&remark.name];
        let (kind, key) = if remark.source == Source::Slice {
            ("EndpointSlice", "endpoints")
        } else {
            ("Service", "metadata.name")
        };
        let Remark { severity, value, problem, fix, .. } = remark;
        Finding {
            severity,
            problem,
            fix,
            ..finding_about(settings, kind, candidate.meta, key, &value)
        }
    }));
    let replica = |(index, (source, name)): (u32, (Source, String))| {
        let candidate =
            if source == Source::Slice { slices.remove(&name) } else { services.remove(&name) };
        Some((index, Alertmanager { name, addresses: candidate?.addresses }))
    };
    chosen.replicas.into_iter().filter_map(replica).collect()
}

fn in_namespace(settings: &Settings, manifest: &Manifest) -> bool {
    manifest
        .meta()
        .namespace
        .as_deref()
        .is_none_or(|namespace| namespace == settings.alertmanager_namespace)
}

fn selected(settings: &Settings, service: &Service) -> bool {
    settings
        .alertmanager_selector
        .iter()
        .all(|(key, value)| service.meta.labels.get(key) == Some(value))
}

fn from_slice<'a>(
    settings: &Settings,
    slice: &'a EndpointSlice,
    found: &mut Candidates<'a>,
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
            match host(settings, address) {
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

fn from_service<'a>(
    settings: &Settings,
    service: &'a Service,
    found: &mut Candidates<'a>,
    findings: &mut Vec<Finding>,
) {
    let meta = &service.meta;
    let default = format!(
        "{}.{}.svc.{}",
        meta.name, settings.alertmanager_namespace, settings.cluster_domain
    );
    let name = service.external_name.as_deref().unwrap_or(&default);
    match host(settings, name) {
        Ok(host) => add(found, &meta.name, meta, HostPort::new(host, web_port(&service.ports))),
        Err(error) => findings.push(Finding {
            severity: Severity::Rejected,
            problem: format!("{error}; this address is left out"),
            fix: fix(settings, name),
            ..finding_about(settings, "Service", meta, "spec.externalName", name)
        }),
    }
}

/// The hub's Envoy sends alerts there, so the rule for clusters' addresses holds here too.
fn host(settings: &Settings, text: &str) -> Result<Host, NameError> {
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

fn add<'a>(found: &mut Candidates<'a>, name: &str, meta: &'a Meta, at: HostPort) {
    let candidate =
        found.entry(name.to_owned()).or_insert_with(|| Candidate { meta, addresses: Vec::new() });
    if !candidate.addresses.contains(&at) {
        candidate.addresses.push(at);
        candidate.addresses.sort();
    }
}

/// The port of the web page: by its usual names, else 9093 where it is listed, else the first.
fn web_port(ports: &[ServicePort]) -> u16 {
    let named = ports.iter().find(|port| ["http-web", "web", "http"].contains(&port.name.as_str()));
    let usual = ports.iter().find(|p| p.port == ports::ALERTMANAGER);
    named.or(usual).or(ports.first()).map_or(ports::ALERTMANAGER, |port| port.port)
}

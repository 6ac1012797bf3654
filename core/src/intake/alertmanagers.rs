//! The hub's Alertmanager replicas, from Services and EndpointSlices.
//!
//! Each replica has an index, since Prometheus must send every alert to every one of them. The index is the pod's
//! ordinal; a replica that slices and Services both name counts once; without ordinals, the place by name is the index.

use std::collections::BTreeMap;

use super::{Finding, LOCAL, Severity, about, is_refused};
use crate::fact::{EndpointSlice, Fact, Service, ServicePort};
use crate::keys::{self, port};
use crate::model::{Alertmanager, Settings};
use crate::name::{Host, HostPort, NameError};

/// Whether a fact may have to do with them.
pub(super) fn matters(settings: &Settings, fact: &Fact) -> bool {
    match fact {
        Fact::Service(service) => selected(settings, service),
        Fact::EndpointSlice(_) => true,
    }
}

pub(super) fn read<'a>(
    settings: &Settings,
    facts: impl IntoIterator<Item = &'a Fact> + Clone,
    findings: &mut Vec<Finding>,
) -> BTreeMap<u32, Alertmanager> {
    let facts = || facts.clone().into_iter().filter(|fact| in_namespace(settings, fact));
    let mut replicas: BTreeMap<String, Alertmanager> = BTreeMap::new();
    for fact in facts() {
        if let Fact::EndpointSlice(slice) = fact {
            from_slice(settings, slice, &mut replicas, findings);
        }
    }
    let from_slices = replicas.len();
    for fact in facts() {
        if let Fact::Service(service) = fact
            && selected(settings, service)
        {
            // A Service without an ordinal stands for replicas that the slices name one by one.
            let known = replicas.keys().any(|name| ordinal(name) == ordinal(&service.meta.name));
            if from_slices > 0 && (ordinal(&service.meta.name).is_none() || known) {
                continue;
            }
            from_service(settings, service, &mut replicas, findings);
        }
    }
    index(replicas)
}

fn in_namespace(settings: &Settings, fact: &Fact) -> bool {
    fact.meta().namespace.as_deref().is_none_or(|namespace| namespace == settings.alertmanager_namespace)
}

fn selected(settings: &Settings, service: &Service) -> bool {
    settings.alertmanager_selector.iter().all(|(key, value)| service.meta.labels.get(key) == Some(value))
}

fn from_slice(settings: &Settings, slice: &EndpointSlice, replicas: &mut BTreeMap<String, Alertmanager>, findings: &mut Vec<Finding>) {
    if slice.meta.labels.get(keys::SERVICE_NAME) != Some(&settings.alertmanager_endpoints) {
        return;
    }
    let port = web_port(&slice.ports);
    for (place, endpoint) in slice.endpoints.iter().enumerate() {
        let name = endpoint.hostname.clone().or_else(|| endpoint.target.clone());
        let name = name.unwrap_or_else(|| endpoint.addresses.first().cloned().unwrap_or_else(|| format!("{}-{place}", slice.meta.name)));
        for address in &endpoint.addresses {
            match host(settings, address) {
                Ok(host) => add(replicas, &name, HostPort::new(host, port)),
                Err(error) => findings.push(Finding {
                    severity: Severity::FellBack,
                    problem: format!("{error}; this address is left out"),
                    fix: fix(settings, address),
                    ..about(settings, "EndpointSlice", &slice.meta, "endpoints", address)
                }),
            }
        }
    }
}

fn from_service(settings: &Settings, service: &Service, replicas: &mut BTreeMap<String, Alertmanager>, findings: &mut Vec<Finding>) {
    let meta = &service.meta;
    let default = format!("{}.{}.svc.{}", meta.name, settings.alertmanager_namespace, settings.cluster_domain);
    let name = service.external_name.as_deref().unwrap_or(&default);
    match host(settings, name) {
        Ok(host) => add(replicas, &meta.name, HostPort::new(host, web_port(&service.ports))),
        Err(error) => findings.push(Finding {
            severity: Severity::Rejected,
            problem: format!("{error}; this address is left out"),
            fix: fix(settings, name),
            ..about(settings, "Service", meta, "spec.externalName", name)
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

fn add(replicas: &mut BTreeMap<String, Alertmanager>, name: &str, at: HostPort) {
    let replica = replicas.entry(name.to_owned()).or_insert_with(|| Alertmanager { name: name.to_owned(), addresses: Vec::new() });
    if !replica.addresses.contains(&at) {
        replica.addresses.push(at);
        replica.addresses.sort();
    }
}

/// The port of the web page: by its usual names, else 9093 where it is listed, else the first.
fn web_port(ports: &[ServicePort]) -> u16 {
    let named = ports.iter().find(|port| ["http-web", "web", "http"].contains(&port.name.as_str()));
    let usual = ports.iter().find(|p| p.port == port::ALERTMANAGER);
    named.or(usual).or(ports.first()).map_or(port::ALERTMANAGER, |port| port.port)
}

/// The number at the end of a StatefulSet pod's name.
fn ordinal(name: &str) -> Option<u32> {
    let (_, number) = name.rsplit_once('-')?;
    number.bytes().all(|b| b.is_ascii_digit()).then(|| number.parse().ok()).flatten().filter(|number| *number < 1000)
}

fn index(replicas: BTreeMap<String, Alertmanager>) -> BTreeMap<u32, Alertmanager> {
    let ordinals: BTreeMap<u32, &String> = replicas.keys().filter_map(|name| Some((ordinal(name)?, name))).collect();
    if ordinals.len() == replicas.len() {
        return replicas.into_iter().filter_map(|(name, replica)| Some((ordinal(&name)?, replica))).collect();
    }
    (0..).zip(replicas.into_values()).collect()
}

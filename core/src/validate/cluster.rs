//! Reads the Service of a downstream cluster.

use super::Finding;
use super::Severity::{FellBack, Note, Rejected, Warning};
use super::addresses::addresses;
use super::reader::{ServiceReader, parse_selector};
use super::stores::{note_inexact, stores};
use crate::annotations;
use crate::manifest::Service;
use crate::model::{
    Backend, Cluster, DEFAULT_STORE_PORT_NAME, HostHeader, HubAddresses, REFUSED_PATHS, Scheme,
    Settings,
};
use crate::name::{
    ClusterName, HostPort, NameError, bindable, is_dns_label, is_within_path, parse_path_prefix,
};
use crate::ports;
use crate::quantity::Memory;

/// Longest service name in an SRV record (RFC 6335 §5.1).
const SERVICE_NAME_MAX: usize = 15;

/// Reads one Service and finds all its mistakes at once. There is a cluster unless a finding
/// rejects the Service.
pub(super) fn read(settings: &Settings, service: &Service) -> (Option<Cluster>, Vec<Finding>) {
    let mut reader = ServiceReader::new(settings, service);
    let cluster = cluster(&mut reader);
    if cluster.is_none() && !reader.is_rejected() {
        reader.report(
            Rejected,
            "metadata.name",
            &service.meta.name,
            "BUG: rejected for no stated reason",
            "please report this",
        );
    }
    let cluster = cluster.filter(|_| !reader.is_rejected());
    if let Some(cluster) = &cluster {
        note_inexact(&mut reader, &cluster.stores);
    }
    (cluster, reader.findings)
}

fn cluster(reader: &mut ServiceReader<'_>) -> Option<Cluster> {
    warn_of_unknown_keys(reader);
    warn_of_keys_not_yet_effective(reader);
    check_connect(reader);
    let name = name(reader);
    let addresses = addresses(reader);
    let shards = reader.number(annotations::SHARDS, 1..=crate::model::MAX_STORES, Rejected);
    let stores = stores(reader, shards);
    let store_port_name = store_port_name(reader);
    let default_host = |reader: &ServiceReader<'_>, service: &str| {
        format!(
            "{service}.{}.svc.{}",
            reader.settings.downstream_namespace, reader.settings.cluster_domain
        )
    };
    let default = default_host(reader, "prometheus-operated");
    let prometheus = reader.backend(
        annotations::PROMETHEUS_SERVICE,
        &default,
        annotations::PROMETHEUS_SERVICE_PORT,
        ports::PROMETHEUS,
    );
    let prometheus_prefix = reader.path_prefix(annotations::PROMETHEUS_PATH_PREFIX);
    let default = default_host(reader, "alertmanager-operated");
    let alertmanager = reader.backend(
        annotations::ALERTMANAGER_SERVICE,
        &default,
        annotations::ALERTMANAGER_SERVICE_PORT,
        ports::ALERTMANAGER,
    );
    let alertmanager_prefix = reader.path_prefix(annotations::ALERTMANAGER_PATH_PREFIX);
    let prometheus_host = host_header(reader, annotations::PROMETHEUS_HOST_HEADER);
    let alertmanager_host = host_header(reader, annotations::ALERTMANAGER_HOST_HEADER);
    let hub = hub_addresses(reader);
    let bind = bind_address(reader);
    let allow_paths = allow_paths(reader);
    let envoy_selectors = envoy_selectors(reader);
    let credential_revision =
        reader.number(annotations::CREDENTIAL_REVISION, 1..=u64::from(u32::MAX), FellBack);
    let revoke_below = reader.number(annotations::REVOKE_BELOW, 1..=u64::from(u32::MAX), Rejected);
    let envoy_replicas = reader.number(annotations::ENVOY_REPLICAS, 1..=1000, FellBack);
    let envoy_memory = envoy_memory(reader);
    let backend = |at, path_prefix, host| Backend { scheme: Scheme::Http, at, path_prefix, host };
    Some(Cluster {
        name: name?,
        addresses: addresses?,
        stores: stores?,
        shards: shards.unwrap_or(1),
        store_port_name,
        prometheus: backend(prometheus?, prometheus_prefix?, prometheus_host?),
        alertmanager: backend(alertmanager?, alertmanager_prefix?, alertmanager_host?),
        hub,
        bind: bind?,
        allow_paths,
        envoy_selectors,
        credential_revision,
        revoke_below,
        envoy_replicas: envoy_replicas.unwrap_or(crate::model::DEFAULT_ENVOY_REPLICAS),
        envoy_memory,
    })
}

fn envoy_memory(reader: &mut ServiceReader<'_>) -> Memory {
    let Some(value) = reader.value(annotations::ENVOY_MEMORY) else {
        return crate::model::DEFAULT_ENVOY_MEMORY;
    };
    let (least, default) = (crate::model::LEAST_ENVOY_MEMORY, crate::model::DEFAULT_ENVOY_MEMORY);
    let problem = match value.parse::<Memory>() {
        Ok(memory) if memory >= least => return memory,
        Ok(_) => "is less than an Envoy needs".to_owned(),
        Err(error) => error.to_string(),
    };
    reader.report(
        FellBack,
        annotations::ENVOY_MEMORY,
        value,
        problem,
        format!("write at least {least}, for example {default}"),
    );
    default
}

fn name(reader: &mut ServiceReader<'_>) -> Option<ClusterName> {
    let name = &reader.service.meta.name;
    match name.parse() {
        Ok(name) => Some(name),
        Err(error) => reader.reject(
            "metadata.name",
            name,
            error,
            "rename the Service, after which the cluster is called",
        ),
    }
}

/// Warns of keys of Atlas's domain that are not read, since most are typos.
fn warn_of_unknown_keys(reader: &mut ServiceReader<'_>) {
    let meta = &reader.service.meta;
    let known: Vec<&str> = [annotations::CLUSTER_LABELS, annotations::CLUSTER_ANNOTATIONS].concat();
    let kinds = [
        ("label", &meta.labels, annotations::CLUSTER_LABELS),
        ("annotation", &meta.annotations, annotations::CLUSTER_ANNOTATIONS),
    ];
    for (kind, written, read) in kinds {
        for (key, value) in written {
            if !key.starts_with("goatlas.io/") || read.contains(&key.as_str()) {
                continue;
            }
            let fix = if known.contains(&key.as_str()) {
                let other = if kind == "label" { "an annotation" } else { "a label" };
                format!("it is read as {other} only: move it there")
            } else {
                let similarity = |known: &str| strsim::jaro_winkler(known, key);
                let nearest = known.iter().max_by(|a, b| similarity(a).total_cmp(&similarity(b)));
                format!("did you mean {}?", nearest.copied().unwrap_or(annotations::CLUSTER))
            };
            reader.report(Warning, key, value, format!("no such {kind} is read"), fix);
        }
    }
}

fn warn_of_keys_not_yet_effective(reader: &mut ServiceReader<'_>) {
    for key in [annotations::CREDENTIAL_REVISION, annotations::REVOKE_BELOW] {
        if let Some(value) = reader.value(key) {
            reader.report(
                Warning,
                key,
                value,
                "is checked, but not yet effective in this version",
                "leave it out: no credential is issued or refused because of it",
            );
        }
    }
}

fn check_connect(reader: &mut ServiceReader<'_>) {
    match reader.value(annotations::CONNECT) {
        None | Some("direct") => {}
        Some("reverse") => {
            let problem = "is reserved, since a cluster Envoy that dials out is not built yet";
            reader.report(
                Rejected,
                annotations::CONNECT,
                "reverse",
                problem,
                "write `direct`, and let the hub reach the cluster's port 11901",
            );
        }
        Some(other) => reader.report(
            Rejected,
            annotations::CONNECT,
            other,
            "is no way to connect",
            "write `direct`",
        ),
    }
}

/// The `Host` header for a web UI's backend.
fn host_header(reader: &mut ServiceReader<'_>, key: &str) -> Option<HostHeader> {
    match reader.value(key) {
        None => Some(HostHeader::Own),
        Some("hub") => Some(HostHeader::Hub),
        Some(value) => match HostPort::parse(value, 80) {
            Ok(at) if value.contains("::") && !value.starts_with('[') => {
                Some(HostHeader::Named(format!("[{}]", at.host)))
            }
            Ok(_) => Some(HostHeader::Named(value.trim_end_matches('.').to_owned())),
            Err(error) => {
                let fix = "write `hub` for the host that the person's browser asked for, or `host[:port]`; without the key it is the service's own";
                reader.reject(key, value, error, fix)
            }
        },
    }
}

/// The Service's own name for port 10901, by which Atlas 0.3 named the SRV records.
fn store_port_name(reader: &mut ServiceReader<'_>) -> String {
    let port = reader
        .service
        .ports
        .iter()
        .find(|written| written.port == ports::HUB_STORES && !written.name.is_empty());
    let name = port.map_or(DEFAULT_STORE_PORT_NAME, |port| port.name.as_str());
    if is_dns_label(name) && name.len() <= SERVICE_NAME_MAX {
        return name.to_owned();
    }
    let problem = format!(
        "names port {}, but is no service's name in DNS, so its SRV records are called `_grpc`",
        ports::HUB_STORES
    );
    let fix =
        format!("write at most {SERVICE_NAME_MAX} lower-case letters, digits and inner hyphens");
    reader.report(Note, "spec.ports", name, problem, fix);
    DEFAULT_STORE_PORT_NAME.to_owned()
}

/// The addresses at which this cluster reaches the hub. A port that is written is that of xDS;
/// alerts go to the same hosts at their own port.
fn hub_addresses(reader: &mut ServiceReader<'_>) -> Option<HubAddresses> {
    if reader.value(annotations::HUB_ADDRESSES).is_none() && reader.settings.hub_alerts.is_empty() {
        let fix = "start Atlas with --hub-address, or write the address here";
        reader.report(
            Warning,
            annotations::HUB_ADDRESSES,
            "",
            "nobody has said where the hub is, so its Envoy can't start and its alerts go nowhere",
            fix,
        );
    }
    let xds = reader.hosts(annotations::HUB_ADDRESSES, ports::HUB_XDS)?;
    let alerts_port = reader.settings.hub_alerts.first().map_or(ports::HUB_ALERTS, |hub| hub.port);
    let mut alerts: Vec<HostPort> = Vec::new();
    for at in &xds {
        let at = HostPort::new(at.host.clone(), alerts_port);
        if !alerts.contains(&at) {
            alerts.push(at);
        }
    }
    (!xds.is_empty()).then_some(HubAddresses { xds, alerts })
}

fn bind_address(reader: &mut ServiceReader<'_>) -> Option<std::net::IpAddr> {
    match reader.value(annotations::BIND_ADDRESS) {
        None => Some(std::net::Ipv6Addr::UNSPECIFIED.into()),
        Some(value) => {
            let ip = value
                .parse()
                .map_err(|_| NameError("is not an IP address".into()))
                .and_then(bindable);
            let fix = "write an IPv4 or IPv6 address of that Envoy's machine, or `::` or `0.0.0.0` for all of them";
            match ip {
                Ok(ip) => Some(ip),
                Err(error) => reader.reject(annotations::BIND_ADDRESS, value, error, fix),
            }
        }
    }
}

/// Path prefixes to allow. An invalid prefix is left out, so its path stays refused.
fn allow_paths(reader: &mut ServiceReader<'_>) -> Vec<String> {
    let value = reader.value(annotations::ALLOW_PATHS).unwrap_or_default();
    let mut paths = Vec::new();
    for part in value.split(',').map(str::trim).filter(|part| !part.is_empty()) {
        match parse_path_prefix(part).filter(|path| !path.is_empty()) {
            Some(path) if REFUSED_PATHS.iter().any(|refused| is_within_path(&path, refused)) => {
                paths.push(path)
            }
            Some(path) => {
                let problem =
                    "neither is nor lies below a path that is refused, so it has no effect";
                reader.report(
                    Note,
                    annotations::ALLOW_PATHS,
                    &path,
                    problem,
                    format!(
                        "leave it out, or write one of {} or a path below",
                        REFUSED_PATHS.join(", ")
                    ),
                );
            }
            None => reader.report(
                FellBack,
                annotations::ALLOW_PATHS,
                part,
                "is not a path prefix, and stays refused",
                "write an absolute path such as `/-/reload`",
            ),
        }
    }
    paths.sort();
    paths.dedup();
    paths
}

fn envoy_selectors(reader: &mut ServiceReader<'_>) -> std::collections::BTreeMap<String, String> {
    let default = reader.settings.envoy_selectors.clone();
    match reader.value(annotations::ENVOY_SELECTORS).map(|value| (value, parse_selector(value))) {
        None => default,
        Some((_, Ok(labels))) => labels,
        Some((value, Err(error))) => {
            reader.report(
                FellBack,
                annotations::ENVOY_SELECTORS,
                value,
                error,
                "write `key=value,key=value`",
            );
            default
        }
    }
}

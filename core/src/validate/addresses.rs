//! Where a cluster's Envoy listens: the annotation, or else what the Service itself says.
//!
//! What Kubernetes makes of the same fields in the hub is another matter: there, a Service's addresses lead to that Service.

use super::Severity::{Note, Warning};
use super::reader::Reader;
use crate::annotations;
use crate::name::{Host, HostPort};
use crate::ports;

/// The annotation counts before `spec.externalIPs`, and these before `spec.externalName`.
pub(super) fn addresses(reader: &mut Reader<'_>) -> Option<Vec<HostPort>> {
    captured(reader);
    if reader.value(annotations::ADDRESSES).is_some() {
        return reader.hosts(annotations::ADDRESSES, ports::CLUSTER_INBOUND);
    }
    let ips = &reader.service.external_ips;
    if let Some(wrong) = ips.iter().find(|ip| ip.trim().parse::<std::net::IpAddr>().is_err()) {
        let fix = format!(
            "write an IPv4 or IPv6 address; names and ports go into the annotation {}",
            annotations::ADDRESSES
        );
        return reader.reject(annotations::EXTERNAL_IPS, wrong, "is not an IP address", fix);
    }
    let hosts = reader.parse_hosts(
        annotations::EXTERNAL_IPS,
        ips.iter().map(String::as_str),
        ports::CLUSTER_INBOUND,
    )?;
    if !hosts.is_empty() {
        return Some(hosts);
    }
    if let Some(name) = external_name(reader) {
        return match name.parse::<Host>() {
            Ok(host) => Some(vec![reader.not_local(
                annotations::EXTERNAL_NAME,
                HostPort::new(host, ports::CLUSTER_INBOUND),
            )?]),
            Err(error) => {
                let fix = format!(
                    "write one DNS name; several, and ports, go into the annotation {}",
                    annotations::ADDRESSES
                );
                reader.reject(annotations::EXTERNAL_NAME, name, error, fix)
            }
        };
    }
    awaiting(reader);
    Some(hosts)
}

/// kube-proxy of the hub's nodes serves the addresses of Services that have a cluster IP.
fn captured(reader: &mut Reader<'_>) {
    let service = reader.service;
    if !service.cluster_ip || service.external_ips.is_empty() {
        return;
    }
    let instead = match reader.value(annotations::ADDRESSES) {
        Some(_) => {
            format!("leave it out, since {} says where the Envoy is", annotations::ADDRESSES)
        }
        None => {
            format!("write the addresses into the annotation {} instead", annotations::ADDRESSES)
        }
    };
    let fix = format!(
        "{instead}, or delete the Service and create it with `clusterIP: None` (the field can't be changed)"
    );
    let problem = "the Service has a cluster IP, so kube-proxy of the hub's nodes answers at these addresses itself (on the Service's ports, \
                   in IPVS mode on all), and what goes there doesn't reach the cluster";
    reader.report(
        Warning,
        annotations::EXTERNAL_IPS,
        &service.external_ips.join(","),
        problem,
        fix,
    );
}

fn external_name<'a>(reader: &Reader<'a>) -> Option<&'a str> {
    reader.service.external_name.as_deref().map(str::trim).filter(|name| !name.is_empty())
}

fn awaiting(reader: &mut Reader<'_>) {
    let fix = format!(
        "once its Envoy has one, write it into the annotation {} or into {}",
        annotations::ADDRESSES,
        annotations::EXTERNAL_IPS
    );
    if reader.service.load_balancer {
        let problem = "the cluster is awaiting its address: a load balancer of this Service would lead to the hub, so neither \
                       spec.loadBalancerIP nor status.loadBalancer is read";
        return reader.report(
            Warning,
            annotations::SERVICE_TYPE,
            "LoadBalancer",
            problem,
            format!("leave the type out; {fix}"),
        );
    }
    reader.report(Note, annotations::ADDRESSES, "", "the cluster is awaiting its address", fix);
}

#[cfg(test)]
mod tests;

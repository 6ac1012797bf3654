//! The addresses of a cluster's Envoy, from the annotation or else from fields of the Service.
//!
//! In the hub, Kubernetes uses the same fields for addresses that lead to the Service itself. Where
//! that interferes, a finding warns.

use super::Severity::{Note, Warning};
use super::reader::ServiceReader;
use crate::annotations;
use crate::name::{Host, HostPort};
use crate::ports;

/// The annotation takes precedence over `spec.externalIPs`, and these over `spec.externalName`.
pub(super) fn addresses(reader: &mut ServiceReader<'_>) -> Option<Vec<HostPort>> {
    warn_of_kube_proxy(reader);
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
            Ok(host) => Some(vec![reader.reject_local(
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
    note_awaiting_address(reader);
    Some(hosts)
}

/// Warns of external IPs of a Service with a cluster IP: kube-proxy on the hub's nodes serves them
/// itself.
fn warn_of_kube_proxy(reader: &mut ServiceReader<'_>) {
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

fn external_name<'a>(reader: &ServiceReader<'a>) -> Option<&'a str> {
    reader.service.external_name.as_deref().map(str::trim).filter(|name| !name.is_empty())
}

fn note_awaiting_address(reader: &mut ServiceReader<'_>) {
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

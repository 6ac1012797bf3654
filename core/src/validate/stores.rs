//! The addresses of a cluster's stores, from its replicas, shards and names.
//!
//! DNS has a pod's name only below the governing Service of its StatefulSet. That is
//! `prometheus-operated` unless the Prometheus resource has another `spec.serviceName`. The
//! annotation often names another Service of the same pods, such as kube-prometheus-stack's
//! `…-thanos-discovery`. So each pod gets a name below both Services; whichever exists is that pod.

use super::Severity::{Note, Rejected};
use super::reader::ServiceReader;
use crate::annotations;
use crate::model::Store;
use crate::name::{Host, HostPort, is_dns_label, is_dns_name};
use crate::ports;

/// The governing Service of the Prometheus operator's StatefulSets.
const GOVERNING_SERVICE: &str = "prometheus-operated";

/// The stores of a cluster. The index of one is shard × replicas + replica.
pub(super) fn stores(reader: &mut ServiceReader<'_>, shards: Option<u32>) -> Option<Vec<Store>> {
    let default = format!(
        "{GOVERNING_SERVICE}.{}.svc.{}",
        reader.settings.downstream_namespace, reader.settings.cluster_domain
    );
    let service = reader.backend(
        annotations::THANOS_SERVICE,
        &default,
        annotations::THANOS_SERVICE_PORT,
        ports::THANOS,
    );
    let replicas = reader.number(annotations::REPLICAS, 1..=crate::model::MAX_STORES, Rejected);
    let count = u64::from(replicas.unwrap_or(1)) * u64::from(shards.unwrap_or(1));
    if count > u64::from(crate::model::MAX_STORES) {
        let problem = format!("{count} stores are more than one cluster may have");
        return reader.reject(
            annotations::SHARDS,
            &shards.unwrap_or(1).to_string(),
            problem,
            format!("replicas × shards must be at most {}", crate::model::MAX_STORES),
        );
    }
    let service = service?;
    if reader.value(annotations::THANOS_REPLICA_HOSTS).is_some() {
        let hosts = reader.hosts(annotations::THANOS_REPLICA_HOSTS, service.port)?;
        return replica_hosts(
            reader,
            hosts,
            (replicas.is_some() || shards.is_some()).then_some(count),
        );
    }
    let named = reader.value(annotations::PROMETHEUS_NAME);
    if let Some(name) = named.filter(|name| !is_dns_label(name)) {
        let fix = "write the name of the Prometheus resource, as `kubectl get prometheus` shows it";
        return reader.reject(
            annotations::PROMETHEUS_NAME,
            name,
            "is not the name of a Prometheus resource",
            fix,
        );
    }
    if count == 1 && named.is_none() {
        return Some(vec![Store { index: 0, at: service, fallbacks: Vec::new(), exact: false }]);
    }
    pods(reader, named, &service, replicas.unwrap_or(1), shards.unwrap_or(1))
}

/// The stores that [`annotations::THANOS_REPLICA_HOSTS`] lists. `expected` is replicas × shards, if
/// either is given.
fn replica_hosts(
    reader: &mut ServiceReader<'_>,
    hosts: Vec<HostPort>,
    expected: Option<u64>,
) -> Option<Vec<Store>> {
    let value = reader.value(annotations::THANOS_REPLICA_HOSTS).unwrap_or_default();
    let count = hosts.len() as u64;
    if count == 0 || count > u64::from(crate::model::MAX_STORES) {
        let fix = format!(
            "write one host per store, from 1 to {}, separated by commas",
            crate::model::MAX_STORES
        );
        return reader.reject(
            annotations::THANOS_REPLICA_HOSTS,
            value,
            format!("names {count} different hosts"),
            fix,
        );
    }
    if expected.is_some_and(|expected| expected != count) {
        let problem = format!(
            "names {count} different hosts, but replicas × shards is {}",
            expected.unwrap_or_default()
        );
        return reader.reject(
            annotations::THANOS_REPLICA_HOSTS,
            value,
            problem,
            format!("write one host per store, or leave {} out", annotations::REPLICAS),
        );
    }
    let store = |(index, at): (u32, HostPort)| Store {
        index,
        at: HostPort::new(reader.complete_host(at.host.clone()), at.port),
        fallbacks: Vec::new(),
        exact: true,
    };
    Some((0..).zip(hosts).map(store).collect())
}

/// Notes why a valid cluster's stores are not exact, and how they become exact.
pub(super) fn note_inexact(reader: &mut ServiceReader<'_>, stores: &[Store]) {
    let Some(store) = stores.first().filter(|store| !store.exact) else { return };
    let problem = match store.fallbacks.is_empty() {
        true => {
            format!("isn't given, so any replica behind {} may answer: not exact", store.at.host)
        }
        false => format!(
            "isn't given, so the pods are taken to be prometheus-{}-N; where they aren't, any replica may answer: not exact",
            crate::model::DEFAULT_PROMETHEUS_NAME
        ),
    };
    let fix = format!(
        "write the Prometheus resource's name, as `kubectl get prometheus` shows it, or list the sidecars in {}",
        annotations::THANOS_REPLICA_HOSTS
    );
    reader.report(Note, annotations::PROMETHEUS_NAME, "", problem, fix);
}

/// Stores at the Prometheus operator's pods, `prometheus-<name>[-shard-S]-N.<service>`. The name of
/// shard 0 has no shard number. Without the resource's name (`named`), the Service is the last
/// address of each store.
fn pods(
    reader: &mut ServiceReader<'_>,
    named: Option<&str>,
    service: &HostPort,
    replicas: u32,
    shards: u32,
) -> Option<Vec<Store>> {
    let Host::Name(given) = &service.host else {
        let problem = "is one address, behind which single replicas can't be named";
        let fix = format!("list the replicas in {}", annotations::THANOS_REPLICA_HOSTS);
        return reader.reject(annotations::THANOS_SERVICE, &service.host.to_string(), problem, fix);
    };
    let domains = pod_domains(reader, given);
    let name = named.unwrap_or(crate::model::DEFAULT_PROMETHEUS_NAME);
    let mut stores = Vec::new();
    for shard in 0..shards {
        for replica in 0..replicas {
            let shard_part = if shard == 0 { String::new() } else { format!("-shard-{shard}") };
            let pod = format!("prometheus-{name}{shard_part}-{replica}");
            if !is_dns_label(&pod) {
                return reader.reject(
                    annotations::PROMETHEUS_NAME,
                    name,
                    format!("makes {pod:?}, which is too long for a pod's host name"),
                    "shorten the name",
                );
            }
            let names: Vec<String> =
                domains.iter().map(|domain| format!("{pod}.{domain}")).collect();
            if names.iter().any(|name| !is_dns_name(name)) {
                let problem = format!("is too long to stand behind the pod's name {pod:?} in DNS");
                return reader.reject(
                    annotations::THANOS_SERVICE,
                    given,
                    problem,
                    "a name has at most 253 characters: use a shorter one",
                );
            }
            let mut at =
                names.into_iter().map(|name| HostPort::new(Host::Name(name), service.port));
            stores.push(Store {
                index: shard * replicas + replica,
                at: at.next()?,
                fallbacks: at.chain(named.is_none().then(|| service.clone())).collect(),
                exact: named.is_some(),
            });
        }
    }
    Some(stores)
}

/// The Services below which pods may have names: `given`, and the governing one in its namespace.
fn pod_domains(reader: &ServiceReader<'_>, given: &str) -> Vec<String> {
    let given = reader.complete_pod_domain(given);
    let governing = match given.split_once('.') {
        Some((service, rest))
            if service != GOVERNING_SERVICE && rest.split('.').nth(1) == Some("svc") =>
        {
            Some(format!("{GOVERNING_SERVICE}.{rest}"))
        }
        _ => None,
    };
    [given].into_iter().chain(governing).collect()
}

#[cfg(test)]
mod tests;

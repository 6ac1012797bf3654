//! Where the stores of a cluster are: from replicas, shards and names.
//!
//! Pods have names in DNS under their StatefulSet's governing Service alone. That is `prometheus-operated` unless the
//! Prometheus resource says otherwise (`spec.serviceName`), and people often name another Service of the same pods, such as
//! kube-prometheus-stack's `…-thanos-discovery`. So a pod is looked for under both: whichever has the name, it is the same pod.

use super::Severity::{Note, Rejected};
use super::reader::Reader;
use crate::annotations;
use crate::model::Store;
use crate::name::{Host, HostPort, is_dns_label, is_dns_name};
use crate::ports;

/// The governing Service of the operator's StatefulSets.
const GOVERNING: &str = "prometheus-operated";

/// Expands replicas, shards and names into stores: N = shard × replicas + replica.
pub(super) fn stores(reader: &mut Reader<'_>, shards: Option<u32>) -> Option<Vec<Store>> {
    let default = format!(
        "{GOVERNING}.{}.svc.{}",
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

fn replica_hosts(
    reader: &mut Reader<'_>,
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
        at: HostPort::new(reader.complete(at.host.clone()), at.port),
        fallbacks: Vec::new(),
        exact: true,
    };
    Some((0..).zip(hosts).map(store).collect())
}

/// Says of a cluster that counts why its stores aren't exact, and how they become so.
pub(super) fn note_inexact(reader: &mut Reader<'_>, stores: &[Store]) {
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

/// The operator's pods: `prometheus-<name>[-shard-S]-N.<service>`; shard 0 goes without its number.
fn pods(
    reader: &mut Reader<'_>,
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
    let domains = domains(reader, given);
    let name = named.unwrap_or(crate::model::DEFAULT_PROMETHEUS_NAME);
    let mut stores = Vec::new();
    for shard in 0..shards {
        for replica in 0..replicas {
            let part = if shard == 0 { String::new() } else { format!("-shard-{shard}") };
            let pod = format!("prometheus-{name}{part}-{replica}");
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

/// The Services under which pods may have names: the one that is given, and the operator's governing one of its namespace.
fn domains(reader: &Reader<'_>, given: &str) -> Vec<String> {
    let given = reader.complete_before_a_pod(given);
    let governing = match given.split_once('.') {
        Some((service, rest)) if service != GOVERNING && rest.split('.').nth(1) == Some("svc") => {
            Some(format!("{GOVERNING}.{rest}"))
        }
        _ => None,
    };
    [given].into_iter().chain(governing).collect()
}

#[cfg(test)]
mod tests;

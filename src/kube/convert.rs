//! Kubernetes' types as manifests. Only the fields that Atlas reads are kept, since they are kept
//! for every object.

use std::collections::BTreeMap;
use std::net::IpAddr;

use atlas_core::manifest::{Endpoint, EndpointSlice, Manifest, Meta, Origin, Service, ServicePort};
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::discovery::v1 as discovery;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

pub fn service(service: core::Service) -> Manifest {
    let spec = service.spec.unwrap_or_default();
    let is_type = |wanted: &str| spec.type_.as_deref() == Some(wanted);
    let cluster_ip = spec.cluster_ip.as_deref().is_some_and(|ip| ip.parse::<IpAddr>().is_ok());
    let (external_name, load_balancer) = (is_type("ExternalName"), is_type("LoadBalancer"));
    let port = |port: core::ServicePort| {
        Some(ServicePort {
            name: port.name.unwrap_or_default(),
            port: u16::try_from(port.port).ok()?,
        })
    };
    Manifest::Service(Service {
        meta: meta(service.metadata, |key| key.starts_with("goatlas.io/")),
        external_ips: spec.external_ips.unwrap_or_default(),
        external_name: spec.external_name.filter(|_| external_name),
        cluster_ip,
        load_balancer,
        ports: spec.ports.into_iter().flatten().filter_map(port).collect(),
    })
}

pub fn endpoint_slice(slice: discovery::EndpointSlice) -> Manifest {
    let endpoint = |endpoint: discovery::Endpoint| Endpoint {
        addresses: endpoint.addresses,
        hostname: endpoint.hostname,
        target: endpoint.target_ref.and_then(|target| target.name),
    };
    let port = |port: discovery::EndpointPort| {
        Some(ServicePort {
            name: port.name.unwrap_or_default(),
            port: u16::try_from(port.port?).ok()?,
        })
    };
    Manifest::EndpointSlice(EndpointSlice {
        meta: meta(slice.metadata, |_| false),
        endpoints: slice.endpoints.into_iter().map(endpoint).collect(),
        ports: slice.ports.into_iter().flatten().filter_map(port).collect(),
    })
}

/// `keeps_annotation`: by the key. Others may be large: `kubectl apply` writes whole manifests into
/// one.
fn meta(meta: ObjectMeta, keeps_annotation: impl Fn(&str) -> bool) -> Meta {
    let annotations: BTreeMap<String, String> = meta
        .annotations
        .unwrap_or_default()
        .into_iter()
        .filter(|(key, _)| keeps_annotation(key))
        .collect();
    Meta {
        name: meta.name.unwrap_or_default(),
        namespace: meta.namespace,
        labels: meta.labels.unwrap_or_default(),
        annotations,
        uid: meta.uid,
        origin: Origin::default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(spec: core::ServiceSpec) -> Service {
        let Manifest::Service(service) =
            service(core::Service { spec: Some(spec), ..Default::default() })
        else {
            unreachable!()
        };
        service
    }

    #[test]
    fn a_services_kind_of_address_is_read() {
        let of_type = |type_: &str, cluster_ip: &str| {
            let spec = core::ServiceSpec {
                type_: Some(type_.into()),
                cluster_ip: Some(cluster_ip.into()),
                ..Default::default()
            };
            let service =
                read(core::ServiceSpec { external_name: Some("a.example".into()), ..spec });
            (service.cluster_ip, service.load_balancer, service.external_name.is_some())
        };
        assert_eq!(of_type("ClusterIP", "10.43.0.7"), (true, false, false));
        assert_eq!(of_type("ClusterIP", "fd00::7"), (true, false, false));
        assert_eq!(of_type("ClusterIP", "None"), (false, false, false));
        assert_eq!(of_type("LoadBalancer", "10.43.0.7"), (true, true, false));
        assert_eq!(of_type("ExternalName", ""), (false, false, true));
    }
}

//! Kubernetes' types to facts: the few things that Atlas wants to know, and nothing else, so that memory stays small.

use std::collections::BTreeMap;

use atlas_core::fact::{Endpoint, EndpointSlice, Fact, Meta, Origin, Service, ServicePort};
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::discovery::v1 as discovery;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

/// A Service.
pub fn service(service: core::Service) -> Fact {
    let spec = service.spec.unwrap_or_default();
    let port = |port: core::ServicePort| Some(ServicePort { name: port.name.unwrap_or_default(), port: u16::try_from(port.port).ok()? });
    Fact::Service(Service {
        meta: meta(service.metadata, |key| key.starts_with("goatlas.io/")),
        external_ips: spec.external_ips.unwrap_or_default(),
        external_name: spec.external_name.filter(|_| spec.type_.as_deref() == Some("ExternalName")),
        ports: spec.ports.into_iter().flatten().filter_map(port).collect(),
    })
}

/// An EndpointSlice.
pub fn endpoint_slice(slice: discovery::EndpointSlice) -> Fact {
    let endpoint = |endpoint: discovery::Endpoint| Endpoint {
        addresses: endpoint.addresses,
        hostname: endpoint.hostname,
        target: endpoint.target_ref.and_then(|target| target.name),
    };
    let port =
        |port: discovery::EndpointPort| Some(ServicePort { name: port.name.unwrap_or_default(), port: u16::try_from(port.port?).ok()? });
    Fact::EndpointSlice(EndpointSlice {
        meta: meta(slice.metadata, |_| false),
        endpoints: slice.endpoints.into_iter().map(endpoint).collect(),
        ports: slice.ports.into_iter().flatten().filter_map(port).collect(),
    })
}

/// `annotations`: those that are kept. Some hold whole manifests (`kubectl apply`).
fn meta(meta: ObjectMeta, annotations: impl Fn(&str) -> bool) -> Meta {
    let annotations: BTreeMap<String, String> =
        meta.annotations.unwrap_or_default().into_iter().filter(|(key, _)| annotations(key)).collect();
    Meta {
        name: meta.name.unwrap_or_default(),
        namespace: meta.namespace,
        labels: meta.labels.unwrap_or_default(),
        annotations,
        uid: meta.uid,
        origin: Origin::default(),
    }
}

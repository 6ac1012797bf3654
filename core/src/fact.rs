//! Facts: the few things Atlas wants to know of a Kubernetes object, wherever the object was read.
//!
//! A source (a directory, or an API server) turns objects into facts; [`crate::intake`] turns facts into a
//! [`crate::model::Fleet`]. Facts carry text as people wrote it: nothing here has been checked.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// One object, as far as Atlas cares.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Fact {
    /// A `v1` Service: a downstream cluster, an Alertmanager of the hub, or none of Atlas's business.
    Service(Service),
    /// A `discovery.k8s.io/v1` EndpointSlice: replicas of the hub's Alertmanager.
    EndpointSlice(EndpointSlice),
}

impl Fact {
    /// The metadata, whatever the kind.
    pub fn meta(&self) -> &Meta {
        match self {
            Fact::Service(service) => &service.meta,
            Fact::EndpointSlice(slice) => &slice.meta,
        }
    }

    /// The object's kind, as Kubernetes spells it.
    pub fn kind(&self) -> &'static str {
        match self {
            Fact::Service(_) => "Service",
            Fact::EndpointSlice(_) => "EndpointSlice",
        }
    }
}

/// What of an object's `metadata` matters here.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Meta {
    /// `metadata.name`.
    pub name: String,
    /// `metadata.namespace`; `None` where a manifest leaves it out.
    pub namespace: Option<String>,
    /// `metadata.labels`.
    pub labels: BTreeMap<String, String>,
    /// `metadata.annotations`.
    pub annotations: BTreeMap<String, String>,
    /// `metadata.uid`; `None` for what was not read from an API server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<String>,
    /// Where the object was read, for messages.
    pub origin: Origin,
}

/// Where an object was read. Equal content from another place is equal configuration: the origin is for messages only.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// File name relative to the directory; `None` for an object of an API server.
    pub file: Option<String>,
    /// First line of the object, counted from 1; 0 where there is no file.
    pub line: u32,
    /// Line of each key that Atlas may complain about: label and annotation keys as they are
    /// (`goatlas.io/replicas`), other fields by path (`spec.externalIPs`).
    pub lines: BTreeMap<String, u32>,
}

impl Origin {
    /// Line of `key`, or of the object where the key's own is not known.
    pub fn line_of(&self, key: &str) -> u32 {
        self.lines.get(key).copied().unwrap_or(self.line)
    }
}

/// A Service.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Service {
    /// Name, labels, annotations, origin.
    pub meta: Meta,
    /// `spec.externalIPs`, as written.
    pub external_ips: Vec<String>,
    /// `spec.type: ExternalName` has its host here.
    pub external_name: Option<String>,
    /// Whether `spec.clusterIP` is an address. An API server gives every Service one that doesn't say `None` or `ExternalName`;
    /// a manifest that no API server has seen has none, and then no kube-proxy serves it.
    #[serde(default, skip_serializing_if = "is_false")]
    pub cluster_ip: bool,
    /// Whether `spec.type` is `LoadBalancer`.
    #[serde(default, skip_serializing_if = "is_false")]
    pub load_balancer: bool,
    /// `spec.ports`.
    pub ports: Vec<ServicePort>,
}

fn is_false(value: &bool) -> bool {
    !value
}

/// One of a Service's ports.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServicePort {
    /// `name`; empty where the only port has none.
    pub name: String,
    /// `port`.
    pub port: u16,
}

/// An EndpointSlice.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndpointSlice {
    /// Name, labels (`kubernetes.io/service-name` says whose), origin.
    pub meta: Meta,
    /// `endpoints`.
    pub endpoints: Vec<Endpoint>,
    /// `ports`.
    pub ports: Vec<ServicePort>,
}

/// One endpoint of a slice: one replica.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    /// `addresses`: the same replica by several addresses.
    pub addresses: Vec<String>,
    /// `hostname`, e.g. `alertmanager-main-0`.
    pub hostname: Option<String>,
    /// `targetRef.name`: the pod's name.
    pub target: Option<String>,
}

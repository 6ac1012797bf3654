//! Manifests: the fields of Kubernetes objects that Atlas reads, as people wrote them.
//!
//! A watched directory or an API server gives manifests; [`crate::validate`] checks them and makes
//! the fleet. Nothing in a manifest has been checked.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::text;

/// The fields of one object that Atlas reads.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Manifest {
    /// A `v1` Service: a downstream cluster, an Alertmanager of the hub, or neither.
    Service(Service),
    /// A `discovery.k8s.io/v1` EndpointSlice: replicas of the hub's Alertmanager.
    EndpointSlice(EndpointSlice),
}

impl Manifest {
    /// The metadata, whatever the kind.
    pub fn meta(&self) -> &Meta {
        match self {
            Manifest::Service(service) => &service.meta,
            Manifest::EndpointSlice(slice) => &slice.meta,
        }
    }

    /// The object's kind, as Kubernetes spells it.
    pub fn kind(&self) -> &'static str {
        match self {
            Manifest::Service(_) => "Service",
            Manifest::EndpointSlice(_) => "EndpointSlice",
        }
    }

    /// The object that it describes.
    pub fn key(&self) -> ManifestKey {
        let meta = self.meta();
        ManifestKey {
            kind: self.kind(),
            namespace: meta.namespace.clone(),
            name: meta.name.clone(),
        }
    }

    /// Whether [`Manifest::key`] is `key`, without making one.
    pub fn has_key(&self, key: &ManifestKey) -> bool {
        let meta = self.meta();
        (self.kind(), meta.namespace.as_ref(), &meta.name)
            == (key.kind, key.namespace.as_ref(), &key.name)
    }
}

/// The fields of an object's `metadata` that Atlas reads.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Meta {
    /// `metadata.name`.
    pub name: String,
    /// `metadata.namespace`; `None` where the manifest leaves it out.
    pub namespace: Option<String>,
    /// `metadata.labels`.
    pub labels: BTreeMap<String, String>,
    /// `metadata.annotations`.
    pub annotations: BTreeMap<String, String>,
    /// `metadata.uid`; `None` for an object that no API server has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<String>,
    /// Where the object was read, for messages.
    pub origin: Origin,
}

/// Where an object was read. It serves messages only and changes nothing of the configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// The file, relative to the watched directory; `None` for an object of an API server.
    pub file: Option<String>,
    /// The object's first line, counted from 1; 0 where there is no file.
    pub line: u32,
    /// The line of each key that a message may name. Labels and annotations stand under their key
    /// (`goatlas.io/replicas`), other fields under their path (`spec.externalIPs`).
    pub lines: BTreeMap<String, u32>,
}

impl Origin {
    /// The line of `key`; the object's first line where the key's isn't known.
    pub fn line_of(&self, key: &str) -> u32 {
        self.lines.get(key).copied().unwrap_or(self.line)
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Service {
    /// Name, labels, annotations, origin.
    pub meta: Meta,
    /// `spec.externalIPs`, as written.
    pub external_ips: Vec<String>,
    /// `spec.externalName` of a Service of the type `ExternalName`.
    pub external_name: Option<String>,
    /// Whether `spec.clusterIP` is an address. An API server gives one to every Service that is
    /// neither headless (`None`) nor of the type `ExternalName`. A manifest in a directory usually
    /// has none.
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
    /// `name`; empty where it is left out.
    pub name: String,
    pub port: u16,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndpointSlice {
    /// Name, labels (`kubernetes.io/service-name` is the Service's name), origin.
    pub meta: Meta,
    pub endpoints: Vec<Endpoint>,
    pub ports: Vec<ServicePort>,
}

/// One endpoint of a slice, that is one pod.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    /// `addresses`, all of the same pod.
    pub addresses: Vec<String>,
    /// `hostname`, e.g. `alertmanager-main-0`.
    pub hostname: Option<String>,
    /// `targetRef.name`, the pod's name.
    pub target: Option<String>,
}

/// Which object a manifest describes. Of each object there is at most one manifest.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ManifestKey {
    /// `Service` or `EndpointSlice`.
    pub kind: &'static str,
    /// `metadata.namespace`. `None` where the manifest leaves it out, which differs from every
    /// namespace that is written: validation knows which one it is.
    pub namespace: Option<String>,
    /// `metadata.name`.
    pub name: String,
}

/// As messages show it: `Service monitoring/tokyo`.
impl fmt::Display for ManifestKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.namespace {
            Some(namespace) => write!(f, "{} {namespace}/{}", self.kind, self.name),
            None => write!(f, "{} {}", self.kind, self.name),
        }
    }
}

/// A mistake in a manifest file.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ManifestError {
    /// The file's name, as given to the reader.
    pub file: String,
    /// Line, counted from 1; 0 for a mistake of the whole file.
    pub line: u32,
    /// Path of the key, such as `metadata.labels["goatlas.io/replicas"]`; empty where there is
    /// none.
    pub key: String,
    /// What is wrong and what to write instead.
    pub message: String,
}

impl fmt::Display for ManifestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let line = if self.line > 0 { format!(":{}", self.line) } else { String::new() };
        let key = if self.key.is_empty() { String::new() } else { format!(": {}", self.key) };
        f.write_str(&text::line(
            &format!("{}{line}{key}: {}", self.file, self.message),
            text::LONGEST,
        ))
    }
}

impl std::error::Error for ManifestError {}

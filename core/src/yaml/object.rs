//! Makes manifests from documents: the kinds that Atlas reads, and their fields.

use std::net::IpAddr;

use crate::annotations;
use crate::manifest::{Endpoint, EndpointSlice, Manifest, Meta, Origin, Service, ServicePort};

use super::node::{Document, YamlNode, YamlValue};
use super::reader::{DocumentReader, LocatedNode, describe};

/// A kind of object, as far as Atlas reads it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum ManifestKind {
    Service,
    EndpointSlice,
    /// The older form of EndpointSlices. An API server mirrors hand-written Endpoints into slices.
    Endpoints,
    /// Objects of any kind, as `kubectl get -o yaml` prints them.
    List,
    /// Objects of one kind, as the API lists them: the items have no apiVersion and kind.
    ListOf(&'static str),
    /// Not read.
    Other,
}

/// The API group of EndpointSlices.
const DISCOVERY: &str = "discovery.k8s.io";

/// Every kind that Atlas reads: its API group, its versions (messages suggest the first), its name.
const KINDS: [(&str, &[&str], &str, ManifestKind); 7] = [
    ("", &["v1"], "Service", ManifestKind::Service),
    ("", &["v1"], "ServiceList", ManifestKind::ListOf("Service")),
    // The fields that Atlas reads are the same in both versions.
    (DISCOVERY, &["v1", "v1beta1"], "EndpointSlice", ManifestKind::EndpointSlice),
    (DISCOVERY, &["v1", "v1beta1"], "EndpointSliceList", ManifestKind::ListOf("EndpointSlice")),
    ("", &["v1"], "Endpoints", ManifestKind::Endpoints),
    ("", &["v1"], "EndpointsList", ManifestKind::ListOf("Endpoints")),
    ("", &["v1"], "List", ManifestKind::List),
];

/// Whether a document is a list of objects.
pub(super) fn is_list(root: &YamlNode) -> bool {
    let text = |key: &str| match root.get(key).map(|entry| &entry.value.value) {
        Some(YamlValue::Scalar(scalar)) => Some(scalar.text.as_str()),
        _ => None,
    };
    let (Some(version), Some(kind)) = (text("apiVersion"), text("kind")) else { return false };
    matches!(lookup(version, kind), Ok(ManifestKind::List | ManifestKind::ListOf(_)))
}

/// Looks a kind up.
///
/// # Errors
/// The kind is misspelt or has another version: the key that is wrong, and its right value.
fn lookup(api_version: &str, kind: &str) -> Result<ManifestKind, (&'static str, String)> {
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    let Some((right, versions, name, wanted)) =
        KINDS.iter().find(|(_, _, name, _)| name.eq_ignore_ascii_case(kind))
    else {
        return Ok(ManifestKind::Other);
    };
    // Other API groups have kinds of the same names, such as Knative's Service.
    if group != *right && !["", "core", DISCOVERY].contains(&group) {
        return Ok(ManifestKind::Other);
    }
    if kind != *name {
        return Err(("kind", (*name).to_owned()));
    }
    if group != *right || !versions.contains(&version) {
        let separator = if right.is_empty() { "" } else { "/" };
        return Err(("apiVersion", format!("{right}{separator}{}", versions[0])));
    }
    Ok(*wanted)
}

/// The manifests of a document.
pub(super) fn manifests(reader: &mut DocumentReader<'_>, document: &Document) -> Vec<Manifest> {
    let mut manifests = Vec::new();
    if !document.root.is_null() {
        object(reader, &LocatedNode::root(&document.root), None, &mut manifests);
    }
    manifests
}

/// Adds the manifests of an object. `of` has the apiVersion and kind of the items if the object is
/// in a list of one kind.
fn object(
    reader: &mut DocumentReader<'_>,
    at: &LocatedNode<'_>,
    of: Option<(&str, &str)>,
    manifests: &mut Vec<Manifest>,
) {
    let Some((api_version, manifest_kind)) = manifest_kind(reader, at, of) else { return };
    match manifest_kind {
        ManifestKind::Service => manifests.extend(service(reader, at).map(Manifest::Service)),
        ManifestKind::EndpointSlice => {
            manifests.extend(endpoint_slice(reader, at).map(Manifest::EndpointSlice))
        }
        ManifestKind::Endpoints => {
            manifests.extend(endpoints(reader, at).into_iter().map(Manifest::EndpointSlice))
        }
        ManifestKind::List | ManifestKind::ListOf(_) => {
            let of = if let ManifestKind::ListOf(kind) = manifest_kind {
                Some((api_version.as_str(), kind))
            } else {
                None
            };
            for item in reader.list(at, "items") {
                object(reader, &item, of, manifests);
            }
        }
        ManifestKind::Other => {}
    }
}

fn manifest_kind(
    reader: &mut DocumentReader<'_>,
    at: &LocatedNode<'_>,
    of: Option<(&str, &str)>,
) -> Option<(String, ManifestKind)> {
    const ELSEWHERE: &str = "if this is no Kubernetes object, move it out of this directory";
    if !matches!(at.node.value, YamlValue::Map(_)) {
        reader.fail(
            at,
            format!(
                "must be a Kubernetes object with apiVersion and kind, is {}: {ELSEWHERE}",
                describe(at.node)
            ),
        );
        return None;
    }
    let left_out = at.get("apiVersion").is_none() && at.get("kind").is_none();
    let (version, kind) = match of.filter(|_| left_out) {
        Some((version, kind)) => (version.to_owned(), kind.to_owned()),
        None => {
            for key in ["apiVersion", "kind"] {
                if at.get(key).is_none() {
                    reader.missing(at, key, format!("is missing: {ELSEWHERE}"));
                }
            }
            let (version, kind) = (reader.text(at, "apiVersion"), reader.text(at, "kind"));
            (version?, kind?)
        }
    };
    match lookup(&version, &kind) {
        Ok(wanted) => Some((version, wanted)),
        Err((key, right)) => {
            let written = if key == "kind" { kind } else { version };
            reader.missing(at, key, format!("must be written {right}, is {written:?}"));
            None
        }
    }
}

/// Reads a Service. Fields that only clusters use are read, and must be valid, for clusters only: a
/// file may have other Services too.
fn service(reader: &mut DocumentReader<'_>, at: &LocatedNode<'_>) -> Option<Service> {
    let cluster = is_labelled_as_cluster(at);
    let mut meta =
        metadata(reader, at, if cluster { MetadataOf::Cluster } else { MetadataOf::Other });
    let Some(spec) = reader.mapping(at, "spec") else {
        return meta.map(|meta| Service { meta, ..Service::default() });
    };
    let is_type =
        |wanted: &str| spec.get("type").is_some_and(|at| text_of(at.node) == Some(wanted));
    let external_name = reader.text(&spec, "externalName");
    let service = Service {
        meta: Meta::default(),
        external_ips: if cluster { reader.strings(&spec, "externalIPs") } else { Vec::new() },
        external_name: external_name
            .filter(|_| spec.get("type").is_none() || is_type("ExternalName")),
        cluster_ip: spec
            .get("clusterIP")
            .is_some_and(|at| text_of(at.node).is_some_and(|ip| ip.parse::<IpAddr>().is_ok())),
        load_balancer: is_type("LoadBalancer"),
        ports: ports(reader, &spec, Ports::Service),
    };
    for key in ["externalIPs", "externalName", "ports", "type"] {
        if let (Some(meta), Some(found)) = (&mut meta, spec.get(key)) {
            meta.origin.lines.insert(found.path, found.line);
        }
    }
    meta.map(|meta| Service { meta, ..service })
}

/// Whether the Service is labelled as a cluster, whatever the type of the label's value.
fn is_labelled_as_cluster(at: &LocatedNode<'_>) -> bool {
    let label =
        at.get("metadata").and_then(|metadata| metadata.get("labels")?.get(annotations::CLUSTER));
    label.is_some_and(|label| text_of(label.node) != Some("false"))
}

fn text_of(node: &YamlNode) -> Option<&str> {
    match &node.value {
        YamlValue::Scalar(scalar) => Some(&scalar.text),
        _ => None,
    }
}

fn endpoint_slice(reader: &mut DocumentReader<'_>, at: &LocatedNode<'_>) -> Option<EndpointSlice> {
    let meta = metadata(reader, at, MetadataOf::Other);
    let endpoints =
        reader.mappings(at, "endpoints").iter().map(|item| endpoint(reader, item)).collect();
    let ports = ports(reader, at, Ports::EndpointSlice);
    meta.map(|meta| EndpointSlice { meta, endpoints, ports })
}

/// Reads Endpoints as one slice per subset, since each subset has its own ports. Endpoints have
/// their Service's name.
fn endpoints(reader: &mut DocumentReader<'_>, at: &LocatedNode<'_>) -> Vec<EndpointSlice> {
    let meta = metadata(reader, at, MetadataOf::Other);
    let mut slices = Vec::new();
    for (place, subset) in reader.mappings(at, "subsets").iter().enumerate() {
        let mut endpoints = Vec::new();
        for key in ["addresses", "notReadyAddresses"] {
            for item in reader.mappings(subset, key) {
                let endpoint = Endpoint {
                    addresses: reader.text(&item, "ip").into_iter().collect(),
                    ..endpoint(reader, &item)
                };
                endpoints.push(endpoint);
            }
        }
        let ports = ports(reader, subset, Ports::EndpointSlice);
        let Some(meta) = &meta else { continue };
        let mut meta = meta.clone();
        meta.labels.insert(annotations::SERVICE_NAME.to_owned(), meta.name.clone());
        // Unlike the Service's name, this can't be the name of another slice.
        meta.name = format!("{} (Endpoints, subset {place})", meta.name);
        slices.push(EndpointSlice { meta, endpoints, ports });
    }
    slices
}

/// Reads an endpoint, ready or not: alerts must also go to an Alertmanager that is starting. The
/// operator's headless Service has `publishNotReadyAddresses` for the same reason.
fn endpoint(reader: &mut DocumentReader<'_>, at: &LocatedNode<'_>) -> Endpoint {
    Endpoint {
        addresses: reader.strings(at, "addresses"),
        hostname: reader.text(at, "hostname"),
        target: reader.mapping(at, "targetRef").and_then(|target| reader.text(&target, "name")),
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Ports {
    /// Every entry has its `port`.
    Service,
    /// An entry without `port` means every port, and is ignored.
    EndpointSlice,
}

fn ports(reader: &mut DocumentReader<'_>, parent: &LocatedNode<'_>, of: Ports) -> Vec<ServicePort> {
    let mut ports = Vec::new();
    for at in reader.mappings(parent, "ports") {
        let name = reader.text(&at, "name").unwrap_or_default();
        match at.get("port") {
            Some(port) => ports.extend(reader.port(&port).map(|port| ServicePort { name, port })),
            None if of == Ports::Service => {
                reader.missing(&at, "port", "is missing: write a number from 1 to 65535")
            }
            None => {}
        }
    }
    ports
}

/// The object to which metadata belongs.
#[derive(Clone, Copy, PartialEq, Eq)]
enum MetadataOf {
    /// A Service that is labelled so.
    Cluster,
    /// Anything else that is read.
    Other,
}

fn metadata(reader: &mut DocumentReader<'_>, at: &LocatedNode<'_>, of: MetadataOf) -> Option<Meta> {
    let mut origin =
        Origin { file: Some(reader.file().to_owned()), line: at.line, lines: Default::default() };
    if at.get("metadata").is_none() {
        reader.missing(at, "metadata", "is missing, and with it metadata.name");
    }
    let metadata = reader.mapping(at, "metadata")?;
    let name = name(reader, &metadata, of);
    let namespace = reader.text(&metadata, "namespace");
    for key in ["name", "namespace"] {
        if let Some(found) = metadata.get(key) {
            origin.lines.insert(format!("metadata.{key}"), found.line);
        }
    }
    let labels = reader.string_map(&metadata, "labels");
    let annotations = if of == MetadataOf::Cluster {
        reader.string_map(&metadata, "annotations")
    } else {
        Vec::new()
    };
    for (key, _, line) in labels.iter().chain(&annotations) {
        origin.lines.entry(key.clone()).or_insert(*line);
    }
    let without_lines = |entries: Vec<(String, String, u32)>| {
        entries.into_iter().map(|(key, value, _)| (key, value)).collect()
    };
    let (labels, annotations) = (without_lines(labels), without_lines(annotations));
    name.map(|name| Meta { name, namespace, labels, annotations, uid: None, origin })
}

fn name(
    reader: &mut DocumentReader<'_>,
    metadata: &LocatedNode<'_>,
    of: MetadataOf,
) -> Option<String> {
    if let Some(at) = metadata.get("name") {
        let name = reader.text(metadata, "name")?;
        if name.is_empty() {
            reader.fail(&at, "is empty: write a name");
            return None;
        }
        return Some(name);
    }
    match metadata.get("generateName") {
        Some(generated) => {
            let prefix = reader.text(metadata, "generateName")?;
            if of == MetadataOf::Other {
                // A name that no object in the API can have. An API server would append letters.
                return Some(format!(
                    "{prefix}(nameless object {} of {})",
                    reader.count_nameless(),
                    reader.file()
                ));
            }
            let name = prefix.trim_end_matches('-');
            let message = format!(
                "is missing: a cluster is called after its Service, so the name cannot be generated: write `name: {name}` instead of `generateName: {prefix}`"
            );
            reader.fail(
                &LocatedNode { path: format!("{}.name", metadata.path), ..generated },
                message,
            );
        }
        None => reader.missing(metadata, "name", "is missing"),
    }
    None
}

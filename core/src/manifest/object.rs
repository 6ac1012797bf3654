//! Documents into facts: which kinds Atlas wants, and which of their fields.

use crate::fact::{Endpoint, EndpointSlice, Fact, Meta, Origin, Service, ServicePort};

use super::node::{Document, Node, Value};
use super::reader::{At, Reader, describe};

/// What a document is to Atlas.
#[derive(PartialEq, Eq)]
enum Wanted {
    Service,
    EndpointSlice,
    /// A list of objects, as `kubectl get -o yaml` prints them.
    List,
    /// None of Atlas's business.
    Other,
}

/// Whether a document is a `List`.
pub(super) fn is_list(root: &Node) -> bool {
    let says = |key: &str, text: &str| match root.get(key).map(|entry| &entry.value.value) {
        Some(Value::Scalar(scalar)) => scalar.text == text,
        _ => false,
    };
    says("apiVersion", "v1") && says("kind", "List")
}

/// The facts of a document; an empty one has none.
pub(super) fn facts(reader: &mut Reader<'_>, document: &Document) -> Vec<Fact> {
    let mut facts = Vec::new();
    if !document.root.is_null() {
        object(reader, &At::root(&document.root), &mut facts);
    }
    facts
}

fn object(reader: &mut Reader<'_>, at: &At<'_>, facts: &mut Vec<Fact>) {
    match wanted(reader, at) {
        Some(Wanted::Service) => facts.extend(service(reader, at).map(Fact::Service)),
        Some(Wanted::EndpointSlice) => facts.extend(endpoint_slice(reader, at).map(Fact::EndpointSlice)),
        Some(Wanted::List) => {
            for item in reader.list(at, "items") {
                object(reader, &item, facts);
            }
        }
        Some(Wanted::Other) | None => {}
    }
}

fn wanted(reader: &mut Reader<'_>, at: &At<'_>) -> Option<Wanted> {
    const ELSEWHERE: &str = "if this is no Kubernetes object, move it out of this directory";
    if !matches!(at.node.value, Value::Map(_)) {
        reader.fail(at, format!("must be a Kubernetes object with apiVersion and kind, is {}: {ELSEWHERE}", describe(at.node)));
        return None;
    }
    for key in ["apiVersion", "kind"] {
        if at.get(key).is_none() {
            reader.missing(at, key, format!("is missing: {ELSEWHERE}"));
        }
    }
    let (version, kind) = (reader.text(at, "apiVersion"), reader.text(at, "kind"));
    let (version, kind) = (version?, kind?);
    match (version.as_str(), kind.as_str()) {
        ("v1", "Service") => Some(Wanted::Service),
        ("discovery.k8s.io/v1", "EndpointSlice") => Some(Wanted::EndpointSlice),
        ("v1", "List") => Some(Wanted::List),
        ("v1", kind) if kind.eq_ignore_ascii_case("Service") => {
            reader.missing(at, "kind", format!("must be written Service, is {kind:?}"));
            None
        }
        _ => Some(Wanted::Other),
    }
}

fn service(reader: &mut Reader<'_>, at: &At<'_>) -> Option<Service> {
    let mut meta = metadata(reader, at);
    let Some(spec) = reader.mapping(at, "spec") else {
        return meta.map(|meta| Service { meta, ..Service::default() });
    };
    let service = Service {
        meta: Meta::default(),
        external_ips: reader.strings(&spec, "externalIPs"),
        external_name: reader.text(&spec, "externalName"),
        ports: ports(reader, &spec, Ports::Service),
    };
    for key in ["externalIPs", "externalName", "ports"] {
        if let (Some(meta), Some(found)) = (&mut meta, spec.get(key)) {
            meta.origin.lines.insert(found.path, found.line);
        }
    }
    meta.map(|meta| Service { meta, ..service })
}

fn endpoint_slice(reader: &mut Reader<'_>, at: &At<'_>) -> Option<EndpointSlice> {
    let meta = metadata(reader, at);
    let endpoints = reader.mappings(at, "endpoints").iter().map(|item| endpoint(reader, item)).collect();
    let ports = ports(reader, at, Ports::EndpointSlice);
    meta.map(|meta| EndpointSlice { meta, endpoints, ports })
}

/// One replica, ready or not: alerts must go to an Alertmanager that is only starting too, and the operator's headless
/// Service publishes addresses that are not ready for the same reason (`publishNotReadyAddresses`).
fn endpoint(reader: &mut Reader<'_>, at: &At<'_>) -> Endpoint {
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
    /// An entry without `port` means every port, and so names none.
    EndpointSlice,
}

fn ports(reader: &mut Reader<'_>, parent: &At<'_>, of: Ports) -> Vec<ServicePort> {
    let mut ports = Vec::new();
    for at in reader.mappings(parent, "ports") {
        let name = reader.text(&at, "name").unwrap_or_default();
        match at.get("port") {
            Some(port) => ports.extend(reader.port(&port).map(|port| ServicePort { name, port })),
            None if of == Ports::Service => reader.missing(&at, "port", "is missing: write a number from 1 to 65535"),
            None => {}
        }
    }
    ports
}

fn metadata(reader: &mut Reader<'_>, at: &At<'_>) -> Option<Meta> {
    let mut origin = Origin { file: Some(reader.file().to_owned()), line: at.line, lines: Default::default() };
    if at.get("metadata").is_none() {
        reader.missing(at, "metadata", "is missing, and with it metadata.name");
    }
    let metadata = reader.mapping(at, "metadata")?;
    let name = name(reader, &metadata);
    let namespace = reader.text(&metadata, "namespace");
    for key in ["name", "namespace"] {
        if let Some(found) = metadata.get(key) {
            origin.lines.insert(format!("metadata.{key}"), found.line);
        }
    }
    let labels = reader.string_map(&metadata, "labels");
    let annotations = reader.string_map(&metadata, "annotations");
    for (key, _, line) in labels.iter().chain(&annotations) {
        origin.lines.entry(key.clone()).or_insert(*line);
    }
    let without_lines = |entries: Vec<(String, String, u32)>| entries.into_iter().map(|(key, value, _)| (key, value)).collect();
    let (labels, annotations) = (without_lines(labels), without_lines(annotations));
    name.map(|name| Meta { name, namespace, labels, annotations, uid: None, origin })
}

fn name(reader: &mut Reader<'_>, metadata: &At<'_>) -> Option<String> {
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
            let name = prefix.trim_end_matches('-');
            let message = format!(
                "is missing: a cluster is called after its Service, so the name cannot be generated: write `name: {name}` instead of `generateName: {prefix}`"
            );
            reader.fail(&At { path: format!("{}.name", metadata.path), ..generated }, message);
        }
        None => reader.missing(metadata, "name", "is missing"),
    }
    None
}

//! Kubernetes objects that Atlas writes, as plain data.
//!
//! They hold what Atlas says of an object and nothing else. Others may add to it (labels of a
//! GitOps tool, for example): an object is right if it says at least this
//! ([`DerivedObject::is_satisfied_by`]).

use std::collections::BTreeMap;
use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};

use crate::name::ClusterName;
use crate::object_names;

/// The kinds that Atlas writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ObjectKind {
    /// `v1` Service.
    Service,
    /// `v1` Secret.
    Secret,
    /// `v1` ConfigMap.
    ConfigMap,
}

impl ObjectKind {
    /// `kind`, as Kubernetes spells it.
    pub fn name(self) -> &'static str {
        match self {
            ObjectKind::Service => "Service",
            ObjectKind::Secret => "Secret",
            ObjectKind::ConfigMap => "ConfigMap",
        }
    }
}

/// One object within Atlas's namespace.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectKey {
    pub kind: ObjectKind,
    /// `metadata.name`.
    pub name: String,
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind.name(), self.name)
    }
}

/// The purpose of an object: the value of the label [`object_names::PART`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ObjectPart {
    /// The Service with a store's name.
    Store,
    /// A Service of the hub's Envoys; stores' Services are other names of it.
    HubStores,
    /// Helm values of an Envoy.
    Values,
    /// The files that the hub's Envoys start from.
    Hub,
    /// The DNS zone.
    Dns,
    /// Thanos Query's endpoint SD file.
    Endpoints,
}

impl ObjectPart {
    /// The label's value.
    pub fn label(self) -> &'static str {
        match self {
            ObjectPart::Store => "store",
            ObjectPart::HubStores => "hub-stores",
            ObjectPart::Values => "values",
            ObjectPart::Hub => "hub",
            ObjectPart::Dns => "dns",
            ObjectPart::Endpoints => "endpoints",
        }
    }

    /// The parts whose objects are deleted when they are no longer desired.
    pub const DERIVED: [ObjectPart; 6] = [
        ObjectPart::Store,
        ObjectPart::HubStores,
        ObjectPart::Values,
        ObjectPart::Hub,
        ObjectPart::Dns,
        ObjectPart::Endpoints,
    ];
}

/// Whose deletion deletes an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Owner {
    /// A cluster's Service.
    Cluster(ClusterName),
    /// Atlas's own installation.
    Atlas,
    /// Nobody's.
    Nobody,
}

/// An entry of `metadata.ownerReferences`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnerReference {
    /// `Service` or `ServiceAccount`, both of `v1`.
    pub kind: &'static str,
    /// The owner's name.
    pub name: String,
    /// The owner's uid.
    pub uid: String,
}

/// An object without its metadata.
#[derive(Clone, PartialEq, Eq)]
pub enum ObjectContent {
    /// A headless Service with one TCP port.
    Headless {
        /// Labels of the pods.
        selector: BTreeMap<String, String>,
        /// The port's name.
        port_name: String,
        port: u16,
    },
    /// A Service of type `ExternalName`: its name is another name of this host.
    ExternalName(String),
    /// A Secret's texts by key. Some are private keys.
    Secret(BTreeMap<String, String>),
    /// A ConfigMap's texts by key.
    ConfigMap(BTreeMap<String, String>),
}

impl fmt::Debug for ObjectContent {
    /// Shows no data of a Secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ObjectContent::Headless { selector, port_name, port } => {
                write!(f, "Headless({selector:?}, {port_name}, {port})")
            }
            ObjectContent::ExternalName(host) => write!(f, "ExternalName({host})"),
            ObjectContent::Secret(data) => write!(f, "Secret({:?})", data.keys()),
            ObjectContent::ConfigMap(data) => write!(f, "ConfigMap({:?})", data.keys()),
        }
    }
}

/// One object as Atlas writes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DerivedObject {
    /// `metadata.name`.
    pub name: String,
    /// Its purpose.
    pub part: ObjectPart,
    /// Whose deletion deletes it.
    pub owner: Owner,
    /// Labels besides those that all have.
    pub labels: BTreeMap<String, String>,
    /// The rest.
    pub content: ObjectContent,
}

impl DerivedObject {
    /// Its kind and name.
    pub fn key(&self) -> ObjectKey {
        let kind = match self.content {
            ObjectContent::Headless { .. } | ObjectContent::ExternalName(_) => ObjectKind::Service,
            ObjectContent::Secret(_) => ObjectKind::Secret,
            ObjectContent::ConfigMap(_) => ObjectKind::ConfigMap,
        };
        ObjectKey { kind, name: self.name.clone() }
    }

    /// The manifest for server-side apply: all that Atlas says of the object, and nothing else.
    pub fn manifest(&self, namespace: &str, owner: Option<&OwnerReference>) -> Value {
        let mut labels = self.labels.clone();
        labels.insert(object_names::MANAGED_BY.0.into(), object_names::MANAGED_BY.1.into());
        labels.insert(object_names::PART.into(), self.part.label().into());
        let mut metadata = json!({"name": self.name, "namespace": namespace, "labels": labels});
        if let Some(owner) = owner {
            metadata["ownerReferences"] = json!([{"apiVersion": "v1", "kind": owner.kind, "name": owner.name, "uid": owner.uid}]);
        }
        let mut object =
            json!({"apiVersion": "v1", "kind": self.key().kind.name(), "metadata": metadata});
        match &self.content {
            ObjectContent::Headless { selector, port_name, port } => {
                let port =
                    json!({"name": port_name, "port": port, "protocol": "TCP", "targetPort": port});
                object["spec"] =
                    json!({"clusterIP": "None", "selector": selector, "ports": [port]});
            }
            ObjectContent::ExternalName(host) => {
                object["spec"] = json!({"type": "ExternalName", "externalName": host})
            }
            ObjectContent::Secret(data) => {
                object["type"] = "Opaque".into();
                object["data"] = data
                    .iter()
                    .map(|(key, text)| (key.clone(), Value::from(STANDARD.encode(text))))
                    .collect::<Map<_, _>>()
                    .into();
            }
            ObjectContent::ConfigMap(data) => object["data"] = json!(data),
        }
        object
    }

    /// The Service of the same namespace that a Service of type `ExternalName` is another name of.
    pub fn external_name_target(service: &Value) -> Option<&str> {
        let spec = &service["spec"];
        let host = spec["externalName"].as_str().filter(|_| spec["type"] == "ExternalName")?;
        host.split('.').next()
    }

    /// Whether an object of the API server says at least what `manifest` (of
    /// [`DerivedObject::manifest`]) says. Data and a Service's selector and ports must be equal,
    /// since nobody else decides these.
    pub fn is_satisfied_by(manifest: &Value, live: &Value) -> bool {
        let exact = |path: &str| {
            let of =
                |object: &Value| object.pointer(path).filter(|value| !is_empty(value)).cloned();
            of(manifest) == of(live)
        };
        is_subset(&manifest["metadata"]["labels"], &live["metadata"]["labels"])
            && has_owners(manifest, live)
            && is_subset(&manifest["spec"], &live["spec"])
            && exact("/data")
            // The selector of an ExternalName selects nothing, so it may stay where somebody else
            // set it.
            && (manifest["spec"]["selector"].is_null() || exact("/spec/selector"))
            && manifest.pointer("/spec/ports").is_none_or(|ports| ports.as_array().map(Vec::len) == array_len(live, "/spec/ports"))
    }
}

fn array_len(value: &Value, path: &str) -> Option<usize> {
    value.pointer(path).and_then(Value::as_array).map(Vec::len)
}

fn is_empty(value: &Value) -> bool {
    value.is_null() || value.as_object().is_some_and(Map::is_empty)
}

/// Whether each owner in `manifest` is among the live ones.
fn has_owners(manifest: &Value, live: &Value) -> bool {
    let owners = |object: &Value| {
        object["metadata"]["ownerReferences"].as_array().cloned().unwrap_or_default()
    };
    let live = owners(live);
    owners(manifest).iter().all(|owner| live.iter().any(|other| other["uid"] == owner["uid"]))
}

/// Whether `live` says everything that `desired` says, and perhaps more.
fn is_subset(desired: &Value, live: &Value) -> bool {
    match (desired, live) {
        (Value::Null, _) => true,
        (Value::Object(desired), Value::Object(live)) => desired
            .iter()
            .all(|(key, value)| live.get(key).is_some_and(|live| is_subset(value, live))),
        (Value::Array(desired), Value::Array(live)) => {
            desired.len() == live.len()
                && desired.iter().zip(live).all(|(desired, live)| is_subset(desired, live))
        }
        (desired, live) => desired == live,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store() -> DerivedObject {
        DerivedObject {
            name: "tokyo-thanos-sidecar0".into(),
            part: ObjectPart::Store,
            owner: Owner::Cluster("tokyo".parse().unwrap()),
            labels: [(crate::annotations::THANOS_SIDECAR.to_owned(), "0".to_owned())].into(),
            content: ObjectContent::Headless {
                selector: [("app".to_owned(), "envoy".to_owned())].into(),
                port_name: "grpc".into(),
                port: 10901,
            },
        }
    }

    fn owner() -> OwnerReference {
        OwnerReference { kind: "Service", name: "tokyo".into(), uid: "1".into() }
    }

    #[test]
    fn additions_of_others_count_for_nothing_and_losses_count() {
        let manifest = store().manifest("monitoring", Some(&owner()));
        let mut live = manifest.clone();
        live["metadata"]["labels"]["team"] = "sre".into();
        live["metadata"]["ownerReferences"]
            .as_array_mut()
            .unwrap()
            .push(json!({"kind": "Deployment", "uid": "2"}));
        live["spec"]["sessionAffinity"] = "None".into();
        live["spec"]["ports"][0]["nodePort"] = 0.into();
        assert!(DerivedObject::is_satisfied_by(&manifest, &live));
        for (path, value) in [
            ("/metadata/labels/goatlas.io~1part", json!("other")),
            ("/metadata/ownerReferences", json!([])),
            ("/spec/selector/more", json!("x")),
            ("/spec/ports/0/port", json!(1)),
            ("/spec/clusterIP", json!("10.0.0.1")),
        ] {
            let mut wrong = live.clone();
            match wrong.pointer_mut(path) {
                Some(place) => *place = value,
                None => wrong["spec"]["selector"]["more"] = value,
            }
            assert!(!DerivedObject::is_satisfied_by(&manifest, &wrong), "{path}");
        }
    }

    #[test]
    fn only_a_service_of_type_external_name_is_another_name() {
        let name = DerivedObject {
            content: ObjectContent::ExternalName(
                "atlas-hub-stores.monitoring.svc.cluster.local".into(),
            ),
            ..store()
        };
        let (manifest, before) =
            (name.manifest("monitoring", None), store().manifest("monitoring", None));
        assert_eq!(
            (
                DerivedObject::external_name_target(&manifest),
                DerivedObject::external_name_target(&before)
            ),
            (Some("atlas-hub-stores"), None)
        );
        assert!(
            !DerivedObject::is_satisfied_by(&manifest, &before)
                && !DerivedObject::is_satisfied_by(&before, &manifest)
        );
        let mut live = manifest.clone();
        // Of whoever else set it: a restored backup, say.
        live["spec"]["selector"]["app"] = "envoy".into();
        assert!(DerivedObject::is_satisfied_by(&manifest, &live));
        live["spec"]["externalName"] = "elsewhere.example.com".into();
        assert!(!DerivedObject::is_satisfied_by(&manifest, &live));
        live["spec"]["type"] = "ClusterIP".into();
        assert_eq!(
            DerivedObject::external_name_target(&live),
            None,
            "what is left of another type says nothing"
        );
    }

    #[test]
    fn data_must_be_equal_and_is_never_shown() {
        let secret = DerivedObject {
            content: ObjectContent::Secret([("tls.key".to_owned(), "secret!".to_owned())].into()),
            ..store()
        };
        let manifest = secret.manifest("monitoring", None);
        assert_eq!(manifest["data"]["tls.key"], "c2VjcmV0IQ==");
        let mut live = manifest.clone();
        assert!(DerivedObject::is_satisfied_by(&manifest, &live));
        live["data"]["more"] = "eA==".into();
        assert!(!DerivedObject::is_satisfied_by(&manifest, &live));
        assert!(!format!("{secret:?}").contains("secret!"));
        let empty = DerivedObject { content: ObjectContent::ConfigMap(BTreeMap::new()), ..store() }
            .manifest("monitoring", None);
        let mut live = empty.clone();
        live.as_object_mut().unwrap().remove("data");
        assert!(DerivedObject::is_satisfied_by(&empty, &live));
    }
}

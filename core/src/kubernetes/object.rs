//! Kubernetes objects that Atlas wants to be there, as plain data.
//!
//! Only what Atlas says of an object is here. What others add to it (labels of a GitOps tool, say) is theirs: an object is as
//! it should be where it says at least this ([`Object::holds_in`]).

use std::collections::BTreeMap;
use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};

use crate::name::ClusterName;

/// What an object is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// `v1` Service.
    Service,
    /// `v1` Secret.
    Secret,
    /// `v1` ConfigMap.
    ConfigMap,
}

impl Kind {
    /// As Kubernetes spells it.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Service => "Service",
            Kind::Secret => "Secret",
            Kind::ConfigMap => "ConfigMap",
        }
    }
}

/// Which object, within Atlas's namespace.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// Its kind.
    pub kind: Kind,
    /// `metadata.name`.
    pub name: String,
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind.name(), self.name)
    }
}

/// What an object is for: the value of the label [`crate::object_names::PART`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// The Service with a store's name.
    Store,
    /// A Service of the hub's Envoys, to which stores' names lead.
    HubStores,
    /// Helm values of an Envoy.
    Values,
    /// What the hub's Envoys start from.
    Hub,
    /// The DNS zone.
    Dns,
    /// Thanos Query's endpoint SD file.
    Endpoints,
}

impl Part {
    /// The label's value.
    pub fn label(self) -> &'static str {
        match self {
            Part::Store => "store",
            Part::HubStores => "hub-stores",
            Part::Values => "values",
            Part::Hub => "hub",
            Part::Dns => "dns",
            Part::Endpoints => "endpoints",
        }
    }

    /// Every part whose objects go when they are no longer wanted.
    pub const DERIVED: [Part; 6] =
        [Part::Store, Part::HubStores, Part::Values, Part::Hub, Part::Dns, Part::Endpoints];
}

/// With whom an object goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Owner {
    /// A cluster's Service.
    Cluster(ClusterName),
    /// Atlas's own installation.
    Atlas,
    /// Nobody: it stays until somebody deletes it.
    Nobody,
}

/// What an owner reference says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnerRef {
    /// `Service` or `ServiceAccount`, both of `v1`.
    pub kind: &'static str,
    /// Its name.
    pub name: String,
    /// Its uid.
    pub uid: String,
}

/// What an object says besides its metadata.
#[derive(Clone, PartialEq, Eq)]
pub enum Content {
    /// A headless Service with one TCP port.
    Headless {
        /// Whose pods.
        selector: BTreeMap<String, String>,
        /// The port's name.
        port_name: String,
        /// The port.
        port: u16,
    },
    /// A Service without pods of its own: its name is another name of this host.
    ExternalName(String),
    /// A Secret's texts. They may be keys.
    Secret(BTreeMap<String, String>),
    /// A ConfigMap's texts.
    ConfigMap(BTreeMap<String, String>),
}

impl fmt::Debug for Content {
    /// Never shows what a Secret holds.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Content::Headless { selector, port_name, port } => {
                write!(f, "Headless({selector:?}, {port_name}, {port})")
            }
            Content::ExternalName(host) => write!(f, "ExternalName({host})"),
            Content::Secret(data) => write!(f, "Secret({:?})", data.keys()),
            Content::ConfigMap(data) => write!(f, "ConfigMap({:?})", data.keys()),
        }
    }
}

/// One object as it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Object {
    /// Its name.
    pub name: String,
    /// What it is for.
    pub part: Part,
    /// With whom it goes.
    pub owner: Owner,
    /// Labels besides those that all have.
    pub labels: BTreeMap<String, String>,
    /// What it says.
    pub content: Content,
}

impl Object {
    /// Which object it is.
    pub fn key(&self) -> Key {
        let kind = match self.content {
            Content::Headless { .. } | Content::ExternalName(_) => Kind::Service,
            Content::Secret(_) => Kind::Secret,
            Content::ConfigMap(_) => Kind::ConfigMap,
        };
        Key { kind, name: self.name.clone() }
    }

    /// The object for server-side apply: all that Atlas says of it and nothing else.
    pub fn manifest(&self, namespace: &str, owner: Option<&OwnerRef>) -> Value {
        let mut labels = self.labels.clone();
        labels.insert(
            crate::object_names::MANAGED_BY.0.into(),
            crate::object_names::MANAGED_BY.1.into(),
        );
        labels.insert(crate::object_names::PART.into(), self.part.label().into());
        let mut metadata = json!({"name": self.name, "namespace": namespace, "labels": labels});
        if let Some(owner) = owner {
            metadata["ownerReferences"] = json!([{"apiVersion": "v1", "kind": owner.kind, "name": owner.name, "uid": owner.uid}]);
        }
        let mut object =
            json!({"apiVersion": "v1", "kind": self.key().kind.name(), "metadata": metadata});
        match &self.content {
            Content::Headless { selector, port_name, port } => {
                let port =
                    json!({"name": port_name, "port": port, "protocol": "TCP", "targetPort": port});
                object["spec"] =
                    json!({"clusterIP": "None", "selector": selector, "ports": [port]});
            }
            Content::ExternalName(host) => {
                object["spec"] = json!({"type": "ExternalName", "externalName": host})
            }
            Content::Secret(data) => {
                object["type"] = "Opaque".into();
                object["data"] = data
                    .iter()
                    .map(|(key, text)| (key.clone(), Value::from(STANDARD.encode(text))))
                    .collect::<Map<_, _>>()
                    .into();
            }
            Content::ConfigMap(data) => object["data"] = json!(data),
        }
        object
    }

    /// The Service of the same namespace whose name an ExternalName Service stands for.
    pub fn leads_to(service: &Value) -> Option<&str> {
        let spec = &service["spec"];
        let host = spec["externalName"].as_str().filter(|_| spec["type"] == "ExternalName")?;
        host.split('.').next()
    }

    /// Whether an object of the API server says at least what this one's [`Object::manifest`] says. Of what Atlas alone
    /// decides (a Service's selector and ports, data) it must say exactly that.
    pub fn holds_in(manifest: &Value, live: &Value) -> bool {
        let exact = |path: &str| {
            let of =
                |object: &Value| object.pointer(path).filter(|value| !is_empty(value)).cloned();
            of(manifest) == of(live)
        };
        says(&manifest["metadata"]["labels"], &live["metadata"]["labels"])
            && owned(manifest, live)
            && says(&manifest["spec"], &live["spec"])
            && exact("/data")
            // An ExternalName's selector selects nothing; whoever else set it may keep it.
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

/// Whether each wanted owner is among the live ones.
fn owned(manifest: &Value, live: &Value) -> bool {
    let owners = |object: &Value| {
        object["metadata"]["ownerReferences"].as_array().cloned().unwrap_or_default()
    };
    let live = owners(live);
    owners(manifest).iter().all(|wanted| live.iter().any(|owner| owner["uid"] == wanted["uid"]))
}

/// Whether `live` says everything that `wanted` says, and perhaps more.
fn says(wanted: &Value, live: &Value) -> bool {
    match (wanted, live) {
        (Value::Null, _) => true,
        (Value::Object(wanted), Value::Object(live)) => {
            wanted.iter().all(|(key, value)| live.get(key).is_some_and(|live| says(value, live)))
        }
        (Value::Array(wanted), Value::Array(live)) => {
            wanted.len() == live.len()
                && wanted.iter().zip(live).all(|(wanted, live)| says(wanted, live))
        }
        (wanted, live) => wanted == live,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store() -> Object {
        Object {
            name: "tokyo-thanos-sidecar0".into(),
            part: Part::Store,
            owner: Owner::Cluster("tokyo".parse().unwrap()),
            labels: [(crate::annotations::THANOS_SIDECAR.to_owned(), "0".to_owned())].into(),
            content: Content::Headless {
                selector: [("app".to_owned(), "envoy".to_owned())].into(),
                port_name: "grpc".into(),
                port: 10901,
            },
        }
    }

    fn owner() -> OwnerRef {
        OwnerRef { kind: "Service", name: "tokyo".into(), uid: "1".into() }
    }

    #[test]
    fn what_the_api_server_adds_makes_no_difference_and_what_it_lost_does() {
        let manifest = store().manifest("monitoring", Some(&owner()));
        let mut live = manifest.clone();
        live["metadata"]["labels"]["team"] = "sre".into();
        live["metadata"]["ownerReferences"]
            .as_array_mut()
            .unwrap()
            .push(json!({"kind": "Deployment", "uid": "2"}));
        live["spec"]["sessionAffinity"] = "None".into();
        live["spec"]["ports"][0]["nodePort"] = 0.into();
        assert!(Object::holds_in(&manifest, &live));
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
            assert!(!Object::holds_in(&manifest, &wrong), "{path}");
        }
    }

    #[test]
    fn a_service_that_selects_pods_is_no_other_name_whatever_is_left_of_it() {
        let name = Object {
            content: Content::ExternalName("atlas-hub-stores.monitoring.svc.cluster.local".into()),
            ..store()
        };
        let (manifest, before) =
            (name.manifest("monitoring", None), store().manifest("monitoring", None));
        assert_eq!(
            (Object::leads_to(&manifest), Object::leads_to(&before)),
            (Some("atlas-hub-stores"), None)
        );
        assert!(!Object::holds_in(&manifest, &before) && !Object::holds_in(&before, &manifest));
        let mut live = manifest.clone();
        // Of whoever else set it: a restored backup, say.
        live["spec"]["selector"]["app"] = "envoy".into();
        assert!(Object::holds_in(&manifest, &live));
        live["spec"]["externalName"] = "elsewhere.example.com".into();
        assert!(!Object::holds_in(&manifest, &live));
        live["spec"]["type"] = "ClusterIP".into();
        assert_eq!(Object::leads_to(&live), None, "what is left of another type says nothing");
    }

    #[test]
    fn data_is_exactly_what_was_said_and_is_never_shown() {
        let secret = Object {
            content: Content::Secret([("tls.key".to_owned(), "secret!".to_owned())].into()),
            ..store()
        };
        let manifest = secret.manifest("monitoring", None);
        assert_eq!(manifest["data"]["tls.key"], "c2VjcmV0IQ==");
        let mut live = manifest.clone();
        assert!(Object::holds_in(&manifest, &live));
        live["data"]["more"] = "eA==".into();
        assert!(!Object::holds_in(&manifest, &live));
        assert!(!format!("{secret:?}").contains("secret!"));
        let empty = Object { content: Content::ConfigMap(BTreeMap::new()), ..store() }
            .manifest("monitoring", None);
        let mut live = empty.clone();
        live.as_object_mut().unwrap().remove("data");
        assert!(Object::holds_in(&empty, &live));
    }
}

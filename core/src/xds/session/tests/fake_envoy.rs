//! A model of an Envoy as an xDS client.

use std::collections::{BTreeMap, BTreeSet};

use super::notation::content;
use crate::xds::messages::{Request, Response, Variant};
use crate::xds::resource::{Resource, ResourceType};

/// The types in the order of an Envoy's first requests.
pub const KINDS: [ResourceType; 4] =
    [ResourceType::Cluster, ResourceType::Listener, ResourceType::Secret, ResourceType::Route];

/// The contents of resources by type and name.
pub type Contents = BTreeMap<ResourceType, BTreeMap<String, String>>;

/// What an Envoy does with a content.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    Good,
    /// It rejects the response and names the resource; it applies the good resources of the
    /// response.
    Rejected,
    /// It can't decode it: it rejects the whole response and names no resource.
    Undecodable,
}

/// By name and content, so that each has good versions too.
pub fn verdict(name: &str, content: &str) -> Verdict {
    match (name, content) {
        ("n0" | "n2", "3") => Verdict::Rejected,
        ("n1" | "n2", "5") => Verdict::Undecodable,
        _ => Verdict::Good,
    }
}

#[derive(Default)]
pub struct FakeEnvoy {
    pub variant: Option<Variant>,
    /// The resources that it works with.
    pub has: Contents,
    /// Incremental: what it lists in `initial_resource_versions`, which is what was in responses
    /// that it ACKed.
    pub listed: Contents,
    /// State of the world: the `version_info` of the latest response that it ACKed.
    pub versions: BTreeMap<ResourceType, String>,
    /// The nonce of the latest response.
    pub nonces: BTreeMap<ResourceType, String>,
    /// The names that it subscribes to.
    pub names: BTreeMap<ResourceType, BTreeSet<String>>,
    /// Types of which it has subscribed to something.
    pub requested_types: BTreeSet<ResourceType>,
    /// Whether it makes no first request for a type of which it has unsubscribed from everything;
    /// otherwise it makes one without names. Every other process does so.
    pub omits_empty_types: bool,
    /// What it has in another version than it listed when it connected, since it applied a part of
    /// a rejected response: no server can know of it.
    pub not_listed: BTreeSet<(ResourceType, String)>,
}

pub fn has_wildcard(kind: ResourceType) -> bool {
    matches!(kind, ResourceType::Cluster | ResourceType::Listener)
}

impl FakeEnvoy {
    pub fn subscribes_to(&self, kind: ResourceType, name: &str) -> bool {
        has_wildcard(kind) || self.names.get(&kind).is_some_and(|names| names.contains(name))
    }

    fn is_delta(&self) -> bool {
        self.variant == Some(Variant::Delta)
    }

    fn names_of(&self, kind: ResourceType) -> Vec<String> {
        self.names.get(&kind).into_iter().flatten().cloned().collect()
    }

    /// A new process takes its place, with the same bootstrap.
    pub fn restart(&mut self) {
        let names = std::mem::take(&mut self.names);
        *self = Self {
            variant: self.variant,
            names,
            omits_empty_types: !self.omits_empty_types,
            ..Self::default()
        };
    }

    /// Whether it makes a first request for this type.
    fn makes_first_request(&self, kind: ResourceType) -> bool {
        let has_unsubscribed = self.requested_types.contains(&kind) && !self.omits_empty_types;
        has_wildcard(kind)
            || has_unsubscribed
            || self.names.get(&kind).is_some_and(|names| !names.is_empty())
    }

    /// Whether one of its first requests, up to the one of a type, has a version: then it has
    /// accepted something before.
    pub fn shows_versions(&self, up_to: ResourceType) -> bool {
        let last = KINDS.iter().position(|kind| *kind == up_to).unwrap_or_default();
        let has_version = |kind: &ResourceType| {
            self.listed.get(kind).is_some_and(|listed| !listed.is_empty())
                || self.versions.contains_key(kind)
        };
        KINDS[..=last].iter().any(|kind| self.makes_first_request(*kind) && has_version(kind))
    }

    /// Opens a stream. Returns its first requests.
    pub fn connect(&mut self) -> Vec<Request> {
        self.nonces.clear();
        if self.is_delta() {
            for (kind, has) in &self.has {
                let listed = self.listed.get(kind);
                let all = has.keys().chain(listed.into_iter().flat_map(|listed| listed.keys()));
                let differing = all
                    .filter(|name| listed.and_then(|listed| listed.get(*name)) != has.get(*name));
                self.not_listed.extend(differing.map(|name| (*kind, name.clone())));
            }
        }
        let kinds: Vec<ResourceType> =
            KINDS.into_iter().filter(|kind| self.makes_first_request(*kind)).collect();
        self.requested_types.extend(&kinds);
        let first = |kind: ResourceType| {
            let request = Request { type_url: kind.url().into(), ..Request::default() };
            let versions = |(name, content): (&String, &String)| {
                (name.clone(), super::notation::version(content))
            };
            match self.variant {
                Some(Variant::StateOfTheWorld) => Request {
                    names: self.names_of(kind),
                    version_info: self.versions.get(&kind).cloned().unwrap_or_default(),
                    ..request
                },
                _ => Request {
                    subscribe: if has_wildcard(kind) {
                        vec!["*".into()]
                    } else {
                        self.names_of(kind)
                    },
                    initial_versions: self
                        .listed
                        .get(&kind)
                        .into_iter()
                        .flatten()
                        .map(versions)
                        .collect(),
                    ..request
                },
            }
        };
        kinds.into_iter().map(first).collect()
    }

    /// Subscribes to a name, or unsubscribes from it. Returns the request.
    pub fn toggle(&mut self, kind: ResourceType, name: &str) -> Request {
        self.requested_types.insert(kind);
        let names = self.names.entry(kind).or_default();
        let subscribes = names.insert(name.into());
        if !subscribes {
            names.remove(name);
            if self.variant == Some(Variant::Delta) {
                self.not_listed.remove(&(kind, name.to_owned()));
                for contents in [&mut self.has, &mut self.listed] {
                    contents.entry(kind).or_default().remove(name);
                }
            }
        }
        let request = Request { type_url: kind.url().into(), ..Request::default() };
        match self.variant {
            Some(Variant::StateOfTheWorld) => self.sotw_request(kind),
            _ if subscribes => Request { subscribe: vec![name.into()], ..request },
            _ => Request { unsubscribe: vec![name.into()], ..request },
        }
    }

    /// State of the world: a request with the present nonce, names and version.
    fn sotw_request(&self, kind: ResourceType) -> Request {
        Request {
            type_url: kind.url().into(),
            nonce: self.nonces.get(&kind).cloned().unwrap_or_default(),
            names: self.names_of(kind),
            version_info: self.versions.get(&kind).cloned().unwrap_or_default(),
            ..Request::default()
        }
    }

    /// Receives a response. Returns its ACK or NACK.
    pub fn answer(&mut self, response: &Response) -> Request {
        let kind = ResourceType::of_url(&response.type_url).expect("a known type");
        self.nonces.insert(kind, response.nonce.clone());
        let resources: Vec<&Resource> = response
            .resources
            .iter()
            .map(|resource| &**resource)
            .filter(|resource| self.subscribes_to(kind, &resource.name))
            .collect();
        let of_verdict = |expected: Verdict| {
            resources
                .iter()
                .filter(move |resource| verdict(&resource.name, &content(resource)) == expected)
        };
        let is_undecodable = of_verdict(Verdict::Undecodable).count() > 0;
        let rejected: Vec<String> = of_verdict(Verdict::Rejected)
            .map(|resource| format!("{}: bad", resource.name))
            .collect();
        let error = match (is_undecodable, rejected.is_empty()) {
            (true, _) => Some("cannot decode".to_owned()),
            (false, false) => {
                Some(format!("Error adding/updating thing(s) {}", rejected.join(", ")))
            }
            (false, true) => None,
        };
        let lists_all = !self.is_delta() && has_wildcard(kind);
        if !is_undecodable {
            let has = self.has.entry(kind).or_default();
            for name in &response.removed {
                has.remove(&**name);
                self.not_listed.remove(&(kind, name.to_string()));
            }
            if lists_all {
                has.retain(|name, _| {
                    response.resources.iter().any(|resource| *resource.name == **name)
                });
            }
            for resource in of_verdict(Verdict::Good) {
                has.insert(resource.name.to_string(), content(resource));
                self.not_listed.remove(&(kind, resource.name.to_string()));
            }
        }
        if self.is_delta() {
            if error.is_none() {
                let listed = self.listed.entry(kind).or_default();
                for name in &response.removed {
                    listed.remove(&**name);
                }
                listed.extend(
                    resources.iter().map(|resource| (resource.name.to_string(), content(resource))),
                );
            }
            return Request {
                type_url: kind.url().into(),
                nonce: response.nonce.clone(),
                error,
                ..Request::default()
            };
        }
        if error.is_none() {
            self.versions.insert(kind, response.version_info.clone());
        }
        Request { error, ..self.sotw_request(kind) }
    }
}

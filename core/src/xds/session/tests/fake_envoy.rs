//! A model of an Envoy, as far as a stream notices.

use std::collections::{BTreeMap, BTreeSet};

use super::notation::content;
use crate::xds::messages::{Request, Response, Variant};
use crate::xds::resource::{Resource, ResourceType};

/// In the order in which an Envoy asks.
pub const KINDS: [ResourceType; 4] =
    [ResourceType::Cluster, ResourceType::Listener, ResourceType::Secret, ResourceType::Route];

/// Names to contents, by type.
pub type Contents = BTreeMap<ResourceType, BTreeMap<String, String>>;

/// How an Envoy takes a content.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    Good,
    /// It refuses it by name, and applies what is good beside it.
    Rejected,
    /// It can't decode it: it refuses the whole response without a name.
    Undecodable,
}

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
    /// What is live.
    pub has: Contents,
    /// What it lists when it reconnects: with what it accepted wholly (incremental).
    pub lists: Contents,
    /// The versions that it accepted last (state of the world).
    pub versions: BTreeMap<ResourceType, String>,
    pub nonces: BTreeMap<ResourceType, String>,
    pub names: BTreeMap<ResourceType, BTreeSet<String>>,
    /// Types of which it has asked for something.
    pub asked: BTreeSet<ResourceType>,
    /// Whether its further streams begin without types of which it wants nothing any more, rather than with a request of no names. Every
    /// other process does so.
    pub drops_unwanted_types: bool,
    /// What it applied of a refused response and doesn't list, from before this stream: no server can know of it.
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

    /// The process starts anew.
    pub fn restart(&mut self) {
        let names = std::mem::take(&mut self.names);
        *self = Self {
            variant: self.variant,
            names,
            drops_unwanted_types: !self.drops_unwanted_types,
            ..Self::default()
        };
    }

    /// Whether a stream begins with a request for this type.
    fn asks_first_for(&self, kind: ResourceType) -> bool {
        let asks_for_nothing = self.asked.contains(&kind) && !self.drops_unwanted_types;
        has_wildcard(kind)
            || asks_for_nothing
            || self.names.get(&kind).is_some_and(|names| !names.is_empty())
    }

    /// Whether a server can see that this process has accepted something, by its first requests up to a type's.
    pub fn shows_versions(&self, up_to: ResourceType) -> bool {
        let until = KINDS.iter().position(|kind| *kind == up_to).unwrap_or_default();
        let has_version = |kind: &ResourceType| {
            self.lists.get(kind).is_some_and(|lists| !lists.is_empty())
                || self.versions.contains_key(kind)
        };
        KINDS[..=until].iter().any(|kind| self.asks_first_for(*kind) && has_version(kind))
    }

    /// Its first requests on a stream.
    pub fn connect(&mut self) -> Vec<Request> {
        self.nonces.clear();
        if self.is_delta() {
            for (kind, has) in &self.has {
                let lists = self.lists.get(kind);
                let all = has.keys().chain(lists.into_iter().flat_map(|lists| lists.keys()));
                let odd =
                    all.filter(|name| lists.and_then(|lists| lists.get(*name)) != has.get(*name));
                self.not_listed.extend(odd.map(|name| (*kind, name.clone())));
            }
        }
        let asked: Vec<ResourceType> =
            KINDS.into_iter().filter(|kind| self.asks_first_for(*kind)).collect();
        self.asked.extend(&asked);
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
                        .lists
                        .get(&kind)
                        .into_iter()
                        .flatten()
                        .map(versions)
                        .collect(),
                    ..request
                },
            }
        };
        asked.into_iter().map(first).collect()
    }

    /// Begins or ceases to want a name.
    pub fn toggle(&mut self, kind: ResourceType, name: &str) -> Request {
        self.asked.insert(kind);
        let names = self.names.entry(kind).or_default();
        let wanted = names.insert(name.into());
        if !wanted {
            names.remove(name);
            if self.variant == Some(Variant::Delta) {
                self.not_listed.remove(&(kind, name.to_owned()));
                for things in [&mut self.has, &mut self.lists] {
                    things.entry(kind).or_default().remove(name);
                }
            }
        }
        let request = Request { type_url: kind.url().into(), ..Request::default() };
        match self.variant {
            Some(Variant::StateOfTheWorld) => self.request(kind),
            _ if wanted => Request { subscribe: vec![name.into()], ..request },
            _ => Request { unsubscribe: vec![name.into()], ..request },
        }
    }

    /// A request of the state of the world as it is now.
    fn request(&self, kind: ResourceType) -> Request {
        Request {
            type_url: kind.url().into(),
            nonce: self.nonces.get(&kind).cloned().unwrap_or_default(),
            names: self.names_of(kind),
            version_info: self.versions.get(&kind).cloned().unwrap_or_default(),
            ..Request::default()
        }
    }

    /// Takes a response; returns its answer.
    pub fn take(&mut self, response: &Response) -> Request {
        let kind = ResourceType::of_url(&response.type_url).expect("a known type");
        self.nonces.insert(kind, response.nonce.clone());
        let wanted: Vec<&Resource> = response
            .resources
            .iter()
            .map(|resource| &**resource)
            .filter(|it| self.subscribes_to(kind, &it.name))
            .collect();
        let of_verdict = |sort: Verdict| {
            wanted
                .iter()
                .filter(move |resource| verdict(&resource.name, &content(resource)) == sort)
        };
        let nonsense = of_verdict(Verdict::Undecodable).count() > 0;
        let bad: Vec<String> = of_verdict(Verdict::Rejected)
            .map(|resource| format!("{}: bad", resource.name))
            .collect();
        let error = match (nonsense, bad.is_empty()) {
            (true, _) => Some("cannot decode".to_owned()),
            (false, false) => Some(format!("Error adding/updating thing(s) {}", bad.join(", "))),
            (false, true) => None,
        };
        let whole = !self.is_delta() && has_wildcard(kind);
        if !nonsense {
            let has = self.has.entry(kind).or_default();
            for name in &response.removed {
                has.remove(&**name);
                self.not_listed.remove(&(kind, name.to_string()));
            }
            if whole {
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
                let lists = self.lists.entry(kind).or_default();
                for name in &response.removed {
                    lists.remove(&**name);
                }
                lists.extend(
                    wanted.iter().map(|resource| (resource.name.to_string(), content(resource))),
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
        Request { error, ..self.request(kind) }
    }
}

//! Requests, responses and resources as one line of text each.
//!
//! | Text | Request |
//! | --- | --- |
//! | `CDS + a + *` | subscribes to `a` and to the wildcard |
//! | `CDS - a` | unsubscribes from `a` |
//! | `CDS has a=1` | lists `a` in `initial_resource_versions`, with content 1 |
//! | `CDS ack 1` | ACKs the response with nonce 1 |
//! | `CDS nack 1 why` | NACKs the response with nonce 1, and says why |
//! | `CDS ack 1 a b` | state of the world: ACKs, and subscribes to `a` and `b` |
//! | `CDS v 7 a b` | state of the world: a first request with `version_info` 7 |
//!
//! `1 CDS a=1 b=2 removed c` is a response with nonce 1, two resources and one removal.

use std::collections::BTreeMap;
use std::sync::Arc;

use envoy_types::pb::google::protobuf::Any;

use crate::xds::messages::{Request, Response, Variant};
use crate::xds::quarantine::{Quarantine, RejectedVersion};
use crate::xds::resource::{Resource, ResourceType, Version};
use crate::xds::session::{ConfigStatus, Session};
use crate::xds::snapshot::Snapshot;

/// A session with the snapshot and quarantine of its node.
pub struct Stream {
    pub session: Session,
    pub snapshot: Snapshot,
    pub quarantine: Quarantine,
}

pub fn kind_of(text: &str) -> ResourceType {
    ResourceType::ALL.into_iter().find(|kind| kind.to_string() == text).expect("a type")
}

/// A resource whose content is this text.
pub fn resource(kind: ResourceType, name: &str, content: &str) -> Arc<Resource> {
    let body = Any { type_url: kind.url().into(), value: content.as_bytes().to_vec() };
    Resource::with_version(kind, name, Version::of(content.as_bytes()), &body)
}

/// The text that is the content of a resource.
pub fn content(resource: &Resource) -> String {
    String::from_utf8(resource.body().value).unwrap()
}

/// Resources with their contents: `CDS a=1 b=1, RDS r=1`.
pub fn resources(text: &str) -> Vec<Arc<Resource>> {
    let of_type = |part: &str| {
        let (kind, rest) = part.trim().split_once(' ').expect("a type and resources");
        let pair = |pair: &str| {
            pair.split_once('=')
                .map(|(name, version)| resource(kind_of(kind), name, version))
                .expect("name=version")
        };
        rest.split_whitespace().map(pair).collect::<Vec<_>>()
    };
    text.split(',').filter(|part| !part.trim().is_empty()).flat_map(of_type).collect()
}

pub fn request(text: &str) -> Request {
    let mut words = text.split_whitespace();
    let kind = kind_of(words.next().expect("a type"));
    let mut request = Request { type_url: kind.url().into(), ..Request::default() };
    while let Some(word) = words.next() {
        let mut next = || words.next().expect("another word").to_owned();
        match word {
            "+" => request.subscribe.push(next()),
            "-" => request.unsubscribe.push(next()),
            "has" => {
                let pair = next();
                let (name, content) = pair.split_once('=').expect("name=version");
                request
                    .initial_versions
                    .insert(name.into(), Version::of(content.as_bytes()).to_string());
            }
            "ack" => request.nonce = next(),
            "v" => request.version_info = next(),
            "nack" => {
                request.nonce = next();
                request.error = Some(words.by_ref().collect::<Vec<_>>().join(" "));
            }
            name => request.names.push(name.into()),
        }
    }
    request
}

pub fn text_of(response: &Response) -> String {
    let kind = ResourceType::of_url(&response.type_url).expect("a known type");
    let mut line = format!("{} {kind}", response.nonce);
    for resource in &response.resources {
        line.push_str(&format!(" {}={}", resource.name, content(resource)));
    }
    for name in &response.removed {
        line.push_str(&format!(" removed {name}"));
    }
    line
}

impl Stream {
    pub fn new(text: &str) -> Self {
        Self::of(Variant::Delta, text)
    }

    pub fn of(variant: Variant, text: &str) -> Self {
        let mut snapshot = Snapshot::default();
        snapshot.replace_all(resources(text));
        Self { session: Session::new(variant, None), snapshot, quarantine: Quarantine::default() }
    }

    /// A new stream of the same node.
    pub fn reconnects(&mut self, variant: Variant) {
        self.session = Session::new(variant, None);
    }

    pub fn receives(&mut self, text: &str) -> Vec<String> {
        self.receives_request(request(text))
    }

    pub fn receives_request(&mut self, request: Request) -> Vec<String> {
        let responses = self.session.on_request(request, &self.snapshot, &mut self.quarantine);
        responses.expect("within limits").iter().map(text_of).collect()
    }

    pub fn changes_to(&mut self, text: &str) -> Vec<String> {
        self.snapshot.replace_all(resources(text));
        self.on_change()
    }

    pub fn on_change(&mut self) -> Vec<String> {
        self.session.on_change(&self.snapshot, &self.quarantine).iter().map(text_of).collect()
    }

    pub fn statuses(&self) -> BTreeMap<ResourceType, ConfigStatus> {
        self.session.status(&self.snapshot, &self.quarantine)
    }

    pub fn status(&self, kind: &str) -> ConfigStatus {
        self.statuses()[&kind_of(kind)].clone()
    }

    /// The versions in quarantine: `CDS a=2/1` is content 2 with the fallback 1, `?` a version that
    /// the snapshot doesn't have.
    pub fn quarantined(&self) -> Vec<String> {
        let text_of = |(kind, name, rejected): (ResourceType, &str, &RejectedVersion)| {
            let fallback = rejected.fallback.as_ref();
            let fallback = fallback.map(|fallback| format!("/{}", content(fallback)));
            let current = self.snapshot.get(kind, name);
            let current = current.filter(|current| current.version == rejected.version);
            let current = current.map_or("?".into(), |current| content(current));
            format!("{kind} {name}={current}{}", fallback.unwrap_or_default())
        };
        self.quarantine.entries().map(text_of).collect()
    }
}

/// The version of a resource with this content, as text.
pub fn version(content: &str) -> String {
    Version::of(content.as_bytes()).to_string()
}

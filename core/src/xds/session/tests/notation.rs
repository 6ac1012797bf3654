//! A small protocol language: requests in, responses out, both as one line.
//!
//! `CDS + *` subscribes, `CDS - a` unsubscribes, `CDS has a=1` is what a client says on reconnect, `CDS ack 1` and
//! `CDS nack 1 why` answer. In the state of the world `CDS ack 1 a b` answers with the names that are subscribed to, and `CDS v x a b` is the
//! first request of a client that has version x. A response reads `1 CDS a=1 b=2 removed c`.

use std::collections::BTreeMap;
use std::sync::Arc;

use envoy_types::pb::google::protobuf::Any;

use crate::xds::messages::{Request, Response, Variant};
use crate::xds::quarantine::Quarantine;
use crate::xds::resource::{Resource, ResourceType, Version};
use crate::xds::session::{ConfigStatus, Session};
use crate::xds::snapshot::Snapshot;

/// A client and a server without a socket between.
pub struct Stream {
    pub session: Session,
    pub snapshot: Snapshot,
    pub quarantine: Quarantine,
}

pub fn kind_of(text: &str) -> ResourceType {
    ResourceType::ALL.into_iter().find(|kind| kind.to_string() == text).expect("a type")
}

/// A resource whose content is what the test says.
pub fn resource(kind: ResourceType, name: &str, content: &str) -> Arc<Resource> {
    let body = Any { type_url: kind.url().into(), value: content.as_bytes().to_vec() };
    Resource::with_version(kind, name, Version::of(content.as_bytes()), &body)
}

/// What the test says of a resource.
pub fn content(resource: &Resource) -> String {
    String::from_utf8(resource.body().value).unwrap()
}

/// `CDS a=1 b=1, RDS r=1`
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
    response.resources.iter().for_each(|r| line.push_str(&format!(" {}={}", r.name, content(r))));
    response.removed.iter().for_each(|name| line.push_str(&format!(" removed {name}")));
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

    /// The client comes again.
    pub fn reconnects(&mut self, variant: Variant) {
        self.session = Session::new(variant, None);
    }

    pub fn receives(&mut self, text: &str) -> Vec<String> {
        self.receives_request(request(text))
    }

    pub fn receives_request(&mut self, request: Request) -> Vec<String> {
        let responses = self.session.on_request(request, &self.snapshot, &mut self.quarantine);
        responses.expect("no abuse").iter().map(text_of).collect()
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

    /// What is quarantined: `CDS a=1`, with the fallback behind a slash.
    pub fn quarantined(&self) -> Vec<String> {
        let line = |(kind, name, refusal): (
            ResourceType,
            &str,
            &crate::xds::quarantine::RejectedVersion,
        )| {
            let fallback = refusal
                .fallback
                .as_ref()
                .map(|fallback| format!("/{}", content(fallback)))
                .unwrap_or_default();
            let current =
                self.snapshot.get(kind, name).filter(|current| current.version == refusal.version);
            format!(
                "{kind} {name}={}{fallback}",
                current.map_or("?".into(), |current| content(current))
            )
        };
        self.quarantine.entries().map(line).collect()
    }
}

/// The version of a content.
pub fn version(content: &str) -> String {
    Version::of(content.as_bytes()).to_string()
}

//! Which versions a NACK rejects.
//!
//! A response may carry several resources, and a NACK says why but not which. Envoy applies the
//! good ones of an incremental response that it rejects.
//!
//! - If the response had one new resource, that one is rejected.
//! - Otherwise those are whose names are in the error message. Envoy writes `Error adding/updating
//!   cluster(s) a: …, b: …`, and for listeners a line each
//!   (`source/common/upstream/cds_api_impl.cc`, `source/common/listener_manager/lds_api.cc`).
//! - If no name is in it (Envoy couldn't decode the response), the resources are sent again in two
//!   halves, one after the other, then in halves of these, until a response with a single resource
//!   is rejected.
//!
//! The others of a response are sent again together: in the state of the world half of a response
//! would remove the other half.
//!
//! A client that rejects everything is sent each version at most 9 + log₂(resources of a response)
//! times.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::client_state::{ClientResource, ClientResources, SubscribedNames};
use crate::text;
use crate::xds::limits::{MAX_NACK_MESSAGE, memory};
use crate::xds::quarantine::Quarantine;
use crate::xds::resource::{Resource, ResourceType, Version};
use crate::xds::snapshot::Snapshot;

/// After so many NACKs in a row, resources that aren't named are sent in halves too: such a client
/// names one after the other.
const MAX_ATTEMPTS_TOGETHER: u8 = 8;

/// How many bytes of an error message are searched for names. Envoy's own messages end after 4 KiB.
const SEARCHED_BYTES: usize = 16 << 10;

/// A response that the client hasn't answered yet.
#[derive(Clone, Debug, Default)]
pub(super) struct InFlight {
    pub resources: Vec<InFlightResource>,
    /// Incremental: names that the client subscribes to and that don't exist.
    pub absent: Vec<Arc<str>>,
    /// Not everything fitted; the rest follows when this is answered.
    pub is_truncated: bool,
    /// How many NACKs in a row its resources have been in. 0: they aren't NACK candidates.
    pub attempt: u8,
}

/// A resource of a response that the client hasn't answered yet.
#[derive(Clone, Debug)]
pub(super) struct InFlightResource {
    pub resource: Arc<Resource>,
    /// What the client had under this name.
    pub before: Option<ClientResource>,
    /// The version is in quarantine, and the client's process has started since.
    pub is_retry: bool,
}

/// What a client has rejected on one stream, of one type.
#[derive(Clone, Debug, Default)]
pub(super) struct Nacks {
    /// The rejected version of each name, and the error message. The quarantine may have forgotten
    /// it.
    rejected: BTreeMap<Arc<str>, (Version, Arc<str>)>,
    /// Bytes of memory of `rejected`.
    memory_bytes: usize,
    /// Groups of resources of which at least one was rejected, and it isn't known which. The last
    /// group is sent next.
    candidates: Vec<Vec<NackCandidate>>,
}

/// A resource of a response that was rejected.
#[derive(Clone, Debug)]
pub(super) struct NackCandidate {
    pub name: Arc<str>,
    /// What the client had under this name before the response.
    pub before: Option<ClientResource>,
    /// How many NACKs in a row it has been in.
    pub attempt: u8,
}

impl Nacks {
    /// A response was rejected.
    pub fn on_nack(
        &mut self,
        response: InFlight,
        message: &str,
        subscribed: &SubscribedNames,
        client: &mut ClientResources,
        snapshot: &Snapshot,
        quarantine: &mut Quarantine,
    ) {
        let attempt = response.attempt;
        let is_single = response.resources.len() == 1;
        let is_named = named_in(message, &response.resources);
        let some_are_named = is_named.contains(&true);
        let message: Arc<str> = text::line(message, MAX_NACK_MESSAGE).into();
        let mut group = Vec::new();
        for (sent, is_named) in response.resources.into_iter().zip(is_named) {
            let name = Arc::clone(&sent.resource.name);
            if !subscribed.contains(&name) {
                continue;
            }
            if is_single || is_named {
                self.reject(&sent, &message, snapshot, quarantine);
            }
            let version = sent.resource.version;
            let is_another = |before: &ClientResource| before.version() != Some(version);
            let unknown = ClientResource::of_unknown_version(&name);
            if is_single && attempt == 0 {
                // Nothing of the response was applied: the client has what it had.
                client.insert(sent.before.filter(is_another).unwrap_or(unknown));
            } else if is_single {
                // This response was rejected whole; an earlier one, with other resources, may have
                // been applied in part, so resend what the client had before.
                client.insert(unknown);
                let before = sent.before.filter(is_another);
                if let Some(before) = before.filter(|before| before.content().is_some()) {
                    group.push(NackCandidate { name, before: Some(before), attempt });
                }
            } else {
                // Even a named one may have been applied: the message may mention it for another
                // reason.
                client.insert(unknown);
                let attempt = attempt.saturating_add(1);
                group.push(NackCandidate { name, before: sent.before, attempt });
            }
        }
        if some_are_named && attempt < MAX_ATTEMPTS_TOGETHER {
            self.candidates.push(group);
        } else {
            let second = group.split_off(group.len() / 2);
            self.candidates.extend([second, group].into_iter().filter(|half| !half.is_empty()));
        }
    }

    /// Puts a version into quarantine, or removes a fallback that was rejected from it.
    fn reject(
        &mut self,
        sent: &InFlightResource,
        message: &Arc<str>,
        snapshot: &Snapshot,
        quarantine: &mut Quarantine,
    ) {
        let resource = &sent.resource;
        match snapshot.get(resource.kind, &resource.name) {
            Some(current) if current.version == resource.version => {
                self.forget(&resource.name);
                self.memory_bytes += memory::REJECTED + message.len();
                self.rejected
                    .insert(Arc::clone(&resource.name), (resource.version, Arc::clone(message)));
                let before = sent.before.as_ref().and_then(ClientResource::content);
                let fallback = before.filter(|before| before.version != resource.version).cloned();
                quarantine.add(resource, Arc::clone(message), fallback);
            }
            Some(_) => quarantine.remove_fallback(resource),
            None => {}
        }
    }

    /// Why a version may not be sent: the error message of the NACK that rejected it, on this
    /// stream or, after `ignored_nacks`, on another one of the node.
    pub fn message<'a>(
        &'a self,
        resource: &Resource,
        quarantine: &'a Quarantine,
        ignored_nacks: u64,
    ) -> Option<&'a Arc<str>> {
        match self.rejected.get(&resource.name) {
            Some((version, message)) if *version == resource.version => Some(message),
            _ => quarantine.find(resource, ignored_nacks).map(|rejected| &rejected.message),
        }
    }

    /// What to send instead of a version that may not be sent.
    ///
    /// The client keeps what it has. If that isn't known, or the client must have a response, it is
    /// sent what it has or what Envoys accepted before.
    pub fn instead_of<'a>(
        resource: &Resource,
        client_has: Option<&'a ClientResource>,
        must_respond: bool,
        quarantine: &'a Quarantine,
    ) -> Option<&'a Arc<Resource>> {
        let fallback = || quarantine.find(resource, 0)?.fallback.as_ref();
        match client_has.filter(|client_has| client_has.version().is_some()) {
            None => fallback(),
            Some(client_has) if must_respond => client_has.content().or_else(fallback),
            Some(_) => None,
        }
    }

    /// The names of which a version was rejected, on this stream or on another one of the node.
    pub fn rejected_names<'a>(
        &'a self,
        kind: ResourceType,
        quarantine: &'a Quarantine,
    ) -> impl Iterator<Item = &'a str> {
        let quarantined = quarantine.entries().filter(move |(other, ..)| *other == kind);
        quarantined.map(|(_, name, _)| name).chain(self.rejected.keys().map(|name| &**name))
    }

    /// How many versions were rejected on this stream.
    #[cfg(test)]
    pub fn rejected_count(&self) -> usize {
        self.rejected.len()
    }

    /// Forgets what was rejected under a name.
    pub fn forget(&mut self, name: &str) {
        if let Some((_, message)) = self.rejected.remove(name) {
            self.memory_bytes -= memory::REJECTED + message.len();
        }
    }

    /// Forgets what was rejected under a name, unless it is this version.
    pub fn forget_other_than(&mut self, name: &str, version: Option<Version>) {
        if self.rejected.get(name).is_some_and(|(rejected, _)| Some(*rejected) != version) {
            self.forget(name);
        }
    }

    /// Forgets what was rejected under other names.
    pub fn retain(&mut self, keep: impl Fn(&str) -> bool) {
        self.rejected.retain(|name, _| keep(name));
        let messages = self.rejected.values().map(|(_, message)| message.len());
        self.memory_bytes = messages.map(|bytes| memory::REJECTED + bytes).sum();
    }

    /// Takes the group of candidates that is sent next.
    pub fn next_group(&mut self) -> Option<Vec<NackCandidate>> {
        self.candidates.pop()
    }

    /// The candidates that are still to be sent again.
    pub fn candidates(&self) -> impl Iterator<Item = &NackCandidate> {
        self.candidates.iter().flatten()
    }

    /// Whether there are candidates to be sent again.
    pub fn has_candidates(&self) -> bool {
        !self.candidates.is_empty()
    }

    /// About how many bytes of memory the rejected versions take.
    pub fn memory_bytes(&self) -> usize {
        self.memory_bytes
    }
}

/// For each resource, whether the error message names it: at the beginning of an item of Envoy's
/// list; if it has no such item, anywhere as a whole word.
fn named_in(message: &str, resources: &[InFlightResource]) -> Vec<bool> {
    let message = message.get(..message.floor_char_boundary(SEARCHED_BYTES)).unwrap_or_default();
    let named = |is_name: fn(&str, &str) -> bool| {
        let names = resources.iter().map(|sent| &*sent.resource.name);
        names.map(|name| occurs(message, name, is_name)).collect::<Vec<_>>()
    };
    let listed = named(|before, after| {
        let begins_item = before.is_empty()
            || before.ends_with(") ")
            || before.ends_with(", ")
            || before.ends_with('\n');
        begins_item && after.starts_with(": ")
    });
    if listed.contains(&true) {
        return listed;
    }
    named(|before, after| !continues(before.chars().rev()) && !continues(after.chars()))
}

/// Whether a name occurs somewhere with fitting text before and after it.
fn occurs(message: &str, name: &str, fits: fn(&str, &str) -> bool) -> bool {
    let mut indices = message.match_indices(name).filter(|_| !name.is_empty());
    indices.any(|(index, _)| {
        let (before, after) = (message.get(..index), message.get(index + name.len()..));
        fits(before.unwrap_or_default(), after.unwrap_or_default())
    })
}

/// Whether a word goes on: with a letter, a digit, a dash or an underscore; or with another
/// character of names and then a letter or digit.
fn continues(mut text: impl Iterator<Item = char>) -> bool {
    match text.next() {
        Some('.' | ':' | '/' | '@' | '|') => text.next().is_some_and(char::is_alphanumeric),
        Some(other) => other.is_alphanumeric() || matches!(other, '-' | '_'),
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use envoy_types::pb::google::protobuf::Any;

    fn named<'a>(message: &str, names: &[&'a str]) -> Vec<&'a str> {
        let kind = ResourceType::Cluster;
        let body = Any { type_url: kind.url().into(), value: Vec::new() };
        let sent = |name: &&str| InFlightResource {
            resource: Resource::with_version(kind, *name, Version::of(b""), &body),
            before: None,
            is_retry: false,
        };
        let is_named = named_in(message, &names.iter().map(sent).collect::<Vec<_>>());
        names
            .iter()
            .zip(is_named)
            .filter(|(_, is_named)| *is_named)
            .map(|(name, _)| *name)
            .collect()
    }

    #[test]
    fn names_that_begin_an_item_are_found_and_mentions_are_not() {
        let names = ["a", "a-b", "b", "c"];
        assert_eq!(
            named("Error adding/updating cluster(s) a: no c, a-b: unknown b", &names),
            ["a", "a-b"]
        );
        let listeners =
            "Error adding/updating listener(s) a: cannot bind\nc: unknown cluster 'b'\n";
        assert_eq!(named(listeners, &names), ["a", "c"]);
    }

    #[test]
    fn without_a_list_whole_words_are_found() {
        let names = ["web", "web.c1", "c1", ""];
        for message in ["bad web", "route 'web' has no domain", "unknown route: web.", "web"] {
            assert_eq!(named(message, &names), ["web"], "{message}");
        }
        assert_eq!(named("no port in web.c1:80", &names), [""; 0]);
        assert_eq!(named("no port in web.c1", &names), ["web.c1"]);
        assert_eq!(named("Protobuf message (type …) has unknown fields", &names), [""; 0]);
    }

    #[test]
    fn only_the_beginning_of_a_long_message_is_searched() {
        let message = format!("{} a", "é".repeat(SEARCHED_BYTES));
        assert_eq!(named(&message, &["a"]), [""; 0]);
    }
}

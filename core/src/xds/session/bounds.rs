//! What one stream may make Atlas remember, repeat or print: its client is another organisation's machine.
//!
//! [`Limits`] bound one stream. What all streams of a node make Atlas remember together is bounded by whoever has them all, by what
//! [`Session::remembered`] says of each.

use super::held::Held;
use super::subscription::Subscription;
use super::{Abuse, Request, Response, Session};

/// Most characters that are kept of the reason of a refusal.
pub const MAX_REASON: usize = 2048;

/// What one stream may ask for, and how much it is told at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Most names that it may subscribe to per type; more where its node has more resources.
    pub names: usize,
    /// Longest name, version or type, in bytes. Atlas's own have less than 100.
    pub name_length: usize,
    /// Most bytes of names and versions that it may have remembered per type; more where its node has more resources.
    pub bytes: usize,
    /// About how many bytes of resources one response carries; one larger resource goes alone. Only what the incremental variant sends,
    /// and the state of the world where it may be told in parts, is cut into such pieces.
    pub response_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { names: 1 << 17, name_length: 1024, bytes: 32 << 20, response_bytes: 1 << 20 }
    }
}

/// Bytes of a resource's name, twice: as what is asked for and as what is there. Atlas's own have less than 128.
const NAME_BYTES: usize = 256;

/// What one name that is asked for costs beside its bytes: its place in a set, and a block of memory with two counters. Here and below
/// as 64-bit processors and the C library's allocator have it.
const NAME: usize = 80;
/// What one name costs that must still be answered: its place in a second set.
const OWED: usize = 32;
/// What one resource costs beside the bytes of its name that a client says it has and that isn't the snapshot's.
const OTHER: usize = 128;
/// What a refusal costs beside its words.
const REFUSAL: usize = 96;

/// About how many bytes of memory a request can make a session remember, and its answer take: so many names and resources in it, of so
/// many bytes altogether.
pub fn most_remembered(names: usize, bytes: usize) -> usize {
    names.saturating_mul(2 * NAME + OWED + OTHER).saturating_add(bytes.saturating_mul(4))
}

impl Session {
    /// About how many bytes of memory what the client said takes. What is the snapshot's own isn't counted: it costs a pointer.
    pub fn remembered(&self) -> usize {
        self.types.values().map(|subscription| subscription.remembered()).sum()
    }
}

impl Subscription {
    fn remembered(&self) -> usize {
        let names: usize = self.names.iter().map(|name| NAME + name.len()).sum();
        let others = self.held.iter().filter(|held| matches!(held, Held::Other(_)));
        let held: usize = others.map(|held| OTHER + held.name().len()).sum();
        let refused: usize = self.refused.values().map(|(_, reason)| REFUSAL + reason.len()).sum();
        names + self.owed.len() * OWED + self.held.capacity_bytes() + held + refused
    }
}

impl Response {
    /// About how many bytes of memory it takes until it has been sent, beside the resources: names that the client asked for, here and
    /// as they are sent.
    pub fn waiting(&self) -> usize {
        self.removed.iter().map(|name| NAME + 2 * name.len()).sum()
    }
}

impl Limits {
    /// Most names that a client of a node with so many resources may list at once.
    pub fn most_names(self, resources: usize) -> usize {
        self.with_room_for(resources).names
    }

    /// The same, with room for a client of a node that has so many resources: on its first request of a type it lists those that it has,
    /// perhaps of an earlier and larger fleet.
    pub(super) fn with_room_for(self, resources: usize) -> Self {
        let listed = resources.saturating_mul(2);
        Self {
            names: self.names.max(listed),
            bytes: self.bytes.max(listed.saturating_mul(NAME_BYTES)),
            ..self
        }
    }

    /// Checks what a request alone brings.
    pub(super) fn check(&self, request: &Request) -> Result<(), Abuse> {
        let lists = [&request.subscribe, &request.unsubscribe, &request.names];
        let versions = request.initial_versions.iter().flat_map(|(name, version)| [name, version]);
        let texts = lists
            .into_iter()
            .flatten()
            .chain(versions)
            .chain([&request.type_url, &request.version_info]);
        let longest = texts.map(String::len).max().unwrap_or_default();
        if longest > self.name_length {
            return Err(Abuse::LongName(longest, self.name_length));
        }
        let most = lists
            .map(Vec::len)
            .into_iter()
            .max()
            .unwrap_or_default()
            .max(request.initial_versions.len());
        self.check_total(most, lists.into_iter().flatten().map(String::len))
    }

    /// Checks what is remembered of a type: how many names there are, and how long all texts together.
    pub(super) fn check_total(
        &self,
        names: usize,
        texts: impl Iterator<Item = usize>,
    ) -> Result<(), Abuse> {
        if names > self.names {
            return Err(Abuse::TooManyNames(names, self.names));
        }
        let bytes = texts.sum();
        if bytes > self.bytes { Err(Abuse::TooManyBytes(bytes, self.bytes)) } else { Ok(()) }
    }
}

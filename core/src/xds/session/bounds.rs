//! What one stream may make Atlas remember, repeat or print: its client is another organisation's machine.

use super::{Abuse, Request};

/// Most characters that are kept of the reason of a refusal.
pub const MAX_REASON: usize = 2048;

/// What one stream may ask for, and how much it is told at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Most names that it may subscribe to per type.
    pub names: usize,
    /// Longest name, version or type, in bytes. Atlas's own have less than 100.
    pub name_length: usize,
    /// Most bytes of names and versions that it may have remembered per type.
    pub bytes: usize,
    /// About how many bytes of resources one response carries; one larger resource goes alone. Only what the incremental variant sends,
    /// and the state of the world where it may be told in parts, is cut into such pieces.
    pub response_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { names: 50_000, name_length: 1024, bytes: 16 << 20, response_bytes: 1 << 20 }
    }
}

impl Limits {
    /// Checks what a request alone brings.
    pub(super) fn check(&self, request: &Request) -> Result<(), Abuse> {
        let lists = [&request.subscribe, &request.unsubscribe, &request.names];
        let versions = request.initial_versions.iter().flat_map(|(name, version)| [name, version]);
        let texts = lists.into_iter().flatten().chain(versions).chain([&request.type_url, &request.version_info]);
        let longest = texts.map(String::len).max().unwrap_or_default();
        if longest > self.name_length {
            return Err(Abuse::LongName(longest, self.name_length));
        }
        let most = lists.map(Vec::len).into_iter().max().unwrap_or_default().max(request.initial_versions.len());
        self.check_total(most, lists.into_iter().flatten().map(String::len))
    }

    /// Checks what is remembered of a type: how many names there are, and how long all texts together.
    pub(super) fn check_total(&self, names: usize, texts: impl Iterator<Item = usize>) -> Result<(), Abuse> {
        if names > self.names {
            return Err(Abuse::TooManyNames(names, self.names));
        }
        let bytes = texts.sum();
        if bytes > self.bytes { Err(Abuse::TooManyBytes(bytes, self.bytes)) } else { Ok(()) }
    }
}

/// A client's words, fit for a terminal and a page: of bounded length, on one line, nothing that moves a cursor or turns
/// the direction of reading.
pub(super) fn plain(words: &str) -> String {
    let plain = |c: char| if c.is_control() || matches!(c, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}') { ' ' } else { c };
    words.chars().take(MAX_REASON).map(plain).collect()
}

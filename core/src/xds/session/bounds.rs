//! What one stream may make Atlas remember, repeat or print: its client is another organisation's machine.

use super::{Abuse, Request};

/// Most names one stream may subscribe to per type.
pub const MAX_NAMES: usize = 50_000;
/// Longest name, version or type, in bytes. Atlas's own have less than 100.
pub const MAX_NAME: usize = 1024;
/// Most bytes of names and versions that one stream may have remembered per type.
pub const MAX_BYTES: usize = 16 * 1024 * 1024;
/// Most characters that are kept of the reason of a refusal.
pub const MAX_REASON: usize = 2048;

/// Checks what a request alone brings.
pub(super) fn check(request: &Request) -> Result<(), Abuse> {
    let names = [&request.subscribe, &request.unsubscribe].into_iter().flatten();
    let versions = request.initial_versions.iter().flat_map(|(name, version)| [name, version]);
    let longest = names.chain(versions).chain([&request.type_url]).map(String::len).max().unwrap_or_default();
    if longest > MAX_NAME {
        return Err(Abuse::LongName(longest));
    }
    check_total(request.subscribe.len().max(request.initial_versions.len()), request.subscribe.iter().map(String::len))
}

/// Checks what is remembered of a type: how many names there are, and how long all texts together.
pub(super) fn check_total(names: usize, texts: impl Iterator<Item = usize>) -> Result<(), Abuse> {
    if names > MAX_NAMES {
        return Err(Abuse::TooManyNames(names));
    }
    let bytes = texts.sum();
    if bytes > MAX_BYTES { Err(Abuse::TooManyBytes(bytes)) } else { Ok(()) }
}

/// A client's words, fit for a terminal and a page: of bounded length, on one line, nothing that moves a cursor or turns
/// the direction of reading.
pub(super) fn plain(words: &str) -> String {
    let plain = |c: char| if c.is_control() || matches!(c, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}') { ' ' } else { c };
    words.chars().take(MAX_REASON).map(plain).collect()
}

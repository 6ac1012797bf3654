//! What requests are matched by.

use envoy_types::pb::envoy::config::route::v3 as route;
use envoy_types::pb::envoy::r#type::matcher::v3::{
    RegexMatchAndSubstitute, RegexMatcher, StringMatcher, string_matcher::MatchPattern,
};

fn matching(path: route::route_match::PathSpecifier) -> Option<route::RouteMatch> {
    Some(route::RouteMatch { path_specifier: Some(path), ..Default::default() })
}

pub(super) fn grpc() -> Option<route::RouteMatch> {
    let matches = matching(route::route_match::PathSpecifier::Prefix("/".into()))?;
    Some(route::RouteMatch { grpc: Some(route::route_match::GrpcRouteMatchOptions {}), ..matches })
}

pub(super) fn posted(path: &str) -> Option<route::RouteMatch> {
    Some(route::RouteMatch { headers: vec![method("POST")], ..exact_path(path)? })
}

pub(super) fn exact_path(path: &str) -> Option<route::RouteMatch> {
    matching(route::route_match::PathSpecifier::Path(path.to_owned()))
}

pub(super) fn path_prefix(path: &str) -> Option<route::RouteMatch> {
    matching(route::route_match::PathSpecifier::Prefix(path.to_owned()))
}

/// The path itself and everything below it, but not `/debugger` for `/debug`.
pub(super) fn path_segments(path: &str) -> Option<route::RouteMatch> {
    matching(route::route_match::PathSpecifier::PathSeparatedPrefix(path.to_owned()))
}

pub(super) fn path_regex(regex: &str) -> Option<route::RouteMatch> {
    matching(route::route_match::PathSpecifier::SafeRegex(safe_regex(regex)))
}

pub(super) fn safe_regex(regex: &str) -> RegexMatcher {
    RegexMatcher { regex: regex.to_owned(), ..Default::default() }
}

/// Regular expressions that together match everything but `word`, whatever its case. RE2 has no negation, so they go letter by letter;
/// each is small, since Envoy 1.36 refuses programs of more than 100 steps.
pub(super) fn all_but(word: &str) -> Vec<String> {
    let others =
        word.char_indices().map(|(at, letter)| format!("(?i){}([^{letter}].*)?", &word[..at]));
    others.chain([format!("(?i){word}.+")]).collect()
}

/// A regular expression for this text alone.
pub(super) fn literally(text: &str) -> String {
    text.replace('.', "\\.")
}

pub(super) fn rewrite(regex: &str, substitution: &str) -> RegexMatchAndSubstitute {
    RegexMatchAndSubstitute {
        pattern: Some(safe_regex(regex)),
        substitution: substitution.to_owned(),
    }
}

pub(super) fn method(method: &str) -> route::HeaderMatcher {
    let exactly = StringMatcher {
        match_pattern: Some(MatchPattern::Exact(method.to_owned())),
        ..Default::default()
    };
    header(":method", exactly)
}

/// A header's value begins so.
pub(super) fn starting(name: &str, prefix: &str) -> route::HeaderMatcher {
    header(
        name,
        StringMatcher {
            match_pattern: Some(MatchPattern::Prefix(prefix.to_owned())),
            ..Default::default()
        },
    )
}

/// A header's value is all of this.
pub(super) fn header_regex(name: &str, regex: &str) -> route::HeaderMatcher {
    header(
        name,
        StringMatcher {
            match_pattern: Some(MatchPattern::SafeRegex(safe_regex(regex))),
            ..Default::default()
        },
    )
}

pub(super) fn header(name: &str, value: StringMatcher) -> route::HeaderMatcher {
    let specifier = route::header_matcher::HeaderMatchSpecifier::StringMatch(value);
    route::HeaderMatcher {
        name: name.into(),
        header_match_specifier: Some(specifier),
        ..Default::default()
    }
}

/// Whatever its value.
pub(super) fn present(name: &str) -> route::HeaderMatcher {
    let specifier = route::header_matcher::HeaderMatchSpecifier::PresentMatch(true);
    route::HeaderMatcher {
        name: name.into(),
        header_match_specifier: Some(specifier),
        ..Default::default()
    }
}

/// Not there, or of this value.
pub(super) fn none_or(name: &str, value: &str) -> route::HeaderMatcher {
    route::HeaderMatcher {
        treat_missing_header_as_empty: true,
        ..header_regex(name, &format!("({})?", literally(value)))
    }
}

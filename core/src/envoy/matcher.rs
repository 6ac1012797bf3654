//! Matchers of requests: paths, methods and headers.

use envoy_types::pb::envoy::config::route::v3 as route;
use envoy_types::pb::envoy::r#type::matcher::v3::{
    RegexMatchAndSubstitute, RegexMatcher, StringMatcher, string_matcher::MatchPattern,
};
use route::route_match::PathSpecifier;

fn path(path: PathSpecifier) -> route::RouteMatch {
    route::RouteMatch { path_specifier: Some(path), ..Default::default() }
}

/// All gRPC requests.
pub(super) fn grpc() -> route::RouteMatch {
    let grpc = Some(route::route_match::GrpcRouteMatchOptions {});
    route::RouteMatch { grpc, ..path_prefix("/") }
}

pub(super) fn method_and_path(name: &str, path: &str) -> route::RouteMatch {
    route::RouteMatch { headers: vec![method(name)], ..exact_path(path) }
}

pub(super) fn exact_path(text: &str) -> route::RouteMatch {
    path(PathSpecifier::Path(text.to_owned()))
}

pub(super) fn path_prefix(text: &str) -> route::RouteMatch {
    path(PathSpecifier::Prefix(text.to_owned()))
}

/// The path and everything below it: `/debug` and `/debug/x`, but not `/debugger`.
pub(super) fn path_separated_prefix(text: &str) -> route::RouteMatch {
    path(PathSpecifier::PathSeparatedPrefix(text.to_owned()))
}

pub(super) fn path_regex(regex: &str) -> route::RouteMatch {
    path(PathSpecifier::SafeRegex(safe_regex(regex)))
}

pub(super) fn safe_regex(regex: &str) -> RegexMatcher {
    RegexMatcher { regex: regex.to_owned(), ..Default::default() }
}

/// Regular expressions that together match everything except `word`, ignoring case. RE2 has no
/// negation, so there is one for each letter. Each is small, because Envoy 1.36 rejects programs of
/// more than 100 instructions.
pub(super) fn regexes_of_all_but(word: &str) -> Vec<String> {
    let others =
        word.char_indices().map(|(at, letter)| format!("(?i){}([^{letter}].*)?", &word[..at]));
    others.chain([format!("(?i){word}.+")]).collect()
}

/// A regular expression that matches a URL path and nothing else. Of the characters that such a
/// path may have, only the dot has a meaning in regular expressions.
pub(super) fn escape_regex(text: &str) -> String {
    text.replace('.', "\\.")
}

pub(super) fn regex_rewrite(regex: &str, substitution: &str) -> RegexMatchAndSubstitute {
    RegexMatchAndSubstitute {
        pattern: Some(safe_regex(regex)),
        substitution: substitution.to_owned(),
    }
}

pub(super) fn method(name: &str) -> route::HeaderMatcher {
    header_pattern(":method", MatchPattern::Exact(name.to_owned()))
}

pub(super) fn header_prefix(name: &str, prefix: &str) -> route::HeaderMatcher {
    header_pattern(name, MatchPattern::Prefix(prefix.to_owned()))
}

/// The regular expression must match the whole value.
pub(super) fn header_regex(name: &str, regex: &str) -> route::HeaderMatcher {
    header_pattern(name, MatchPattern::SafeRegex(safe_regex(regex)))
}

fn header_pattern(name: &str, pattern: MatchPattern) -> route::HeaderMatcher {
    header(name, StringMatcher { match_pattern: Some(pattern), ..Default::default() })
}

/// The same, ignoring case.
pub(super) fn header_ignoring_case(name: &str, pattern: MatchPattern) -> route::HeaderMatcher {
    header(name, StringMatcher { match_pattern: Some(pattern), ignore_case: true })
}

fn header(name: &str, value: StringMatcher) -> route::HeaderMatcher {
    let specifier = route::header_matcher::HeaderMatchSpecifier::StringMatch(value);
    route::HeaderMatcher {
        name: name.into(),
        header_match_specifier: Some(specifier),
        ..Default::default()
    }
}

pub(super) fn header_present(name: &str) -> route::HeaderMatcher {
    let specifier = route::header_matcher::HeaderMatchSpecifier::PresentMatch(true);
    route::HeaderMatcher {
        name: name.into(),
        header_match_specifier: Some(specifier),
        ..Default::default()
    }
}

/// The header is absent, or has this value.
pub(super) fn header_absent_or(name: &str, value: &str) -> route::HeaderMatcher {
    route::HeaderMatcher {
        treat_missing_header_as_empty: true,
        ..header_regex(name, &format!("({})?", escape_regex(value)))
    }
}

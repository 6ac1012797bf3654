//! What requests are matched by.

use envoy_types::pb::envoy::config::route::v3 as route;
use envoy_types::pb::envoy::r#type::matcher::v3::{RegexMatchAndSubstitute, RegexMatcher, StringMatcher, string_matcher::MatchPattern};

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

pub(super) fn rewrite(regex: &str, substitution: &str) -> RegexMatchAndSubstitute {
    RegexMatchAndSubstitute { pattern: Some(safe_regex(regex)), substitution: substitution.to_owned() }
}

pub(super) fn method(method: &str) -> route::HeaderMatcher {
    route::HeaderMatcher {
        name: ":method".into(),
        header_match_specifier: Some(route::header_matcher::HeaderMatchSpecifier::StringMatch(StringMatcher {
            match_pattern: Some(MatchPattern::Exact(method.to_owned())),
            ..Default::default()
        })),
        ..Default::default()
    }
}

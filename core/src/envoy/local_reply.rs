//! Answers of Envoy's own: what people and Thanos read where a request can't be passed on.

use envoy_types::pb::envoy::config::accesslog::v3 as accesslog;
use envoy_types::pb::envoy::config::accesslog::v3::access_log_filter::FilterSpecifier;
use envoy_types::pb::envoy::config::core::v3::{
    self as core, SubstitutionFormatString, substitution_format_string::Format,
};
use envoy_types::pb::envoy::config::route::v3::HeaderMatcher;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3 as hcm;

use super::matcher::starting;
use super::{inline, number};

/// No Envoy cluster has the name that the request asks for.
const UNKNOWN: &[&str] = &["NC"];
/// No address is healthy, none answers, or the connection ended.
const UNREACHABLE: &[&str] = &["UH", "UF", "UC", "URX", "UT", "UR", "LR"];
/// As many requests as may be are under way there.
const TOO_MANY: &[&str] = &["UO"];
/// Envoy's answer to a request that takes longer than it may, for which it has no flag. No route has a timeout that would be answered so.
const TOO_LONG: u32 = 504;
/// What is said then.
const TOO_MANY_TEXT: &str =
    "Atlas: as many requests as may be are under way there already; try again later.";

/// What a gRPC request to a store hears: of a name that nothing has, of a cluster that can't be reached, and of an answer that takes too long.
pub(super) fn stores(
    unknown: SubstitutionFormatString,
    dead: SubstitutionFormatString,
    longest: u32,
) -> hcm::LocalReplyConfig {
    config(vec![
        mapper(flags(UNKNOWN), unknown),
        mapper(flags(UNREACHABLE), dead),
        mapper(status(TOO_LONG), plain(&too_long_text(longest))),
        mapper(flags(TOO_MANY), plain(TOO_MANY_TEXT)),
    ])
}

/// What a person hears at the hub, where `home` is the path of Atlas's own page. `atlas` is for everything but the clusters' web UIs, whose paths `of_cluster` matches.
pub(super) fn pages(
    unknown: SubstitutionFormatString,
    dead: SubstitutionFormatString,
    of_cluster: HeaderMatcher,
    atlas: SubstitutionFormatString,
    longest: u32,
    home: &str,
) -> hcm::LocalReplyConfig {
    let of_cluster = |other| both(headers(of_cluster.clone()), other);
    let text = format!("{} <a href=\"{home}\">All clusters.</a>", too_long_text(longest));
    config(vec![
        mapper(flags(UNKNOWN), unknown),
        mapper(of_cluster(flags(UNREACHABLE)), dead),
        mapper(
            of_cluster(status(TOO_LONG)),
            page("504 Gateway Timeout", "This took too long", &text),
        ),
        mapper(flags(UNREACHABLE), atlas.clone()),
        hcm::ResponseMapper { status_code: number(503), ..mapper(status(TOO_LONG), atlas) },
        mapper(flags(TOO_MANY), plain(TOO_MANY_TEXT)),
    ])
}

/// What a gRPC request hears in a cluster whose store can't be reached, and a person whose web UI can't.
pub(super) fn stores_and_pages(
    store: SubstitutionFormatString,
    page: SubstitutionFormatString,
    longest: u32,
) -> hcm::LocalReplyConfig {
    config(vec![
        mapper(
            both(headers(starting("content-type", "application/grpc")), flags(UNREACHABLE)),
            store,
        ),
        mapper(flags(UNREACHABLE), page),
        // The hub's Envoy says it first.
        mapper(status(TOO_LONG), plain(&too_long_text(longest))),
        mapper(flags(TOO_MANY), plain(TOO_MANY_TEXT)),
    ])
}

fn config(mappers: Vec<hcm::ResponseMapper>) -> hcm::LocalReplyConfig {
    hcm::LocalReplyConfig { mappers, ..Default::default() }
}

fn too_long_text(longest: u32) -> String {
    format!(
        "Atlas: the answer took longer than {longest} s, so the hub's Envoy ended it. Atlas's flag --max-request-duration sets how long a \
         request may take (in the chart atlas.maxRequestDuration)."
    )
}

/// A page for people. Nothing of the request may appear in it: it would be script on the hub's own origin.
pub(super) fn page(status: &str, title: &str, text: &str) -> SubstitutionFormatString {
    let html = format!(
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>{status}</title>\
         <body style=\"font:1rem/1.5 system-ui,sans-serif;max-width:40rem;margin:4rem auto;padding:0 1rem\">\
         <h1>{title}</h1><p>{text}</p><p><small>{status} · Atlas</small></p></body></html>\n"
    );
    format("text/html; charset=utf-8", html)
}

/// One line for a program's log. gRPC clients find it in `grpc-message`.
pub(super) fn plain(text: &str) -> SubstitutionFormatString {
    format("text/plain", text.to_owned())
}

fn format(content_type: &str, text: String) -> SubstitutionFormatString {
    SubstitutionFormatString {
        content_type: content_type.to_owned(),
        format: Some(Format::TextFormatSource(inline(text).unwrap_or_default())),
        ..Default::default()
    }
}

fn flags(flags: &[&str]) -> accesslog::AccessLogFilter {
    let flags = flags.iter().map(|flag| (*flag).to_owned()).collect();
    filter(FilterSpecifier::ResponseFlagFilter(accesslog::ResponseFlagFilter { flags }))
}

fn status(code: u32) -> accesslog::AccessLogFilter {
    // A runtime key must be there; nobody sets it.
    let value = core::RuntimeUInt32 { default_value: code, runtime_key: "atlas.status".into() };
    let comparison = accesslog::ComparisonFilter {
        op: accesslog::comparison_filter::Op::Eq.into(),
        value: Some(value),
    };
    filter(FilterSpecifier::StatusCodeFilter(accesslog::StatusCodeFilter {
        comparison: Some(comparison),
    }))
}

fn headers(matcher: HeaderMatcher) -> accesslog::AccessLogFilter {
    filter(FilterSpecifier::HeaderFilter(accesslog::HeaderFilter { header: Some(matcher) }))
}

fn both(
    one: accesslog::AccessLogFilter,
    other: accesslog::AccessLogFilter,
) -> accesslog::AccessLogFilter {
    filter(FilterSpecifier::AndFilter(accesslog::AndFilter { filters: vec![one, other] }))
}

fn filter(specifier: FilterSpecifier) -> accesslog::AccessLogFilter {
    accesslog::AccessLogFilter { filter_specifier: Some(specifier) }
}

fn mapper(
    filter: accesslog::AccessLogFilter,
    body: SubstitutionFormatString,
) -> hcm::ResponseMapper {
    hcm::ResponseMapper {
        filter: Some(filter),
        body_format_override: Some(body),
        ..Default::default()
    }
}

//! Answers of Envoy's own: what people and Thanos read where a request can't be passed on.

use envoy_types::pb::envoy::config::accesslog::v3 as accesslog;
use envoy_types::pb::envoy::config::accesslog::v3::access_log_filter::FilterSpecifier;
use envoy_types::pb::envoy::config::core::v3 as core;
use envoy_types::pb::envoy::config::route::v3::{HeaderMatcher, header_matcher::HeaderMatchSpecifier};
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3 as hcm;
use envoy_types::pb::envoy::r#type::matcher::v3::{StringMatcher, string_matcher::MatchPattern};

use super::inline;

/// No Envoy cluster has the name that the request asks for.
const UNKNOWN: &[&str] = &["NC"];
/// No address is healthy, none answers, or the connection ended.
const UNREACHABLE: &[&str] = &["UH", "UF", "UC", "URX", "UT", "UR", "LR"];
/// As many requests as may be are under way there.
const TOO_MANY: &[&str] = &["UO"];
/// What is said then.
const TOO_MANY_TEXT: &str = "Atlas: as many requests as may be are under way there already; try again later.";

/// What a request hears that names nothing, and one whose destination can't be reached.
pub(super) fn replies(unknown: core::SubstitutionFormatString, dead: core::SubstitutionFormatString) -> hcm::LocalReplyConfig {
    let mappers = vec![mapper(flags(UNKNOWN), unknown), mapper(flags(UNREACHABLE), dead), mapper(flags(TOO_MANY), plain(TOO_MANY_TEXT))];
    hcm::LocalReplyConfig { mappers, ..Default::default() }
}

/// What a gRPC request hears whose store can't be reached, and a person whose web UI can't.
pub(super) fn stores_and_pages(store: core::SubstitutionFormatString, page: core::SubstitutionFormatString) -> hcm::LocalReplyConfig {
    let grpc = HeaderMatcher {
        name: "content-type".into(),
        header_match_specifier: Some(HeaderMatchSpecifier::StringMatch(StringMatcher {
            match_pattern: Some(MatchPattern::Prefix("application/grpc".into())),
            ..Default::default()
        })),
        ..Default::default()
    };
    let grpc = filter(FilterSpecifier::HeaderFilter(accesslog::HeaderFilter { header: Some(grpc) }));
    let both = filter(FilterSpecifier::AndFilter(accesslog::AndFilter { filters: vec![grpc, flags(UNREACHABLE)] }));
    let mappers = vec![mapper(both, store), mapper(flags(UNREACHABLE), page), mapper(flags(TOO_MANY), plain(TOO_MANY_TEXT))];
    hcm::LocalReplyConfig { mappers, ..Default::default() }
}

/// A page for people. Nothing of the request may appear in it: it would be script on the hub's own origin.
pub(super) fn page(status: &str, title: &str, text: &str) -> core::SubstitutionFormatString {
    let html = format!(
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>{status}</title>\
         <body style=\"font:1rem/1.5 system-ui,sans-serif;max-width:40rem;margin:4rem auto;padding:0 1rem\">\
         <h1>{title}</h1><p>{text}</p><p><small>{status} · Atlas</small></p></body></html>\n"
    );
    format("text/html; charset=utf-8", html)
}

/// One line for a program's log. gRPC clients find it in `grpc-message`.
pub(super) fn plain(text: &str) -> core::SubstitutionFormatString {
    format("text/plain", text.to_owned())
}

fn format(content_type: &str, text: String) -> core::SubstitutionFormatString {
    core::SubstitutionFormatString {
        content_type: content_type.to_owned(),
        format: Some(core::substitution_format_string::Format::TextFormatSource(inline(text).unwrap_or_default())),
        ..Default::default()
    }
}

fn flags(flags: &[&str]) -> accesslog::AccessLogFilter {
    let flags = flags.iter().map(|flag| (*flag).to_owned()).collect();
    filter(FilterSpecifier::ResponseFlagFilter(accesslog::ResponseFlagFilter { flags }))
}

fn filter(specifier: FilterSpecifier) -> accesslog::AccessLogFilter {
    accesslog::AccessLogFilter { filter_specifier: Some(specifier) }
}

fn mapper(filter: accesslog::AccessLogFilter, body: core::SubstitutionFormatString) -> hcm::ResponseMapper {
    hcm::ResponseMapper { filter: Some(filter), body_format_override: Some(body), ..Default::default() }
}

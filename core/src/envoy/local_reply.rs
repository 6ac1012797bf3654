//! Local replies: what people and Thanos read if Envoy can't forward a request.

use envoy_types::pb::envoy::config::accesslog::v3 as accesslog;
use envoy_types::pb::envoy::config::accesslog::v3::access_log_filter::FilterSpecifier;
use envoy_types::pb::envoy::config::core::v3::{
    self as core, SubstitutionFormatString, substitution_format_string::Format,
};
use envoy_types::pb::envoy::config::route::v3::HeaderMatcher;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3 as hcm;

use super::matcher::header_prefix;
use super::{inline_string, uint32};

/// Response flags: the Envoy cluster that the request is for doesn't exist.
const UNKNOWN: &[&str] = &["NC"];
/// Response flags: no address is healthy, none accepts a connection, or the connection was closed.
const UNREACHABLE: &[&str] = &["UH", "UF", "UC", "URX", "UT", "UR", "LR"];
/// Response flag: a circuit breaker is open.
const OVERFLOW: &[&str] = &["UO"];
/// The status of a request that takes longer than `max_stream_duration`, which has no response
/// flag. No other local reply has this status, because routes have no timeout.
const GATEWAY_TIMEOUT: u32 = 504;
const OVERFLOW_TEXT: &str =
    "Atlas: as many requests as may be are under way there already; try again later.";

/// 10901: gRPC requests for stores. `unknown` is the reply for an unknown cluster, `unreachable`
/// for one that can't be reached.
pub(super) fn stores(
    unknown: SubstitutionFormatString,
    unreachable: SubstitutionFormatString,
    max_request_seconds: u32,
) -> hcm::LocalReplyConfig {
    config(vec![
        mapper(flags(UNKNOWN), unknown),
        mapper(flags(UNREACHABLE), unreachable),
        mapper(status(GATEWAY_TIMEOUT), plain(&timeout_text(max_request_seconds))),
        mapper(flags(OVERFLOW), plain(OVERFLOW_TEXT)),
    ])
}

/// 10904: requests for web UIs, whose paths `is_web_ui` matches, and for Atlas's own page. `atlas`
/// is the reply if Atlas can't be reached, `home` the path of its page.
pub(super) fn pages(
    unknown: SubstitutionFormatString,
    unreachable: SubstitutionFormatString,
    is_web_ui: HeaderMatcher,
    atlas: SubstitutionFormatString,
    max_request_seconds: u32,
    home: &str,
) -> hcm::LocalReplyConfig {
    let of_web_ui = |filter| both(headers(is_web_ui.clone()), filter);
    let timeout =
        format!("{} <a href=\"{home}\">All clusters.</a>", timeout_text(max_request_seconds));
    config(vec![
        mapper(flags(UNKNOWN), unknown),
        mapper(of_web_ui(flags(UNREACHABLE)), unreachable),
        mapper(
            of_web_ui(status(GATEWAY_TIMEOUT)),
            page("504 Gateway Timeout", "This took too long", &timeout),
        ),
        mapper(flags(UNREACHABLE), atlas.clone()),
        hcm::ResponseMapper { status_code: uint32(503), ..mapper(status(GATEWAY_TIMEOUT), atlas) },
        mapper(flags(OVERFLOW), plain(OVERFLOW_TEXT)),
    ])
}

/// 11901: `store` is the reply if a store can't be reached, `page` if the server of a web UI can't.
pub(super) fn stores_and_pages(
    store: SubstitutionFormatString,
    page: SubstitutionFormatString,
    max_request_seconds: u32,
) -> hcm::LocalReplyConfig {
    let grpc = headers(header_prefix("content-type", "application/grpc"));
    config(vec![
        mapper(both(grpc, flags(UNREACHABLE)), store),
        mapper(flags(UNREACHABLE), page),
        // Normally the hub's Envoy, which waits for less long, ends the request.
        mapper(status(GATEWAY_TIMEOUT), plain(&timeout_text(max_request_seconds))),
        mapper(flags(OVERFLOW), plain(OVERFLOW_TEXT)),
    ])
}

fn config(mappers: Vec<hcm::ResponseMapper>) -> hcm::LocalReplyConfig {
    hcm::LocalReplyConfig { mappers, ..Default::default() }
}

fn timeout_text(max_request_seconds: u32) -> String {
    format!(
        "Atlas: the answer took longer than {max_request_seconds} s, so the hub's Envoy ended it. Atlas's flag --max-request-duration sets how long a \
         request may take (in the chart atlas.maxRequestDuration)."
    )
}

/// A page for people. It must not contain anything of the request, which would be a script on the
/// hub's own origin.
pub(super) fn page(status: &str, title: &str, text: &str) -> SubstitutionFormatString {
    let html = format!(
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>{status}</title>\
         <body style=\"font:1rem/1.5 system-ui,sans-serif;max-width:40rem;margin:4rem auto;padding:0 1rem\">\
         <h1>{title}</h1><p>{text}</p><p><small>{status} · Atlas</small></p></body></html>\n"
    );
    format("text/html; charset=utf-8", html)
}

/// One line for the log of a program. gRPC clients get it as `grpc-message`.
pub(super) fn plain(text: &str) -> SubstitutionFormatString {
    format("text/plain", text.to_owned())
}

fn format(content_type: &str, text: String) -> SubstitutionFormatString {
    SubstitutionFormatString {
        content_type: content_type.to_owned(),
        format: Some(Format::TextFormatSource(inline_string(text).unwrap_or_default())),
        ..Default::default()
    }
}

fn flags(flags: &[&str]) -> accesslog::AccessLogFilter {
    let flags = flags.iter().map(|flag| (*flag).to_owned()).collect();
    filter(FilterSpecifier::ResponseFlagFilter(accesslog::ResponseFlagFilter { flags }))
}

fn status(code: u32) -> accesslog::AccessLogFilter {
    // Envoy requires a runtime key. Nothing sets this one.
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
    first: accesslog::AccessLogFilter,
    second: accesslog::AccessLogFilter,
) -> accesslog::AccessLogFilter {
    filter(FilterSpecifier::AndFilter(accesslog::AndFilter { filters: vec![first, second] }))
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

//! Web UIs: which headers pass between browsers and backends at 10904, and by which names a
//! cluster's Envoy asks for a backend.
//!
//! Downstream clusters aren't trusted, and their web UIs share one host, the hub's. So headers of
//! requests, from browsers and from proxies in front, pass only if they are known to hold no
//! credential, and headers of responses only if they affect nothing but the response.

use std::collections::BTreeSet;
use std::net::IpAddr;

use crate::model::HostHeader;
use crate::name::{CookieName, HeaderPattern, Host, HostPort};

/// Headers of requests to web UIs that pass; a `*` stands for any end.
pub const REQUEST_HEADERS: &[&str] = &[
    "accept",
    "accept-*",
    "access-control-request-*",
    "b3",
    "baggage",
    "cache-control",
    // The protocol of connectrpc.com, which needs no trailers.
    "connect-*",
    "connection",
    "content-*",
    "date",
    "dnt",
    "expect",
    "forwarded",
    // gRPC-Web, whose trailers are in the body. gRPC itself needs trailers, which don't pass.
    "grpc-accept-encoding",
    "grpc-encoding",
    "grpc-timeout",
    "if-*",
    "last-event-id",
    "origin",
    "pragma",
    "prefer",
    "priority",
    "range",
    "referer",
    "save-data",
    "sec-ch-*",
    "sec-fetch-*",
    "sec-gpc",
    "sec-purpose",
    "sec-websocket-*",
    "te",
    "traceparent",
    "tracestate",
    "transfer-encoding",
    "upgrade",
    "upgrade-insecure-requests",
    "user-agent",
    "via",
    "x-b3-*",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-port",
    "x-forwarded-proto",
    "x-grpc-web",
    "x-prometheus-*",
    "x-real-ip",
    "x-request-id",
    "x-requested-with",
];

/// Headers of responses of web UIs that pass; a `*` stands for any end.
pub const RESPONSE_HEADERS: &[&str] = &[
    "accept-ranges",
    "access-control-*",
    "age",
    "allow",
    "cache-control",
    "connect-*",
    "connection",
    "content-*",
    "cross-origin-*",
    "date",
    "etag",
    "expires",
    "grpc-accept-encoding",
    "grpc-encoding",
    "grpc-message",
    "grpc-status",
    "grpc-status-details-bin",
    "last-modified",
    "link",
    "location",
    "permissions-policy",
    "pragma",
    "referrer-policy",
    "refresh",
    "retry-after",
    "sec-websocket-*",
    "server",
    "server-timing",
    "timing-allow-origin",
    "transfer-encoding",
    "upgrade",
    "vary",
    "via",
    "warning",
    "x-accel-buffering",
    "x-content-type-options",
    "x-envoy-upstream-service-time",
    "x-frame-options",
    "x-prometheus-*",
    "x-request-id",
    "x-robots-tag",
    "x-xss-protection",
];

/// Headers by which a response asks for a credential. They pass if the credential does.
const CHALLENGES: &[(&str, &[&str])] = &[
    ("authorization", &["authentication-info", "www-authenticate"]),
    ("proxy-authorization", &["proxy-authenticate"]),
];

/// Headers of requests that the route removes too, in case the script fails: the tokens of proxies
/// that authenticate people.
const TOKEN_HEADERS: &[&str] = &[
    "authorization",
    "cf-access-jwt-assertion",
    "cf-access-token",
    "proxy-authorization",
    "x-access-token",
    "x-amzn-oidc-accesstoken",
    "x-amzn-oidc-data",
    "x-api-key",
    "x-auth-request-access-token",
    "x-authentik-jwt",
    "x-forwarded-access-token",
    "x-goog-iap-jwt-assertion",
    "x-id-token",
    "x-ms-token-aad-access-token",
    "x-ms-token-aad-id-token",
    "x-pomerium-jwt-assertion",
    "x-vouch-idp-accesstoken",
    "x-vouch-idp-idtoken",
];

/// Headers of responses that the route removes too: they would affect the whole host, or a proxy in
/// front.
const HOST_WIDE_HEADERS: &[&str] = &[
    "alt-svc",
    "clear-site-data",
    "nel",
    "report-to",
    "reporting-endpoints",
    "service-worker-allowed",
    "strict-transport-security",
    "x-accel-redirect",
];

/// The settings of 10904.
#[derive(Clone, Debug)]
pub struct WebEntry<'a> {
    /// The address on which the hub's Envoy listens.
    pub bind: IpAddr,
    /// How many proxies in front are trusted to extend `x-forwarded-for`.
    pub trusted_hops: u32,
    /// The path of `--web-url`: empty, or with a slash at its start and none at its end.
    pub path: &'a str,
    /// Headers that pass beside [`REQUEST_HEADERS`] and [`RESPONSE_HEADERS`].
    pub pass_headers: &'a BTreeSet<HeaderPattern>,
    /// Cookies that pass to all web UIs.
    pub pass_cookies: &'a BTreeSet<CookieName>,
}

impl WebEntry<'_> {
    /// Headers that the route removes from requests.
    pub(super) fn removed_from_requests(&self) -> Vec<String> {
        self.without_configured(TOKEN_HEADERS)
    }

    /// Headers that the route removes from responses.
    pub(super) fn removed_from_responses(&self) -> Vec<String> {
        self.without_configured(HOST_WIDE_HEADERS)
    }

    fn without_configured(&self, names: &[&str]) -> Vec<String> {
        let passes = |name: &str| self.pass_headers.iter().any(|pattern| pattern.names(name));
        names.iter().filter(|name| !passes(name)).map(|name| (*name).to_owned()).collect()
    }

    /// Headers of requests that the hub's Envoy passes on; a `*` stands for any end.
    pub(super) fn passed_request_headers(&self) -> BTreeSet<&str> {
        REQUEST_HEADERS.iter().copied().chain(self.configured_headers()).collect()
    }

    /// Headers of responses that the hub's Envoy passes on; a `*` stands for any end.
    pub(super) fn passed_response_headers(&self) -> BTreeSet<&str> {
        let mut headers: BTreeSet<&str> = RESPONSE_HEADERS.iter().copied().collect();
        headers.extend(self.configured_headers());
        for (credential, challenges) in CHALLENGES {
            if self.configured_headers().any(|name| name == *credential) {
                headers.extend(*challenges);
            }
        }
        headers
    }

    fn configured_headers(&self) -> impl Iterator<Item = &str> {
        self.pass_headers.iter().map(HeaderPattern::as_str)
    }
}

/// One web UI of a cluster.
#[derive(Clone, Debug)]
pub struct WebUi<'a> {
    /// `prometheus` or `alertmanager`.
    pub kind: &'a str,
    /// Its path on the hub: `/prom/tokyo`.
    pub base: &'a str,
    /// The backend's own path prefix: empty, or with a slash at its start and none at its end.
    pub backend_prefix: &'a str,
    /// The address of the backend.
    pub address: &'a HostPort,
    /// Which `Host` the backend gets.
    pub host: &'a HostHeader,
}

impl WebUi<'_> {
    /// The `Host` that the backend gets; `None`: the one that the browser asked for.
    pub(super) fn authority(&self) -> Option<String> {
        match self.host {
            HostHeader::Own => Some(match self.address.port {
                80 => host_in_url(&self.address.host),
                _ => self.address.to_string(),
            }),
            HostHeader::Named(host) => Some(host.clone()),
            HostHeader::Hub => None,
        }
    }

    /// The hosts by which the backend may name itself in a redirect, in lower case, with and
    /// without its port.
    pub(super) fn names(&self) -> BTreeSet<String> {
        let mut hosts = BTreeSet::from([host_in_url(&self.address.host)]);
        if let Host::Name(name) = &self.address.host {
            // The short names of a Service: prometheus, prometheus.monitoring,
            // prometheus.monitoring.svc.
            let labels: Vec<&str> = name.split('.').collect();
            if labels.get(2) == Some(&"svc") {
                hosts.extend((1..=3).map(|count| labels[..count].join(".")));
            }
        }
        let with_port = hosts.iter().map(|host| format!("{host}:{}", self.address.port));
        let mut names: BTreeSet<String> = hosts.iter().cloned().chain(with_port).collect();
        if let HostHeader::Named(host) = self.host {
            names.insert(host.clone());
            names.extend(
                host.rsplit_once(':')
                    .filter(|(_, port)| !port.ends_with(']'))
                    .map(|(name, _)| name.to_owned()),
            );
        }
        names.into_iter().map(|name| name.to_ascii_lowercase()).collect()
    }
}

/// A host as in a URL: IPv6 addresses in brackets.
fn host_in_url(host: &Host) -> String {
    match host {
        Host::Ip(IpAddr::V6(ip)) => format!("[{ip}]"),
        host => host.to_string(),
    }
}

#[cfg(test)]
pub(in crate::envoy) mod tests;

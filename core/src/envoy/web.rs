//! What 10904 lets through to web UIs and back, and how a cluster's Envoy asks a backend.
//!
//! Downstream clusters aren't trusted, and all their web UIs are below one host, the hub's. So what a person's browser sends
//! to that host, and what a proxy in front adds, passes only where it is known to be no credential; and of an answer only
//! what concerns the answer itself, not the host.

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
    // The protocol of connectrpc.com, which has no trailers: a stream's are in its body.
    "connect-*",
    "connection",
    "content-*",
    "date",
    "dnt",
    "expect",
    "forwarded",
    // Of gRPC-Web, whose trailers are in the body. gRPC itself needs real ones, which don't pass.
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

/// Headers of answers from web UIs that pass; a `*` stands for any end.
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

/// Headers by which an answer asks for a credential: they pass where that credential does.
const CHALLENGES: &[(&str, &[&str])] = &[
    ("authorization", &["authentication-info", "www-authenticate"]),
    ("proxy-authorization", &["proxy-authenticate"]),
];

/// Headers of requests that are removed behind the script too, in case that it fails: what proxies that log people in call their tokens.
const TOKENS: &[&str] = &[
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

/// The same of answers: what would count for the host under which all web UIs are, or for the proxy in front.
const FOR_THE_WHOLE_HOST: &[&str] = &[
    "alt-svc",
    "clear-site-data",
    "nel",
    "report-to",
    "reporting-endpoints",
    "service-worker-allowed",
    "strict-transport-security",
    "x-accel-redirect",
];

/// How people reach the web UIs, for 10904.
#[derive(Clone, Debug)]
pub struct WebEntry<'a> {
    /// Where the hub's Envoy binds.
    pub bind: IpAddr,
    /// Proxies in front whose `x-forwarded-for` counts.
    pub trusted_hops: u32,
    /// The path of `--web-url`: empty, or `/` and no slash at the end.
    pub path: &'a str,
    /// Headers that pass beside those above.
    pub pass_headers: &'a BTreeSet<HeaderPattern>,
    /// Cookies that pass.
    pub pass_cookies: &'a BTreeSet<CookieName>,
}

impl WebEntry<'_> {
    /// Headers that no request keeps, whatever the script does.
    pub(super) fn removed_from_requests(&self) -> Vec<String> {
        self.unless_named(TOKENS)
    }

    /// Headers that no answer keeps, whatever the script does.
    pub(super) fn removed_from_responses(&self) -> Vec<String> {
        self.unless_named(FOR_THE_WHOLE_HOST)
    }

    fn unless_named(&self, names: &[&str]) -> Vec<String> {
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

/// One web UI of a cluster, as its Envoy sees it.
#[derive(Clone, Debug)]
pub struct WebUi<'a> {
    /// `prometheus` or `alertmanager`.
    pub kind: &'a str,
    /// Where it hangs on the hub, e.g. `/prom/tokyo`; no slash at the end.
    pub base: &'a str,
    /// The backend's own prefix: empty, or `/` and no slash at the end.
    pub backend_prefix: &'a str,
    /// Where the backend listens.
    pub at: &'a HostPort,
    /// The `Host` that it sees.
    pub host: &'a HostHeader,
}

impl WebUi<'_> {
    /// The `Host` that the backend sees; `None`: what the person's browser asked for.
    pub(super) fn authority(&self) -> Option<String> {
        match self.host {
            HostHeader::Own => Some(match self.at.port {
                80 => bracketed(&self.at.host),
                _ => self.at.to_string(),
            }),
            HostHeader::Named(host) => Some(host.clone()),
            HostHeader::Hub => None,
        }
    }

    /// Every host by which it may call itself in a redirect, in lower case, with and without its port.
    pub(super) fn names(&self) -> BTreeSet<String> {
        let mut hosts = BTreeSet::from([bracketed(&self.at.host)]);
        if let Host::Name(name) = &self.at.host {
            // What Kubernetes completes: prometheus, prometheus.monitoring, prometheus.monitoring.svc.
            let labels: Vec<&str> = name.split('.').collect();
            if labels.get(2) == Some(&"svc") {
                hosts.extend((1..=3).map(|count| labels[..count].join(".")));
            }
        }
        let with_port = hosts.iter().map(|host| format!("{host}:{}", self.at.port));
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

/// A host as it stands in a URL.
fn bracketed(host: &Host) -> String {
    match host {
        Host::Ip(IpAddr::V6(ip)) => format!("[{ip}]"),
        host => host.to_string(),
    }
}

#[cfg(test)]
pub(in crate::envoy) mod tests;

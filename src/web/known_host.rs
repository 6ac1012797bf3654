//! Protection against DNS rebinding: a page of another site whose name has been pointed at Atlas's
//! address must not be able to read Atlas's page or API through a visitor's browser.

use std::net::IpAddr;

use axum::extract::Request;
use axum::http::{StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

/// Answers requests whose `Host` is an IP address, `localhost` or the name that the hub's Envoy
/// uses, and no others. Requests through the hub's Envoy may come under any name: there the ingress
/// in front knows the right ones.
pub async fn require(request: Request, next: Next) -> Response {
    let host = request.headers().get(header::HOST);
    let host = host.and_then(|host| host.to_str().ok()).unwrap_or_default();
    if is_known(host) {
        return next.run(request).await;
    }
    (
        StatusCode::MISDIRECTED_REQUEST,
        "open this page through the hub's Envoy, or by an IP address\n",
    )
        .into_response()
}

fn is_known(host: &str) -> bool {
    let name = without_port(host);
    let is_address = name.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>().is_ok();
    is_address || name == "localhost" || name == atlas_core::envoy::ATLAS_AUTHORITY
}

/// An IPv6 address without brackets has no port, although it has colons.
fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, _)) if !name.contains(':') || name.ends_with(']') => name,
        _ => host,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_and_the_names_of_atlas_are_known_hosts() {
        for host in ["10.0.0.1", "10.0.0.1:6310", "[::1]:6310", "::1", "localhost:6310"] {
            assert!(is_known(host), "{host}");
        }
        assert!(is_known(atlas_core::envoy::ATLAS_AUTHORITY));
        for host in ["", "example.com", "example.com:6310", "localhost.example.com", "10.0.0.1.x"] {
            assert!(!is_known(host), "{host}");
        }
    }
}

//! A launcher for each real program: from options to a running program, with methods for the
//! requests that tests make.
//!
//! A launcher starts its program on a [`Host`]; a `wait_…` method waits until the program reports
//! that it is ready. Requests to a program are made from its own host, so they work on loopback
//! addresses and while the link is down. Each struct owns its [`Proc`] as `process`: dropping it
//! ends the program.
//!
//! Architecture invariant: programs are given as paths; nothing here downloads, builds or searches
//! for them. Only Kubernetes and Helm, of which each test uses the one pinned version, are taken
//! from [`parts`](crate::parts).

mod alertmanager;
pub mod bind;
mod coredns;
mod envoy;
mod helm;
pub mod kube;
mod kubelet;
mod prometheus;
mod thanos;

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Result, ensure};

use crate::http::{self, Response};
use crate::process::Proc;
use crate::world::Host;

pub use alertmanager::{Alertmanager, AlertmanagerOptions};
pub use bind::Named;
pub use coredns::{CoreDns, Corefile};
pub use envoy::{Envoy, EnvoyOptions, validate};
pub use helm::{helm_install, helm_lint, helm_template, helm_template_text, helm_uninstall};
pub use kube::{Client, Kube, Pace};
pub use kubelet::{Kubelet, Pod, PodOptions};
pub use prometheus::{Prometheus, PrometheusOptions};
pub use thanos::{Endpoints, Query, QueryAnswer, QueryOptions, Sidecar, SidecarOptions, StoreInfo};

/// How long a program may take to be ready: with both cores busy, Envoy and Thanos take seconds.
pub const START: Duration = Duration::from_secs(30);

/// Labels from pairs: `labels([("cluster", "tokyo")])`.
pub fn labels<'a>(pairs: impl IntoIterator<Item = (&'a str, &'a str)>) -> BTreeMap<String, String> {
    pairs.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

/// The path prefix of Prometheus and Alertmanager, without a slash at its end: the route prefix,
/// which by default is the external URL's path.
fn prefix(route_prefix: Option<&str>, external_url: Option<&str>) -> String {
    let of_url = || {
        let (_, authority_and_path) = external_url?.split_once("://")?;
        authority_and_path.find('/').map(|start| &authority_and_path[start..])
    };
    route_prefix.or_else(of_url).unwrap_or_default().trim_end_matches('/').to_owned()
}

/// Percent-encodes everything but letters and digits, for a URL's query.
fn percent_encoded(text: &str) -> String {
    let encode = |byte: u8| {
        if byte.is_ascii_alphanumeric() {
            char::from(byte).to_string()
        } else {
            format!("%{byte:02X}")
        }
    };
    text.bytes().map(encode).collect()
}

/// A program's web server, requested from the program's own host.
#[derive(Debug, Clone)]
struct Web {
    host: Host,
    /// `http://address:port`, with a path prefix without a slash at its end where the program has
    /// one.
    base: String,
}

impl Web {
    fn new(host: &Host, address: impl std::fmt::Display, prefix: &str) -> Self {
        Self {
            host: host.clone(),
            base: format!("http://{address}{}", prefix.trim_end_matches('/')),
        }
    }

    /// `GET`, whatever the status.
    fn get(&self, path: &str, timeout: Duration) -> Result<Response> {
        let url = format!("{}{path}", self.base);
        self.host.within(|| http::get_within(timeout, &url))
    }

    /// `POST` of a body of one media type, whatever the status.
    fn post(&self, path: &str, media_type: &str, body: Vec<u8>) -> Result<Response> {
        let url = format!("{}{path}", self.base);
        self.host.within(|| {
            http::Request::new("POST", url)?.header("content-type", media_type).body(body).send()
        })
    }

    /// Waits until `GET path` has the status 200.
    fn wait_ok(&self, process: &mut Proc, path: &str) -> Result<()> {
        process.wait_until(&format!("GET {}{path} answers 200", self.base), START, || {
            let answer = self.get(path, Duration::from_secs(2))?;
            ensure!(answer.status == 200, "status {}: {}", answer.status, answer.text());
            Ok(Some(()))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_prefix_is_the_external_urls_path_unless_a_route_prefix_is_given() {
        assert_eq!(prefix(None, None), "");
        assert_eq!(prefix(None, Some("http://hub:10904")), "");
        assert_eq!(prefix(None, Some("https://hub/prom/tokyo/")), "/prom/tokyo");
        assert_eq!(prefix(Some("/"), Some("https://hub/prom/tokyo/")), "");
    }

    #[test]
    fn promql_survives_in_a_url() {
        assert_eq!(percent_encoded("sum(up)"), "sum%28up%29");
    }
}

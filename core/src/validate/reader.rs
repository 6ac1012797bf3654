//! Reads the keys of one cluster's Service and collects findings about them.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::ops::RangeInclusive;
use std::str::FromStr;

use super::{Finding, LOCAL, Severity, finding_about, is_refused};
use crate::annotations;
use crate::manifest::Service;
use crate::model::Settings;
use crate::name::{Host, HostPort, NameError, is_dns_label, parse_path_prefix};

/// Reads one Service. A method that returns `None` for a key that is there has reported a finding.
pub(super) struct ServiceReader<'a> {
    pub(super) settings: &'a Settings,
    pub(super) service: &'a Service,
    pub(super) findings: Vec<Finding>,
}

impl<'a> ServiceReader<'a> {
    pub(super) fn new(settings: &'a Settings, service: &'a Service) -> Self {
        Self { settings, service, findings: Vec::new() }
    }

    /// The value of a label or annotation, without blanks around it. An empty value counts as
    /// absent.
    pub(super) fn value(&self, key: &str) -> Option<&'a str> {
        let meta = &self.service.meta;
        let value = if annotations::CLUSTER_LABELS.contains(&key) {
            meta.labels.get(key)
        } else {
            meta.annotations.get(key)
        };
        value.map(|value| value.trim()).filter(|value| !value.is_empty())
    }

    /// Whether a finding rejects the Service.
    pub(super) fn is_rejected(&self) -> bool {
        self.findings.iter().any(|finding| finding.severity == Severity::Rejected)
    }

    /// Adds a finding about `key`.
    pub(super) fn report(
        &mut self,
        severity: Severity,
        key: &str,
        value: &str,
        problem: impl Display,
        fix: impl Display,
    ) {
        self.findings.push(Finding {
            severity,
            problem: problem.to_string(),
            fix: fix.to_string(),
            ..finding_about(self.settings, "Service", &self.service.meta, key, value)
        });
    }

    /// Adds a finding that rejects the Service.
    pub(super) fn reject<T>(
        &mut self,
        key: &str,
        value: &str,
        problem: impl Display,
        fix: impl Display,
    ) -> Option<T> {
        self.report(Severity::Rejected, key, value, problem, fix);
        None
    }

    /// A decimal number within `range`; a finding of `severity` for anything else.
    pub(super) fn number<N>(
        &mut self,
        key: &str,
        range: RangeInclusive<N>,
        severity: Severity,
    ) -> Option<N>
    where
        N: FromStr + PartialOrd + Display,
    {
        let value = self.value(key)?;
        let digits = value.bytes().all(|b| b.is_ascii_digit());
        match value.parse::<N>() {
            Ok(number) if digits && range.contains(&number) => Some(number),
            _ => {
                let (low, high) = (range.start(), range.end());
                self.report(
                    severity,
                    key,
                    value,
                    "is not a number in range",
                    format!("write a whole number from {low} to {high}"),
                );
                None
            }
        }
    }

    /// The address of a Service inside the downstream cluster: its host from `key`, its port from
    /// `port_key`.
    pub(super) fn backend(
        &mut self,
        key: &str,
        default: &str,
        port_key: &str,
        default_port: u16,
    ) -> Option<HostPort> {
        let port = self.number(port_key, 1..=u16::MAX, Severity::Rejected).unwrap_or(default_port);
        let host = match self.value(key) {
            None => default.parse().map_err(|error: NameError| (default, error)),
            Some(value) => value.parse::<Host>().map_err(|error| (value, error)),
        };
        match host {
            Ok(host) => {
                let at = self.reject_local(key, HostPort::new(host, port))?;
                Some(HostPort::new(self.complete_host(at.host), port))
            }
            Err((value, error)) => self.reject(
                key,
                value,
                error,
                "write the service's DNS name or IP address, without a port",
            ),
        }
    }

    /// A comma-separated list of `host[:port]` without duplicates. `None` where the key is absent
    /// or invalid.
    pub(super) fn hosts(&mut self, key: &str, default_port: u16) -> Option<Vec<HostPort>> {
        let value = self.value(key)?;
        let parts = value.split(',').map(str::trim).filter(|part| !part.is_empty());
        self.parse_hosts(key, parts, default_port)
    }

    /// Like [`Self::hosts`], for texts that are already split.
    pub(super) fn parse_hosts<'t>(
        &mut self,
        key: &str,
        parts: impl Iterator<Item = &'t str>,
        default_port: u16,
    ) -> Option<Vec<HostPort>> {
        let mut hosts = Vec::new();
        for part in parts {
            let host = match HostPort::parse(part, default_port) {
                Ok(host) => self.reject_local(key, host)?,
                Err(error) => {
                    return self.reject(key, part, error, "write `host`, `host:port`, `1.2.3.4` or `[fd00::1]:port`, separated by commas");
                }
            };
            if !hosts.contains(&host) {
                hosts.push(host);
            }
        }
        Some(hosts)
    }

    /// Rejects a local address, see [`Host::is_local`], unless the settings allow it.
    pub(super) fn reject_local(&mut self, key: &str, at: HostPort) -> Option<HostPort> {
        if is_refused(self.settings, &at.host) {
            let fix =
                "write the cluster's real address (or start Atlas with --allow-local-addresses)";
            return self.reject(key, &at.to_string(), LOCAL, fix);
        }
        Some(at)
    }

    /// Appends the cluster domain to `service.namespace` and `service.namespace.svc`. Atlas 0.3
    /// left that to the Envoy's DNS search list.
    pub(super) fn complete_host(&self, host: Host) -> Host {
        let Host::Name(name) = &host else { return host };
        let domain = &self.settings.cluster_domain;
        match name.split('.').collect::<Vec<_>>().as_slice() {
            [service, namespace] if is_dns_label(service) && is_dns_label(namespace) => {
                Host::Name(format!("{name}.svc.{domain}"))
            }
            [.., "svc"] => Host::Name(format!("{name}.{domain}")),
            _ => host,
        }
    }

    /// Appends namespace and domain to a single label too. A pod's name is put before the result,
    /// and resolvers use no search list for a name with dots. A label without a pod before it stays
    /// as it is, as in Atlas 0.3: it may be a Service in the Envoy's namespace, or a name that only
    /// the Envoy's `/etc/hosts` or its container network has.
    pub(super) fn complete_pod_domain(&self, service: &str) -> String {
        match service.contains('.') {
            true => service.to_owned(),
            false => format!(
                "{service}.{}.svc.{}",
                self.settings.downstream_namespace, self.settings.cluster_domain
            ),
        }
    }

    /// A path prefix, see [`parse_path_prefix`]; empty where the key is absent.
    pub(super) fn path_prefix(&mut self, key: &str) -> Option<String> {
        match self.value(key) {
            None => Some(String::new()),
            Some(value) => match parse_path_prefix(value) {
                Some(prefix) => Some(prefix),
                None => self.reject(
                    key,
                    value,
                    "is not a path prefix",
                    "write an absolute path such as `/prometheus`",
                ),
            },
        }
    }
}

/// Reads the equality requirements of a label selector, as `kubectl -l` does:
/// `key=value,key=value`, or with `==`.
///
/// # Errors
/// Another form of requirement, or no requirement at all.
pub fn parse_selector(text: &str) -> Result<BTreeMap<String, String>, NameError> {
    let mut labels = BTreeMap::new();
    for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
        let invalid = || match part == text.trim() {
            true => NameError("is not `key=value`".into()),
            false => NameError(format!("has {part:?}, which is not `key=value`")),
        };
        let (key, value) = part.split_once('=').ok_or_else(invalid)?;
        let value = value.strip_prefix('=').unwrap_or(value);
        let is_allowed = |b: u8| b.is_ascii_alphanumeric() || b"-_./".contains(&b);
        if key.is_empty()
            || key.ends_with('!')
            || !key.bytes().all(is_allowed)
            || !value.bytes().all(is_allowed)
        {
            return Err(invalid());
        }
        labels.insert(key.to_owned(), value.to_owned());
    }
    if labels.is_empty() { Err(NameError("selects nothing".into())) } else { Ok(labels) }
}

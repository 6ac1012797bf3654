//! Reads the keys of one Service and collects what is wrong with them.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::ops::RangeInclusive;
use std::str::FromStr;

use super::{Finding, LOCAL, Severity, finding_about, is_refused};
use crate::annotations;
use crate::manifest::Service;
use crate::model::Settings;
use crate::name::{Host, HostPort, NameError, is_dns_label, parse_path_prefix};

/// One Service being read. Methods return `None` where they reported a mistake that rejects the Service.
pub(super) struct Reader<'a> {
    pub(super) settings: &'a Settings,
    pub(super) service: &'a Service,
    pub(super) findings: Vec<Finding>,
}

impl<'a> Reader<'a> {
    pub(super) fn new(settings: &'a Settings, service: &'a Service) -> Self {
        Self { settings, service, findings: Vec::new() }
    }

    /// The value of a key, without surrounding blanks; an empty one counts as not given.
    pub(super) fn value(&self, key: &str) -> Option<&'a str> {
        let meta = &self.service.meta;
        let value = if annotations::CLUSTER_LABELS.contains(&key) {
            meta.labels.get(key)
        } else {
            meta.annotations.get(key)
        };
        value.map(|value| value.trim()).filter(|value| !value.is_empty())
    }

    /// Whether something has been found that rejects the Service.
    pub(super) fn rejected(&self) -> bool {
        self.findings.iter().any(|finding| finding.severity == Severity::Rejected)
    }

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

    /// A decimal number within a range.
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

    /// A service inside the downstream cluster: a host by `key`, its port by `port_key`.
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
                let at = self.not_local(key, HostPort::new(host, port))?;
                Some(HostPort::new(self.complete(at.host), port))
            }
            Err((value, error)) => self.reject(
                key,
                value,
                error,
                "write the service's DNS name or IP address, without a port",
            ),
        }
    }

    /// A comma-separated list of `host[:port]`, without repetitions; `None` where the key is absent or wrong.
    pub(super) fn hosts(&mut self, key: &str, default_port: u16) -> Option<Vec<HostPort>> {
        let value = self.value(key)?;
        let parts = value.split(',').map(str::trim).filter(|part| !part.is_empty());
        self.parse_hosts(key, parts, default_port)
    }

    /// The same for texts that are apart already.
    pub(super) fn parse_hosts<'t>(
        &mut self,
        key: &str,
        parts: impl Iterator<Item = &'t str>,
        default_port: u16,
    ) -> Option<Vec<HostPort>> {
        let mut hosts = Vec::new();
        for part in parts {
            let host = match HostPort::parse(part, default_port) {
                Ok(host) => self.not_local(key, host)?,
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

    /// Refuses addresses that lead to the Envoy's own machine, its neighbours or a metadata service.
    pub(super) fn not_local(&mut self, key: &str, at: HostPort) -> Option<HostPort> {
        if is_refused(self.settings, &at.host) {
            let fix =
                "write the cluster's real address (or start Atlas with --allow-local-addresses)";
            return self.reject(key, &at.to_string(), LOCAL, fix);
        }
        Some(at)
    }

    /// Completes `service.namespace` and `service.namespace.svc`, which people could write while a search list stood behind them.
    pub(super) fn complete(&self, host: Host) -> Host {
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

    /// Completes a single label too, since a pod's name is to stand before it: the two together have a dot, behind which no
    /// search list stands. A single label alone is left to the Envoy's search list, as in Atlas 0.3: it may be a Service of the
    /// Envoy's own namespace, or a name that only its `/etc/hosts` or its container network has.
    pub(super) fn complete_before_a_pod(&self, service: &str) -> String {
        match service.contains('.') {
            true => service.to_owned(),
            false => format!(
                "{service}.{}.svc.{}",
                self.settings.downstream_namespace, self.settings.cluster_domain
            ),
        }
    }

    /// A path prefix: empty, or `/` and no slash at the end.
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

/// Reads `key=value,key=value`, as `kubectl -l` does for equality; `==` too.
pub fn parse_selector(text: &str) -> Result<BTreeMap<String, String>, NameError> {
    let mut labels = BTreeMap::new();
    for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
        let wrong = || match part == text.trim() {
            true => NameError("is not `key=value`".into()),
            false => NameError(format!("has {part:?}, which is not `key=value`")),
        };
        let (key, value) = part.split_once('=').ok_or_else(wrong)?;
        let value = value.strip_prefix('=').unwrap_or(value);
        let fine = |b: u8| b.is_ascii_alphanumeric() || b"-_./".contains(&b);
        if key.is_empty()
            || key.ends_with('!')
            || !key.bytes().all(fine)
            || !value.bytes().all(fine)
        {
            return Err(wrong());
        }
        labels.insert(key.to_owned(), value.to_owned());
    }
    if labels.is_empty() { Err(NameError("selects nothing".into())) } else { Ok(labels) }
}

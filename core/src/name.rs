//! Names, addresses and paths. A value of one of these types has been checked when it was parsed.
//!
//! An error's text begins with a verb (`is not a port`): the caller puts object, key and value
//! before it.

mod local;
mod path;
mod web;

pub use local::bindable;
pub use path::{is_within_path, parse_path_prefix};
pub use web::{CookieName, HeaderPattern, UI_COOKIE, WEB_PATH_MAX, WebUrl};

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use crate::object_names::HUB_STORES;

/// Why a text is not valid, in words that may follow the text itself: `is not a port`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct NameError(pub String);

fn invalid<T>(message: impl Into<String>) -> Result<T, NameError> {
    Err(NameError(message.into()))
}

/// Longest name of a Kubernetes Service (a DNS label, RFC 1123).
const LABEL_MAX: usize = 63;
/// Length of the longest end that a store's Service adds to its cluster's name.
const STORE_SUFFIX_MAX: usize = "-thanos-sidecar99".len();
/// The part of a store's name between its cluster's name and its number.
pub const STORE_INFIX: &str = "-thanos-sidecar";

/// A DNS label: lower-case letters, digits and inner hyphens, at most 63 characters (RFC 1123).
pub fn is_dns_label(text: &str) -> bool {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    !text.is_empty()
        && text.len() <= LABEL_MAX
        && text.bytes().all(inner)
        && !text.starts_with('-')
        && !text.ends_with('-')
}

/// A DNS name: labels joined by dots, with or without a dot at the end, at most 253 characters.
/// Upper case and `_` are accepted, as resolvers accept them.
pub fn is_dns_name(text: &str) -> bool {
    let name = text.strip_suffix('.').unwrap_or(text);
    let label = |l: &str| {
        !l.is_empty()
            && l.len() <= LABEL_MAX
            && l.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
            && !l.starts_with('-')
            && !l.ends_with('-')
    };
    !name.is_empty() && name.len() <= 253 && name.split('.').all(label)
}

/// The name of a downstream cluster: the name of its Service.
///
/// A DNS label of at most 46 characters (so that `<name>-thanos-sidecarNN` is one too), neither
/// `hub` nor `atlas` nor a name of the Services of the hub's Envoys (`atlas-hub-stores`,
/// `atlas-hub-stores-…`), and not itself the name of another cluster's store. Example: `tokyo`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClusterName(String);

impl ClusterName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// `<cluster>-thanos-sidecar<index>`: the name of a store, of its Service and of its DNS
    /// record.
    pub fn store(&self, index: u32) -> String {
        format!("{}{STORE_INFIX}{index}", self.0)
    }
}

impl FromStr for ClusterName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let longest = LABEL_MAX - STORE_SUFFIX_MAX;
        if !is_dns_label(text) {
            return invalid(
                "is not a cluster's name, which has lower-case letters, digits and inner hyphens only",
            );
        }
        if text.len() > longest {
            return invalid(format!(
                "has {} characters, of which at most {longest} leave room for `-thanos-sidecarNN`",
                text.len()
            ));
        }
        let of_hub_envoys = text
            .strip_prefix(HUB_STORES)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('-'));
        if text == "hub" || text == "atlas" || of_hub_envoys {
            return invalid("is reserved for Atlas itself");
        }
        if let Some((_, number)) = text.rsplit_once(STORE_INFIX)
            && number.bytes().all(|b| b.is_ascii_digit())
        {
            return invalid(
                "reads like a store of another cluster, as it ends in `-thanos-sidecar<N>`",
            );
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for ClusterName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Whose configuration a stream gets: the hub's Envoys or one cluster's. It comes from the verified
/// certificate alone.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum NodeId {
    /// The hub's Envoys.
    Hub,
    /// One downstream cluster's Envoys.
    Cluster(ClusterName),
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NodeId::Hub => f.write_str("hub"),
            NodeId::Cluster(name) => name.fmt(f),
        }
    }
}

impl FromStr for NodeId {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        if text == "hub" { Ok(NodeId::Hub) } else { text.parse().map(NodeId::Cluster) }
    }
}

/// The first part of every SPIFFE ID: lower-case letters, digits, dots, hyphens and underscores
/// (SPIFFE-ID §2.1).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TrustDomain(String);

impl TrustDomain {
    /// The domain as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for TrustDomain {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let fine = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-._".contains(&b);
        if text.is_empty() || text.len() > 255 || !text.bytes().all(fine) {
            return invalid(
                "is not a trust domain, which has lower-case letters, digits, dots, hyphens and underscores only",
            );
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The identity in a certificate's SPIFFE ID, without the trust domain.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Identity {
    /// Atlas's xDS server.
    Atlas,
    /// The hub's Envoys, as clients and as servers.
    Hub,
    /// A cluster's Envoys, as clients and as servers, with the credential's revision.
    Cluster(ClusterName, u64),
    /// The credential in a cluster's bootstrap files, with which its Envoy may only open its xDS
    /// stream.
    Bootstrap(ClusterName, u64),
}

impl Identity {
    /// `spiffe://<trust-domain>/…`
    pub fn spiffe_id(&self, domain: &TrustDomain) -> String {
        match self {
            Identity::Atlas => format!("spiffe://{domain}/atlas"),
            Identity::Hub => format!("spiffe://{domain}/hub"),
            Identity::Cluster(name, revision) => {
                format!("spiffe://{domain}/cluster/{name}/{revision}")
            }
            Identity::Bootstrap(name, revision) => {
                format!("spiffe://{domain}/bootstrap/{name}/{revision}")
            }
        }
    }

    /// Reads a SPIFFE ID of this trust domain, exactly as [`Identity::spiffe_id`] writes it. `None`
    /// for anything else.
    pub fn parse(uri: &str, domain: &TrustDomain) -> Option<Self> {
        let path =
            uri.strip_prefix("spiffe://")?.strip_prefix(domain.as_str())?.strip_prefix('/')?;
        let parts: Vec<&str> = path.split('/').collect();
        let identity = match parts.as_slice() {
            ["atlas"] => Identity::Atlas,
            ["hub"] => Identity::Hub,
            ["cluster", name, revision] => {
                Identity::Cluster(name.parse().ok()?, revision.parse().ok()?)
            }
            ["bootstrap", name, revision] => {
                Identity::Bootstrap(name.parse().ok()?, revision.parse().ok()?)
            }
            _ => return None,
        };
        // One spelling only: `+1` and `01` parse as numbers too.
        (identity.spiffe_id(domain) == uri).then_some(identity)
    }
}

/// A host: an IP address or a DNS name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Host {
    /// IPv4 or IPv6.
    Ip(IpAddr),
    /// A DNS name, without a dot at the end.
    Name(String),
}

impl FromStr for Host {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let inner = text.strip_prefix('[').and_then(|text| text.strip_suffix(']'));
        if let Ok(ip) = inner.unwrap_or(text).parse::<IpAddr>() {
            return Ok(Host::Ip(ip));
        }
        let last = text.trim_end_matches('.').rsplit('.').next().unwrap_or_default();
        if !is_dns_name(text) || is_number(last) {
            return invalid("is neither an IP address nor a DNS name");
        }
        Ok(Host::Name(text.trim_end_matches('.').to_owned()))
    }
}

/// Whether a label is a number. No top-level domain is one: `10.0.0.300` and `1.2.3` are mistyped
/// addresses, and resolvers read `0x7f000001` as 127.0.0.1.
fn is_number(label: &str) -> bool {
    let hexadecimal = label.strip_prefix("0x").or_else(|| label.strip_prefix("0X"));
    label.bytes().all(|b| b.is_ascii_digit())
        || hexadecimal.is_some_and(|digits| digits.bytes().all(|b| b.is_ascii_hexdigit()))
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Host::Ip(ip) => ip.fmt(f),
            Host::Name(name) => f.write_str(name),
        }
    }
}

/// A host and a TCP port.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostPort {
    pub host: Host,
    /// The port, never 0.
    pub port: u16,
}

impl HostPort {
    /// A host with a port.
    pub fn new(host: Host, port: u16) -> Self {
        Self { host, port }
    }

    /// Reads `host`, `host:port`, `1.2.3.4:5`, `::1` or `[::1]:5`.
    ///
    /// # Errors
    /// The host is neither an IP address nor a DNS name, or the port is not from 1 to 65535.
    pub fn parse(text: &str, default_port: u16) -> Result<Self, NameError> {
        let text = text.trim();
        if let Ok(ip) = text.parse::<IpAddr>() {
            return Ok(Self::new(Host::Ip(ip), default_port));
        }
        let (host, port) = match text.rsplit_once(':') {
            Some((host, port))
                if !port.contains('/') && (!host.contains(':') || host.ends_with(']')) =>
            {
                (host, Some(port))
            }
            _ => (text, None),
        };
        let port = match port {
            None => default_port,
            Some(port) => parse_port(port)
                .map_err(|error| NameError(format!("has the port {port:?}, which {error}")))?,
        };
        Ok(Self::new(host.parse()?, port))
    }
}

/// Reads a TCP port.
///
/// # Errors
/// Anything but a decimal number from 1 to 65535.
pub fn parse_port(text: &str) -> Result<u16, NameError> {
    match text.parse::<u16>() {
        Ok(port) if port > 0 && text.bytes().all(|b| b.is_ascii_digit()) => Ok(port),
        _ => invalid("is not a number from 1 to 65535"),
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            Host::Ip(IpAddr::V6(ip)) => write!(f, "[{ip}]:{}", self.port),
            host => write!(f, "{host}:{}", self.port),
        }
    }
}

#[cfg(test)]
mod tests;

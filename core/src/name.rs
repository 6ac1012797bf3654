//! Names, parsed once: whatever has one of these types has been checked.
//!
//! Errors are sentences that say what is wrong and what would be right; the caller adds the object and the key.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// Why a text is not what it should be, as one sentence for people.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct NameError(pub String);

fn bad<T>(message: impl Into<String>) -> Result<T, NameError> {
    Err(NameError(message.into()))
}

/// Longest name of a Kubernetes Service (a DNS label, RFC 1123).
const LABEL_MAX: usize = 63;
/// What a store's Service adds to its cluster's name, at its longest.
const STORE_SUFFIX_MAX: usize = "-thanos-sidecar99".len();
/// What stands between a cluster's name and its store's number.
pub const STORE_INFIX: &str = "-thanos-sidecar";

/// A DNS label: lower-case letters, digits and inner hyphens, at most 63 characters (RFC 1123).
pub fn is_dns_label(text: &str) -> bool {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    !text.is_empty() && text.len() <= LABEL_MAX && text.bytes().all(inner) && !text.starts_with('-') && !text.ends_with('-')
}

/// A DNS name: labels joined by dots, with or without a dot at the end, at most 253 characters.
/// Upper case and `_` are let through, since resolvers do.
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
/// A DNS label of at most 46 characters (so that `<name>-thanos-sidecarNN` is one too), neither `hub` nor `atlas`,
/// and not itself the name of another cluster's store. Example: `tokyo`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClusterName(String);

impl ClusterName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// `<cluster>-thanos-sidecar<index>`: the name of a store, of its headless Service and of its DNS record.
    pub fn store(&self, index: u32) -> String {
        format!("{}{STORE_INFIX}{index}", self.0)
    }
}

impl FromStr for ClusterName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let longest = LABEL_MAX - STORE_SUFFIX_MAX;
        if !is_dns_label(text) {
            return bad(format!(
                "{text:?} is not a cluster's name: use lower-case letters, digits and hyphens, beginning and ending with a letter or digit"
            ));
        }
        if text.len() > longest {
            return bad(format!(
                "{text:?} has {} characters: at most {longest} leave room for `-thanos-sidecarNN`, so choose a shorter name",
                text.len()
            ));
        }
        if text == "hub" || text == "atlas" {
            return bad(format!("{text:?} is reserved for Atlas itself: choose another name"));
        }
        if let Some((_, number)) = text.rsplit_once(STORE_INFIX)
            && number.bytes().all(|b| b.is_ascii_digit())
        {
            return bad(format!("{text:?} reads like a store of another cluster: choose a name that does not end in `-thanos-sidecar<N>`"));
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for ClusterName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Whose configuration a stream gets: the hub's Envoys or one cluster's. It comes from the verified certificate alone.
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

/// The first part of every SPIFFE ID: lower-case letters, digits, dots, hyphens and underscores (SPIFFE-ID §2.1).
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
            return bad(format!("{text:?} is not a trust domain: use lower-case letters, digits, dots, hyphens and underscores"));
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Who a certificate says its bearer is, without the trust domain.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Identity {
    /// Atlas's xDS server.
    Atlas,
    /// The hub's Envoys, both ways.
    Hub,
    /// A cluster's Envoys, both ways, with the credential's revision.
    Cluster(ClusterName, u64),
    /// The credential in a cluster's files: opens its xDS stream, nothing else.
    Bootstrap(ClusterName, u64),
}

impl Identity {
    /// `spiffe://<trust-domain>/…`
    pub fn spiffe_id(&self, domain: &TrustDomain) -> String {
        match self {
            Identity::Atlas => format!("spiffe://{domain}/atlas"),
            Identity::Hub => format!("spiffe://{domain}/hub"),
            Identity::Cluster(name, revision) => format!("spiffe://{domain}/cluster/{name}/{revision}"),
            Identity::Bootstrap(name, revision) => format!("spiffe://{domain}/bootstrap/{name}/{revision}"),
        }
    }

    /// Reads a SPIFFE ID of this trust domain; `None` for anything else, to the letter.
    pub fn parse(uri: &str, domain: &TrustDomain) -> Option<Self> {
        let path = uri.strip_prefix("spiffe://")?.strip_prefix(domain.as_str())?.strip_prefix('/')?;
        let parts: Vec<&str> = path.split('/').collect();
        let identity = match parts.as_slice() {
            ["atlas"] => Identity::Atlas,
            ["hub"] => Identity::Hub,
            ["cluster", name, revision] => Identity::Cluster(name.parse().ok()?, revision.parse().ok()?),
            ["bootstrap", name, revision] => Identity::Bootstrap(name.parse().ok()?, revision.parse().ok()?),
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

impl Host {
    /// Whether a connection there could reach the machine of the Envoy itself, a link's neighbours or a cloud's
    /// metadata service (169.254.169.254, fd00:ec2::254) rather than another cluster.
    pub fn is_local(&self) -> bool {
        match self {
            Host::Ip(IpAddr::V4(ip)) => is_local_v4(*ip),
            Host::Ip(IpAddr::V6(ip)) => match ip.to_ipv4_mapped() {
                Some(v4) => is_local_v4(v4),
                None => is_local_v6(*ip),
            },
            Host::Name(name) => {
                let name = name.to_ascii_lowercase();
                name == "localhost" || name.ends_with(".localhost") || name == "metadata.google.internal"
            }
        }
    }
}

fn is_local_v4(ip: Ipv4Addr) -> bool {
    ip.is_loopback() || ip.is_link_local() || ip.is_unspecified() || ip.is_multicast() || ip.is_broadcast() || ip.octets()[0] == 0
}

fn is_local_v6(ip: Ipv6Addr) -> bool {
    let aws_metadata = Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254);
    ip.is_loopback() || ip.is_unspecified() || ip.is_multicast() || ip.is_unicast_link_local() || ip == aws_metadata
}

impl FromStr for Host {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        if let Ok(ip) = text.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>() {
            return Ok(Host::Ip(ip));
        }
        // `10.0.0.300` and `1.2.3` are mistyped addresses, not names: no top-level domain is a number.
        let last = text.trim_end_matches('.').rsplit('.').next().unwrap_or_default();
        let number = last.bytes().all(|b| b.is_ascii_digit());
        if !is_dns_name(text) || number {
            return bad(format!("{text:?} is neither an IP address nor a DNS name"));
        }
        Ok(Host::Name(text.trim_end_matches('.').to_owned()))
    }
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
    /// The host.
    pub host: Host,
    /// The port, never 0.
    pub port: u16,
}

impl HostPort {
    /// Puts the two together.
    pub fn new(host: Host, port: u16) -> Self {
        Self { host, port }
    }

    /// Reads `host`, `host:port`, `1.2.3.4:5`, `::1` or `[::1]:5`.
    ///
    /// # Errors
    /// What is wrong, and what would be right.
    pub fn parse(text: &str, default_port: u16) -> Result<Self, NameError> {
        let text = text.trim();
        if let Ok(ip) = text.parse::<IpAddr>() {
            return Ok(Self::new(Host::Ip(ip), default_port));
        }
        let (host, port) = match text.rsplit_once(':') {
            Some((host, port)) if !port.contains('/') && (!host.contains(':') || host.ends_with(']')) => (host, Some(port)),
            _ => (text, None),
        };
        let port = match port {
            None => default_port,
            Some(port) => parse_port(port).map_err(|error| NameError(format!("{text:?}: {error}")))?,
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
        _ => bad(format!("{text:?} is not a port: write a number from 1 to 65535")),
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
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn domain() -> TrustDomain {
        "atlas.example".parse().unwrap()
    }

    #[test]
    fn cluster_names_leave_room_for_their_stores() {
        assert!("tokyo".parse::<ClusterName>().is_ok());
        assert!("a".repeat(46).parse::<ClusterName>().is_ok());
        assert!("a".repeat(47).parse::<ClusterName>().is_err());
        for wrong in ["", "Tokyo", "-a", "a-", "a.b", "hub", "atlas", "tokyo-thanos-sidecar0", "tokyo-thanos-sidecar"] {
            assert!(wrong.parse::<ClusterName>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn hosts_and_ports_are_read_in_every_usual_spelling() {
        let read = |text| HostPort::parse(text, 11901).map(|hp| hp.to_string());
        assert_eq!(read("10.0.0.1").unwrap(), "10.0.0.1:11901");
        assert_eq!(read("10.0.0.1:31901").unwrap(), "10.0.0.1:31901");
        assert_eq!(read("fd00::1").unwrap(), "[fd00::1]:11901");
        assert_eq!(read("[fd00::1]").unwrap(), "[fd00::1]:11901");
        assert_eq!(read("[fd00::1]:5").unwrap(), "[fd00::1]:5");
        assert_eq!(read("edge.example.com.:443").unwrap(), "edge.example.com:443");
        for wrong in ["", "a b", "10.0.0.300", "host:0", "host:70000", "host:+5", "http://host", "host/path"] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn loopback_link_local_and_metadata_addresses_are_local() {
        for local in ["127.0.0.2", "::1", "169.254.169.254", "::ffff:127.0.0.1", "localhost", "0.0.0.0", "fe80::1", "fd00:ec2::254"] {
            assert!(local.parse::<Host>().unwrap().is_local(), "{local}");
        }
        for far in ["10.0.0.1", "203.0.113.7", "fd00::1", "edge.example.com"] {
            assert!(!far.parse::<Host>().unwrap().is_local(), "{far}");
        }
    }

    #[test]
    fn a_spiffe_id_has_one_spelling() {
        let cluster = Identity::Cluster("tokyo".parse().unwrap(), 7);
        assert_eq!(cluster.spiffe_id(&domain()), "spiffe://atlas.example/cluster/tokyo/7");
        for wrong in [
            "spiffe://atlas.example/cluster/tokyo/07",
            "spiffe://atlas.example/cluster/tokyo/+7",
            "spiffe://atlas.example/cluster/tokyo",
            "spiffe://atlas.example/cluster/tokyo/7/",
            "spiffe://atlas.example.evil/hub",
            "spiffe://other/hub",
            "SPIFFE://atlas.example/hub",
        ] {
            assert_eq!(Identity::parse(wrong, &domain()), None, "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn identities_survive_their_spelling(name in "[a-z][a-z0-9]{0,20}", revision: u64) {
            prop_assume!(name != "hub" && name != "atlas");
            let name: ClusterName = name.parse().unwrap();
            for identity in [Identity::Atlas, Identity::Hub, Identity::Cluster(name.clone(), revision), Identity::Bootstrap(name.clone(), revision)] {
                prop_assert_eq!(Identity::parse(&identity.spiffe_id(&domain()), &domain()), Some(identity));
            }
        }

        #[test]
        fn no_text_makes_a_parser_panic(text in ".{0,80}") {
            let _ = text.parse::<ClusterName>();
            let _ = HostPort::parse(&text, 1);
            let _ = text.parse::<TrustDomain>();
            let _ = Identity::parse(&text, &domain());
        }

        #[test]
        fn a_host_and_port_survive_their_spelling(text in "([a-z]{1,8}\\.[a-z]{1,8}|10\\.0\\.[0-9]\\.[0-9]|fd00::[1-9])", port in 1u16..) {
            let host: Host = text.parse().unwrap();
            let pair = HostPort::new(host, port);
            prop_assert_eq!(HostPort::parse(&pair.to_string(), 1).unwrap(), pair);
        }
    }
}

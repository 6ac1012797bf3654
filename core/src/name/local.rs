//! Addresses that lead somewhere else than people think, and those at which nobody can listen.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{Host, NameError, bad};

/// Metadata services outside the link-local networks: Alibaba Cloud's and Azure's.
const METADATA_V4: [Ipv4Addr; 2] = [Ipv4Addr::new(100, 100, 100, 200), Ipv4Addr::new(168, 63, 129, 16)];
/// The same of IPv6: Amazon's and Google's.
const METADATA_V6: [Ipv6Addr; 2] = [Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254), Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254)];
/// Names of the machine itself in the usual `/etc/hosts`, and of metadata services.
const LOCAL_NAMES: [&str; 7] =
    ["localhost", "localhost.localdomain", "ip6-localhost", "ip6-loopback", "metadata", "metadata.goog", "metadata.google.internal"];

impl Host {
    /// Whether a connection there could reach the machine of the Envoy itself, a link's neighbours or a cloud's
    /// metadata service (169.254.169.254, fd00:ec2::254) rather than another cluster.
    pub fn is_local(&self) -> bool {
        match self {
            Host::Ip(IpAddr::V4(ip)) => is_local_v4(*ip),
            Host::Ip(IpAddr::V6(ip)) => is_local_v6(*ip) || embedded(*ip).is_some_and(is_local_v4),
            Host::Name(name) => {
                let name = name.to_ascii_lowercase();
                name.ends_with(".localhost") || LOCAL_NAMES.contains(&name.as_str())
            }
        }
    }
}

fn is_local_v4(ip: Ipv4Addr) -> bool {
    let this_network = ip.octets()[0] == 0;
    this_network || ip.is_loopback() || ip.is_link_local() || ip.is_multicast() || ip.is_broadcast() || METADATA_V4.contains(&ip)
}

fn is_local_v6(ip: Ipv6Addr) -> bool {
    ip.is_loopback() || ip.is_unspecified() || ip.is_multicast() || ip.is_unicast_link_local() || METADATA_V6.contains(&ip)
}

/// The IPv4 address that an IPv6 address stands for: mapped (`::ffff:0:0/96`), compatible (`::/96`) or by way of NAT64
/// (`64:ff9b::/96`, RFC 6052).
fn embedded(ip: Ipv6Addr) -> Option<Ipv4Addr> {
    match ip.segments() {
        [0, 0, 0, 0, 0, 0 | 0xffff, high, low] | [0x64, 0xff9b, 0, 0, 0, 0, high, low] => {
            Some(Ipv4Addr::from_bits(u32::from(high) << 16 | u32::from(low)))
        }
        _ => None,
    }
}

/// Passes an address at which a server can listen: one of its machine, or the unspecified one for all of them.
///
/// # Errors
/// Multicast and broadcast addresses, and `::ffff:0.0.0.0`, which is neither all of IPv6 nor all of IPv4.
pub fn bindable(ip: IpAddr) -> Result<IpAddr, NameError> {
    let canonical = ip.to_canonical();
    if canonical.is_unspecified() && canonical != ip {
        return bad("is IPv4's 0.0.0.0 in the notation of IPv6, at which nothing can listen");
    }
    if canonical.is_multicast() || canonical == IpAddr::V4(Ipv4Addr::BROADCAST) {
        return bad("is a multicast or broadcast address, at which nothing can listen");
    }
    Ok(ip)
}

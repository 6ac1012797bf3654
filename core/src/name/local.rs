//! Addresses that lead to the machine itself or its neighbours, and addresses on which no server
//! can listen.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{Host, NameError, invalid};

/// Cloud metadata services outside the link-local network: Alibaba Cloud's and Azure's.
const METADATA_V4: [Ipv4Addr; 2] =
    [Ipv4Addr::new(100, 100, 100, 200), Ipv4Addr::new(168, 63, 129, 16)];
/// The IPv6 addresses of Amazon's and Google's metadata services.
const METADATA_V6: [Ipv6Addr; 2] = [
    Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254),
    Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254),
];
/// Names of the machine itself, of its links and of its container host in the default hosts files
/// of Debian, Red Hat, SUSE, Alpine, macOS, kubelet, Docker and Podman, and names of metadata
/// services.
const LOCAL_NAMES: &[&str] = &[
    "localhost",
    "localhost.localdomain",
    "localhost4",
    "localhost4.localdomain4",
    "localhost6",
    "localhost6.localdomain6",
    "loopback",
    "ip6-localhost",
    "ip6-loopback",
    "ip6-localnet",
    "ip6-mcastprefix",
    "ip6-allnodes",
    "ip6-allrouters",
    "ip6-allhosts",
    "ipv6-localhost",
    "ipv6-loopback",
    "ipv6-localnet",
    "ipv6-mcastprefix",
    "ipv6-allnodes",
    "ipv6-allrouters",
    "ipv6-allhosts",
    "broadcasthost",
    "host.docker.internal",
    "gateway.docker.internal",
    "kubernetes.docker.internal",
    "host.containers.internal",
    "metadata",
    "metadata.goog",
    "metadata.google.internal",
    "instance-data",
    "instance-data.ec2.internal",
];

impl Host {
    /// Whether a connection to this host could reach the Envoy's own machine, neighbours on its
    /// link or a cloud's metadata service (169.254.169.254, fd00:ec2::254) instead of another
    /// cluster.
    pub fn is_local(&self) -> bool {
        match self {
            Host::Ip(IpAddr::V4(ip)) => is_local_v4(*ip),
            Host::Ip(IpAddr::V6(ip)) => {
                is_local_v6(*ip) || embedded(*ip).into_iter().flatten().any(is_local_v4)
            }
            Host::Name(name) => {
                let name = name.to_ascii_lowercase();
                name.ends_with(".localhost") || LOCAL_NAMES.contains(&name.as_str())
            }
        }
    }
}

fn is_local_v4(ip: Ipv4Addr) -> bool {
    let this_network = ip.octets()[0] == 0;
    this_network
        || ip.is_loopback()
        || ip.is_link_local()
        || ip.is_multicast()
        || ip.is_broadcast()
        || METADATA_V4.contains(&ip)
}

fn is_local_v6(ip: Ipv6Addr) -> bool {
    ip.is_loopback()
        || ip.is_unspecified()
        || ip.is_multicast()
        || ip.is_unicast_link_local()
        || METADATA_V6.contains(&ip)
}

/// The IPv4 addresses to which an IPv6 address may be mapped, translated or tunnelled.
fn embedded(ip: Ipv6Addr) -> [Option<Ipv4Addr>; 4] {
    let v4 =
        |high: u16, low: u16| Some(Ipv4Addr::from_bits(u32::from(high) << 16 | u32::from(low)));
    match ip.segments() {
        // Compatible `::/96` (RFC 4291), mapped `::ffff:0:0/96`, translated `::ffff:0:0:0/96`
        // (RFC 2765), NAT64 `64:ff9b::/96` (RFC 6052).
        [0, 0, 0, 0, 0, 0 | 0xffff, high, low]
        | [0, 0, 0, 0, 0xffff, 0, high, low]
        | [0x64, 0xff9b, 0, 0, 0, 0, high, low] => [v4(high, low), None, None, None],
        // Local-use NAT64, `64:ff9b:1::/48` (RFC 8215). The length of its prefix is not known.
        [0x64, 0xff9b, 1, ..] => translated(ip.octets()),
        // 6to4, `2002::/16` (RFC 3056).
        [0x2002, high, low, ..] => [v4(high, low), None, None, None],
        // Teredo, `2001::/32` (RFC 4380): its server, and its client with all bits inverted.
        [0x2001, 0, server_high, server_low, _, _, high, low] => {
            [v4(server_high, server_low), v4(!high, !low), None, None]
        }
        // ISATAP (RFC 5214), behind any prefix.
        [.., 0 | 0x200, 0x5efe, high, low] => [v4(high, low), None, None, None],
        _ => [None; 4],
    }
}

/// The IPv4 addresses after a prefix of 96, 64, 56 or 48 bits (RFC 6052 §2.2, which skips the ninth
/// octet).
fn translated(o: [u8; 16]) -> [Option<Ipv4Addr>; 4] {
    // Read with the wrong length, an address begins with zeros, and no translator sends to
    // 0.0.0.0/8.
    let read = |a, b, c, d| (a != 0).then(|| Ipv4Addr::new(a, b, c, d));
    let zeros_before = o[6..12] == [0; 6];
    [
        (zeros_before || o[12] != 0).then(|| Ipv4Addr::new(o[12], o[13], o[14], o[15])),
        read(o[9], o[10], o[11], o[12]),
        read(o[7], o[9], o[10], o[11]),
        read(o[6], o[7], o[9], o[10]),
    ]
}

/// Returns `ip` if a server can listen on it: an address of its machine, or the unspecified
/// address.
///
/// # Errors
/// Multicast and broadcast addresses, and `::ffff:0.0.0.0`, which is neither all of IPv6 nor all of
/// IPv4.
pub fn bindable(ip: IpAddr) -> Result<IpAddr, NameError> {
    let canonical = ip.to_canonical();
    if canonical.is_unspecified() && canonical != ip {
        return invalid("is IPv4's 0.0.0.0 in the notation of IPv6, at which nothing can listen");
    }
    if canonical.is_multicast() || canonical == IpAddr::V4(Ipv4Addr::BROADCAST) {
        return invalid("is a multicast or broadcast address, at which nothing can listen");
    }
    Ok(ip)
}

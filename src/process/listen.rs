//! The addresses and TCP ports that Atlas listens on.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use anyhow::Context;
use atlas_core::ports;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
use tokio::net::TcpListener;

/// Where Atlas listens: one address, and a port for each server.
#[derive(Clone, Copy, Debug)]
pub struct ListenOptions {
    /// The address of all servers.
    pub ip: IpAddr,
    /// Port of the xDS server.
    pub xds: u16,
    /// Port of metrics and health.
    pub metrics: u16,
    /// Port of the web page.
    pub web: u16,
    /// Port of the DNS server, UDP and TCP.
    pub dns: u16,
}

impl Default for ListenOptions {
    /// Loopback, since the web page and the metrics have no password.
    fn default() -> Self {
        Self {
            ip: Ipv4Addr::LOCALHOST.into(),
            xds: ports::XDS,
            metrics: ports::METRICS,
            web: ports::WEB,
            dns: ports::DNS,
        }
    }
}

/// Replaces `::`, which stands for all addresses, by `0.0.0.0` where the kernel has no IPv6
/// (`ipv6.disable=1`). Every other address is returned unchanged.
pub fn available_ip(configured: IpAddr) -> IpAddr {
    let has_no_ipv6 = || {
        socket_with(AddressFamily::INET6, SocketType::STREAM, SocketFlags::CLOEXEC, None).err()
            == Some(Errno::AFNOSUPPORT)
    };
    if configured == Ipv6Addr::UNSPECIFIED && has_no_ipv6() {
        Ipv4Addr::UNSPECIFIED.into()
    } else {
        configured
    }
}

/// Listens on a TCP port.
///
/// # Errors
/// Another program listens on the port, or this machine doesn't have the address.
pub async fn bind_tcp(ip: IpAddr, port: u16) -> anyhow::Result<TcpListener> {
    let address = SocketAddr::new(ip, port);
    TcpListener::bind(address).await.with_context(|| {
        format!(
            "cannot listen on {address}: is another program there? \
             (--listen-address and the --*-port flags change it)"
        )
    })
}

//! DNS server of the zone by which Thanos Query finds the stores: authoritative, without recursion,
//! over UDP and TCP. A cluster's DNS forwards the zone to it, or Thanos Query asks it directly.
//!
//! The zone is prepared when a query comes and the zone has changed since the last query. How
//! queries are answered is in [`answer`].

mod answer;

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::Context;
use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use self::answer::{MAX_UDP, PreparedZone, Transport, respond};
use crate::metrics::Metrics;
use crate::process::connection_limiter::{ConnectionLimiter, Permit};
use crate::process::lock::lock;
use crate::state::{ZoneSource, ZoneVersion};

/// How long a TCP client may take to send the next query and to read its answer.
const TCP_IDLE: Duration = Duration::from_secs(10);
/// Open TCP connections. One more closes the oldest. An answer has at most 64 KiB, so this bounds
/// the memory too.
const TCP_CONNECTIONS: usize = 256;
/// Longest query over TCP, in bytes. A name has at most 255, and the usual EDNS options less.
const MAX_TCP_QUERY: u16 = 4096;
/// Pause after an error that may recur at once, such as too many open files.
const ERROR_PAUSE: Duration = Duration::from_millis(100);

/// The server's port, over both transports.
#[derive(Debug)]
pub struct Sockets {
    udp: UdpSocket,
    tcp: TcpListener,
}

impl Sockets {
    /// Binds the port over UDP and TCP.
    ///
    /// # Errors
    /// Another program listens on the port, or this machine doesn't have the address.
    pub async fn bind(address: SocketAddr) -> anyhow::Result<Self> {
        let bind = async || -> io::Result<Self> {
            let tcp = TcpListener::bind(address).await?;
            let udp = bind_udp(tcp.local_addr()?)?;
            Ok(Self { udp, tcp })
        };
        bind().await.with_context(|| {
            format!(
                "cannot listen on {address} for DNS: is another program there? \
                 (--dns-port changes it)"
            )
        })
    }
}

/// Binds the UDP port, shared if need be. A multicast DNS daemon, as most desktops have, listens on
/// UDP port 5353 of all addresses and allows others to share it. Where nobody listens the port
/// isn't shared, so that no other program can take queries later. (A second Atlas fails on the TCP
/// port.)
fn bind_udp(address: SocketAddr) -> io::Result<UdpSocket> {
    let socket = match std::net::UdpSocket::bind(address) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => bind_shared_udp(address)?.into(),
        socket => socket?,
    };
    socket.set_nonblocking(true)?;
    UdpSocket::from_std(socket)
}

fn bind_shared_udp(address: SocketAddr) -> io::Result<OwnedFd> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let socket = rustix::net::socket_with(family, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
    sockopt::set_socket_reuseaddr(&socket, true)?;
    rustix::net::bind(&socket, &address)?;
    Ok(socket)
}

/// Serves until `stop` is cancelled.
pub async fn serve(
    sockets: Sockets,
    zone_source: ZoneSource,
    metrics: Arc<Metrics>,
    stop: CancellationToken,
) {
    let dns = DnsServer {
        zone_source,
        cache: Arc::default(),
        metrics,
        tcp_idle: TCP_IDLE,
        tcp_connections: TCP_CONNECTIONS,
    };
    tokio::select! {
        () = dns.serve_udp(sockets.udp) => {}
        () = dns.serve_tcp(sockets.tcp) => {}
        () = stop.cancelled() => {}
    }
}

struct CachedZone {
    version: ZoneVersion,
    zone: Arc<PreparedZone>,
}

#[derive(Clone)]
struct DnsServer {
    zone_source: ZoneSource,
    /// The zone as of the last query; `None` before the first reconcile.
    cache: Arc<Mutex<Option<CachedZone>>>,
    metrics: Arc<Metrics>,
    tcp_idle: Duration,
    tcp_connections: usize,
}

impl DnsServer {
    fn respond(&self, query: &[u8], transport: Transport) -> Option<Vec<u8>> {
        let response = respond(self.zone().as_deref(), query, transport)?;
        self.metrics.dns_queries.inc();
        Some(response)
    }

    /// The current zone. Prepares it if it has changed since the last query.
    fn zone(&self) -> Option<Arc<PreparedZone>> {
        let mut cache = lock(&self.cache);
        let known_version = cache.as_ref().map(|cached| cached.version);
        if let Some((version, zone)) = (self.zone_source)(known_version) {
            match PreparedZone::new(&zone) {
                Ok(zone) => *cache = Some(CachedZone { version, zone: Arc::new(zone) }),
                Err(error) => {
                    tracing::error!(%error, "BUG: a zone that DNS can't serve; the last one stays")
                }
            }
        }
        cache.as_ref().map(|cached| Arc::clone(&cached.zone))
    }

    async fn serve_udp(&self, socket: UdpSocket) {
        let mut query = vec![0; MAX_UDP.into()];
        loop {
            match socket.recv_from(&mut query).await {
                Ok((length, client)) => self.answer_udp(&socket, &query[..length], client).await,
                Err(error) => {
                    tracing::debug!(%error, "cannot receive a DNS query");
                    tokio::time::sleep(ERROR_PAUSE).await;
                }
            }
        }
    }

    async fn answer_udp(&self, socket: &UdpSocket, query: &[u8], client: SocketAddr) {
        let Some(response) = self.respond(query, Transport::Udp) else { return };
        if let Err(error) = socket.send_to(&response, client).await {
            tracing::debug!(%error, %client, "cannot send a DNS answer");
        }
    }

    async fn serve_tcp(&self, listener: TcpListener) {
        let limiter = ConnectionLimiter::new(self.tcp_connections, Duration::ZERO);
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                accepted = listener.accept() => match accepted {
                    Ok((stream, client)) => {
                        let (permit, revoked_another) = limiter.acquire().await;
                        if revoked_another {
                            self.metrics.port_connection_dropped("dns");
                            tracing::debug!(%client, "closed the oldest DNS connection for another");
                        }
                        drop(connections.spawn(self.clone().serve_connection(stream, permit)));
                    }
                    Err(error) => {
                        tracing::debug!(%error, "cannot accept a DNS client");
                        tokio::time::sleep(ERROR_PAUSE).await;
                    }
                },
                Some(_) = connections.join_next() => {}
            }
        }
    }

    async fn serve_connection(self, mut stream: TcpStream, permit: Permit) {
        // Without Nagle's algorithm, which would delay a second answer until the first one's TCP
        // acknowledgement.
        let _ = stream.set_nodelay(true);
        let answering = async {
            while let Ok(Ok(())) =
                tokio::time::timeout(self.tcp_idle, self.answer_tcp(&mut stream)).await
            {
            }
        };
        tokio::select! {
            () = answering => {}
            () = permit.revoked.cancelled() => {}
        }
    }

    /// Answers one query. Over TCP each message has its length before it (RFC 1035 §4.2.2).
    async fn answer_tcp(&self, stream: &mut TcpStream) -> io::Result<()> {
        let length = stream.read_u16().await?;
        if length > MAX_TCP_QUERY {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let mut query = vec![0; length.into()];
        stream.read_exact(&mut query).await?;
        let response = self.respond(&query, Transport::Tcp).ok_or(io::ErrorKind::InvalidData)?;
        let length = u16::try_from(response.len()).map_err(io::Error::other)?;
        stream.write_all(&[&length.to_be_bytes(), response.as_slice()].concat()).await
    }
}

#[cfg(test)]
mod tests;

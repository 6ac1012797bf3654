//! DNS for the zone that Thanos Query finds the stores in: authoritative, no recursion, UDP and TCP.
//!
//! In: the zone, asked for when somebody asks, and only if it has changed since. Out: answers (see [`answer`]). A cluster's DNS forwards the zone here, or Thanos Query asks
//! directly.

mod answer;

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::Context;
use atlas_core::thanos::zone::Zone;
use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use self::answer::{Answers, Transport, UDP_MAX, respond};
use crate::metrics::Metrics;
use crate::process::connection_limiter::{ConnectionLimiter, Permit};
use crate::process::lock::lock;

/// How long a TCP client may take from one query to having the next one's answer.
const TCP_IDLE: Duration = Duration::from_secs(10);
/// How many TCP clients at a time; one more ends the oldest, so nobody can take all places and keep them. An answer is at most 64 KiB, so
/// this bounds the memory.
const TCP_CONNECTIONS: usize = 256;
/// Longest query over TCP: a name of 255 bytes and every usual option of EDNS fit several times.
const TCP_QUERY: u16 = 4096;
/// After an error that may come again at once, such as too many open files.
const PAUSE: Duration = Duration::from_millis(100);

/// The same port, twice.
#[derive(Debug)]
pub struct Sockets {
    udp: UdpSocket,
    tcp: TcpListener,
}

impl Sockets {
    /// Binds both.
    pub async fn bind(address: SocketAddr) -> anyhow::Result<Self> {
        let bind = async || -> io::Result<Self> {
            let tcp = TcpListener::bind(address).await?;
            let udp = bind_udp(tcp.local_addr()?)?;
            Ok(Self { udp, tcp })
        };
        bind().await.with_context(|| format!("cannot listen on {address} for DNS: is another program there? (--dns-port changes it)"))
    }
}

/// A multicast DNS daemon, as most desktops have, holds UDP 5353 on all addresses but shares it: then so does Atlas. Otherwise the
/// port is its alone, so that no other program can share it later. (Another Atlas holds the TCP port.)
fn bind_udp(address: SocketAddr) -> io::Result<UdpSocket> {
    let socket = match std::net::UdpSocket::bind(address) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => shared_udp(address)?.into(),
        socket => socket?,
    };
    socket.set_nonblocking(true)?;
    UdpSocket::from_std(socket)
}

fn shared_udp(address: SocketAddr) -> io::Result<OwnedFd> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let socket = rustix::net::socket_with(family, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
    sockopt::set_socket_reuseaddr(&socket, true)?;
    rustix::net::bind(&socket, &address)?;
    Ok(socket)
}

/// Tells one zone from another.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ZoneVersion {
    /// Of the records ([`Stores::version`](atlas_core::thanos::stores::Stores::version)).
    pub records: u64,
    /// The serial number.
    pub serial: u32,
}

/// Where the zone comes from: called with the version that is known, it returns another if there is one.
pub type Zones = Arc<dyn Fn(Option<ZoneVersion>) -> Option<(ZoneVersion, Zone)> + Send + Sync>;

/// Serves until cancelled.
pub async fn serve(sockets: Sockets, zones: Zones, metrics: Arc<Metrics>, stop: CancellationToken) {
    let dns = Dns {
        zones,
        answers: Arc::default(),
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

/// What the last zone was prepared to.
type Prepared = Option<(ZoneVersion, Arc<Answers>)>;

/// What every query needs.
#[derive(Clone)]
struct Dns {
    zones: Zones,
    answers: Arc<Mutex<Prepared>>,
    metrics: Arc<Metrics>,
    tcp_idle: Duration,
    tcp_connections: usize,
}

impl Dns {
    fn respond(&self, query: &[u8], transport: Transport) -> Option<Vec<u8>> {
        let response = respond(self.answers().as_deref(), query, transport)?;
        self.metrics.dns_queries.inc();
        Some(response)
    }

    /// Prepared anew where the zone has changed since the last query.
    fn answers(&self) -> Option<Arc<Answers>> {
        let mut known = lock(&self.answers);
        if let Some((version, zone)) = (self.zones)(known.as_ref().map(|(version, _)| *version)) {
            match Answers::new(&zone) {
                Ok(answers) => *known = Some((version, Arc::new(answers))),
                Err(error) => {
                    tracing::error!(%error, "BUG: a zone that DNS can't serve; the last one stays")
                }
            }
        }
        known.as_ref().map(|(_, answers)| Arc::clone(answers))
    }

    async fn serve_udp(&self, socket: UdpSocket) {
        let mut query = vec![0; UDP_MAX.into()];
        loop {
            match socket.recv_from(&mut query).await {
                Ok((length, client)) => self.answer_udp(&socket, &query[..length], client).await,
                Err(error) => {
                    tracing::debug!(%error, "cannot receive a DNS query");
                    tokio::time::sleep(PAUSE).await;
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
        let room = ConnectionLimiter::new(self.tcp_connections, Duration::ZERO);
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                accepted = listener.accept() => match accepted {
                    Ok((stream, client)) => {
                        let (guest, another_left) = room.enter().await;
                        if another_left {
                            self.metrics.port_connection_dropped("dns");
                            tracing::debug!(%client, "too many DNS clients over TCP: the oldest goes");
                        }
                        drop(connections.spawn(self.clone().serve_connection(stream, guest)));
                    }
                    Err(error) => {
                        tracing::debug!(%error, "cannot accept a DNS client");
                        tokio::time::sleep(PAUSE).await;
                    }
                },
                Some(_) = connections.join_next() => {}
            }
        }
    }

    async fn serve_connection(self, mut stream: TcpStream, guest: Permit) {
        // Several queries on one connection must not wait for each other's acknowledgements.
        let _ = stream.set_nodelay(true);
        let answering = async {
            while let Ok(Ok(())) =
                tokio::time::timeout(self.tcp_idle, self.answer_tcp(&mut stream)).await
            {
            }
        };
        tokio::select! {
            () = answering => {}
            () = guest.leave.cancelled() => {}
        }
    }

    /// One query: each message with its length before it (RFC 1035 §4.2.2).
    async fn answer_tcp(&self, stream: &mut TcpStream) -> io::Result<()> {
        let length = stream.read_u16().await?;
        if length > TCP_QUERY {
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

//! What both ways of running Atlas have in common: sockets, tasks beside each other, signals, the end.

use std::future::Future;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use anyhow::Context;
use atlas_core::ports;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use crate::xds::streams::Streams;

/// How long streams get to end by themselves, and then everything else.
pub const DRAIN: Duration = Duration::from_secs(5);

/// Where Atlas listens.
#[derive(Clone, Copy, Debug)]
pub struct Listen {
    /// The address of all.
    pub ip: IpAddr,
    /// xDS.
    pub xds: u16,
    /// Metrics and health.
    pub metrics: u16,
    /// The web page.
    pub web: u16,
    /// DNS.
    pub dns: u16,
}

impl Default for Listen {
    /// On loopback, since the web page and the metrics have no password.
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

/// What runs beside each other. None ends before it is told to.
#[derive(Default)]
pub struct Tasks(JoinSet<&'static str>);

impl Tasks {
    /// Starts one.
    pub fn spawn(&mut self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        self.0.spawn(async move {
            task.await;
            name
        });
    }

    /// The name of the first to end, or that one panicked.
    pub async fn first(&mut self) -> &'static str {
        match self.0.join_next().await {
            Some(Ok(name)) => name,
            Some(Err(_)) => "a task that panicked (see above)",
            None => std::future::pending().await,
        }
    }

    /// Waits for all to end.
    pub async fn all(&mut self) {
        while self.0.join_next().await.is_some() {}
    }
}

/// Lets this process open as many files as it may; returns how many. The usual soft limit of 1,024 is for programs that
/// call `select`.
pub fn raise_file_limit() -> u64 {
    let limit = getrlimit(Resource::Nofile);
    let wanted = Rlimit { current: limit.maximum, maximum: limit.maximum };
    let raised = setrlimit(Resource::Nofile, wanted).is_ok();
    let files = if raised { limit.maximum } else { limit.current };
    // No limit is still bounded by memory.
    files.unwrap_or(1 << 20)
}

/// Where to listen: `::` stands for all addresses, and where the kernel has no IPv6 (`ipv6.disable=1`), those are `0.0.0.0`.
pub fn listen_ip(wanted: IpAddr) -> IpAddr {
    let refused = || {
        socket_with(AddressFamily::INET6, SocketType::STREAM, SocketFlags::CLOEXEC, None).err()
            == Some(Errno::AFNOSUPPORT)
    };
    if wanted == Ipv6Addr::UNSPECIFIED && refused() { Ipv4Addr::UNSPECIFIED.into() } else { wanted }
}

/// Listens on a TCP port.
///
/// # Errors
/// It is taken, or not this machine's.
pub async fn bind(ip: IpAddr, port: u16) -> anyhow::Result<TcpListener> {
    let address = SocketAddr::new(ip, port);
    TcpListener::bind(address).await.with_context(|| {
        format!("cannot listen on {address}: is another program there? (--listen-address and the --*-port flags change it)")
    })
}

/// Waits for a signal to stop; returns its name.
pub async fn signal() -> &'static str {
    use tokio::signal::unix::{SignalKind, signal};
    let (Ok(mut terminate), Ok(mut interrupt)) =
        (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
    else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = terminate.recv() => "SIGTERM",
        _ = interrupt.recv() => "SIGINT",
    }
}

/// Waits until all streams have ended, or [`DRAIN`] is over.
pub async fn drained(streams: &Streams) {
    let emptied = async {
        while !streams.open().is_empty() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let _ = tokio::time::timeout(DRAIN, emptied).await;
}

//! Connections of attackers and honest clients: TCP, and TLS 1.3 with credentials that Atlas
//! issued.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use crate::tls::trusting_client;
use crate::world::Host;

/// Time limit of a TCP connect, and of a TLS handshake.
pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// An address, and how to do TLS there; `None`: plain TCP.
#[derive(Clone)]
pub(super) struct Endpoint {
    pub(super) at: SocketAddr,
    pub(super) tls: Option<TlsConnector>,
}

/// A connection, encrypted or not.
pub(super) trait Io: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

impl Endpoint {
    pub(super) fn plain(at: SocketAddr) -> Self {
        Self { at, tls: None }
    }

    /// TLS with a client certificate. `credential`: PEM text of certificates and a key; `None`: no
    /// client certificate.
    pub(super) fn tls(at: SocketAddr, credential: Option<&str>) -> Result<Self> {
        let config = trusting_client(credential, &rustls::version::TLS13, &[b"h2"])?;
        Ok(Self { at, tls: Some(TlsConnector::from(Arc::new(config))) })
    }

    /// Connects, and does the TLS handshake if there is TLS.
    pub(super) async fn connect(&self) -> Result<Box<dyn Io>> {
        let tcp = tcp(self.at).await?;
        let Some(tls) = &self.tls else { return Ok(Box::new(tcp)) };
        let handshake =
            timeout(CONNECT_TIMEOUT, tls.connect(ServerName::from(self.at.ip()), tcp)).await;
        let tls = handshake
            .with_context(|| format!("{}: no TLS handshake within {CONNECT_TIMEOUT:?}", self.at))?;
        Ok(Box::new(tls.with_context(|| format!("{}: TLS", self.at))?))
    }
}

pub(super) async fn tcp(at: SocketAddr) -> Result<TcpStream> {
    let connected = timeout(CONNECT_TIMEOUT, TcpStream::connect(at)).await;
    let tcp = connected
        .with_context(|| format!("{at}: no connection within {CONNECT_TIMEOUT:?}"))?
        .with_context(|| format!("{at}: connect"))?;
    tcp.set_nodelay(true)?;
    Ok(tcp)
}

/// Reads and discards until the peer closes.
pub(super) async fn until_closed(io: &mut (impl AsyncRead + Unpin)) {
    let mut buffer = [0; 4096];
    while matches!(io.read(&mut buffer).await, Ok(1..)) {}
}

/// Runs a future in the network of a host, on one thread.
pub(super) fn run<T: Send, F: Future<Output = Result<T>>>(
    host: &Host,
    future: impl FnOnce() -> F + Send,
) -> Result<T> {
    host.within(|| {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .context("cannot make a runtime")?;
        let result = runtime.block_on(future());
        // Don't wait for the tasks of thousands of open connections.
        runtime.shutdown_background();
        result
    })
}

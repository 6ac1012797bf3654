//! Connections as attackers and honest clients make them: TCP, and TLS 1.3 with credentials that
//! Atlas has issued.

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

/// How long connecting and a handshake may take, each.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);

/// A port and what one shows there: `None` is plain TCP, otherwise TLS.
#[derive(Clone)]
pub(super) struct Door {
    pub(super) at: SocketAddr,
    pub(super) tls: Option<TlsConnector>,
}

/// A connection, encrypted or not.
pub(super) trait Io: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

impl Door {
    pub(super) fn plain(at: SocketAddr) -> Self {
        Self { at, tls: None }
    }

    /// A door where one shows a credential: a PEM file of certificates and a key; `None`: no
    /// certificate.
    pub(super) fn secure(at: SocketAddr, credential: Option<&str>) -> Result<Self> {
        let config = trusting_client(credential, &rustls::version::TLS13, &[b"h2"])?;
        Ok(Self { at, tls: Some(TlsConnector::from(Arc::new(config))) })
    }

    /// Connects, and shakes hands where that is needed.
    pub(super) async fn open(&self) -> Result<Box<dyn Io>> {
        let tcp = tcp(self.at).await?;
        let Some(tls) = &self.tls else { return Ok(Box::new(tcp)) };
        let shaken = timeout(PATIENCE, tls.connect(ServerName::from(self.at.ip()), tcp)).await;
        let tls =
            shaken.with_context(|| format!("{}: no TLS handshake within {PATIENCE:?}", self.at))?;
        Ok(Box::new(tls.with_context(|| format!("{}: TLS", self.at))?))
    }
}

/// Connects.
pub(super) async fn tcp(at: SocketAddr) -> Result<TcpStream> {
    let connected = timeout(PATIENCE, TcpStream::connect(at)).await;
    let tcp = connected
        .with_context(|| format!("{at}: no connection within {PATIENCE:?}"))?
        .with_context(|| format!("{at}: connect"))?;
    tcp.set_nodelay(true)?;
    Ok(tcp)
}

/// Reads and forgets until the other side closes.
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
        let ended = runtime.block_on(future());
        // Thousands of connections may be open.
        runtime.shutdown_background();
        ended
    })
}

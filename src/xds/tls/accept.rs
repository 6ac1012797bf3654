//! Accepting: handshakes run beside each other and have room of their own, so strangers can't take the room of those who
//! are known.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use rustls::ServerConfig;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::task::TaskTracker;

use super::Peer;
use super::opening::Opening;
use crate::pki;
use crate::process::connection_limiter::{ConnectionLimiter, Permit};
use crate::xds::{self, Xds};

/// A handshake that isn't finished by then is ended. It takes one round trip here, up to a second, and a lost packet costs up to three
/// more (`atlas_core::envoy::timing`).
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// Bytes that TLS keeps for a client that doesn't read.
const TLS_BUFFER: usize = 32 << 10;

/// Accepts and serves until Atlas drains; then ends when the last connection has.
pub async fn accept(listener: TcpListener, xds: Arc<Xds>) {
    let strangers = ConnectionLimiter::new(xds.limits.handshakes, xds.limits.handshake_patience);
    let connections = TaskTracker::new();
    let mut revocations = xds.client_authorizer.revocations();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Ok(()) = revocations.changed() => {
                let now = crate::process::clock::now();
                xds.streams.end_those(|peer| !xds.client_authorizer.still_admits(peer, now));
                continue;
            }
            () = xds.drain.cancelled() => break,
        };
        let (tcp, address) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of file descriptors, most likely: waiting is all that helps.
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let Some(config) = xds.client_authorizer.config() else { continue };
        // Meanwhile the kernel keeps those who come.
        let entered = tokio::select! {
            entered = strangers.enter() => entered,
            () = xds.drain.cancelled() => break,
        };
        let (guest, another_left) = entered;
        if another_left {
            xds.metrics.connection_dropped("handshakes");
        }
        let (xds, tracker) = (Arc::clone(&xds), connections.clone());
        connections.spawn(async move {
            if let Some((stream, peer)) = greet(tcp, address, config, &xds, &guest).await {
                settle(stream, peer, guest, xds, &tracker).await;
            }
        });
    }
    connections.close();
    connections.wait().await;
}

/// Shakes hands; `None` if that didn't end well.
async fn greet(
    tcp: TcpStream,
    address: SocketAddr,
    config: Arc<ServerConfig>,
    xds: &Xds,
    guest: &Permit,
) -> Option<(TlsStream<TcpStream>, Peer)> {
    let shaken = tokio::select! {
        shaken = tokio::time::timeout(HANDSHAKE_TIMEOUT, begin(tcp, address, config, xds)) => shaken,
        // Counted by who takes the place.
        () = guest.leave.cancelled() => return None,
        () = xds.drain.cancelled() => return None,
    };
    match shaken {
        Ok(Ok(Some(connection))) => return Some(connection),
        Ok(Ok(None)) => {}
        Ok(Err(error)) => {
            tracing::info!(%address, error = format!("{error:#}"), "TLS handshake failed")
        }
        Err(_) => tracing::info!(%address, "TLS handshake took too long"),
    }
    xds.metrics.handshakes_refused.inc();
    None
}

/// `None`: it is no TLS, and has been counted.
async fn begin(
    tcp: TcpStream,
    address: SocketAddr,
    config: Arc<ServerConfig>,
    xds: &Xds,
) -> anyhow::Result<Option<(TlsStream<TcpStream>, Peer)>> {
    let Some(opening) = Opening::peek(&tcp).await else {
        return handshake(tcp, address, config, xds).await.map(Some);
    };
    if let Some(connections) = xds.streams.not_tls.count(opening, crate::process::clock::now()) {
        tracing::warn!(%address, connections, "a connection to the xDS port began with {}: {}", opening.what(), opening.fix());
    }
    Ok(None)
}

async fn handshake(
    tcp: TcpStream,
    address: SocketAddr,
    config: Arc<ServerConfig>,
    xds: &Xds,
) -> anyhow::Result<(TlsStream<TcpStream>, Peer)> {
    tcp.set_nodelay(true)?;
    let stream = TlsAcceptor::from(config)
        .accept_with(tcp, |tls| tls.set_buffer_limit(Some(TLS_BUFFER)))
        .await?;
    let certificate = stream
        .get_ref()
        .1
        .peer_certificates()
        .and_then(<[_]>::first)
        .context("no client certificate")?;
    let (node, spiffe_id, not_after) =
        xds.client_authorizer.admit(certificate).map_err(|reason| anyhow::anyhow!(reason))?;
    let peer =
        Peer { node, spiffe_id, fingerprint: pki::fingerprint(certificate), not_after, address };
    Ok((stream, peer))
}

/// Serves a connection, if there is room for it. Who waits until another has made room for it, waits in the place of a stranger.
async fn settle(
    stream: TlsStream<TcpStream>,
    peer: Peer,
    _guest: Permit,
    xds: Arc<Xds>,
    connections: &TaskTracker,
) {
    let (node, address) = (peer.node.clone(), peer.address);
    match xds.streams.connect(peer, xds.connections(&node)).await {
        Ok(place) => {
            // A task of its own: this one's memory has room for a handshake.
            connections.spawn(xds::serve(stream, place, xds));
        }
        Err(full) => {
            xds.metrics.connection_dropped(full.limit());
            tracing::debug!(%node, %address, limit = full.limit(), "no room for another connection");
        }
    }
}

//! Accepts connections to the xDS port and shakes hands.
//!
//! tonic's own TLS server can neither replace its certificate while it runs nor be restricted to
//! TLS 1.3. Handshakes run in parallel and have a limit of their own, so clients that aren't
//! authenticated can't use up the connections of those that are.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use rustls::ServerConfig;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::task::TaskTracker;

use super::client::AuthenticatedClient;
use super::first_bytes::Plaintext;
use super::http2;
use super::server::XdsServer;
use crate::process::clock;
use crate::process::connection_limiter::{ConnectionLimiter, Permit};

/// When an unfinished handshake is ended. A handshake takes one round trip, up to a second, and a
/// lost packet costs up to three seconds more (`atlas_core::envoy::timing`).
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// Bytes that TLS buffers for a client that doesn't read.
const TLS_BUFFER: usize = 32 << 10;
/// Pause after an error of `accept`. The usual one is that the process has too many open files.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Accepts and serves connections until Atlas drains; returns when the last one has closed.
pub async fn accept(listener: TcpListener, server: Arc<XdsServer>) {
    let limiter = ConnectionLimiter::new(server.limits.handshakes, server.limits.handshake_grace);
    let connections = TaskTracker::new();
    let mut revocations = server.client_authorizer.revocations();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Ok(()) = revocations.changed() => {
                close_revoked(&server);
                continue;
            }
            () = server.drain.cancelled() => break,
        };
        let (tcp, address) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let Some(config) = server.client_authorizer.tls_config() else { continue };
        // Until there is a permit, further clients wait in the kernel's queue.
        let (permit, revoked_another) = tokio::select! {
            acquired = limiter.acquire() => acquired,
            () = server.drain.cancelled() => break,
        };
        if revoked_another {
            server.metrics.connection_dropped("handshakes");
        }
        let (server, tracker) = (Arc::clone(&server), connections.clone());
        connections.spawn(async move {
            if let Some((tls, client)) = authenticate(tcp, address, config, &server, &permit).await
            {
                serve(tls, client, permit, server, &tracker).await;
            }
        });
    }
    connections.close();
    connections.wait().await;
}

/// Closes the connections of clients that may no longer open streams.
fn close_revoked(server: &XdsServer) {
    let now = clock::now();
    server.streams.close_where(|client| !server.client_authorizer.still_allows(client, now));
}

/// Shakes hands. Returns `None` if the client isn't authenticated in time.
async fn authenticate(
    tcp: TcpStream,
    address: SocketAddr,
    config: Arc<ServerConfig>,
    server: &XdsServer,
    permit: &Permit,
) -> Option<(TlsStream<TcpStream>, AuthenticatedClient)> {
    let handshake = handshake_unless_plaintext(tcp, address, config, server);
    let result = tokio::select! {
        result = tokio::time::timeout(HANDSHAKE_TIMEOUT, handshake) => result,
        // The metric has been increased where the permit was revoked.
        () = permit.revoked.cancelled() => return None,
        () = server.drain.cancelled() => return None,
    };
    match result {
        Ok(Ok(Some(connection))) => return Some(connection),
        Ok(Ok(None)) => {}
        Ok(Err(error)) => {
            tracing::info!(%address, error = format!("{error:#}"), "TLS handshake failed")
        }
        Err(_) => tracing::info!(%address, "TLS handshake took too long"),
    }
    server.metrics.handshakes_refused.inc();
    None
}

/// Returns `None` if the client's first bytes are no TLS; that has been logged then.
async fn handshake_unless_plaintext(
    tcp: TcpStream,
    address: SocketAddr,
    config: Arc<ServerConfig>,
    server: &XdsServer,
) -> anyhow::Result<Option<(TlsStream<TcpStream>, AuthenticatedClient)>> {
    let Some(plaintext) = Plaintext::peek(&tcp).await else {
        return handshake(tcp, address, config, server).await.map(Some);
    };
    if let Some(connections) = server.streams.plaintext_clients.record(plaintext, clock::now()) {
        tracing::warn!(
            %address,
            connections,
            "a connection to the xDS port began with {}: {}",
            plaintext.description(),
            plaintext.fix()
        );
    }
    Ok(None)
}

async fn handshake(
    tcp: TcpStream,
    address: SocketAddr,
    config: Arc<ServerConfig>,
    server: &XdsServer,
) -> anyhow::Result<(TlsStream<TcpStream>, AuthenticatedClient)> {
    tcp.set_nodelay(true)?;
    let tls = TlsAcceptor::from(config)
        .accept_with(tcp, |tls| tls.set_buffer_limit(Some(TLS_BUFFER)))
        .await?;
    let (_, connection) = tls.get_ref();
    let certificate = connection
        .peer_certificates()
        .and_then(|certificates| certificates.first())
        .context("no client certificate")?;
    let client = server
        .client_authorizer
        .authorize(certificate, address)
        .map_err(|reason| anyhow::anyhow!(reason))?;
    Ok((tls, client))
}

/// Serves an authenticated client, if there may be one more connection. It keeps its handshake
/// permit while it waits for another connection to close.
async fn serve(
    tls: TlsStream<TcpStream>,
    client: AuthenticatedClient,
    _permit: Permit,
    server: Arc<XdsServer>,
    connections: &TaskTracker,
) {
    let (node, address) = (client.node.clone(), client.address);
    match server.streams.add_connection(client, server.connection_limits(&node)).await {
        Ok(registered) => {
            // In a task of its own, because this task is as large as a handshake needs.
            connections.spawn(http2::serve(tls, registered, server));
        }
        Err(reached) => {
            let limit = reached.metric_label();
            server.metrics.connection_dropped(limit);
            tracing::debug!(%node, %address, limit, "refused one more connection");
        }
    }
}

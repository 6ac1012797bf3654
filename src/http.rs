//! An HTTP/1.1 server with what a public port needs and axum's own lacks: a limit of connections, and one of the time a
//! request may take to arrive.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Connections at a time: the kubelet, some Prometheus, the hub's Envoys.
const MAX_CONNECTIONS: usize = 256;
/// A request's head that hasn't arrived by then ends the connection.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a request may still take when Atlas stops.
const LAST_REQUEST: Duration = Duration::from_secs(2);

/// Serves until told to stop; then ends each connection after the request it is at.
pub async fn serve(listener: TcpListener, router: Router, stop: CancellationToken) {
    let room = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let connections = TaskTracker::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stop.cancelled() => break,
        };
        match accepted {
            Ok((tcp, _)) => {
                if let Ok(place) = Arc::clone(&room).try_acquire_owned() {
                    let (router, stop) = (router.clone(), stop.clone());
                    connections.spawn(async move {
                        serve_connection(tcp, router, stop).await;
                        drop(place);
                    });
                }
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
    connections.close();
    connections.wait().await;
}

async fn serve_connection(tcp: TcpStream, router: Router, stop: CancellationToken) {
    let service = TowerToHyperService::new(router);
    let connection =
        http1::Builder::new().timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT).serve_connection(TokioIo::new(tcp), service);
    tokio::pin!(connection);
    let result = tokio::select! {
        result = connection.as_mut() => result,
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            match tokio::time::timeout(LAST_REQUEST, connection).await {
                Ok(result) => result,
                Err(_) => return,
            }
        }
    };
    if let Err(error) = result {
        tracing::debug!(%error, "an HTTP connection ended badly");
    }
}

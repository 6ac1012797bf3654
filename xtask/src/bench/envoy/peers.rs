//! Stand-ins for the clusters' Envoys: an address for each cluster, with a server that has the
//! cluster's certificate and answers health checks.
//!
//! As many real Envoys would need more memory than a machine has, and they aren't measured. The
//! hub's Envoy does the same work as with real ones: it connects to each address with mutual TLS
//! 1.3, verifies the cluster's name, and makes a health check every 3 s.
//!
//! ```text
//! 10.92.0.0/16, all of it local to the host "peers"
//!   10.92.X.Y:11901 ─▶ cluster 256·X + Y ─▶ its leaf in Atlas's state directory
//! ```

use std::collections::HashMap;
use std::convert::Infallible;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result};
use atlas_lab::world::{Host, World};
use bytes::Bytes;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Empty, Full};
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::version::TLS13;
use tokio_rustls::rustls::{RootCertStore, ServerConfig};

/// The network of all peers. That of the world is 10.91.0.0/16.
const NETWORK: &str = "10.92.0.0/16";
/// Where a cluster's Envoy listens.
const PORT: u16 = 11901;
/// `HealthCheckResponse{status: SERVING}` as one gRPC message.
const SERVING: &[u8] = &[0, 0, 0, 0, 2, 0x08, 0x01];

/// The address of the cluster with this number.
pub(super) fn address(number: u32) -> SocketAddr {
    SocketAddr::new(
        IpAddr::from((u32::from(Ipv4Addr::new(10, 92, 0, 0)) + (number & 0xffff)).to_be_bytes()),
        PORT,
    )
}

/// Peers that answer until this is dropped.
pub(super) struct Peers {
    /// Runs the server; dropping it closes all connections.
    _runtime: tokio::runtime::Runtime,
}

impl Peers {
    /// Starts the servers of the clusters of a state directory, on a new host that `hub` has a
    /// route to. `name`: of cluster N.
    ///
    /// # Errors
    /// The addresses can't be added, or the port can't be bound.
    pub(super) fn start(
        world: &World,
        hub: &Host,
        host_name: &str,
        state: &Path,
        name: fn(u32) -> String,
    ) -> Result<Self> {
        let host = world.host(host_name)?;
        host.run(Command::new("ip").args(["route", "add", "local", NETWORK, "dev", "lo"]))
            .context("the peers' addresses")?;
        hub.run(Command::new("ip").args(["route", "add", NETWORK, "via", &host.ip().to_string()]))
            .context("the route to the peers")?;
        // A socket stays in the network namespace where it was made.
        let listener = host.within(|| {
            let listener = std::net::TcpListener::bind((Ipv4Addr::UNSPECIFIED, PORT))
                .context("cannot listen for the peers")?;
            listener.set_nonblocking(true)?;
            Ok(listener)
        })?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .enable_io()
            .build()
            .context("cannot start the peers")?;
        let listener = runtime
            .block_on(async { TcpListener::from_std(listener) })
            .context("cannot listen for the peers")?;
        let leaves = Arc::new(Leaves { state: state.to_owned(), name, known: Mutex::default() });
        runtime.spawn(async move {
            // Keeps the host's namespaces while the server runs.
            let _host = host;
            loop {
                // For example out of file descriptors. The Envoy tries again, and its log and the
                // figures show it.
                let Ok((stream, _)) = listener.accept().await else {
                    tokio::task::yield_now().await;
                    continue;
                };
                let leaves = leaves.clone();
                tokio::spawn(async move {
                    if let Err(error) = answer(&leaves, stream).await {
                        eprintln!("peers: {error:#}");
                    }
                });
            }
        });
        Ok(Self { _runtime: runtime })
    }
}

/// Serves a connection until it ends.
async fn answer(leaves: &Leaves, stream: TcpStream) -> Result<()> {
    let local = stream.local_addr().context("a connection without an address")?;
    let acceptor = leaves.acceptor(local.ip())?;
    stream.set_nodelay(true)?;
    // The hub's Envoy may time out; it connects again.
    let Ok(stream) = acceptor.accept(stream).await else { return Ok(()) };
    let service = hyper::service::service_fn(async |request: Request<Incoming>| {
        Ok::<_, Infallible>(healthy(&request))
    });
    // How the peer ends the connection doesn't matter.
    let _ = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
        .serve_connection(TokioIo::new(stream), service)
        .await;
    Ok(())
}

/// Answers a gRPC request with SERVING, any other with 200.
fn healthy(request: &Request<Incoming>) -> Response<BoxBody<Bytes, Infallible>> {
    let grpc = request
        .headers()
        .get(CONTENT_TYPE)
        .is_some_and(|value| value.as_bytes().starts_with(b"application/grpc"));
    if !grpc {
        return Response::new(Empty::new().boxed());
    }
    let trailers = async || {
        let trailers: HeaderMap =
            [(HeaderName::from_static("grpc-status"), HeaderValue::from_static("0"))]
                .into_iter()
                .collect();
        Some(Ok(trailers))
    };
    let mut response =
        Response::new(Full::new(Bytes::from_static(SERVING)).with_trailers(trailers()).boxed());
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    response
}

/// Each cluster's certificate, as Atlas issued it.
struct Leaves {
    state: PathBuf,
    name: fn(u32) -> String,
    known: Mutex<HashMap<IpAddr, TlsAcceptor>>,
}

impl Leaves {
    /// The TLS acceptor of the cluster at this address.
    fn acceptor(&self, address: IpAddr) -> Result<TlsAcceptor> {
        if let Some(acceptor) =
            self.known.lock().unwrap_or_else(PoisonError::into_inner).get(&address)
        {
            return Ok(acceptor.clone());
        }
        let IpAddr::V4(ipv4) = address else { anyhow::bail!("{address} is no peer's address") };
        let name = (self.name)(u32::from(ipv4) & 0xffff);
        let acceptor = self
            .read(&name)
            .with_context(|| format!("the certificate of the cluster {name} at {address}"))?;
        self.known.lock().unwrap_or_else(PoisonError::into_inner).insert(address, acceptor.clone());
        Ok(acceptor)
    }

    fn read(&self, name: &str) -> Result<TlsAcceptor> {
        let read = |path: PathBuf| {
            std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))
        };
        let leaf = read(self.state.join(format!("pki/cluster.{name}.pem")))?;
        let chain = CertificateDer::pem_slice_iter(&leaf).collect::<Result<Vec<_>, _>>()?;
        let key = PrivateKeyDer::from_pem_slice(&leaf)?;
        let mut roots = RootCertStore::empty();
        for root in
            CertificateDer::pem_slice_iter(&read(self.state.join(format!("nodes/{name}/ca.crt")))?)
        {
            roots.add(root?)?;
        }
        let provider = Arc::new(ring::default_provider());
        let verifier =
            WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone())
                .build()?;
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&TLS13])?
            .with_client_cert_verifier(verifier)
            .with_single_cert(chain, key)?;
        config.alpn_protocols = vec![b"h2".to_vec()];
        Ok(TlsAcceptor::from(Arc::new(config)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_cluster_has_an_address_of_its_own() {
        assert_eq!(address(0).to_string(), "10.92.0.0:11901");
        assert_eq!(address(20_001).to_string(), "10.92.78.33:11901");
    }
}

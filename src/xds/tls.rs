//! The TLS side of the xDS port: version 1.3 only, client certificate required, configuration swapped per accept.
//!
//! tonic's own TLS server neither reloads nor fixes the version. Whether a certificate may open a stream is decided
//! within the handshake, so a stranger hears a TLS alert and nothing else of Atlas.

mod accept;
mod client_authorizer;
mod opening;

use std::net::SocketAddr;

use atlas_core::name::NodeId;
use atlas_core::pki::Time;

pub use accept::accept;
pub use client_authorizer::ClientAuthorizer;
pub use opening::NotTls;

/// Who is at the other end, as the verified certificate says.
#[derive(Clone, Debug)]
pub struct Peer {
    /// Whose configuration it gets.
    pub node: NodeId,
    /// The certificate's SPIFFE ID.
    pub spiffe_id: String,
    /// SHA-256 of the certificate.
    pub fingerprint: String,
    /// When the certificate ends.
    pub not_after: Time,
    /// Where it connected from.
    pub address: SocketAddr,
}

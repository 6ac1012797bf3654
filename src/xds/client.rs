//! Who is at the other end of a connection.

use std::net::SocketAddr;

use atlas_core::name::NodeId;
use atlas_core::pki::Time;

/// A client that has authenticated itself, as its verified certificate says.
#[derive(Clone, Debug)]
pub struct AuthenticatedClient {
    /// The node whose resources the client gets.
    pub node: NodeId,
    /// The certificate's SPIFFE ID.
    pub spiffe_id: String,
    /// The SHA-256 of the certificate.
    pub fingerprint: String,
    /// When the certificate expires.
    pub not_after: Time,
    /// The address that the client connected from.
    pub address: SocketAddr,
}

/// What an Envoy says of itself: for display, never for authorisation. Its characters that a
/// terminal would hide or interpret have been escaped.
#[derive(Clone, Debug, Default)]
pub struct SelfDescription {
    /// `node.id`.
    pub id: String,
    /// Envoy's version, e.g. `1.40.0`.
    pub version: String,
}

//! Secrets, delivered by SDS.

use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3 as tls;

use super::inline_string;

/// The name of the node's own certificate and key.
pub const LEAF: &str = "leaf";
/// The name of the roots that the node trusts.
pub const TRUST: &str = "trust";

/// The node's own certificate (leaf first, then its issuers) and key, PEM.
pub fn leaf(chain: &str, key: &str) -> tls::Secret {
    let certificate = tls::TlsCertificate {
        certificate_chain: inline_string(chain),
        private_key: inline_string(key),
        ..Default::default()
    };
    tls::Secret { name: LEAF.into(), r#type: Some(tls::secret::Type::TlsCertificate(certificate)) }
}

/// The roots that the node trusts, PEM, one after the other.
pub fn trust(roots: &str) -> tls::Secret {
    let context = tls::CertificateValidationContext {
        trusted_ca: inline_string(roots),
        ..Default::default()
    };
    tls::Secret { name: TRUST.into(), r#type: Some(tls::secret::Type::ValidationContext(context)) }
}

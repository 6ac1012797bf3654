//! Mutual TLS between Envoys: version 1.3, certificate and roots by SDS, and the SPIFFE ID that the
//! other side's certificate must have.
//!
//! Which SPIFFE ID that is, is decided in `plan/expected_san.rs`.

use envoy_types::pb::envoy::config::core::v3::{TransportSocket, transport_socket};
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3 as tls;
use envoy_types::pb::envoy::r#type::matcher::v3::{StringMatcher, string_matcher::MatchPattern};
use envoy_types::pb::google::protobuf::Any;

use super::secret::{LEAF, TRUST};
use super::{ads, any, bool_value, uint32};

/// The URI SAN that the other side's certificate must have.
pub enum ExpectedSan<'a> {
    /// This SPIFFE ID.
    Exact(&'a str),
    /// Any SPIFFE ID that begins with this.
    Prefix(&'a str),
}

impl ExpectedSan<'_> {
    fn matcher(&self) -> tls::SubjectAltNameMatcher {
        let pattern = match self {
            ExpectedSan::Exact(id) => MatchPattern::Exact((*id).to_owned()),
            ExpectedSan::Prefix(prefix) => MatchPattern::Prefix((*prefix).to_owned()),
        };
        tls::SubjectAltNameMatcher {
            san_type: tls::subject_alt_name_matcher::SanType::Uri.into(),
            matcher: Some(StringMatcher { match_pattern: Some(pattern), ..Default::default() }),
            ..Default::default()
        }
    }
}

/// The SDS configuration of the secret of a name.
pub type SecretSource = Box<dyn Fn(&str) -> tls::SdsSecretConfig>;

/// Secrets come over the ADS stream.
pub fn secrets_by_ads() -> SecretSource {
    Box::new(|name| tls::SdsSecretConfig { name: name.to_owned(), sds_config: Some(ads()) })
}

fn common_tls_context(san: &ExpectedSan<'_>, secrets: &SecretSource) -> tls::CommonTlsContext {
    let validation = tls::common_tls_context::CombinedCertificateValidationContext {
        default_validation_context: Some(tls::CertificateValidationContext {
            match_typed_subject_alt_names: vec![san.matcher()],
            ..Default::default()
        }),
        validation_context_sds_secret_config: Some(secrets(TRUST)),
        ..Default::default()
    };
    // Without a maximum Envoy's client side uses TLS 1.2 at most.
    let version = tls::tls_parameters::TlsProtocol::TlSv13.into();
    tls::CommonTlsContext {
        tls_params: Some(tls::TlsParameters {
            tls_minimum_protocol_version: version,
            tls_maximum_protocol_version: version,
            ..Default::default()
        }),
        tls_certificate_sds_secret_configs: vec![secrets(LEAF)],
        alpn_protocols: vec!["h2".into()],
        validation_context_type: Some(
            tls::common_tls_context::ValidationContextType::CombinedValidationContext(validation),
        ),
        ..Default::default()
    }
}

/// The transport socket of an Envoy cluster.
pub fn upstream(san: &ExpectedSan<'_>, secrets: &SecretSource) -> TransportSocket {
    let context = tls::UpstreamTlsContext {
        common_tls_context: Some(common_tls_context(san, secrets)),
        // A resumed session would outlive the revocation of its certificate.
        max_session_keys: uint32(0),
        ..Default::default()
    };
    transport_socket(any(&context))
}

/// The transport socket of a listener, which requires a client certificate.
pub fn downstream(san: &ExpectedSan<'_>) -> TransportSocket {
    let context = tls::DownstreamTlsContext {
        common_tls_context: Some(common_tls_context(san, &secrets_by_ads())),
        require_client_certificate: bool_value(true),
        disable_stateful_session_resumption: true,
        session_ticket_keys_type: Some(
            tls::downstream_tls_context::SessionTicketKeysType::DisableStatelessSessionResumption(
                true,
            ),
        ),
        ..Default::default()
    };
    transport_socket(any(&context))
}

fn transport_socket(context: Any) -> TransportSocket {
    TransportSocket {
        name: "envoy.transport_sockets.tls".into(),
        config_type: Some(transport_socket::ConfigType::TypedConfig(context)),
    }
}

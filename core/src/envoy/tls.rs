//! Mutual TLS between Envoys: version 1.3, both certificates by SDS, the other side's SPIFFE ID matched.

use envoy_types::pb::envoy::config::core::v3::{TransportSocket, transport_socket};
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3 as tls;
use envoy_types::pb::envoy::r#type::matcher::v3::{StringMatcher, string_matcher::MatchPattern};

use super::{LEAF, TRUST, ads, any, flag};

/// Who the other side must be.
pub enum Peer<'a> {
    /// This SPIFFE ID, to the letter.
    Exactly(&'a str),
    /// Any SPIFFE ID that begins so.
    Prefix(&'a str),
}

impl Peer<'_> {
    fn matcher(&self) -> tls::SubjectAltNameMatcher {
        let pattern = match self {
            Peer::Exactly(id) => MatchPattern::Exact((*id).to_owned()),
            Peer::Prefix(id) => MatchPattern::Prefix((*id).to_owned()),
        };
        tls::SubjectAltNameMatcher {
            san_type: tls::subject_alt_name_matcher::SanType::Uri.into(),
            matcher: Some(StringMatcher { match_pattern: Some(pattern), ..Default::default() }),
            ..Default::default()
        }
    }
}

/// How a certificate or trust bundle is had.
pub type Source = Box<dyn Fn(&str) -> tls::SdsSecretConfig>;

/// By SDS over the ADS stream.
pub fn by_ads() -> Source {
    Box::new(|name| tls::SdsSecretConfig { name: name.to_owned(), sds_config: Some(ads()) })
}

fn common(peer: &Peer<'_>, source: &Source) -> tls::CommonTlsContext {
    let validation = tls::common_tls_context::CombinedCertificateValidationContext {
        default_validation_context: Some(tls::CertificateValidationContext {
            match_typed_subject_alt_names: vec![peer.matcher()],
            ..Default::default()
        }),
        validation_context_sds_secret_config: Some(source(TRUST)),
        ..Default::default()
    };
    // Envoy's client side stops at TLS 1.2 unless told otherwise.
    let version = tls::tls_parameters::TlsProtocol::TlSv13.into();
    tls::CommonTlsContext {
        tls_params: Some(tls::TlsParameters {
            tls_minimum_protocol_version: version,
            tls_maximum_protocol_version: version,
            ..Default::default()
        }),
        tls_certificate_sds_secret_configs: vec![source(LEAF)],
        alpn_protocols: vec!["h2".into()],
        validation_context_type: Some(
            tls::common_tls_context::ValidationContextType::CombinedValidationContext(validation),
        ),
        ..Default::default()
    }
}

/// The side that dials.
pub fn client(peer: &Peer<'_>, source: &Source) -> Option<TransportSocket> {
    let context = tls::UpstreamTlsContext {
        common_tls_context: Some(common(peer, source)),
        // Session resumption would let a certificate live on after its key is revoked.
        max_session_keys: super::number(0),
        ..Default::default()
    };
    Some(socket(any(&context)))
}

/// The side that listens: a client certificate is required.
pub fn server(peer: &Peer<'_>) -> Option<TransportSocket> {
    let context = tls::DownstreamTlsContext {
        common_tls_context: Some(common(peer, &by_ads())),
        require_client_certificate: flag(true),
        disable_stateful_session_resumption: true,
        session_ticket_keys_type: Some(
            tls::downstream_tls_context::SessionTicketKeysType::DisableStatelessSessionResumption(
                true,
            ),
        ),
        ..Default::default()
    };
    Some(socket(any(&context)))
}

fn socket(context: envoy_types::pb::google::protobuf::Any) -> TransportSocket {
    TransportSocket {
        name: "envoy.transport_sockets.tls".into(),
        config_type: Some(transport_socket::ConfigType::TypedConfig(context)),
    }
}

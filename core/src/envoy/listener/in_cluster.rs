//! The listeners of a cluster's Envoys.

use std::net::IpAddr;

use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3 as hcm;

use super::{Listener, http_connection_manager, http_listener, http1, with_web_uis};
use crate::envoy::local_reply::{self, page, plain};
use crate::envoy::tls::{self, ExpectedSan};
use crate::envoy::{http_filter, limits, lua, socket};

/// 11901: everything that comes from the hub. `hub_san` is the SPIFFE ID of the hub's Envoys,
/// `trusted_hops` the number of trusted proxies in front of the hub's 10904, `max_request_seconds`
/// how long a request may take there.
pub fn inbound(
    bind: IpAddr,
    hub_san: &str,
    trusted_hops: u32,
    max_request_seconds: u32,
) -> Listener {
    let limits = &limits::CLUSTER_INBOUND.for_requests_of(max_request_seconds);
    let filters = vec![
        http_filter::lua(String::new()),
        http_filter::named_lua("atlas.replica", lua::replica_cookie()),
        http_filter::router(),
    ];
    let store = plain(
        "Atlas: the cluster's Envoy has no connection to the Thanos sidecar of this store, it isn't serving, or its gRPC has TLS \
         (--grpc-server-tls-cert), which no Envoy of Atlas speaks to it.",
    );
    let server = page(
        "503 Service Unavailable",
        "This server can't be reached",
        "The cluster's Envoy has no connection to the server behind this page.",
    );
    let manager = hcm::HttpConnectionManager {
        codec_type: hcm::http_connection_manager::CodecType::Http2.into(),
        // The hub's Envoy adds its client's address to x-forwarded-for. That is the last trusted
        // proxy in front of it, if there are such; the address before is the person's.
        xff_num_trusted_hops: 1 + trusted_hops,
        local_reply_config: Some(local_reply::stores_and_pages(store, server, max_request_seconds)),
        ..with_web_uis(
            http_connection_manager(limits, filters),
            lua::websocket_responses_in_cluster(),
        )
    };
    let mut listener = http_listener(limits, bind, manager);
    listener.filter_chains[0].transport_socket =
        Some(tls::downstream(&ExpectedSan::Exact(hub_san)));
    listener.socket_options = socket::listener_options();
    listener
}

/// 11903: the cluster's Prometheus posts alerts, and asks for the list of Alertmanagers.
pub fn alerts_in_cluster(bind: IpAddr) -> Listener {
    let limits = &limits::CLUSTER_ALERTS;
    let filters = vec![
        http_filter::lua(String::new()),
        http_filter::buffer(limits::ALERT_POST_BYTES),
        http_filter::router(),
    ];
    let manager = hcm::HttpConnectionManager {
        // The list of Alertmanagers repeats the authority with its port.
        strip_port_mode: None,
        http_protocol_options: Some(http1(None)),
        ..http_connection_manager(limits, filters)
    };
    http_listener(limits, bind, manager)
}

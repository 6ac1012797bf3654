//! Two Envoys with a far link between them, and the source of the answers.
//!
//! ```text
//! reader ─h2c─▶ hub Envoy ═ TLS, HTTP/2 ═ far link ═▶ cluster Envoy ─h2c─▶ source of bytes
//! ```

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;

use anyhow::{Context, Result};
use atlas_lab::run::{Envoy, EnvoyOptions};
use atlas_lab::world::{Host, World};
use rcgen::{CertificateParams, KeyPair};
use serde_json::{Value, json};

use super::Setting;
use super::traffic::{ENDLESS, Source};

/// Ports of the hub Envoy, the cluster Envoy, and the source.
const PORTS: (u16, u16, u16) = (10901, 11901, 9999);
const ADMIN: u16 = 9000;
/// The cluster Envoy's name in its certificate.
const SERVER: &str = "cluster.link";
/// `IPPROTO_TCP`, and options of `linux/tcp.h`.
const TCP: u32 = 6;
const TCP_MAXSEG: u32 = 2;
const TCP_NOTSENT_LOWAT: u32 = 25;

/// The running programs of one setting.
pub(super) struct Link {
    pub(super) hub: Host,
    pub(super) hub_envoy: Envoy,
    _source: Source,
    _cluster_envoy: Envoy,
}

impl Link {
    /// Starts the programs on new hosts named after `number`, since TCP caches metrics of a
    /// destination.
    ///
    /// # Errors
    /// A program doesn't start.
    pub(super) fn start(
        world: &World,
        envoy: &Path,
        number: usize,
        setting: &Setting,
    ) -> Result<Self> {
        let hub = world.host(&format!("hub-{number}"))?;
        let cluster = world.far_host(&format!("cluster-{number}"), 0x0a71a5 + number as u64)?;
        for host in [&hub, &cluster] {
            host.set_congestion_control(&setting.congestion)?;
        }
        let link = cluster.link()?;
        link.set_distance(setting.round_trip, setting.loss);
        link.change_both(|conditions| {
            conditions.bytes_per_second = Some(setting.bytes_per_second);
            conditions.queue_bytes = setting.queue_bytes();
        });
        let source = Source::start(&cluster, loopback(PORTS.2))?;
        let key = KeyPair::generate()?;
        let certificate = CertificateParams::new(vec![SERVER.to_owned()])?.self_signed(&key)?;
        for host in [&hub, &cluster] {
            host.write("tls.crt", certificate.pem())?;
            host.write("tls.key", key.serialize_pem())?;
        }
        let far = SocketAddr::new(IpAddr::from(cluster.ip()), PORTS.1);
        let cluster_envoy = start(&cluster, envoy, &cluster_config(&cluster, far, setting))?;
        let hub_envoy = start(&hub, envoy, &hub_config(&hub, far, setting))?;
        Ok(Self { hub, hub_envoy, _source: source, _cluster_envoy: cluster_envoy })
    }

    /// The address for readers.
    pub(super) fn address() -> SocketAddr {
        loopback(PORTS.0)
    }
}

fn loopback(port: u16) -> SocketAddr {
    SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port)
}

fn start(host: &Host, program: &Path, config: &Value) -> Result<Envoy> {
    let file = host.write("envoy.json", config.to_string())?;
    let options = EnvoyOptions { concurrency: 1, ..EnvoyOptions::new(file, loopback(ADMIN)) };
    let mut envoy = Envoy::start(host, "envoy", program, &options)?;
    envoy.wait_live().with_context(|| format!("the Envoy of {}", host.name()))?;
    Ok(envoy)
}

fn address(at: SocketAddr) -> Value {
    json!({"socket_address": {"address": at.ip(), "port_value": at.port()}})
}

fn hub_config(host: &Host, far: SocketAddr, setting: &Setting) -> Value {
    let mut http2 = json!({
        "initial_stream_window_size": setting.stream_window, "initial_connection_window_size": setting.connection_window,
    });
    if let Some(streams) = setting.streams_per_connection {
        http2["max_concurrent_streams"] = json!(streams);
    }
    let tls = json!({
        "name": "tls", "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
            "sni": SERVER,
            "common_tls_context": {
                "alpn_protocols": ["h2"],
                "tls_params": {"tls_minimum_protocol_version": "TLSv1_3", "tls_maximum_protocol_version": "TLSv1_3"},
                "validation_context": {"trusted_ca": {"filename": host.dir().join("tls.crt")}},
            },
        },
    });
    let mut options = Vec::new();
    if let Some(segment) = setting.segment {
        options.push(json!({"level": TCP, "name": TCP_MAXSEG, "int_value": segment}));
    }
    config(
        listener(loopback(PORTS.0), setting.small_first, None),
        json!({
            "name": "to", "connect_timeout": "20s", "load_assignment": assignment(far), "transport_socket": tls,
            "upstream_bind_config": {"socket_options": options},
            "typed_extension_protocol_options": protocol(&http2),
        }),
    )
}

fn cluster_config(host: &Host, at: SocketAddr, setting: &Setting) -> Value {
    let tls = json!({
        "name": "tls", "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
            "common_tls_context": {
                "alpn_protocols": ["h2"],
                "tls_certificates": [{
                    "certificate_chain": {"filename": host.dir().join("tls.crt")},
                    "private_key": {"filename": host.dir().join("tls.key")},
                }],
            },
        },
    });
    let mut listener = listener(at, false, Some(tls));
    if let Some(bytes) = setting.write_buffer {
        listener["per_connection_buffer_limit_bytes"] = json!(bytes);
    }
    if let Some(bytes) = setting.unsent {
        listener["socket_options"] =
            json!([{"level": TCP, "name": TCP_NOTSENT_LOWAT, "int_value": bytes}]);
    }
    let windows = setting
        .source_window
        .map_or_else(|| json!({}), |bytes| json!({"initial_stream_window_size": bytes}));
    let to = json!({
        "name": "to", "connect_timeout": "5s", "load_assignment": assignment(loopback(PORTS.2)),
        "typed_extension_protocol_options": protocol(&windows),
    });
    config(listener, to)
}

fn assignment(at: SocketAddr) -> Value {
    json!({"cluster_name": "to", "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address(at)}}]}]})
}

fn protocol(http2: &Value) -> Value {
    json!({"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
        "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
        "explicit_http_config": {"http2_protocol_options": http2},
    }})
}

/// `small_first`: everything but large answers has the priority HIGH.
fn listener(at: SocketAddr, small_first: bool, tls: Option<Value>) -> Value {
    let priority = if small_first { "HIGH" } else { "DEFAULT" };
    let manager = json!({
        "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "in", "codec_type": "HTTP2", "stream_idle_timeout": "0s",
        "http_filters": [{"name": "router", "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router",
        }}],
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [
            {"match": {"path": ENDLESS}, "route": {"cluster": "to", "timeout": "0s"}},
            {"match": {"prefix": "/"}, "route": {"cluster": "to", "timeout": "0s", "priority": priority}},
        ]}]},
    });
    let mut chain = json!({"filters": [{"name": "http", "typed_config": manager}]});
    if let Some(tls) = tls {
        chain["transport_socket"] = tls;
    }
    json!({"name": "in", "address": address(at), "filter_chains": [chain]})
}

fn config(listener: Value, cluster: Value) -> Value {
    json!({
        "node": {"id": "link", "cluster": "link"},
        "admin": {"address": address(loopback(ADMIN))},
        "static_resources": {"listeners": [listener], "clusters": [cluster]},
    })
}

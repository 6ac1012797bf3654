//! The two ways from a Query to one Prometheus.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use atlas_lab::parts::{self, Part};
use atlas_lab::run::{Endpoints, Query, QueryOptions, START, Sidecar, SidecarOptions};
use atlas_lab::scene::{Cluster, ClusterOptions, Hub, HubOptions, Place};
use atlas_lab::world::{Host, World};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
};

use super::super::cost::cpu_of_threads;
use super::data::Data;

/// The cluster's name.
const CLUSTER: &str = "tokyo";
/// The direct sidecar's name in its certificate.
const SERVER: &str = "sidecar.direct";

/// A path from a Query to the Prometheus.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// One mutual-TLS connection.
    Direct,
    /// Through the hub's Envoy and the cluster's.
    Envoys,
}

impl Way {
    /// Its name in tables and JSON.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Envoys => "envoys",
        }
    }
}

/// The running programs of both paths.
pub(super) struct Paths {
    hub: Hub,
    cluster: Cluster,
    direct_query: Query,
    direct_sidecar: Sidecar,
}

impl Paths {
    /// Starts all programs.
    ///
    /// # Errors
    /// A program doesn't start.
    pub(super) fn start(world: &World, atlas: &Path, data: &Data) -> Result<Self> {
        let place = Place::in_world(world, CLUSTER)?;
        eprintln!("making {} samples of {} series", data.total(), data.series);
        data.write_blocks(
            &place.host,
            &place.host.dir().join(format!("{CLUSTER}-prometheus-0/data")),
        )?;
        eprintln!("starting the hub and {CLUSTER}");
        let mut hub = Hub::start(Place::in_world(world, "hub")?, HubOptions::new(atlas))?;
        let mut cluster = Cluster::start(
            place,
            &mut hub,
            ClusterOptions { replicas: 1, ..ClusterOptions::new(CLUSTER) },
        )?;
        hub.wait_synced([CLUSTER])?;
        let files = Files::write(world.root())?;
        let thanos = parts::get(Part::Thanos)?;

        eprintln!("starting the direct connection");
        let ip = cluster.place.programs[3];
        let mut options = SidecarOptions::new(
            SocketAddr::new(ip, 10901),
            SocketAddr::new(ip, 10902),
            cluster.prometheus[0].url(),
        );
        options.extra = vec![
            format!("--grpc-server-tls-cert={}", files.server.certificate.display()),
            format!("--grpc-server-tls-key={}", files.server.key.display()),
            format!("--grpc-server-tls-client-ca={}", files.authority.display()),
        ];
        let mut direct_sidecar =
            Sidecar::start(&cluster.place.host, "direct-sidecar", &thanos, &options)?;
        direct_sidecar.wait_ready()?;

        let ip = hub.place.programs[3];
        let endpoints = [Endpoints::Address(direct_sidecar.grpc.to_string())];
        let mut options =
            QueryOptions::new(SocketAddr::new(ip, 10911), SocketAddr::new(ip, 10902), endpoints);
        options.replica_labels = vec!["prometheus_replica".into()];
        options.extra = vec![
            "--grpc-client-tls-secure".into(),
            format!("--grpc-client-tls-cert={}", files.client.certificate.display()),
            format!("--grpc-client-tls-key={}", files.client.key.display()),
            format!("--grpc-client-tls-ca={}", files.authority.display()),
            format!("--grpc-client-server-name={SERVER}"),
        ];
        let mut direct_query = Query::start(&hub.place.host, "direct-query", &thanos, &options)?;
        direct_query.wait_ready()?;
        direct_query.wait_stores(1, START).context("the direct connection")?;
        hub.query.wait_stores(1, START).context("the way through both Envoys")?;
        cluster.envoy.wait_live()?;
        Ok(Self { hub, cluster, direct_query, direct_sidecar })
    }

    /// The host of both Queries.
    pub(super) fn host(&self) -> &Host {
        &self.hub.place.host
    }

    /// The URL of a path's Query.
    pub(super) fn url(&self, way: Way) -> &str {
        match way {
            Way::Direct => self.direct_query.url(),
            Way::Envoys => self.hub.query.url(),
        }
    }

    /// CPU time of both Envoys so far.
    ///
    /// # Errors
    /// One of them has ended.
    pub(super) fn envoys_cpu(&self) -> Result<Duration> {
        Ok(cpu_of_threads(self.hub.envoy.process.pid())?
            + cpu_of_threads(self.cluster.envoy.process.pid())?)
    }

    /// CPU time of the Query and the sidecar of a path so far.
    ///
    /// # Errors
    /// One of them has ended.
    pub(super) fn thanos_cpu(&self, way: Way) -> Result<Duration> {
        let (query, sidecar) = match way {
            Way::Direct => (&self.direct_query, &self.direct_sidecar),
            Way::Envoys => (&self.hub.query, &self.cluster.sidecars[0]),
        };
        Ok(cpu_of_threads(query.process.pid())? + cpu_of_threads(sidecar.process.pid())?)
    }

    /// Bytes that the hub's Envoy has received from the sidecar so far, as HTTP/2.
    ///
    /// # Errors
    /// It doesn't answer.
    pub(super) fn received(&self) -> Result<u64> {
        self.hub.envoy.stat(&format!("cluster.cluster/{CLUSTER}.upstream_cx_rx_bytes_total"))
    }
}

/// A certificate and its key.
struct Pair {
    certificate: PathBuf,
    key: PathBuf,
}

/// The files of the direct connection's TLS: an authority, and a P-256 leaf for each end, as Atlas
/// issues them.
struct Files {
    authority: PathBuf,
    server: Pair,
    client: Pair,
}

impl Files {
    fn write(host: &Host) -> Result<Self> {
        let key = KeyPair::generate().context("the authority's key")?;
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "bench");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority = params.self_signed(&key).context("the authority's certificate")?.pem();
        let issuer = Issuer::new(params, key);
        Ok(Self {
            authority: host.write("direct/ca.crt", authority)?,
            server: leaf(host, &issuer, SERVER, ExtendedKeyUsagePurpose::ServerAuth)?,
            client: leaf(host, &issuer, "query.direct", ExtendedKeyUsagePurpose::ClientAuth)?,
        })
    }
}

fn leaf(
    host: &Host,
    issuer: &Issuer<'_, KeyPair>,
    name: &str,
    purpose: ExtendedKeyUsagePurpose,
) -> Result<Pair> {
    let key = KeyPair::generate().with_context(|| format!("the key of {name}"))?;
    let mut params =
        CertificateParams::new([name.to_owned()]).with_context(|| format!("the name {name}"))?;
    params.extended_key_usages = vec![purpose];
    let certificate =
        params.signed_by(&key, issuer).with_context(|| format!("the certificate of {name}"))?.pem();
    Ok(Pair {
        certificate: host.write(&format!("direct/{name}.crt"), certificate)?,
        key: host.write(&format!("direct/{name}.key"), key.serialize_pem())?,
    })
}

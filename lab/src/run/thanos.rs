//! Thanos: the sidecar beside a Prometheus, and Query.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::{Web, percent_encoded};
use crate::process::Proc;
use crate::world::Host;

/// How a sidecar is started. Its Prometheus must be ready: a sidecar that starts earlier tries
/// again only after 30 s.
#[derive(Debug, Clone)]
pub struct SidecarOptions {
    pub grpc: SocketAddr,
    pub http: SocketAddr,
    /// The URL of its Prometheus, with the route prefix:
    /// [`Prometheus::url`](super::Prometheus::url).
    pub prometheus: String,
    /// Anything else.
    pub extra: Vec<String>,
}

impl SidecarOptions {
    pub fn new(grpc: SocketAddr, http: SocketAddr, prometheus: impl Into<String>) -> Self {
        Self { grpc, http, prometheus: prometheus.into(), extra: Vec::new() }
    }
}

/// A running sidecar: one store.
#[derive(Debug)]
pub struct Sidecar {
    pub process: Proc,
    pub grpc: SocketAddr,
    pub http: SocketAddr,
    web: Web,
}

impl Sidecar {
    /// Starts Thanos's `bin` on `host`. `name` is its log's and its directory's.
    pub fn start(host: &Host, name: &str, bin: &Path, options: &SidecarOptions) -> Result<Self> {
        // It watches this directory although it uploads nothing.
        let data = host.write(&format!("{name}/data/.keep"), "")?;
        let data = data.parent().context("BUG: a file without a directory")?;
        let mut command = thanos(bin, "sidecar", options.grpc, options.http);
        command.arg(format!("--prometheus.url={}", options.prometheus));
        command.arg(format!("--tsdb.path={}", data.display()));
        command.args(&options.extra);
        let process = host.spawn(name, &command)?;
        Ok(Self {
            process,
            grpc: options.grpc,
            http: options.http,
            web: Web::new(host, options.http, ""),
        })
    }

    /// Waits for `/-/ready`: its Prometheus has been asked for its labels.
    pub fn wait_ready(&mut self) -> Result<()> {
        self.web.wait_ok(&mut self.process, "/-/ready")
    }
}

/// Where Query finds its stores.
#[derive(Debug, Clone)]
pub enum Endpoints {
    /// `--endpoint.sd-config-file`, reread every second.
    File(PathBuf),
    /// `--endpoint`, such as `dnssrvnoa+_thanos._tcp.sidecars.thanos.atlas`, resolved every second.
    Address(String),
}

/// How Query is started.
#[derive(Debug, Clone)]
pub struct QueryOptions {
    pub grpc: SocketAddr,
    pub http: SocketAddr,
    pub endpoints: Vec<Endpoints>,
    /// `--query.replica-label`: the labels in which replicas of the same data differ.
    pub replica_labels: Vec<String>,
    /// `--web.route-prefix` and `--web.external-prefix`.
    pub prefix: Option<String>,
    /// Anything else, such as `["--store.response-timeout=5s"]`.
    pub extra: Vec<String>,
    /// Variables of its environment.
    pub env: Vec<(String, String)>,
}

impl QueryOptions {
    pub fn new(
        grpc: SocketAddr,
        http: SocketAddr,
        endpoints: impl IntoIterator<Item = Endpoints>,
    ) -> Self {
        Self {
            grpc,
            http,
            endpoints: endpoints.into_iter().collect(),
            replica_labels: Vec::new(),
            prefix: None,
            extra: Vec::new(),
            env: Vec::new(),
        }
    }
}

/// A running Thanos Query.
#[derive(Debug)]
pub struct Query {
    pub process: Proc,
    pub grpc: SocketAddr,
    pub http: SocketAddr,
    web: Web,
}

/// A store as Query's page `/stores` shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreInfo {
    /// `sidecar`, `query`, `store`, …, or `unknown` before its first answer.
    pub kind: String,
    /// The address Query was given or resolved.
    pub name: String,
    /// Its external labels; a store may have several sets.
    pub labels: Vec<BTreeMap<String, String>>,
    /// The error of its last check; `None`: it is healthy.
    pub last_error: Option<String>,
}

/// The answer to a PromQL query.
#[derive(Debug, Clone)]
pub struct QueryAnswer {
    /// The HTTP status.
    pub status: u16,
    /// `data.result`: an array for a vector, null for an error.
    pub result: Value,
    /// Warnings; a partial response names the missing stores here.
    pub warnings: Vec<String>,
    pub error: Option<String>,
    /// From connecting to the last byte.
    pub took: Duration,
}

impl Query {
    /// Starts Thanos's `bin` on `host`, with partial responses on. `name` is its log's.
    pub fn start(host: &Host, name: &str, bin: &Path, options: &QueryOptions) -> Result<Self> {
        let mut command = thanos(bin, "query", options.grpc, options.http);
        command.args([
            "--query.partial-response",
            "--endpoint.sd-config-reload-interval=1s",
            "--store.sd-dns-interval=1s",
        ]);
        for endpoints in &options.endpoints {
            match endpoints {
                Endpoints::File(file) => {
                    command.arg(format!("--endpoint.sd-config-file={}", file.display()))
                }
                Endpoints::Address(address) => command.arg(format!("--endpoint={address}")),
            };
        }
        command.args(
            options.replica_labels.iter().map(|label| format!("--query.replica-label={label}")),
        );
        if let Some(prefix) = &options.prefix {
            command.args([
                format!("--web.route-prefix={prefix}"),
                format!("--web.external-prefix={prefix}"),
            ]);
        }
        command.args(&options.extra).envs(options.env.iter().map(|(key, value)| (key, value)));
        let process = host.spawn(name, &command)?;
        let web = Web::new(host, options.http, options.prefix.as_deref().unwrap_or_default());
        Ok(Self { process, grpc: options.grpc, http: options.http, web })
    }

    /// Waits for `/-/ready`. Its stores may come later: see [`Query::wait_stores`].
    pub fn wait_ready(&mut self) -> Result<()> {
        // Thanos's probes have no prefix.
        Web::new(&self.web.host, self.http, "").wait_ok(&mut self.process, "/-/ready")
    }

    /// Every store it knows, healthy or not, by name.
    pub fn stores(&self) -> Result<Vec<StoreInfo>> {
        stores(&self.web)
    }

    /// Waits until it has exactly `count` stores without an error, and yields them.
    pub fn wait_stores(&mut self, count: usize, timeout: Duration) -> Result<Vec<StoreInfo>> {
        let web = self.web.clone();
        self.process.wait_until(&format!("{count} healthy stores"), timeout, || {
            let stores = stores(&web)?;
            let healthy = stores.iter().filter(|store| store.last_error.is_none()).count();
            ensure!(healthy == count, "{healthy} of {} are healthy: {stores:#?}", stores.len());
            Ok(Some(stores.into_iter().filter(|store| store.last_error.is_none()).collect()))
        })
    }

    /// An instant query within three minutes, longer than Query's own limit of two.
    pub fn query(&self, promql: &str) -> Result<QueryAnswer> {
        let path = format!("/api/v1/query?query={}", percent_encoded(promql));
        let started = Instant::now();
        let answer = self.web.get(&path, Duration::from_secs(180))?;
        let took = started.elapsed();
        let mut json: Value = answer.json()?;
        let warnings = json["warnings"].as_array().into_iter().flatten();
        Ok(QueryAnswer {
            status: answer.status,
            warnings: warnings.filter_map(|warning| warning.as_str().map(str::to_owned)).collect(),
            error: json["error"].as_str().map(str::to_owned),
            result: json["data"]["result"].take(),
            took,
        })
    }

    /// The URL of its web pages, as its own host reaches it.
    pub fn url(&self) -> &str {
        &self.web.base
    }
}

/// Reads `/api/v1/stores`: `{"data": {"sidecar": [{"name", "lastError", "labelSets", …}, …], …}}`.
fn stores(web: &Web) -> Result<Vec<StoreInfo>> {
    let json: Value = web.get("/api/v1/stores", crate::http::TIMEOUT)?.ok()?.json()?;
    let kinds = json["data"].as_object().into_iter().flatten();
    let mut stores: Vec<StoreInfo> = kinds
        .flat_map(|(kind, stores)| {
            stores.as_array().into_iter().flatten().map(move |store| store_info(kind, store))
        })
        .collect();
    stores.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(stores)
}

fn store_info(kind: &str, store: &Value) -> StoreInfo {
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let label_set = |set: &Value| -> BTreeMap<String, String> {
        set.as_object()
            .into_iter()
            .flatten()
            .map(|(name, value)| (name.clone(), text(value)))
            .collect()
    };
    StoreInfo {
        kind: kind.to_owned(),
        name: store["name"].as_str().unwrap_or_default().to_owned(),
        labels: store["labelSets"].as_array().into_iter().flatten().map(label_set).collect(),
        last_error: Some(&store["lastError"]).filter(|error| !error.is_null()).map(text),
    }
}

fn thanos(bin: &Path, component: &str, grpc: SocketAddr, http: SocketAddr) -> Command {
    let mut command = Command::new(bin);
    command.arg(component);
    command.args([format!("--grpc-address={grpc}"), format!("--http-address={http}")]);
    command.arg("--log.level=info");
    command
}

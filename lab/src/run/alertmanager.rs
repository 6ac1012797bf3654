//! Alertmanager: one replica, without clustering.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use anyhow::Result;
use serde_json::Value;

use super::Web;
use crate::http::Response;
use crate::process::Proc;
use crate::world::Host;

/// How an Alertmanager is started.
#[derive(Debug, Clone)]
pub struct AlertmanagerOptions {
    pub listen: SocketAddr,
    /// `--web.external-url`.
    pub external_url: Option<String>,
    /// `--web.route-prefix`.
    pub route_prefix: Option<String>,
    /// The configuration file; by default every alert goes to a receiver that does nothing.
    pub config: String,
}

impl AlertmanagerOptions {
    pub fn new(listen: SocketAddr) -> Self {
        let config = "route: {receiver: nobody, group_wait: 1s, group_interval: 1s}\nreceivers: [{name: nobody}]\n";
        Self { listen, external_url: None, route_prefix: None, config: config.to_owned() }
    }
}

/// A running Alertmanager.
#[derive(Debug)]
pub struct Alertmanager {
    pub process: Proc,
    pub listen: SocketAddr,
    web: Web,
}

impl Alertmanager {
    /// Starts `bin` on `host`. `name` is its log's and its directory's.
    pub fn start(
        host: &Host,
        name: &str,
        bin: &Path,
        options: &AlertmanagerOptions,
    ) -> Result<Self> {
        let config = host.write(&format!("{name}/alertmanager.yml"), &options.config)?;
        let mut command = Command::new(bin);
        command.arg(format!("--config.file={}", config.display()));
        command.arg(format!("--storage.path={}", host.dir().join(name).join("data").display()));
        command.arg(format!("--web.listen-address={}", options.listen));
        // Empty: no gossip. Replicas get every alert from each Prometheus.
        command.args(["--cluster.listen-address=", "--log.level=info"]);
        if let Some(url) = &options.external_url {
            command.arg(format!("--web.external-url={url}"));
        }
        if let Some(prefix) = &options.route_prefix {
            command.arg(format!("--web.route-prefix={prefix}"));
        }
        let process = host.spawn(name, &command)?;
        let prefix =
            super::prefix(options.route_prefix.as_deref(), options.external_url.as_deref());
        Ok(Self { process, listen: options.listen, web: Web::new(host, options.listen, &prefix) })
    }

    pub fn wait_ready(&mut self) -> Result<()> {
        self.web.wait_ok(&mut self.process, "/-/ready")
    }

    /// The alerts it has at present, as API v2 shows them: `labels`, `annotations`, `generatorURL`,
    /// `status`, ….
    pub fn alerts(&self) -> Result<Vec<Value>> {
        self.get("/api/v2/alerts")?.ok()?.json()
    }

    /// `GET` of a path beneath its prefix, from its own host.
    pub fn get(&self, path: &str) -> Result<Response> {
        self.web.get(path, crate::http::TIMEOUT)
    }

    /// The URL of its web pages, as its own host reaches it.
    pub fn url(&self) -> &str {
        &self.web.base
    }
}

//! Envoy, with a bootstrap file.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::Result;

use super::Web;
use crate::http::Response;
use crate::process::Proc;
use crate::world::Host;

/// How an Envoy is started.
#[derive(Debug, Clone)]
pub struct EnvoyOptions {
    /// The bootstrap file, YAML or JSON by its extension.
    pub config: PathBuf,
    /// The bootstrap's `admin.address`.
    pub admin: SocketAddr,
    /// `trace`, `debug`, `info`, `warning`, `error`.
    pub log_level: String,
    /// Levels of single components, such as `upstream:debug,config:info`; empty for none.
    pub component_log_level: String,
    /// `--service-node` and `--service-cluster`, where the bootstrap names no node.
    pub node: Option<String>,
    /// Worker threads. Each has its own connections to every upstream host.
    pub concurrency: u32,
    /// Anything else, such as `["--drain-time-s", "5"]`.
    pub extra: Vec<String>,
}

impl EnvoyOptions {
    pub fn new(config: impl Into<PathBuf>, admin: SocketAddr) -> Self {
        Self {
            config: config.into(),
            admin,
            log_level: "warning".to_owned(),
            component_log_level: String::new(),
            node: None,
            concurrency: 2,
            extra: Vec::new(),
        }
    }
}

/// A running Envoy.
#[derive(Debug)]
pub struct Envoy {
    pub process: Proc,
    pub admin: SocketAddr,
    web: Web,
}

impl Envoy {
    /// Starts `bin` on `host`. `name` is its log's.
    pub fn start(host: &Host, name: &str, bin: &Path, options: &EnvoyOptions) -> Result<Self> {
        let mut command = Command::new(bin);
        command.arg("--config-path").arg(&options.config);
        command.args([
            "--concurrency",
            &options.concurrency.to_string(),
            "--log-level",
            &options.log_level,
        ]);
        // Hot restart shares memory under an id that all worlds of a machine would have to
        // coordinate.
        command.arg("--disable-hot-restart");
        if !options.component_log_level.is_empty() {
            command.args(["--component-log-level", &options.component_log_level]);
        }
        if let Some(node) = &options.node {
            command.args(["--service-node", node, "--service-cluster", node]);
        }
        command.args(&options.extra);
        let process = host.spawn(name, &command)?;
        Ok(Self { process, admin: options.admin, web: Web::new(host, options.admin, "") })
    }

    /// `GET` on the admin interface, from Envoy's own host: `/config_dump`, `/stats?format=json`,
    /// `/clusters?format=json`.
    pub fn admin_get(&self, path: &str) -> Result<Response> {
        self.web.get(path, Duration::from_secs(10))
    }

    /// `POST` on the admin interface: `/drain_listeners?graceful`, `/healthcheck/fail`,
    /// `/logging?level=debug`.
    pub fn admin_post(&self, path: &str) -> Result<Response> {
        self.web.post(path, "text/plain", Vec::new())
    }

    /// Waits until it is live: all initial xDS resources have arrived or timed out.
    pub fn wait_live(&mut self) -> Result<()> {
        self.web.wait_ok(&mut self.process, "/ready")
    }

    /// Waits until its admin interface answers, whether it is live or not.
    pub fn wait_admin(&mut self) -> Result<()> {
        let web = self.web.clone();
        self.process.wait_until("the admin interface answers", super::START, || {
            web.get("/ready", Duration::from_secs(2)).map(|_| Some(()))
        })
    }

    /// The value of a counter or gauge by its full name, such as
    /// `listener_manager.lds.update_rejected`; 0 if Envoy doesn't have it yet.
    pub fn stat(&self, name: &str) -> Result<u64> {
        // The filter is a regular expression. The dot is the only special character in names of
        // statistics.
        let filter = format!("^{}$", name.replace('.', "\\."));
        let text = self
            .admin_get(&format!("/stats?filter={}", super::percent_encoded(&filter)))?
            .ok()?
            .text();
        let value = text
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(": ")?.trim().parse().ok());
        Ok(value.unwrap_or(0))
    }
}

/// Validates a bootstrap file with `envoy --mode validate`; the error is Envoy's output. A warning
/// about a deprecated field is an error too.
pub fn validate(bin: &Path, config: &Path) -> Result<(), String> {
    let output = Command::new(bin)
        .args([
            "--mode",
            "validate",
            "--disable-hot-restart",
            "--log-level",
            "warning",
            "--config-path",
        ])
        .arg(config)
        .output()
        .map_err(|error| format!("cannot start {}: {error}", bin.display()))?;
    let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    let deprecated = text.lines().any(|line| line.to_ascii_lowercase().contains("deprecated"));
    if output.status.success() && !deprecated {
        Ok(())
    } else {
        Err(format!("{}: {}", output.status, text.trim()))
    }
}

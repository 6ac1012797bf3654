//! Prometheus, 3.15 or the classic 2.42: every flag used here is known to both.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;

use super::Web;
use crate::http::Response;
use crate::process::Proc;
use crate::world::Host;

/// How a Prometheus is started. Its files lie in a directory of its name on its host.
#[derive(Debug, Clone)]
pub struct PrometheusOptions {
    pub listen: SocketAddr,
    /// Must be unique: `cluster` and `prometheus_replica`, as the operator sets them.
    pub external_labels: BTreeMap<String, String>,
    /// `--web.external-url`: the links in alerts, and where `/` redirects to.
    pub external_url: Option<String>,
    /// `--web.route-prefix`, by default the external URL's path.
    pub route_prefix: Option<String>,
    /// A whole rules file (YAML with `groups:`).
    pub rules: Option<String>,
    /// The value of `alerting:` (YAML mapping, not indented), such as `alertmanagers: …`.
    pub alerting: Option<String>,
    /// More scrape jobs (a YAML list, not indented) beside the job `prometheus`, which scrapes
    /// itself every second.
    pub scrape_configs: String,
    /// Anything else, such as `["--enable-feature=native-histograms"]`.
    pub extra: Vec<String>,
}

impl PrometheusOptions {
    pub fn new(listen: SocketAddr) -> Self {
        Self {
            listen,
            external_labels: BTreeMap::new(),
            external_url: None,
            route_prefix: None,
            rules: None,
            alerting: None,
            scrape_configs: String::new(),
            extra: Vec::new(),
        }
    }

    /// The path under which everything is served, without a slash at its end.
    fn prefix(&self) -> String {
        super::prefix(self.route_prefix.as_deref(), self.external_url.as_deref())
    }

    /// The configuration file. Strings are quoted as JSON, which is YAML.
    fn config(&self, rules: Option<&Path>) -> String {
        let mut text = String::from(
            "global:\n  scrape_interval: 1s\n  scrape_timeout: 1s\n  evaluation_interval: 1s\n",
        );
        let external_labels = serde_json::json!(self.external_labels);
        let rule_files = serde_json::json!(rules.into_iter().collect::<Vec<_>>());
        let own_job = serde_json::json!({
            "job_name": "prometheus",
            "metrics_path": format!("{}/metrics", self.prefix()),
            "static_configs": [{"targets": [self.listen.to_string()]}],
        });
        // Writing to a string cannot fail.
        let _ = write!(text, "  external_labels: {external_labels}\nrule_files: {rule_files}\n");
        let _ = write!(text, "scrape_configs:\n- {own_job}\n{}\n", self.scrape_configs);
        if let Some(alerting) = &self.alerting {
            let indented: String = alerting.lines().map(|line| format!("  {line}\n")).collect();
            let _ = write!(text, "alerting:\n{indented}");
        }
        text
    }
}

/// A running Prometheus.
#[derive(Debug)]
pub struct Prometheus {
    pub process: Proc,
    pub listen: SocketAddr,
    host: Host,
    name: String,
    web: Web,
}

impl Prometheus {
    /// Starts `bin` on `host`. `name` is its log's and its directory's.
    pub fn start(host: &Host, name: &str, bin: &Path, options: &PrometheusOptions) -> Result<Self> {
        let config = write_config(host, name, options)?;
        let mut command = Command::new(bin);
        command.arg(format!("--config.file={}", config.display()));
        command
            .arg(format!("--storage.tsdb.path={}", host.dir().join(name).join("data").display()));
        command.arg(format!("--web.listen-address={}", options.listen));
        command.args([
            // A sidecar requires equal minimum and maximum block durations.
            "--storage.tsdb.min-block-duration=2h",
            "--storage.tsdb.max-block-duration=2h",
            "--storage.tsdb.retention.time=6h",
            "--storage.tsdb.wal-segment-size=10MB",
            // An alert that fires before the Alertmanagers are found is dropped, and sent again
            // only after a minute.
            "--rules.alert.resend-delay=1s",
            // As the operator sets it. Envoy has to refuse these lifecycle endpoints.
            "--web.enable-lifecycle",
            "--log.level=warn",
        ]);
        if let Some(url) = &options.external_url {
            command.arg(format!("--web.external-url={url}"));
        }
        if let Some(prefix) = &options.route_prefix {
            command.arg(format!("--web.route-prefix={prefix}"));
        }
        if let Some(assets) = local_assets(bin) {
            command.arg(format!("--web.local-assets={}", assets.display()));
        }
        command.args(&options.extra);
        let process = host.spawn(name, &command)?;
        let web = Web::new(host, options.listen, &options.prefix());
        Ok(Self { process, listen: options.listen, host: host.clone(), name: name.to_owned(), web })
    }

    /// Waits for `/-/ready`. Start sidecars after this: one that starts earlier tries again only
    /// after 30 s.
    pub fn wait_ready(&mut self) -> Result<()> {
        self.web.wait_ok(&mut self.process, "/-/ready")
    }

    /// `GET` of a path beneath its prefix, from its own host.
    pub fn get(&self, path: &str) -> Result<Response> {
        self.web.get(path, crate::http::TIMEOUT)
    }

    /// An instant query; the answer is `data.result`.
    pub fn query(&self, promql: &str) -> Result<Value> {
        let body = format!("query={}", super::percent_encoded(promql));
        let answer = self.web.post(
            "/api/v1/query",
            "application/x-www-form-urlencoded",
            body.into_bytes(),
        )?;
        let mut json: Value = answer.ok()?.json()?;
        Ok(json["data"]["result"].take())
    }

    /// Writes new options' configuration and has it reread. Flags (addresses, prefixes, `extra`)
    /// stay as they are.
    pub fn reload(&mut self, options: &PrometheusOptions) -> Result<()> {
        write_config(&self.host, &self.name, options)?;
        let answer = self.web.post("/-/reload", "text/plain", Vec::new())?;
        answer
            .ok()
            .map(drop)
            .with_context(|| format!("{} does not take its new configuration", self.name))
    }

    /// Writes other rules in the place of those it was started with, and has them read.
    pub fn reload_rules(&self, rules: &str) -> Result<()> {
        self.host.write(&format!("{}/rules.yml", self.name), rules)?;
        let answer = self.web.post("/-/reload", "text/plain", Vec::new())?;
        answer.ok().map(drop).with_context(|| format!("{} does not take its new rules", self.name))
    }

    /// The URL of its web pages, as its own host reaches it.
    pub fn url(&self) -> &str {
        &self.web.base
    }

    /// The Alertmanagers it sends to at present, as URLs.
    pub fn active_alertmanagers(&self) -> Result<Vec<String>> {
        let json: Value =
            self.web.get("/api/v1/alertmanagers", Duration::from_secs(5))?.ok()?.json()?;
        let active = json["data"]["activeAlertmanagers"]
            .as_array()
            .context("no list of active Alertmanagers")?;
        Ok(active.iter().filter_map(|one| one["url"].as_str().map(str::to_owned)).collect())
    }
}

/// The pages of the classic Prometheus, beside its program: see
/// [`parts::classic_web_assets`](crate::parts::classic_web_assets). Others embed their pages and
/// don't have the flag.
fn local_assets(bin: &Path) -> Option<PathBuf> {
    let usr = bin.parent()?.parent()?;
    Some(usr.join("share/prometheus/web")).filter(|assets| assets.is_dir())
}

fn write_config(host: &Host, name: &str, options: &PrometheusOptions) -> Result<PathBuf> {
    let rules = options
        .rules
        .as_ref()
        .map(|rules| host.write(&format!("{name}/rules.yml"), rules))
        .transpose()?;
    host.write(&format!("{name}/prometheus.yml"), options.config(rules.as_deref()))
}
